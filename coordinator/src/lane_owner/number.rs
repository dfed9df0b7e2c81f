//! Numbers of lanes: functions of their names, so that every coordinator of a cluster gives a lane
//! the same number.

use clarion_proto::ids::LaneId;

use super::{LaneOwner, Table};
use crate::{clock::Clock, lane::LaneKey, standing::Board};

/// The number of a lane: a hash of its name, or the next free number if another lane has that hash
/// (probability one in four thousand million).
pub(super) fn free_id(key: &LaneKey, table: &Table) -> LaneId {
    let mut id = hash(key);
    while id.0 == 0 || table.lanes.values().any(|lane| lane.id == id) {
        id.0 = id.0.wrapping_add(1);
    }
    id
}

#[allow(clippy::cast_possible_truncation)] // the lower half of a hash is a hash
fn hash(key: &LaneKey) -> LaneId {
    let name = format!("{}/{}", key.gateway, key.credential);
    LaneId(xxhash_rust::xxh3::xxh3_64(name.as_bytes()) as u32)
}

impl LaneOwner {
    /// Creates the lane with this number if the configuration has its gateway and credential.
    /// Another coordinator has created it at the nodes, for an app or an alert of its own, and the
    /// nodes ask this coordinator for its quota. A number that the configuration does not explain
    /// is ignored: the nodes send nothing through that lane.
    pub(crate) fn ensure_id(&self, lane: LaneId, board: &Board, clock: &Clock) {
        let credentials: Vec<String> = self.table.lock().credentials.keys().cloned().collect();
        let keys = self.gateways.keys().flat_map(|gateway| {
            let key = |credential: &String| LaneKey {
                gateway: gateway.clone(),
                credential: credential.clone(),
            };
            credentials.iter().map(key)
        });
        if let Some(key) = keys.into_iter().find(|key| hash(key) == lane)
            && let Err(error) = self.ensure(&key, board, clock)
        {
            tracing::warn!(%error, "lane of another coordinator not created");
        }
    }
}
