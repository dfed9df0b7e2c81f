//! The file format of a record; all numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `CLGWREC1` |
//! | 4, 4 | bytes of an entry (32), bytes of a connection (48) |
//! | 8, 8 | number of entries, number of connections |
//! | 8, 8 | start of the gateway: CLOCK_MONOTONIC µs, wall clock ms |
//! | 8 | entries dropped for want of room: not 0 means that the record proves nothing |
//! | 8 | the platform: 1 APNs, 2 FCM |
//! | 32 each | entries, by time: `time_us` u64, `token_hash` u64, `collapse_hash` u64, `connection` u32, `status` u16, `reason` u8, `flags` u8 |
//! | 48 each | connections: `number` u32, `end` u32, `opened_us`, `closed_us`, `bytes_received`, `bytes_sent`, `requests` u64 each |
//!
//! The file is written under another name and then renamed, so that a reader finds a complete
//! record or none.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

use parking_lot::Mutex;

use super::{
    super::{clock::Now, platform::Platform},
    CHUNK, ConnectionRow, Entry, Log,
};

const MAGIC: &[u8; 8] = b"CLGWREC1";
const HEADER_BYTES: u64 = 64;
const ROW_BYTES: usize = 48;

/// Header of a record file, before the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Start of the gateway, CLOCK_MONOTONIC, microseconds.
    pub start_monotonic_us: u64,
    /// Start of the gateway, wall clock, milliseconds since 1970.
    pub start_wall_ms: u64,
    /// Number of entries that were dropped because the record was full.
    pub dropped: u64,
    /// Platform that the gateway emulated.
    pub platform: Platform,
}

/// An exported record, read from its file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Header with the start of the gateway and the number of dropped entries.
    pub header: Header,
    /// Every request in order of decision time.
    pub entries: Vec<Entry>,
    /// Every connection in the order of the file.
    pub connections: Vec<ConnectionRow>,
}

impl Record {
    /// Reads a file that [`export`] wrote.
    ///
    /// # Errors
    /// `InvalidData` if the file is not a record or is truncated.
    pub fn load(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut from = BufReader::with_capacity(1 << 20, file);
        let mut head = [0; 64];
        from.read_exact(&mut head)?;
        let word =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (entries, connections) = (word(16), word(24));
        let expected = entries
            .checked_mul(Entry::BYTES as u64)
            .zip(connections.checked_mul(ROW_BYTES as u64))
            .and_then(|(e, c)| e.checked_add(c)?.checked_add(HEADER_BYTES));
        if head[..8] != *MAGIC || word(8) != sizes() || expected != Some(bytes) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a complete record of the gateway emulator",
            ));
        }
        let unknown =
            || io::Error::new(io::ErrorKind::InvalidData, "the record has an unknown platform");
        let header = Header {
            start_monotonic_us: word(32),
            start_wall_ms: word(40),
            dropped: word(48),
            platform: Platform::from_number(word(56)).ok_or_else(unknown)?,
        };
        // Both counts were checked against the size of the file.
        let mut record = Self { header, entries: Vec::new(), connections: Vec::new() };
        record.entries.reserve_exact(usize::try_from(entries).map_err(io::Error::other)?);
        let mut bytes = [0; Entry::BYTES];
        for _ in 0..entries {
            from.read_exact(&mut bytes)?;
            record.entries.push(read_entry(&bytes));
        }
        let mut bytes = [0; ROW_BYTES];
        for _ in 0..connections {
            from.read_exact(&mut bytes)?;
            record.connections.push(read_row(&bytes));
        }
        Ok(record)
    }

    /// Returns the number of bytes that all connections received.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.connections.iter().map(|c| c.bytes_received).sum()
    }
}

/// Reports whether a file begins as [`export`] and [`take`] write it.
#[must_use]
pub fn is_record(path: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *MAGIC
}

/// Writes the entries of all logs into one file, and returns their number. Each log is locked for
/// one chunk (some 0.3 ms) at a time, so that workers continue meanwhile. Entries that are added
/// after the start of the call are left out.
///
/// # Errors
/// If the file cannot be written. No file is left then.
pub fn export(
    logs: &[&Mutex<Log>],
    start: Now,
    platform: Platform,
    path: &Path,
) -> io::Result<u64> {
    let (mut sources, mut rows, mut dropped) = (Vec::new(), Vec::<ConnectionRow>::new(), 0);
    for log in logs {
        let held = log.lock();
        rows.extend(held.closed.iter().chain(held.open.values()));
        dropped += held.totals.dropped;
        sources.push(Source {
            log,
            base: held.base,
            length: held.length,
            next: 0,
            chunk: Vec::new(),
        });
    }
    rows.sort_by_key(|r| r.number);
    let entries: u64 = sources.iter().map(|s| s.length).sum();
    let partial = path.with_extension("partial");
    let mut to = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
    to.write_all(&head(entries, rows.len() as u64, start, dropped, platform))?;
    // A merge of a few lists: each step searches all of them for the earliest head.
    for source in &mut sources {
        source.fill()?;
    }
    while let Some(source) = sources
        .iter_mut()
        .filter(|s| s.peek().is_some())
        .min_by_key(|s| s.peek().map(|e| e.time_us))
    {
        let entry = *source.peek().expect("filtered");
        to.write_all(&write_entry(&entry))?;
        source.next += 1;
        source.fill()?;
    }
    for row in &rows {
        to.write_all(&write_row(row))?;
    }
    to.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(partial, path)?;
    Ok(entries)
}

/// Result of [`take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Number of entries in the file.
    pub entries: u64,
    /// Time before which every entry has been taken, in this file or an earlier one;
    /// CLOCK_MONOTONIC, microseconds.
    pub until_us: u64,
}

/// Moves entries older than `before_us` out of the logs and into a file, as far as they fill
/// chunks. Connections stay in the logs. No later entry is older than `now_us`.
///
/// # Errors
/// If the file cannot be written. The taken entries are lost then.
pub fn take(
    logs: &[&Mutex<Log>],
    start: Now,
    platform: Platform,
    (before_us, now_us): (u64, u64),
    path: &Path,
) -> io::Result<Taken> {
    let (mut entries, mut until_us, mut dropped) = (Vec::new(), now_us, 0);
    for log in logs {
        let mut held = log.lock();
        dropped += held.totals.dropped;
        let taken = held.take(before_us);
        until_us = until_us.min(held.oldest_us().unwrap_or(now_us));
        drop(held);
        entries.extend(taken.into_iter().flatten());
    }
    entries.sort_by_key(|e: &Entry| e.time_us);
    let mut to = BufWriter::with_capacity(1 << 20, File::create(path)?);
    to.write_all(&head(entries.len() as u64, 0, start, dropped, platform))?;
    for entry in &entries {
        to.write_all(&write_entry(entry))?;
    }
    to.flush()?;
    Ok(Taken { entries: entries.len() as u64, until_us })
}

/// Adds a difference to all times of an exported file, to convert them to the clock of another
/// machine.
///
/// # Errors
/// If the file is not a complete record, or cannot be written.
pub fn shift(path: &Path, add_us: i64) -> io::Result<()> {
    // Only a file that is a complete record may be changed.
    let record = Record::load(path)?;
    let mut bytes = fs::read(path)?;
    let add = |field: &mut [u8]| {
        let time = u64::from_le_bytes((&*field).try_into().expect("eight bytes"));
        field.copy_from_slice(&time.wrapping_add_signed(add_us).to_le_bytes());
    };
    let start = usize::try_from(HEADER_BYTES).expect("small");
    add(&mut bytes[32..40]);
    let (entries, rows) = bytes[start..].split_at_mut(record.entries.len() * Entry::BYTES);
    for entry in entries.chunks_exact_mut(Entry::BYTES) {
        add(&mut entry[0..8]);
    }
    for (row, read) in rows.chunks_exact_mut(ROW_BYTES).zip(&record.connections) {
        add(&mut row[8..16]);
        // 0 means that the connection is open, not a time.
        if read.closed_us != 0 {
            add(&mut row[16..24]);
        }
    }
    fs::write(path, bytes)
}

/// Entries of one log that are being written to a file.
struct Source<'a> {
    log: &'a Mutex<Log>,
    base: u64,
    length: u64,
    next: u64,
    chunk: Vec<Entry>,
}

impl Source<'_> {
    fn peek(&self) -> Option<&Entry> {
        if self.next == self.length {
            return None;
        }
        self.chunk.get(at_in_chunk(self.next))
    }

    /// Copies the next chunk when the last one is used up.
    fn fill(&mut self) -> io::Result<()> {
        if self.next == self.length || !self.next.is_multiple_of(CHUNK as u64) {
            return Ok(());
        }
        let log = self.log.lock();
        if log.base != self.base {
            return Err(io::Error::other("the record was reset while it was exported"));
        }
        let chunk =
            &log.chunks[usize::try_from(self.next / CHUNK as u64).map_err(io::Error::other)?];
        self.chunk.clear();
        self.chunk.extend_from_slice(chunk);
        Ok(())
    }
}

fn at_in_chunk(at: u64) -> usize {
    usize::try_from(at % CHUNK as u64).expect("below the size of a chunk")
}

/// Returns the bytes of the header.
fn head(entries: u64, rows: u64, start: Now, dropped: u64, platform: Platform) -> [u8; 64] {
    let mut b = [0; 64];
    b[0..8].copy_from_slice(MAGIC);
    let words = [sizes(), entries, rows, start.at.0, start.wall.0, dropped, platform as u64];
    for (i, word) in words.into_iter().enumerate() {
        b[8 + 8 * i..16 + 8 * i].copy_from_slice(&word.to_le_bytes());
    }
    b
}

/// Returns the sizes of an entry and a row in one number, which identifies the format.
fn sizes() -> u64 {
    Entry::BYTES as u64 | (ROW_BYTES as u64) << 32
}

fn write_entry(e: &Entry) -> [u8; Entry::BYTES] {
    let mut b = [0; Entry::BYTES];
    b[0..8].copy_from_slice(&e.time_us.to_le_bytes());
    b[8..16].copy_from_slice(&e.token_hash.to_le_bytes());
    b[16..24].copy_from_slice(&e.collapse_hash.to_le_bytes());
    b[24..28].copy_from_slice(&e.connection.to_le_bytes());
    b[28..30].copy_from_slice(&e.status.to_le_bytes());
    b[30] = e.reason;
    b[31] = e.flags;
    b
}

fn read_entry(b: &[u8; Entry::BYTES]) -> Entry {
    Entry {
        time_us: word(b, 0),
        token_hash: word(b, 8),
        collapse_hash: word(b, 16),
        connection: half(b, 24),
        status: u16::from_le_bytes([b[28], b[29]]),
        reason: b[30],
        flags: b[31],
    }
}

fn write_row(r: &ConnectionRow) -> [u8; ROW_BYTES] {
    let mut b = [0; ROW_BYTES];
    b[0..4].copy_from_slice(&r.number.to_le_bytes());
    b[4..8].copy_from_slice(&r.end.to_le_bytes());
    let words = [r.opened_us, r.closed_us, r.bytes_received, r.bytes_sent, r.requests];
    for (i, word) in words.into_iter().enumerate() {
        b[8 + 8 * i..16 + 8 * i].copy_from_slice(&word.to_le_bytes());
    }
    b
}

fn read_row(b: &[u8; ROW_BYTES]) -> ConnectionRow {
    ConnectionRow {
        number: half(b, 0),
        end: half(b, 4),
        opened_us: word(b, 8),
        closed_us: word(b, 16),
        bytes_received: word(b, 24),
        bytes_sent: word(b, 32),
        requests: word(b, 40),
    }
}

fn word(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

fn half(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use clarion_proto::{ids::UnixMillis, time::Time};

    use super::*;

    const START: Now = Now { at: Time(11), wall: UnixMillis(12) };

    fn entry(time_us: u64) -> Entry {
        Entry {
            time_us,
            token_hash: u64::MAX - time_us,
            collapse_hash: 9,
            connection: 3,
            status: 410,
            reason: 26,
            flags: 3,
        }
    }

    #[test]
    fn logs_come_back_merged_by_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("record");
        let logs = [Mutex::new(Log::default()), Mutex::new(Log::default())];
        let count = CHUNK as u64 + 10;
        for i in 0..count {
            logs[usize::from(i % 3 == 0)].lock().push(entry(i));
        }
        let row = ConnectionRow {
            number: 3,
            end: 0,
            opened_us: 1,
            closed_us: 0,
            bytes_received: 7,
            bytes_sent: 8,
            requests: 9,
        };
        logs[1].lock().connection(row);
        let refs: Vec<_> = logs.iter().collect();
        assert_eq!(export(&refs, START, Platform::Fcm, &path).expect("written"), count);
        let record = Record::load(&path).expect("read");
        assert_eq!(
            record.header,
            Header {
                start_monotonic_us: 11,
                start_wall_ms: 12,
                dropped: 0,
                platform: Platform::Fcm
            }
        );
        assert_eq!(record.entries, (0..count).map(entry).collect::<Vec<_>>());
        assert_eq!(record.connections, [row]);
        assert_eq!(record.bytes_received(), 7);
    }

    #[test]
    fn what_was_taken_comes_back_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let (first, rest) = (directory.path().join("first"), directory.path().join("rest"));
        let logs = [Mutex::new(Log::default()), Mutex::new(Log::default())];
        let count = 2 * CHUNK as u64 + 10;
        for i in 0..count {
            logs[usize::from(i % 2 == 0)].lock().push(entry(i));
        }
        let refs: Vec<_> = logs.iter().collect();
        let taken =
            take(&refs, START, Platform::Apns, (u64::MAX, 1 << 40), &first).expect("written");
        assert_eq!(taken, Taken { entries: 2 * CHUNK as u64, until_us: 2 * CHUNK as u64 });
        assert_eq!(export(&refs, START, Platform::Apns, &rest).expect("written"), 10);
        let all = [first, rest].map(|path| Record::load(path).expect("read").entries).concat();
        assert_eq!(all, (0..count).map(entry).collect::<Vec<_>>());
        let empty = Mutex::new(Log::default());
        let taken = take(&[&empty], START, Platform::Apns, (5, 7), &directory.path().join("none"))
            .expect("written");
        assert_eq!(taken, Taken { entries: 0, until_us: 7 });
    }

    #[test]
    fn a_record_is_brought_into_another_clock() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("record");
        let log = Mutex::new(Log::default());
        log.lock().push(entry(1_000));
        log.lock().push(entry(2_000));
        let row = |opened_us, closed_us, end| ConnectionRow {
            number: 3,
            end,
            opened_us,
            closed_us,
            ..Default::default()
        };
        log.lock().connection(ConnectionRow { number: 2, ..row(900, 3_000, 1) });
        log.lock().connection(row(950, 0, 0));
        let start = Now { at: Time(800), wall: UnixMillis(12) };
        export(&[&log], start, Platform::Apns, &path).expect("written");
        let before = Record::load(&path).expect("read");
        shift(&path, -300).expect("written");
        let after = Record::load(&path).expect("read");
        let times = |r: &Record| r.entries.iter().map(|e| e.time_us).collect::<Vec<_>>();
        assert_eq!((after.header.start_monotonic_us, after.header.start_wall_ms), (500, 12));
        assert_eq!(times(&after), [700, 1_700]);
        assert_eq!(after.entries[0], Entry { time_us: 700, ..before.entries[0] });
        let closed =
            after.connections.iter().map(|c| (c.opened_us, c.closed_us)).collect::<Vec<_>>();
        assert_eq!(closed, [(600, 2_700), (650, 0)]);
        shift(&path, 300).expect("written");
        assert_eq!(Record::load(&path).expect("read"), before);
        fs::write(&path, b"nonsense").expect("written");
        assert!(shift(&path, 1).is_err());
    }

    #[test]
    fn a_cut_off_record_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("record");
        let log = Mutex::new(Log::default());
        log.lock().push(entry(1));
        export(&[&log], START, Platform::Apns, &path).expect("written");
        let whole = fs::read(&path).expect("read");
        fs::write(&path, &whole[..whole.len() - 1]).expect("written");
        assert!(Record::load(&path).is_err());
    }
}
