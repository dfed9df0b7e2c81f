//! One stream to one node, as a state machine: messages, what holds now and time come in; messages and notes go out.
//!
//! The machine compares what holds ([`Standing`]) with what it has sent and sends the difference, so a session starts
//! complete and goes on with changes. What a node told of its waves is kept in its [`NodeMemory`], which outlives the
//! session: the same process that comes back is sent nothing that it has, another one is sent what its predecessor had
//! done. `task` drives the machine; it alone knows gRPC.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{
    ids::{BootId, LaneId, LogIdentity, WaveId},
    time::Time,
    wire::shard_v1::{self as wire, SessionRequest, session_request::Message, session_response},
};

use crate::{
    dispatch::standing::{Owned, Phase, Standing, StandingWave},
    lane_owner::{LaneSpec, ProviderToken, budget},
    owners::NodeName,
};
pub(crate) use memory::NodeMemory;

mod lease;
mod memory;
mod message;
pub(crate) mod task;

pub(crate) use lease::LEASE_MS;

/// A Cancel without an answer is sent again after this; a wave refused for its ownership too.
const AGAIN: Duration = Duration::from_secs(1);
/// Messages waiting for the stream. A start sends 1 + 2 × lanes + waves + counts; a lease request is answered with
/// 1 + lanes. More than this means that the node does not read: the session ends and starts anew.
const OUTBOX_MAX: usize = 4_096;

/// One session, from the node's Hello to the end of the stream.
#[derive(Debug)]
pub(crate) struct Session {
    node: NodeName,
    boot: BootId,
    log: LogIdentity,
    memory: NodeMemory,
    standing: Arc<Standing>,
    /// The node drains and has told everything.
    left: bool,
    sent: Sent,
    outbox: VecDeque<SessionRequest>,
    notes: VecDeque<Note>,
}

/// What this session has sent.
#[derive(Debug, Default)]
struct Sent {
    ownership: Option<u64>,
    lanes: BTreeMap<LaneId, Arc<LaneSpec>>,
    tokens: BTreeMap<LaneId, Arc<ProviderToken>>,
    /// Its part of the connections of each lane of which it has said how it uses those it has: a coordinator that has just
    /// started knows nothing of what a busy node needs, and must not take its connections away.
    connections: BTreeMap<LaneId, Option<u32>>,
    waves: BTreeMap<WaveId, SentWave>,
    counts: BTreeSet<u64>,
}

/// How far this session is with a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SentWave {
    /// The node has it.
    Offered,
    /// Not to be offered: it is over, or the node has no part.
    Passed,
    /// Refused; offered again then.
    Refused(Time),
    /// Cancel sent; sent again then.
    Cancelled(Time),
    /// Stopped: confirmed.
    Stopped,
    /// End sent.
    Ended,
}

/// What a session tells the rest of the coordinator.
#[derive(Debug)]
pub(crate) enum Note {
    Wave(WaveId, WaveNote),
    Lane(wire::LaneState),
    Load(wire::LaneLoad),
    Registry(wire::RegistryState),
    Counted(wire::Counted),
    /// A defect of the node, for the log.
    Fault(String),
}

/// What a session tells of one wave.
#[derive(Debug)]
pub(crate) enum WaveNote {
    /// The node is there, in this process.
    Joined,
    /// Without its sets, which are kept in the node's memory.
    Report(Box<wire::Report>),
    /// The node writes nothing more.
    Stopped(wire::Stopped),
    /// The node was given leave to send.
    Granted,
    /// The stream has ended.
    Gone,
}

/// The node does not read.
#[derive(Debug, thiserror::Error)]
#[error("{OUTBOX_MAX} messages wait for the node to read")]
pub(crate) struct NotReading;

impl Session {
    /// The node has said hello.
    pub(crate) fn open(
        (node, boot): (NodeName, BootId),
        log: LogIdentity,
        mut memory: NodeMemory,
        standing: Arc<Standing>,
        now: Time,
    ) -> Self {
        memory.hello(boot);
        let (sent, outbox, notes) = (Sent::default(), VecDeque::new(), VecDeque::new());
        let mut session = Self { node, boot, log, memory, standing, left: false, sent, outbox, notes };
        session.send_differences(now);
        session
    }

    pub(crate) fn node(&self) -> &NodeName {
        &self.node
    }

    pub(crate) fn boot(&self) -> BootId {
        self.boot
    }

    /// What holds has changed.
    pub(crate) fn update(&mut self, standing: Arc<Standing>, now: Time) {
        self.standing = standing;
        self.send_differences(now);
    }

    /// The node speaks.
    ///
    /// # Errors
    /// The node asks and does not read the answers.
    pub(crate) fn receive(&mut self, message: session_response::Message, now: Time) -> Result<(), NotReading> {
        use session_response::Message as Said;
        match message {
            Said::Hello(_) => self.fault("a second Hello in one session".to_owned()),
            Said::LeaseRequest(request) => self.lease(&request, now),
            Said::Report(report) => self.report(report),
            Said::Stopped(stopped) => self.stopped(stopped),
            Said::Counted(counted) => self.notes.push_back(Note::Counted(counted)),
            Said::Refusal(refusal) => self.refused(&refusal, now),
            Said::LaneLoad(load) => {
                self.sent.connections.entry(LaneId(load.lane)).or_default();
                self.notes.push_back(Note::Load(load));
                self.send_differences(now);
            }
            Said::LaneState(state) => self.notes.push_back(Note::Lane(state)),
            Said::RegistryState(state) => self.notes.push_back(Note::Registry(state)),
            // Messages are applied in their order: everything that it said before is in its memory by now, and its next
            // process is given that.
            Said::Leaving(wire::Leaving {}) => {
                self.left = true;
                self.outbox.push_back(message::request(Message::Left(wire::Left {})));
            }
        }
        if self.outbox.len() > OUTBOX_MAX { Err(NotReading) } else { Ok(()) }
    }

    /// Whether the node has said that it drains and has told everything.
    pub(crate) fn has_left(&self) -> bool {
        self.left
    }

    pub(crate) fn has_message(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The next message for the node.
    pub(crate) fn poll_message(&mut self) -> Option<SessionRequest> {
        self.outbox.pop_front()
    }

    /// The next note for the coordinator.
    pub(crate) fn poll_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// When [`Session::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let again = |sent: &SentWave| match sent {
            SentWave::Refused(at) | SentWave::Cancelled(at) => Some(*at),
            _ => None,
        };
        self.sent.waves.values().filter_map(again).min()
    }

    /// Sends again what is due.
    pub(crate) fn expire(&mut self, now: Time) {
        let due = |sent: &SentWave| matches!(sent, SentWave::Refused(at) | SentWave::Cancelled(at) if *at <= now);
        let before = self.sent.waves.len();
        self.sent.waves.retain(|_, sent| !due(sent));
        if self.sent.waves.len() < before {
            self.send_differences(now);
        }
    }

    /// The stream has ended; the node's memory goes on.
    pub(crate) fn close(self) -> NodeMemory {
        self.memory
    }

    fn send_differences(&mut self, now: Time) {
        let standing = self.standing.clone();
        let Some(owned) = &standing.owned else { return };
        if self.sent.ownership != Some(owned.ownership.number) {
            self.sent.ownership = Some(owned.ownership.number);
            self.outbox.push_back(message::ownership(owned, &self.node, self.log));
        }
        for (id, lane) in &standing.lanes {
            if self.sent.lanes.get(id).is_none_or(|sent| !Arc::ptr_eq(sent, lane)) {
                self.sent.lanes.insert(*id, lane.clone());
                self.outbox.push_back(message::lane(lane));
            }
        }
        for (id, token) in &standing.tokens {
            if self.sent.tokens.get(id).is_none_or(|sent| !Arc::ptr_eq(sent, token)) {
                self.sent.tokens.insert(*id, token.clone());
                self.outbox.push_back(message::provider_token(*id, token));
            }
        }
        self.send_connections(&standing, owned);
        for wave in standing.waves.values() {
            self.send_wave(wave, owned, now);
        }
        self.end_others(&standing);
        self.send_counts(&standing, owned);
    }

    fn send_connections(&mut self, standing: &Standing, owned: &Owned) {
        for (lane, sent) in &mut self.sent.connections {
            let Some(budget) = standing.connections.get(lane) else { continue };
            let part = budget::share(*budget, owned.nodes(), &self.node);
            if part > 0 && *sent != Some(part) {
                *sent = Some(part);
                self.outbox.push_back(message::connections(*lane, part));
            }
        }
    }

    fn send_wave(&mut self, wave: &StandingWave, owned: &Owned, now: Time) {
        let id = wave.plan.wave;
        let sent = self.sent.waves.get(&id).copied();
        if sent.is_none() && owned.share(&self.node) > 0 {
            self.notes.push_back(Note::Wave(id, WaveNote::Joined));
        }
        let next = match (wave.phase, sent) {
            (_, None) if owned.share(&self.node) == 0 => SentWave::Passed,
            (Phase::Running, None) if self.memory.has_reported(id) => SentWave::Offered,
            (Phase::Running, None) => {
                self.outbox.push_back(message::wave(wave, owned, &self.node, &self.memory, now));
                self.memory.offer(id);
                SentWave::Offered
            }
            // A process that was never given the wave has nothing to stop.
            (Phase::Cancelled, None) if !self.memory.was_offered(id) => {
                let stopped = wire::Stopped { wave: id.0, ..wire::Stopped::default() };
                self.notes.push_back(Note::Wave(id, WaveNote::Stopped(stopped)));
                SentWave::Stopped
            }
            (Phase::Cancelled, None | Some(SentWave::Offered | SentWave::Refused(_))) => {
                let cancel = wire::Cancel { wave: id.0, epoch: wave.plan.epoch.0 };
                self.outbox.push_back(message::request(Message::Cancel(cancel)));
                SentWave::Cancelled(now + AGAIN)
            }
            (Phase::Ended, None) if !self.memory.was_offered(id) => SentWave::Passed,
            (Phase::Ended, None | Some(SentWave::Offered | SentWave::Refused(_))) => {
                self.end(id);
                SentWave::Ended
            }
            (Phase::Expired, None) => SentWave::Passed,
            (_, Some(as_before)) => as_before,
        };
        self.sent.waves.insert(id, next);
    }

    /// Waves that are over everywhere, as far as this node may know them.
    fn end_others(&mut self, standing: &Standing) {
        for wave in self.memory.offered() {
            if !standing.waves.contains_key(&wave) && self.sent.waves.get(&wave) != Some(&SentWave::Ended) {
                self.end(wave);
            }
        }
        self.sent.waves.retain(|wave, _| standing.waves.contains_key(wave));
        self.memory.retain(|wave| standing.waves.contains_key(&wave));
    }

    fn end(&mut self, wave: WaveId) {
        self.outbox.push_back(message::request(Message::End(wire::End { wave: wave.0 })));
    }

    fn send_counts(&mut self, standing: &Standing, owned: &Owned) {
        if owned.share(&self.node) == 0 {
            return;
        }
        for (id, plan) in &standing.counts {
            if self.sent.counts.insert(*id) {
                self.outbox.push_back(message::count(*id, plan));
            }
        }
        self.sent.counts.retain(|id| standing.counts.contains_key(id));
    }

    /// Answers with one Grant for all waves that may go on, and a Slice for each lane of which the node has a part now.
    fn lease(&mut self, request: &wire::LeaseRequest, now: Time) {
        let standing = self.standing.clone();
        let Some(owned) = &standing.owned else { return };
        let (mine, all) = (owned.share(&self.node), owned.partition_count);
        let mut grants = Vec::new();
        for wave in request.waves.iter().map(|id| WaveId(*id)) {
            let running = standing.waves.get(&wave).filter(|w| w.phase == Phase::Running && mine > 0);
            if let Some(running) = running.filter(|w| w.plan.expires > now) {
                let rate = lease::rate_millis(running.plan.max_rate_per_second, mine, all);
                grants.push(wire::WaveGrant { wave: wave.0, rate_millis_per_second: rate });
                self.notes.push_back(Note::Wave(wave, WaveNote::Granted));
            }
        }
        if !request.waves.is_empty() {
            let grant = wire::Grant { nonce: request.nonce, lease_ms: LEASE_MS, waves: grants };
            self.outbox.push_back(message::request(Message::Grant(grant)));
        }
        for id in &request.lanes {
            let Some(lane) = standing.lanes.get(&LaneId(*id)) else { continue };
            // Without a slice the node sends nothing through the lane, and asks again.
            let Some(part) = self.slice(lane, mine, all, now) else { continue };
            let slice = wire::Slice {
                nonce: request.nonce,
                lease_ms: LEASE_MS,
                lane: *id,
                rate_millis_per_second: part.rate_millis_per_second,
                burst: part.burst,
            };
            self.outbox.push_back(message::request(Message::Slice(slice)));
        }
    }

    fn slice(&mut self, lane: &LaneSpec, partitions: u16, partition_count: u16, now: Time) -> Option<lease::SlicePart> {
        let Some(quota) = lane.gateway.quota else { return Some(lease::SlicePart::UNLIMITED) };
        let ramp = self.standing.ramps.get(&lane.id).copied().unwrap_or_default();
        let (share, alone_for) = (ramp.share(quota.ramp, now), self.memory.alone_for(now));
        let part = lease::slice(quota, lease::Claim { partitions, partition_count, share, alone_for })?;
        self.memory.sliced(now);
        Some(part)
    }

    fn report(&mut self, mut report: wire::Report) {
        let wave = WaveId(report.wave);
        if let Err(bad) = self.memory.report(&report) {
            self.fault(format!("report {} of wave {wave}: {bad}", report.sequence));
        }
        (report.handed, report.open) = (Vec::new(), Vec::new());
        if let Some(sent @ SentWave::Refused(_)) = self.sent.waves.get_mut(&wave) {
            *sent = SentWave::Offered; // it has it after all
        }
        self.notes.push_back(Note::Wave(wave, WaveNote::Report(Box::new(report))));
    }

    fn stopped(&mut self, stopped: wire::Stopped) {
        let wave = WaveId(stopped.wave);
        if let Some(sent @ SentWave::Cancelled(_)) = self.sent.waves.get_mut(&wave) {
            *sent = SentWave::Stopped;
        }
        self.notes.push_back(Note::Wave(wave, WaveNote::Stopped(stopped)));
    }

    /// A wave that was refused is offered again later: the ownership it needed may not have been taken yet. What else
    /// is refused is a defect of one side, and a person has to know.
    fn refused(&mut self, refusal: &wire::Refusal, now: Time) {
        let wire::Refusal { ownership, wave, reason } = refusal;
        self.fault(format!("refused wave {wave}, holding ownership {ownership}: {reason}"));
        if self.sent.ownership != Some(*ownership) {
            self.sent.ownership = None; // sent again, before the wave
        }
        if let Some(sent @ SentWave::Offered) = self.sent.waves.get_mut(&WaveId(*wave)) {
            *sent = SentWave::Refused(now + AGAIN);
        }
    }

    fn fault(&mut self, what: String) {
        self.notes.push_back(Note::Fault(what));
    }
}

#[cfg(test)]
mod tests;
