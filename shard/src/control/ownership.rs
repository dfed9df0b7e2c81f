//! The assignment of partitions to cores, and the partitions that a change of ownership brings.
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
//! ownerships gives the same assignment everywhere. Two bounds hold for any number of gained and
//! lost partitions (the tests prove both):
//!
//! - A core that gained a partition holds at most one partition more than the core with the fewest:
//!   no core held fewer when it gained the last partition, and no load shrinks meanwhile.
//! - So the fullest core holds at most `partitions / cores`, rounded up, unless it gained no
//!   partition. An excess over an even share is therefore the result of losses of other cores.
//!
//! Each partition has a position of its own in its log, so a gained partition disturbs no kept one:
//! the stream of a log begins at the lowest position of the log's partitions, and partitions that
//! are further on skip what they have.

use std::collections::BTreeSet;

use clarion_proto::ids::{LogId, LogIdentity, PartitionId, log_of};

/// One numbered ownership of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Identity of the log that the partitions are built from.
    pub log: LogIdentity,
    /// Number of the ownership: grows with every change; comparable only within one log.
    pub number: u64,
    /// Number of partitions of the cluster, P.
    pub partition_count: u16,
    /// Number of logs of the cluster, L.
    pub log_count: u16,
    /// Partitions of this node, sorted, without duplicates.
    pub partitions: Vec<PartitionId>,
}

/// An ownership whose partitions are assigned to the cores of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    owned: Ownership,
    /// The core of each partition, in the order of [`Ownership::partitions`].
    core_of: Vec<usize>,
    cores: usize,
}

/// The transition from one assignment to the next.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// The assignment afterwards.
    pub assignment: Assignment,
    /// Partitions that the node did not hold before.
    pub gained: BTreeSet<PartitionId>,
}

impl Assignment {
    /// The ownership whose partitions are assigned.
    #[must_use]
    pub fn owned(&self) -> &Ownership {
        &self.owned
    }

    /// Number of cores of the node.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// The core of a partition; `None`: this node does not own the partition.
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

    /// Each partition with its core and its log.
    pub fn places(&self) -> impl Iterator<Item = (PartitionId, usize, LogId)> + '_ {
        self.pairs().map(|(p, core)| (p, core, log_of(p, self.owned.log_count)))
    }

    /// Keeps each partition of `old` on its core and assigns the new partitions to the cores with
    /// the fewest partitions.
    fn assign(old: Option<&Self>, owned: Ownership, cores: usize) -> Self {
        let kept = owned.partitions.iter().map(|p| old.and_then(|old| old.core_of(*p)));
        let kept: Vec<Option<usize>> = kept.collect();
        let mut loads = vec![0_usize; cores];
        kept.iter().flatten().for_each(|core| loads[*core] += 1);
        let mut place = |core: Option<usize>| {
            core.unwrap_or_else(|| {
                // `min_by_key` returns the first of equal cores, so the lowest number wins.
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

/// The change from `old` (`None`: the node holds no usable data) to `new`.
#[must_use]
pub fn change(old: Option<&Assignment>, new: Ownership, cores: usize) -> Change {
    let of = |o: &Ownership| (o.log, o.partition_count, o.log_count);
    let old = old.filter(|old| of(&old.owned) == of(&new));
    let assignment = Assignment::assign(old, new, cores);
    let held = |p: &PartitionId| old.is_some_and(|old| old.core_of(*p).is_some());
    let gained = assignment.owned.partitions.iter().copied().filter(|p| !held(p)).collect();
    Change { assignment, gained }
}

#[cfg(test)]
#[path = "ownership_tests.rs"]
mod tests;
