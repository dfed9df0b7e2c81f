//! Log messages of the lane owner, as data.

use std::sync::Arc;

use crate::{
    lane::LaneSpec,
    lane_owner::{health::LaneStatus, refusal::LaneError},
    owners::NodeName,
    store::StoreError,
};
use clarion_proto::{ids::LaneId, wire::shard_v1::LaneHealth};

/// A log message of the lane owner.
#[derive(Debug)]
pub(crate) enum Log {
    /// A lane was created.
    LaneAdded(Arc<LaneSpec>),
    /// A lane that nodes use for another coordinator cannot exist here.
    LaneNotCreated { error: LaneError },
    /// Nodes ask for slices of a lane that this configuration does not have, so many times since
    /// the last message.
    LaneUnknown { lane: LaneId, times: u64 },
    /// The budget of a lane's connections has changed; `before` is `None` for its first budget.
    BudgetChanged { lane: Arc<LaneSpec>, connections: u32, before: Option<u32> },
    /// A credential has another key.
    CredentialReloaded { credential: String },
    /// All lanes of a credential have a new token.
    TokenReplaced { credential: String },
    /// A key that had waited for the store gave a token out without a record.
    TokenUnrecorded { credential: String },
    /// The store refused an operation on the lanes' records, so many times since the last message.
    RecordsFailed { error: StoreError, times: u64 },
    /// A try to get a token failed, for the given number of times since the last message.
    TokenFailed {
        credential: String,
        has_token: bool,
        error: String,
        times: u64,
        /// Whether the failure may pass by itself; otherwise an operator has to act.
        is_passing: bool,
    },
    /// A node's end of a lane can send for the first time.
    EndConnected { lane: String, node: NodeName },
    /// A node's end of a lane can send again.
    TroubleEnded { lane: String, node: NodeName },
    /// A node's end of a lane cannot send, reported this often since the last message.
    Trouble { end: LaneStatus, times: u64 },
}

impl Log {
    /// Writes the message to the log.
    pub(crate) fn write(&self) {
        match self {
            Self::LaneAdded(lane) => tracing::info!(
                lane = lane.name(),
                id = lane.id.0,
                live = lane.gateway.live,
                "lane added to the cluster"
            ),
            Self::LaneNotCreated { error } => {
                tracing::warn!(%error, "lane of another coordinator not created");
            }
            Self::LaneUnknown { lane, times } => tracing::error!(
                id = lane.0,
                times,
                "lane of another coordinator is not configured here; nodes send nothing through it"
            ),
            Self::BudgetChanged { lane, connections, before } => tracing::info!(
                lane = lane.name(),
                connections,
                before,
                "connection budget of a lane changed"
            ),
            Self::CredentialReloaded { credential } => {
                tracing::info!(credential, "credential reloaded from its file");
            }
            Self::TokenReplaced { credential } => {
                tracing::info!(credential, "provider token replaced");
            }
            Self::TokenUnrecorded { credential } => tracing::warn!(
                credential,
                "provider token given out unrecorded: the store does not answer"
            ),
            Self::RecordsFailed { error, times } => {
                tracing::warn!(%error, times, "records of the lanes not stored; retrying");
            }
            Self::TokenFailed { credential, has_token, error, times, is_passing: true } => {
                tracing::warn!(
                    credential,
                    has_token,
                    error,
                    times,
                    "provider token not renewed; retrying"
                );
            }
            Self::TokenFailed { credential, has_token, error, times, is_passing: false } => {
                tracing::error!(
                    credential,
                    has_token,
                    error,
                    times,
                    "provider token not renewed; check the credential"
                );
            }
            Self::EndConnected { lane, node } => {
                tracing::info!(lane, %node, "lane connected for the first time");
            }
            Self::TroubleEnded { lane, node } => tracing::info!(lane, %node, "lane trouble ended"),
            Self::Trouble { end, times } => write_trouble(end, *times),
        }
    }
}

fn write_trouble(end: &LaneStatus, times: u64) {
    let LaneStatus { lane, node, health, detail, since, next_probe } = end;
    let (since, next_probe) = (since.map(|at| at.0), next_probe.map(|at| at.0));
    match health {
        // These need an operator: they do not pass by themselves.
        LaneHealth::Credential | LaneHealth::Project | LaneHealth::Campaign => tracing::error!(
            lane,
            %node,
            ?health,
            detail,
            since,
            next_probe,
            times,
            "lane needs an operator"
        ),
        _ => tracing::warn!(
            lane,
            %node,
            ?health,
            detail,
            since,
            next_probe,
            times,
            "lane trouble began"
        ),
    }
}
