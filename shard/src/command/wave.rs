//! A wave as one core runs it: cover, partitions, messages, audience.

use std::sync::Arc;

use bytes::Bytes;
use clarion_proto::{
    ids::{AppName, Epoch, LaneId, PartitionId, Position, UnixMillis, WaveId},
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
    /// Epoch of the wave: the highest epoch seen is in force.
    pub epoch: Epoch,
    /// Counts the plans of the wave in this process, from 0. Reports name the plan that they are
    /// about, so that what was said of a former plan completes no later one.
    pub plan: u64,
    /// Bands and their cells; shared by all cores.
    pub cover: Arc<Cover>,
    /// The partitions of this core that the wave walks.
    pub shards: Vec<ShardSpec>,
    /// Messages of each app.
    pub apps: Vec<AppSpec>,
    /// Audience as an expression in prefix form; empty: every device.
    pub segments: Vec<SegmentOp>,
    /// Oldest observation of a place that the wave accepts; 0: every place.
    pub place_seen_after: UnixMillis,
    /// Time after which nothing is sent.
    pub expires: Time,
}

/// One partition's part of a wave.
#[derive(Debug, Clone)]
pub struct ShardSpec {
    /// Number of the partition.
    pub partition: PartitionId,
    /// The walk waits until the partition's log is applied up to here.
    pub start: Position,
    /// Handed over already by an earlier holder.
    pub handed: RoaringBitmap,
}

/// Requests for the devices of one app.
#[derive(Debug, Clone)]
pub struct AppSpec {
    /// Name of the app.
    pub app: AppName,
    /// The lane that its pushes go through.
    pub lane: LaneId,
    /// Fields that all pushes of the app share, for the lane's platform.
    pub request: Request,
    /// The first is the fallback. Never empty.
    pub messages: Vec<MessageSpec>,
}

/// Message for one locale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageSpec {
    /// Locale, BCP 47, lower case.
    pub locale: String,
    /// APNs: the complete body. FCM: the bytes before the token, up to and with its opening quote.
    pub body: Bytes,
    /// FCM: the bytes after the token, from its closing quote. APNs: empty.
    pub body_after_token: Bytes,
}
