//! The node's registry state: the sum over its cores.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{
    ids::{AppName, LogId, PartitionId, Position},
    time::Time,
    wire::shard_v1 as wire,
};

use super::ownership::Assignment;
use crate::command::HeldStats;

/// Least time between two messages about it to one session.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Last report of each core.
#[derive(Debug)]
pub struct Registry {
    cores: Vec<HeldStats>,
    /// Number of ownership commands sent to each core.
    owns: u64,
    /// Number of changes so far, from 1: a new session knows none of them.
    news: u64,
}

/// State of the registry that a session's coordinator knows. The default knows nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Number of the newest change that it knows.
    news: u64,
    /// Time of its next message.
    due: Time,
}

impl Registry {
    /// A registry without reports.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cores: vec![HeldStats::default(); cores], owns: 0, news: 1 }
    }

    /// Stores a core's report. A report from before the newest change of ownership is ignored: its
    /// positions may belong to another log.
    pub fn hold(&mut self, core: usize, stats: HeldStats) {
        if stats.owns >= self.owns {
            self.cores[core] = stats;
            self.news += 1;
        }
    }

    /// Counts an ownership command sent to every core.
    pub fn owned(&mut self) {
        self.owns += 1;
    }

    /// Drops all reports: the node holds nothing any more.
    pub fn clear(&mut self) {
        self.cores.fill(HeldStats::default());
        self.news += 1;
    }

    /// Drops the positions of all partitions but those that a core keeps.
    pub fn keep(&mut self, is_kept: impl Fn(PartitionId) -> bool) {
        for stats in &mut self.cores {
            stats.positions.retain(|(partition, _)| is_kept(*partition));
        }
        self.news += 1;
    }

    /// Time of a session's next state message; `None`: nothing has changed.
    #[must_use]
    pub fn due(&self, told: &Told) -> Option<Time> {
        (self.news > told.news).then_some(told.due)
    }

    /// What a session knows that is sent the present state now.
    #[must_use]
    pub fn told(&self, now: Time) -> Told {
        Told { news: self.news, due: now + TELL_EVERY }
    }

    /// Position of each log of the ownership that all of its partitions have applied.
    #[must_use]
    pub fn positions(&self, assignment: Option<&Assignment>) -> BTreeMap<LogId, Position> {
        let mut positions = BTreeMap::new();
        for (partition, core, log) in assignment.into_iter().flat_map(Assignment::places) {
            let applied = self.position(core, partition);
            let least = positions.entry(log).or_insert(applied);
            *least = applied.min(*least);
        }
        positions
    }

    /// Position up to which a core has applied a partition, as the core reported last; 0: the
    /// partition has no content that is known.
    #[must_use]
    pub fn position(&self, core: usize, partition: PartitionId) -> Position {
        // In the order of their numbers, as a core reports them.
        let positions = &self.cores[core].positions;
        let known = positions.binary_search_by_key(&partition, |(id, _)| *id);
        known.map_or(Position(0), |at| positions[at].1)
    }

    /// The present state, as a message.
    #[must_use]
    pub fn state(&self, assignment: Option<&Assignment>, rss_bytes: u64) -> wire::RegistryState {
        let mut apps: BTreeMap<&AppName, u64> = BTreeMap::new();
        for (app, devices) in self.cores.iter().flat_map(|c| &c.apps) {
            *apps.entry(app).or_default() += devices;
        }
        let sum = |of: fn(&HeldStats) -> u64| self.cores.iter().map(of).sum();
        wire::RegistryState {
            positions: to_wire(&self.positions(assignment)),
            devices: sum(|c| c.devices),
            placed: sum(|c| c.placed),
            muted: sum(|c| c.muted),
            apps: apps
                .into_iter()
                .map(|(app, devices)| wire::AppDevices { app: app.id().to_owned(), devices })
                .collect(),
            rss_bytes,
            log_identity: assignment.map(|a| a.owned().log.to_wire()).unwrap_or_default(),
        }
    }
}

/// Positions as the wire has them, by log.
#[must_use]
pub fn to_wire(positions: &BTreeMap<LogId, Position>) -> Vec<wire::LogPosition> {
    positions
        .iter()
        .map(|(log, p)| wire::LogPosition { log: u32::from(log.0), position: p.0 })
        .collect()
}

#[cfg(test)]
mod tests {
    use clarion_proto::ids::LogIdentity;

    use super::*;
    use crate::control::ownership::{Ownership, change};

    fn stats(positions: &[(u16, u64)], devices: u64, apps: &[(&str, u64)]) -> HeldStats {
        HeldStats {
            positions: positions.iter().map(|(n, p)| (PartitionId(*n), Position(*p))).collect(),
            devices,
            placed: devices / 2,
            muted: 1,
            owns: 0,
            apps: apps.iter().map(|(a, n)| (AppName::from_id(a).unwrap(), *n)).collect(),
        }
    }

    #[test]
    fn sums_over_cores_and_the_least_position() {
        // Two logs, four partitions, two cores: core 0 has 0 and 2 (log 0), core 1 has 1 and 3 (log
        // 1)...
        let partitions = [0, 1, 2, 3].map(PartitionId).to_vec();
        let ownership = Ownership {
            log: LogIdentity([1; 16]),
            number: 1,
            partition_count: 4,
            log_count: 2,
            partitions,
        };
        let held = change(None, ownership, 2).assignment;
        let mut registry = Registry::new(2);
        registry.hold(0, stats(&[(0, 7), (2, 8)], 10, &[("demo", 10)]));
        let state = registry.state(Some(&held), 42);
        assert_eq!(
            state.positions,
            to_wire(&[(LogId(0), Position(7)), (LogId(1), Position(0))].into())
        );
        registry.hold(1, stats(&[(1, 11), (3, 9)], 4, &[("demo", 1), ("other", 3)]));
        let state = registry.state(Some(&held), 42);
        assert_eq!((state.devices, state.placed, state.muted, state.rss_bytes), (14, 7, 2, 42));
        assert_eq!(
            state.positions,
            to_wire(&[(LogId(0), Position(7)), (LogId(1), Position(9))].into())
        );
        let apps: Vec<_> = state.apps.iter().map(|a| (a.app.as_str(), a.devices)).collect();
        assert_eq!(apps, [("demo", 11), ("other", 3)]);
    }

    #[test]
    fn a_log_is_as_far_as_its_slowest_partition() {
        let partitions = [0, 1].map(PartitionId).to_vec();
        let ownership = Ownership {
            log: LogIdentity([1; 16]),
            number: 1,
            partition_count: 2,
            log_count: 1,
            partitions,
        };
        let held = change(None, ownership, 2).assignment;
        let mut registry = Registry::new(2);
        registry.hold(0, stats(&[(0, 7)], 0, &[]));
        registry.hold(1, stats(&[(1, 5)], 0, &[]));
        assert_eq!(registry.positions(Some(&held)), [(LogId(0), Position(5))].into());
    }

    #[test]
    fn what_a_core_said_before_its_ownership_changed_is_void() {
        let mut registry = Registry::new(1);
        registry.hold(0, stats(&[(0, 7)], 10, &[]));
        registry.clear();
        registry.owned();
        registry.hold(0, stats(&[(0, 7)], 10, &[]));
        assert_eq!(registry.state(None, 0).devices, 0);
        registry.hold(0, HeldStats { owns: 1, ..stats(&[], 3, &[]) });
        assert_eq!(registry.state(None, 0).devices, 3);
    }

    #[test]
    fn told_when_changed_and_at_most_every_100_ms_in_each_session() {
        let mut registry = Registry::new(1);
        let (mut first, second) = (Told::default(), Told::default());
        assert_eq!(registry.due(&first), Some(Time(0)), "a new session knows nothing");
        first = registry.told(Time(1_000));
        assert_eq!(registry.due(&first), None);
        assert_eq!(registry.due(&second), Some(Time(0)), "the other session has not read it");
        registry.hold(0, HeldStats::default());
        assert_eq!(registry.due(&first), Some(Time(101_000)));
    }
}
