//! A core, a gateway, a clock that jumps, and all reports of the core.

mod things;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{
    device::Record,
    ids::{LaneId, LogId, PartitionId, Position, UnixMillis, WaveId, partition_of},
    outcome::Outcome,
    time::Time,
};
use roaring::RoaringBitmap;

use super::gateway::Gateway;
use crate::{
    command::{Command, Consequence, CoreReport, Counts, Event},
    core::{ConnectionId, Core, CoreConfig, IoRequest},
    lane::{
        health::LaneHealth,
        load::LaneLoad,
        news::News,
        pool::{ANSWERS_FOR_AN_ATTEMPT, ATTEMPTS_PER_MINUTE},
        rate::Rate,
        spec::LaneSpec,
    },
    outcome::Platform,
};
pub(super) use things::*;

pub(super) const PARTITIONS: u16 = 4;
pub(super) const LANE: LaneId = LaneId(1);
/// The FCM lane of tests that have one.
pub(super) const FCM: LaneId = LaneId(2);
pub(super) const SECOND: u64 = 1_000_000;
pub(super) const STARTED: UnixMillis = UnixMillis(1_700_000_000_000);

/// The core with its gateway and clock.
pub(super) struct World {
    pub(super) core: Core,
    pub(super) gateway: Gateway,
    pub(super) now: Time,
    /// Whether the gateway's sockets take no bytes.
    pub(super) blocked: bool,
    /// Whether attempts to connect get no answer.
    pub(super) unreachable: bool,
    /// Lane whose attempts to connect get no answer.
    pub(super) unreachable_lane: Option<LaneId>,
    /// Whether connections are refused at once.
    pub(super) refusing: bool,
    /// Time that TCP and TLS take.
    pub(super) handshake: Duration,
    shaking_hands: VecDeque<(Time, ConnectionId, Platform)>,
    /// Time that the gateway's bytes need to arrive.
    pub(super) latency: Duration,
    on_its_way: VecDeque<(Time, ConnectionId, Vec<u8>)>,
    sockets: BTreeMap<ConnectionId, Vec<u8>>,
    pub(super) attempts: Vec<Time>,
    pub(super) said: Said,
    pub(super) transcript: Vec<u8>,
    pub(super) position: u64,
}

/// Reports of the core, folded as a control plane would do it.
#[derive(Default)]
pub(super) struct Said {
    pub(super) reports: Vec<CoreReport>,
    pub(super) bands: BTreeMap<WaveId, BTreeMap<u32, Counts>>,
    pub(super) cells: BTreeMap<u64, Counts>,
    pub(super) handed: BTreeMap<PartitionId, RoaringBitmap>,
    pub(super) stopped: Vec<(WaveId, Option<Time>, u64, Time)>,
    /// Reported states of lanes with their times.
    pub(super) states: Vec<(LaneId, Time, News)>,
    pub(super) health: Vec<LaneHealth>,
    /// Texts of the reported states.
    pub(super) details: Vec<String>,
    pub(super) loads: BTreeMap<LaneId, Vec<LaneLoad>>,
    pub(super) counted: Vec<Vec<Vec<u64>>>,
    pub(super) left_out_for_age: Vec<u64>,
    pub(super) devices: u64,
}

impl World {
    pub(super) fn new(gateway: Gateway) -> Self {
        Self::with(gateway, true, 2)
    }

    pub(super) fn with(gateway: Gateway, single: bool, connections: usize) -> Self {
        Self::with_config(
            gateway,
            CoreConfig { single, cores: 1, seed: 42, hash_seed: 42 },
            connections,
        )
    }

    pub(super) fn with_config(gateway: Gateway, config: CoreConfig, connections: usize) -> Self {
        let mut world = Self {
            core: Core::new(config),
            gateway,
            now: Time(SECOND),
            blocked: false,
            unreachable: false,
            unreachable_lane: None,
            refusing: false,
            handshake: Duration::ZERO,
            shaking_hands: VecDeque::new(),
            latency: Duration::ZERO,
            on_its_way: VecDeque::new(),
            sockets: BTreeMap::new(),
            attempts: Vec::new(),
            said: Said::default(),
            transcript: Vec::new(),
            position: 0,
        };
        let all: Vec<_> = (0..PARTITIONS).map(PartitionId).collect();
        world.tell(Command::Own(all.into()));
        world.tell(Command::Lane(Arc::new(lane_spec(connections))));
        world.tell(provider_token("bearer one"));
        world.tell(Command::Slice { lane: LANE, until: Time::NEVER, rate: None });
        world
    }

    /// Adds a lane to FCM beside the lane to APNs.
    pub(super) fn add_fcm(&mut self, connections: usize) {
        let spec = LaneSpec { id: FCM, platform: Platform::Fcm, ..lane_spec(connections) };
        let backoff = (Duration::from_secs(10), Duration::from_mins(1));
        self.tell(Command::Lane(Arc::new(LaneSpec {
            backoff_min: backoff.0,
            backoff_max: backoff.1,
            ..spec
        })));
        self.tell(fcm_token("Bearer one"));
        self.tell(Command::Slice { lane: FCM, until: Time::NEVER, rate: None });
    }

    /// Populates like [`Self::populate`]; devices with odd numbers have the app `android`.
    pub(super) fn populate_both(&mut self, devices: std::ops::Range<u32>) {
        self.apply(
            devices.map(|n| if n % 2 == 0 { arrival(n, home(n)) } else { android(n) }).collect(),
        );
    }

    /// Starts a wave like [`Self::start`] on both lanes.
    pub(super) fn start_both(&mut self, wave: u64, expires: Time) {
        let mut spec = wave_spec(wave, expires, self.position);
        spec.apps.push(fcm_app());
        self.tell(Command::Wave(Arc::new(spec)));
        self.grant(wave, Time::NEVER, None);
    }

    /// Returns the requests on a platform in order.
    pub(super) fn requests_of(&self, platform: Platform) -> Vec<&super::gateway::Request> {
        self.gateway.requests.iter().filter(|r| r.platform == platform).collect()
    }

    pub(super) fn tell(&mut self, command: Command) {
        self.core.command(command, self.now);
    }

    /// Applies one batch of records.
    pub(super) fn apply(&mut self, records: Vec<Record>) {
        self.position += 1;
        let records =
            records.into_iter().map(|r| (partition_of(r.device, PARTITIONS), r)).collect();
        self.tell(Command::Apply {
            log: LogId(0),
            position: Position(self.position),
            appended: STARTED,
            partitions: (0..PARTITIONS).map(PartitionId).collect(),
            records,
        });
        while !self.core.feed_ready() {
            self.step();
        }
    }

    /// Adds devices with these numbers: device n is in band n % 3, in a cell that is derived from
    /// n.
    pub(super) fn populate(&mut self, devices: std::ops::Range<u32>) {
        self.apply(devices.map(|n| arrival(n, home(n))).collect());
    }

    /// Starts a wave over three bands, with a grant without end.
    pub(super) fn start(&mut self, wave: u64, expires: Time) {
        self.tell(Command::Wave(Arc::new(wave_spec(wave, expires, self.position))));
        self.grant(wave, Time::NEVER, None);
    }

    pub(super) fn grant(&mut self, wave: u64, until: Time, rate: Option<Rate>) {
        self.tell(Command::Grant { wave: WaveId(wave), until, rate });
    }

    /// Runs one turn of a driver. Returns true if anything happened.
    pub(super) fn step(&mut self) -> bool {
        let mut active = self.core.turn(self.now);
        for id in self.gateway.connections() {
            let Some(pending) = self.sockets.get_mut(&id) else { continue };
            if pending.is_empty() {
                self.core.transmit(id, pending, self.now);
            }
            if pending.is_empty() {
                continue;
            }
            if self.blocked {
                self.core.written(id, 0, false, self.now);
                continue;
            }
            active = true;
            let bytes = std::mem::take(pending);
            self.transcript.extend_from_slice(&bytes);
            self.gateway.receive(id, &bytes, self.now);
            self.core.written(id, bytes.len(), true, self.now);
        }
        while let Some(request) = self.core.poll_io() {
            active = true;
            match request {
                IoRequest::Connect { connection, lane } => {
                    self.attempts.push(self.now);
                    if self.refusing {
                        self.core.not_connected(connection, "refused".to_owned(), self.now);
                    } else if !self.unreachable && self.unreachable_lane != Some(lane.id) {
                        self.shaking_hands.push_back((
                            self.now + self.handshake,
                            connection,
                            lane.platform,
                        ));
                    }
                }
                IoRequest::Close { connection, .. } => {
                    self.shaking_hands.retain(|(_, id, _)| *id != connection);
                    self.gateway.drop(connection);
                    self.sockets.remove(&connection);
                }
            }
        }
        while let Some(at) = self.shaking_hands.iter().position(|(at, ..)| *at <= self.now) {
            active = true;
            let (_, connection, platform) = self.shaking_hands.remove(at).expect("found");
            self.gateway.accept(connection, platform);
            self.sockets.insert(connection, Vec::new());
            self.core.connected(connection, self.now);
        }
        let arrives = self.now + self.latency;
        self.on_its_way
            .extend(self.gateway.take_output().into_iter().map(|(id, bytes)| (arrives, id, bytes)));
        // Nothing at all: the connection is lost.
        self.on_its_way.extend(self.gateway.lost.drain(..).map(|id| (arrives, id, Vec::new())));
        while let Some((_, id, bytes)) = self.on_its_way.pop_front_if(|(at, ..)| *at <= self.now) {
            active = true;
            if bytes.is_empty() {
                self.gateway.drop(id);
                self.sockets.remove(&id);
                self.core.disconnected(id, crate::core::Disconnect::Broken, self.now);
                continue;
            }
            self.core.receive(id, &bytes, self.now);
        }
        while let Some(event) = self.core.poll_event(self.now) {
            active = true;
            self.said.record(event, self.now);
        }
        active
    }

    /// Runs until nothing happens any more, or until a time. Returns true if nothing will happen
    /// any more.
    pub(super) fn run(&mut self, until: Time) -> bool {
        let mut busy = 0;
        loop {
            if self.step() {
                busy += 1;
                assert!(busy < 1_000_000, "never comes to rest at {:?}", self.now);
                continue;
            }
            busy = 0;
            let next = self.next().max(self.now + Duration::from_micros(50));
            if next > until {
                self.now = until;
                return next == Time::NEVER;
            }
            self.now = next;
        }
    }

    /// Returns the time of the next event without outside causes.
    pub(super) fn next(&self) -> Time {
        let arrives = self.on_its_way.front().map(|(at, ..)| *at);
        let stands = self.shaking_hands.iter().map(|(at, ..)| *at).min();
        self.core.deadline().into_iter().chain(arrives).chain(stands).min().unwrap_or(Time::NEVER)
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run(self.now + time);
    }

    /// Returns the number of requests for each device.
    pub(super) fn requests_by_device(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        self.gateway.requests.iter().for_each(|r| *counts.entry(r.device).or_default() += 1);
        counts
    }

    pub(super) fn totals(&self, wave: u64) -> Counts {
        let mut sum = Counts::default();
        self.said
            .bands
            .get(&WaveId(wave))
            .into_iter()
            .flatten()
            .for_each(|(_, counts)| sum.add(counts));
        sum
    }

    /// Returns the reasons why devices of a wave were not accepted at once: consequence, status,
    /// reason and number.
    pub(super) fn reasons(&self, wave: u64) -> Vec<(Consequence, u16, String, u64)> {
        let all = self
            .said
            .reports
            .iter()
            .rev()
            .find(|r| r.wave == WaveId(wave) && !r.reasons.is_empty());
        let all = all.into_iter().flat_map(|report| &report.reasons);
        all.map(|r| (r.kind.then, r.kind.status, r.kind.reason.clone(), r.count)).collect()
    }

    pub(super) fn last(&self, wave: u64) -> &CoreReport {
        self.said.reports.iter().rev().find(|r| r.wave == WaveId(wave)).expect("a report")
    }

    /// Returns the number of requests of all lanes that no answer, loss or reset has settled.
    pub(super) fn requests_out(&self) -> usize {
        self.core.lanes.iter().map(|lane| lane.end.out()).sum()
    }

    /// Returns the highest number of slots that open pushes needed at once.
    pub(super) fn open_slots(&self) -> usize {
        self.core.opens.capacity_used()
    }

    /// Returns the number of encoded bytes that no socket has taken.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.sockets.values().map(Vec::len).sum()
    }

    /// Checks that no minute had more useless attempts to connect than documented (`lane/pool`).
    pub(super) fn attempts_are_bounded(&self, connections: usize) {
        let minute = Duration::from_secs(60);
        let mut answers: BTreeMap<ConnectionId, u32> = BTreeMap::new();
        let mut of_use = Vec::new();
        for request in &self.gateway.requests {
            let answers = answers.entry(request.connection).or_default();
            *answers += 1;
            if *answers == ANSWERS_FOR_AN_ATTEMPT {
                of_use.push(request.at);
            }
        }
        for (n, from) in self.attempts.iter().enumerate() {
            let in_it = |at: &&Time| at.since(*from) < minute;
            let attempts = self.attempts[n..].iter().take_while(in_it).count();
            // One that was of use before pays, too.
            let of_use = of_use.iter().filter(|at| from.since(**at) < minute && in_it(at)).count();
            let most = ATTEMPTS_PER_MINUTE + connections + 2 * of_use;
            assert!(attempts <= most, "{attempts} from {from:?}, {of_use} of use");
        }
    }

    /// Breaks all connections.
    pub(super) fn break_connections(&mut self) {
        for id in self.gateway.connections() {
            self.gateway.drop(id);
            self.sockets.remove(&id);
            self.core.disconnected(id, crate::core::Disconnect::Broken, self.now);
        }
    }
}

impl Said {
    fn record(&mut self, event: Event, now: Time) {
        match event {
            Event::Report(report) => {
                let bands = self.bands.entry(report.wave).or_default();
                for (band, counts) in &report.bands {
                    let former = bands.insert(*band, *counts).unwrap_or_default();
                    assert!(former.handed <= counts.handed, "totals only grow");
                    let _ = counts.open(); // panics if more ended than were handed
                }
                self.cells.extend(report.cells.iter().copied());
                for (partition, set) in &report.handed {
                    let all = self.handed.entry(*partition).or_default();
                    if report.wave == WaveId(1) {
                        assert!(all.is_disjoint(set), "reported as handed twice");
                    }
                    *all |= set;
                }
                self.reports.push(*report);
            }
            Event::Stopped { wave, last_write, written_after } => {
                self.stopped.push((wave, last_write, written_after, now));
            }
            Event::Counted { devices, left_out_for_age, .. } => {
                self.counted.push(devices);
                self.left_out_for_age.push(left_out_for_age);
            }
            // The next probe alone is no change of health.
            Event::LaneState { lane, at, health, detail, since, next_probe } => {
                let same = self.states.iter().rev().find(|state| state.0 == lane);
                if same.is_none_or(|(_, _, news)| (news.health, &news.detail) != (health, &detail))
                {
                    self.health.push(health);
                    self.details.push(detail.clone());
                }
                self.states.push((lane, at, News { health, detail, since, next_probe }));
            }
            Event::LaneLoad { lane, load } => self.loads.entry(lane).or_default().push(*load),
            Event::Held(held) => self.devices = held.devices,
            Event::Restored { result, .. } => assert!(result.is_ok(), "{result:?}"),
        }
    }
}

pub(super) fn outcomes(counts: &Counts) -> [(Outcome, u64); 5] {
    Outcome::ALL.map(|o| (o, counts.outcomes[o as usize]))
}
