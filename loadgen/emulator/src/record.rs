//! The record: what the gateway did with every request, the evidence for every claim about the
//! cluster.
//!
//! There is one [`Entry`] of 32 bytes for each request, in order of decision; a million pushes are
//! 32 MB, fourteen million 448 MB. An entry is written when the request is decided and amended when
//! its response is sent (or not): a push that was accepted and never answered is the case that a
//! verdict has to distinguish from a duplicate. Each worker keeps a [`Log`] of its own in chunks
//! that never move; [`Record`] is the content of an export, merged by time, as a verdict reads it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{answer::Reason, fcm::quota::Peak};

mod file;

pub use file::{Header, Record, Taken, export, is_record, shift, take};

/// Entries of one worker: 64 Mi are 2 GiB. What comes beyond is counted as dropped, and a verdict
/// must fail on it.
const ENTRIES_MAX: u64 = 64 << 20;
/// Entries of a chunk: 2 MiB.
const CHUNK: usize = 1 << 16;
/// Closed connections remembered: 48 bytes each.
const CONNECTIONS_MAX: usize = 1 << 20;

/// Flags of an entry.
pub mod flag {
    /// The push reaches the phone.
    pub const ACCEPTED: u8 = 1;
    /// The answer was handed to the kernel, whole.
    pub const ANSWERED: u8 = 2;
    /// The stream was refused, by RST_STREAM or a GOAWAY below it: the client may send it again.
    pub const UNPROCESSED: u8 = 4;
    /// The client reset the stream before it can have read the answer, or after.
    pub const CANCELLED: u8 = 8;
    /// The connection ended within a second after the answer: the client may never have read it.
    pub const DOUBTFUL: u8 = 16;
    /// FCM: refused because its project's quota was used up, and not counted by it.
    pub const OVER_QUOTA: u8 = 32;
    /// FCM: counted by its project's quota.
    pub const COUNTED: u8 = 64;
}

/// One request as the gateway recorded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// Time of the decision, CLOCK_MONOTONIC, microseconds.
    pub time_us: u64,
    /// [`clarion_proto::device::token_hash`] of the token's bytes (FCM: its characters); 0 if there
    /// was none to be read.
    pub token_hash: u64,
    /// xxh3-64 of `apns-collapse-id` or `android.collapse_key`; 0 without one.
    pub collapse_hash: u64,
    /// Which connection, counted from 1 over the life of the gateway.
    pub connection: u32,
    /// The status decided; 0 for none (unprocessed, reset in place of an answer, or never answered
    /// by a script). Of an answer that was cut behind its head that of the head, without a reason
    /// and without [`flag::ANSWERED`].
    pub status: u16,
    /// Number of the [`Reason`].
    pub reason: u8,
    /// Flags: bits of [`flag`].
    pub flags: u8,
}

const _: () = assert!(size_of::<Entry>() == Entry::BYTES);

impl Entry {
    /// Bytes in a file and in memory.
    pub const BYTES: usize = 32;

    /// Whether the push reaches the phone.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.flags & flag::ACCEPTED != 0
    }

    /// Whether the client knows for certain that it was accepted: sending it again would then be a
    /// duplicate.
    #[must_use]
    pub fn settled(&self) -> bool {
        let all = flag::ACCEPTED | flag::ANSWERED;
        self.status == 200 && self.flags & (all | flag::CANCELLED | flag::DOUBTFUL) == all
    }

    /// The reason of the answer.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        Reason::from_number(self.reason)
    }
}

/// One connection, for bytes per push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionRow {
    /// Number of the connection, from 1.
    pub number: u32,
    /// 0 while it is open; else why it ended: a number of [`super::connection::End`].
    pub end: u32,
    /// Time of the accept, CLOCK_MONOTONIC, microseconds.
    pub opened_us: u64,
    /// Time of the end; 0 while the connection is open.
    pub closed_us: u64,
    /// Bytes read from the socket: TLS and all.
    pub bytes_received: u64,
    /// Bytes written to the socket.
    pub bytes_sent: u64,
    /// Number of complete requests.
    pub requests: u64,
}

/// Totals since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests decided: those accepted, refused and unprocessed.
    pub requests: u64,
    /// Pushes that reach a device.
    pub accepted: u64,
    /// Responses written to a socket.
    pub answered: u64,
    /// Requests refused unprocessed (REFUSED_STREAM, or above the last stream of a GOAWAY).
    pub unprocessed: u64,
    /// Streams that clients reset.
    pub cancelled: u64,
    /// Bodies that were no JSON object; answered as Apple answers them, `PayloadEmpty`.
    pub payload_not_json: u64,
    /// Connections accepted from clients.
    pub connections_opened: u64,
    /// Connections that have ended.
    pub connections_closed: u64,
    /// Connections that ended by an error in the client's HTTP/2.
    pub protocol_errors: u64,
    /// Connections that ended before the TLS handshake was complete.
    pub handshakes_failed: u64,
    /// Bytes read from sockets.
    pub bytes_received: u64,
    /// Bytes written to sockets.
    pub bytes_sent: u64,
    /// Entries beyond the record's limit.
    pub dropped: u64,
    /// Decisions by reason; `None` is 200, and what was cut behind its head.
    pub reasons: BTreeMap<&'static str, u64>,
    /// FCM: by project, the highest counts in any 60 s.
    pub quota: BTreeMap<String, Peak>,
}

impl Stats {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.accepted += other.accepted;
        self.answered += other.answered;
        self.unprocessed += other.unprocessed;
        self.cancelled += other.cancelled;
        self.payload_not_json += other.payload_not_json;
        self.connections_opened += other.connections_opened;
        self.connections_closed += other.connections_closed;
        self.protocol_errors += other.protocol_errors;
        self.handshakes_failed += other.handshakes_failed;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.dropped += other.dropped;
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        for (project, peak) in &other.quota {
            self.quota.entry(project.clone()).or_default().add(peak);
        }
    }
}

/// Names an entry for later amendments. One that was dropped, or reset since, is amended in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(u64);

/// Decisions by number of their reason.
#[derive(Debug, Clone)]
struct ByReason([u64; Reason::ALL.len()]);

impl Default for ByReason {
    fn default() -> Self {
        Self([0; Reason::ALL.len()])
    }
}

/// Record of one worker.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The number of the first entry kept: those before a reset are gone, but their handles still
    /// fly.
    base: u64,
    length: u64,
    chunks: Vec<Vec<Entry>>,
    by_reason: ByReason,
    /// Totals; those by reason are added by [`Log::stats`].
    pub totals: Stats,
    closed: Vec<ConnectionRow>,
    open: BTreeMap<u32, ConnectionRow>,
}

impl Log {
    /// Adds an entry at the end.
    pub fn push(&mut self, entry: Entry) -> Handle {
        self.totals.requests += 1;
        self.totals.accepted += u64::from(entry.accepted());
        self.totals.unprocessed += u64::from(entry.flags & flag::UNPROCESSED != 0);
        if entry.status != 0
            && let Some(count) = self.by_reason.0.get_mut(usize::from(entry.reason))
        {
            *count += 1;
        }
        if self.length == ENTRIES_MAX {
            self.totals.dropped += 1;
            return Handle(u64::MAX);
        }
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(entry),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(entry);
                self.chunks.push(chunk);
            }
        }
        self.length += 1;
        Handle(self.base + self.length - 1)
    }

    /// The answer was handed to the kernel.
    pub fn answered(&mut self, handle: Handle) {
        self.totals.answered += u64::from(handle.0 >= self.base);
        self.amend(handle, |e| e.flags |= flag::ANSWERED);
    }

    /// Sets a flag.
    pub fn mark(&mut self, handle: Handle, bit: u8) {
        self.totals.cancelled += u64::from(bit & flag::CANCELLED != 0 && handle.0 >= self.base);
        self.amend(handle, |e| e.flags |= bit);
    }

    /// Takes a decision back: the request was not processed.
    pub fn revoke(&mut self, handle: Handle) {
        let mut was = Entry::default();
        self.amend(handle, |e| {
            was = *e;
            // What the quota has counted stays counted.
            *e = Entry {
                status: 0,
                reason: 0,
                flags: flag::UNPROCESSED | (e.flags & flag::COUNTED),
                ..*e
            };
        });
        if was != Entry::default() && was.flags & flag::UNPROCESSED == 0 {
            self.totals.accepted -= u64::from(was.accepted());
            self.totals.unprocessed += 1;
            if was.status != 0 {
                self.by_reason.0[usize::from(was.reason)] -= 1;
            }
        }
    }

    /// Keeps what is known of a connection; one with an end is closed.
    pub fn connection(&mut self, row: ConnectionRow) {
        if row.end == 0 {
            self.open.insert(row.number, row);
            return;
        }
        self.open.remove(&row.number);
        if self.closed.len() < CONNECTIONS_MAX {
            self.closed.push(row);
        }
    }

    /// Drops everything but the open connections, whose counts continue.
    pub fn reset(&mut self) {
        let (base, open) = (self.base + self.length, std::mem::take(&mut self.open));
        *self = Self { base, open, ..Self::default() };
    }

    /// Hands out the full chunks without entries younger than `before_us`; they are not amended any
    /// more. A caller that takes often enough keeps the record of an endless series in bounded
    /// memory: the younger entries, and one chunk.
    pub fn take(&mut self, before_us: u64) -> Vec<Vec<Entry>> {
        let old = |chunk: &&Vec<Entry>| {
            chunk.len() == CHUNK && chunk.last().is_some_and(|e| e.time_us < before_us)
        };
        let count = self.chunks.iter().take_while(old).count();
        let taken: Vec<_> = self.chunks.drain(..count).collect();
        let entries = (count * CHUNK) as u64;
        (self.base, self.length) = (self.base + entries, self.length - entries);
        taken
    }

    /// The entries that are kept, in the order of their decisions.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten()
    }

    /// Everything decided before this is gone; none: there is nothing left.
    #[must_use]
    pub fn oldest_us(&self) -> Option<u64> {
        Some(self.chunks.first()?.first()?.time_us)
    }

    /// Totals since the record was last reset.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counts = Reason::ALL.iter().zip(self.by_reason.0).filter(|&(_, count)| count > 0);
        let reasons = counts
            .map(|(r, count)| (if *r == Reason::None { "None" } else { r.as_str() }, count))
            .collect();
        Stats { reasons, ..self.totals.clone() }
    }

    fn amend(&mut self, handle: Handle, change: impl FnOnce(&mut Entry)) {
        let Some(at) = handle.0.checked_sub(self.base).and_then(|at| usize::try_from(at).ok())
        else {
            return;
        };
        if let Some(entry) = self.chunks.get_mut(at / CHUNK).and_then(|c| c.get_mut(at % CHUNK)) {
            change(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: Entry = Entry {
        time_us: 1,
        token_hash: 2,
        collapse_hash: 3,
        connection: 4,
        status: 200,
        reason: 0,
        flags: flag::ACCEPTED,
    };

    fn entries(log: &Log) -> Vec<Entry> {
        log.entries().copied().collect()
    }

    #[test]
    fn an_entry_is_settled_when_its_client_must_know() {
        let mut log = Log::default();
        let handle = log.push(ACCEPTED);
        assert!(!entries(&log)[0].settled());
        log.answered(handle);
        assert!(entries(&log)[0].settled());
        log.mark(handle, flag::DOUBTFUL);
        assert!(!entries(&log)[0].settled() && entries(&log)[0].accepted());
    }

    #[test]
    fn a_revoked_decision_counts_no_more() {
        let mut log = Log::default();
        let (kept, revoked) = (log.push(ACCEPTED), log.push(ACCEPTED));
        log.revoke(revoked);
        log.revoke(revoked);
        log.answered(kept);
        let stats = log.stats();
        assert_eq!(
            (stats.requests, stats.accepted, stats.unprocessed, stats.answered),
            (2, 1, 1, 1)
        );
        assert_eq!(stats.reasons, BTreeMap::from([("None", 1)]));
        assert_eq!((entries(&log)[1].status, entries(&log)[1].flags), (0, flag::UNPROCESSED));
    }

    #[test]
    fn handles_from_before_a_reset_touch_nothing() {
        let mut log = Log::default();
        let old = log.push(ACCEPTED);
        log.reset();
        let new = log.push(ACCEPTED);
        log.answered(old);
        assert_eq!((entries(&log)[0].flags, log.stats().answered), (flag::ACCEPTED, 0));
        log.answered(new);
        assert!(entries(&log)[0].settled());
    }

    #[test]
    fn what_is_taken_is_old_and_whole_and_the_rest_is_amended_on() {
        let mut log = Log::default();
        let handles: Vec<_> = (0..2 * CHUNK as u64 + 3)
            .map(|time_us| log.push(Entry { time_us, ..ACCEPTED }))
            .collect();
        assert!(log.take(CHUNK as u64 - 1).is_empty(), "its last one is too young");
        let taken = log.take(CHUNK as u64);
        assert_eq!((taken.len(), taken[0].len(), log.oldest_us()), (1, CHUNK, Some(CHUNK as u64)));
        log.answered(handles[0]);
        log.answered(handles[CHUNK]);
        log.answered(handles[2 * CHUNK + 2]);
        let answered: Vec<_> =
            entries(&log).iter().filter(|e| e.settled()).map(|e| e.time_us).collect();
        assert_eq!(answered, [CHUNK as u64, 2 * CHUNK as u64 + 2]);
        assert_eq!(
            (log.take(u64::MAX).len(), entries(&log).len()),
            (1, 3),
            "a chunk that fills stays"
        );
        assert_eq!(log.stats().requests, 2 * CHUNK as u64 + 3, "totals go on");
    }

    #[test]
    fn chunks_are_addressed_across_their_edges() {
        let mut log = Log::default();
        let handles: Vec<_> = (0..CHUNK + 3).map(|_| log.push(ACCEPTED)).collect();
        log.answered(handles[CHUNK - 1]);
        log.answered(handles[CHUNK + 2]);
        let answered: Vec<_> =
            entries(&log).iter().enumerate().filter(|(_, e)| e.settled()).map(|(i, _)| i).collect();
        assert_eq!(answered, [CHUNK - 1, CHUNK + 2]);
    }
}
