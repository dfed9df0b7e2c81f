//! What `object_store` leaves undone in a folder: deletion for good, and the remains of a crash.
//!
//! `object_store` writes a new object to a file with another name, `NAME#NUMBER`, syncs it, links
//! it to its own name, syncs the folder, and removes the other name. A crash leaves no part of a
//! file under the object's name, but it can leave the other name, which no listing shows.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    path::Path,
};

/// Overwrites a file, deletes it and its other names, and makes the deletion durable. A file system
/// that writes every change to a new place keeps the former bytes until it uses that place again.
pub(super) fn erase(path: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    match OpenOptions::new().write(true).open(path) {
        Ok(mut file) => {
            let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            file.write_all(&vec![0; length])?;
            file.sync_all()?;
            fs::remove_file(path)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if written_for(&entry.file_name()).is_some_and(|written| written == name) {
            fs::remove_file(entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Deletes all files of a folder, and of those below, that were being written when a process ended,
/// and the folders below that are empty.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sweep(&entry.path())?;
            // Fails if the folder has files.
            let _ = fs::remove_dir(entry.path());
        } else if written_for(&entry.file_name()).is_some() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The name for which a file was written, if the file has the other form of name.
fn written_for(name: &std::ffi::OsStr) -> Option<&str> {
    let (name, number) = name.to_str()?.rsplit_once('#')?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}
