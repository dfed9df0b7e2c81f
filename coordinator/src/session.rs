//! One stream to one node, as a state machine: messages, what holds now and time come in; messages
//! and notes go out.
//!
//! The machine compares what holds ([`Standing`]) with what it has sent and sends the difference,
//! so a session starts complete and goes on with changes. What a node told of its waves is kept in
//! its [`NodeMemory`], which outlives the session: the same process that comes back is sent nothing
//! that it has, another one is sent what its predecessor had done. The
//! task in [`crate::dispatch`] drives the machine; it alone knows gRPC.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{
    ids::{BootId, ClusterName, CoordinatorId, LaneId, LogIdentity, WaveId},
    limits::WAVES_MAX,
    time::Time,
    wire::shard_v1::{self as wire, SessionRequest, session_request::Message, session_response},
};

use self::{
    delivery::Subject,
    note::{Note, WaveNote},
    parts::Parts,
};
use crate::{
    lane::{
        LaneSpec, ProviderToken,
        lease::{self, LEASE_MS},
    },
    lane_owner::budget,
    owners::{NodeName, Owned},
    standing::{Phase, Standing},
};

mod delivery;
mod memory;
pub(crate) mod message;
pub(crate) mod note;
mod offers;
mod parts;

pub(crate) use memory::NodeMemory;

/// A Cancel without an answer is sent again after this; a wave refused for its ownership too.
const AGAIN: Duration = Duration::from_secs(1);
/// Messages waiting for the stream, but parts. A start sends 1 + 2 × 256 lanes + 4,608 waves + 8
/// counts; a lease request is answered with 1 + 256 lanes. More than this means that the node does
/// not read: the session ends and starts anew.
const OUTBOX_MAX: usize = 8_192;

/// Who this coordinator is, to nodes.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterName,
    /// This process.
    pub(crate) coordinator: CoordinatorId,
    /// What it serves.
    pub(crate) log: LogIdentity,
}

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
    /// What follows the heads that are in the outbox.
    heads: BTreeMap<Subject, Parts>,
    /// What is sent part by part, in turn.
    parts: VecDeque<Parts>,
    notes: VecDeque<Note>,
    opened: Time,
    /// Of the last input.
    now: Time,
    /// It has lived long enough to carry what a former session may have died of.
    proven: bool,
    /// What failed before may be sent now.
    suspects_due: bool,
    /// What is offered now is the one suspect whose turn it is.
    alone: bool,
}

/// What this session has sent.
#[derive(Debug, Default)]
struct Sent {
    ownership: Option<u64>,
    lanes: BTreeMap<LaneId, Arc<LaneSpec>>,
    tokens: BTreeMap<LaneId, Arc<ProviderToken>>,
    /// Its part of the connections of each lane of which it has said how it uses those it has: a
    /// coordinator that has just started knows nothing of what a busy node needs, and must not take
    /// its connections away.
    connections: BTreeMap<LaneId, Option<u32>>,
    waves: BTreeMap<WaveId, SentWave>,
    counts: BTreeSet<u64>,
}

/// How far this session is with a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SentWave {
    /// The node has it, or is being sent it.
    Offered,
    /// It failed before: it is sent when nothing else is.
    Waiting,
    /// It failed three times: it is not sent again.
    Isolated,
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
        let mut session = Self {
            node,
            boot,
            log,
            memory,
            standing,
            left: false,
            sent: Sent::default(),
            outbox: VecDeque::new(),
            heads: BTreeMap::new(),
            parts: VecDeque::new(),
            notes: VecDeque::new(),
            opened: now,
            now,
            proven: false,
            suspects_due: false,
            alone: false,
        };
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
        self.pass(now);
        self.send_differences(now);
    }

    /// The node speaks.
    ///
    /// # Errors
    /// The node asks and does not read the answers.
    pub(crate) fn receive(
        &mut self,
        message: session_response::Message,
        now: Time,
    ) -> Result<(), NotReading> {
        use session_response::Message as Said;
        self.pass(now);
        match message {
            Said::Hello(_) => self.fault("a second Hello in one session".to_owned()),
            Said::LeaseRequest(request) => self.lease(&request, now),
            Said::Report(report) => self.report(report),
            Said::Stopped(stopped) => self.stopped(stopped),
            Said::Counted(counted) => {
                self.taken(Subject::Count(counted.id));
                self.notes.push_back(Note::Counted(counted));
            }
            Said::Refusal(refusal) => self.refused(&refusal, now),
            Said::LaneLoad(load) => {
                self.sent.connections.entry(LaneId(load.lane)).or_default();
                self.notes.push_back(Note::Load(load));
                self.send_differences(now);
            }
            Said::LaneState(state) => self.notes.push_back(Note::Lane(state)),
            Said::RegistryState(state) => self.notes.push_back(Note::Registry(state)),
            // Messages are applied in their order: everything that it said before is in its memory
            // by now, and its next process is given that.
            Said::Leaving(wire::Leaving {}) => {
                self.left = true;
                self.outbox.push_back(message::request(Message::Left(wire::Left {})));
            }
        }
        self.send_due_suspect(now);
        if self.outbox.len() > OUTBOX_MAX { Err(NotReading) } else { Ok(()) }
    }

    /// Whether the node has said that it drains and has told everything.
    pub(crate) fn has_left(&self) -> bool {
        self.left
    }

    pub(crate) fn has_message(&self) -> bool {
        !self.outbox.is_empty()
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
        let again = self.sent.waves.values().filter_map(again).min();
        let proven = (!self.proven).then_some(self.opened + delivery::PROVEN_AFTER);
        [again, self.memory.deliveries.deadline(), proven].into_iter().flatten().min()
    }

    fn pass(&mut self, now: Time) {
        self.now = now;
        if !self.proven && now >= self.opened + delivery::PROVEN_AFTER {
            (self.proven, self.suspects_due) = (true, true);
        }
    }

    /// Sends again what is due.
    pub(crate) fn expire(&mut self, now: Time) {
        self.pass(now);
        self.give_up_overdue(now);
        let due = |sent: &SentWave| matches!(sent, SentWave::Refused(at) | SentWave::Cancelled(at) if *at <= now);
        let before = self.sent.waves.len();
        self.sent.waves.retain(|_, sent| !due(sent));
        if self.sent.waves.len() < before {
            self.send_differences(now);
        }
        self.send_due_suspect(now);
    }

    /// The stream has ended; the node's memory goes on. `broken`: how, unless one side wanted it;
    /// then what was on its way may be the reason. The notes say what is never sent again.
    pub(crate) fn close(mut self, broken: Option<&str>) -> (NodeMemory, Vec<Note>) {
        let isolated = self.memory.deliveries.session_ended(broken);
        (self.memory, isolated.into_iter().map(offers::note_of).collect())
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
        self.send_suspect(&standing, owned, now);
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

    /// Answers with one Grant for all waves that may go on, and a Slice for each lane of which the
    /// node has a part now.
    fn lease(&mut self, request: &wire::LeaseRequest, now: Time) {
        let standing = self.standing.clone();
        let Some(owned) = &standing.owned else { return };
        let (mine, all) = (owned.share(&self.node), owned.partition_count);
        let mut grants = Vec::new();
        for wave in request.waves.iter().take(WAVES_MAX).map(|id| WaveId(*id)) {
            self.taken(Subject::Wave(wave));
            let running =
                standing.waves.get(&wave).filter(|w| w.phase == Phase::Running && mine > 0);
            if let Some(running) = running.filter(|w| w.expires > now) {
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

    fn slice(
        &mut self,
        lane: &LaneSpec,
        partitions: u16,
        partition_count: u16,
        now: Time,
    ) -> Option<lease::SlicePart> {
        let Some(quota) = lane.gateway.quota else { return Some(lease::SlicePart::UNLIMITED) };
        let ramp = self.standing.ramps.get(&lane.id).copied().unwrap_or_default();
        let (share, alone_for) = (ramp.share(quota.ramp, now), self.memory.alone_for(now));
        let part =
            lease::slice(quota, lease::Claim { partitions, partition_count, share, alone_for })?;
        self.memory.sliced(now);
        Some(part)
    }

    fn report(&mut self, mut report: wire::Report) {
        let wave = WaveId(report.wave);
        if let Err(bad) = self.memory.report(&report) {
            self.fault(format!("report {} of wave {wave}: {bad}", report.sequence));
        }
        (report.handed, report.open) = (Vec::new(), Vec::new());
        self.taken(Subject::Wave(wave));
        self.notes.push_back(Note::Wave(wave, WaveNote::Report(Box::new(report))));
    }

    fn stopped(&mut self, stopped: wire::Stopped) {
        let wave = WaveId(stopped.wave);
        self.taken(Subject::Wave(wave));
        if let Some(sent @ SentWave::Cancelled(_)) = self.sent.waves.get_mut(&wave) {
            *sent = SentWave::Stopped;
        }
        self.notes.push_back(Note::Wave(wave, WaveNote::Stopped(stopped)));
    }

    fn fault(&mut self, what: String) {
        self.notes.push_back(Note::Fault(what));
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod isolation_tests;
#[cfg(test)]
mod limits_tests;
