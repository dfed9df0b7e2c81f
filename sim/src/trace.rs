//! The trace: every delivery of a run, for comparison and printing.

use std::fmt;

use clarion_proto::time::Time;

use crate::{actor::Input, message::Message, stream::ActorId};

/// One delivery of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Time of the delivery, on the bus's clock.
    pub at: Time,
    /// Actor that sent the message; for a wake, the woken actor itself.
    pub from: ActorId,
    /// Actor that got the delivery.
    pub to: ActorId,
    /// Kind of the delivery, such as `request` or `closed`.
    pub kind: &'static str,
    /// Kind of the message within, if there is one.
    pub detail: String,
    /// Digest of the content; 0 without one.
    pub digest: u64,
    /// Whether the stream was closed, so that the actor did not get the delivery.
    pub lost: bool,
}

impl Entry {
    pub(crate) fn of(at: Time, from: ActorId, to: ActorId, input: &Input) -> Self {
        let of = |kind| (kind, String::new(), 0);
        let said = |message: &Message| (message.kind(), message.detail(), message.digest());
        let (kind, detail, digest) = match input {
            Input::Started => of("started"),
            Input::Woke => of("woke"),
            Input::Opened { stream, .. } => ("opened", String::new(), stream.as_u64()),
            Input::Accepted { stream } => ("accepted", String::new(), stream.as_u64()),
            Input::Closed { stream, broken: false } => ("closed", String::new(), stream.as_u64()),
            Input::Closed { stream, broken: true } => ("broken", String::new(), stream.as_u64()),
            Input::Received { message, .. } | Input::Handed { message, .. } => said(message),
        };
        Self { at, from, to, kind, detail, digest, lost: false }
    }

    pub(crate) fn lost(at: Time, from: ActorId, to: ActorId, input: &Input) -> Self {
        Self { lost: true, ..Self::of(at, from, to, input) }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, from, to, kind, detail, digest, lost } = self;
        let lost = if *lost { " lost" } else { "" };
        write!(f, "{:>12} {:>2} > {:<2} {kind} {detail} {digest:016x}{lost}", at.0, from.0, to.0)
    }
}

/// All deliveries of a run, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    entries: Vec<Entry>,
}

impl Trace {
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// All deliveries in the order of their times.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A digest of the printed trace.
    #[must_use]
    pub fn digest(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.to_string().as_bytes())
    }

    /// The first delivery in which two traces differ: its number, and the line of each trace.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        let line = |trace: &Self, n: usize| {
            trace.entries.get(n).map_or("(end of the trace)".to_owned(), ToString::to_string)
        };
        let length = self.entries.len().max(other.entries.len());
        let n = (0..length).find(|n| self.entries.get(*n) != other.entries.get(*n))?;
        Some(format!("delivery {n}:\n  {}\n  {}", line(self, n), line(other, n)))
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}
