//! HTTP/2 frames as bytes (RFC 9113, 4 and 6): parsing and writing.

use super::error::{ConnectionError, ErrorCode};

/// Preface of a client (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame header, bytes.
pub(crate) const HEADER_BYTES: usize = 9;

/// Longest payload in both directions, bytes. No peer may allow less, we announce no more, and a
/// push never needs more.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16_384;

/// Highest stream id, which has 31 bits.
pub(crate) const STREAM_ID_MAX: u32 = 0x7fff_ffff;

pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

pub(crate) mod flag {
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// One complete frame as received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the payload without padding (RFC 9113, 6.1).
    pub(crate) fn unpadded(&self) -> Result<&'a [u8], ConnectionError> {
        if !self.has(flag::PADDED) {
            return Ok(self.payload);
        }
        let (&padding, rest) = self
            .payload
            .split_first()
            .ok_or(ConnectionError::frame_size("padded frame without a pad length"))?;
        rest.len()
            .checked_sub(usize::from(padding))
            .map(|length| &rest[..length])
            .ok_or(ConnectionError::protocol("padding longer than its frame"))
    }
}

/// Returns the length of the frame at the beginning of `input`, header included; `None` while the
/// header is incomplete.
pub(crate) fn frame_len(input: &[u8]) -> Result<Option<usize>, ConnectionError> {
    let Some(&[a, b, c]) = input.first_chunk::<3>() else { return Ok(None) };
    if input.len() < HEADER_BYTES {
        return Ok(None);
    }
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    if length > PAYLOAD_BYTES_MAX {
        return Err(ConnectionError::frame_size("frame longer than announced"));
    }
    Ok(Some(HEADER_BYTES + length))
}

/// Parses the frame of exactly these bytes, whose length [`frame_len`] returned.
pub(crate) fn parse(bytes: &[u8]) -> Frame<'_> {
    let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) & STREAM_ID_MAX;
    Frame { kind: bytes[3], flags: bytes[4], stream, payload: &bytes[HEADER_BYTES..] }
}

/// Returns a frame header. `length` must fit a frame.
#[allow(clippy::cast_possible_truncation)] // bytes of a 24-bit length
pub(crate) fn header(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEADER_BYTES] {
    debug_assert!(length <= PAYLOAD_BYTES_MAX);
    let id = stream.to_be_bytes();
    [
        (length >> 16) as u8,
        (length >> 8) as u8,
        length as u8,
        kind,
        flags,
        id[0],
        id[1],
        id[2],
        id[3],
    ]
}

/// Appends a complete frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&header(payload.len(), kind, flags, stream));
    out.extend_from_slice(payload);
}

/// Appends a header block as HEADERS and the necessary CONTINUATION frames, without other frames in
/// between.
pub(crate) fn put_block(out: &mut Vec<u8>, stream: u32, block: &[u8]) {
    let mut chunks = block.chunks(PAYLOAD_BYTES_MAX).peekable();
    let mut kind = kind::HEADERS;
    while let Some(chunk) = chunks.next() {
        let flags = if chunks.peek().is_none() { flag::END_HEADERS } else { 0 };
        put(out, kind, flags, stream, chunk);
        kind = kind::CONTINUATION;
    }
}

/// Appends an RST_STREAM frame to the output.
pub(crate) fn put_reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    put(out, kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
}

/// Appends GOAWAY. The peer opens no streams to us, so the last processed one is 0.
pub(crate) fn put_goaway(out: &mut Vec<u8>, code: ErrorCode) {
    let mut payload = [0; 8];
    payload[4..].copy_from_slice(&code.0.to_be_bytes());
    put(out, kind::GOAWAY, 0, 0, &payload);
}

/// Appends a WINDOW_UPDATE frame to the output.
pub(crate) fn put_window_update(out: &mut Vec<u8>, stream: u32, credit: u32) {
    put(out, kind::WINDOW_UPDATE, 0, stream, &credit.to_be_bytes());
}
