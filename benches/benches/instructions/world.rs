//! One core full of devices, its gateway, and a clock that advances with the work.
//!
//! The core is driven as its thread drives it: read, turn, write, connect, report, with pieces of
//! the same size. Time advances by one microsecond for each push written, as on a core that sends a
//! million per second. So reports come every 20,000 pushes, however long the machine takes.

use std::{collections::BTreeMap, hint::black_box, sync::Arc, time::Duration};

use clarion_benches::city;
use clarion_proto::{ids::PartitionId, outcome::Outcome, time::Time};
use clarion_shard::{
    command::{Command, Counts, Event},
    core::{Core, CoreConfig, IoRequest},
    lane::provider::authorization::Authorization,
};

use crate::{Setting, gateway::Peer};

/// Bytes that TLS hands on at once.
const RECORD_BYTES: usize = 16 * 1024;
/// Smallest advance of the clock for a turn that did nothing.
const IDLE: Duration = Duration::from_micros(50);

/// The core with its gateway and clock.
pub(crate) struct World {
    setting: Setting,
    core: Core,
    /// Gateway's side of each connection, by slot.
    peers: Vec<Option<Peer>>,
    out: Vec<u8>,
    pub(crate) now: Time,
    /// Whether calls of the core go through [`counted`].
    pub(crate) counting: bool,
    /// Number of accepted devices in each band, by wave.
    accepted: Vec<BTreeMap<u32, u64>>,
    complete: Vec<bool>,
}

/// Calls the core while it is counted: callgrind collects in this function only.
#[inline(never)]
fn counted<R>(call: impl FnOnce() -> R) -> R {
    black_box(call())
}

/// Calls the core, counted or not.
macro_rules! core {
    ($world:ident.$call:ident($($argument:expr),*)) => {{
        let World { core, counting, .. } = &mut *$world;
        if *counting { counted(|| core.$call($($argument),*)) } else { core.$call($($argument),*) }
    }};
}

impl World {
    /// Creates a core that holds all devices and has one lane, without waves.
    pub(crate) fn new(setting: Setting) -> Self {
        let core = Core::new(CoreConfig { single: true, cores: 1, seed: 42, hash_seed: 42 });
        let (peers, out) = (Vec::new(), Vec::new());
        let (accepted, complete) =
            (vec![BTreeMap::new(); setting.alerts], vec![false; setting.alerts]);
        let now = Time(1_000_000);
        let mut world =
            Self { setting, core, peers, out, now, counting: false, accepted, complete };
        let partitions: Vec<_> = (0..setting.partitions).map(PartitionId).collect();
        world.send(Command::Own(partitions.into()));
        world.load();
        world.send(Command::Lane(Arc::new(city::lane_spec(setting.case))));
        let authorization = Authorization(Arc::new(setting.case.authorization().into()));
        world.send(Command::ProviderToken { lane: city::LANE, authorization, signer: 0 });
        world.send(Command::Slice { lane: city::LANE, until: Time::NEVER, rate: None });
        world
    }

    /// Starts all alerts, each for all devices.
    pub(crate) fn start(&mut self) {
        let cover = city::cover();
        let city = self.setting.city();
        for wave in 0..self.setting.alerts {
            let spec = city::wave_spec(wave, &city, Arc::clone(&cover));
            self.send(Command::Wave(Arc::new(spec)));
            self.send(Command::Grant { wave: city::wave_id(wave), until: Time::NEVER, rate: None });
        }
    }

    /// Returns the number of requests that the gateway has read.
    pub(crate) fn requests(&self) -> u64 {
        self.peers.iter().flatten().map(|peer| peer.requests).sum()
    }

    /// Returns the number of bytes that the gateway has read.
    pub(crate) fn bytes(&self) -> u64 {
        self.peers.iter().flatten().map(|peer| peer.bytes).sum()
    }

    /// Reports whether all waves are complete.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.iter().all(|complete| *complete)
    }

    /// # Panics
    /// Panics unless each wave has reached every device.
    pub(crate) fn check_everybody_was_reached(&self) {
        for (wave, accepted) in self.accepted.iter().enumerate() {
            assert_eq!(
                accepted.values().sum::<u64>(),
                self.setting.devices,
                "devices reached by wave {wave}"
            );
        }
    }

    /// Runs one turn of a driver.
    pub(crate) fn step(&mut self) {
        let before = self.requests();
        let mut active = self.read();
        let now = self.now;
        let more = core!(self.turn(now));
        self.write();
        while let Some(request) = core!(self.poll_io()) {
            active = true;
            self.io(&request);
        }
        while let Some(event) = core!(self.poll_event(now)) {
            active = true;
            self.receive(event);
        }
        let written = self.requests() - before;
        self.now = now + Duration::from_micros(written);
        if more || active || written > 0 {
            return;
        }
        // Like a driver that waits for its sockets and the core.
        let deadline = core!(self.deadline());
        let answers = self.peers.iter().flatten().filter_map(Peer::due);
        let next = answers.chain(deadline).min().expect("something is under way");
        self.now = next.max(now + IDLE);
    }

    fn read(&mut self) -> bool {
        let mut active = false;
        for slot in 0..self.peers.len() {
            let now = self.now;
            let Some((id, peer)) = self.peers[slot].as_mut().map(|peer| (peer.id, peer)) else {
                continue;
            };
            peer.answer(now);
            let output = std::mem::take(&mut peer.output);
            for record in output.chunks(RECORD_BYTES) {
                active = true;
                core!(self.receive(id, record, now));
            }
            if let Some(peer) = self.peers[slot].as_mut() {
                peer.output = output;
                peer.output.clear();
            }
        }
        active
    }

    fn write(&mut self) {
        for slot in 0..self.peers.len() {
            let now = self.now;
            let Some(id) = self.peers[slot].as_ref().map(|peer| peer.id) else { continue };
            let mut out = std::mem::take(&mut self.out);
            core!(self.transmit(id, &mut out, now));
            if !out.is_empty() {
                let peer = self.peers[slot].as_mut().expect("looked up");
                peer.receive(&out, now);
                core!(self.written(id, out.len(), true, now));
            }
            core!(self.give_back(out));
        }
    }

    fn io(&mut self, request: &IoRequest) {
        match *request {
            IoRequest::Connect { connection, .. } => {
                let slot = connection.slot as usize;
                if self.peers.len() <= slot {
                    self.peers.resize_with(slot + 1, || None);
                }
                self.peers[slot] = Some(Peer::new(connection, self.setting.case));
                self.core.connected(connection, self.now);
            }
            IoRequest::Close { connection, .. } => {
                panic!("the core closed connection {}", connection.slot)
            }
        }
    }

    fn receive(&mut self, event: Event) {
        let Event::Report(report) = event else { return };
        let wave = usize::try_from(report.wave.0).expect("few") - 1;
        self.complete[wave] = report.complete;
        let accepted = |counts: Counts| counts.outcomes[Outcome::Accepted as usize];
        self.accepted[wave]
            .extend(report.bands.into_iter().map(|(band, counts)| (band, accepted(counts))));
    }

    fn send(&mut self, command: Command) {
        self.core.command(command, self.now);
    }

    fn load(&mut self) {
        for batch in city::arrivals(&self.setting.city()) {
            self.send(batch);
            while !self.core.feed_ready() {
                self.core.turn(self.now);
            }
        }
    }
}
