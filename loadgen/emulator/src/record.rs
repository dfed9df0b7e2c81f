//! The record of every request and its answer: the evidence for every claim about the cluster.
//!
//! There is one [`Entry`] of 32 bytes for each request, in order of decision; a million pushes are
//! 32 MB, fourteen million 448 MB. An entry is written when the request is decided, and amended
//! when its response is sent (or not). A verdict must distinguish a push that was accepted but
//! never answered from a duplicate. Each worker keeps a [`Log`] of its own in chunks that never
//! move. [`Record`] is the content of an export, merged by time, as a verdict reads it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{answer::Reason, fcm::quota::Peak};

mod file;

pub use file::{Header, Record, Taken, export, is_record, shift, take};

/// Most entries of one worker: 64 Mi are 2 GiB. Further entries are counted as dropped, and a
/// verdict must fail then.
const ENTRIES_MAX: u64 = 64 << 20;
/// Number of entries in a chunk of 2 MiB.
const CHUNK: usize = 1 << 16;
/// Most closed connections in the record, 48 bytes each.
const CONNECTIONS_MAX: usize = 1 << 20;

/// Flags of a record entry.
pub mod flag {
    /// The push reaches the phone.
    pub const ACCEPTED: u8 = 1;
    /// The complete answer was handed to the kernel.
    pub const ANSWERED: u8 = 2;
    /// The stream was refused by RST_STREAM or by a GOAWAY with a lower id, so the client may send
    /// the push again.
    pub const UNPROCESSED: u8 = 4;
    /// The client reset the stream. It may or may not have read the answer.
    pub const CANCELLED: u8 = 8;
    /// The connection ended within one second after the answer, so the client may not have read it.
    pub const DOUBTFUL: u8 = 16;
    /// FCM: the quota of the project refused the request and did not count it.
    pub const OVER_QUOTA: u8 = 32;
    /// FCM: the quota of the project counted the request.
    pub const COUNTED: u8 = 64;
}

/// One request as the gateway recorded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// Time of the decision, CLOCK_MONOTONIC, microseconds.
    pub time_us: u64,
    /// [`clarion_proto::device::token_hash`] of the token's bytes (FCM: of its characters); 0 if no
    /// token could be read.
    pub token_hash: u64,
    /// xxh3-64 of `apns-collapse-id` or `android.collapse_key`; 0 without one.
    pub collapse_hash: u64,
    /// Number of the connection, from 1 over the life of the gateway.
    pub connection: u32,
    /// Status of the decided answer. 0 means no status: unprocessed, reset in place of an answer,
    /// or never answered because of a script. An answer that was cut after its head has the status
    /// of the head, but no reason and no [`flag::ANSWERED`].
    pub status: u16,
    /// Number of the answer's [`Reason`].
    pub reason: u8,
    /// Flags: bits of [`flag`].
    pub flags: u8,
}

const _: () = assert!(size_of::<Entry>() == Entry::BYTES);

impl Entry {
    /// Size of an entry in a file and in memory, bytes.
    pub const BYTES: usize = 32;

    /// Reports whether the push reaches the phone.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.flags & flag::ACCEPTED != 0
    }

    /// Reports whether the client knows that the push was accepted, so that sending it again is a
    /// duplicate.
    #[must_use]
    pub fn settled(&self) -> bool {
        let all = flag::ACCEPTED | flag::ANSWERED;
        self.status == 200 && self.flags & (all | flag::CANCELLED | flag::DOUBTFUL) == all
    }

    /// Returns the reason of the answer; `None` if its number is unknown.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        Reason::from_number(self.reason)
    }
}

/// Record of one connection, for the bytes per push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionRow {
    /// Number of the connection, from 1.
    pub number: u32,
    /// Number of the [`super::connection::End`]; 0 while the connection is open.
    pub end: u32,
    /// Time of the accept, CLOCK_MONOTONIC, microseconds.
    pub opened_us: u64,
    /// Time of the end; 0 while the connection is open.
    pub closed_us: u64,
    /// Bytes read from the socket, including TLS.
    pub bytes_received: u64,
    /// Bytes written to the socket, including TLS.
    pub bytes_sent: u64,
    /// Number of complete requests.
    pub requests: u64,
}

/// Totals since the start or the last reset of the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests decided: accepted, refused and unprocessed.
    pub requests: u64,
    /// Pushes that reach a device.
    pub accepted: u64,
    /// Responses written to a socket.
    pub answered: u64,
    /// Requests refused as unprocessed (REFUSED_STREAM, or above the last stream of a GOAWAY).
    pub unprocessed: u64,
    /// Streams that clients reset.
    pub cancelled: u64,
    /// Bodies that were not JSON objects; the gateway answers `PayloadEmpty`, as APNs does.
    pub payload_not_json: u64,
    /// Connections accepted from clients.
    pub connections_opened: u64,
    /// Connections that have ended.
    pub connections_closed: u64,
    /// Connections that ended because of an HTTP/2 error of the client.
    pub protocol_errors: u64,
    /// Connections that ended before the TLS handshake was complete.
    pub handshakes_failed: u64,
    /// Bytes read from sockets.
    pub bytes_received: u64,
    /// Bytes written to sockets.
    pub bytes_sent: u64,
    /// Entries that were dropped because the record was full.
    pub dropped: u64,
    /// Decisions by reason. `None` counts status 200 and answers that were cut after their head.
    pub reasons: BTreeMap<&'static str, u64>,
    /// FCM: highest counts in any 60 s, by project.
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

/// Handle of an entry for later changes. A change of an entry that was dropped or reset has no
/// effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(u64);

/// Number of decisions by number of the reason.
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
    /// Number of the first entry that is kept. Handles of earlier entries may still exist.
    base: u64,
    length: u64,
    chunks: Vec<Vec<Entry>>,
    by_reason: ByReason,
    /// Totals so far, except those by reason, which [`Log::stats`] adds.
    pub totals: Stats,
    closed: Vec<ConnectionRow>,
    open: BTreeMap<u32, ConnectionRow>,
}

impl Log {
    /// Appends an entry.
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

    /// Records that the answer was handed to the kernel.
    pub fn answered(&mut self, handle: Handle) {
        self.totals.answered += u64::from(handle.0 >= self.base);
        self.amend(handle, |e| e.flags |= flag::ANSWERED);
    }

    /// Sets a flag of an entry.
    pub fn mark(&mut self, handle: Handle, bit: u8) {
        self.totals.cancelled += u64::from(bit & flag::CANCELLED != 0 && handle.0 >= self.base);
        self.amend(handle, |e| e.flags |= bit);
    }

    /// Revokes a decision: the request was not processed.
    pub fn revoke(&mut self, handle: Handle) {
        let mut was = Entry::default();
        self.amend(handle, |e| {
            was = *e;
            // The quota keeps the request in its count.
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

    /// Stores the row of a connection. A row with an end is that of a closed connection.
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

    /// Clears everything except the open connections, whose counts continue.
    pub fn reset(&mut self) {
        let (base, open) = (self.base + self.length, std::mem::take(&mut self.open));
        *self = Self { base, open, ..Self::default() };
    }

    /// Removes and returns the full chunks without entries younger than `before_us`. Their entries
    /// can no longer change. A caller that takes chunks often enough keeps the record of an endless
    /// series in bounded memory: the younger entries, and one chunk.
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

    /// Returns the entries in the order of their decisions.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten()
    }

    /// Returns the time before which no entry is left, microseconds; `None` if the log is empty.
    #[must_use]
    pub fn oldest_us(&self) -> Option<u64> {
        Some(self.chunks.first()?.first()?.time_us)
    }

    /// Returns the totals since the last reset.
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
