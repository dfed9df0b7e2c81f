//! SETTINGS of both sides of a connection (RFC 9113, 6.5).

use super::{
    error::ConnectionError,
    frames::{self, kind},
};

mod id {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Initial window of a stream, bytes: many complete error bodies. A longer answer is read up to
/// this length.
const STREAM_WINDOW: u32 = 16_384;

/// Longest header list of an answer, bytes; APNs sends some 200.
pub(crate) const HEADER_LIST_MAX: u32 = 8_192;

/// Appends our SETTINGS.
///
/// Without a header table no answer depends on an earlier one, which lets the reader skip most of
/// an answer. MAX_FRAME_SIZE stays at its default, the smallest value.
pub(crate) fn put_ours(out: &mut Vec<u8>) {
    let ours = [
        (id::HEADER_TABLE_SIZE, 0),
        (id::ENABLE_PUSH, 0),
        (id::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
        (id::MAX_HEADER_LIST_SIZE, HEADER_LIST_MAX),
    ];
    out.extend_from_slice(&frames::header(6 * ours.len(), kind::SETTINGS, 0, 0));
    for (id, value) in ours {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&u32::to_be_bytes(value));
    }
}

/// A value of the peer that concerns a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    HeaderTableSize(u32),
    MaxConcurrentStreams(u32),
    InitialWindowSize(u32),
    MaxHeaderListSize(u32),
}

/// Returns the values of one SETTINGS frame, in order. Unknown ones are skipped, impossible ones
/// are errors.
pub(crate) fn parse(payload: &[u8]) -> impl Iterator<Item = Result<Setting, ConnectionError>> {
    payload.chunks_exact(6).filter_map(|s| {
        let value = u32::from_be_bytes([s[2], s[3], s[4], s[5]]);
        match u16::from_be_bytes([s[0], s[1]]) {
            id::HEADER_TABLE_SIZE => Some(Ok(Setting::HeaderTableSize(value))),
            id::MAX_CONCURRENT_STREAMS => Some(Ok(Setting::MaxConcurrentStreams(value))),
            id::INITIAL_WINDOW_SIZE => Some(Ok(Setting::InitialWindowSize(value))),
            id::MAX_HEADER_LIST_SIZE => Some(Ok(Setting::MaxHeaderListSize(value))),
            id::ENABLE_PUSH if value != 0 => {
                Some(Err(ConnectionError::protocol("a server may not set SETTINGS_ENABLE_PUSH")))
            }
            // Our frames are never longer than every peer must accept, so the value itself is not
            // needed.
            id::MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => Some(Err(
                ConnectionError::protocol("SETTINGS_MAX_FRAME_SIZE outside of 2^14 to 2^24-1"),
            )),
            _ => None,
        }
    })
}
