//! How leave to send is shared out between nodes. Pure.
//!
//! A node's part is its partitions out of all: devices are spread over partitions by a hash, so this is also its part of
//! the devices, and nobody has to move shares about while an alert runs. The parts of all nodes together never exceed
//! the whole: divisions round down.

use crate::lane_owner::Quota;

/// How long a grant or a slice holds on the node's clock, from when it asked. A node asks several times a second, so it
/// survives some 4 s without an answer; a node that is cut off goes on for 5 s at most.
pub(crate) const LEASE_MS: u32 = 5_000;

/// A node's part of an alert's rate, in thousandths a second; 0 stands for no limit.
///
/// A limited alert never yields 0: a node with a partition gets a thousandth at least.
pub(crate) fn rate_millis(max_rate_per_second: u32, partitions: u16, partition_count: u16) -> u64 {
    match max_rate_per_second {
        0 => 0,
        rate => part(u64::from(rate) * 1_000, partitions, partition_count).max(1),
    }
}

/// A node's part of a lane's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlicePart {
    /// Both 0: the lane has no quota.
    pub(crate) rate_millis_per_second: u64,
    pub(crate) burst: u32,
}

impl SlicePart {
    pub(crate) const UNLIMITED: Self = Self { rate_millis_per_second: 0, burst: 0 };
}

/// Divides a quota: in any minute, however it is aligned, a bucket of `burst` filled at `rate` lets through
/// `burst + 60 × rate` at most, so that sum over all nodes must not exceed the quota.
///
/// `fresh`: a former process of this node may have emptied its bucket within the last minute, and the new one would
/// begin with a full one. Then it gets one request of burst, until that minute is over.
pub(crate) fn slice(quota: Quota, partitions: u16, partition_count: u16, fresh: bool) -> SlicePart {
    let per_minute = u64::from(quota.per_minute.max(1));
    // Every node needs a whole request of burst to send at all, so the burst is at least 1 for each partition, and
    // half of the quota at most, so that something is left for the rate.
    let wanted = quota.burst.map_or(per_minute / 60, u64::from).max(u64::from(partition_count));
    let burst = wanted.min(per_minute / 2).max(1);
    let rate_millis = (per_minute - burst) * 1_000 / 60;
    let mine = part(burst, partitions, partition_count);
    SlicePart {
        rate_millis_per_second: part(rate_millis, partitions, partition_count).max(1),
        burst: if fresh { 1 } else { u32::try_from(mine).unwrap_or(u32::MAX).max(1) },
    }
}

/// Rounds down.
fn part(whole: u64, partitions: u16, partition_count: u16) -> u64 {
    let product = u128::from(whole) * u128::from(partitions) / u128::from(partition_count.max(1));
    u64::try_from(product).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_limit_stays_no_limit() {
        assert_eq!(rate_millis(0, 3, 64), 0);
    }

    #[test]
    fn a_limit_never_becomes_none() {
        assert_eq!(rate_millis(1, 1, 4_096), 1, "0.24 thousandths, rounded up to the least there is");
    }

    #[test]
    fn half_the_partitions_are_half_the_rate() {
        assert_eq!(rate_millis(1_000, 32, 64), 500_000);
    }

    proptest! {
        #[test]
        fn any_minute_of_all_nodes_stays_within_the_quota(
            per_minute in 128u32..2_000_000,
            burst in proptest::option::of(1u32..1_000_000),
            cuts in proptest::collection::vec(1u16..64, 0..6),
        ) {
            // 64 partitions cut into runs, one for each node.
            let mut edges = cuts;
            edges.extend([0, 64]);
            edges.sort_unstable();
            edges.dedup();
            let quota = Quota { per_minute, burst };
            let spent: u64 = edges.windows(2).map(|w| {
                let part = slice(quota, w[1] - w[0], 64, false);
                u64::from(part.burst) * 1_000 + part.rate_millis_per_second * 60
            }).sum();
            prop_assert!(spent <= u64::from(per_minute) * 1_000, "{} of {}", spent, per_minute);
        }
    }
}
