//! Compression of the callers' messages, gzip and zstd.
//!
//! **Requests** are decompressed by the listener ([`clarion_runtime::listener`]), which counts the
//! decompressed bytes; a service sees them as if the caller had not compressed them, with the same
//! limits. **Responses** are compressed by tonic in the first of the caller's encodings that both
//! know. The messages of WatchAlert are not: they are encoded once for all watchers, who may ask for
//! different encodings.

use prost::Message;
use tonic::{
    Response,
    codec::{CompressionEncoding, EnabledCompressionEncodings},
};

/// Encodings that callers may use.
pub(super) const ENCODINGS: [CompressionEncoding; 2] =
    [CompressionEncoding::Gzip, CompressionEncoding::Zstd];
/// Responses that are worth compressing, bytes. A smaller response fits into one packet. Gzip takes
/// some 20 ms for the largest, during which other tasks of the thread wait; a larger response is
/// sent as it is.
const WORTHWHILE_BYTES: std::ops::RangeInclusive<usize> = 1_024..=(1 << 20);

/// Encodings of callers, as the hand-written servers take them.
pub(super) fn enabled() -> EnabledCompressionEncodings {
    let mut enabled = EnabledCompressionEncodings::default();
    for encoding in ENCODINGS {
        enabled.enable(encoding);
    }
    enabled
}

/// A response that is compressed only if its size makes that worthwhile.
pub(super) fn sized<T: Message>(message: T) -> Response<T> {
    let worthwhile = WORTHWHILE_BYTES.contains(&message.encoded_len());
    let mut response = Response::new(message);
    if !worthwhile {
        response.disable_compression();
    }
    response
}
