//! The reading of responses and all other frames of the peer.
//!
//! Nearly every frame is an answer `:status 200` in one HEADERS frame that ends its stream, or,
//! with FCM, a DATA frame behind it with a body that is skipped. The block begins with 0x88, entry
//! 8 of the static table. Once the peer has acknowledged our header table of size 0, and a block
//! written after that has been read, no block can change how another one is decoded: from then on
//! such blocks are not decoded beyond that byte. Every other frame takes the slow path.

use super::{
    Connection, ConnectionError, ErrorCode,
    answers::{ACCEPTED, Block, Head, read_head},
    flow::StreamError,
    frames::{self, Frame, PAYLOAD_BYTES_MAX, flag, kind},
    hpack::decode::Decoder,
    patience::Patience,
    settings::{self, Setting},
};
use crate::outcome::Platform;

/// Entry 8 of the static table: `:status 200`.
const STATUS_200: u8 = 0x88;

/// Most acknowledgements that are written and not fetched. A peer that causes more sends faster
/// than it reads.
const ACKNOWLEDGEMENTS_MAX: usize = 1_000;

/// State of the reader.
pub(super) struct Reader {
    /// Beginning of an incomplete frame: at most one frame.
    partial: Vec<u8>,
    decoder: Decoder,
    block: Block,
    /// Whether the peer's first SETTINGS have arrived, which must precede everything else (RFC
    /// 9113, 3.4).
    greeted: bool,
    /// Whether answers `:status 200` need not be decoded.
    fast: bool,
    /// Whether [`Self::fast`] stays false, for tests that compare both ways.
    never_fast: bool,
    patience: Patience,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            partial: Vec::new(),
            decoder: Decoder::new(),
            block: Block::default(),
            greeted: false,
            fast: false,
            never_fast: false,
            patience: Patience::default(),
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn never_fast(&mut self) {
        self.never_fast = true;
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn held_bytes(&self) -> usize {
        self.partial.capacity() + self.block.bytes.capacity()
    }
}

impl Connection {
    /// Reads all complete frames and keeps the rest.
    pub(super) fn read(&mut self, mut input: &[u8]) -> Result<(), ConnectionError> {
        if !self.reader.partial.is_empty() {
            let mut partial = std::mem::take(&mut self.reader.partial);
            let whole = complete(&mut partial, &mut input)?;
            if whole {
                self.frame(&frames::parse(&partial))?;
                partial.clear();
            }
            self.reader.partial = partial;
            if !whole {
                return Ok(());
            }
        }
        while !self.is_closed() {
            match frames::frame_len(input)?.and_then(|length| input.split_at_checked(length)) {
                Some((frame, rest)) => {
                    self.frame(&frames::parse(frame))?;
                    input = rest;
                }
                None => {
                    self.reader.partial.extend_from_slice(input);
                    break;
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        const WHOLE: u8 = flag::END_STREAM | flag::END_HEADERS;
        if self.reader.fast
            && frame.kind == kind::HEADERS
            && (frame.flags == WHOLE
                || frame.flags == flag::END_HEADERS && self.config.platform == Platform::Fcm)
            && frame.payload.first() == Some(&STATUS_200)
            && self.reader.block.stream == 0
        {
            // Any other stream than an open request without a status takes the slow path too.
            if let Some(slot) = self.streams.get_mut(frame.stream).filter(|s| s.answer.is_none()) {
                if !frame.has(flag::END_STREAM) {
                    slot.answer = Some(ACCEPTED);
                    return Ok(());
                }
                let slot = *slot;
                self.streams.remove(slot.id);
                self.answered(&slot, 200);
                return Ok(());
            }
        }
        self.any_frame(frame)
    }

    fn any_frame(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        if self.reader.block.stream != 0
            && (frame.kind != kind::CONTINUATION || frame.stream != self.reader.block.stream)
        {
            return Err(ConnectionError::protocol("a header block was interrupted"));
        }
        if !self.reader.greeted && (frame.kind != kind::SETTINGS || frame.has(flag::ACK)) {
            return Err(ConnectionError::protocol("something came before SETTINGS"));
        }
        if !matches!(
            frame.kind,
            kind::DATA | kind::HEADERS | kind::CONTINUATION | kind::WINDOW_UPDATE
        ) {
            self.charge_idle_frame()?;
        }
        match frame.kind {
            kind::DATA => self.data(frame),
            kind::HEADERS => self.headers(frame),
            kind::PRIORITY => {
                // PRIORITY has no meaning since RFC 9113, but its form is still checked (6.3).
                self.on_stream(frame)?;
                length(frame, 5, "PRIORITY of other than 5 bytes")
            }
            kind::RST_STREAM => self.reset(frame),
            kind::SETTINGS => self.settings(frame),
            kind::PUSH_PROMISE => {
                Err(ConnectionError::protocol("PUSH_PROMISE, which SETTINGS forbid"))
            }
            kind::PING => self.ping(frame),
            kind::GOAWAY => self.goaway(frame),
            kind::WINDOW_UPDATE => self.window_update(frame),
            kind::CONTINUATION => self.continuation(frame),
            // Unknown frames must be ignored (RFC 9113, 5.5).
            _ => Ok(()),
        }
    }

    fn headers(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        self.on_used_stream(frame)?;
        let mut fragment = frame.unpadded()?;
        if frame.has(flag::PRIORITY) {
            fragment = fragment
                .get(5..)
                .ok_or(ConnectionError::frame_size("HEADERS too short for its priority"))?;
        }
        let end_stream = frame.has(flag::END_STREAM);
        if frame.has(flag::END_HEADERS) {
            return self.header_block(frame.stream, end_stream, fragment);
        }
        self.reader.block.begin(frame.stream, end_stream);
        self.reader.block.add(fragment)
    }

    fn continuation(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        if self.reader.block.stream == 0 {
            return Err(ConnectionError::protocol("CONTINUATION without a header block"));
        }
        self.reader.block.add(frame.payload)?;
        if frame.has(flag::END_HEADERS) {
            let bytes = std::mem::take(&mut self.reader.block.bytes);
            let end_stream = self.reader.block.end_stream;
            self.reader.block.stream = 0;
            self.header_block(frame.stream, end_stream, &bytes)?;
            self.reader.block.bytes = bytes;
        }
        Ok(())
    }

    /// Handles a complete block. It is decoded even for a closed stream, as long as it may change
    /// the table.
    fn header_block(
        &mut self,
        id: u32,
        end_stream: bool,
        block: &[u8],
    ) -> Result<(), ConnectionError> {
        let head = read_head(&mut self.reader.decoder, block)?;
        self.reader.fast = self.reader.decoder.is_stateless() && !self.reader.never_fast;
        let Some(slot) = self.streams.get_mut(id) else { return self.charge_idle_frame() };
        match (head, slot.answer, end_stream) {
            // 1xx: the final answer follows.
            (Head::Status(100..=199, _), None, false) => self.charge_idle_frame()?,
            (Head::Status(status @ 200.., retry_after), None, end_stream) => {
                slot.answer = Some(self.answers.begin(status, retry_after));
                if end_stream {
                    self.end_answer(id);
                }
            }
            (Head::Trailers, Some(_), true) => self.end_answer(id),
            // No status, a second one, or fields in the middle of a body (RFC 9113, 8.1).
            _ => self.malformed(id),
        }
        Ok(())
    }

    fn data(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        self.on_used_stream(frame)?;
        let data = frame.unpadded()?;
        // Frames on closed streams count too (RFC 9113, 6.9).
        self.credit.consume(frame.payload.len())?;
        let Some(slot) = self.streams.get_mut(frame.stream) else {
            return self.charge_idle_frame();
        };
        let Some(answer) = slot.answer else {
            self.malformed(frame.stream);
            return Ok(());
        };
        slot.body_bytes =
            slot.body_bytes.saturating_add(u16::try_from(data.len()).unwrap_or(u16::MAX));
        let body_bytes = usize::from(slot.body_bytes);
        if data.is_empty() && !frame.has(flag::END_STREAM) {
            self.charge_idle_frame()?;
        }
        if !self.answers.add(answer, data, body_bytes) {
            // A longer body is not a gateway's reason: only its status counts, and the peer need
            // not send the rest.
            if self.windows.forget(frame.stream) || !frame.has(flag::END_STREAM) {
                frames::put_reset(&mut self.out, frame.stream, ErrorCode::CANCEL);
            }
            self.end_answer(frame.stream);
        } else if frame.has(flag::END_STREAM) {
            self.end_answer(frame.stream);
        }
        Ok(())
    }

    fn reset(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        self.on_used_stream(frame)?;
        length(frame, 4, "RST_STREAM of other than 4 bytes")?;
        let code = ErrorCode(number(frame.payload, 0));
        // After a complete answer (nginx does that) the stream no longer exists.
        if let Some(slot) = self.streams.remove(frame.stream) {
            if code == ErrorCode::REFUSED_STREAM {
                self.unprocessed(&slot);
            } else {
                self.unanswered(&slot);
            }
            self.settle();
        }
        Ok(())
    }

    fn settings(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        on_connection(frame)?;
        if frame.has(flag::ACK) {
            length(frame, 0, "SETTINGS acknowledgement with a payload")?;
            // We send one SETTINGS frame, so this acknowledges that one.
            self.reader.decoder.acknowledged(0);
            return Ok(());
        }
        if !frame.payload.len().is_multiple_of(6) {
            return Err(ConnectionError::frame_size(
                "SETTINGS of a length that is not a multiple of 6",
            ));
        }
        if !self.reader.greeted {
            self.reader.greeted = true;
            // No limit, unless the frame names one (RFC 9113, 6.5.2).
            self.peer.streams_max = usize::MAX;
        }
        // The acknowledgement is written first, before a body that continues because of a larger
        // window.
        self.acknowledge(kind::SETTINGS, &[])?;
        for setting in settings::parse(frame.payload) {
            let bytes = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
            match setting? {
                Setting::HeaderTableSize(size) => {
                    self.peer.header_table_bytes = bytes(size);
                    if self.encoder.size_max() != bytes(size).min(super::hpack::TABLE_SIZE_DEFAULT)
                    {
                        self.encoder.restart(bytes(size));
                    }
                }
                Setting::MaxConcurrentStreams(streams) => self.peer.streams_max = bytes(streams),
                Setting::InitialWindowSize(size) => {
                    self.windows.set_initial(&mut self.out, size)?;
                }
                Setting::MaxHeaderListSize(size) => self.peer.header_list_bytes_max = bytes(size),
            }
        }
        Ok(())
    }

    fn ping(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        on_connection(frame)?;
        length(frame, 8, "PING of other than 8 bytes")?;
        if frame.has(flag::ACK) {
            // Any frame shows that the peer is alive, which is all that our PING asks.
            return Ok(());
        }
        self.acknowledge(kind::PING, frame.payload)
    }

    fn goaway(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        on_connection(frame)?;
        if frame.payload.len() < 8 {
            return Err(ConnectionError::frame_size("GOAWAY of less than 8 bytes"));
        }
        let last_id = number(frame.payload, 0) & frames::STREAM_ID_MAX;
        self.gone_away(last_id, ErrorCode(number(frame.payload, 4)), &frame.payload[8..]);
        Ok(())
    }

    fn window_update(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        length(frame, 4, "WINDOW_UPDATE of other than 4 bytes")?;
        let credit = number(frame.payload, 0) & frames::STREAM_ID_MAX;
        let goes_on = if frame.stream == 0 {
            self.windows.credit(&mut self.out, credit)?
        } else {
            self.on_used_stream(frame)?;
            let open = self.streams.get_mut(frame.stream).is_some();
            let of_stream =
                open.then(|| self.windows.credit_stream(&mut self.out, frame.stream, credit));
            of_stream.unwrap_or(Ok(false)).unwrap_or_else(|StreamError| {
                self.malformed(frame.stream);
                true
            })
        };
        // Credit for which a body waits brings it nearer to its end, however little it is.
        if goes_on { Ok(()) } else { self.charge_idle_frame() }
    }

    /// Handles the end of an answer of an open stream.
    fn end_answer(&mut self, id: u32) {
        if let Some(slot) = self.streams.remove(id)
            && let Some(answer) = slot.answer
        {
            let status = self.answers.status(answer);
            self.answered(&slot, status);
        }
    }

    /// Ends a stream whose rules the peer violated. Its answer, if any, does not count.
    fn malformed(&mut self, id: u32) {
        if let Some(mut slot) = self.streams.remove(id) {
            frames::put_reset(&mut self.out, id, ErrorCode::PROTOCOL_ERROR);
            if let Some(answer) = slot.answer.take() {
                self.answers.end(answer);
            }
            self.unanswered(&slot);
            self.settle();
        }
    }

    fn acknowledge(&mut self, kind: u8, payload: &[u8]) -> Result<(), ConnectionError> {
        self.acknowledgements += 1;
        if self.acknowledgements > ACKNOWLEDGEMENTS_MAX {
            return Err(ConnectionError::calm(
                "PING and SETTINGS faster than their answers are read",
            ));
        }
        frames::put(&mut self.out, kind, flag::ACK, 0, payload);
        Ok(())
    }

    /// Charges a frame that brings no request nearer to its end.
    fn charge_idle_frame(&mut self) -> Result<(), ConnectionError> {
        self.reader.patience.spend(self.now, self.streams.next_id())
    }

    fn on_stream(&self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        if frame.stream == 0 {
            return Err(ConnectionError::protocol("a stream's frame on the connection"));
        }
        Ok(())
    }

    /// Checks that the frame names a stream that we have opened (RFC 9113, 5.1: others are idle).
    fn on_used_stream(&self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        self.on_stream(frame)?;
        if frame.stream.is_multiple_of(2) || self.streams.is_idle(frame.stream) {
            return Err(ConnectionError::protocol("a frame on a stream that was never opened"));
        }
        Ok(())
    }
}

/// Completes `partial` with the rest of its frame. Returns `false` if the frame is still
/// incomplete.
fn complete(partial: &mut Vec<u8>, input: &mut &[u8]) -> Result<bool, ConnectionError> {
    let mut fill = |partial: &mut Vec<u8>, length: usize| {
        let (piece, rest) = input.split_at(length.saturating_sub(partial.len()).min(input.len()));
        partial.extend_from_slice(piece);
        *input = rest;
    };
    fill(partial, frames::HEADER_BYTES);
    let Some(length) = frames::frame_len(partial)? else { return Ok(false) };
    debug_assert!(length <= frames::HEADER_BYTES + PAYLOAD_BYTES_MAX);
    fill(partial, length);
    Ok(partial.len() == length)
}

fn on_connection(frame: &Frame<'_>) -> Result<(), ConnectionError> {
    if frame.stream != 0 {
        return Err(ConnectionError::protocol("the connection's frame on a stream"));
    }
    Ok(())
}

fn length(frame: &Frame<'_>, bytes: usize, what: &'static str) -> Result<(), ConnectionError> {
    if frame.payload.len() != bytes {
        return Err(ConnectionError::frame_size(what));
    }
    Ok(())
}

/// Returns four bytes at `at` as a number. The caller must have checked the length.
fn number(payload: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]])
}
