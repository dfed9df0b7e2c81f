//! Actors: state machines on the bus that process one input after another.

use std::any::Any;

use clarion_proto::time::Time;

use crate::{
    message::Message,
    stream::{ActorId, Purpose, StreamId},
};

/// One input of an actor.
#[derive(Debug)]
pub enum Input {
    /// The run begins; always the first input.
    Started,
    /// The actor's deadline has passed.
    Woke,
    /// A stream was opened to this actor.
    Opened {
        /// Name of the stream.
        stream: StreamId,
        /// Actor that opened the stream.
        from: ActorId,
        /// Purpose of the stream.
        purpose: Purpose,
    },
    /// A stream that this actor opened is established.
    Accepted {
        /// Name of the stream.
        stream: StreamId,
    },
    /// A message arrived on a stream.
    Received {
        /// Name of the stream.
        stream: StreamId,
        /// The message itself.
        message: Message,
    },
    /// A stream has ended; no further message arrives on it.
    Closed {
        /// Name of the stream.
        stream: StreamId,
        /// Whether the network broke the stream; otherwise the peer closed it.
        broken: bool,
    },
    /// A message from an actor of the same process.
    Handed {
        /// Actor that sent the message.
        from: ActorId,
        /// The message itself.
        message: Message,
    },
}

/// One output of an actor.
#[derive(Debug)]
pub enum Output {
    /// Open a stream.
    Open {
        /// Name of the stream, which must be new.
        stream: StreamId,
        /// Actor to be reached.
        to: ActorId,
        /// Purpose of the stream.
        purpose: Purpose,
    },
    /// Send a message on a stream; messages of one end keep their order.
    Send {
        /// Name of the stream.
        stream: StreamId,
        /// The message itself.
        message: Message,
    },
    /// Close a stream after everything that was sent on it.
    Close {
        /// Name of the stream.
        stream: StreamId,
    },
    /// Send a message to an actor of the same process; messages of a pair keep their order.
    Hand {
        /// Actor that gets the message.
        to: ActorId,
        /// The message itself.
        message: Message,
    },
}

/// A state machine on the bus. All times are on the actor's own clock.
pub trait Actor: Any {
    /// Processes one input and returns the outputs.
    fn handle(&mut self, now: Time, input: Input) -> Vec<Output>;

    /// Time at which the actor has work without an input; read after each input.
    fn deadline(&self) -> Option<Time>;
}
