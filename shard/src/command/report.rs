//! The report of one core about one wave.

use clarion_proto::ids::{AppName, DeviceId, Epoch, LaneId, PartitionId, UnixMillis, WaveId};
use roaring::RoaringBitmap;

use super::{counts::Counts, reasons::ReasonCount};
use crate::outcome::Answers;

/// One core's part of a report on one wave. Counts are totals of this core since its start.
#[derive(Debug, Default)]
pub struct CoreReport {
    /// The wave that the report is about.
    pub wave: WaveId,
    /// Epoch that is in force on the core.
    pub epoch: Epoch,
    /// The plan that the core follows: see [`super::WaveSpec::plan`].
    pub plan: u64,
    /// Everything since the wave began is in it: so are its first report and the first after
    /// [`super::Command::ReportAll`].
    pub all: bool,
    /// Bands of which every device was handed over, from the nearest, in all partitions of this
    /// core: for each lane of the wave.
    pub bands_walked: Vec<(LaneId, u32)>,
    /// Every partition of the plan on this core is walked, nothing is open and nobody waits. False
    /// while a partition is rebuilt or was dropped.
    pub complete: bool,
    /// Nothing will change any more.
    pub ended: bool,
    /// Bands that changed: number and totals.
    pub bands: Vec<(u32, Counts)>,
    /// Cells that changed: index and totals; every 200 ms.
    pub cells: Vec<(u64, Counts)>,
    /// Ordinals handed over since the last report.
    pub handed: Vec<(PartitionId, RoaringBitmap)>,
    /// Partitions that the core has let go of and that have nothing open any more, each with all
    /// ordinals that were handed there: named once.
    pub let_go: Vec<(PartitionId, RoaringBitmap)>,
    /// Ordinals open now, in every partition that has any or had any at the last report.
    pub open: Vec<(PartitionId, RoaringBitmap)>,
    /// Total of requests that got no answer.
    pub unanswered_requests: u64,
    /// Requests the gateway asked to be tried again: total.
    pub retried_requests: u64,
    /// Tokens called dead since the last report.
    pub dead: Vec<DeadToken>,
    /// Totals of answers to the wave's apps, with the lane of each.
    pub answers: Vec<(LaneId, AppName, Answers)>,
    /// Why devices were not accepted at once: all kinds, if any count changed.
    pub reasons: Vec<ReasonCount>,
    /// All messages that are not sent any more.
    pub refused_messages: Vec<RefusedMessage>,
}

/// A message that a gateway refuses for every device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedMessage {
    /// The app whose message it is.
    pub app: AppName,
    /// Status and reason, in the gateway's words.
    pub detail: String,
}

/// One dead token, by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadToken {
    /// The app that the token is for.
    pub app: AppName,
    /// Whether the token may belong to another environment.
    pub needs_evidence: bool,
    /// Lane whose gateway reported the token.
    pub lane: LaneId,
    /// The device that the token belongs to.
    pub device: DeviceId,
    /// Hash of the dead token.
    pub token_hash: u64,
    /// Since when the token is dead, by the gateway's clock.
    pub gateway_time: Option<UnixMillis>,
}
