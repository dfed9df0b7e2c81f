//! The emulated APNs: provider tokens, headers, payloads, statuses and reasons, and its limits for
//! a connection.
//!
//! [`request`] reads headers and path, [`auth`] checks the provider token, [`judge`] finds the
//! fault of a request on its connection, and [`answer`] writes the response. No module does I/O.
//!
//! Not here: certificate authentication, broadcast channels.

pub mod answer;
pub mod auth;
pub mod judge;
pub mod payload;
pub mod request;

use self::auth::Key;

/// Apple's GOAWAY text for a client with too many streams.
pub const TOO_MANY_STREAMS: &[u8] = b"Maximum active streams violated for this endpoint.";
/// MAX_CONCURRENT_STREAMS after the first authenticated success, as observed of APNs in 2021.
pub const STREAMS_MAX: u32 = 1_000;

/// Policy of one emulated APNs; constant while the gateway runs.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Keys that sign provider tokens.
    pub keys: Vec<Key>,
    /// Accepted difference between clocks, seconds.
    pub clock_skew_seconds: u64,
    /// Shortest time between two provider tokens on one connection, seconds (Apple: 20 minutes); 0:
    /// no limit.
    pub token_update_seconds_min: u64,
    /// Whether a connection that sent an expired provider token refuses newer tokens too, as some
    /// users of APNs have observed.
    pub expired_sticks: bool,
    /// Bundle ids of the apps that may receive pushes.
    pub topics: Vec<String>,
    /// Whether answers carry `apns-unique-id`, as in the sandbox.
    pub sandbox: bool,
    /// Whether a connection is limited to one stream after a 4xx answer other than 410 and 429,
    /// until the next success.
    pub one_stream_after_reject: bool,
}
