//! The task of one alert: feeds its [`Director`] and carries out what the machine decides.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::ids::{AlertName, WaveId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    CancelState,
    cluster::{Cluster, Input},
};
use crate::{
    alert::director::{CallerId, Director, Output},
    lane::{AppLane, LaneSpec},
    snapshot::{PruningAlarm, Snapshot},
    standing::Change,
};

/// An alert's task: the machine, and everything that its outputs concern.
pub(super) struct AlertTask {
    pub(super) alert: AlertName,
    pub(super) wave: WaveId,
    pub(super) director: Director,
    /// Lanes of the alert's apps.
    pub(super) lanes: Vec<Arc<LaneSpec>>,
    /// The alert's apps, with their lanes.
    pub(super) apps: Vec<AppLane>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    /// Cancelled when another coordinator has taken the alert over.
    pub(super) superseded: CancellationToken,
}

/// Callers that wait for the result of their cancel.
type Callers = BTreeMap<CallerId, oneshot::Sender<CancelState>>;

impl AlertTask {
    /// Runs until the alert is settled.
    pub(super) async fn run(mut self) {
        let clock = self.cluster.clock;
        let (mut callers, mut calls) = (Callers::new(), 0);
        let mut healths = self.cluster.lanes.health_changes();
        let mut alarms = self.cluster.pruning.alarm_changes();
        // A lane may have been in trouble before the alert began, and an app may already have a
        // pruning alarm.
        if !self.cluster.lanes.troubles(&self.lanes).is_empty() || !self.alarms().is_empty() {
            self.director.begins_in_trouble(clock.now());
        }
        // The alert may be settled from its beginning.
        self.director.expire(clock.now());
        while !self.carry_out(&mut callers) {
            let wake = self.director.deadline(clock.now());
            tokio::select! {
                biased;
                () = self.superseded.cancelled() => self.director.superseded(),
                // Nothing starves: each input applies the passage of time, too, and troubles and
                // alarms merge into one change however often they change. `changed` cannot fail:
                // the cluster, which this task holds, owns the senders.
                () = clock.sleep_until(wake) => self.director.expire(clock.now()),
                _ = healths.changed() => self.director.troubles_changed(clock.now()),
                _ = alarms.changed() => self.director.troubles_changed(clock.now()),
                input = self.inputs.recv() => match input {
                    Some(Input::Note { node, boot, note }) => {
                        self.director.note(&node, boot, note, clock.now());
                    }
                    Some(Input::Cancel(answer)) => {
                        calls += 1;
                        callers.insert(calls, answer);
                        self.director.cancel(calls, clock.now());
                    }
                    Some(Input::Recorded) => self.director.recorded(clock.now()),
                    None => return, // the dispatcher is gone
                },
            }
        }
    }

    /// Carries out the outputs so far; true if the alert is over.
    fn carry_out(&mut self, callers: &mut Callers) -> bool {
        let cluster = &self.cluster;
        while let Some(output) = self.director.poll() {
            match output {
                Output::Feedback { answers, dead } => {
                    cluster.pruning.hear(&answers, &dead, &cluster.clock);
                }
                Output::Phase(phase) => {
                    let change = Change::Phase(self.wave, phase);
                    cluster.board.apply(change, cluster.clock.now());
                }
                Output::Publish { snapshot, with_troubles } => {
                    let lane_troubles = match with_troubles {
                        true => cluster.lanes.troubles(&self.lanes),
                        false => Vec::new(),
                    };
                    let pruning_alarms = self.alarms();
                    let snapshot = Snapshot { lane_troubles, pruning_alarms, ..*snapshot };
                    self.snapshots.send_replace(Arc::new(snapshot));
                }
                Output::Answer { caller, state, unconfirmed } => {
                    // A caller that has hung up needs no answer.
                    let answer = callers.remove(&caller);
                    let _ = answer.map(|to| to.send(CancelState::At { state, unconfirmed }));
                }
                Output::Abandon { callers: waiting } => {
                    // Watchers find the channel of snapshots closed.
                    self.superseded.cancel();
                    cluster.board.apply(Change::Abandon(self.wave), cluster.clock.now());
                    for answer in waiting.iter().filter_map(|caller| callers.remove(caller)) {
                        let _ = answer.send(CancelState::Superseded);
                    }
                }
                Output::Log(log) => log.write(&self.alert),
                Output::Over => {
                    cluster.ended(&self.alert, self.wave);
                    return true;
                }
            }
        }
        false
    }

    /// Pruning alarms of the alert's apps.
    fn alarms(&self) -> Vec<PruningAlarm> {
        self.cluster.pruning_alarms(|of| self.apps.contains(of))
    }
}
