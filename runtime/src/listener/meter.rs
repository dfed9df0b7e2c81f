//! Budget for the bytes of messages that a listener receives or works on, shared by all its
//! streams.
//!
//! A gRPC message is buffered whole before it is decoded, and its length precedes it. The meter
//! charges this length before it admits the message; a message that exceeds the budget waits in
//! line, for [`WAIT_WITHIN`] at most. So a thousand messages that were begun and never finished
//! hold at most the budget, and not 4 MiB each.
//!
//! - The line is a ring of peers, not of messages ([`crate::peers::turns`]): whoever has begun many waits for itself, and one
//!   peer has [`Budget::peer_bytes_max`] at most.
//! - The first [`Budget::free_bytes`] of a message are not charged: small requests never wait. What they sum up to is bounded
//!   by the streams.
//! - A message that has begun must be whole within [`MESSAGE_WITHIN`], so that nobody holds a charge without working for it.
//! - A charge is held until the message has been dealt with: until the answer begins; where a method takes message after
//!   message ([`Method::Exchange`], [`Method::Upload`]), until it asks for the next.
//! - A message weighs [`COPIES`] times its length: as received, decoded, and what is made of it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep, timeout};
use tonic::{Code, Status};

use super::{
    activity::{Stage, Stream},
    retry,
};
use crate::peers::{
    PeerKey,
    shares::Places,
    turns::{Turn, Turns},
};

/// For the budget to have room for a message.
pub const WAIT_WITHIN: Duration = Duration::from_secs(10);
/// From a message's first byte to its last: 4 MiB at 140 kB/s.
pub const MESSAGE_WITHIN: Duration = Duration::from_secs(30);
/// Copies of each byte of a message: received, decoded, and the result of decoding.
pub const COPIES: usize = 3;
/// Pause after which a refused client may retry.
const RETRY: Duration = Duration::from_secs(1);

/// Use of a stream by a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One request, one answer, which is to be read in time.
    Answer,
    /// One request, then events without an end.
    Events,
    /// Messages both ways, one dealt with after the other.
    Exchange,
    /// Messages, one dealt with after the other, and one answer after the last. The method limits
    /// its time itself: [`super::Limits::request_deadline`] does not apply.
    Upload,
}

/// The bounds of a listener's messages.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Highest sum of charges at a time, bytes.
    pub bytes: usize,
    /// Highest charge of one peer, bytes; a larger message counts as all of it.
    pub peer_bytes_max: usize,
    /// Bytes of each message that are not charged.
    pub free_bytes: usize,
    /// Streams that may have a message of up to `free_bytes` at a time; used only for the
    /// arithmetic.
    pub streams_max: usize,
    /// Streams that may wait for room; one peer may use half of them. One more is refused at once.
    pub waiting_max: usize,
    /// Longest message of any method, bytes: a longer one is not charged, because the method
    /// refuses it by its length.
    pub message_bytes_max: usize,
}

impl Budget {
    /// Memory of the worst case, bytes.
    #[must_use]
    pub const fn bytes_max(&self) -> usize {
        self.bytes + self.streams_max * self.free_bytes
    }

    /// What a message is charged; 0: it is let in as it is.
    fn weight(&self, length: usize) -> u64 {
        if length <= self.free_bytes || length > self.message_bytes_max {
            return 0;
        }
        (length * COPIES) as u64
    }
}

/// Budget of one listener, shared by its streams.
#[derive(Debug, Clone)]
pub struct Meter {
    budget: Arc<Budget>,
    bytes: Turns,
    waiting: Places,
}

impl Meter {
    /// A meter without charges.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        let bytes = Turns::new(budget.bytes as u64, budget.peer_bytes_max as u64);
        let waiting = Places::new(budget.waiting_max);
        Self { budget: Arc::new(budget), bytes, waiting }
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Turn, Status>> + Send>>;

/// Body of a request, admitted message by message.
pub(super) struct Metered<B> {
    body: B,
    meter: Meter,
    peer: PeerKey,
    stream: Arc<Stream>,
    stage: Stage,
    exchange: bool,
    messages: Messages,
    /// Frame that waits for room in the budget.
    held: Option<(Waiting, Bytes)>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Metered<B> {
    pub(super) fn new(
        body: B,
        method: Method,
        meter: Meter,
        peer: PeerKey,
        (stream, stage): (Arc<Stream>, Stage),
    ) -> Self {
        let exchange = matches!(method, Method::Exchange | Method::Upload);
        Self {
            body,
            meter,
            peer,
            stream,
            stage,
            exchange,
            messages: Messages::default(),
            held: None,
            deadline: None,
        }
    }

    /// A frame in; what the message that it begins must be charged.
    fn take(&mut self, data: &[u8]) -> u64 {
        let begun = self.messages.take(data);
        if self.messages.is_whole() {
            self.stream.works();
            self.deadline = None;
        } else if begun.is_some() || self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep(MESSAGE_WITHIN)));
        }
        begun.map_or(0, |length| self.meter.budget.weight(length))
    }

    fn wait_for(&self, weight: u64) -> Result<Waiting, Status> {
        let busy = || {
            let bytes = self.meter.budget.bytes;
            let words = format!("{bytes} bytes of messages are being received");
            let metadata = [("bytes".to_owned(), bytes.to_string())];
            retry::again(Code::ResourceExhausted, "MESSAGES_BUSY", words, metadata, RETRY)
        };
        let place = self.meter.waiting.enter(self.peer).map_err(|_| busy())?;
        let (bytes, peer, refused) = (self.meter.bytes.clone(), self.peer, busy());
        Ok(Box::pin(async move {
            let _place = place;
            timeout(WAIT_WITHIN, bytes.enter(peer, weight)).await.map_err(|_| refused)
        }))
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Some((waiting, data)) = &mut this.held {
            let turn = ready!(waiting.as_mut().poll(context));
            let data = std::mem::take(data);
            this.held = None;
            return Poll::Ready(Some(turn.map_err(Into::into).map(|turn| {
                this.stream.charge(this.stage, turn);
                Frame::data(data)
            })));
        }
        if this.exchange && this.messages.is_whole() {
            // It asks for the next: the one before has been dealt with.
            this.stream.release(this.stage);
        }
        let frame = match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(other) => return Poll::Ready(other.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                let late = this
                    .deadline
                    .as_mut()
                    .is_some_and(|deadline| deadline.as_mut().poll(context).is_ready());
                let words =
                    || format!("a message was not whole within {} s", MESSAGE_WITHIN.as_secs());
                return if late {
                    Poll::Ready(Some(Err(Status::deadline_exceeded(words()).into())))
                } else {
                    Poll::Pending
                };
            }
        };
        let Some(data) = frame.data_ref() else { return Poll::Ready(Some(Ok(frame))) };
        let weight = this.take(data);
        if weight == 0 {
            return Poll::Ready(Some(Ok(frame)));
        }
        // An earlier message of the same frame was whole: it is small, and no reason to wait for itself.
        this.stream.release(this.stage);
        if let Some(turn) = this.meter.bytes.try_enter(this.peer, weight) {
            this.stream.charge(this.stage, turn);
            return Poll::Ready(Some(Ok(frame)));
        }
        match this.wait_for(weight) {
            Ok(waiting) => {
                let data = frame.into_data().unwrap_or_default();
                this.held = Some((waiting, data));
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Err(busy) => Poll::Ready(Some(Err(busy.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Finds the boundaries of messages in a stream: five bytes precede each, a flag and the length.
#[derive(Debug, Default)]
struct Messages {
    head: [u8; 5],
    head_bytes: usize,
    left: usize,
}

impl Messages {
    fn is_whole(&self) -> bool {
        self.head_bytes == 0 && self.left == 0
    }

    /// Processes a frame; returns the length of the last message that begins in it.
    fn take(&mut self, mut data: &[u8]) -> Option<usize> {
        let mut begun = None;
        while !data.is_empty() {
            if self.left > 0 {
                let (message, rest) = data.split_at(self.left.min(data.len()));
                self.left -= message.len();
                data = rest;
                continue;
            }
            self.head[self.head_bytes] = data[0];
            (self.head_bytes, data) = (self.head_bytes + 1, &data[1..]);
            if self.head_bytes == self.head.len() {
                self.head_bytes = 0;
                self.left =
                    u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]])
                        as usize;
                begun = Some(self.left);
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests;
