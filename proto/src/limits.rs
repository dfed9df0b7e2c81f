//! What coordinators and nodes may send each other: sizes, in one place, so that neither sends what the other cannot take.
//!
//! A gRPC message over its receiver's limit ends the stream that carried it, and with it everything else on the session.
//! So each list that goes into a message has a bound here or in the contract, each message is at most
//! [`REQUEST_BYTES_MAX`] or [`RESPONSE_BYTES_MAX`] by arithmetic, and receivers take several times as much. What has no
//! such bound (a cover, the messages of all apps and locales, handed ordinals) travels in parts.
//!
//! The tests of `coordinator/src/session/limits_tests.rs` and `shard/src/control/limits_tests.rs` build the largest
//! admissible message of each kind and encode it.

/// Largest message from a coordinator to a node, bytes. The largest is the head of a wave:
///
/// ```text
/// bands   4,096 × 20 bytes          =  82 KB     segments    254 × 68 bytes = 17 KB
/// shards  4,096 × 17 bytes          =  70 KB     apps without messages  64 × 0.8 KB = 51 KB
/// what is small enough to need no parts, at most PART_BYTES_MAX           = 262 KB
/// ```
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// What a node takes in one message, bytes.
pub const REQUEST_BYTES_TAKEN: usize = 4 * REQUEST_BYTES_MAX;
/// Largest message from a node to a coordinator, bytes. The largest is a report. Its `open` names who is in flight (1,024
/// connections × 1,500 streams) or waits for another try (65,536), in two bytes each: 3.3 MB, and 0.1 MB for 4,096 partitions.
/// All other lists together stay below 3 MB.
pub const RESPONSE_BYTES_MAX: usize = 12 << 20;
/// What a coordinator takes in one message, bytes.
pub const RESPONSE_BYTES_TAKEN: usize = 4 * RESPONSE_BYTES_MAX;

/// Payload of one part, bytes; the last item of a part may exceed it by its own size, 26 KB. A grant waits behind two
/// parts at most: 40 ms at 100 Mbit/s.
pub const PART_BYTES_MAX: usize = 256 << 10;

/// Cells of one cover, cut into bands: 64 MB on the wire. Bands of 10 km are made of cells of resolution 7 (5.2 km²), so
/// this is 41 million km², or a circle of 3,600 km.
pub const COVER_CELLS_MAX: usize = 8_000_000;
/// Cells of the covers of all alerts and counts under way in a cluster: each is held by the coordinator (8 bytes a cell,
/// 128 MB) and by every node ([`ROOM_BYTES_MAX`]).
pub const CLUSTER_CELLS_MAX: usize = 16_000_000;
/// What a node holds of all waves and counts together, complete or in parts: ranges of cells, messages, handed ordinals.
/// A cell takes up to 40 bytes and 13 on average, since neighbours share a range: [`CLUSTER_CELLS_MAX`] take 210 MB. The
/// rest is for messages (17 MB at most for an alert, 17 KB usually) and for waves and counts that are over but not gone.
pub const ROOM_BYTES_MAX: usize = 512 << 20;

/// Bands of one cover: 20,000 km in steps of 5 km.
pub const BANDS_MAX: usize = 4_096;
/// Waves of one node: as many alerts as may be active (4,096), and those whose last reports are on their way.
pub const WAVES_MAX: usize = 4_608;
/// A PEM file of root CAs, bytes. All public ones together take 230 KB.
pub const CA_PEM_BYTES_MAX: usize = 512 << 10;
/// A provider token, bytes: an OAuth access token of the longest kind, and `Bearer ` in front.
pub const AUTHORIZATION_BYTES_MAX: usize = 4_096 + 7;
/// host:port. A host name has at most 253 bytes.
pub const ENDPOINT_BYTES_MAX: usize = 253 + 1 + 5;

/// With these words (and UNAVAILABLE) a node that is shutting down ends its session: no message was at fault.
pub const DRAINING: &str = "the node goes down";
