//! The emulated APNs: provider tokens, headers, payloads, statuses and reasons, and how strictly it
//! treats a connection.
//!
//! [`request`] reads headers and path, [`auth`] the provider token, [`judge`] finds what is wrong
//! with a request on its connection, [`answer`] writes the response. Pure, all of it.
//!
//! Not here: certificate authentication, broadcast channels.

pub mod answer;
pub mod auth;
pub mod judge;
pub mod request;

use self::auth::Key;

/// Apple's GOAWAY text for a client with too many streams.
pub const TOO_MANY_STREAMS: &[u8] = b"Maximum active streams violated for this endpoint.";
/// MAX_CONCURRENT_STREAMS of a connection that has proven itself: what was seen of Apple in 2021.
pub const STREAMS_MAX: u32 = 1_000;

/// What one APNs knows and how it behaves; fixed for its life.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Keys that sign provider tokens.
    pub keys: Vec<Key>,
    /// Accepted difference between clocks, seconds.
    pub clock_skew_seconds: u64,
    /// Shortest time between two provider tokens on one connection, seconds (Apple: 20 minutes); 0:
    /// no limit.
    pub token_update_seconds_min: u64,
    /// A connection that met an expired token refuses newer ones too, as some have seen Apple do.
    pub expired_sticks: bool,
    /// Bundle ids that may be pushed to.
    pub topics: Vec<String>,
    /// Whether answers carry `apns-unique-id`, as in the sandbox.
    pub sandbox: bool,
    /// After an answer of 4xx other than 410 and 429, one stream is allowed until the next success.
    pub one_stream_after_reject: bool,
}
