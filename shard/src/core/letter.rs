//! Letters between cores: runs of pushes to a core that has connections, and their results back.
//!
//! A lane has fewer connections than its nodes have cores. A core without a connection is the
//! **guest** of a core with connections, its **host**. The device stays with the guest: its wave,
//! outcome, further attempts and reports. Only the bytes of its token go to the host, and the
//! result comes back. Host and guest share only two bounded queues, which belong to the driver.
//!
//! **Backpressure by credits.** A guest with devices to push to asks for credits
//! ([`Letter::Want`]); the host grants credits out of the room of its connections, fairly beside
//! its own waves, and keeps that room free; without credits the guest's walk waits, as it does
//! without a free stream. A guest that needs no more credits returns the unused ones.
//!
//! **Bounds.** Requests that were handed over and wait for a connection (because one closed, or its
//! window shrank) are at most [`RUN_MAX`] for each guest and lane: some 50 KiB with FCM's tokens.
//! The number of letters is bounded by credits, tickets and waves, and a full queue makes letters
//! wait in the core that wrote them.
//!
//! **A cancel reaches guests.** A guest counts handed-over requests as unsent until the host
//! reports that a socket has taken them. When it must stop, the guest voids the requests of the
//! wave that the host still holds ([`Letter::Void`]); the host returns them and flushes its
//! connections; so the guest confirms only when no request of the wave can be written any more.
//! Each entry also carries the time until which it may be written: the earliest end of the guest's
//! grant, its slice and the wave.
//!
//! **The quota belongs to the guest.** A request counts against the slice of the core that decided
//! on it, from its hand-over to its result, like a request that is encoded and waits for its
//! socket; see `lane/slice`. The core whose connection carries the request does not matter, so
//! slices need not move when connections do.

use clarion_proto::{
    ids::{LaneId, WaveId},
    time::Time,
};

use crate::{
    lane::{connection::TemplateSpec, evidence::Witness},
    outcome::Answer,
};

/// Most requests of one guest on one lane that wait for a connection at its host, together with its
/// unused credits.
pub(crate) const RUN_MAX: usize = 256;

/// A message from one core to another core of its node. Letters between two cores keep their order.
#[derive(Debug)]
pub enum Letter {
    /// From a guest: credits are useful from now on.
    Want {
        /// Lane of the request for credits.
        lane: LaneId,
        /// Number of the request for credits, which identifies the credits that answer it.
        round: u32,
    },
    /// From a guest: credits are not useful any more; its unused credits return to the host.
    Enough {
        /// Lane whose credits are returned.
        lane: LaneId,
    },
    /// From a guest: requests, in the order of sending.
    Run(Run),
    /// From a guest: no request of this wave may be written any more.
    Void {
        /// Lane of the wave's requests.
        lane: LaneId,
        /// The guest's wave.
        wave: WaveId,
    },
    /// From a guest: the template of this number will not be used again, or only for another
    /// message.
    Forget {
        /// Lane of the template.
        lane: LaneId,
        /// Number of the template at the guest.
        template: u32,
    },
    /// From a guest: no more requests follow; it waits for the open ones.
    Leave {
        /// Lane that the guest leaves.
        lane: LaneId,
    },
    /// From a host: the number of further requests that may come.
    Credit {
        /// Lane of the credits.
        lane: LaneId,
        /// Round of the [`Letter::Want`] that this letter answers.
        round: u32,
        /// Number of further requests that the guest may hand over.
        requests: usize,
    },
    /// From a host: the results of requests.
    Fates {
        /// Lane of the requests.
        lane: LaneId,
        /// Results, in the order in which they happened.
        fates: Vec<Fate>,
    },
    /// From a host: a socket has taken requests, or was lost with them.
    Written {
        /// Lane of the requests.
        lane: LaneId,
        /// Wave of the requests.
        wave: WaveId,
        /// Number of requests that the socket took or lost.
        requests: u64,
        /// Time at which the socket last took bytes; `None`: never.
        at: Option<Time>,
        /// Whether the socket took all bytes; otherwise it was lost with some of them.
        whole: bool,
    },
}

/// A run of requests to one lane.
#[derive(Debug)]
pub struct Run {
    pub(crate) lane: LaneId,
    /// Templates that the host does not have yet.
    pub(crate) templates: Vec<(u32, TemplateSpec)>,
    pub(crate) entries: Vec<Entry>,
    /// Tokens of all entries, concatenated. They are never printed.
    pub(crate) tokens: Tokens,
}

/// Bytes of tokens, which `Debug` does not print.
#[derive(Default)]
pub(crate) struct Tokens(pub(crate) Vec<u8>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of tokens", self.0.len())
    }
}

/// One request of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) ticket: u64,
    pub(crate) template: u32,
    pub(crate) wave: WaveId,
    /// Time after which the request may not be written.
    pub(crate) until: Time,
    pub(crate) token_bytes: u16,
}

/// Result of one request.
#[derive(Debug)]
pub struct Fate {
    /// Ticket of the request, as handed over.
    pub(crate) ticket: u64,
    /// Number of the provider token with which the request was sent.
    pub(crate) credential: u32,
    /// Connection on which the result came.
    pub(crate) by: Witness,
    pub(crate) what: Became,
}

/// Result of a handed-over request. The first four are those of
/// [`crate::lane::connection::ConnectionEvent`].
#[derive(Debug)]
pub(crate) enum Became {
    Accepted,
    Answer(Answer),
    /// There was no complete answer; with the status of an incomplete one.
    Unanswered(Option<u16>),
    Unprocessed,
    /// The request was never written: the host has no connection for it, or it was voided, or its
    /// time was over.
    Returned,
    /// The request can never be written: a header contains invalid bytes.
    Refused(&'static str),
}

impl Run {
    pub(crate) fn new(lane: LaneId) -> Self {
        Self { lane, templates: Vec::new(), entries: Vec::new(), tokens: Tokens::default() }
    }
}
