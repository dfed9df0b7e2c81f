//! Responses of more than one frame: header blocks in pieces, and bodies.

use std::{num::NonZeroU16, time::Duration};

use super::{
    error::{ConnectionError, ErrorCode},
    hpack::decode::{Decoder, HpackError},
    retry_after::RetryAfter,
    settings::HEADER_LIST_MAX,
};

/// Longest header block, bytes. The size of its list is bounded; coding makes the list shorter, not
/// longer.
const BLOCK_BYTES_MAX: usize = HEADER_LIST_MAX as usize;

/// Most frames of one block, empty ones included. A block within the bound fits one frame.
const BLOCK_FRAMES_MAX: usize = 16;

/// A header block that its HEADERS frame did not end.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// Stream of the block; 0 if there is none.
    pub(crate) stream: u32,
    pub(crate) end_stream: bool,
    pub(crate) bytes: Vec<u8>,
    frames: usize,
}

impl Block {
    /// Begins a block. Until it ends no other frame may come (RFC 9113, 4.3).
    pub(crate) fn begin(&mut self, stream: u32, end_stream: bool) {
        self.stream = stream;
        self.end_stream = end_stream;
        self.bytes.clear();
        self.frames = 0;
    }

    /// Appends the next piece of the block.
    pub(crate) fn add(&mut self, piece: &[u8]) -> Result<(), ConnectionError> {
        self.frames += 1;
        if self.bytes.len() + piece.len() > BLOCK_BYTES_MAX || self.frames > BLOCK_FRAMES_MAX {
            return Err(ConnectionError::calm("header block of too many bytes or frames"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// Content of one header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// Value of `:status`, 100 to 999, and the pause that the gateway asks for, which is not read
    /// for 200.
    Status(u16, Option<Duration>),
    /// Fields after a body, without pseudo-header fields.
    Trailers,
    /// The block is not a response (RFC 9113, 8.1.1).
    Malformed,
}

/// Decodes a complete block.
pub(crate) fn read_head(decoder: &mut Decoder, block: &[u8]) -> Result<Head, ConnectionError> {
    if block.len() > BLOCK_BYTES_MAX {
        return Err(ConnectionError::calm("header block of too many bytes or frames"));
    }
    let mut head = None;
    let mut retry_after = RetryAfter::default();
    let field = |name: &[u8], value: &[u8]| {
        head = Some(match (head, name) {
            // The first field, and the only one that begins with a colon.
            (None, b":status") => {
                status(value).map_or(Head::Malformed, |status| Head::Status(status, None))
            }
            (_, [b':', ..] | []) => Head::Malformed,
            (None, _) => Head::Trailers,
            (Some(head), _) => {
                if !matches!(head, Head::Status(200, _)) {
                    retry_after.field(name, value);
                }
                head
            }
        });
    };
    match decoder.decode(block, HEADER_LIST_MAX as usize, field) {
        Ok(()) => Ok(match head {
            Some(Head::Status(status, _)) => Head::Status(status, retry_after.wait()),
            head => head.unwrap_or(Head::Trailers),
        }),
        Err(HpackError::ListTooLarge) => {
            Err(ConnectionError::calm("header list larger than announced"))
        }
        Err(
            HpackError::Truncated
            | HpackError::Index
            | HpackError::Huffman
            | HpackError::SizeUpdate,
        ) => Err(ConnectionError::new(
            ErrorCode::COMPRESSION_ERROR,
            "header block cannot be decoded",
        )),
    }
}

fn status(value: &[u8]) -> Option<u16> {
    let digits = <&[u8; 3]>::try_from(value).ok()?;
    let valid = digits.iter().all(u8::is_ascii_digit) && digits[0] != b'0';
    valid.then(|| digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0')))
}

/// Number of every answer with status 200 whose body is incomplete. The body is skipped, so nothing
/// is stored for it. Other answers have numbers up to STREAMS_MAX (2^14), so this number is free.
pub(crate) const ACCEPTED: NonZeroU16 = NonZeroU16::MAX;

/// Number of the first stored answer.
const FIRST: NonZeroU16 = NonZeroU16::MIN;
/// Most finished answers that are kept for reuse, with capacity for their bodies.
const BEGUN_KEPT: usize = 32;

/// An answer whose status has arrived and whose end has not.
#[derive(Debug, Default)]
struct Begun {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

/// All answers that have begun and not ended. There are at most as many as open streams, and each
/// keeps `body_bytes_max`: 1 MiB for 1,000 streams of APNs, 400 KiB for 100 of FCM at worst, and
/// nothing while all are accepted.
#[derive(Debug)]
pub(crate) struct Answers {
    begun: Vec<Begun>,
    free: Vec<NonZeroU16>,
    body_bytes_max: usize,
}

impl Answers {
    pub(crate) fn new(body_bytes_max: usize) -> Self {
        Self { begun: Vec::new(), free: Vec::new(), body_bytes_max }
    }

    /// Starts an answer and returns its number; `ACCEPTED` for 200, of which nothing is stored.
    pub(crate) fn begin(&mut self, status: u16, retry_after: Option<Duration>) -> NonZeroU16 {
        if status == 200 {
            return ACCEPTED;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.begun.push(Begun::default());
            // At most STREAMS_MAX (2^14) are open.
            u16::try_from(self.begun.len())
                .ok()
                .and_then(NonZeroU16::new)
                .unwrap_or(NonZeroU16::MIN)
        });
        let begun = self.get_mut(number);
        (begun.status, begun.retry_after) = (status, retry_after);
        begun.body.clear();
        number
    }

    /// Appends a part of a body that has `body_bytes` so far. Returns `false` if the body is too
    /// long.
    pub(crate) fn add(&mut self, number: NonZeroU16, data: &[u8], body_bytes: usize) -> bool {
        let fits = body_bytes <= self.body_bytes_max;
        if fits && number != ACCEPTED {
            self.get_mut(number).body.extend_from_slice(data);
        }
        fits
    }

    /// Returns the status of an answer in progress.
    pub(crate) fn status(&mut self, number: NonZeroU16) -> u16 {
        if number == ACCEPTED { 200 } else { self.get_mut(number).status }
    }

    /// Ends an answer and returns its status, body and `retry-after`, which are valid until the
    /// next answer begins.
    pub(crate) fn end(&mut self, number: NonZeroU16) -> (u16, &[u8], Option<Duration>) {
        if number == ACCEPTED {
            return (200, &[], None);
        }
        self.free.push(number);
        if self.free.len() == self.begun.len() && self.begun.len() > BEGUN_KEPT {
            // The last answer of a storm: the memory for the others is freed.
            let last = std::mem::take(self.get_mut(number));
            (self.begun, self.free) = (vec![last], vec![FIRST]);
            let begun = &self.begun[0];
            return (begun.status, &begun.body, begun.retry_after);
        }
        let begun = self.get_mut(number);
        (begun.status, &begun.body, begun.retry_after)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn held_bytes(&self) -> usize {
        self.begun.iter().map(|b| b.body.capacity()).sum()
    }

    fn get_mut(&mut self, number: NonZeroU16) -> &mut Begun {
        &mut self.begun[usize::from(number.get()) - 1]
    }
}
