//! Division of rates and quotas between nodes. Pure.
//!
//! A node's part is its share of the partitions: a hash spreads the devices over the partitions, so
//! this is also its share of the devices, and no share has to move while an alert runs. The parts
//! of all nodes together never exceed the whole, because divisions round down.

use std::time::Duration;

use super::{Quota, ramp::SHARE_MAX};

/// Time for which a grant or a slice is valid, milliseconds on the node's clock since its request.
///
/// A node renews its leases several times a second, so it survives some 4 s without an answer; a
/// node without a connection sends for 5 s at most.
pub(crate) const LEASE_MS: u32 = 5_000;
/// [`LEASE_MS`] as a duration.
pub(crate) const LEASE: Duration = Duration::from_millis(LEASE_MS as u64);

/// A node's part of an alert's rate, in thousandths of a push per second; 0 means no limit.
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
    /// Rate in thousandths of a request per second; 0 together with `burst` 0: no quota.
    pub(crate) rate_millis_per_second: u64,
    pub(crate) burst: u32,
}

impl SlicePart {
    pub(crate) const UNLIMITED: Self = Self { rate_millis_per_second: 0, burst: 0 };
}

/// Window in which requests count against a quota, milliseconds.
///
/// The quota limits arrivals in any 60 s. Requests sent within 62 s may arrive within 60 s, if the
/// first request is delayed by 2 s more than the last (a lost packet and its repeat, a core that
/// had to wait). The longer window costs a thirtieth of the rate.
const WINDOW_MS: u64 = 62_000;

/// State of a lane and a node at the request for a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    /// Number of partitions of the node.
    pub(crate) partitions: u16,
    /// Number of partitions of all nodes.
    pub(crate) partition_count: u16,
    /// Thousandths of the quota that the lane uses now; see [`crate::lane::ramp`].
    pub(crate) share: u64,
    /// Time since another process can last have had a slice of the node's part.
    pub(crate) alone_for: Duration,
}

/// A node's slice of a quota, such that all nodes together stay within the quota in any minute;
/// `None`: the node gets no slice now and must not send.
///
/// A token bucket of size `burst`, filled at `rate`, admits at most `burst + rate × window`
/// requests in any window. Parts round down, so the sum over all nodes is at most the quota:
///
/// - The node gives each of its cores an equal part of its slice, and at least one request of
///   burst. Its partitions are spread over its cores and a core without one sends nothing, so a
///   node's burst is never exceeded if it is at least its partitions. All bursts together are
///   therefore at least the partitions, and half of the quota at most; the configuration is checked
///   for this (quota ≥ 2 × partitions).
/// - A new process of a node starts with a full bucket, although the former process may just have
///   emptied its bucket, or may still hold a lease that cannot be revoked; and a restarted
///   coordinator does not know the slices of the former coordinator. So a process first gets the
///   burst that the former bucket would hold by now, had it been empty at the end of its last
///   lease: `rate × alone_for`, and no slice while that is less than a request for each partition.
///   With a burst of one second, this phase ends a second after the lease.
/// - Several coordinators may live at once. A process of a node takes slices from one of them, into
///   the same bucket as before: the one that directs the lanes.
/// - A ramp lowers rate and burst, never raises them. A slice with another rate changes the inflow
///   of the bucket, not its content.
pub(crate) fn slice(quota: Quota, claim: Claim) -> Option<SlicePart> {
    let Claim { partitions, partition_count, share, alone_for } = claim;
    if partitions == 0 {
        return None;
    }
    let per_minute = u64::from(quota.per_minute);
    let wanted = quota.burst.map_or(per_minute / 60, u64::from).max(u64::from(partition_count));
    let burst_all = wanted.min(per_minute / 2);
    let rate_all = (per_minute - burst_all) * 1_000_000 / WINDOW_MS;
    let (rate, burst) =
        (part(rate_all, partitions, partition_count), part(burst_all, partitions, partition_count));
    let least = u64::from(partitions);
    let refilled = u128::from(rate) * alone_for.as_millis() / 1_000_000;
    let refilled = u64::try_from(refilled).unwrap_or(u64::MAX);
    if refilled < least {
        return None;
    }
    let burst = (burst * share / SHARE_MAX).max(least).min(refilled);
    Some(SlicePart {
        rate_millis_per_second: (rate * share / SHARE_MAX).max(1),
        burst: u32::try_from(burst).unwrap_or(u32::MAX),
    })
}

/// A node's part of a whole, rounded down.
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
        assert_eq!(
            rate_millis(1, 1, 4_096),
            1,
            "0.24 thousandths, rounded up to the least there is"
        );
    }

    #[test]
    fn half_the_partitions_are_half_the_rate() {
        assert_eq!(rate_millis(1_000, 32, 64), 500_000);
    }

    /// A node of the simulation below, as wasteful as the contract allows: a full bucket of one
    /// request at least for each core with a partition, from its first slice on, and all that they
    /// give is sent.
    struct Node {
        partitions: u16,
        cores: u16,
        /// Tokens, and the slice that they are filled by.
        buckets: Vec<(f64, f64, f64)>,
        asked: bool,
        alone_since: u64,
        sliced: u64,
    }

    impl Node {
        /// One tenth of a second; how many requests it sent.
        fn step(&mut self, quota: Quota, all: u16, share: u64, now_ms: u64) -> f64 {
            let alone_for = Duration::from_millis(now_ms.saturating_sub(self.alone_since));
            let claim =
                Claim { partitions: self.partitions, partition_count: all, share, alone_for };
            if let Some(part) = slice(quota, claim) {
                let (rate, cores) =
                    (part.rate_millis_per_second as f64 / 1_000.0, f64::from(self.cores));
                let (rate, burst) = (rate / cores, (f64::from(part.burst) / cores).max(1.0));
                for bucket in &mut self.buckets {
                    let tokens = if self.asked { bucket.0.min(burst) } else { burst };
                    *bucket = (tokens, rate, burst);
                }
                (self.asked, self.sliced) = (true, now_ms);
            }
            let mut sent = 0.0;
            for (tokens, rate, burst) in &mut self.buckets {
                *tokens = (*tokens + *rate * 0.1).min(*burst);
                sent += tokens.floor();
                *tokens -= tokens.floor();
            }
            sent
        }

        fn restart(&mut self) {
            self.buckets = vec![(0.0, 0.0, 0.0); usize::from(self.cores.min(self.partitions))];
            (self.asked, self.alone_since) = (false, self.sliced + u64::from(LEASE_MS));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_minute_of_all_nodes_stays_within_the_quota(
            per_minute in 128u32..2_000_000,
            burst in proptest::option::of(1u32..1_000_000),
            cuts in proptest::collection::vec(1u16..64, 0..6),
            cores in 1u16..80,
            shares in proptest::collection::vec(50u64..=1_000, 1..5),
            restarts in proptest::collection::vec((0usize..7, 0u64..1_800), 0..12),
        ) {
            // 64 partitions cut into runs, one for each node.
            let mut edges = cuts;
            edges.extend([0, 64]);
            edges.sort_unstable();
            edges.dedup();
            let quota = Quota { per_minute, burst, ramp: Duration::ZERO };
            let mut nodes: Vec<_> = edges.windows(2).map(|w| {
                let partitions = w[1] - w[0];
                let mut node = Node { partitions, cores, buckets: vec![], asked: false, alone_since: 0, sliced: 0 };
                node.restart();
                node
            }).collect();
            // Three minutes of tenths; at the beginning the lease of an unknown coordinator may
            // still hold.
            let mut sent = Vec::new();
            for tenth in 0..1_800u64 {
                for (node, _) in restarts.iter().filter(|(_, at)| *at == tenth) {
                    let node = node % nodes.len();
                    nodes[node].restart();
                }
                let share = shares[usize::try_from(tenth).unwrap() * shares.len() / 1_800];
                sent.push(nodes.iter_mut().map(|n| n.step(quota, 64, share, tenth * 100)).sum::<f64>());
            }
            let most = sent.windows(620).map(|window| window.iter().sum::<f64>()).fold(0.0, f64::max);
            prop_assert!(most <= f64::from(per_minute) + 0.001, "{most} of {per_minute}");
        }
    }

    fn all_of(quota: Quota, alone_for: Duration) -> Option<SlicePart> {
        slice(quota, Claim { partitions: 64, partition_count: 64, share: SHARE_MAX, alone_for })
    }

    #[test]
    fn the_quota_is_used_but_for_the_margin() {
        let quota = Quota { per_minute: 60_000, burst: None, ramp: Duration::ZERO };
        // (60,000 - 1,000) / 62 s
        let whole = SlicePart { rate_millis_per_second: 951_612, burst: 1_000 };
        assert_eq!(all_of(quota, Duration::from_secs(60)), Some(whole));
    }

    #[test]
    fn a_new_process_begins_with_what_its_predecessors_bucket_would_hold() {
        let quota = Quota { per_minute: 60_000, burst: None, ramp: Duration::ZERO };
        let burst = |ms| all_of(quota, Duration::from_millis(ms)).map(|part| part.burst);
        assert_eq!(
            [0, 67, 68, 500, 1_051].map(burst),
            [None, None, Some(64), Some(475), Some(1_000)]
        );
    }

    #[test]
    fn a_ramp_takes_its_share_and_leaves_every_core_a_request() {
        let quota = Quota { per_minute: 60_000, burst: None, ramp: Duration::from_secs(60) };
        let claim = Claim {
            partitions: 32,
            partition_count: 64,
            share: 50,
            alone_for: Duration::from_secs(60),
        };
        assert_eq!(
            slice(quota, claim),
            Some(SlicePart { rate_millis_per_second: 23_790, burst: 32 })
        );
    }

    #[test]
    fn a_node_without_partitions_gets_none() {
        let quota = Quota { per_minute: 60_000, burst: None, ramp: Duration::ZERO };
        let claim = Claim {
            partitions: 0,
            partition_count: 64,
            share: SHARE_MAX,
            alone_for: Duration::from_secs(60),
        };
        assert_eq!(slice(quota, claim), None);
    }
}
