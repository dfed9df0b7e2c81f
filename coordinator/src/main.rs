//! The program `coordinator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    clarion_coordinator::main(std::env::args_os())
}
