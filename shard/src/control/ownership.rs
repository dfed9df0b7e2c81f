//! Which partition belongs to which core, and what a change of ownership costs.
//!
//! ```text
//!            old assignment + new list of partitions
//!                              │
//!            ┌─────────────────┼──────────────────────────┐
//!       in both lists     only in the old        only in the new
//!      keeps its core     leaves its core        goes to the core with the fewest partitions,
//!                                                the lowest number among equals
//! ```
//!
//! The new partitions are assigned in the order of their numbers, so the same sequence of
//! ownerships gives the same assignment everywhere. Two bounds follow, however many partitions come
//! and go (the tests prove both):
//!
//! - a core that gained a partition holds at most one more than the core that holds the fewest: it
//!   held no more than any other when it gained the last one, and no load shrinks meanwhile;
//! - so the fullest core holds at most `partitions / cores`, rounded up, unless it only kept what
//!   it had. What exceeds an even share is thus what losses of the other cores have left behind.
//!
//! A core follows each log at one position for all of its partitions of that log. So when a core
//! gains a partition, that log must be read again from its beginning for this core, and partitions
//! of the log which the core held before are rebuilt as well: applying a prefix twice would move
//! the clock of `apply` backwards. With as many logs as partitions (a laptop) nothing that stays is
//! rebuilt; changes are rare (joins, drains, 60 s of absence).

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

/// An ownership whose partitions are assigned to the cores of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    owned: Ownership,
    /// The core of each partition, in the order of [`Ownership::partitions`].
    core_of: Vec<usize>,
    cores: usize,
}

/// How to get from one assignment to the next.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// The assignment afterwards.
    pub assignment: Assignment,
    /// What each core held before and keeps, but has to build anew from its log.
    pub rebuilt: Vec<Vec<PartitionId>>,
    /// What goes on from where it was; everything else starts at the beginning of its log.
    pub continues: BTreeSet<Follows>,
}

impl Assignment {
    /// The ownership whose partitions are assigned.
    #[must_use]
    pub fn owned(&self) -> &Ownership {
        &self.owned
    }

    /// How many cores the node has.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// The core of a partition; `None`: not this node's.
    #[must_use]
    pub fn core_of(&self, partition: PartitionId) -> Option<usize> {
        self.owned.partitions.binary_search(&partition).ok().map(|index| self.core_of[index])
    }

    /// Each core's partitions, sorted.
    #[must_use]
    pub fn shares(&self) -> Vec<Vec<PartitionId>> {
        let mut shares = vec![Vec::new(); self.cores];
        for (partition, core) in self.pairs() {
            shares[core].push(partition);
        }
        shares
    }

    /// Which core follows which log.
    #[must_use]
    pub fn follows(&self) -> BTreeSet<Follows> {
        self.pairs().map(|(p, core)| (core, log_of(p, self.owned.log_count))).collect()
    }

    /// Keeps each partition of `old` on its core and gives the others to the least loaded ones.
    fn assign(old: Option<&Self>, owned: Ownership, cores: usize) -> Self {
        let kept = owned.partitions.iter().map(|p| old.and_then(|old| old.core_of(*p)));
        let kept: Vec<Option<usize>> = kept.collect();
        let mut loads = vec![0_usize; cores];
        kept.iter().flatten().for_each(|core| loads[*core] += 1);
        let mut place = |core: Option<usize>| {
            core.unwrap_or_else(|| {
                // The first of several that are least.
                let least = (0..cores).min_by_key(|core| loads[*core]).unwrap_or(0);
                loads[least] += 1;
                least
            })
        };
        let core_of = kept.into_iter().map(&mut place).collect();
        Self { owned, core_of, cores }
    }

    fn pairs(&self) -> impl Iterator<Item = (PartitionId, usize)> + '_ {
        self.owned.partitions.iter().copied().zip(self.core_of.iter().copied())
    }
}

/// The change from `old` (`None`: the node holds nothing that may be used) to `new`.
#[must_use]
pub fn change(old: Option<&Assignment>, new: Ownership, cores: usize) -> Change {
    let of = |o: &Ownership| (o.log, o.partition_count, o.log_count);
    let old = old.filter(|old| of(&old.owned) == of(&new));
    let assignment = Assignment::assign(old, new, cores);
    let log = |p: PartitionId| log_of(p, assignment.owned.log_count);
    let held = |p: PartitionId| old.is_some_and(|old| old.core_of(p).is_some());

    let mut continues = old.map(Assignment::follows).unwrap_or_default();
    for (partition, core) in assignment.pairs().filter(|(p, _)| !held(*p)) {
        continues.remove(&(core, log(partition)));
    }
    let follows = assignment.follows();
    continues.retain(|f| follows.contains(f));
    let mut rebuilt = vec![Vec::new(); cores];
    for (partition, core) in assignment.pairs().filter(|(p, _)| held(*p)) {
        if !continues.contains(&(core, log(partition))) {
            rebuilt[core].push(partition);
        }
    }
    Change { assignment, rebuilt, continues }
}

/// The same assignment, everything built anew: the log has lost some of what was applied.
#[must_use]
pub fn rebuild(assignment: Assignment) -> Change {
    let rebuilt = assignment.shares();
    Change { assignment, rebuilt, continues: BTreeSet::new() }
}

#[cfg(test)]
#[path = "ownership_tests.rs"]
mod tests;
