//! Registry totals of all nodes, summed from the nodes' reports; free of I/O.

use std::collections::BTreeMap;

use clarion_proto::{
    ids::{AppName, LogId, Position},
    wire::shard_v1 as wire,
};

use crate::{
    owners::{NodeName, Owned},
    snapshot::PruningAlarm,
};

/// Registry totals over all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryTotals {
    /// Number of devices with a registration.
    pub devices: u64,
    /// Number of registered devices with a place.
    pub placed: u64,
    /// Number of registered devices that are muted.
    pub muted: u64,
    /// Number of devices by app.
    pub apps: BTreeMap<AppName, u64>,
    /// Position by log that every owner of the log's partitions has reached: all records up to this
    /// position are applied.
    pub applied: BTreeMap<LogId, Position>,
    /// Resident memory of all nodes, bytes.
    pub rss_bytes: u64,
    /// Alarms of apps whose devices are kept although the gateway reports their tokens as bad.
    pub pruning_alarms: Vec<PruningAlarm>,
}

/// Last registry report of one node.
#[derive(Debug, Default, Clone)]
pub(crate) struct NodeRegistry {
    positions: BTreeMap<LogId, Position>,
    devices: u64,
    placed: u64,
    muted: u64,
    apps: BTreeMap<AppName, u64>,
    rss_bytes: u64,
}

impl NodeRegistry {
    /// The state of a process that has just sent its Hello.
    pub(crate) fn new(positions: &[wire::LogPosition]) -> Self {
        let mut registry = Self::default();
        registry.advance(positions);
        registry
    }

    /// Applies a later report of the same process. Logs that the report omits keep their position.
    pub(crate) fn state(&mut self, state: &wire::RegistryState) {
        self.advance(&state.positions);
        (self.devices, self.placed, self.muted) = (state.devices, state.placed, state.muted);
        self.rss_bytes = state.rss_bytes;
        let app = |a: &wire::AppDevices| Some((AppName::from_id(&a.app).ok()?, a.devices));
        self.apps = state.apps.iter().filter_map(app).collect();
    }

    fn advance(&mut self, positions: &[wire::LogPosition]) {
        for position in positions {
            let Ok(log) = u16::try_from(position.log) else { continue };
            let mine = self.positions.entry(LogId(log)).or_default();
            *mine = (*mine).max(Position(position.position));
        }
    }
}

/// Sums over nodes. A log's position is the position that every owner has reached; 0 while an owner
/// has not reported.
pub(crate) fn totals<'a>(
    nodes: impl Iterator<Item = (&'a NodeName, &'a NodeRegistry)> + Clone,
    owned: Option<&Owned>,
) -> RegistryTotals {
    let mut totals = RegistryTotals::default();
    for (_, node) in nodes.clone() {
        totals.devices += node.devices;
        totals.placed += node.placed;
        totals.muted += node.muted;
        totals.rss_bytes += node.rss_bytes;
        for (app, devices) in &node.apps {
            *totals.apps.entry(app.clone()).or_default() += devices;
        }
    }
    let Some(owned) = owned else { return totals };
    let nodes: BTreeMap<_, _> = nodes.collect();
    for owner in owned.nodes().keys() {
        for log in owned.logs_of(owner) {
            let reached =
                nodes.get(owner).and_then(|n| n.positions.get(&log)).copied().unwrap_or_default();
            let applied = totals.applied.entry(log).or_insert(reached);
            *applied = (*applied).min(reached);
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owners::Ownership;

    fn name(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn at(log: u32, position: u64) -> wire::LogPosition {
        wire::LogPosition { log, position }
    }

    fn state(positions: Vec<wire::LogPosition>, devices: u64) -> wire::RegistryState {
        let apps = vec![wire::AppDevices { app: "demo".to_owned(), devices }];
        wire::RegistryState {
            positions,
            devices,
            placed: devices,
            muted: 1,
            apps,
            rss_bytes: 100,
            ..wire::RegistryState::default()
        }
    }

    #[test]
    fn devices_add_up_and_positions_are_what_every_owner_reached() {
        let owned = Owned::new(Ownership::assign(1, 64, &[name("a"), name("b")]), 64, 1);
        let mut a = NodeRegistry::new(&[at(0, 3)]);
        let mut b = NodeRegistry::new(&[]);
        let (an, bn) = (name("a"), name("b"));
        let both = |a: &NodeRegistry, b: &NodeRegistry| {
            totals([(&an, a), (&bn, b)].into_iter(), Some(&owned))
        };
        assert_eq!(both(&a, &b).applied[&LogId(0)], Position(0), "b has said nothing");
        a.state(&state(vec![at(0, 9)], 10));
        b.state(&state(vec![at(0, 7)], 5));
        let sums = both(&a, &b);
        assert_eq!((sums.devices, sums.placed, sums.muted, sums.rss_bytes), (15, 15, 2, 200));
        assert_eq!(sums.apps[&AppName::from_id("demo").unwrap()], 15);
        assert_eq!(sums.applied[&LogId(0)], Position(7));
    }

    #[test]
    fn an_owner_that_is_not_there_holds_positions_back() {
        let owned = Owned::new(Ownership::assign(1, 64, &[name("a"), name("b")]), 64, 1);
        let a = NodeRegistry::new(&[at(0, 3)]);
        let sums = totals([(&name("a"), &a)].into_iter(), Some(&owned));
        assert_eq!(sums.applied[&LogId(0)], Position(0));
    }

    #[test]
    fn a_log_that_is_not_named_stays_where_it_was() {
        let owned = Owned::new(Ownership::assign(1, 4, &[name("a")]), 4, 2);
        let mut a = NodeRegistry::new(&[at(0, 3), at(1, 4)]);
        a.state(&state(vec![at(1, 5)], 1));
        let sums = totals([(&name("a"), &a)].into_iter(), Some(&owned));
        assert_eq!((sums.applied[&LogId(0)], sums.applied[&LogId(1)]), (Position(3), Position(5)));
    }
}
