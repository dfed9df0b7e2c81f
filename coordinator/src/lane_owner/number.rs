//! Numbers of lanes: functions of their names, so that every coordinator of a cluster gives a lane
//! the same number.

use clarion_proto::{ids::LaneId, time::Time};
use clarion_runtime::world::Moment;

use super::{LaneOwner, log::Log};
use crate::lane::LaneKey;

impl LaneOwner {
    /// The number of a new lane: a hash of its name, or the next free number if another lane has
    /// that hash (probability one in four thousand million).
    pub(super) fn free_id(&self, key: &LaneKey) -> LaneId {
        let mut id = hash(key);
        while id.0 == 0 || self.lanes.values().any(|lane| lane.id == id) {
            id.0 = id.0.wrapping_add(1);
        }
        id
    }

    /// Creates the lane with this number if the configuration has its gateway and credential.
    /// Another coordinator has created it at the nodes, for an app or an alert of its own, and the
    /// nodes ask this coordinator for its quota. A number that the configuration does not explain is
    /// logged: the nodes send nothing through that lane while this coordinator directs the lanes.
    pub(crate) fn ensure_id(&mut self, lane: LaneId, now: Moment) {
        let keys = self.gateways.keys().flat_map(|gateway| {
            let key = |credential: &String| LaneKey {
                gateway: gateway.clone(),
                credential: credential.clone(),
            };
            self.credentials.keys().map(key)
        });
        let Some(key) = keys.into_iter().find(|key| hash(key) == lane) else {
            // Each node asks twice a second.
            if let Some(times) = self.unknown.note("", now.at.since(Time(0))) {
                self.log(Log::LaneUnknown { lane, times });
            }
            return;
        };
        if let Err(error) = self.ensure(&key) {
            self.log(Log::LaneNotCreated { error });
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // the lower half of a hash is a hash
fn hash(key: &LaneKey) -> LaneId {
    let name = format!("{}/{}", key.gateway, key.credential);
    LaneId(xxhash_rust::xxh3::xxh3_64(name.as_bytes()) as u32)
}
