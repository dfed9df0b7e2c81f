//! The data folder: what a coordinator keeps on its machine between two processes.
//!
//! ```text
//! clarion-data/           0700, of the user that the process runs as
//!   lock                  locked while a process uses the folder; has the id of that process
//!   device.key            0600, made at the first start, unless `device_key_file` names another
//!   store.sqlite          the store, unless `store` names another
//! ```
//!
//! Who can read the folder can read device tokens and approximate places of phones, so a folder
//! that other users can read is refused, not used and not changed. The group of the process may
//! have access: Kubernetes gives a volume to the pod's `fsGroup`, and changes the modes within it.

use std::{
    fmt::Display,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::api::registry::DeviceKey;

/// Name of the file that a running process keeps locked.
const LOCK: &str = "lock";
/// Name of the file with the device key.
const DEVICE_KEY: &str = "device.key";
/// Length of a new device key, bytes: as long as the digest that it is used for.
const DEVICE_KEY_BYTES: usize = 32;
/// Access for everybody else than owner and group.
const OTHERS: u32 = 0o007;
/// Access for the group.
const GROUP: u32 = 0o070;

/// A data folder that this process alone uses, until this value is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Holds the lock of the system, which ends with the process, however the process ends.
    _lock: File,
}

/// Why a data folder cannot be used: the folder, the problem, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("data_dir: {path}: {problem}", path = path.display())]
pub struct FolderError {
    /// Path of the folder.
    pub path: PathBuf,
    /// The problem, with what to do about it.
    pub problem: String,
}

impl DataFolder {
    /// Creates the folder if it does not exist, checks its owner and mode, and locks it.
    ///
    /// # Errors
    /// See [`FolderError`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let refused = |problem: String| FolderError { path: path.to_owned(), problem };
        create(path).map_err(refused)?;
        check(path).map_err(refused)?;
        let lock = lock(path).map_err(refused)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The cluster's device key, which is made at the first call and kept in the folder.
    ///
    /// # Errors
    /// The key cannot be written or read.
    pub fn device_key(&self) -> Result<DeviceKey, FolderError> {
        let path = self.path.join(DEVICE_KEY);
        let refused = |problem: String| FolderError { path: self.path.clone(), problem };
        if !path.try_exists().map_err(|e| refused(format!("cannot be read: {e}")))? {
            self.make_device_key(&path)
                .map_err(|e| refused(format!("the device key cannot be written: {e}")))?;
            tracing::info!(path = %path.display(), "device key made");
        }
        DeviceKey::read(&path).map_err(refused)
    }

    /// Writes a key so that a crash leaves the whole key or none: under another name, then renamed.
    /// File and folder are synced before the key makes an id.
    fn make_device_key(&self, path: &Path) -> io::Result<()> {
        let mut key = Zeroizing::new([0; DEVICE_KEY_BYTES]);
        SystemRandom::new()
            .fill(&mut *key)
            .map_err(|_| io::Error::other("the system has no random numbers"))?;
        let new = path.with_extension("key.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&*key)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_folder(&self.path)
    }
}

/// Creates the folder, readable by its owner only. The folder above must exist, so that a mistyped
/// path, or a volume that is not mounted, is no empty store.
fn create(path: &Path) -> Result<(), String> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => {
            return Err(format!(
                "cannot be created: {error}; create it for this user, name another folder with \
                 --data-dir, or run without a folder: --store memory"
            ));
        }
    }
    tracing::info!(path = %path.display(), "data folder created");
    let above = path.parent().filter(|above| *above != Path::new(""));
    sync_folder(above.unwrap_or(Path::new("."))).map_err(|e| format!("cannot be synced: {e}"))
}

/// Checks that nobody but this process's user, and the group of the process, has access.
fn check(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?;
    if !found.is_dir() {
        return Err("is not a folder; name another one with --data-dir".to_owned());
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

/// Locks the folder for this process. The lock ends with the process; the file stays.
fn lock(path: &Path) -> Result<File, String> {
    let failed = |error: &dyn Display| {
        format!("cannot be locked: {error}; the folder must be on a writable local disk")
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK))
        .map_err(|e| failed(&e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Without the id the message still says what is wrong.
            let _ = (&file).take(32).read_to_string(&mut holder);
            return Err(format!(
                "is used by process {}; end that process, or name another folder with --data-dir",
                Some(holder.trim()).filter(|id| !id.is_empty()).unwrap_or("(unknown id)")
            ));
        }
        Err(TryLockError::Error(error)) => return Err(failed(&error)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    written.map_err(|e| failed(&e))?;
    Ok(file)
}

/// Makes the names in a folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
