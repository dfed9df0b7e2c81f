//! The data folder: what a coordinator keeps on its machine between two processes.
//!
//! ```text
//! clarion-data/           0700, of the user that the process runs as
//!   lock                  locked while a process uses the folder; has the id of that process
//!   device.key            0600, made at the first start, unless `device_key_file` names another
//!   store.sqlite          the store, unless `store` names another
//!   objects/              halves of keys and snapshots, unless `objects` names another folder
//! ```

use std::{
    fmt::Display,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::{
    api::registry::DeviceKey,
    private_folder::{FolderError, prepare, sync_folder},
};

/// Option that names the data folder.
const OPTION: &str = "data_dir";
/// Name of the file that a running process keeps locked.
const LOCK: &str = "lock";
/// Name of the file with the device key.
const DEVICE_KEY: &str = "device.key";
/// Length of a new device key, bytes: as long as the digest that it is used for.
const DEVICE_KEY_BYTES: usize = 32;
/// A data folder that this process alone uses, until this value is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Holds the lock of the system, which ends with the process, however the process ends.
    _lock: File,
}

impl DataFolder {
    /// Creates the folder if it does not exist, checks its owner and mode, and locks it.
    ///
    /// # Errors
    /// See [`FolderError`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        prepare(path, OPTION)?;
        let refused = |problem| FolderError { option: OPTION, path: path.to_owned(), problem };
        let lock = lock(path).map_err(refused)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The cluster's device key, which is made at the first call and kept in the folder.
    ///
    /// # Errors
    /// The key cannot be written or read.
    pub fn device_key(&self) -> Result<DeviceKey, FolderError> {
        let path = self.path.join(DEVICE_KEY);
        let refused = |problem| FolderError { option: OPTION, path: self.path.clone(), problem };
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

#[cfg(test)]
mod tests;
