//! The control plane of a node: turns the messages of coordinators into commands to the cores, and
//! the cores' events into messages to the coordinators.
//!
//! A node has a session with each of up to [`SESSIONS_MAX`](fence::SESSIONS_MAX) coordinators of
//! its log. [`waves`] decides which of them directs a wave, [`direction`] which of them directs the
//! lanes; ownership follows the number of the store's record, whoever sends it.
//!
//! A coordinator may vanish in the middle of an alert, come back, or be replaced by another
//! process. The cores must notice only that their leave to send expires. So no state depends on a
//! session: ownership, lanes, waves and totals belong to the node, and a session ([`session`]) only
//! reads and writes messages. A session starts complete in both directions: the coordinator sends
//! everything that is in force (terms that the node knows already have no effect: no connection
//! closes, no walk starts again), and the node reports everything that has happened to the waves
//! that the coordinator directs.
//!
//! It is a state machine without I/O and clock. Inputs are method calls with the time; commands
//! come out of [`Control::poll`] in the order in which the driver must carry them out. Messages are
//! *pulled* for each session by a caller that has room for one ([`Control::next_message`]):
//! messages that are not pulled are merged, not queued. So a coordinator that reads slowly gets
//! fewer and larger reports and delays no other coordinator, and memory stays bounded without a
//! queue to tune.
//!
//! Bounds: [`WAVES_MAX`](clarion_proto::limits::WAVES_MAX) waves, [`lanes::LANES_MAX`] lanes; for
//! each session [`REFUSALS_MAX`] refusals and 16 counts. Only inputs create commands,
//! [`INPUT_COMMANDS_MAX`] for a core at most, whatever the number of sessions: an input is one
//! message of one session, and the driver stops reading messages while its cores are behind.

pub mod assembly;
pub mod counts;
pub mod fence;
pub mod lanes;
pub mod leases;
pub mod merge;
pub mod message;
pub mod output;
pub mod ownership;
mod over;
mod placement;
mod plan;
mod saving;
pub mod readiness;
pub mod registry;
pub mod snapshot;
pub mod waves;
mod direction;
mod effects;
mod loading;
mod outbound;
mod session;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use clarion_proto::{
    ids::{BootId, ClusterName, CoordinatorId, LogId, Position},
    time::Time,
};
use clarion_runtime::repeated::Repeated;
use tracing::{info, warn};

use self::{
    counts::Counts,
    direction::LaneDirection,
    fence::{Admitted, FORMER_LOG_FOR, Fence, Fenced, Opened},
    lanes::Lanes,
    loading::Loading,
    message::{Message, Rejected},
    output::Output,
    ownership::{Assignment, Ownership},
    readiness::FeedState,
    registry::Registry,
    saving::Saving,
    session::{Farewell, Session},
    snapshot::SnapshotNote,
    waves::Waves,
};
use crate::{
    command::{Command, Event},
    lane::news::News,
};

/// Highest number of pending refusals of one session, and of pending cancels of unknown waves;
/// further refusals are only counted.
pub const REFUSALS_MAX: usize = 64;
/// Commands that one input makes for one core at most: a grant or the end of every wave, a slice of
/// every lane, and a few for a wave or a change of ownership.
pub const INPUT_COMMANDS_MAX: usize = clarion_proto::limits::WAVES_MAX + lanes::LANES_MAX + 64;

/// Identity of the node, constant while it runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the node, stable across restarts.
    pub node: String,
    /// Id of this start of the process.
    pub boot: BootId,
    /// Name of the cluster, which its coordinators share.
    pub cluster: ClusterName,
    /// Version of the program.
    pub version: &'static str,
    /// Number of cores, at least 1.
    pub cores: usize,
}

/// Notes of the feed to the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedNote {
    /// The cores have been handed all that the logs held when the stream was opened.
    CaughtUp,
    /// The stream has ended, or none could be opened: it is tried again.
    Lost,
    /// A coordinator serves another cluster or another log: the next one is tried.
    Refused,
    /// The feed has ended: a log no longer holds what some partitions would have to apply next.
    Trimmed {
        /// The log that was trimmed.
        log: LogId,
        /// Oldest position that the log still holds.
        first: Position,
    },
    /// A core takes no batches, although it may still take commands: the node has to be replaced.
    CoreHangs(usize),
    /// The log is shorter than the applied part of it: the coordinator has lost records.
    OtherLog,
}

/// The control plane of one node.
pub struct Control {
    identity: Identity,
    rss_bytes: Box<dyn Fn() -> u64 + Send>,
    fence: Fence,
    /// The partitions of this node and their cores.
    assignment: Option<Assignment>,
    /// Coordinator that sent the assignment first.
    assigned_by: Option<CoordinatorId>,
    /// When the node ceases to be ready unless a session begins before.
    undirected_at: Option<Time>,
    /// The newest session that was refused was another cluster's, and none has begun since.
    other_cluster: bool,
    lanes: Lanes,
    direction: LaneDirection,
    waves: Waves,
    registry: Registry,
    loading: Loading,
    saving: Saving,
    counts: Counts,
    sessions: BTreeMap<CoordinatorId, Session>,
    /// Nonce of the newest lease request to any coordinator.
    nonce: u64,
    feed: FeedState,
    draining: bool,
    outputs: VecDeque<Output>,
    /// Limits the log lines about refused messages.
    refusal_log: Repeated,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("identity", &self.identity)
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// A node without partitions and without a coordinator. `rss_bytes` reads the resident memory
    /// of the process.
    #[must_use]
    pub fn new(identity: Identity, rss_bytes: impl Fn() -> u64 + Send + 'static) -> Self {
        let cores = identity.cores;
        Self {
            rss_bytes: Box::new(rss_bytes),
            fence: Fence::new(identity.cluster.clone()),
            assignment: None,
            assigned_by: None,
            undirected_at: None,
            other_cluster: false,
            lanes: Lanes::new(cores),
            direction: LaneDirection::default(),
            waves: Waves::default(),
            registry: Registry::new(cores),
            loading: Loading::default(),
            saving: Saving::new(identity.boot),
            counts: Counts::default(),
            sessions: BTreeMap::new(),
            nonce: 0,
            feed: FeedState::Loading,
            draining: false,
            outputs: VecDeque::new(),
            refusal_log: Repeated::default(),
            identity,
        }
    }

    /// A coordinator asks for a session. If it may have one, that has begun, and its own earlier
    /// one counts no more.
    ///
    /// # Errors
    /// Why it may not.
    pub fn open(&mut self, opened: &Opened, now: Time) -> Result<(), Fenced> {
        let admitted = self.fence.admit(opened, now);
        self.other_cluster |= matches!(admitted, Err(Fenced::Cluster { .. }));
        if let Admitted::OtherLog { former } = admitted? {
            let waves = self.waves.end_all(now, &mut self.outputs);
            warn!(
                %former, log = %opened.log, waves_ended = waves,
                "the log's identity changed; rebuilding from the beginning"
            );
            self.disown();
        }
        let coordinator = opened.coordinator;
        self.forget(coordinator);
        self.fence.begin(opened);
        (self.other_cluster, self.undirected_at) = (false, None);
        self.sessions.insert(coordinator, Session::default());
        self.direction.open(coordinator, opened.lanes_epoch);
        self.waves.start_over(coordinator, now);
        // Another coordinator's waves are reported already, and lanes and registry are known here.
        if self.sessions.len() == 1 || self.waves.is_directed_by(coordinator) {
            self.tell_all(|| Command::ReportAll);
        }
        Ok(())
    }

    /// The session of a coordinator has ended. Its waves go on until their leave runs out.
    pub fn close(&mut self, coordinator: CoordinatorId, now: Time) {
        self.fence.end(coordinator, now);
        if !self.forget(coordinator) {
            return;
        }
        if self.sessions.is_empty() {
            self.undirected_at = Some(now + FORMER_LOG_FOR);
        }
        if let Some(director) = self.direction.close(coordinator)
            && let Some(session) = self.sessions.get_mut(&director)
        {
            info!(coordinator = %director, "another coordinator directs the lanes now");
            session.lanes_wanted = true;
            session.leases.ask_now();
        }
    }

    /// Drops what is owed to a session; false: the coordinator has none.
    fn forget(&mut self, coordinator: CoordinatorId) -> bool {
        self.counts.forget(coordinator);
        self.waves.forget_waiting(coordinator);
        self.sessions.remove(&coordinator).is_some()
    }

    /// Handles a message of a coordinator's open session, or the reason why it was rejected.
    pub fn message(&mut self, from: CoordinatorId, message: Result<Message, Rejected>, now: Time) {
        if !self.sessions.contains_key(&from) {
            return;
        }
        if let Err(rejected) = message.and_then(|m| self.take(from, m, now)) {
            self.reject(from, rejected, now);
        }
    }

    /// Logs a refused message and answers it.
    fn reject(&mut self, from: CoordinatorId, rejected: Rejected, now: Time) {
        let Rejected { about, cause, problem: reason } = &rejected;
        if let Some(times) = self.refusal_log.note(&reason.to_string(), now.since(Time(0))) {
            warn!(?about, ?cause, %reason, times, "message from coordinator refused");
        }
        self.refuse(from, rejected);
    }

    /// Handles an event of a core.
    pub fn event(&mut self, core: usize, event: Event) {
        match event {
            Event::Report(report) => {
                let listening = |director| self.sessions.contains_key(&director);
                self.waves.report(core, *report, listening, &mut self.outputs);
            }
            Event::Stopped { wave, last_write, written_after } => {
                self.waves.stopped(core, wave, last_write, written_after);
            }
            Event::Counted { id, devices, left_out_for_age } => {
                self.counts.counted(core, id, &devices, left_out_for_age);
            }
            Event::LaneState { lane, at, health, detail, since, next_probe } => {
                self.lanes.hear(core, lane, News { health, detail, since, next_probe }, at);
            }
            Event::LaneLoad { lane, load } => self.lanes.load(core, lane, *load),
            Event::Held(stats) => self.registry.hold(core, stats),
            Event::Restored { partition, load, result: Ok(position) } => {
                self.loading.restored(partition, load, position);
            }
            Event::Restored { load, result: Err(error), .. } => {
                self.not_loaded(load, &error.to_string());
            }
        }
    }

    /// Handles a note of the feed.
    pub fn feed(&mut self, note: FeedNote) {
        self.feed = match note {
            FeedNote::CaughtUp => FeedState::CaughtUp,
            // What was loading goes on loading.
            FeedNote::Lost if self.feed == FeedState::Loading => FeedState::Loading,
            FeedNote::Lost => FeedState::Lost,
            FeedNote::Refused => FeedState::Refused,
            FeedNote::Trimmed { .. } => FeedState::Loading,
            // The node ends; until then nothing more of the logs is applied.
            FeedNote::CoreHangs(_) => FeedState::Lost,
            FeedNote::OtherLog => FeedState::Loading,
        };
        match (note, self.assignment.take()) {
            (FeedNote::OtherLog, Some(held)) => {
                self.own(&held, &BTreeSet::new());
                self.registry.keep(|_| false);
                self.loading.rebuild_all(&held, &mut self.outputs);
                // Positions of snapshots may be of records that the log has lost.
                self.saving.stop(&mut self.outputs);
                self.saving.forget(|_| true);
                self.follow(held);
            }
            (FeedNote::Trimmed { log, first }, Some(held)) => {
                let applied =
                    |p| held.core_of(p).map_or(Position(0), |c| self.registry.position(c, p));
                self.loading.trimmed((log, first), &held, applied, &mut self.outputs);
                self.outputs.push_back(Output::Unfollow);
                self.follow(held);
            }
            (_, held) => self.assignment = held,
        }
    }

    /// Handles a note about snapshots.
    pub fn snapshots(&mut self, note: SnapshotNote, now: Time) {
        match (note, &self.assignment) {
            (SnapshotNote::Listed { list, snapshots, interval }, Some(held)) => {
                self.loading.listed(list, &snapshots, held, &mut self.outputs);
                self.saving.listed(&snapshots, interval, held, now);
            }
            (SnapshotNote::NotLoaded { load, problem }, _) => self.not_loaded(load, &problem),
            (SnapshotNote::Saved { save, position }, _) => self.saving.saved(save, position, now),
            (SnapshotNote::NotSaved { save, problem }, _) => {
                self.saving.failed(save, &problem, now);
            }
            // The node ends; until then it goes on with what it has.
            (SnapshotNote::Listed { .. } | SnapshotNote::CoreHangs(_), _) => {}
        }
    }

    fn not_loaded(&mut self, load: u64, problem: &str) {
        if let Some(held) = &self.assignment {
            self.loading.failed(load, problem, held, &mut self.outputs);
        }
    }

    /// Starts the drain: accepts no more waves and shuts down the cores; reports continue
    /// meanwhile.
    pub fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.outputs.push_back(Output::Unfollow);
            self.loading.clear(&mut self.outputs);
            self.saving.stop(&mut self.outputs);
            self.tell_all(|| Command::Shutdown);
        }
    }

    /// Requests every coordinator's confirmation after its last messages. No core reports again.
    pub fn leave(&mut self) {
        for session in self.sessions.values_mut() {
            session.farewell = Farewell::Due;
        }
    }

    /// Whether every coordinator with a session has confirmed that it applied everything.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.sessions.values().all(|session| session.farewell == Farewell::Left)
    }

    /// Number of waves with reports that their coordinator has not read.
    #[must_use]
    pub fn untold(&self) -> usize {
        self.waves.untold()
    }

    pub(super) fn left(&mut self, coordinator: CoordinatorId) {
        if let Some(session) = self.sessions.get_mut(&coordinator)
            && session.farewell == Farewell::Told
        {
            session.farewell = Farewell::Left;
        }
    }

    /// The next output to carry out.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Time of the next call to [`Control::expire`] that has work.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let holds = self.assignment.is_some();
        let dues = [
            self.waves.sweep_due(),
            self.counts.expire_due(),
            self.undirected_at,
            self.loading.deadline().filter(|_| holds),
            self.saving.deadline().filter(|_| holds),
        ];
        dues.into_iter().flatten().min()
    }

    /// Drops state that has expired.
    pub fn expire(&mut self, now: Time) {
        self.waves.sweep(|director| self.sessions.contains_key(&director), now);
        self.counts.expire(now);
        // Readiness is asked after every turn: this one was for it.
        self.undirected_at = self.undirected_at.filter(|at| *at > now);
        if let Some(held) = &self.assignment {
            self.loading.expire(held, now, &mut self.outputs);
            if self.saving.is_list_due(now) {
                self.loading.list(held, &mut self.outputs);
            }
            // The look counts also if nothing may be saved: the next one is later.
            let may_any = self.feed == FeedState::CaughtUp && !self.draining;
            let may_save = |p| may_any && self.loading.is_followed(p);
            if self.saving.is_due(now) {
                let applied =
                    |p, core| Some(self.registry.position(core, p)).filter(|_| may_save(p));
                self.saving.save_next(held, applied, now, &mut self.outputs);
            }
        }
        if self.loading.may_join(now) {
            self.follow_again();
        }
    }

    fn owned(&self) -> Option<&Ownership> {
        self.assignment.as_ref().map(Assignment::owned)
    }

    fn refuse(&mut self, to: CoordinatorId, rejected: Rejected) {
        if let Some(session) = self.sessions.get_mut(&to) {
            session.refusals.push(rejected);
        }
    }

    fn tell_all(&mut self, command: impl Fn() -> Command) {
        self.outputs.extend((0..self.identity.cores).map(|core| Output::command(core, command())));
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod limits_tests;
