//! Large immutable data of the cluster: objects by name, in a folder, a bucket or memory.
//!
//! An object is written once and never changed. A name is used once: whoever writes an object makes
//! a name that nobody else makes, so that a late writer cannot replace what another one wrote.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, local::LocalFileSystem,
    memory::InMemory, path::Path as Name,
};
use tokio::time::timeout;

/// Deadline of one operation: some MiB to a slow disk or bucket.
const DEADLINE: Duration = Duration::from_secs(30);
/// Largest object, bytes: more is none of ours.
pub const OBJECT_BYTES_MAX: u64 = 32 << 20;
/// Largest number of objects that one listing returns.
const LISTED_MAX: usize = 1_000_000;

/// Why an object could not be written, read or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// No object has that name. A retry does not help.
    #[error("object {0} is missing")]
    Missing(String),
    /// An object with that name exists. A retry does not help.
    #[error("object {0} exists already")]
    Exists(String),
    /// The object is larger than any that Clarion writes. A retry does not help.
    #[error("object {name}: must be at most {limit} bytes; got {bytes}", limit = OBJECT_BYTES_MAX)]
    TooLarge {
        /// Name of the object.
        name: String,
        /// Size of the object, bytes.
        bytes: u64,
    },
    /// The folder or bucket does not answer or refuses. A retry may help; a write may have happened.
    #[error("object {name}: {problem}")]
    Away {
        /// Name of the object, or the part of the name that was listed.
        name: String,
        /// The words of the folder or bucket.
        problem: String,
    },
}

/// An object that a listing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name of the object.
    pub name: String,
    /// Size of the object, bytes.
    pub bytes: u64,
    /// Time of the last change by the clock of the folder or bucket, Unix milliseconds.
    pub modified_ms: u64,
}

/// A folder or bucket with objects.
#[derive(Debug, Clone)]
pub struct Objects(Arc<dyn ObjectStore>);

impl Objects {
    /// Objects in the memory of this process, lost with it.
    #[must_use]
    pub fn in_memory() -> Self {
        Self(Arc::new(InMemory::new()))
    }

    /// Objects as files of a folder, which is created if it does not exist. Files and folders are
    /// synced before a write is answered.
    ///
    /// # Errors
    /// The folder cannot be created or opened; the text has the system's words.
    pub fn in_folder(folder: &Path) -> Result<Self, String> {
        fs::create_dir_all(folder).map_err(|e| format!("cannot be created: {e}"))?;
        let files = LocalFileSystem::new_with_prefix(folder).map_err(|e| e.to_string())?;
        Ok(Self(Arc::new(files.with_fsync(true))))
    }

    /// Writes a new object.
    ///
    /// # Errors
    /// [`ObjectError::Exists`] or [`ObjectError::Away`].
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let (path, payload) = (Name::from(name), PutPayload::from(bytes));
        self.within(name, self.0.put_opts(&path, payload, PutMode::Create.into())).await.map(drop)
    }

    /// Reads a whole object.
    ///
    /// # Errors
    /// [`ObjectError`], without [`ObjectError::Exists`].
    pub async fn get(&self, name: &str) -> Result<Bytes, ObjectError> {
        let path = Name::from(name);
        let found = self.within(name, self.0.get(&path)).await?;
        let bytes = found.meta.size;
        if bytes > OBJECT_BYTES_MAX {
            return Err(ObjectError::TooLarge { name: name.to_owned(), bytes });
        }
        self.within(name, found.bytes()).await
    }

    /// Deletes an object; an object that is gone is deleted.
    ///
    /// # Errors
    /// [`ObjectError::Away`].
    pub async fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let path = Name::from(name);
        match self.within(name, self.0.delete(&path)).await {
            Ok(()) | Err(ObjectError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All objects whose name has `folder` before a slash, in no order.
    ///
    /// # Errors
    /// [`ObjectError::Away`].
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>, ObjectError> {
        let path = Name::from(folder);
        let listed = self.0.list(Some(&path)).map_ok(|meta| Listed {
            name: meta.location.to_string(),
            bytes: meta.size,
            modified_ms: u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0),
        });
        let listed = futures_util::StreamExt::take(listed, LISTED_MAX).try_collect();
        self.within(folder, listed).await
    }

    async fn within<T>(
        &self,
        name: &str,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, ObjectError> {
        let away = |problem: String| ObjectError::Away { name: name.to_owned(), problem };
        match timeout(DEADLINE, operation).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Error::NotFound { .. })) => Err(ObjectError::Missing(name.to_owned())),
            Ok(Err(Error::AlreadyExists { .. })) => Err(ObjectError::Exists(name.to_owned())),
            Ok(Err(error)) => Err(away(error.to_string())),
            Err(_) => Err(away(format!("no answer within {} s", DEADLINE.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn keeps_what_it_was_given(objects: Objects) {
        let (name, bytes) = ("a/b/1", Bytes::from_static(b"content"));
        assert_eq!(objects.get(name).await, Err(ObjectError::Missing(name.to_owned())));
        objects.put(name, bytes.clone()).await.expect("new");
        let again = objects.put(name, Bytes::from_static(b"other")).await;
        assert_eq!(again, Err(ObjectError::Exists(name.to_owned())), "written once");
        assert_eq!(objects.get(name).await, Ok(bytes));
        objects.put("a/c", Bytes::new()).await.expect("new");
        let mut names: Vec<_> =
            objects.list("a").await.expect("up").into_iter().map(|found| found.name).collect();
        names.sort();
        assert_eq!(names, ["a/b/1", "a/c"]);
        objects.delete(name).await.expect("there");
        objects.delete(name).await.expect("gone is gone");
        assert_eq!(objects.get(name).await, Err(ObjectError::Missing(name.to_owned())));
    }

    #[tokio::test]
    async fn memory_keeps_what_it_was_given() {
        keeps_what_it_was_given(Objects::in_memory()).await;
    }

    #[tokio::test]
    async fn a_folder_keeps_what_it_was_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let objects = Objects::in_folder(&folder.path().join("objects")).expect("writable");
        keeps_what_it_was_given(objects).await;
    }
}
