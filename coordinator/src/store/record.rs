//! Records of apps and alerts, as an engine keeps them.

use std::sync::Arc;

use clarion_proto::{
    app::App,
    ids::{AlertName, AppName, Epoch, LogIdentity, Position, UnixMillis, WaveId},
    wire::v1 as wire,
};

use crate::snapshot::{Snapshot, State};

/// A caller's key for one alert: the same for every try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub uuid::Uuid);

/// An alert as recorded.
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

/// A place in the list of alerts, newest first: after the one made then with that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlertCursor {
    /// Its `created`.
    pub created: UnixMillis,
    /// Name of the alert.
    pub name: AlertName,
}
