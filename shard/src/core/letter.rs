//! What one core says to another: runs of pushes to a core that has connections, what became of
//! them back.
//!
//! A lane has fewer connections than its nodes have cores. A core without one is the **guest** of
//! one that has some, its **host**. The device stays where it is: its wave, its outcome, its other
//! tries and its reports are the guest's; only the bytes of its token go to the host, and what a
//! connection says of it comes back. All that is between them is two bounded queues, which belong
//! to the driver.
//!
//! **Backpressure by credits.** A guest that has somebody to push to says so ([`Letter::Want`]);
//! the host gives it credits out of the room that its connections have, fairly beside its own
//! waves, and keeps that room free; without credits the guest's walk stands still, as it does
//! without a free stream. A guest that wants no more gives back what it did not use.
//!
//! **Bounds.** What was handed over and waits for a connection (because one closed, or its window
//! shrank) is at most [`RUN_MAX`] requests for each guest and lane: some 50 KiB with FCM's tokens.
//! There are never more letters under way than credits, tickets and waves call for, and a queue
//! that is full makes them wait in the core that wrote them.
//!
//! **A cancel reaches them.** A guest counts what it handed over as unsent until the host says that
//! a socket has taken it. When it is told to stop, it voids what the host still holds of the wave
//! ([`Letter::Void`]); the host hands that back and hurries its connections; so the guest confirms
//! only when nothing of the wave can be written any more. Each entry also carries until when it may
//! be written at all: the guest's grant, its slice, the wave's end.
//!
//! **The quota is the guest's.** A request counts against the slice of the core that decided on it,
//! from when it was handed over to its fate, as one that is encoded and waits for its socket does;
//! see `lane/slice`. Which core's connection carries it changes nothing, so slices need not move
//! when connections do.

use clarion_proto::{
    ids::{LaneId, WaveId},
    time::Time,
};

use crate::{
    lane::{connection::TemplateSpec, evidence::Witness},
    outcome::Answer,
};

/// Requests of one guest on one lane that wait for a connection at its host, and credits that it
/// has not used, together.
pub(crate) const RUN_MAX: usize = 256;

/// From one core to another of its node. Those of a pair keep their order.
#[derive(Debug)]
pub enum Letter {
    /// From a guest: credits are of use from now on.
    Want {
        /// On which lane.
        lane: LaneId,
        /// Counts them, so that credits for an earlier one are known.
        round: u32,
    },
    /// From a guest: credits are of no use any more; those that it has not used are the host's
    /// again.
    Enough {
        /// On which lane.
        lane: LaneId,
    },
    /// From a guest: requests, in their order.
    Run(Run),
    /// From a guest: nothing of this wave is to be written any more.
    Void {
        /// On which lane.
        lane: LaneId,
        /// Of the guest's.
        wave: WaveId,
    },
    /// From a guest: its template of this number will not be used again, or for another message.
    Forget {
        /// On which lane.
        lane: LaneId,
        /// Of the guest's.
        template: u32,
    },
    /// From a guest: it hands over no more, and waits for what is under way.
    Leave {
        /// On which lane.
        lane: LaneId,
    },
    /// From a host: so many more may come.
    Credit {
        /// On which lane.
        lane: LaneId,
        /// Of the [`Letter::Want`] that it answers.
        round: u32,
        /// Number of further requests that the guest may hand over.
        requests: usize,
    },
    /// From a host: what became of requests.
    Fates {
        /// On which lane.
        lane: LaneId,
        /// In the order in which it happened.
        fates: Vec<Fate>,
    },
    /// From a host: a socket has taken requests, or was lost with them.
    Written {
        /// On which lane.
        lane: LaneId,
        /// Of which wave.
        wave: WaveId,
        /// Number of requests that the socket took or lost.
        requests: u64,
        /// When the socket last took something; `None`: never.
        at: Option<Time>,
        /// It took all of it; otherwise it was lost with some of it.
        whole: bool,
    },
}

/// A run of requests to one lane.
#[derive(Debug)]
pub struct Run {
    pub(crate) lane: LaneId,
    /// Templates that the host has not met yet.
    pub(crate) templates: Vec<(u32, TemplateSpec)>,
    pub(crate) entries: Vec<Entry>,
    /// Of all entries, one behind the other. Never printed.
    pub(crate) tokens: Tokens,
}

/// Bytes that `Debug` says nothing of.
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
    /// It may not be written later.
    pub(crate) until: Time,
    pub(crate) token_bytes: u16,
}

/// What became of one request.
#[derive(Debug)]
pub struct Fate {
    /// As handed over.
    pub(crate) ticket: u64,
    /// The number of the provider token that it went out with.
    pub(crate) credential: u32,
    /// The connection that said so.
    pub(crate) by: Witness,
    pub(crate) what: Became,
}

/// See [`crate::lane::connection::ConnectionEvent`] for the first four.
#[derive(Debug)]
pub(crate) enum Became {
    Accepted,
    Answer(Answer),
    /// With the status of an answer that broke off.
    Unanswered(Option<u16>),
    Unprocessed,
    /// It was never written: the host has no connection for it, or it was voided, or its time was
    /// over.
    Returned,
    /// It can never be written: a header holds what no header may hold.
    Refused(&'static str),
}

impl Run {
    pub(crate) fn new(lane: LaneId) -> Self {
        Self { lane, templates: Vec::new(), entries: Vec::new(), tokens: Tokens::default() }
    }
}
