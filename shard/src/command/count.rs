//! The command to count the devices in a region.

use std::sync::Arc;

use clarion_proto::ids::{AppName, UnixMillis};

use crate::wave::{Cover, SegmentOp};

/// Highest number of counts that wait on one core. The control plane refuses one more: a core drops
/// the oldest one, whose coordinator would wait in vain.
pub const COUNTS_MAX: usize = 64;

/// A question: how many would be reached?
#[derive(Debug)]
pub struct CountSpec {
    /// Number of the count, returned with the answer.
    pub id: u64,
    /// The region to count.
    pub cover: Arc<Cover>,
    /// Apps that are counted one by one.
    pub apps: Vec<AppName>,
    /// The audience: an expression in prefix form.
    pub segments: Vec<SegmentOp>,
    /// Oldest observation of a place that is counted; 0: every place.
    pub place_seen_after: UnixMillis,
}
