//! Plans that dispatch carries out: an alert to send, and a count that sends nothing.
//!
//! The values here are decoded, checked, planned and rendered. Sessions send them to the nodes; the
//! alert's own state machine measures progress against them.

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
    /// Bands of the cover, nearest first; together the whole cover.
    pub bands: Bands,
    /// Messages and lane of each app.
    pub apps: Vec<AppPlan>,
    /// Expression over segments in prefix form that selects devices; empty: all devices.
    pub segments: Vec<wire::SegmentOp>,
    /// Oldest observation of a place that is accepted; 0: every place.
    pub place_seen_after: UnixMillis,
    /// Log from which the audience is read.
    pub log: LogIdentity,
    /// Newest position of every log when the alert was recorded: every change acknowledged before
    /// is in the audience.
    pub positions: Vec<Position>,
    /// Wall time at which the alert was recorded.
    pub created: UnixMillis,
    /// Wall time after which nothing is sent.
    pub expires: UnixMillis,
    /// Maximum number of pushes per second over all nodes; 0: no limit.
    pub max_rate_per_second: u32,
}

impl PlannedAlert {
    /// Whether another coordinator may have offered the wave to nodes before.
    #[must_use]
    pub fn is_taken_over(&self) -> bool {
        self.epoch > FIRST_EPOCH
    }
}

/// Messages for one app's devices, and the lane that carries them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPlan {
    /// App whose devices get the messages.
    pub app: AppName,
    /// Lane that reaches the devices of the app.
    pub lane: LaneKey,
    /// Headers or project that all requests to the app share.
    pub request: PushRequest,
    /// One message for each locale; the first is the fallback.
    pub messages: Vec<LocaleMessage>,
}

/// Part of a request that all devices of an app share, by the platform of the lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushRequest {
    /// Headers of a request to APNs.
    Apns(ApnsRequest),
    /// Project of a request to FCM; everything else is in the body.
    Fcm {
        /// Project in the path of the request.
        project: String,
    },
}

/// Headers of every request to APNs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApnsRequest {
    /// Value of the header `apns-topic`.
    pub topic: String,
    /// Value of the header `apns-push-type`.
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
    /// BCP 47 tag of the locale, in lower case.
    pub locale: String,
    /// APNs: the whole body. FCM: the body up to the opening quote of the token, inclusive.
    pub body: Bytes,
    /// FCM: the body from the closing quote of the token. APNs: empty.
    pub body_after_token: Bytes,
}

/// Plan of a count: the devices that a wave would reach. Nothing is sent.
#[derive(Debug)]
pub struct CountPlan {
    /// Bands to count in, nearest first.
    pub bands: Bands,
    /// Apps whose devices are counted, each separately.
    pub apps: Vec<AppName>,
    /// Expression over segments, as in [`PlannedAlert`].
    pub segments: Vec<wire::SegmentOp>,
    /// Oldest observation of a place that is counted, as in [`PlannedAlert`].
    pub place_seen_after: UnixMillis,
}

/// Result of a [`CountPlan`]: the number of devices by app and band, in the order of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedDevices {
    /// Number of devices by app (outer) and by band (inner).
    pub devices: Vec<Vec<u64>>,
    /// Number of devices that only the age of their place leaves out.
    pub left_out_for_age: u64,
}
