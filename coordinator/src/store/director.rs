//! The record of the coordinator that directs the lanes of the cluster.

use clarion_proto::ids::{CoordinatorId, Epoch};

/// The coordinator that directs the lanes of the cluster: its provider tokens, connections and
/// slices of quotas count at every node. A coordinator takes the role over by the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneDirector {
    /// Number of the record: from 1, one more with every change. Nodes follow the highest number.
    pub epoch: Epoch,
    /// The coordinator process.
    pub coordinator: CoordinatorId,
}

impl LaneDirector {
    /// The record with which a coordinator takes the role over from the coordinator of `stored`.
    #[must_use]
    pub fn after(stored: Option<Self>, coordinator: CoordinatorId) -> Self {
        let epoch = Epoch(stored.map_or(0, |stored| stored.epoch.0) + 1);
        Self { epoch, coordinator }
    }
}
