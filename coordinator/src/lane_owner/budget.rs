//! Budget of connections: how many connections a lane has in the whole cluster. Pure.
//!
//! A connection carries as many requests at once as its streams and its window allow, and each
//! request stays until its answer: so a rate needs `rate × latency ÷ min(streams, window ÷ body)`
//! connections, and one more for a connection that is just being replaced ([`needed`]). One
//! connection per core would be 320 connections for twenty nodes of sixteen cores where ten are
//! enough, and gateways take many connections of one sender for an attack.
//!
//! **With a quota**, the rate is the granted rate. **Without a quota**, nobody knows the rate that
//! waves could use. So the budget doubles while connections are the bottleneck (for half of the
//! time, cores have devices to push to and no free stream or window) and all budgeted connections
//! are open: connections that the gateway refuses, or that are still being opened, are no reason to
//! want more. The budget halves while at most a quarter of the capacity is used, and falls to the
//! floor while the lane is idle. Between a quarter and full the budget stays: after halving, a
//! quarter is a half.
//!
//! **No flapping**: a budget rises at once, and falls to the highest budget that was wanted within
//! [`HOLD`].
//!
//! Upper bound: `max(ceiling, nodes)` connections of each lane in the cluster, and once more as
//! many closing connections until their open requests end (the request deadline). A node holds its
//! share, which takes, besides the sockets' buffers (256 KiB each in the kernel), 64 bytes for each
//! stream that may be open: 64 KiB for the 1,000 streams of APNs.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use clarion_proto::{latency::Latencies, time::Time, wire::shard_v1 as wire};

use crate::{lane::ConnectionLimits, owners::NodeName};

/// Time for which a wanted budget keeps the budget from falling.
const HOLD: Duration = Duration::from_secs(30);
/// Time for which a node's load counts: a busy node reports its load ten times a second.
const FRESH: Duration = Duration::from_secs(2);
/// Share of the time, in thousandths, that a core waits for connections when they are the
/// bottleneck.
const STARVED_PERMILLE: u32 = 500;
/// Latency before the first measurement, microseconds: that of a gateway far away.
const LATENCY_ASSUMED_US: f64 = 100_000.0;

/// Limits of the requests that one connection carries at once.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Carries {
    streams: f64,
    window_bytes: f64,
    body_bytes: f64,
}

impl Carries {
    fn at_once(self) -> f64 {
        let bodies =
            if self.body_bytes > 0.0 { self.window_bytes / self.body_bytes } else { f64::INFINITY };
        self.streams.min(bodies).max(1.0)
    }
}

/// Number of connections that a rate needs, at least 1.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within a u32 by then
pub(crate) fn needed(per_second: f64, latency_us: f64, at_once: f64) -> u32 {
    let out = per_second * latency_us / 1e6;
    (out / at_once.max(1.0)).ceil().clamp(0.0, f64::from(u32::MAX - 1)) as u32 + 1
}

/// Budget of connections of one lane.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: ConnectionLimits,
    now: u32,
    /// Budgets wanted within [`HOLD`], without those that a later budget reached or exceeded. They
    /// fall from front to back, so their number is at most the ceiling.
    wanted: VecDeque<(Time, u32)>,
    nodes: BTreeMap<NodeName, (Time, wire::LaneLoad)>,
    latency_us: f64,
    carries: Carries,
    /// Until this time the open connections count as wanted: a former coordinator set them.
    adopts_until: Time,
}

impl Budget {
    /// Makes the budget of a new lane; `streams` is the maximum on one connection.
    pub(crate) fn new(limits: ConnectionLimits, streams: u32, now: Time) -> Self {
        let unknown =
            Carries { streams: f64::from(streams), window_bytes: f64::INFINITY, body_bytes: 0.0 };
        Self {
            limits,
            now: limits.floor,
            wanted: VecDeque::new(),
            nodes: BTreeMap::new(),
            latency_us: LATENCY_ASSUMED_US,
            carries: unknown,
            adopts_until: now + HOLD,
        }
    }

    /// Records a node's load of its connections. `granted`: requests per second that the quota
    /// allows now; `None`: no quota. `nodes`: number of nodes with partitions.
    pub(crate) fn hear(
        &mut self,
        node: &NodeName,
        load: wire::LaneLoad,
        granted: Option<f64>,
        nodes: usize,
        now: Time,
    ) {
        self.nodes.insert(node.clone(), (now, load));
        self.nodes.retain(|_, (at, _)| now.since(*at) <= FRESH);
        self.measure();
        let floor = self.limits.floor.max(u32::try_from(nodes).unwrap_or(u32::MAX));
        let ceiling = self.limits.ceiling.max(floor);
        let mut wanted = match granted {
            Some(per_second) => needed(per_second, self.latency_us, self.carries.at_once()),
            None => self.asked(floor),
        };
        if now < self.adopts_until {
            wanted = wanted.max(self.standing());
        }
        self.want(wanted.clamp(floor, ceiling), now);
    }

    /// Number of connections that the lane may have in the cluster.
    pub(crate) fn connections(&self) -> u32 {
        self.now
    }

    /// Budget that waves could use, without a quota.
    fn asked(&self, floor: u32) -> u32 {
        let mut busy = self.nodes.values().filter(|(_, load)| load.busy).peekable();
        if busy.peek().is_none() {
            return floor;
        }
        let now = self.now.max(floor);
        let starved = busy.any(|(_, load)| load.starved_permille >= STARVED_PERMILLE);
        // One in eight connections may just be being replaced.
        if starved && u64::from(self.standing()) * 8 >= u64::from(now) * 7 {
            return now.saturating_mul(2);
        }
        let out = self.nodes.values().map(|(_, load)| load.requests_out_max).sum::<u64>();
        #[allow(clippy::cast_precision_loss)] // requests that are out
        let little =
            !starved && out as f64 <= f64::from(self.standing()) * self.carries.at_once() / 4.0;
        if little { now / 2 } else { now }
    }

    fn standing(&self) -> u32 {
        self.nodes.values().map(|(_, load)| load.connections).sum()
    }

    /// Updates latency and capacity with those figures that the present loads have.
    #[allow(clippy::cast_precision_loss)] // bytes, streams and connections of a cluster
    fn measure(&mut self) {
        let loads = || self.nodes.values().map(|(_, load)| load);
        let mut latencies = Latencies::default();
        loads()
            .filter_map(|load| Latencies::from_wire(&load.latencies))
            .for_each(|l| latencies.add(&l));
        let standing = f64::from(self.standing());
        let streams = loads().map(|load| load.streams).sum::<u64>() as f64;
        let window_bytes = loads().map(|load| load.window_bytes).sum::<u64>() as f64;
        let bodies: Vec<_> =
            loads().map(|load| load.body_bytes).filter(|bytes| *bytes > 0).map(f64::from).collect();
        self.latency_us = latencies.middle().unwrap_or(self.latency_us);
        if standing > 0.0 {
            (self.carries.streams, self.carries.window_bytes) =
                (streams / standing, window_bytes / standing);
        }
        if !bodies.is_empty() {
            self.carries.body_bytes = bodies.iter().sum::<f64>() / bodies.len() as f64;
        }
    }

    fn want(&mut self, wanted: u32, now: Time) {
        while self.wanted.back().is_some_and(|(_, lower)| *lower <= wanted) {
            self.wanted.pop_back();
        }
        self.wanted.push_back((now, wanted));
        while self.wanted.front().is_some_and(|(at, _)| now.since(*at) > HOLD) {
            self.wanted.pop_front();
        }
        self.now = self.wanted.front().map_or(wanted, |(_, highest)| *highest);
    }
}

/// A node's part of a budget, by its partitions (Sainte-Laguë's method of seats).
///
/// Each node gets one seat first; each further seat goes to the node with the highest quotient. So
/// the parts sum up to the budget exactly, and a rising budget takes no connection from any node.
pub(crate) fn share(budget: u32, nodes: &BTreeMap<NodeName, u16>, node: &NodeName) -> u32 {
    let mut seats: Vec<(&NodeName, u32, u32)> =
        nodes.iter().map(|(name, p)| (name, u32::from(*p), 1)).collect();
    for _ in seats.len()..budget as usize {
        // Of equal quotients, the first node by name.
        let next = seats.iter_mut().rev().max_by(|a, b| {
            let (a, b) = ((a.1, a.2), (b.1, b.2));
            (u64::from(a.0) * u64::from(2 * b.1 + 1))
                .cmp(&(u64::from(b.0) * u64::from(2 * a.1 + 1)))
        });
        if let Some((_, _, seats)) = next {
            *seats += 1;
        }
    }
    seats.into_iter().find(|(name, ..)| *name == node).map_or(0, |(_, _, seats)| seats)
}

#[cfg(test)]
mod tests;
