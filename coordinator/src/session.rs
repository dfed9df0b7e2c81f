//! Session: one stream to one node, as a state machine without I/O.
//!
//! Inputs are the node's messages, the desired state ([`Standing`]) and the time; outputs are
//! messages to the node and notes to the coordinator. The machine compares the desired state with
//! the messages that it has sent, and sends the difference: first the whole state, then changes.
//! The node's reports on its waves are kept in its [`NodeMemory`], which outlives the session: a
//! reconnecting process gets nothing that it has, and a new process gets the work that the former
//! process has done. The task in [`crate::dispatch`] drives the machine; only the task uses gRPC.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use clarion_proto::{
    ids::{BootId, ClusterName, CoordinatorId, Epoch, LaneId, LogIdentity, WaveId},
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
pub(crate) mod hello;
mod memory;
pub(crate) mod message;
pub(crate) mod note;
mod offers;
mod parts;
pub(crate) mod routing;

pub(crate) use memory::NodeMemory;

/// Pause before an unanswered Cancel, or a refused wave, is sent again.
const AGAIN: Duration = Duration::from_secs(1);
/// Maximum number of messages, without parts, that wait for the stream.
///
/// A start sends 1 + 2 × 256 lanes + 4,608 waves + 8 counts; a lease request is answered with 1 +
/// 256 lanes. More messages mean that the node does not read: the session ends and a new one
/// starts.
const OUTBOX_MAX: usize = 8_192;

/// Identity of the coordinator, which every session sends to its node.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterName,
    /// Id of this coordinator process.
    pub(crate) coordinator: CoordinatorId,
    /// Identity of the log that this coordinator serves.
    pub(crate) log: LogIdentity,
    /// Number under which this coordinator directs the lanes of the cluster; set before the first
    /// session begins.
    pub(crate) lanes_epoch: OnceLock<Epoch>,
}

/// One session, from the node's Hello to the end of the stream.
#[derive(Debug)]
pub(crate) struct Session {
    node: NodeName,
    boot: BootId,
    log: LogIdentity,
    memory: NodeMemory,
    standing: Arc<Standing>,
    /// Whether the node drains and has sent its last report.
    left: bool,
    sent: Sent,
    outbox: VecDeque<SessionRequest>,
    /// Parts that follow the heads in the outbox.
    heads: BTreeMap<Subject, Parts>,
    /// Waves and counts that are being sent part by part, in turn.
    parts: VecDeque<Parts>,
    notes: VecDeque<Note>,
    opened: Time,
    /// Time of the last input.
    now: Time,
    /// Whether the session has lived long enough to carry a suspect.
    proven: bool,
    /// Whether a suspect may be sent now.
    suspects_due: bool,
    /// Whether the message that is being offered is the suspect whose turn it is.
    alone: bool,
}

/// State that this session has sent to the node.
#[derive(Debug, Default)]
struct Sent {
    ownership: Option<u64>,
    lanes: BTreeMap<LaneId, Arc<LaneSpec>>,
    tokens: BTreeMap<LaneId, Arc<ProviderToken>>,
    /// The node's part of the connections of each lane whose load the node has reported: a
    /// restarted coordinator does not know the needs of a busy node and must not close its
    /// connections.
    connections: BTreeMap<LaneId, Option<u32>>,
    waves: BTreeMap<WaveId, SentWave>,
    counts: BTreeSet<u64>,
}

/// State of a wave in this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SentWave {
    /// The node has the wave, or the wave is being sent.
    Offered,
    /// The wave failed before, and is sent while nothing else is in flight.
    Waiting,
    /// The wave failed three times and is not sent again.
    Isolated,
    /// The wave is not offered: it has ended, or the node has no part.
    Passed,
    /// The node refused the wave, which is offered again at this time.
    Refused(Time),
    /// Cancel was sent, and is sent again at this time.
    Cancelled(Time),
    /// The node confirmed that it stopped the wave.
    Stopped,
    /// Another coordinator directs the wave at this node.
    Superseded,
    /// End was sent to the node.
    Ended,
}

/// The node does not read its messages, so the session has to end.
#[derive(Debug, thiserror::Error)]
#[error("more than {OUTBOX_MAX} messages wait for the node to read")]
pub(crate) struct NotReading;

impl Session {
    /// Opens the session after the node's Hello.
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

    /// Takes a new desired state, and sends the differences.
    pub(crate) fn update(&mut self, standing: Arc<Standing>, now: Time) {
        self.standing = standing;
        self.pass(now);
        self.send_differences(now);
    }

    /// Takes a message of the node.
    ///
    /// # Errors
    /// The node does not read its messages.
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
            Said::LanesWanted(wire::LanesWanted {}) => {
                self.sent.lanes.clear();
                self.sent.tokens.clear();
                self.sent.connections.values_mut().for_each(|sent| *sent = None);
                self.send_differences(now);
            }
            Said::LaneState(state) => self.notes.push_back(Note::Lane(state)),
            Said::RegistryState(state) => self.notes.push_back(Note::Registry(state)),
            // Messages are applied in order: the node's memory has all earlier reports by now, and
            // the node's next process gets their content.
            Said::Leaving(wire::Leaving {}) => {
                self.left = true;
                self.outbox.push_back(message::request(Message::Left(wire::Left {})));
            }
        }
        self.send_due_suspect(now);
        if self.outbox.len() > OUTBOX_MAX { Err(NotReading) } else { Ok(()) }
    }

    /// Whether the node drains and has sent its last report.
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

    /// Next time at which [`Session::expire`] has something to do.
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

    /// Sends again the waves and cancels that are due.
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

    /// Closes the session after its stream has ended; returns the node's memory, and notes on
    /// messages that are never sent again. `broken`: the reason if the stream broke, in which case
    /// a message in flight may be the cause; `None`: either side ended the stream.
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

    /// Answers a lease request: one Grant for all waves that may go on, and a Slice for each lane
    /// of which the node has a part now.
    fn lease(&mut self, request: &wire::LeaseRequest, now: Time) {
        let standing = self.standing.clone();
        let Some(owned) = &standing.owned else { return };
        let (mine, all) = (owned.share(&self.node), owned.partition_count);
        let mut grants = Vec::new();
        for wave in request.waves.iter().take(WAVES_MAX).map(|id| WaveId(*id)) {
            self.taken(Subject::Wave(wave));
            let running =
                standing.waves.get(&wave).filter(|w| w.phase == Phase::Running && mine > 0);
            let superseded = self.sent.waves.get(&wave) == Some(&SentWave::Superseded);
            if let Some(running) = running.filter(|w| w.expires > now && !superseded) {
                let rate = lease::rate_millis(running.plan.max_rate_per_second, mine, all);
                let epoch = running.plan.epoch.0;
                grants.push(wire::WaveGrant { wave: wave.0, rate_millis_per_second: rate, epoch });
                self.notes.push_back(Note::Wave(wave, WaveNote::Granted));
            }
        }
        if !request.waves.is_empty() {
            let grant = wire::Grant { nonce: request.nonce, lease_ms: LEASE_MS, waves: grants };
            self.outbox.push_back(message::request(Message::Grant(grant)));
        }
        for id in &request.lanes {
            let Some(lane) = standing.lanes.get(&LaneId(*id)) else {
                // Another coordinator has described it to the node.
                self.notes.push_back(Note::LaneUnknown(LaneId(*id)));
                continue;
            };
            // Without a slice the node sends nothing through the lane, and requests a slice again.
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
#[cfg(test)]
mod several_tests;
