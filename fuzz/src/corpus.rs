//! The corpus of inputs: one file per target, one input in hexadecimal per line, the shortest
//! first.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;

fn file(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target).with_extension("hex")
}

/// Reads the inputs of a target.
///
/// # Errors
/// If the file does not exist or is malformed.
pub fn read(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(file(target))?;
    text.lines().map(|line| HEXLOWER.decode(line.as_bytes()).map_err(io::Error::other)).collect()
}

/// Writes each input of a target to a file of its own, as libFuzzer requires.
///
/// # Errors
/// If a file cannot be read or written.
pub fn unpack(target: &str, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (n, input) in read(target)?.into_iter().enumerate() {
        fs::write(directory.join(format!("kept-{n:04}")), input)?;
    }
    Ok(())
}

/// Creates the corpus of a target from the files in a directory.
///
/// # Errors
/// If a file cannot be read or written.
pub fn pack(target: &str, directory: &Path) -> io::Result<()> {
    let inputs = fs::read_dir(directory)?
        .map(|entry| fs::read(entry?.path()))
        .collect::<io::Result<BTreeSet<_>>>()?;
    let mut inputs: Vec<_> = inputs.into_iter().filter(|input| !input.is_empty()).collect();
    inputs.sort_by_key(Vec::len);
    let lines: Vec<_> = inputs.iter().map(|input| HEXLOWER.encode(input) + "\n").collect();
    fs::write(file(target), lines.concat())
}
