//! Folders that nobody but this process's user can read.
//!
//! Who can read the folder can read device tokens and approximate places of phones, so a folder
//! that other users can read is refused, not used and not changed. The group of the process may
//! have access: Kubernetes gives a volume to the pod's `fsGroup`, and changes the modes within it.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Access for everybody else than owner and group.
const OTHERS: u32 = 0o007;
/// Access for the group.
const GROUP: u32 = 0o070;

/// Why a folder cannot be used: the folder, the problem, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {path}: {problem}", path = path.display())]
pub struct FolderError {
    /// Option that names the folder.
    pub option: &'static str,
    /// Path of the folder.
    pub path: PathBuf,
    /// The problem, with what to do about it.
    pub problem: String,
}

/// Creates a folder if it does not exist, and checks its owner and mode. `option`: what names it.
///
/// # Errors
/// See [`FolderError`].
pub fn prepare(path: &Path, option: &'static str) -> Result<(), FolderError> {
    let prepared = create(path, option).and_then(|()| check(path, option));
    prepared.map_err(|problem| FolderError { option, path: path.to_owned(), problem })
}

/// Creates the folder, readable by its owner only. The folder above must exist, so that a mistyped
/// path, or a volume that is not mounted, is no empty store.
fn create(path: &Path, option: &str) -> Result<(), String> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => {
            return Err(format!(
                "cannot be created: {error}; create it for this user, name another folder with \
                 {}, or run without a folder: --store memory",
                flag(option)
            ));
        }
    }
    tracing::info!(path = %path.display(), option, "private folder created");
    let above = path.parent().filter(|above| *above != Path::new(""));
    sync_folder(above.unwrap_or(Path::new("."))).map_err(|e| format!("cannot be synced: {e}"))
}

/// Checks that nobody but this process's user, and the group of the process, has access.
fn check(path: &Path, option: &str) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?;
    if !found.is_dir() {
        return Err(format!("is not a folder; name another one with {}", flag(option)));
    }
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let shown = path.display();
    if found.uid() != user {
        return Err(format!(
            "belongs to user {}, but this process runs as user {user}; run it as the owner, or: \
             chown -R {user} '{shown}'",
            found.uid()
        ));
    }
    let others = if found.gid() == group { OTHERS } else { OTHERS | GROUP };
    let mode = found.mode() & 0o777;
    if mode & others != 0 {
        return Err(format!(
            "must not be accessible to other users, because it has device tokens and places; got \
             mode {mode:04o}; run: chmod 700 '{shown}'"
        ));
    }
    Ok(())
}

/// The command line's form of an option.
fn flag(option: &str) -> String {
    format!("--{}", option.replace('_', "-"))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// The words of the system.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
