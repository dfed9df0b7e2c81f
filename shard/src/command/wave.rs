//! A wave as one core runs it: cover, partitions, messages, audience.

use std::sync::Arc;

use bytes::Bytes;
use clarion_proto::{
    ids::{AppName, Epoch, LaneId, LogId, PartitionId, Position, WaveId},
    time::Time,
};
use roaring::RoaringBitmap;

use crate::{
    lane::provider::request::Request,
    wave::{Cover, SegmentOp},
};

/// One wave, as one core runs it.
#[derive(Debug, Clone)]
pub struct WaveSpec {
    /// Number of the wave.
    pub id: WaveId,
    /// Name of the alert, `alerts/{alert}`, for log lines.
    pub alert: String,
    /// The highest seen is obeyed.
    pub epoch: Epoch,
    /// Counts the plans of the wave in this process, from 0. Reports name the plan that they are
    /// about, so that what was said of a former plan completes no later one.
    pub plan: u64,
    /// Bands and their cells; shared by all cores.
    pub cover: Arc<Cover>,
    /// The partitions of this core that the wave walks.
    pub shards: Vec<ShardSpec>,
    /// What is said, per app.
    pub apps: Vec<AppSpec>,
    /// Who is addressed: an expression in prefix form; empty: everybody.
    pub segments: Vec<SegmentOp>,
    /// Nothing is sent later.
    pub expires: Time,
}

/// One partition's part of a wave.
#[derive(Debug, Clone)]
pub struct ShardSpec {
    /// Number of the partition.
    pub partition: PartitionId,
    /// The log that the partition is built from.
    pub log: LogId,
    /// The walk waits until the log is applied up to here.
    pub start: Position,
    /// Handed over already by an earlier holder.
    pub handed: RoaringBitmap,
}

/// What is sent to the devices of one app.
#[derive(Debug, Clone)]
pub struct AppSpec {
    /// Name of the app.
    pub app: AppName,
    /// The lane that its pushes go through.
    pub lane: LaneId,
    /// What all of its pushes share; of the lane's platform.
    pub request: Request,
    /// The first is the fallback. Never empty.
    pub messages: Vec<MessageSpec>,
}

/// What one locale is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageSpec {
    /// BCP 47, lower case.
    pub locale: String,
    /// APNs: the complete body. FCM: what stands before the token, up to and with its opening
    /// quote.
    pub body: Bytes,
    /// FCM: what stands behind the token, from its closing quote. APNs: empty.
    pub body_after_token: Bytes,
}
