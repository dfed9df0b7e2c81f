//! Records of apps and alerts, as an engine keeps them.

use std::sync::Arc;

use clarion_proto::{
    app::App,
    ids::{AlertName, AppName, Epoch, LogIdentity, Position, UnixMillis, WaveId},
    wire::{shard_v1, v1 as wire},
};

use crate::{
    bands::BandEdges,
    planned::AppPlan,
    snapshot::{Snapshot, State},
};

/// A caller's key for one alert: the same for every try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub uuid::Uuid);

/// An alert as recorded: complete, so that any coordinator can run it from the record alone, and
/// with wall times only.
#[derive(Debug, Clone)]
pub struct AlertRecord {
    /// Name of the alert.
    pub name: AlertName,
    /// The request that made it.
    pub request_id: RequestId,
    /// As it was submitted, output fields cleared: what an answer repeats and a second try is
    /// compared with.
    pub submitted: Arc<wire::Alert>,
    /// Apps that the alert addresses.
    pub apps: Vec<AppName>,
    /// What is sent and to whom; `None` once the alert has ended.
    pub plan: Option<Arc<SendPlan>>,
    /// The one wave of the alert.
    pub wave: WaveId,
    /// Grows with every coordinator that takes it over.
    pub epoch: Epoch,
    /// The log that its audience is read from; filled in by the store.
    pub log: LogIdentity,
    /// The newest position of every log when the alert was recorded, filled in by the store: what
    /// was acknowledged before is in its audience.
    pub positions: Vec<Position>,
    /// When it was recorded.
    pub created: UnixMillis,
    /// Nothing is sent later.
    pub expires: UnixMillis,
    /// From 1; grows with every change.
    pub revision: u64,
    /// Where the alert stands.
    pub state: State,
    /// When the alert ended.
    pub ended: Option<UnixMillis>,
    /// What the canceller said.
    pub cancel_reason: Option<String>,
    /// The last word of the nodes, once nothing changes any more.
    pub settled: Option<Arc<Snapshot>>,
}

/// What an active alert sends and to whom, as decided when it was created: a coordinator of another
/// version that takes the alert over must not decide it in another way.
///
/// Region, place last seen and maximum rate are read from [`AlertRecord::submitted`], whose
/// decoding is the contract's.
#[derive(Debug, Clone, PartialEq)]
pub struct SendPlan {
    /// Distances at which one band ends and the next begins.
    pub edges: BandEdges,
    /// Segment expression in prefix form, with the segment that the mode adds; empty: everybody.
    pub segments: Vec<shard_v1::SegmentOp>,
    /// Lane, request headers and rendered bodies of each app, in the order of the audience.
    pub apps: Vec<AppPlan>,
}

/// What became of a creation.
#[derive(Debug, Clone)]
pub enum Created<T> {
    /// It is recorded now.
    New(Arc<T>),
    /// One with that key was there before; nothing was changed. The caller compares.
    Existing(Arc<T>),
}

/// An app as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRecord {
    /// The app as it was given.
    pub app: App,
    /// When it was made.
    pub created: UnixMillis,
    /// From 1; grows with every change.
    pub revision: u64,
}

/// A place in the list of alerts, newest first: behind the alert with this time and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlertCursor {
    /// Wall time at which that alert was recorded.
    pub created: UnixMillis,
    /// Name of the alert.
    pub name: AlertName,
}
