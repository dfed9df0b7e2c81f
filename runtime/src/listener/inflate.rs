//! Decompression of requests, gzip and zstd, before any service sees them.
//!
//! tonic would decompress a message without counting its bytes: 1,000 messages of 8 KiB that become
//! 8 MiB each would take 8 GiB. So the listener decompresses, in two passes:
//!
//! ```text
//! compressed message ──1st pass: counts its bytes──▶ head with the length ──the meter admits it──▶ 2nd pass: the message
//!                      keeps nothing                 flag "not compressed"
//! ```
//!
//! - The compressed bytes are charged to the budget of received messages ([`super::meter`]), and
//!   the decompressed bytes to a budget of their own, before they take memory. A stream that waits
//!   for the second holds some of the first; nobody who holds some of the second waits for the
//!   first, so nobody waits for ever.
//! - The first pass stops at the limit of a message. The head then announces one byte more than the
//!   limit, and the service refuses the message as any that is too large.
//! - A pass runs on a thread that may block, [`AT_ONCE`] at a time, in turns of peers: 8 KiB of gzip
//!   may cost 20 ms of CPU in each pass.
//! - zstd's window, which the sender chooses, is at most [`WINDOW_BYTES_LOG2`]: as large as the
//!   largest message.

use std::{
    io::{self, Read},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use tonic::Status;

use super::meter::{Budget, Meter};
use crate::{
    offload::offload,
    peers::{PeerKey, turns::Turns},
};

/// Number of passes that run at a time; one peer may have all while no other peer waits.
pub(super) const AT_ONCE: u64 = 2;
/// Largest window of a zstd frame, log2 of bytes: 8 MiB.
const WINDOW_BYTES_LOG2: u32 = 23;
/// Bytes that a pass decompresses at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes before each message: a flag and the length.
const HEAD_BYTES: usize = 5;

/// Encoding of the compressed messages of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Encoding {
    /// Takes the encoding out of a request's headers, so that the service expects messages without
    /// compression. `None`: the messages are not compressed, or in an encoding that the service
    /// refuses by name.
    pub(super) fn take(headers: &mut http::HeaderMap) -> Option<Self> {
        let encoding = match headers.get("grpc-encoding")?.as_bytes() {
            b"gzip" => Self::Gzip,
            b"zstd" => Self::Zstd,
            _ => return None,
        };
        headers.remove("grpc-encoding");
        Some(encoding)
    }

    fn reader<'a>(self, compressed: &'a [u8]) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::GzDecoder::new(compressed)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
                decoder.window_log_max(WINDOW_BYTES_LOG2)?;
                Box::new(decoder)
            }
        })
    }

    /// Counts the decompressed bytes, up to one more than `bytes_max`.
    fn measure(self, compressed: &[u8], bytes_max: usize) -> io::Result<usize> {
        let mut reader = self.reader(compressed)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut bytes = 0;
        loop {
            match reader.read(&mut chunk)? {
                0 => return Ok(bytes),
                read => bytes += read,
            }
            if bytes > bytes_max {
                return Ok(bytes_max + 1);
            }
        }
    }

    /// Decompresses a message whose length the first pass has counted.
    fn inflate(self, compressed: &[u8], bytes: usize) -> io::Result<Bytes> {
        let mut message = vec![0; bytes];
        self.reader(compressed)?.read_exact(&mut message)?;
        Ok(message.into())
    }
}

/// Decompression on one listener, shared by its streams.
#[derive(Debug, Clone)]
pub(super) struct Inflation {
    pub(super) meter: Meter,
    pub(super) bytes_max: usize,
    turns: Turns,
}

impl Inflation {
    /// `budget`: the bytes of decompressed messages.
    pub(super) fn new(budget: Budget) -> Self {
        let bytes_max = budget.message_bytes_max;
        Self { meter: Meter::new(budget), bytes_max, turns: Turns::new(AT_ONCE, AT_ONCE) }
    }
}

type Pass<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// What comes next in the stream of messages.
enum Next {
    /// The head of a message.
    Head,
    /// The rest of a message that is not compressed, bytes.
    Plain(usize),
    /// All of a compressed message, bytes.
    Compressed(usize),
    /// The result of the first pass over a compressed message.
    Measured(Pass<(Bytes, usize)>),
    /// The second pass, once the head was taken.
    Message(Bytes, usize),
    /// The result of the second pass.
    Inflated(Pass<Bytes>),
}

/// Body of a request whose compressed messages come out decompressed.
pub(super) struct Inflated<B> {
    body: B,
    encoding: Encoding,
    inflation: Inflation,
    peer: PeerKey,
    /// Bytes that were received and not taken yet.
    received: BytesMut,
    next: Next,
}

impl<B> Inflated<B> {
    pub(super) fn new(body: B, encoding: Encoding, inflation: Inflation, peer: PeerKey) -> Self {
        Self { body, encoding, inflation, peer, received: BytesMut::new(), next: Next::Head }
    }

    /// Runs a pass in the peer's turn.
    fn pass<T: Send + 'static>(
        &self,
        work: impl FnOnce(Encoding) -> io::Result<T> + Send + 'static,
    ) -> Pass<T> {
        let (turns, peer, encoding) = (self.inflation.turns.clone(), self.peer, self.encoding);
        Box::pin(async move {
            let turn = turns.enter(peer, 1).await;
            // The work keeps the turn: it runs to its end, also when nobody waits for it any more.
            let result = offload(move || {
                let _turn = turn;
                work(encoding)
            })
            .await;
            let result = result.map_err(|_| Status::unavailable("the server is shutting down"))?;
            // INTERNAL is tonic's code for a message that cannot be read.
            result.map_err(|error| {
                Status::internal(format!("the message cannot be decompressed: {error}"))
            })
        })
    }

    /// Takes a step with the bytes that were received: `Some`: output, or the next state, which may
    /// be taken at once; `None`: more bytes are needed.
    fn step(&mut self) -> Option<Option<Bytes>> {
        match self.next {
            Next::Head => {
                let head: [u8; HEAD_BYTES] = *self.received.first_chunk()?;
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                let head = self.received.split_to(HEAD_BYTES).freeze();
                if head[0] == 1 && (1..=self.inflation.bytes_max).contains(&length) {
                    self.next = Next::Compressed(length);
                    return Some(None);
                }
                self.next = if length == 0 { Next::Head } else { Next::Plain(length) };
                // A compressed message that is empty or too large is announced as it is; the
                // service takes the one and refuses the other.
                let head = if head[0] == 1 { announced(length) } else { head };
                Some(Some(head))
            }
            Next::Plain(left) if !self.received.is_empty() => {
                let taken = left.min(self.received.len());
                self.next = if taken == left { Next::Head } else { Next::Plain(left - taken) };
                Some(Some(self.received.split_to(taken).freeze()))
            }
            Next::Compressed(length) if self.received.len() >= length => {
                let compressed = self.received.split_to(length).freeze();
                let bytes_max = self.inflation.bytes_max;
                self.next = Next::Measured(self.pass(move |encoding| {
                    let bytes = encoding.measure(&compressed, bytes_max)?;
                    Ok((compressed, bytes))
                }));
                Some(None)
            }
            _ => None,
        }
    }
}

/// Head of a message that is not compressed.
fn announced(bytes: usize) -> Bytes {
    let length = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    Bytes::from([&[0][..], &length].concat())
}

impl<B> Body for Inflated<B>
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
        loop {
            match &mut this.next {
                Next::Measured(pass) => {
                    let (compressed, bytes) = match ready!(pass.as_mut().poll(context)) {
                        Ok(measured) => measured,
                        Err(status) => return Poll::Ready(Some(Err(status.into()))),
                    };
                    // A message that is too large has no second pass: the service ends the stream.
                    this.next = match bytes {
                        0 => Next::Head,
                        bytes if bytes > this.inflation.bytes_max => Next::Plain(bytes),
                        bytes => Next::Message(compressed, bytes),
                    };
                    return Poll::Ready(Some(Ok(Frame::data(announced(bytes)))));
                }
                Next::Message(compressed, bytes) => {
                    let (compressed, bytes) = (compressed.clone(), *bytes);
                    let pass = this.pass(move |encoding| encoding.inflate(&compressed, bytes));
                    this.next = Next::Inflated(pass);
                }
                Next::Inflated(pass) => {
                    let message = ready!(pass.as_mut().poll(context));
                    this.next = Next::Head;
                    return Poll::Ready(Some(message.map(Frame::data).map_err(Into::into)));
                }
                Next::Head | Next::Plain(_) | Next::Compressed(_) => match this.step() {
                    Some(Some(output)) => return Poll::Ready(Some(Ok(Frame::data(output)))),
                    Some(None) => {}
                    None => match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => this.received.extend_from_slice(&data),
                            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                        },
                        Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                        // The service is given what it must refuse: half a message.
                        None if !this.received.is_empty() => {
                            return Poll::Ready(Some(Ok(Frame::data(this.rest()))));
                        }
                        None => return Poll::Ready(None),
                    },
                },
            }
        }
    }
}

impl<B> Inflated<B> {
    /// The rest of a stream that ended inside a message.
    fn rest(&mut self) -> Bytes {
        let rest = self.received.split().freeze();
        match self.next {
            // The head of a compressed message was taken already.
            Next::Compressed(length) => [announced(length), rest].concat().into(),
            _ => rest,
        }
    }
}

#[cfg(test)]
mod tests;
