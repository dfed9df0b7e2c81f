//! State that all dispatch tasks share: board, nodes, lanes, and the channels of alerts and counts.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::{
    ids::{AlertName, BootId, LaneId, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};
use clarion_runtime::{repeated::Repeated, world::Clock};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{CancelState, board::Board, lanes::Lanes, members::Members, pruning::Pruning};
use crate::{
    lane::AppLane,
    lane_owner::{LaneOwner, feedback::evidence::Alarm},
    members::Roster,
    owners::NodeName,
    session::{
        Identity,
        note::{Note, WaveNote},
        routing::{self, Machines},
    },
    snapshot::PruningAlarm,
    standing::Change,
};

/// Answer of one node to a count.
pub(super) type NodeAnswer = Result<wire::Counted, NotCounted>;

/// A node's refusal of a count.
#[derive(Debug)]
pub(super) struct NotCounted {
    pub(super) reason: String,
    /// Whether the node may accept the count later.
    pub(super) again: bool,
}

/// State that the dispatcher's tasks share.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) identity: Identity,
    pub(crate) clock: Clock,
    pub(crate) board: Arc<Board>,
    pub(crate) roster: Members,
    pub(crate) lanes: Lanes,
    pub(crate) pruning: Arc<Pruning>,
    alerts: Mutex<Alerts>,
    /// Channels for the answers of the counts under way.
    answers: Mutex<BTreeMap<u64, mpsc::Sender<(NodeName, NodeAnswer)>>>,
    /// Limits the log lines about faults that a node reports; the roster bounds the names.
    faults: Mutex<BTreeMap<NodeName, Repeated>>,
}

/// Input channels of the alerts under way; an entry stays until its alert is settled.
#[derive(Debug, Default)]
struct Alerts {
    by_name: BTreeMap<AlertName, mpsc::Sender<Input>>,
    by_wave: BTreeMap<WaveId, mpsc::Sender<Input>>,
}

/// An input of an alert's task.
#[derive(Debug)]
pub(crate) enum Input {
    /// A session passes on a node's report about the wave.
    Note {
        /// The node that the note is about.
        node: NodeName,
        /// Process of the node, by its boot id.
        boot: BootId,
        /// The session's note.
        note: WaveNote,
    },
    /// A caller cancels the alert and waits for the result.
    Cancel(oneshot::Sender<CancelState>),
    /// The store holds the alert's end.
    Recorded,
}

impl Cluster {
    pub(super) fn new(
        identity: Identity,
        clock: Clock,
        roster: Roster,
        lanes: LaneOwner,
        pruning: Arc<Pruning>,
    ) -> Self {
        let (alerts, answers, faults) = (Mutex::default(), Mutex::default(), Mutex::default());
        let board = Arc::new(Board::new());
        let (roster, lanes) = (Members::new(roster), Lanes::new(lanes, board.clone()));
        Self { identity, clock, board, roster, lanes, pruning, alerts, answers, faults }
    }

    /// Alarms of apps whose devices are kept although their gateway calls their tokens bad; of
    /// those wanted, by app.
    pub(super) fn pruning_alarms(&self, wanted: impl Fn(&AppLane) -> bool) -> Vec<PruningAlarm> {
        let alarms = self.pruning.alarms();
        let standing = self.board.read();
        let named = alarms.into_iter().filter(|alarm| wanted(&alarm.of)).filter_map(|alarm| {
            let Alarm { of: (app, lane), since, withheld, accepted_any } = alarm;
            Some(PruningAlarm {
                app,
                lane: standing.lanes.get(&lane)?.key.clone(),
                since,
                withheld,
                accepted_any,
            })
        });
        named.collect()
    }

    /// Enters an alert. False: an alert with the same name or wave is entered already and stays.
    pub(super) fn enter(
        &self,
        name: &AlertName,
        wave: WaveId,
        inputs: mpsc::Sender<Input>,
    ) -> bool {
        let mut alerts = self.alerts.lock();
        if alerts.by_name.contains_key(name) || alerts.by_wave.contains_key(&wave) {
            return false;
        }
        alerts.by_wave.insert(wave, inputs.clone());
        alerts.by_name.insert(name.clone(), inputs);
        true
    }

    /// Removes a settled alert: its task gets no further notes.
    pub(super) fn ended(&self, name: &AlertName, wave: WaveId) {
        self.roster.forget(wave);
        let mut alerts = self.alerts.lock();
        alerts.by_wave.remove(&wave);
        alerts.by_name.remove(name);
    }

    /// Input channel of an alert; `None`: the alert does not run in this process, or is settled.
    pub(super) fn alert(&self, name: &AlertName) -> Option<mpsc::Sender<Input>> {
        self.alerts.lock().by_name.get(name).cloned()
    }

    /// Opens a channel for the answers to a count; it stays until the count is closed.
    pub(super) fn open_question(&self, id: u64, answers: mpsc::Sender<(NodeName, NodeAnswer)>) {
        self.answers.lock().insert(id, answers);
    }

    pub(super) fn close_question(&self, id: u64) {
        self.board.apply(Change::EndCount(id), self.clock.now());
        self.answers.lock().remove(&id);
    }

    /// Passes a session's note to the machine concerned. Waits while an alert's task is behind; the
    /// node's stream waits too.
    pub(crate) async fn note(&self, node: &NodeName, boot: BootId, note: Note) {
        let Some((wave, note)) = routing::route(note, node, self.identity.log, &mut &*self) else {
            return;
        };
        let inputs = self.alerts.lock().by_wave.get(&wave).cloned();
        if let Some(inputs) = inputs {
            // Fails only if the alert has just ended.
            let _ = inputs.send(Input::Note { node: node.clone(), boot, note }).await;
        }
    }

    fn answer(&self, node: &NodeName, question: u64, answer: NodeAnswer) {
        let answers = self.answers.lock().get(&question).cloned();
        if let Some(answers) = answers {
            // A full channel means that the node answered more than once; the extra answer is
            // dropped.
            let _ = answers.try_send((node.clone(), answer));
        }
    }

    /// Reports the end of a node's stream to all waves.
    pub(crate) async fn gone(&self, node: &NodeName, boot: BootId) {
        // If another process with this node name is connected already, its lane status stays valid.
        if !self.roster.is_connected(node) {
            self.lanes.node_gone(node, self.clock.now());
        }
        let inputs: Vec<_> = self.alerts.lock().by_wave.values().cloned().collect();
        for inputs in inputs {
            let _ =
                inputs.send(Input::Note { node: node.clone(), boot, note: WaveNote::Gone }).await;
        }
    }
}

impl Machines for &Cluster {
    fn lane_health(&mut self, node: &NodeName, state: &wire::LaneState) {
        self.lanes.health_changed(node, state, self.clock.moment());
    }

    fn lane_unknown(&mut self, lane: LaneId) {
        self.lanes.ensure_id(lane, self.clock.moment());
    }

    fn lane_load(&mut self, node: &NodeName, load: wire::LaneLoad) {
        self.lanes.loaded(node, load, self.clock.now());
    }

    fn registry(&mut self, node: &NodeName, state: Option<&wire::RegistryState>) {
        self.roster.registry(node, state);
    }

    fn counted(&mut self, node: &NodeName, counted: wire::Counted) {
        self.answer(node, counted.id, Ok(counted));
    }

    fn count_failed(&mut self, node: &NodeName, id: u64, reason: String, again: bool) {
        self.answer(node, id, Err(NotCounted { reason, again }));
    }

    fn fault(&mut self, node: &NodeName, what: String) {
        let now = self.clock.now().since(Time(0));
        let times = self.faults.lock().entry(node.clone()).or_default().note(&what, now);
        if let Some(times) = times {
            tracing::warn!(%node, what, times, "node reports fault");
        }
    }
}
