//! How many connections a lane has in the whole cluster. Pure.
//!
//! A connection carries as many requests at once as the gateway allows streams and its window takes
//! bodies, and each stays for as long as an answer takes: so a rate needs `rate × latency ÷
//! min(streams, window ÷ body)` connections, and one more for the one that is just being replaced
//! ([`needed`]). Opened per core instead, twenty nodes of sixteen cores would hold 320 connections
//! where ten do, and gateways take many connections of one sender for an attack.
//!
//! **With a quota** the rate is the one that is granted. **Without one** the rate asked is what
//! waves could use, which nobody knows: so the budget doubles while connections are the bottleneck
//! (cores wait, with devices to push to and no stream or window free, for half of the time) and all
//! that were budgeted stand (what the gateway does not let us open, and what is still being opened,
//! is no reason to want more). It halves while no more than a quarter of the room is used, and
//! falls to the floor while the lane is idle. Between a quarter and full is nothing to do: halved,
//! what was used by a quarter is used by half.
//!
//! **No flapping**: a budget rises at once and falls to the highest that was wanted within
//! [`HOLD`].
//!
//! Who holds connections, at most: `max(ceiling, nodes)` of each lane in the cluster, in place of
//! those that leave as many again for as long as their open requests have (a request's deadline). A
//! node holds its share of that, which takes, beside the sockets' buffers (256 KiB each in the
//! kernel), 64 bytes for each stream it may have open: 64 KiB for APNs' 1,000.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use clarion_proto::{latency::Latencies, time::Time, wire::shard_v1 as wire};

use crate::{lane::ConnectionLimits, owners::NodeName};

/// What was wanted counts for so long.
const HOLD: Duration = Duration::from_secs(30);
/// What a node said counts for so long: it speaks ten times a second while it has work.
const FRESH: Duration = Duration::from_secs(2);
/// Share of the time, in thousandths, that a core waits for connections when they are the
/// bottleneck.
const STARVED_PERMILLE: u32 = 500;
/// Before anything was measured: an answer takes as long as one of a gateway that is far away.
const LATENCY_ASSUMED_US: f64 = 100_000.0;

/// What one connection carries at once.
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

/// Connections for a rate.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within a u32 by then
pub(crate) fn needed(per_second: f64, latency_us: f64, at_once: f64) -> u32 {
    let out = per_second * latency_us / 1e6;
    (out / at_once.max(1.0)).ceil().clamp(0.0, f64::from(u32::MAX - 1)) as u32 + 1
}

/// One lane's budget.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: ConnectionLimits,
    now: u32,
    /// What was wanted within [`HOLD`], but for what came before something as high: falls from
    /// front to back, and so never holds more than the ceiling has values.
    wanted: VecDeque<(Time, u32)>,
    nodes: BTreeMap<NodeName, (Time, wire::LaneLoad)>,
    latency_us: f64,
    carries: Carries,
    /// Until then what stands is what a former coordinator wanted.
    adopts_until: Time,
}

impl Budget {
    /// Before anything is known of a lane. `streams`: what its connections may use at most.
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

    /// A node says how its connections are used. `granted`: requests a second that the quota allows
    /// now, if there is one; `nodes`: how many have partitions.
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

    /// Connections in the cluster.
    pub(crate) fn connections(&self) -> u32 {
        self.now
    }

    /// What waves could use.
    fn asked(&self, floor: u32) -> u32 {
        let mut busy = self.nodes.values().filter(|(_, load)| load.busy).peekable();
        if busy.peek().is_none() {
            return floor;
        }
        let now = self.now.max(floor);
        let starved = busy.any(|(_, load)| load.starved_permille >= STARVED_PERMILLE);
        // One in eight may just be replaced.
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

    /// What is measured replaces what was measured before; what is not, does not.
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

/// A node's part of a budget, by its partitions: seat by seat to whom a seat is worth most
/// (Sainte-Laguë), the first of each in advance. So the parts sum up to the budget exactly, and one
/// that rises takes no connection away from anybody.
pub(crate) fn share(budget: u32, nodes: &BTreeMap<NodeName, u16>, node: &NodeName) -> u32 {
    let mut seats: Vec<(&NodeName, u32, u32)> =
        nodes.iter().map(|(name, p)| (name, u32::from(*p), 1)).collect();
    for _ in seats.len()..budget as usize {
        // Of equals the first by name.
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
