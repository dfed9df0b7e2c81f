//! The program `loadgen`: see `clarion_loadgen::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    clarion_loadgen::cli::main(std::env::args_os())
}
