//! Records of apps and alerts in the store.

use std::sync::Arc;

use clarion_proto::{
    app::App,
    ids::{AlertName, AppName, Epoch, LogIdentity, Position, UnixMillis, WaveId},
    wire::{shard_v1, v1 as wire},
};
use h3o::Resolution;

use crate::{
    bands::BandEdges,
    planned::AppPlan,
    snapshot::{Snapshot, State},
};

/// A caller's key for one alert: equal in every retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub uuid::Uuid);

/// The record of an alert: complete, so that any coordinator can run the alert from the record
/// alone. All times are wall times.
#[derive(Debug, Clone)]
pub struct AlertRecord {
    /// Name of the alert.
    pub name: AlertName,
    /// Request that created the alert.
    pub request_id: RequestId,
    /// The alert as submitted, output fields cleared: responses repeat it, and a retry is compared
    /// with it.
    pub submitted: Arc<wire::Alert>,
    /// Apps that the alert addresses.
    pub apps: Vec<AppName>,
    /// Messages and audience; `None` once the alert has ended.
    pub plan: Option<Arc<SendPlan>>,
    /// Largest distance outside the region at which a device may receive the alert, metres.
    pub overshoot_m: f64,
    /// Width of the bands beyond the first ones, metres.
    pub band_step_m: f64,
    /// The alert's only wave.
    pub wave: WaveId,
    /// Epoch of the coordinator that runs the alert; grows with every takeover.
    pub epoch: Epoch,
    /// Identity of the log that the audience is read from; filled in by the store.
    pub log: LogIdentity,
    /// The newest position of every log at the recording of the alert, filled in by the store: the
    /// audience includes every change acknowledged before.
    pub positions: Vec<Position>,
    /// Time of the recording.
    pub created: UnixMillis,
    /// Oldest observation of a place that the alert accepts, fixed at the creation; 0: every place.
    pub place_seen_after: UnixMillis,
    /// Expiry of the alert: nothing is sent later.
    pub expires: UnixMillis,
    /// Revision of the record: from 1, one more with every change.
    pub revision: u64,
    /// State of the alert.
    pub state: State,
    /// Time at which the alert ended.
    pub ended: Option<UnixMillis>,
    /// Reason of the cancel, from the caller.
    pub cancel_reason: Option<String>,
    /// Last snapshot of the alert, once its numbers no longer change.
    pub settled: Option<Arc<Snapshot>>,
}

/// Messages and audience of an active alert, fixed at its creation: a coordinator of another
/// version that takes the alert over must send the same messages to the same audience.
///
/// Region, place last seen and maximum rate are read from [`AlertRecord::submitted`], whose
/// decoding is the contract's.
#[derive(Debug, Clone, PartialEq)]
pub struct SendPlan {
    /// Distances at which one band ends and the next begins.
    pub edges: BandEdges,
    /// Finest resolution of the cover: the same region has the same cover in every process.
    pub finest: Resolution,
    /// Segment expression in prefix form, with the segment that the mode adds; empty: all devices.
    pub segments: Vec<shard_v1::SegmentOp>,
    /// Lane, request headers and rendered bodies of each app, in the order of the audience.
    pub apps: Vec<AppPlan>,
}

/// Result of a creation.
#[derive(Debug, Clone)]
pub enum Created<T> {
    /// The record is new.
    New(Arc<T>),
    /// A record with that key existed before; nothing was changed. The caller compares the two.
    Existing(Arc<T>),
}

/// The record of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRecord {
    /// The app as submitted.
    pub app: App,
    /// Time of the app's creation.
    pub created: UnixMillis,
    /// From 1; grows with every change.
    pub revision: u64,
}

/// Position in the list of alerts, newest first: after the alert with this time and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlertCursor {
    /// Wall time at which that alert was recorded.
    pub created: UnixMillis,
    /// Name of the alert.
    pub name: AlertName,
}
