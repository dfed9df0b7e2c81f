//! Decides which coordinator directs the lanes of the node. Pure.
//!
//! Every coordinator could hand out a lane's whole quota, so exactly one of them may do so. The
//! store's record of that role has a number, the lanes epoch, which each coordinator sends in Open:
//! the open session with the highest number directs the lanes. Of two sessions with the same
//! number, which a correct store never gives out, the earlier one directs.

use std::collections::BTreeMap;

use clarion_proto::ids::{CoordinatorId, Epoch};

/// The open sessions with their lanes epochs, and the one that directs the lanes.
#[derive(Debug, Default)]
pub(super) struct LaneDirection {
    open: BTreeMap<CoordinatorId, Epoch>,
    director: Option<CoordinatorId>,
}

impl LaneDirection {
    /// A coordinator's session begins. It states all of its lanes afterwards.
    pub(super) fn open(&mut self, coordinator: CoordinatorId, epoch: Epoch) {
        self.open.insert(coordinator, epoch);
        let present = self.director.and_then(|director| self.open.get(&director));
        if present.is_none_or(|present| epoch > *present) {
            self.director = Some(coordinator);
        }
    }

    /// A coordinator's session ends. Returns the coordinator that directs the lanes from now on, if
    /// that is another one than before: it must state its lanes again.
    pub(super) fn close(&mut self, coordinator: CoordinatorId) -> Option<CoordinatorId> {
        self.open.remove(&coordinator);
        if self.director != Some(coordinator) {
            return None;
        }
        let highest = self.open.iter().max_by_key(|(_, epoch)| **epoch);
        self.director = highest.map(|(coordinator, _)| *coordinator);
        self.director
    }

    /// Whether this coordinator directs the lanes.
    pub(super) fn is_director(&self, coordinator: CoordinatorId) -> bool {
        self.director == Some(coordinator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(coordinator: u8) -> CoordinatorId {
        CoordinatorId([coordinator; 16])
    }

    #[test]
    fn the_highest_open_epoch_directs_and_the_next_one_follows_when_it_ends() {
        let mut direction = LaneDirection::default();
        direction.open(id(1), Epoch(4));
        direction.open(id(2), Epoch(7));
        direction.open(id(3), Epoch(5));
        assert!(direction.is_director(id(2)));
        assert_eq!(direction.close(id(1)), None, "it did not direct the lanes");
        assert_eq!(direction.close(id(2)), Some(id(3)));
        assert!(direction.is_director(id(3)));
        assert_eq!(direction.close(id(3)), None);
        assert!(!direction.is_director(id(3)));
    }

    #[test]
    fn the_same_epoch_stays_with_the_earlier_session() {
        let mut direction = LaneDirection::default();
        direction.open(id(2), Epoch(4));
        direction.open(id(1), Epoch(4));
        direction.open(id(2), Epoch(4));
        assert!(direction.is_director(id(2)));
    }
}
