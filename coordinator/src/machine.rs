//! The coordinator's state machines combined without tasks, transport and clock, for a simulator.
//!
//! In production [`crate::dispatch`] passes messages between these state machines: a task for each
//! node drives a session, a task for each alert drives its run, and both watch the board.
//! [`Machine`] does the same within one call, so that a simulator controls the order of events.
//! [`Machine`] makes no decisions:
//!
//! ```text
//! stream opened, message, stream closed ─▶ Session, NodeMemory ─notes─▶ Run with its Fold
//!                                               ▲                          │ phase
//!                                               └───── board ◀─────────────┘
//! ```
//!
//! Not included: the store of alerts, admission, counts, feedback of dead tokens, and the
//! replacement of provider tokens.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use clarion_proto::{
    ids::{BootId, ClusterName, CoordinatorId, Epoch, LogIdentity, WaveId},
    time::Time,
    wire::shard_v1::{SessionRequest, SessionResponse, session_response::Message},
};

use crate::{
    alert::run::Run,
    clock::{Clock, Moment},
    lane::{Gateway, LaneKey},
    lane_owner::{Credential, LaneError, LaneOwner},
    members::Roster,
    owners::{NodeName, Owned, Ownership},
    planned::PlannedAlert,
    session::{
        Identity, Session, message,
        note::{Note, WaveNote},
    },
    snapshot::Snapshot,
    standing::{Board, Phase, Standing, StandingWave},
};

/// Time from the opening of a stream to the node's Hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

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

/// One coordinator without tasks: sessions, alerts, lanes and the board.
#[derive(Debug)]
pub struct Machine {
    config: MachineConfig,
    board: Board,
    /// The value of the board that the sessions know.
    told: Arc<Standing>,
    roster: Roster,
    lanes: LaneOwner,
    streams: BTreeMap<u64, Stream>,
    alerts: BTreeMap<WaveId, Alert>,
    faults: Vec<String>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Stream {
    opened: Time,
    /// The session; `None` before the node's Hello.
    session: Option<Session>,
}

#[derive(Debug)]
struct Alert {
    run: Run,
    phase: Option<Phase>,
}

impl Machine {
    /// Creates a coordinator without nodes and alerts.
    #[must_use]
    pub fn new(config: MachineConfig) -> Self {
        let board = Board::new();
        Self {
            told: board.read(),
            board,
            roster: Roster::new(config.nodes),
            lanes: LaneOwner::new(config.gateways.clone(), config.credentials.clone()),
            config,
            streams: BTreeMap::new(),
            alerts: BTreeMap::new(),
            faults: Vec::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Creates a lane at every node.
    ///
    /// # Errors
    /// The configuration lacks the lane's gateway or credential.
    pub fn ensure_lane(&mut self, key: &LaneKey, now: Moment) -> Result<(), LaneError> {
        self.lanes.ensure(key, &self.board, &Clock::standing(now))?;
        self.settle(now);
        Ok(())
    }

    /// Reports that a stream to a node is open. The number of a stream must never be used again.
    pub fn opened(&mut self, stream: u64, now: Moment) {
        self.streams.insert(stream, Stream { opened: now.at, session: None });
        let config = &self.config;
        let identity = Identity {
            cluster: config.cluster.clone(),
            coordinator: config.coordinator,
            log: config.log,
            lanes_epoch: OnceLock::from(config.lanes_epoch),
        };
        self.outputs.push_back(Output::Say { stream, request: message::open(&identity) });
    }

    /// Processes a node's message.
    pub fn received(&mut self, stream: u64, response: SessionResponse, now: Moment) {
        let Some(message) = response.message else { return };
        let Some(open) = self.streams.get_mut(&stream) else { return };
        let result = match (&mut open.session, message) {
            (Some(session), message) => {
                session.receive(message, now.at).map_err(|problem| problem.to_string())
            }
            (None, Message::Hello(hello)) => self.begin(stream, &hello, now),
            (None, _) => Err("another message came before the Hello".to_owned()),
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
        self.roster.release(&node, memory);
        for note in notes {
            self.note(&node, boot, note, now);
        }
        self.lanes.node_gone(&node);
        for alert in self.alerts.values_mut() {
            alert.run.note(&node, boot, WaveNote::Gone, now.at);
        }
        self.settle(now);
    }

    /// Whether partitions are assigned, so that an alert can start.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.told.owned.is_some()
    }

    /// Names of the nodes that have a session.
    #[must_use]
    pub fn connected(&self) -> Vec<NodeName> {
        let all = self.roster.status(None).into_iter();
        all.filter(|node| node.address.is_some()).map(|node| node.node).collect()
    }

    /// Starts an alert.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(&mut self, plan: Arc<PlannedAlert>, now: Moment) -> Result<(), StartError> {
        let owned = self.board.read().owned.clone().ok_or(StartError::NotReady)?;
        let clock = Clock::standing(now);
        let lanes = plan.apps.iter().map(|app| self.lanes.ensure(&app.lane, &self.board, &clock));
        let lanes = lanes.map(|lane| Ok(lane?.id)).collect::<Result<Vec<_>, LaneError>>()?;
        let nodes = owned.nodes().keys();
        let mut run = Run::new(&plan, nodes.cloned(), self.lanes.request_deadline_max(), now);
        for node in owned.nodes().keys().filter(|node| !self.roster.is_connected(node)) {
            run.away(node);
        }
        let (phase, expires) = (Phase::Running, run.expires());
        self.alerts.insert(plan.wave, Alert { run, phase: Some(phase) });
        self.board.begin(StandingWave { plan, lanes, expires, phase }, now.at);
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
                None if due(Some(stream.opened + HELLO_DEADLINE)) => late.push(*number),
                Some(_) | None => {}
            }
        }
        for stream in late {
            self.streams.remove(&stream);
            let reason = format!("no Hello within {} s", HELLO_DEADLINE.as_secs());
            self.outputs.push_back(Output::End { stream, reason });
        }
        self.alerts.values_mut().for_each(|alert| alert.run.step(now.at));
        self.settle(now);
    }

    /// Time at which [`Machine::expire`] has work next.
    #[must_use]
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let streams = self.streams.values().filter_map(|stream| match &stream.session {
            Some(session) => session.deadline(),
            None => Some(stream.opened + HELLO_DEADLINE),
        });
        let alerts = self.alerts.values().filter_map(|alert| alert.run.deadline(now));
        streams.chain(alerts).min()
    }

    /// The next step for the caller to perform.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The newest state of an alert; `None` if the alert was never started in this machine.
    pub fn snapshot(&mut self, wave: WaveId) -> Option<Snapshot> {
        Some(self.alerts.get_mut(&wave)?.run.snapshot())
    }

    /// Whether an alert has ended and its numbers no longer change.
    #[must_use]
    pub fn is_settled(&self, wave: WaveId) -> bool {
        self.alerts.get(&wave).is_some_and(|alert| alert.run.is_settled())
    }

    /// Defects of nodes that the sessions found.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    fn begin(
        &mut self,
        stream: u64,
        hello: &clarion_proto::wire::shard_v1::Hello,
        now: Moment,
    ) -> Result<(), String> {
        let boot = hello.boot_id.as_slice().try_into().map_err(|_| "boot_id: 16 bytes")?;
        let boot = BootId(boot);
        let node = NodeName::new(&hello.node).map_err(|problem| problem.to_string())?;
        let of_this_log = LogIdentity::from_wire(&hello.log_identity) == Ok(self.config.log);
        let positions = if of_this_log { &hello.positions[..] } else { &[] };
        // The stream's number replaces the address, which only log lines and refusals contain.
        let port = u16::try_from(stream % 50_000).unwrap_or_default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let memory = self.roster.claim(&node, boot, address, positions, now.at);
        let memory = memory.map_err(|refused| refused.to_string())?;
        let standing = self.board.read();
        let session = Session::open((node, boot), self.config.log, memory, standing, now.at);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.session = Some(session);
        }
        Ok(())
    }

    /// Passes a session's notes to the alerts and lanes concerned, as `dispatch::cluster` does.
    fn note(&mut self, node: &NodeName, boot: BootId, note: Note, now: Moment) {
        match note {
            Note::Wave(wave, note) => {
                if let Some(alert) = self.alerts.get_mut(&wave) {
                    alert.run.note(node, boot, note, now.at);
                }
            }
            Note::Lane(state) => self.lanes.health_changed(node, &state, now),
            Note::LaneUnknown(lane) => {
                self.lanes.ensure_id(lane, &self.board, &Clock::standing(now));
            }
            Note::Load(load) => self.lanes.loaded(node, load, &self.board, now.at),
            Note::Registry(state) => {
                let of_this_log = LogIdentity::from_wire(&state.log_identity);
                let of_this_log = of_this_log == Ok(self.config.log);
                self.roster.registry(node, of_this_log.then_some(&state));
            }
            Note::Counted(_) | Note::CountFailed { .. } => {}
            Note::Fault(what) => self.faults.push(format!("{node}: {what}")),
        }
    }

    /// Applies notes, phases of alerts, ownership and board changes until nothing changes.
    fn settle(&mut self, now: Moment) {
        loop {
            self.take_notes(now);
            self.move_phases(now);
            self.assign_partitions();
            let standing = self.board.read();
            if Arc::ptr_eq(&standing, &self.told) {
                break;
            }
            self.told = standing;
            let sessions = self.streams.values_mut().filter_map(|stream| stream.session.as_mut());
            sessions.for_each(|session| session.update(self.told.clone(), now.at));
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

    fn move_phases(&mut self, now: Moment) {
        for (wave, alert) in &mut self.alerts {
            // Without a store, an alert's end counts as recorded at once.
            if alert.run.state().is_final() {
                alert.run.recorded(now.at);
            }
            let phase = alert.run.standing();
            if alert.phase == phase {
                continue;
            }
            alert.phase = phase;
            self.board.set_phase(*wave, phase, now.at);
            if alert.run.is_settled() {
                self.roster.forget(*wave);
            }
        }
    }

    /// Assigns partitions once, when all nodes are connected.
    fn assign_partitions(&mut self) {
        if self.told.owned.is_some() {
            return;
        }
        let here = self.connected();
        if here.len() < self.config.nodes {
            return;
        }
        let MachineConfig { partitions, logs, .. } = self.config;
        let ownership = Ownership::assign(1, partitions, &here);
        self.board.change(|standing| {
            standing.owned = Some(Arc::new(Owned::new(ownership, partitions, logs)));
        });
    }
}
