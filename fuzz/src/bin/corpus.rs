//! `corpus unpack TARGET DIRECTORY`, `corpus pack TARGET DIRECTORY`: converts between the
//! repository's corpus and libFuzzer's files.

use std::{path::Path, process::ExitCode};

use clarion_fuzz::{corpus, target};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", name, directory] if target(name).is_some() => {
            corpus::unpack(name, Path::new(directory))
        }
        ["pack", name, directory] if target(name).is_some() => {
            corpus::pack(name, Path::new(directory))
        }
        _ => {
            eprintln!("corpus unpack|pack TARGET DIRECTORY");
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
