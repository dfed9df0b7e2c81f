//! The program `shard`: see `clarion_shard::main`.

fn main() -> std::process::ExitCode {
    clarion_shard::main(std::env::args_os())
}
