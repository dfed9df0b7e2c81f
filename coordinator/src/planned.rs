//! What is sent and to whom: an alert as dispatch carries it out, and a count that sends nothing.
//!
//! Everything here has been decoded, checked, planned and rendered before. Sessions say it to
//! nodes, one by one; the alert's own machine takes from it what progress is measured against.

use bytes::Bytes;
use clarion_proto::{
    ids::{AlertName, AppName, Epoch, LogIdentity, Position, UnixMillis, WaveId},
    wire::shard_v1 as wire,
};

use crate::{bands::Bands, lane::LaneKey};

/// Epoch of the coordinator that created an alert; every take-over raises it by one.
pub const FIRST_EPOCH: Epoch = Epoch(1);

/// One alert, decoded, admitted, planned and recorded: all that nodes need to carry it out.
#[derive(Debug)]
pub struct PlannedAlert {
    /// Name of the alert.
    pub name: AlertName,
    /// The one wave of the alert.
    pub wave: WaveId,
    /// Epoch of the coordinator; a node obeys it if it is the highest seen for this alert.
    pub epoch: Epoch,
    /// Nearest first; together the cover.
    pub bands: Bands,
    /// What is said, per app.
    pub apps: Vec<AppPlan>,
    /// Who: an expression over segments in prefix form; empty: everybody.
    pub segments: Vec<wire::SegmentOp>,
    /// Log from which the audience is read.
    pub log: LogIdentity,
    /// Newest position of every log when the alert was recorded: every change acknowledged before
    /// is in the audience.
    pub positions: Vec<Position>,
    /// Wall time at which the alert was recorded.
    pub created: UnixMillis,
    /// Wall time after which nothing is sent.
    pub expires: UnixMillis,
    /// Over all nodes; 0: no limit.
    pub max_rate_per_second: u32,
}

impl PlannedAlert {
    /// Whether another coordinator may have offered the wave to nodes before.
    #[must_use]
    pub fn is_taken_over(&self) -> bool {
        self.epoch > FIRST_EPOCH
    }
}

/// What is said to one app's devices, and through which lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPlan {
    /// App whose devices get this.
    pub app: AppName,
    /// Lane that reaches the devices of the app.
    pub lane: LaneKey,
    /// What all requests to the app have in common.
    pub request: PushRequest,
    /// One message for each locale; the first is the fallback.
    pub messages: Vec<LocaleMessage>,
}

/// What all requests to one app's devices share; of its lane's platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushRequest {
    /// Headers of a request to APNs.
    Apns(ApnsRequest),
    /// FCM: all else stands in the body.
    Fcm {
        /// Project in the path of the request.
        project: String,
    },
}

/// Headers of every request to APNs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApnsRequest {
    /// Header `apns-topic`.
    pub topic: String,
    /// Header `apns-push-type`.
    pub push_type: String,
    /// Header `apns-priority`: 10 or 5.
    pub priority: u32,
    /// Header `apns-expiration`, Unix seconds.
    pub expiration: u64,
    /// Header `apns-collapse-id`, at most 64 bytes.
    pub collapse_id: String,
}

/// The body of a push in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocaleMessage {
    /// Locale as of BCP 47, lower case.
    pub locale: String,
    /// APNs: all of it. FCM: what stands before the token, up to and with its opening quote.
    pub body: Bytes,
    /// FCM: what stands behind the token, from its closing quote. APNs: empty.
    pub body_after_token: Bytes,
}

/// Who would a wave reach? Nothing is sent.
#[derive(Debug)]
pub struct CountPlan {
    /// Nearest first.
    pub bands: Bands,
    /// Counted one by one.
    pub apps: Vec<AppName>,
    /// As in [`PlannedAlert`].
    pub segments: Vec<wire::SegmentOp>,
}

/// Devices that a [`CountPlan`] would reach: for each app of the plan, in its order, those of each
/// band.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedDevices {
    /// Devices by app (outer) and by band (inner).
    pub devices: Vec<Vec<u64>>,
}
