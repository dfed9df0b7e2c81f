//! A question about the devices that are held.

use std::sync::Arc;

use clarion_proto::ids::AppName;

use crate::wave::{Cover, SegmentOp};

/// A question: how many would be reached?
#[derive(Debug)]
pub struct CountSpec {
    /// Returned with the answer.
    pub id: u64,
    /// Where.
    pub cover: Arc<Cover>,
    /// Counted one by one.
    pub apps: Vec<AppName>,
    /// Who.
    pub segments: Vec<SegmentOp>,
}
