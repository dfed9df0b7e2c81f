//! The reader of snapshots, which takes the bytes in pieces as they arrive.

use std::mem;

use clarion_proto::ids::{AppName, Ordinal, PartitionId, Position, UnixMillis};
use xxhash_rust::xxh3::Xxh3;

use super::{
    super::{
        Partition,
        bits::Bits,
        index::IdHash,
        key::Key,
        page::{PAGE_KEYS_MAX, Pages},
        row::{Millis40, Registered, Row},
        rows::Rows,
        sweep::Sweep,
        vocabulary::Vocabulary,
    },
    Problem, SWEEP_VERSION, SnapshotError, VERSION, columns,
    entry::Entry,
    frame::{self, Content, FILE_HEAD_BYTES, Head, Kind, SECTION_HEAD_BYTES},
};

/// Result of reading a snapshot.
#[derive(Debug)]
pub struct Restored {
    /// The partition at the position of the snapshot.
    pub partition: Partition,
    /// Position of the log that is applied in the partition.
    pub position: Position,
}

/// Reader of one snapshot in pieces of any size. [`SnapshotReader::finish`] returns the partition.
///
/// The reader holds at most one section in addition to the result. After an error it accepts no
/// more bytes.
pub struct SnapshotReader {
    hash_seed: u64,
    page_keys_max: usize,
    /// Received bytes that are not used yet, less than a section.
    pending: Vec<u8>,
    content: Vec<u8>,
    decompressor: zstd::bulk::Decompressor<'static>,
    hash: Xxh3,
    offset: u64,
    section: u32,
    id: Option<PartitionId>,
    version: u16,
    kind: Kind,
    built: Option<Built>,
    ended: bool,
}

struct Built {
    partition: Partition,
    position: Position,
    resting: Vec<u64>,
    keys: Vec<Key>,
    /// Hashes of all device ids. The index is built from them at the end.
    hashes: Vec<(IdHash, Ordinal)>,
    rows: u64,
    scheduled: u64,
    /// Counts that the state section announced.
    expected: Expected,
    next_ordinal: u32,
}

struct Expected {
    unused: u32,
    resting: u32,
    expiry: u32,
    rows: u32,
}

impl Restored {
    /// Checks that the snapshot is of the expected partition.
    ///
    /// # Errors
    /// It is of another one: the coordinator mixed them up.
    pub fn of(self, expected: PartitionId) -> Result<Self, SnapshotError> {
        let id = self.partition.id();
        if id == expected {
            return Ok(self);
        }
        let problem = Problem::Content("the snapshot is of another partition than asked for");
        Err(SnapshotError { partition: Some(id), section: 0, offset: 0, problem })
    }
}

impl SnapshotReader {
    /// Creates a reader of one snapshot; the partition gets the seed, see [`Partition::new`].
    #[must_use]
    pub fn new(hash_seed: u64) -> Self {
        Self::with_pages(hash_seed, PAGE_KEYS_MAX)
    }

    /// Creates a reader whose partition has pages of another size.
    pub(crate) fn with_pages(hash_seed: u64, page_keys_max: usize) -> Self {
        Self {
            hash_seed,
            page_keys_max,
            pending: Vec::new(),
            content: Vec::new(),
            decompressor: zstd::bulk::Decompressor::new().expect("memory"),
            hash: Xxh3::new(),
            offset: 0,
            section: 0,
            id: None,
            version: VERSION,
            kind: Kind::State,
            built: None,
            ended: false,
        }
    }

    /// Reads the next bytes. `words` is the vocabulary of the core that will own the partition.
    ///
    /// # Errors
    /// If the bytes differ from those that were written. No part of the snapshot can be used then.
    pub fn push(&mut self, bytes: &[u8], words: &mut Vocabulary) -> Result<(), SnapshotError> {
        let mut content = mem::take(&mut self.content);
        let mut pending = mem::take(&mut self.pending);
        let result = self.take_all(bytes, &mut pending, &mut content, words);
        (self.pending, self.content) = (pending, content);
        result.map_err(|problem| self.error(problem))
    }

    /// Processes complete sections in place, and copies only an incomplete section at the start and
    /// the end of the piece.
    fn take_all(
        &mut self,
        bytes: &[u8],
        pending: &mut Vec<u8>,
        content: &mut Vec<u8>,
        words: &mut Vocabulary,
    ) -> Result<(), Problem> {
        let mut rest = bytes;
        while !pending.is_empty() {
            let (more, behind) = rest.split_at(self.lacks(pending)?.min(rest.len()));
            pending.extend_from_slice(more);
            rest = behind;
            if self.step(pending, content, words)? != 0 {
                pending.clear();
            } else if rest.is_empty() {
                return Ok(());
            }
        }
        loop {
            match self.step(rest, content, words)? {
                0 => break,
                used => rest = &rest[used..],
            }
        }
        pending.extend_from_slice(rest);
        Ok(())
    }

    /// Returns the number of bytes that `pending`, an incomplete head or section, lacks: first
    /// those of a section's head, then those that the head announces.
    fn lacks(&self, pending: &[u8]) -> Result<usize, Problem> {
        let whole = match pending.first_chunk::<SECTION_HEAD_BYTES>() {
            _ if self.id.is_none() => FILE_HEAD_BYTES,
            None => SECTION_HEAD_BYTES,
            Some(head) => Head::read(head)?.section_bytes(),
        };
        Ok(whole.saturating_sub(pending.len()))
    }

    /// Returns the partition if the snapshot is complete.
    ///
    /// # Errors
    /// If the end of the snapshot is missing.
    pub fn finish(mut self) -> Result<Restored, SnapshotError> {
        match self.built.take() {
            Some(built) if self.ended => {
                Ok(Restored { partition: built.partition, position: built.position })
            }
            _ => Err(self.error(Problem::Truncated)),
        }
    }

    /// Reads the head or one section from the front, and returns its size, bytes; 0 if it is
    /// incomplete.
    fn step(
        &mut self,
        bytes: &[u8],
        content: &mut Vec<u8>,
        words: &mut Vocabulary,
    ) -> Result<usize, Problem> {
        if self.ended {
            return if bytes.is_empty() { Ok(0) } else { Err(Problem::Surplus) };
        }
        let used = if self.id.is_none() {
            let Some(head) = bytes.first_chunk::<FILE_HEAD_BYTES>() else { return Ok(0) };
            let (id, version) = frame::read_file_head(head)?;
            (self.id, self.version) = (Some(id), version);
            FILE_HEAD_BYTES
        } else {
            let Some(head) = bytes.first_chunk::<SECTION_HEAD_BYTES>() else { return Ok(0) };
            let head = Head::read(head)?;
            let Some(section) = bytes.get(..head.section_bytes()) else { return Ok(0) };
            let kind = head.open(section, self.section, &mut self.decompressor, content)?;
            self.take(kind, content, words)?;
            self.section += 1;
            section.len()
        };
        self.hash.update(&bytes[..used]);
        self.offset += used as u64;
        Ok(used)
    }

    fn take(&mut self, kind: Kind, content: &[u8], words: &mut Vocabulary) -> Result<(), Problem> {
        let order = Problem::Content("sections are not in order");
        let once = matches!(kind, Kind::State | Kind::End);
        if kind < self.kind
            || self.built.is_none() != (kind == Kind::State)
            || once && kind == self.kind && self.built.is_some()
        {
            return Err(order);
        }
        if kind >= Kind::Rows && self.kind < Kind::Rows {
            self.built.as_mut().ok_or(order.clone())?.begin_rows()?;
        }
        self.kind = kind;
        let mut content = Content(content);
        match (kind, &mut self.built) {
            (Kind::State, _) => {
                let id = self.id.unwrap_or_default();
                let mut built = Built::new(id, self.hash_seed, self.page_keys_max, &mut content)?;
                if self.version >= SWEEP_VERSION {
                    built.partition.sweep = read_sweep(&mut content, words)?;
                }
                self.built = Some(built);
            }
            (Kind::Resting, Some(built)) => {
                let entries = content.0.as_chunks::<8>();
                built.resting.extend(entries.0.iter().map(|entry| u64::from_le_bytes(*entry)));
                content.0 = entries.1;
            }
            (Kind::Expiry, Some(built)) => {
                let entries = content.0.as_chunks::<10>();
                for [a, b, c, d, e, f, w, x, y, z] in entries.0 {
                    let due = UnixMillis(u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]));
                    built.partition.expiry.push(due, Ordinal(u32::from_be_bytes([*w, *x, *y, *z])));
                }
                content.0 = entries.1;
            }
            (Kind::Rows, Some(built)) => {
                columns::read(content.0, words, |ordinal, entry| built.restore(ordinal, entry))?;
                content.0 = &[];
            }
            (Kind::End, Some(built)) => {
                let (rows, hash) = (content.u64()?, content.u64()?);
                if hash != self.hash.digest() {
                    return Err(Problem::Checksum);
                }
                built.end(rows)?;
                self.ended = true;
            }
            (_, None) => return Err(order),
        }
        content.end()
    }

    fn error(&self, problem: Problem) -> SnapshotError {
        SnapshotError { partition: self.id, section: self.section, offset: self.offset, problem }
    }
}

impl Built {
    fn new(
        id: PartitionId,
        hash_seed: u64,
        page_keys_max: usize,
        content: &mut Content<'_>,
    ) -> Result<Self, Problem> {
        let mut partition = Partition::with_pages(id, hash_seed, page_keys_max);
        let position = Position(content.u64()?);
        partition.now = UnixMillis(content.u64()?);
        let expected = Expected {
            unused: content.u32()?,
            resting: content.u32()?,
            expiry: content.u32()?,
            rows: content.u32()?,
        };
        if expected.resting.checked_add(expected.rows) != Some(expected.unused) {
            return Err(Problem::Content("the counts of ordinals do not add up"));
        }
        Ok(Self {
            partition,
            position,
            resting: Vec::new(),
            keys: Vec::new(),
            hashes: Vec::new(),
            rows: 0,
            scheduled: 0,
            expected,
            next_ordinal: 0,
        })
    }

    fn begin_rows(&mut self) -> Result<(), Problem> {
        let resting = mem::take(&mut self.resting);
        let Expected { unused, resting: of_resting, expiry, .. } = self.expected;
        if resting.len() != of_resting as usize
            || self.partition.expiry.iter().count() != expiry as usize
        {
            return Err(Problem::Content("the lengths of the queues differ from the header"));
        }
        self.partition.rows = Rows::vacant(unused, &resting)
            .ok_or(Problem::Content("the free list contains ordinals that cannot be free"))?;
        Ok(())
    }

    fn restore(&mut self, ordinal: Ordinal, entry: &Entry<'_>) -> Result<(), Problem> {
        let partition = &mut self.partition;
        if ordinal.0 < self.next_ordinal || ordinal.0 >= self.expected.unused {
            return Err(Problem::Content("ordinals are not in order"));
        }
        self.next_ordinal = ordinal.0 + 1;
        let mut row = Row::new(entry.device);
        (row.place_version, row.registration_version) =
            (entry.place_version, entry.registration_version);
        row.set_place(entry.place);
        row.set_muted(entry.muted);
        row.set_scheduled(entry.scheduled);
        match entry.registration {
            Err(due) => row.unregister(due),
            Ok((profile, shape, content)) => row.register(Registered {
                token: partition.tokens.restore(shape, content),
                profile: partition.profiles.insert(ordinal, profile),
            }),
        }
        partition.rows.restore(ordinal, row);
        if entry.mute_version != Millis40::NEVER {
            partition.set_mute_version(ordinal, entry.mute_version);
        }
        self.hashes.push((partition.index.hash(entry.device), ordinal));
        let standing = partition.standing(ordinal);
        partition.held.count(standing, |n| *n += 1);
        self.keys.extend(standing.key);
        self.rows += 1;
        self.scheduled += u64::from(entry.scheduled);
        if entry.registration.is_err() && !entry.scheduled {
            return Err(Problem::Content("a row without registration is not in the expiry queue"));
        }
        Ok(())
    }

    fn end(&mut self, rows: u64) -> Result<(), Problem> {
        let Expected { unused, rows: expected, .. } = self.expected;
        if rows != self.rows || rows != u64::from(expected) {
            return Err(Problem::Content("rows are missing"));
        }
        let partition = &mut self.partition;
        partition.rows.reserve(unused);
        // There are as many rows and resting ordinals as ordinals, so each ordinal must be one of
        // them.
        let mut seen = Bits::default();
        let is_vacant = |ordinal| partition.rows.get(ordinal).is_none();
        if !partition.rows.resting().all(|ordinal| seen.insert(ordinal) && is_vacant(ordinal)) {
            return Err(Problem::Content("the free list contains an ordinal that a device uses"));
        }
        let mut seen = Bits::default();
        let is_named = |ordinal| {
            partition.rows.get(ordinal).is_some_and(Row::is_scheduled) && seen.insert(ordinal)
        };
        if !partition.expiry.iter().map(|(_, ordinal)| ordinal).all(is_named)
            || seen.len() != self.scheduled
        {
            return Err(Problem::Content("the expiry queue does not match the rows"));
        }
        let hashes = mem::take(&mut self.hashes);
        let index = partition.index.filled(&hashes, &partition.rows);
        partition.index = index.ok_or(Problem::Content("a device is stored twice"))?;
        self.keys.sort_unstable();
        partition.pages =
            Pages::of_sorted(partition.pages.page_keys_max(), &mem::take(&mut self.keys));
        Ok(())
    }
}

/// Reads the limits of expiry and the state of their sweep. A limit of an app that the vocabulary
/// refuses is dropped, because such an app is never pushed to.
fn read_sweep(content: &mut Content<'_>, words: &mut Vocabulary) -> Result<Sweep, Problem> {
    let cursor = (content.u32()?, content.u32()?);
    let mut limits = Vec::new();
    for _ in 0..content.u16()? {
        let bytes = content.u16()?;
        let app = std::str::from_utf8(content.take(bytes.into())?).ok().map(AppName::from_id);
        let Some(Ok(app)) = app else {
            return Err(Problem::Content("an app has an invalid name"));
        };
        limits.push((words.intern_app(&app), columns::version(&content.array()?)));
    }
    Ok(Sweep::restored(limits, cursor))
}
