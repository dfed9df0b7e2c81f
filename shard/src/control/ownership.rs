//! Which partition is whose, and what a change of that costs.
//!
//! A partition belongs to the core at its place in the node's sorted list, modulo the cores: no
//! table, the same answer everywhere. A core follows each log at one position for all of its
//! partitions of that log. So when a core gains a partition, that log must be read again from its
//! beginning for this core, and partitions of the log which the core held before are rebuilt as
//! well: applying a prefix twice would move the clock of `apply` backwards. With as many logs as
//! partitions (a laptop) nothing that stays is rebuilt; changes are rare (joins, drains, 60 s of
//! absence).

use std::collections::BTreeSet;

use clarion_proto::ids::{LogId, LogIdentity, PartitionId, log_of};

/// One numbered ownership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// What the partitions are built from.
    pub log: LogIdentity,
    /// Grows with every change; compared within one log.
    pub number: u64,
    /// P of the cluster.
    pub partition_count: u16,
    /// L of the cluster.
    pub log_count: u16,
    /// This node's, sorted, without repeats.
    pub partitions: Vec<PartitionId>,
}

/// What one core has of one log: the unit at which positions are kept.
pub type Follows = (usize, LogId);

impl Ownership {
    /// The core of a partition, of so many; `None`: not this node's.
    #[must_use]
    pub fn core_of(&self, partition: PartitionId, cores: usize) -> Option<usize> {
        self.partitions.binary_search(&partition).ok().map(|index| index % cores)
    }

    /// Each core's partitions, sorted.
    #[must_use]
    pub fn shares(&self, cores: usize) -> Vec<Vec<PartitionId>> {
        let mut shares = vec![Vec::new(); cores];
        for (index, partition) in self.partitions.iter().enumerate() {
            shares[index % cores].push(*partition);
        }
        shares
    }

    /// Which core follows which log.
    #[must_use]
    pub fn follows(&self, cores: usize) -> BTreeSet<Follows> {
        let logs = self.partitions.iter().map(|p| log_of(*p, self.log_count));
        logs.enumerate().map(|(index, log)| (index % cores, log)).collect()
    }
}

/// How to get from one ownership to the next.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// What each core keeps for now: everything that it has and need not rebuild.
    pub keep: Vec<Vec<PartitionId>>,
    /// What each core owns afterwards.
    pub own: Vec<Vec<PartitionId>>,
    /// What goes on from where it was; everything else starts at the beginning of its log.
    pub continues: BTreeSet<Follows>,
}

/// The change from `old` (`None`: nothing held, or nothing of it can be trusted) to `new`.
#[must_use]
pub fn change(old: Option<&Ownership>, new: &Ownership, cores: usize) -> Change {
    let own = new.shares(cores);
    let of = |o: &Ownership| (o.log, o.partition_count, o.log_count);
    let old = old.filter(|o| of(o) == of(new));
    let before = old.map_or_else(|| vec![Vec::new(); cores], |o| o.shares(cores));
    let log = |p: &PartitionId| log_of(*p, new.log_count);

    let gains = |core: usize, p: &PartitionId| before[core].binary_search(p).is_err();
    let mut continues = old.map(|o| o.follows(cores)).unwrap_or_default();
    for (core, share) in own.iter().enumerate() {
        for partition in share.iter().filter(|p| gains(core, p)) {
            continues.remove(&(core, log(partition)));
        }
    }
    let follows = new.follows(cores);
    continues.retain(|f| follows.contains(f));
    let keep = own.iter().enumerate().map(|(core, share)| {
        let kept = |p: &&PartitionId| !gains(core, p) && continues.contains(&(core, log(p)));
        share.iter().filter(kept).copied().collect()
    });
    Change { keep: keep.collect(), own, continues }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ownership(partition_count: u16, log_count: u16, partitions: &[u16]) -> Ownership {
        let partitions = partitions.iter().map(|p| PartitionId(*p)).collect();
        Ownership { log: LogIdentity([1; 16]), number: 1, partition_count, log_count, partitions }
    }

    fn ids(lists: &[&[u16]]) -> Vec<Vec<PartitionId>> {
        lists.iter().map(|l| l.iter().map(|p| PartitionId(*p)).collect()).collect()
    }

    #[test]
    fn a_partition_belongs_to_the_core_at_its_place_in_the_sorted_list() {
        let o = ownership(64, 64, &[3, 10, 11, 40]);
        assert_eq!(o.shares(3), ids(&[&[3, 40], &[10], &[11]]));
        assert_eq!(o.core_of(PartitionId(40), 3), Some(0));
        assert_eq!(o.core_of(PartitionId(4), 3), None);
    }

    #[test]
    fn the_first_ownership_starts_everything_at_the_beginning() {
        let change = change(None, &ownership(64, 64, &[0, 1, 2]), 2);
        assert_eq!(change.keep, ids(&[&[], &[]]));
        assert_eq!(change.own, ids(&[&[0, 2], &[1]]));
        assert!(change.continues.is_empty());
    }

    #[test]
    fn what_stays_on_its_core_goes_on() {
        // 9 joins behind: 0 and 2 stay on core 0, 1 on core 1, 9 goes to core 1.
        let change =
            change(Some(&ownership(64, 64, &[0, 1, 2])), &ownership(64, 64, &[0, 1, 2, 9]), 2);
        assert_eq!(change.keep, ids(&[&[0, 2], &[1]]));
        assert_eq!(change.continues, [(0, LogId(0)), (1, LogId(1)), (0, LogId(2))].into());
    }

    #[test]
    fn a_partition_that_changes_its_core_is_rebuilt() {
        // 0 leaves: 1 moves from core 1 to core 0, 2 from core 0 to core 1.
        let change = change(Some(&ownership(64, 64, &[0, 1, 2])), &ownership(64, 64, &[1, 2]), 2);
        assert_eq!(change.keep, ids(&[&[], &[]]));
        assert!(change.continues.is_empty());
    }

    #[test]
    fn a_gain_rebuilds_what_shares_its_log_on_that_core() {
        // Partitions 0 and 4 share log 0; with one core both are core 0's.
        let change = change(Some(&ownership(8, 4, &[0, 1])), &ownership(8, 4, &[0, 1, 4]), 1);
        assert_eq!(change.keep, ids(&[&[1]]));
        assert_eq!(change.own, ids(&[&[0, 1, 4]]));
        assert_eq!(change.continues, [(0, LogId(1))].into());
    }

    #[test]
    fn a_loss_rebuilds_nothing() {
        let change = change(Some(&ownership(8, 4, &[0, 1, 4])), &ownership(8, 4, &[0, 1]), 1);
        assert_eq!(change.keep, ids(&[&[0, 1]]));
        assert_eq!(change.continues, [(0, LogId(0)), (0, LogId(1))].into());
    }

    #[test]
    fn nothing_of_another_log_goes_on() {
        let old = ownership(8, 4, &[0, 1]);
        let new = Ownership { log: LogIdentity([2; 16]), ..old.clone() };
        let change = change(Some(&old), &new, 1);
        assert_eq!((change.keep, change.continues.len()), (ids(&[&[]]), 0));
        assert_eq!(change.own, ids(&[&[0, 1]]));
    }

    #[test]
    fn another_partition_count_is_another_cluster() {
        let change = change(Some(&ownership(8, 4, &[0, 1])), &ownership(16, 4, &[0, 1]), 1);
        assert_eq!((change.keep, change.continues.len()), (ids(&[&[]]), 0));
    }
}
