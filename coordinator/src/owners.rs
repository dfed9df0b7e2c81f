//! Ownership of partitions: rendezvous hashing, kept within one partition of an even share.
//!
//! A hash of a node's and a partition's names is the node's score for the partition; a partition
//! goes to the node with the highest score that still has room. Pure rendezvous hashing would split
//! 64 partitions on two nodes about 36 to 28, and a wave is as slow as its fullest node. The cap
//! moves a few more partitions when a node joins or leaves.
//!
//! An ownership is immutable and has a number. A message about work carries the number, and a node
//! that holds a different number refuses the message and returns its number. Each partition has one
//! owner (R = 1).

use std::{collections::BTreeMap, fmt};

use clarion_proto::{
    error::InvalidField,
    ids::{LogId, PARTITIONS_MAX, PartitionId, log_of},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A node's configured name, stable over its restarts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(std::sync::Arc<str>);

impl NodeName {
    /// Checks a name: 1 to 253 bytes (the limit of host names) without blanks.
    ///
    /// # Errors
    /// The name is empty, too long, or has blanks or control characters.
    pub fn new(name: &str) -> Result<Self, InvalidField> {
        if name.is_empty()
            || name.len() > 253
            || name.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            let problem =
                format!("must be 1 to 253 bytes without blanks; got {} bytes", name.len());
            return Err(InvalidField::new("node", problem));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Assignment of every partition to its owner node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Number of the ownership; grows with every change.
    pub number: u64,
    nodes: Vec<NodeName>,
    /// Owner of each partition, as an index into `nodes`.
    owners: Vec<u32>,
}

impl Ownership {
    /// Assigns every partition to one of the nodes; without nodes, to none. The order of `nodes`
    /// does not matter.
    #[must_use]
    pub fn assign(number: u64, partition_count: u16, nodes: &[NodeName]) -> Self {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes.dedup();
        let mut owners = Vec::new();
        if !nodes.is_empty() {
            // ⌈P / n⌉ for each: together at least P, so that the last partition still finds room.
            let room = usize::from(partition_count).div_ceil(nodes.len());
            let mut owned = vec![0usize; nodes.len()];
            for partition in 0..partition_count {
                let score = |i: &usize| {
                    xxh3_64_with_seed(nodes[*i].as_str().as_bytes(), u64::from(partition))
                };
                let owner =
                    (0..nodes.len()).filter(|&i| owned[i] < room).max_by_key(|i| (score(i), *i));
                let owner = owner.expect("n × ⌈P / n⌉ is at least P");
                owned[owner] += 1;
                owners.push(u32::try_from(owner).expect("fewer nodes than 2^32"));
            }
        }
        Self { number, nodes, owners }
    }

    /// An ownership as the store recorded it: the nodes, and the owner of each partition as an index
    /// into them.
    ///
    /// # Errors
    /// The nodes are not in order, an index is not one of a node, or there are more partitions than
    /// a cluster has.
    pub fn from_parts(
        number: u64,
        nodes: Vec<NodeName>,
        owners: Vec<u32>,
    ) -> Result<Self, InvalidField> {
        if !nodes.is_sorted_by(|a, b| a < b) {
            return Err(InvalidField::new("nodes", "must ascend"));
        }
        if let Some(owner) = owners.iter().find(|&&owner| owner as usize >= nodes.len()) {
            let problem = format_args!("must be below {}; got {owner}", nodes.len());
            return Err(InvalidField::new("owners", problem));
        }
        if owners.len() > usize::from(PARTITIONS_MAX) {
            let problem = format_args!("must be at most {PARTITIONS_MAX}; got {}", owners.len());
            return Err(InvalidField::new("owners", problem));
        }
        Ok(Self { number, nodes, owners })
    }

    /// Owner of each partition, as an index into [`Ownership::nodes`].
    #[must_use]
    pub fn owners(&self) -> &[u32] {
        &self.owners
    }

    /// Owner of a partition; `None`: there are no nodes.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> Option<&NodeName> {
        self.owners.get(usize::from(partition.0)).map(|&i| &self.nodes[i as usize])
    }

    /// Partitions that a node owns, ascending.
    #[must_use]
    pub fn partitions_of(&self, node: &NodeName) -> Vec<PartitionId> {
        let partitions = (0u16..).zip(&self.owners);
        partitions
            .filter(|&(_, &i)| self.nodes[i as usize] == *node)
            .map(|(p, _)| PartitionId(p))
            .collect()
    }

    /// All nodes, sorted by name.
    #[must_use]
    pub fn nodes(&self) -> &[NodeName] {
        &self.nodes
    }

    /// Number of partitions, P.
    #[must_use]
    pub fn partition_count(&self) -> u16 {
        u16::try_from(self.owners.len()).expect("made from a u16")
    }
}

/// Ownership of all partitions, with the share of each node.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) ownership: Ownership,
    pub(crate) partition_count: u16,
    pub(crate) log_count: u16,
    /// Nodes with at least one partition, and their number of partitions.
    nodes: BTreeMap<NodeName, u16>,
}

impl Owned {
    pub(crate) fn new(ownership: Ownership, partition_count: u16, log_count: u16) -> Self {
        let mut nodes = BTreeMap::new();
        for partition in (0..partition_count).map(PartitionId) {
            if let Some(node) = ownership.owner(partition) {
                *nodes.entry(node.clone()).or_insert(0) += 1;
            }
        }
        Self { ownership, partition_count, log_count, nodes }
    }

    /// Nodes with at least one partition, and their number of partitions.
    pub(crate) fn nodes(&self) -> &BTreeMap<NodeName, u16> {
        &self.nodes
    }

    /// Number of partitions that a node owns.
    pub(crate) fn share(&self, node: &NodeName) -> u16 {
        self.nodes.get(node).copied().unwrap_or(0)
    }

    /// Logs of a node's partitions, ascending, without duplicates.
    pub(crate) fn logs_of(&self, node: &NodeName) -> impl Iterator<Item = LogId> + use<> {
        let mut logs: Vec<_> = self
            .ownership
            .partitions_of(node)
            .into_iter()
            .map(|p| log_of(p, self.log_count))
            .collect();
        logs.sort_unstable();
        logs.dedup();
        logs.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(n: usize) -> Vec<NodeName> {
        (0..n).map(|i| NodeName::new(&format!("shard-{i}")).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn every_partition_has_one_owner_and_shares_are_even(partitions in 1u16..2_000, n in 1usize..20) {
            let names = nodes(n);
            let ownership = Ownership::assign(1, partitions, &names);
            let counts: Vec<usize> = names.iter().map(|node| ownership.partitions_of(node).len()).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), usize::from(partitions));
            prop_assert!(counts.iter().all(|&c| c <= usize::from(partitions).div_ceil(n)));
            let mut shuffled = names;
            shuffled.reverse();
            prop_assert_eq!(&Ownership::assign(1, partitions, &shuffled), &ownership);
        }

        #[test]
        fn a_join_moves_little_but_its_own_share(n in 2usize..12) {
            let before = Ownership::assign(1, 1_024, &nodes(n));
            let after = Ownership::assign(2, 1_024, &nodes(n + 1));
            let moved = (0..1_024).filter(|&p| before.owner(PartitionId(p)) != after.owner(PartitionId(p))).count();
            // its share is 1024 / (n + 1); the caps move up to about as many again
            prop_assert!(moved <= 2 * 1_024 / (n + 1) + 64, "{moved}");
        }
    }

    #[test]
    fn without_nodes_nobody_owns_anything() {
        assert_eq!(Ownership::assign(1, 64, &[]).owner(PartitionId(3)), None);
    }
}
