//! A backup as objects of a folder or bucket.
//!
//! | object | |
//! |---|---|
//! | `backup/{id}/{chunk}` | [`CHUNK_BYTES`] of the items, each behind its length, sealed |
//! | `backup/{id}/manifest` | what the backup is of and has, with the hash of all items, sealed; written last |
//!
//! The id is the time of the beginning, so names sort by age, and a random part, because an object
//! is never replaced. A backup without its manifest is one that broke off. All objects are sealed
//! with a key of the operator, under which nothing else is sealed.

use std::{fs, path::Path};

use bytes::{Buf, Bytes, BytesMut};
use clarion_proto::wire::store::v1::{
    BackupEnd, BackupHead, BackupItem, BackupManifest, backup_item::Item,
};
use prost::Message;
use ring::digest::{Context, SHA256};
use xxhash_rust::xxh3::Xxh3;
use zeroize::Zeroizing;

use crate::{
    objects::{OBJECT_BYTES_MAX, ObjectError, Objects},
    seal::{Generation, KEY_BYTES, SealError, Seals},
};

/// Version of the form of backups.
const VERSION: u32 = 1;
/// Bytes of items in one object, unless it has one item that is larger.
const CHUNK_BYTES: usize = 8 << 20;
/// Largest item: an active alert, with a region of 8 MiB and 64 messages of 4 KiB for each of 64
/// apps.
const ITEM_BYTES_MAX: usize = 30 << 20;
const _: () = assert!(ITEM_BYTES_MAX as u64 + (1 << 20) < OBJECT_BYTES_MAX, "it is one object");
/// Folder of all backups.
const FOLDER: &str = "backup";
/// Name of the object that makes a backup complete.
const MANIFEST: &str = "manifest";
/// Longest time for which a backup may be under way, milliseconds: a day.
const UNDER_WAY_MS: u64 = 24 * 3_600_000;
/// Sizes of a file with a key, bytes.
const KEY_FILE_BYTES: std::ops::RangeInclusive<usize> = 32..=4_096;

/// Why a backup cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The folder or bucket refuses or does not answer.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// An item could be written, but not read.
    #[error("an item of the backup must have at most {ITEM_BYTES_MAX} bytes; got {0}")]
    TooLarge(usize),
    /// There is no complete backup, or none of that id.
    #[error("{0}")]
    Missing(String),
    /// An object cannot be opened with the key.
    #[error("backup {id}, object {object}: {problem}")]
    Sealed {
        /// Id of the backup.
        id: String,
        /// Last part of the object's name.
        object: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The content is not what was written. A retry does not help; an older backup may.
    #[error("backup {id} is damaged: {problem}; restore another backup with --id")]
    Damaged {
        /// Id of the backup.
        id: String,
        /// What is wrong.
        problem: String,
    },
}

/// Key that seals backups, made from a file of the operator.
#[derive(Debug)]
pub struct BackupKey(Seals);

impl BackupKey {
    /// Reads the key from a file.
    ///
    /// # Errors
    /// The file cannot be read, or is too short or long for a key; the text names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let content = Zeroizing::new(fs::read(path).map_err(|e| {
            format!(
                "{shown}: cannot be read: {e}; make one with: head -c 32 /dev/urandom > {shown}"
            )
        })?);
        if !KEY_FILE_BYTES.contains(&content.len()) {
            let (least, most) = KEY_FILE_BYTES.into_inner();
            let got = content.len();
            return Err(format!("{shown}: must have {least} to {most} bytes; got {got}"));
        }
        let mut context = Context::new(&SHA256);
        context.update(b"clarion backup key\n");
        context.update(&content);
        let key: [u8; KEY_BYTES] =
            context.finish().as_ref().try_into().expect("SHA-256 is as long as a key");
        Ok(Self(Seals::new(Generation(1), &Zeroizing::new(key))))
    }

    fn open(&self, id: &str, object: &str, sealed: &[u8]) -> Result<Bytes, FileError> {
        let opened = self.0.open(place(id, object).as_bytes(), sealed);
        opened.map(Bytes::from).map_err(|error| FileError::Sealed {
            id: id.to_owned(),
            object: object.to_owned(),
            problem: match error {
                SealError::Damaged => {
                    "it is damaged, or --key-file is not the file that the backup was made with"
                        .to_owned()
                }
                other => other.to_string(),
            },
        })
    }
}

/// Name of an object, which also tells where sealed bytes belong.
fn place(id: &str, object: &str) -> String {
    format!("{FOLDER}/{id}/{object}")
}

/// Writes one backup.
pub struct Writer<'a> {
    objects: &'a Objects,
    key: &'a BackupKey,
    id: String,
    head: BackupHead,
    buffer: BytesMut,
    chunks: u32,
    bytes: u64,
    hash: Xxh3,
}

impl<'a> Writer<'a> {
    /// Begins a backup; `random` makes its id unique.
    #[must_use]
    pub fn new(objects: &'a Objects, key: &'a BackupKey, head: BackupHead, random: u16) -> Self {
        let id = format!("{:014}-{random:04x}", head.begun_ms);
        let (buffer, hash) = (BytesMut::new(), Xxh3::new());
        Self { objects, key, id, head, buffer, chunks: 0, bytes: 0, hash }
    }

    /// Adds an item.
    ///
    /// # Errors
    /// The objects' errors; an item that is too large.
    pub async fn push(&mut self, item: &BackupItem) -> Result<(), FileError> {
        let bytes = item.encoded_len();
        if bytes > ITEM_BYTES_MAX {
            return Err(FileError::TooLarge(bytes));
        }
        if self.buffer.len() + bytes > CHUNK_BYTES {
            self.flush().await?;
        }
        let from = self.buffer.len();
        item.encode_length_delimited(&mut self.buffer).expect("the buffer grows");
        self.hash.update(&self.buffer[from..]);
        self.bytes += (self.buffer.len() - from) as u64;
        if self.buffer.len() >= CHUNK_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Bytes that were written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Completes the backup and returns its id.
    ///
    /// # Errors
    /// The objects' errors.
    pub async fn finish(mut self, end: BackupEnd, ended_ms: u64) -> Result<String, FileError> {
        self.flush().await?;
        let manifest = BackupManifest {
            version: VERSION,
            head: Some(self.head.clone()),
            end: Some(end),
            chunks: self.chunks,
            bytes: self.bytes,
            hash: self.hash.digest(),
            ended_ms,
        };
        self.put(MANIFEST, &manifest.encode_to_vec()).await?;
        Ok(self.id)
    }

    /// Deletes what was written, as far as the objects answer.
    pub async fn abandon(self) {
        for number in 0..=self.chunks {
            if self.objects.delete(&place(&self.id, &chunk(number))).await.is_err() {
                return;
            }
        }
    }

    async fn flush(&mut self) -> Result<(), FileError> {
        if !self.buffer.is_empty() {
            let content = self.buffer.split();
            let object = chunk(self.chunks);
            self.put(&object, &content).await?;
            self.chunks += 1;
        }
        Ok(())
    }

    async fn put(&self, object: &str, content: &[u8]) -> Result<(), FileError> {
        let name = place(&self.id, object);
        let sealed = self.key.0.seal(name.as_bytes(), content);
        Ok(self.objects.put(&name, sealed.into()).await?)
    }
}

fn chunk(number: u32) -> String {
    format!("{number:08}")
}

/// Ids of the complete backups of a folder or bucket, the oldest first.
///
/// # Errors
/// The objects' errors.
pub async fn ids(objects: &Objects) -> Result<Vec<String>, FileError> {
    let listed = objects.list(FOLDER).await?;
    let id = |name: &str| {
        let (id, object) = name.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
        (object == MANIFEST).then(|| id.to_owned())
    };
    let mut ids: Vec<_> = listed.iter().filter_map(|found| id(&found.name)).collect();
    ids.sort();
    Ok(ids)
}

/// Deletes a backup, its manifest first, so that a backup is complete or none.
///
/// # Errors
/// The objects' errors.
pub async fn delete(objects: &Objects, id: &str) -> Result<(), FileError> {
    objects.delete(&place(id, MANIFEST)).await?;
    for found in objects.list(&format!("{FOLDER}/{id}")).await? {
        objects.delete(&found.name).await?;
    }
    Ok(())
}

/// Deletes what backups left that broke off and began long before a complete one. A younger one may
/// still be under way.
///
/// # Errors
/// The objects' errors.
pub async fn delete_broken_off(objects: &Objects, complete: &str) -> Result<(), FileError> {
    let begun = |id: &str| id.split_once('-').and_then(|(ms, _)| ms.parse::<u64>().ok());
    let Some(until) = begun(complete).map(|ms| ms.saturating_sub(UNDER_WAY_MS)) else {
        return Ok(());
    };
    let whole = ids(objects).await?;
    for found in objects.list(FOLDER).await? {
        let id = found.name.strip_prefix(FOLDER).and_then(|rest| rest.strip_prefix('/'));
        let Some((id, _)) = id.and_then(|rest| rest.split_once('/')) else { continue };
        if begun(id).is_some_and(|ms| ms < until) && !whole.iter().any(|known| known == id) {
            objects.delete(&found.name).await?;
        }
    }
    Ok(())
}

/// Reads one backup.
#[derive(Debug)]
pub struct Reader<'a> {
    objects: &'a Objects,
    key: &'a BackupKey,
    id: String,
    manifest: BackupManifest,
    buffer: BytesMut,
    next: u32,
    bytes: u64,
    hash: HashOf,
}

/// Hash of what was read so far.
#[derive(Default)]
struct HashOf(Xxh3);

impl std::fmt::Debug for HashOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0.digest())
    }
}

impl<'a> Reader<'a> {
    /// Opens the backup of an id, or the newest.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn open(
        objects: &'a Objects,
        key: &'a BackupKey,
        id: Option<&str>,
    ) -> Result<Self, FileError> {
        let ids = ids(objects).await?;
        let found = match id {
            Some(id) => ids.iter().find(|known| *known == id),
            None => ids.last(),
        };
        let id = found.cloned().ok_or_else(|| {
            FileError::Missing(match (id, ids.is_empty()) {
                (Some(id), false) => {
                    format!("there is no complete backup {id}; there are {}", ids.join(", "))
                }
                _ => "there is no complete backup".to_owned(),
            })
        })?;
        let sealed = objects.get(&place(&id, MANIFEST)).await?;
        let content = key.open(&id, MANIFEST, &sealed)?;
        let damaged =
            |problem: &str| FileError::Damaged { id: id.clone(), problem: problem.into() };
        let manifest =
            BackupManifest::decode(content).map_err(|error| damaged(&error.to_string()))?;
        if manifest.version != VERSION {
            let text = format!("version: must be {VERSION}; got {}", manifest.version);
            return Err(damaged(&text));
        }
        let (buffer, hash) = (BytesMut::new(), HashOf::default());
        Ok(Self { objects, key, id, manifest, buffer, next: 0, bytes: 0, hash })
    }

    /// Id of the backup.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the backup is of and has.
    #[must_use]
    pub fn manifest(&self) -> &BackupManifest {
        &self.manifest
    }

    /// The next item; `None`: all items were read, and they are those that were written.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn next(&mut self) -> Result<Option<Item>, FileError> {
        loop {
            if let Some(item) = self.buffered()? {
                return Ok(Some(item));
            }
            if self.next == self.manifest.chunks {
                return self.whole().map(|()| None);
            }
            let object = chunk(self.next);
            let sealed = match self.objects.get(&place(&self.id, &object)).await {
                Err(ObjectError::Missing(_)) => {
                    return Err(self.damaged(format!("object {object} is missing")));
                }
                read => read?,
            };
            let content = self.key.open(&self.id, &object, &sealed)?;
            self.hash.0.update(&content);
            self.bytes += content.len() as u64;
            self.buffer.extend_from_slice(&content);
            self.next += 1;
        }
    }

    /// The next item of the buffer; `None`: it is not whole yet.
    fn buffered(&mut self) -> Result<Option<Item>, FileError> {
        let mut rest = &self.buffer[..];
        if rest.is_empty() {
            return Ok(None);
        }
        let Ok(length) = prost::decode_length_delimiter(&mut rest) else {
            return match self.buffer.len() < 10 {
                true => Ok(None),
                false => Err(self.damaged("an item has no length".to_owned())),
            };
        };
        if length > ITEM_BYTES_MAX {
            let text = format!("an item must have at most {ITEM_BYTES_MAX} bytes; got {length}");
            return Err(self.damaged(text));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let head = self.buffer.len() - rest.len();
        self.buffer.advance(head);
        let item = BackupItem::decode(self.buffer.split_to(length).freeze());
        match item.map(|item| item.item) {
            Ok(Some(item)) => Ok(Some(item)),
            Ok(None) => Err(self.damaged("an item is none that this version knows".to_owned())),
            Err(error) => Err(self.damaged(error.to_string())),
        }
    }

    fn whole(&self) -> Result<(), FileError> {
        let BackupManifest { bytes, hash, .. } = self.manifest;
        if !self.buffer.is_empty() || self.bytes != bytes || self.hash.0.digest() != hash {
            return Err(self.damaged("its items are not those that were written".to_owned()));
        }
        Ok(())
    }

    fn damaged(&self, problem: String) -> FileError {
        FileError::Damaged { id: self.id.clone(), problem }
    }
}
