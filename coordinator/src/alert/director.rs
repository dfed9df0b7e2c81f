//! The machine that directs one alert under way: its [`Run`], its watchers and the callers that
//! cancel it. Free of I/O.
//!
//! The run decides the alert's state; this machine decides what follows from it:
//!
//! | Input | Output |
//! |---|---|
//! | a report | its answers and dead tokens to feedback; a snapshot within [`PUBLISH`] |
//! | an isolation | log; a snapshot within [`PUBLISH`] |
//! | a node's confirmation that it stopped the wave | log |
//! | lane troubles or pruning alarms changed | a snapshot within [`PUBLISH`] |
//! | another coordinator directs the alert, by a node's note or by the store | log; the wave is abandoned, without an end; over |
//! | a caller's cancel | log; an answer once every connected node has confirmed, or after [`CANCEL_WAIT`]; at once beyond [`WAITING_MAX`] callers |
//! | any input or time, and the wave has another phase | the phase for the board |
//! | any input or time, and the alert has another state | log; a snapshot now |
//! | any input or time, and the alert is settled | no phase; the last snapshot; all answers; over |
//!
//! Inputs are methods, and [`Director::poll`] returns what the shell (`dispatch/alert.rs`) has to
//! do. Each input also applies the passage of time. Inputs after the end change nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use clarion_proto::{
    ids::{AlertName, BootId, Epoch},
    time::Time,
    wire::shard_v1 as wire,
};

use crate::{
    alert::run::Run,
    lane::AppLane,
    owners::NodeName,
    planned::PlannedAlert,
    progress::Answers,
    session::note::WaveNote,
    snapshot::{Snapshot, State},
    standing::Phase,
};
use clarion_runtime::world::Moment;

/// Interval of snapshots. Reports arrive every 20 ms from each node; watchers get a message every
/// 100 ms at most. Half of 100 ms keeps their view fresh and costs 20 snapshots a second.
const PUBLISH: Duration = Duration::from_millis(50);
/// How long a caller waits for the confirmation of its cancel.
const CANCEL_WAIT: Duration = Duration::from_secs(2);
/// Callers that wait for one cancel; further callers get the present state at once.
const WAITING_MAX: usize = 64;

/// Directs one alert from its beginning until it is settled.
#[derive(Debug)]
pub(crate) struct Director {
    run: Run,
    /// Phase of the wave on the board.
    phase: Option<Phase>,
    /// State as last published.
    state: State,
    /// Time of the next snapshot; `None`: nothing has changed.
    publish_at: Option<Time>,
    /// Callers that wait for the confirmation of their cancel, and until when.
    waiting: Vec<(Time, CallerId)>,
    is_over: bool,
    outputs: VecDeque<Output>,
}

/// Number that the shell gives to a caller of cancel.
pub(crate) type CallerId = u64;

/// One step for the shell to perform.
#[derive(Debug)]
pub(crate) enum Output {
    /// Give a report's new answers and dead tokens to feedback.
    Feedback { answers: BTreeMap<AppLane, Answers>, dead: Vec<wire::DeadToken> },
    /// Move the wave to a phase on the board; `None`: remove the wave.
    Phase(Option<Phase>),
    /// Publish the snapshot, with the present pruning alarms. `with_troubles`: with the present
    /// troubles of lanes, too.
    Publish { snapshot: Box<Snapshot>, with_troubles: bool },
    /// Answer a caller of cancel; `unconfirmed`: nodes that may still send.
    Answer { caller: CallerId, state: State, unconfirmed: Vec<String> },
    /// Write a log message.
    Log(Log),
    /// Another coordinator has taken the alert over: remove the wave without an end, and tell these
    /// callers of cancel.
    Abandon { callers: Vec<CallerId> },
    /// The alert is settled or abandoned; no output follows.
    Over,
}

/// A log message about one alert.
#[derive(Debug, PartialEq)]
pub(crate) enum Log {
    /// A caller cancels the alert.
    CancelReceived,
    /// The alert has this state from now on.
    StateChanged(State),
    /// A node has stopped the alert.
    Stopped { node: NodeName, stopped: wire::Stopped },
    /// A node obeys another coordinator, which has raised the alert's epoch.
    ObeysAnother { node: NodeName, epoch: Epoch },
    /// The run ends, because another coordinator directs the alert.
    Superseded,
    /// A node failed to take the alert three times.
    Isolated { node: NodeName, reason: String },
}

impl Director {
    /// Creates the machine of an alert; see [`Run::new`]. [`Director::begin`] has to follow.
    pub(crate) fn new(
        plan: &PlannedAlert,
        nodes: impl IntoIterator<Item = NodeName>,
        request_deadline: Duration,
        begun: Moment,
    ) -> Self {
        let run = Run::new(plan, nodes, request_deadline, begun);
        Self {
            phase: run.standing(),
            state: run.state(),
            run,
            publish_at: None,
            waiting: Vec::new(),
            is_over: false,
            outputs: VecDeque::new(),
        }
    }

    /// Begins the alert, `cancelled` or running; `away`: nodes without a session. Returns the phase
    /// in which the wave is put on the board.
    pub(crate) fn begin<'a>(
        &mut self,
        away: impl IntoIterator<Item = &'a NodeName>,
        cancelled: bool,
        now: Time,
    ) -> Phase {
        away.into_iter().for_each(|node| self.run.away(node));
        match cancelled {
            true => self.run.cancel(now),
            false => self.run.step(now),
        }
        // A run that is settled by now has nothing for nodes: the next input removes the wave.
        let phase = self.run.standing().unwrap_or(Phase::Closed);
        (self.phase, self.state) = (Some(phase), self.run.state());
        phase
    }

    /// Processes a node's note.
    pub(crate) fn note(&mut self, node: &NodeName, boot: BootId, mut note: WaveNote, now: Time) {
        if self.is_over {
            return;
        }
        let mut dead = Vec::new();
        match &mut note {
            WaveNote::Report(report) => {
                dead = std::mem::take(&mut report.dead);
                self.publish_soon(now);
            }
            WaveNote::Isolated(reason) => {
                let (node, reason) = (node.clone(), reason.clone());
                self.log(Log::Isolated { node, reason });
                self.publish_soon(now);
            }
            WaveNote::Superseded(epoch) => {
                let (node, epoch) = (node.clone(), *epoch);
                self.log(Log::ObeysAnother { node, epoch });
                return self.superseded();
            }
            WaveNote::Stopped(stopped) => {
                let (node, stopped) = (node.clone(), *stopped);
                self.log(Log::Stopped { node, stopped });
            }
            WaveNote::Joined | WaveNote::Granted | WaveNote::Gone => {}
        }
        let answers = self.run.note(node, boot, note, now).answers;
        if !answers.is_empty() || !dead.is_empty() {
            self.outputs.push_back(Output::Feedback { answers, dead });
        }
        self.settle(now);
    }

    /// Cancels the alert for a caller that waits for the answer.
    pub(crate) fn cancel(&mut self, caller: CallerId, now: Time) {
        if self.is_over {
            return;
        }
        self.log(Log::CancelReceived);
        self.run.cancel(now);
        let has_room = self.waiting.len() < WAITING_MAX;
        let wait = if has_room { CANCEL_WAIT } else { Duration::ZERO };
        self.waiting.push((now + wait, caller));
        self.settle(now);
    }

    /// Reports that another coordinator has taken the alert over: no grant, no end, no further
    /// snapshot.
    pub(crate) fn superseded(&mut self) {
        if self.is_over {
            return;
        }
        (self.is_over, self.publish_at) = (true, None);
        self.log(Log::Superseded);
        let callers = self.waiting.drain(..).map(|(_, caller)| caller).collect();
        self.outputs.extend([Output::Abandon { callers }, Output::Over]);
    }

    /// Reports that the store holds the end of the alert.
    pub(crate) fn recorded(&mut self, now: Time) {
        self.run.recorded(now);
        self.settle(now);
    }

    /// Reports that troubles of lanes or pruning alarms have changed.
    pub(crate) fn troubles_changed(&mut self, now: Time) {
        self.publish_soon(now);
        self.settle(now);
    }

    /// Reports that a lane of the alert is in trouble, or an app has an alarm, from the beginning.
    pub(crate) fn begins_in_trouble(&mut self, now: Time) {
        self.publish_at = (!self.is_over).then_some(now);
        self.settle(now);
    }

    /// Applies the passage of time.
    pub(crate) fn expire(&mut self, now: Time) {
        self.run.step(now);
        self.settle(now);
    }

    /// Next time at which [`Director::expire`] has something to do without a new input.
    pub(crate) fn deadline(&self, now: Time) -> Option<Time> {
        if self.is_over {
            return None;
        }
        let give_up = self.waiting.iter().map(|(until, _)| *until).min();
        [self.run.deadline(now), self.publish_at, give_up].into_iter().flatten().min()
    }

    /// The next step for the shell to perform.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Time at which the alert expires.
    pub(crate) fn expires(&self) -> Time {
        self.run.expires()
    }

    /// The newest state of the alert, without troubles and alarms.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        self.run.snapshot()
    }

    /// The state that callers see.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn state(&self) -> State {
        self.run.state()
    }

    /// Whether the alert is settled: its numbers no longer change.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is_settled(&self) -> bool {
        self.run.is_settled()
    }

    fn publish_soon(&mut self, now: Time) {
        if !self.is_over {
            self.publish_at.get_or_insert(now + PUBLISH);
        }
    }

    fn log(&mut self, log: Log) {
        self.outputs.push_back(Output::Log(log));
    }

    /// Derives the outputs from the run after an input.
    fn settle(&mut self, now: Time) {
        if self.is_over {
            return;
        }
        let (phase, state, is_over) =
            (self.run.standing(), self.run.state(), self.run.is_settled());
        if phase != self.phase {
            self.phase = phase;
            self.outputs.push_back(Output::Phase(phase));
        }
        if state != self.state {
            self.state = state;
            self.log(Log::StateChanged(state));
            self.publish_at = Some(now);
        }
        if is_over || self.publish_at.is_some_and(|at| at <= now) {
            self.publish_at = None;
            let (snapshot, with_troubles) = (Box::new(self.run.snapshot()), !is_over);
            self.outputs.push_back(Output::Publish { snapshot, with_troubles });
        }
        self.answer(now);
        if is_over {
            self.is_over = true;
            self.outputs.push_back(Output::Over);
        }
    }

    /// Answers the callers whose cancel every connected node has confirmed, and the callers whose
    /// deadline has passed.
    fn answer(&mut self, now: Time) {
        if self.waiting.is_empty() {
            return;
        }
        let (here, away) = self.run.unconfirmed(now);
        let state = self.run.state();
        let confirmed = here.is_empty() && state != State::Active;
        let unconfirmed: Vec<_> = here.iter().chain(&away).map(ToString::to_string).collect();
        let answered = self.waiting.extract_if(.., |(until, _)| confirmed || *until <= now);
        self.outputs.extend(answered.map(|(_, caller)| {
            let unconfirmed = unconfirmed.clone();
            Output::Answer { caller, state, unconfirmed }
        }));
    }
}

impl Log {
    /// Writes the message about `alert` to the log.
    pub(crate) fn write(&self, alert: &AlertName) {
        match self {
            Self::CancelReceived => {
                tracing::info!(%alert, "cancel of running alert received");
            }
            Self::ObeysAnother { node, epoch } => {
                tracing::info!(
                    %alert,
                    %node,
                    epoch = epoch.0,
                    "node obeys another coordinator for alert"
                );
            }
            Self::Superseded => {
                tracing::info!(%alert, "alert run stopped: another coordinator directs it");
            }
            Self::StateChanged(state) => tracing::info!(%alert, ?state, "alert state changed"),
            Self::Stopped { node, stopped } => tracing::info!(
                %alert,
                %node,
                last_write_ago_us = ?stopped.last_write_ago_us,
                written_after_cancel = stopped.written_after_cancel,
                "node stopped alert"
            ),
            Self::Isolated { node, reason } => tracing::error!(
                %alert,
                %node,
                reason,
                "alert isolated on node; its devices are not reached"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
