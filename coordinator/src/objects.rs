//! Large immutable data of the cluster: objects by name, in a folder, a bucket or memory.
//!
//! An object is written once and never changed. A name is used once: whoever writes an object makes
//! a name that nobody else makes, so that a late writer cannot replace what another one wrote.
//!
//! Names begin with the identity of the cluster's logs ([`Objects::of`]), so that two clusters can
//! share a bucket; [`owner`] has the object that tells whose they are.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clarion_proto::ids::LogIdentity;
use clarion_runtime::{offload::offload, world::World};
use data_encoding::HEXLOWER;
use futures_util::TryStreamExt;
use object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, local::LocalFileSystem,
    memory::InMemory, path::Path as Name,
};
use tokio::time::timeout;

use crate::private_folder::{self, FolderError};

pub(crate) mod bucket;
mod files;
pub mod owner;

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
    /// The folder or bucket does not answer or refuses. A retry may help; a write may have
    /// happened.
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

/// What is known of an object that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Whether the bucket keeps a version of the object when the object is deleted.
    pub keeps_versions: bool,
}

/// Where objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectsPlace {
    /// In the memory of the process: lost when the process ends.
    Memory,
    /// In a folder.
    Folder(PathBuf),
    /// In a bucket, as `s3://BUCKET/PREFIX`.
    Bucket(String),
}

/// As the option `objects` names it.
impl fmt::Display for ObjectsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Folder(path) => write!(f, "file:{}", path.display()),
            Self::Bucket(url) => f.write_str(url),
        }
    }
}

/// A folder or bucket with objects.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Path of the folder, if they are files.
    folder: Option<PathBuf>,
    /// Beginning of all names, with a slash; empty: all objects of the place.
    prefix: String,
}

impl Objects {
    /// Objects in the memory of this process, lost with it.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { store: Arc::new(InMemory::new()), folder: None, prefix: String::new() }
    }

    /// Objects as files of a folder, which is created with access for its owner only if it does
    /// not exist. Files and folders are synced before a write is answered.
    ///
    /// # Errors
    /// The folder cannot be created or opened, or other users have access.
    pub fn in_folder(path: &Path) -> Result<Self, FolderError> {
        private_folder::prepare(path, "objects")?;
        let files = LocalFileSystem::new_with_prefix(path).map_err(|e| FolderError {
            option: "objects",
            path: path.to_owned(),
            problem: e.to_string(),
        })?;
        // Each snapshot has a folder of its own, which would be left empty for ever.
        let store = Arc::new(files.with_fsync(true).with_automatic_cleanup(true));
        Ok(Self { store, folder: Some(path.to_owned()), prefix: String::new() })
    }

    /// Objects of a bucket, `s3://BUCKET` or `s3://BUCKET/PREFIX`. `variables`: names and values of
    /// the process's environment, of which those of Amazon's tools are used (`AWS_REGION`,
    /// `AWS_ENDPOINT`, `AWS_ACCESS_KEY_ID`, and others).
    ///
    /// # Errors
    /// A variable is wrong or missing. No request is made.
    pub fn in_bucket(
        url: &str,
        variables: &[(String, String)],
        world: &World,
    ) -> Result<Self, String> {
        let (store, prefix) = bucket::open(url, variables, world)?;
        Ok(Self { store, folder: None, prefix })
    }

    /// The objects of one cluster: all names are below the identity of its logs.
    #[must_use]
    pub fn of(&self, identity: LogIdentity) -> Self {
        let prefix = format!("{}{}/", self.prefix, HEXLOWER.encode(&identity.0));
        Self { prefix, ..self.clone() }
    }

    /// Writes a new object.
    ///
    /// # Errors
    /// [`ObjectError::Exists`] or [`ObjectError::Away`].
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectError> {
        self.write(name, bytes).await.map(drop)
    }

    /// Writes a new object, and tells what will be left of it.
    ///
    /// # Errors
    /// [`ObjectError::Exists`] or [`ObjectError::Away`].
    pub async fn write(&self, name: &str, bytes: Bytes) -> Result<Written, ObjectError> {
        let (path, payload) = (self.path(name), PutPayload::from(bytes));
        let written = self.store.put_opts(&path, payload, PutMode::Create.into());
        let written = self.within(name, written).await?;
        Ok(Written { keeps_versions: self.folder.is_none() && written.version.is_some() })
    }

    /// Reads a whole object.
    ///
    /// # Errors
    /// [`ObjectError`], without [`ObjectError::Exists`].
    pub async fn get(&self, name: &str) -> Result<Bytes, ObjectError> {
        let path = self.path(name);
        let found = self.within(name, self.store.get(&path)).await?;
        let bytes = found.meta.size;
        if bytes > OBJECT_BYTES_MAX {
            return Err(ObjectError::TooLarge { name: self.full(name), bytes });
        }
        self.within(name, found.bytes()).await
    }

    /// Deletes an object; an object that is gone is deleted.
    ///
    /// # Errors
    /// [`ObjectError::Away`].
    pub async fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let path = self.path(name);
        match self.within(name, self.store.delete(&path)).await {
            Ok(()) | Err(ObjectError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object of which nothing may be left, and lists its folder to confirm it. A file
    /// is overwritten first, and its copies that a crash left under other names are deleted.
    ///
    /// # Errors
    /// [`ObjectError::Away`].
    pub async fn erase(&self, name: &str) -> Result<(), ObjectError> {
        match &self.folder {
            None => self.delete(name).await?,
            Some(folder) => {
                let path = folder.join(self.full(name));
                let erased = offload(move || files::erase(&path)).await;
                let erased = erased.map_err(|error| error.to_string());
                let erased = erased.and_then(|done| done.map_err(|error| error.to_string()));
                erased.map_err(|problem| self.away(name, problem))?;
            }
        }
        let (above, _) = name.rsplit_once('/').unwrap_or_default();
        match self.list(above).await?.iter().any(|found| found.name == name) {
            true => Err(self.away(name, "is listed after its deletion".to_owned())),
            false => Ok(()),
        }
    }

    /// All objects whose name has `folder` before a slash, in no order; every object if it is
    /// empty.
    ///
    /// # Errors
    /// [`ObjectError::Away`].
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>, ObjectError> {
        let path = self.path(folder);
        let listed = self.store.list(Some(&path)).map_ok(|meta| Listed {
            name: self.relative(meta.location.as_ref()),
            bytes: meta.size,
            modified_ms: u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0),
        });
        let listed = futures_util::StreamExt::take(listed, LISTED_MAX).try_collect();
        self.within(folder, listed).await
    }

    /// Parts of names before the first slash.
    ///
    /// # Errors
    /// [`ObjectError::Away`].
    pub async fn folders(&self) -> Result<Vec<String>, ObjectError> {
        let path = self.path("");
        let listed = self.within("", self.store.list_with_delimiter(Some(&path))).await?;
        Ok(listed.common_prefixes.iter().map(|path| self.relative(path.as_ref())).collect())
    }

    /// Deletes what a crash left of files that were being written, and empty folders.
    ///
    /// # Errors
    /// [`ObjectError::Away`].
    pub async fn sweep(&self) -> Result<(), ObjectError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = folder.join(&self.prefix);
        let swept = offload(move || files::sweep(&path)).await;
        let swept = swept.map_err(|error| error.to_string());
        let swept = swept.and_then(|done| done.map_err(|error| error.to_string()));
        swept.map_err(|problem| self.away("", problem))
    }

    /// The name within the place: what an operator looks for.
    pub(crate) fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn path(&self, name: &str) -> Name {
        Name::from(self.full(name))
    }

    fn relative(&self, full: &str) -> String {
        full.strip_prefix(&self.prefix).unwrap_or(full).to_owned()
    }

    fn away(&self, name: &str, problem: String) -> ObjectError {
        ObjectError::Away { name: self.full(name), problem }
    }

    async fn within<T>(
        &self,
        name: &str,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, ObjectError> {
        let away = |problem: String| self.away(name, problem);
        match timeout(DEADLINE, operation).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Error::NotFound { .. })) => Err(ObjectError::Missing(self.full(name))),
            Ok(Err(Error::AlreadyExists { .. })) => Err(ObjectError::Exists(self.full(name))),
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

    #[tokio::test]
    async fn clusters_share_a_place() {
        let place = Objects::in_memory();
        let [first, second] = [1, 2].map(|byte| place.of(LogIdentity([byte; 16])));
        first.put("a/b", Bytes::from_static(b"1")).await.expect("new");
        second.put("a/b", Bytes::from_static(b"2")).await.expect("of another cluster");
        assert_eq!(first.get("a/b").await, Ok(Bytes::from_static(b"1")));
        let listed = second.list("a").await.expect("up");
        assert_eq!((listed.len(), &*listed[0].name), (1, "a/b"));
        assert_eq!(first.folders().await, Ok(vec!["a".to_owned()]));
        let both = ["01", "02"].map(|byte| byte.repeat(16));
        assert_eq!(place.folders().await, Ok(both.to_vec()));
        let missing = first.get("c").await.expect_err("never written");
        assert_eq!(missing, ObjectError::Missing(format!("{}/c", both[0])));
    }

    /// A crash between the two names of a new file leaves its content under the other one.
    #[tokio::test]
    async fn nothing_is_left_of_an_erased_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Objects::in_folder(&folder.path().join("objects")).expect("writable");
        let objects = place.of(LogIdentity([1; 16]));
        objects.put("keys/1", Bytes::from_static(b"half")).await.expect("new");
        objects.put("keys/10", Bytes::from_static(b"other")).await.expect("new");
        let path = folder.path().join("objects").join("01".repeat(16)).join("keys");
        std::fs::hard_link(path.join("1"), path.join("1#1")).expect("writable");
        std::fs::write(path.join("10#2"), b"oth").expect("writable");
        let kept = folder.path().join("kept open");
        std::fs::hard_link(path.join("1"), &kept).expect("writable");
        objects.erase("keys/1").await.expect("up");
        objects.erase("keys/1").await.expect("gone is gone");
        assert_eq!(std::fs::read(&kept).expect("another name"), b"\0\0\0\0", "overwritten");
        let names = || {
            let entries = std::fs::read_dir(&path).expect("there").map(|e| e.expect("there"));
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["10", "10#2"], "files of other objects stay");
        objects.sweep().await.expect("up");
        assert_eq!(names(), ["10"]);
    }

    #[test]
    fn a_folder_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("objects");
        Objects::in_folder(&path).expect("writable");
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
        let made = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(made & 0o777, 0o700);
        mode(0o755).expect("ours");
        let refused = Objects::in_folder(&path).expect_err("readable").to_string();
        assert!(refused.starts_with("objects: ") && refused.contains("chmod 700"), "{refused}");
        let missing = Objects::in_folder(&folder.path().join("a/b")).expect_err("mistyped");
        assert!(missing.to_string().contains("cannot be created"), "{missing}");
    }
}
