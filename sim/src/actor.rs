//! Actors: machines on the bus, told one thing after another.

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
    /// The actor's deadline has come.
    Woke,
    /// A stream was opened to this actor.
    Opened {
        /// Name of the stream.
        stream: StreamId,
        /// Actor that opened the stream.
        from: ActorId,
        /// What the stream is for.
        purpose: Purpose,
    },
    /// A stream that this actor opened is established.
    Accepted {
        /// Name of the stream.
        stream: StreamId,
    },
    /// A message came on a stream.
    Received {
        /// Name of the stream.
        stream: StreamId,
        /// The message itself.
        message: Message,
    },
    /// A stream has ended; nothing comes on it any more.
    Closed {
        /// Name of the stream.
        stream: StreamId,
        /// The network broke the stream; otherwise the peer closed it.
        broken: bool,
    },
    /// An actor of the same process says something.
    Handed {
        /// Actor that speaks.
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
        /// What the stream is for.
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
    /// Say something to an actor of the same process; messages of a pair keep their order.
    Hand {
        /// Actor that is spoken to.
        to: ActorId,
        /// The message itself.
        message: Message,
    },
}

/// A machine on the bus. Times are those of the actor's own clock.
pub trait Actor: Any {
    /// Takes one input and returns what follows from it.
    fn handle(&mut self, now: Time, input: Input) -> Vec<Output>;

    /// When the actor has something to do though nothing comes; asked after each input.
    fn deadline(&self) -> Option<Time>;
}
