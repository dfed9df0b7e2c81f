//! HTTP/2 frames (RFC 9113, sections 4 and 6): headers of frames, and the frames that the emulator
//! writes.
//!
//! This code is separate from the lane's framing on purpose: one misreading of the specification
//! must not hide in both.

use serde::{Deserialize, Serialize};

/// Bytes that a client sends before its first frame (RFC 9113, section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame header, bytes.
pub const HEAD_BYTES: usize = 9;
/// Longest payload of a frame that the emulator accepts, bytes: the default
/// SETTINGS_MAX_FRAME_SIZE.
pub const PAYLOAD_BYTES_MAX: usize = 16_384;

/// Types of HTTP/2 frames.
pub mod kind {
    #![allow(missing_docs, reason = "the names of RFC 9113, section 6")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of HTTP/2 frames.
pub mod flag {
    #![allow(missing_docs, reason = "the names of RFC 9113, section 6")]
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Identifiers of HTTP/2 settings.
pub mod setting {
    #![allow(missing_docs, reason = "the names of RFC 9113, section 6.5.2")]
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// An unregistered setting, which clients must ignore.
    pub const UNKNOWN: u16 = 0x7a7a;
}

/// Error codes (RFC 9113, section 7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u32)]
#[allow(missing_docs, reason = "the names of RFC 9113, section 7")]
pub enum Code {
    #[default]
    NoError = 0,
    ProtocolError = 1,
    InternalError = 2,
    FlowControlError = 3,
    StreamClosed = 5,
    FrameSizeError = 6,
    RefusedStream = 7,
    Cancel = 8,
    CompressionError = 9,
    EnhanceYourCalm = 11,
}

/// Header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Length of the payload, bytes.
    pub length: usize,
    /// Type of the frame: one of [`kind`], or an unknown type.
    pub kind: u8,
    /// Flags of the frame: bits of [`flag`].
    pub flags: u8,
    /// Stream id, with the reserved bit cleared.
    pub stream: u32,
}

impl Head {
    /// Parses a frame header.
    #[must_use]
    pub fn read(b: &[u8; HEAD_BYTES]) -> Self {
        Self {
            length: usize::from(b[0]) << 16 | usize::from(b[1]) << 8 | usize::from(b[2]),
            kind: b[3],
            flags: b[4],
            stream: u32::from_be_bytes([b[5], b[6], b[7], b[8]]) & 0x7fff_ffff,
        }
    }

    /// Reports whether a flag is set.
    #[must_use]
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame header.
///
/// # Panics
/// If the length needs more than 24 bits. The emulator's frames are far shorter.
pub fn head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    assert!(length < 1 << 24, "a frame of {length} bytes");
    let l = u32::try_from(length).expect("24 bits").to_be_bytes();
    let s = stream.to_be_bytes();
    out.extend_from_slice(&[l[1], l[2], l[3], kind, flags, s[0], s[1], s[2], s[3]]);
}

/// Appends a SETTINGS frame.
pub fn settings(out: &mut Vec<u8>, values: &[(u16, u32)]) {
    head(out, values.len() * 6, kind::SETTINGS, 0, 0);
    for &(id, value) in values {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends an acknowledgement of the peer's SETTINGS.
pub fn settings_ack(out: &mut Vec<u8>) {
    head(out, 0, kind::SETTINGS, flag::ACK, 0);
}

/// Appends the acknowledgement of a PING.
pub fn ping_ack(out: &mut Vec<u8>, opaque: [u8; 8]) {
    head(out, 8, kind::PING, flag::ACK, 0);
    out.extend_from_slice(&opaque);
}

/// Appends a WINDOW_UPDATE frame for the connection (stream 0) or a stream.
pub fn window_update(out: &mut Vec<u8>, stream: u32, bytes: u32) {
    head(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&bytes.to_be_bytes());
}

/// Appends an RST_STREAM frame.
pub fn rst_stream(out: &mut Vec<u8>, stream: u32, code: Code) {
    head(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&(code as u32).to_be_bytes());
}

/// Appends a GOAWAY frame.
pub fn goaway(out: &mut Vec<u8>, last: u32, code: Code, debug: &[u8]) {
    head(out, 8 + debug.len(), kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&(code as u32).to_be_bytes());
    out.extend_from_slice(debug);
}

/// Returns the payload of a DATA or HEADERS frame without its padding.
///
/// # Errors
/// [`Code::ProtocolError`] if the padding is longer than the payload (RFC 9113, section 6.1).
pub fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Code> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let (&pad, rest) = payload.split_first().ok_or(Code::FrameSizeError)?;
    rest.len().checked_sub(usize::from(pad)).map(|n| &rest[..n]).ok_or(Code::ProtocolError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut out = Vec::new();
        head(&mut out, 0x01_02_03, kind::DATA, flag::END_STREAM, 0x7fff_ffff);
        let head = Head::read(out.as_slice().try_into().expect("nine bytes"));
        assert_eq!(head, Head { length: 0x01_02_03, kind: 0, flags: 1, stream: 0x7fff_ffff });
    }

    #[test]
    fn the_reserved_bit_is_ignored() {
        assert_eq!(Head::read(&[0, 0, 0, 0, 0, 0x80, 0, 0, 5]).stream, 5);
    }

    #[test]
    fn padding_longer_than_the_payload_is_refused() {
        let padded = |length| Head { length, kind: kind::DATA, flags: flag::PADDED, stream: 1 };
        assert_eq!(unpadded(padded(4), &[2, 7, 0, 0]), Ok(&[7][..]));
        assert_eq!(unpadded(padded(4), &[4, 7, 0, 0]), Err(Code::ProtocolError));
        assert_eq!(unpadded(padded(0), &[]), Err(Code::FrameSizeError));
    }
}
