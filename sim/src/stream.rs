//! Streams between actors: two ends, and messages in order in each direction.

use clarion_proto::time::Time;

/// Names an actor of the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId(pub u16);

/// Names a stream for the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Actor that opened the stream.
    pub opener: ActorId,
    /// Number that the opener gave the stream.
    pub number: u32,
}

impl StreamId {
    /// The name as one number.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        u64::from(self.opener.0) << 32 | u64::from(self.number)
    }
}

/// Purpose of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A coordinator's session with a node.
    Session,
    /// A node's feed from a coordinator.
    Feed,
    /// A lane's connection to a gateway.
    Push,
}

/// The bus's state of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    opener: ActorId,
    peer: ActorId,
    /// Last arrival of the opener's messages and of the peer's messages.
    last: [Time; 2],
    /// Whether the opener and the peer have closed the stream or got its end.
    closed: [bool; 2],
    broken: bool,
}

impl Stream {
    pub(crate) fn new(opener: ActorId, peer: ActorId) -> Self {
        Self { opener, peer, last: [Time(0); 2], closed: [false; 2], broken: false }
    }

    pub(crate) fn ends(&self) -> (ActorId, ActorId) {
        (self.opener, self.peer)
    }

    pub(crate) fn peer_of(&self, end: ActorId) -> ActorId {
        if end == self.opener { self.peer } else { self.opener }
    }

    /// Arrival of a message that would arrive at `at` without earlier messages on the stream.
    pub(crate) fn arrival(&mut self, from: ActorId, at: Time) -> Time {
        let last = &mut self.last[usize::from(from != self.opener)];
        *last = at.max(*last);
        *last
    }

    pub(crate) fn is_closed_at(&self, end: ActorId) -> bool {
        self.closed[usize::from(end != self.opener)]
    }

    /// Marks an end as closed. True: that end was closed already.
    pub(crate) fn end_closed(&mut self, end: ActorId) -> bool {
        std::mem::replace(&mut self.closed[usize::from(end != self.opener)], true)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Breaks the stream by the network. False: the stream was broken or closed before.
    pub(crate) fn break_off(&mut self) -> bool {
        !std::mem::replace(&mut self.broken, true) && self.closed != [true, true]
    }
}
