//! Size limits of messages between coordinators and nodes.
//!
//! A gRPC message over the limit of its receiver ends the stream that carried it, and with it the
//! session. So every list in a message has a limit here or in the contract. These limits keep every
//! message within [`REQUEST_BYTES_MAX`] or [`RESPONSE_BYTES_MAX`], and receivers accept several
//! times as much. Data without such a limit (a cover, the messages of all apps and locales, handed
//! ordinals) is sent in parts.
//!
//! The tests in `coordinator/src/session/limits_tests.rs` and `shard/src/control/limits_tests.rs`
//! build and encode the largest valid message of each kind.

/// Maximum size of a message from a coordinator to a node, bytes. The largest is the head of a
/// wave:
///
/// ```text
/// bands   4,096 × 20 bytes          =  82 KB     segments    254 × 68 bytes = 17 KB
/// shards  4,096 × 17 bytes          =  70 KB     apps without messages  64 × 0.8 KB = 51 KB
/// content small enough to need no parts, at most PART_BYTES_MAX           = 262 KB
/// ```
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Maximum size of a message that a node accepts, bytes.
pub const REQUEST_BYTES_TAKEN: usize = 4 * REQUEST_BYTES_MAX;
/// Maximum size of a message from a node to a coordinator, bytes. The largest is a report.
///
/// `open` of a report lists the devices in flight (1,024 connections × 1,500 streams) and the
/// devices that wait for another attempt (65,536), in two bytes each: 3.3 MB, and 0.1 MB for 4,096
/// partitions. All other lists together stay below 3 MB.
pub const RESPONSE_BYTES_MAX: usize = 12 << 20;
/// Maximum size of a message that a coordinator accepts, bytes.
pub const RESPONSE_BYTES_TAKEN: usize = 4 * RESPONSE_BYTES_MAX;

/// Maximum payload of one part, bytes. The last item of a part may exceed the limit by its own
/// size, 26 KB. A grant waits behind at most two parts: 40 ms at 100 Mbit/s.
pub const PART_BYTES_MAX: usize = 256 << 10;

/// Maximum number of cells of one cover that is cut into bands: 1.6 MB in messages. Bands of 10 km
/// consist of cells of resolution 7 (5.2 km²), so the limit is a million km², or a circle of 580 km;
/// a larger region has wider bands.
pub const COVER_CELLS_MAX: usize = 200_000;
/// Maximum number of cells in the covers of all alerts and counts in progress in a cluster. The
/// coordinator holds each cell (8 bytes, 128 MB in all), and so does every node
/// ([`ROOM_BYTES_MAX`]).
pub const CLUSTER_CELLS_MAX: usize = 16_000_000;
/// Maximum memory of a node for all waves and counts, complete or in parts, bytes: ranges of cells,
/// messages, handed ordinals.
///
/// A cell takes up to 40 bytes and 13 on average, because neighbours share a range:
/// [`CLUSTER_CELLS_MAX`] take 210 MB. The rest is for messages (at most 17 MB per alert, usually 17
/// KB) and for waves and counts that have ended but are not deleted yet.
pub const ROOM_BYTES_MAX: usize = 512 << 20;

/// Maximum number of bands of one cover: 20,000 km in steps of 5 km.
pub const BANDS_MAX: usize = 4_096;
/// Maximum number of waves of one node: the maximum number of active alerts (4,096), and waves
/// whose last reports are in flight.
pub const WAVES_MAX: usize = 4_608;
/// Maximum size of a PEM file of root CAs, bytes. All public root CAs together take 230 KB.
pub const CA_PEM_BYTES_MAX: usize = 512 << 10;
/// Maximum size of a provider token, bytes: the longest OAuth access token after `Bearer `.
pub const AUTHORIZATION_BYTES_MAX: usize = 4_096 + 7;
/// Maximum size of an endpoint host:port, bytes. A host name has at most 253 bytes.
pub const ENDPOINT_BYTES_MAX: usize = 253 + 1 + 5;

/// Message of the status UNAVAILABLE with which a node that is shutting down ends its session. A
/// coordinator that receives it does not count the messages in flight as failed deliveries.
pub const DRAINING: &str = "the node is shutting down";
