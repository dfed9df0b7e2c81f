//! The control plane of a node: turns the coordinator's messages into commands to the cores, and
//! the cores' events into messages to the coordinator.
//!
//! A coordinator may vanish in the middle of an alert, come back, or be replaced by another
//! process. The cores must notice only that their leave to send expires. So no state depends on a
//! session: ownership, lanes, waves and totals belong to the node, and a session only reads and
//! writes messages. A session starts complete in both directions: the coordinator sends everything
//! that is in force (terms that the node knows already have no effect: no connection closes, no
//! walk starts again), and the node reports everything that has happened.
//!
//! It is a state machine without I/O and clock. Inputs are method calls with the time; commands
//! come out of [`Control::poll`] in the order in which the driver must carry them out. Messages are
//! *pulled* by a caller that has room for one ([`Control::next_message`]): messages that are not
//! pulled are merged, not queued. So a coordinator that reads slowly gets fewer and larger reports,
//! and memory stays bounded without a queue to tune.
//!
//! Bounds: [`WAVES_MAX`](clarion_proto::limits::WAVES_MAX) waves, [`lanes::LANES_MAX`] lanes,
//! [`REFUSALS_MAX`] refusals, 32 counts. Only inputs create commands, [`INPUT_COMMANDS_MAX`] for a core
//! at most: the driver stops reading messages while its cores are behind.

pub mod assembly;
pub mod counts;
pub mod fence;
pub mod lanes;
pub mod leases;
pub mod merge;
pub mod message;
pub mod output;
pub mod ownership;
mod placement;
mod plan;
pub mod readiness;
pub mod registry;
pub mod waves;
mod effects;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use clarion_proto::{
    ids::{BootId, ClusterName, WaveId},
    time::Time,
    wire::shard_v1::{self as wire, session_response::Message as Wire},
};
use clarion_runtime::repeated::Repeated;
use tracing::warn;

use self::{
    counts::Counts,
    fence::{Admitted, FORMER_LOG_FOR, Fence, Fenced, Opened},
    lanes::Lanes,
    leases::Leases,
    message::{About, Cause, Message, Rejected},
    output::Output,
    ownership::{Assignment, Ownership, rebuild},
    readiness::FeedState,
    registry::Registry,
    waves::Waves,
};
use crate::{
    command::{Command, Event},
    lane::news::News,
};

/// Highest number of pending refusals, and of pending cancels of unknown waves; further refusals
/// are only counted.
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
    /// A log no longer holds what the node would have to apply next. A rebuild does not help: the
    /// beginning of the log is gone.
    Trimmed,
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
    /// When the node ceases to be ready unless a session begins before.
    undirected_at: Option<Time>,
    /// The newest ownership was refused.
    ownership_refused: bool,
    /// The newest session that was refused was another cluster's, and none has begun since.
    other_cluster: bool,
    lanes: Lanes,
    waves: Waves,
    leases: Leases,
    registry: Registry,
    counts: Counts,
    session: Option<Session>,
    feed: FeedState,
    draining: bool,
    outputs: VecDeque<Output>,
    /// Limits the log lines about refused messages.
    refusal_log: Repeated,
}

/// What is owed to the present session.
#[derive(Debug, Default)]
struct Session {
    greeted: bool,
    refusals: VecDeque<Rejected>,
    refusals_dropped: u64,
    /// Cancelled here without ever having been here.
    stopped_unknown: BTreeSet<WaveId>,
    farewell: Farewell,
}

/// How far a session is with the node's leaving.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    #[default]
    Stays,
    /// The node must report that it leaves, after all other messages.
    Due,
    Told,
    /// The coordinator has confirmed that it applied everything.
    Left,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("identity", &self.identity)
            .field("session", &self.session)
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
            undirected_at: None,
            ownership_refused: false,
            other_cluster: false,
            lanes: Lanes::new(cores),
            waves: Waves::default(),
            leases: Leases::default(),
            registry: Registry::new(cores),
            counts: Counts::default(),
            session: None,
            feed: FeedState::Loading,
            draining: false,
            outputs: VecDeque::new(),
            refusal_log: Repeated::default(),
            identity,
        }
    }

    /// A coordinator asks for a session. If it may have one, that has begun, and an earlier one
    /// counts no more.
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
        self.close(now);
        self.fence.begin(opened);
        (self.other_cluster, self.undirected_at) = (false, None);
        self.session = Some(Session::default());
        self.lanes.start_over();
        self.waves.start_over(now);
        self.registry.start_over();
        self.tell_all(|| Command::ReportAll);
        Ok(())
    }

    /// The session has ended. Waves go on until their leave runs out.
    pub fn close(&mut self, now: Time) {
        self.fence.end(now);
        if self.session.take().is_some() {
            self.undirected_at = Some(now + FORMER_LOG_FOR);
        }
        self.leases.forget();
        self.counts.forget();
    }

    /// Handles a message of the open session, or the reason why it was rejected.
    pub fn message(&mut self, message: Result<Message, Rejected>, now: Time) {
        if let Err(rejected) = message.and_then(|m| self.take(m, now)) {
            let Rejected { about, cause, problem: reason } = &rejected;
            if let Some(times) = self.refusal_log.note(&reason.to_string(), now.since(Time(0))) {
                warn!(?about, ?cause, %reason, times, "message from coordinator refused");
            }
            self.refuse(rejected);
        }
    }

    /// Handles an event of a core.
    pub fn event(&mut self, core: usize, event: Event) {
        let listening = self.session.is_some();
        match event {
            Event::Report(report) => self.waves.report(core, *report, listening, &mut self.outputs),
            Event::Stopped { wave, last_write, written_after } => {
                self.waves.stopped(core, wave, last_write, written_after);
            }
            Event::Counted { id, devices } => self.counts.counted(core, id, &devices),
            Event::LaneState { lane, at, health, detail, since, next_probe } => {
                self.lanes.hear(core, lane, News { health, detail, since, next_probe }, at);
            }
            Event::LaneLoad { lane, load } => self.lanes.load(core, lane, *load),
            Event::Held(stats) => self.registry.hold(core, stats),
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
            FeedNote::Trimmed => FeedState::Trimmed,
            // The node ends; until then nothing more of the logs is applied.
            FeedNote::CoreHangs(_) => FeedState::Lost,
            FeedNote::OtherLog => FeedState::Loading,
        };
        if note == FeedNote::OtherLog
            && let Some(held) = self.assignment.take()
        {
            // What was applied may be what the log has lost: no wave can wait for it.
            self.own(rebuild(held), &BTreeMap::new());
        }
    }

    /// Starts the drain: accepts no more waves and shuts down the cores; reports continue
    /// meanwhile.
    pub fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.outputs.push_back(Output::Unfollow);
            self.tell_all(|| Command::Shutdown);
        }
    }

    /// Requests the coordinator's confirmation: all reports were sent, and no core will report
    /// again.
    pub fn leave(&mut self) {
        match self.waves.untold() {
            0 => {}
            waves => warn!(waves, "drain ended with reports that no coordinator has read"),
        }
        if let Some(session) = &mut self.session {
            session.farewell = Farewell::Due;
        }
    }

    /// Whether the coordinator has confirmed that it applied everything.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.farewell == Farewell::Left)
    }

    pub(super) fn left(&mut self) {
        if let Some(session) =
            self.session.as_mut().filter(|session| session.farewell == Farewell::Told)
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
        [self.waves.sweep_due(), self.counts.expire_due(), self.undirected_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Drops state that has expired.
    pub fn expire(&mut self, now: Time) {
        self.waves.sweep(self.session.is_some(), now);
        self.counts.expire(now);
        // Readiness is asked after every turn: this one was for it.
        self.undirected_at = self.undirected_at.filter(|at| *at > now);
    }

    /// Time at which a message can be pulled; [`Time::default`]: at once. `None`: no session is
    /// open, or there is no news.
    #[must_use]
    pub fn message_due(&self, now: Time) -> Option<Time> {
        let session = self.session.as_ref()?;
        let at_once = !session.greeted
            || !session.refusals.is_empty()
            || !session.stopped_unknown.is_empty()
            || self.waves.is_stopped_due()
            || self.counts.is_due()
            || self.lanes.is_due();
        if at_once {
            return Some(Time::default());
        }
        let ask = self.asks(now).then(|| self.leases.due());
        let farewell = (session.farewell == Farewell::Due).then(Time::default);
        let due = [ask, self.waves.report_due(), self.lanes.load_due(), self.registry.due()];
        due.into_iter().flatten().min().or(farewell)
    }

    /// The most urgent message that is due.
    pub fn next_message(&mut self, now: Time) -> Option<wire::SessionResponse> {
        if self.message_due(now)? > now {
            return None;
        }
        let message = self.urgent(now).or_else(|| {
            if self.asks(now) && self.leases.due() <= now {
                return Some(Wire::LeaseRequest(self.ask(now)));
            }
            if let Some(report) = self.waves.take_report(now) {
                return Some(Wire::Report(report));
            }
            if let Some(load) = self.lanes.take_load(now) {
                return Some(Wire::LaneLoad(load));
            }
            match self.registry.due() {
                Some(due) if due > now => None,
                Some(_) => {
                    let rss_bytes = (self.rss_bytes)();
                    Some(Wire::RegistryState(self.registry.take(
                        self.assignment.as_ref(),
                        rss_bytes,
                        now,
                    )))
                }
                None => self.farewell(),
            }
        });
        message.map(|m| wire::SessionResponse { message: Some(m) })
    }

    fn urgent(&mut self, now: Time) -> Option<Wire> {
        if !std::mem::replace(&mut self.session.as_mut()?.greeted, true) {
            return Some(Wire::Hello(self.hello()));
        }
        if let Some(refusal) = self.next_refusal() {
            return Some(Wire::Refusal(refusal));
        }
        let unknown = self.session.as_mut().and_then(|s| s.stopped_unknown.pop_first());
        if let Some(stopped) = unknown.map(never_written).or_else(|| self.waves.take_stopped(now)) {
            return Some(Wire::Stopped(stopped));
        }
        if let Some(counted) = self.counts.take() {
            return Some(Wire::Counted(counted));
        }
        self.lanes.take_state(now).map(Wire::LaneState)
    }

    /// After everything else: nothing is due any more.
    fn farewell(&mut self) -> Option<Wire> {
        let session = self.session.as_mut().filter(|session| session.farewell == Farewell::Due)?;
        session.farewell = Farewell::Told;
        Some(Wire::Leaving(wire::Leaving {}))
    }

    fn hello(&self) -> wire::Hello {
        wire::Hello {
            node: self.identity.node.clone(),
            boot_id: self.identity.boot.0.to_vec(),
            version: self.identity.version.to_owned(),
            cores: u32::try_from(self.identity.cores).unwrap_or(u32::MAX),
            positions: registry::to_wire(&self.registry.positions(self.assignment.as_ref())),
            cluster: self.identity.cluster.to_string(),
            log_identity: self.owned().map(|o| o.log.to_wire()).unwrap_or_default(),
        }
    }

    fn next_refusal(&mut self) -> Option<wire::Refusal> {
        let session = self.session.as_mut()?;
        let rejected = session.refusals.pop_front()?;
        let mut reason = rejected.problem.to_string();
        if session.refusals.is_empty() && session.refusals_dropped > 0 {
            reason += &format!(
                " (and {} more that were not kept)",
                std::mem::take(&mut session.refusals_dropped)
            );
        }
        let ownership = self.owned().map_or(0, |o| o.number);
        let (wave, count) = match rejected.about {
            About::Other => (0, 0),
            About::Wave(wave) => (wave.0, 0),
            About::Count(id) => (0, id),
        };
        let cause = match rejected.cause {
            Cause::Message => wire::RefusalCause::Message,
            Cause::Room => wire::RefusalCause::Room,
            Cause::Superseded => wire::RefusalCause::Superseded,
            Cause::Draining => wire::RefusalCause::Draining,
        };
        Some(wire::Refusal { ownership, wave, reason, count, cause: cause.into() })
    }

    /// Whether there is anything to ask leave for.
    fn asks(&self, now: Time) -> bool {
        !self.draining && (!self.lanes.is_empty() || self.waves.active(now).next().is_some())
    }

    fn ask(&mut self, now: Time) -> wire::LeaseRequest {
        let waves = self.waves.active(now).map(|w| w.0).collect();
        let lanes = self.lanes.ids().map(|l| l.0).collect();
        wire::LeaseRequest { nonce: self.leases.ask(now), waves, lanes }
    }

    fn owned(&self) -> Option<&Ownership> {
        self.assignment.as_ref().map(Assignment::owned)
    }

    fn refuse(&mut self, rejected: Rejected) {
        let Some(session) = &mut self.session else { return };
        if session.refusals.len() < REFUSALS_MAX {
            session.refusals.push_back(rejected);
        } else {
            session.refusals_dropped += 1;
        }
    }

    fn tell_all(&mut self, command: impl Fn() -> Command) {
        self.outputs.extend((0..self.identity.cores).map(|core| Output::command(core, command())));
    }
}

/// The answer to a cancel of a wave of which this node never wrote anything.
fn never_written(wave: WaveId) -> wire::Stopped {
    wire::Stopped { wave: wave.0, last_write_ago_us: None, written_after_cancel: 0 }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod limits_tests;
