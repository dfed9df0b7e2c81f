//! The coordinator's state machines combined without tasks, transport and clock, for a simulator.
//!
//! In production [`crate::dispatch`] passes messages between these state machines: a task for each
//! node drives a session, a task for each alert drives its director, one task each carries the
//! operations of the roster and of the lane owner, and all sessions watch the board. [`Machine`]
//! does the same within one call, so that a simulator controls the order of events. [`Machine`]
//! makes no decisions:
//!
//! ```text
//! stream opened, message, closed ─▶ Session ─notes─▶ Director, LaneOwner, Roster ◀─▶ store
//!                                      ▲                  │ changes
//!                                      └──── Standing ◀───┘
//! ```
//!
//! Not included: the stores of alerts and of lanes, admission, counts, feedback of dead tokens, and
//! exchanges with token endpoints.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
};

use clarion_proto::{
    ids::{BootId, ClusterName, CoordinatorId, Epoch, LaneId, LogIdentity, UnixMillis, WaveId},
    time::Time,
    wire::shard_v1::{self as wire, SessionRequest, SessionResponse},
};
use clarion_runtime::world::Moment;

use crate::{
    alert::director::{self, Director},
    lane::{Gateway, LaneKey},
    lane_owner::{self, Credential, LaneError, LaneOwner},
    members::{
        Roster,
        assignment::{self, StoreOp, StoreResult},
    },
    owners::NodeName,
    planned::PlannedAlert,
    session::{
        Identity, Session,
        hello::{self, Greeted},
        message,
        note::{Note, WaveNote},
        routing::{self, Machines},
    },
    snapshot::Snapshot,
    standing::{Change, Standing, StandingWave},
};

/// The settings of a [`Machine`].
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// Name of the cluster.
    pub cluster: ClusterName,
    /// Identity of this coordinator process.
    pub coordinator: CoordinatorId,
    /// Identity of the log that the coordinator serves.
    pub log: LogIdentity,
    /// Number under which the coordinator directs the lanes of the cluster, at least 1.
    pub lanes_epoch: Epoch,
    /// Number of partitions, P.
    pub partitions: u16,
    /// Number of logs, L.
    pub logs: u16,
    /// Partitions are assigned once this many nodes are connected.
    pub nodes: usize,
    /// All gateways of the configuration.
    pub gateways: Vec<Gateway>,
    /// All credentials of the configuration.
    pub credentials: Vec<Credential>,
}

/// One step for the caller of a [`Machine`] to perform.
#[derive(Debug)]
pub enum Output {
    /// Send a message on a stream.
    Say {
        /// Number of the stream.
        stream: u64,
        /// Message for the node.
        request: SessionRequest,
    },
    /// End a stream; the machine has forgotten it.
    End {
        /// Number of the stream.
        stream: u64,
        /// Reason of the stream's end.
        reason: String,
    },
    /// Carry out an operation of the store, and return its result to [`Machine::stored`].
    Store(StoreOp),
}

/// Why an alert cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No partition is assigned yet.
    #[error("partitions are not assigned yet")]
    NotReady,
    /// The alert names a lane that the configuration lacks.
    #[error(transparent)]
    Lane(#[from] LaneError),
}

/// One coordinator without tasks: sessions, alerts, lanes and the desired state.
#[derive(Debug)]
pub struct Machine {
    identity: Identity,
    parts: Parts,
    streams: BTreeMap<u64, Stream>,
    alerts: BTreeMap<WaveId, Director>,
    outputs: VecDeque<Output>,
}

/// The machines that notes of sessions go to, at the moment of the present input.
#[derive(Debug)]
struct Parts {
    now: Moment,
    standing: Arc<Standing>,
    /// Whether the desired state has changed since the sessions saw it.
    changed: bool,
    roster: Roster,
    lanes: LaneOwner,
    faults: Vec<String>,
}

#[derive(Debug)]
struct Stream {
    opened: Time,
    /// The session; `None` before the node's Hello.
    session: Option<Session>,
}

impl Machine {
    /// Creates a coordinator without nodes and alerts.
    #[must_use]
    pub fn new(config: MachineConfig) -> Self {
        let MachineConfig { cluster, coordinator, log, partitions, logs, nodes, .. } = config;
        let lanes_epoch = OnceLock::from(config.lanes_epoch);
        let mut roster = Roster::new(nodes, partitions, logs);
        roster.set_addresses(nodes);
        let parts = Parts {
            now: Moment { at: Time(0), wall: UnixMillis(0) },
            standing: Arc::default(),
            changed: false,
            roster,
            lanes: LaneOwner::new(config.gateways, config.credentials),
            faults: Vec::new(),
        };
        Self {
            identity: Identity { cluster, coordinator, log, lanes_epoch },
            parts,
            streams: BTreeMap::new(),
            alerts: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Creates a lane at every node.
    ///
    /// # Errors
    /// The configuration lacks the lane's gateway or credential.
    pub fn ensure_lane(&mut self, key: &LaneKey, now: Moment) -> Result<(), LaneError> {
        self.parts.lanes.ensure(key)?;
        self.parts.lanes.expire(now);
        self.settle(now);
        Ok(())
    }

    /// Takes the result of [`Output::Store`].
    pub fn stored(&mut self, result: StoreResult, now: Moment) {
        self.parts.roster.stored(result, now.at);
        self.settle(now);
    }

    /// Reports that a stream to a node is open. The number of a stream must never be used again.
    pub fn opened(&mut self, stream: u64, now: Moment) {
        self.streams.insert(stream, Stream { opened: now.at, session: None });
        let request = message::open(&self.identity);
        self.outputs.push_back(Output::Say { stream, request });
    }

    /// Processes a node's message.
    pub fn received(&mut self, stream: u64, response: SessionResponse, now: Moment) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        let result = match (&mut open.session, response.message) {
            (Some(session), Some(message)) => {
                session.receive(message, now.at).map_err(|problem| problem.to_string())
            }
            (Some(_), None) => Ok(()),
            (None, first) => self.begin(stream, first.as_ref(), now),
        };
        if let Err(reason) = result {
            self.closed(stream, Some(&reason), now);
            self.outputs.push_back(Output::End { stream, reason });
        }
        self.settle(now);
    }

    /// Reports the end of a stream. `broken`: the failure; `None`: one side closed the stream.
    pub fn closed(&mut self, stream: u64, broken: Option<&str>, now: Moment) {
        let Some(session) = self.streams.remove(&stream).and_then(|stream| stream.session) else {
            return;
        };
        let (node, boot) = (session.node().clone(), session.boot());
        let broken = broken.filter(|_| !session.has_left());
        let (memory, notes) = session.close(broken);
        self.parts.roster.release(&node, memory);
        for note in notes {
            self.note(&node, boot, note, now);
        }
        self.parts.lanes.node_gone(&node);
        for director in self.alerts.values_mut() {
            director.note(&node, boot, WaveNote::Gone, now.at);
        }
        self.settle(now);
    }

    /// Whether partitions are assigned, so that an alert can start.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.parts.standing.owned.is_some()
    }

    /// Starts an alert.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(&mut self, plan: Arc<PlannedAlert>, now: Moment) -> Result<(), StartError> {
        let Parts { standing, roster, lanes: owner, .. } = &mut self.parts;
        let owned = standing.owned.clone().ok_or(StartError::NotReady)?;
        let lanes = plan.apps.iter().map(|app| Ok(owner.ensure(&app.lane)?.id));
        let lanes = lanes.collect::<Result<Vec<_>, LaneError>>()?;
        owner.expire(now);
        let nodes = owned.nodes().keys();
        let deadline = owner.request_deadline_max();
        let mut director = Director::new(&plan, nodes.clone().cloned(), deadline, now);
        let away = nodes.filter(|node| !roster.is_connected(node));
        let phase = director.begin(away, false, now.at);
        let expires = director.expires();
        self.alerts.insert(plan.wave, director);
        self.carry_out(now);
        self.parts.apply(Change::Begin(StandingWave { plan, lanes, expires, phase }), now.at);
        self.settle(now);
        Ok(())
    }

    /// Applies the passage of time.
    pub fn expire(&mut self, now: Moment) {
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now.at);
        let mut late = Vec::new();
        for (number, stream) in &mut self.streams {
            match &mut stream.session {
                Some(session) if due(session.deadline()) => session.expire(now.at),
                None if due(Some(stream.opened + hello::DEADLINE)) => late.push(*number),
                Some(_) | None => {}
            }
        }
        for stream in late {
            self.streams.remove(&stream);
            let reason = format!("no Hello within {} s", hello::DEADLINE.as_secs());
            self.outputs.push_back(Output::End { stream, reason });
        }
        self.parts.lanes.expire(now);
        self.alerts.values_mut().for_each(|director| director.expire(now.at));
        self.settle(now);
    }

    /// Time at which [`Machine::expire`] has work next.
    #[must_use]
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let streams = self.streams.values().filter_map(|stream| match &stream.session {
            Some(session) => session.deadline(),
            None => Some(stream.opened + hello::DEADLINE),
        });
        let alerts = self.alerts.values().filter_map(|director| director.deadline(now));
        let others = [self.parts.lanes.deadline(), self.parts.roster.deadline()];
        streams.chain(alerts).chain(others.into_iter().flatten()).min()
    }

    /// The next step for the caller to perform.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The newest state of an alert; `None` if the alert was never started in this machine.
    pub fn snapshot(&mut self, wave: WaveId) -> Option<Snapshot> {
        Some(self.alerts.get_mut(&wave)?.snapshot())
    }

    /// Whether an alert has ended and its numbers no longer change.
    #[must_use]
    pub fn is_settled(&self, wave: WaveId) -> bool {
        self.alerts.get(&wave).is_some_and(Director::is_settled)
    }

    /// Defects of nodes that the sessions found.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.parts.faults
    }

    fn begin(
        &mut self,
        stream: u64,
        first: Option<&wire::session_response::Message>,
        now: Moment,
    ) -> Result<(), String> {
        let greeted = hello::check(first, &self.identity).map_err(|error| error.to_string())?;
        let Greeted { node, boot, positions, .. } = greeted;
        // The stream's number replaces the address, which only log lines and refusals contain.
        let port = u16::try_from(stream % 50_000).unwrap_or_default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let memory = self.parts.roster.claim(&node, boot, address, positions, now.at);
        let memory = memory.map_err(|refused| refused.to_string())?;
        let (log, standing) = (self.identity.log, self.parts.standing.clone());
        let session = Session::open((node, boot), log, memory, standing, now.at);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.session = Some(session);
        }
        Ok(())
    }

    /// Passes a session's note to the machine concerned.
    fn note(&mut self, node: &NodeName, boot: BootId, note: Note, now: Moment) {
        self.parts.now = now;
        let routed = routing::route(note, node, self.identity.log, &mut self.parts);
        let Some((wave, note)) = routed else { return };
        if let Some(director) = self.alerts.get_mut(&wave) {
            director.note(node, boot, note, now.at);
        }
    }

    /// Carries out notes, outputs and changes of the desired state until nothing changes.
    fn settle(&mut self, now: Moment) {
        loop {
            self.take_notes(now);
            self.parts.roster.expire(now.at);
            self.carry_out(now);
            if !std::mem::take(&mut self.parts.changed) {
                break;
            }
            let standing = &self.parts.standing;
            let sessions = self.streams.values_mut().filter_map(|stream| stream.session.as_mut());
            sessions.for_each(|session| session.update(standing.clone(), now.at));
        }
        for (number, stream) in &mut self.streams {
            let Some(session) = &mut stream.session else { continue };
            while let Some(request) = session.poll_message() {
                self.outputs.push_back(Output::Say { stream: *number, request });
            }
            while let Some(request) = session.poll_part() {
                self.outputs.push_back(Output::Say { stream: *number, request });
            }
        }
    }

    fn take_notes(&mut self, now: Moment) {
        let mut notes = Vec::new();
        for session in self.streams.values_mut().filter_map(|stream| stream.session.as_mut()) {
            while let Some(note) = session.poll_note() {
                notes.push((session.node().clone(), session.boot(), note));
            }
        }
        for (node, boot, note) in notes {
            self.note(&node, boot, note, now);
        }
    }

    /// Carries out the outputs of all machines but the sessions.
    fn carry_out(&mut self, now: Moment) {
        for (wave, director) in &mut self.alerts {
            // Without a store of alerts, an end counts as recorded at once.
            if director.state().is_final() {
                director.recorded(now.at);
            }
            while let Some(output) = director.poll() {
                match output {
                    director::Output::Phase(phase) => {
                        self.parts.apply(Change::Phase(*wave, phase), now.at);
                    }
                    director::Output::Abandon { .. } => {
                        self.parts.apply(Change::Abandon(*wave), now.at);
                    }
                    director::Output::Over => self.parts.roster.forget(*wave),
                    // Nobody watches, waits or prunes here.
                    director::Output::Publish { .. }
                    | director::Output::Answer { .. }
                    | director::Output::Feedback { .. }
                    | director::Output::Log(_) => {}
                }
            }
        }
        while let Some(output) = self.parts.lanes.poll() {
            match output {
                lane_owner::Output::Board(change) => self.parts.apply(change, now.at),
                lane_owner::Output::Exchange(credential) => {
                    let fault = format!("{}: no token endpoint is simulated", credential.name());
                    self.parts.faults.push(fault);
                }
                // Without a store of lanes, their records are empty, and written at once.
                lane_owner::Output::Store(op) => {
                    self.parts.lanes.stored(op.done_at_once(), now);
                    self.parts.lanes.expire(now);
                }
                lane_owner::Output::HealthChanged => {
                    let alerts = self.alerts.values_mut();
                    alerts.for_each(|director| director.troubles_changed(now.at));
                }
                lane_owner::Output::Log(_) => {}
            }
        }
        while let Some(output) = self.parts.roster.poll() {
            match output {
                assignment::Output::Store(op) => self.outputs.push_back(Output::Store(op)),
                assignment::Output::Publish(owned) => {
                    self.parts.apply(Change::Owned(owned), now.at);
                }
                assignment::Output::Log(_) => {}
            }
        }
    }
}

impl Parts {
    fn apply(&mut self, change: Change, now: Time) {
        self.changed |= Arc::make_mut(&mut self.standing).apply(change, now);
    }
}

impl Machines for Parts {
    fn lane_health(&mut self, node: &NodeName, state: &wire::LaneState) {
        self.lanes.health_changed(node, state, self.now);
    }

    fn lane_unknown(&mut self, lane: LaneId) {
        self.lanes.ensure_id(lane, self.now);
    }

    fn lane_load(&mut self, node: &NodeName, load: wire::LaneLoad) {
        self.lanes.loaded(node, load, &self.standing, self.now.at);
    }

    fn registry(&mut self, node: &NodeName, state: Option<&wire::RegistryState>) {
        self.roster.registry(node, state);
    }

    fn counted(&mut self, _node: &NodeName, _counted: wire::Counted) {}

    fn count_failed(&mut self, _node: &NodeName, _id: u64, _reason: String, _again: bool) {}

    fn fault(&mut self, node: &NodeName, what: String) {
        self.faults.push(format!("{node}: {what}"));
    }
}

#[cfg(test)]
mod tests;
