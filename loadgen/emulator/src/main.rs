//! The program `gateway`: see `clarion_emulator::main`.

use std::process::ExitCode;

fn main() -> ExitCode {
    clarion_emulator::main(std::env::args_os())
}
