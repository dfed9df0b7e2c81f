//! The task of one alert: drives its [`Run`], sets the wave's phase on the board, publishes
//! snapshots.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    ids::{AlertName, BootId, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    CancelState,
    cluster::{Cluster, Input},
};
use crate::{
    alert::run::Run,
    lane::{AppLane, LaneSpec},
    owners::NodeName,
    session::note::WaveNote,
    snapshot::{PruningAlarm, Snapshot, State},
    standing::Phase,
};

/// Interval of snapshots. Reports arrive every 20 ms from each node; watchers get a message every
/// 100 ms at most. Half of 100 ms keeps their view fresh and costs 20 snapshots a second.
const PUBLISH: Duration = Duration::from_millis(50);
/// How long a caller waits for the confirmation of its cancel.
const CANCEL_WAIT: Duration = Duration::from_secs(2);
/// Callers that wait for one cancel; further callers get the present state at once.
const WAITING_MAX: usize = 64;

/// An alert's task and its state.
pub(super) struct AlertTask {
    pub(super) alert: AlertName,
    pub(super) wave: WaveId,
    pub(super) run: Run,
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

impl AlertTask {
    /// Runs until the alert is settled.
    pub(super) async fn run(mut self) {
        let clock = self.cluster.clock;
        let mut waiting: Vec<(Time, oneshot::Sender<CancelState>)> = Vec::new();
        let mut standing = self.run.standing();
        let mut state = self.run.state();
        let mut healths = self.cluster.lanes.health_changes();
        let mut alarms = self.cluster.pruning.alarm_changes();
        // A lane may have been in trouble before the alert began, and an app may already have a
        // pruning alarm.
        let troubled =
            !self.cluster.lanes.troubles(&self.lanes).is_empty() || !self.alarms().is_empty();
        let mut publish_at = troubled.then(|| clock.now());
        while !self.run.is_settled() {
            let give_up = waiting.iter().map(|(until, _)| *until).min();
            let wake =
                [self.run.deadline(clock.now()), publish_at, give_up].into_iter().flatten().min();
            tokio::select! {
                () = self.superseded.cancelled() => return self.give_up(waiting),
                input = self.inputs.recv() => match input {
                    Some(Input::Note { node, boot, note }) => {
                        if matches!(note, WaveNote::Report(_) | WaveNote::Isolated(_)) {
                            publish_at.get_or_insert(clock.now() + PUBLISH);
                        }
                        self.note(&node, boot, note).await;
                    }
                    Some(Input::Cancel(answer)) => {
                        tracing::info!(alert = %self.alert, "cancel of running alert received");
                        self.run.cancel(clock.now());
                        let wait = if waiting.len() < WAITING_MAX { CANCEL_WAIT } else { Duration::ZERO };
                        waiting.push((clock.now() + wait, answer));
                    }
                    Some(Input::Recorded) => self.run.recorded(clock.now()),
                    None => return, // the dispatcher is gone
                },
                // `changed` cannot fail: the cluster, which this task holds, owns the senders.
                _ = healths.changed() => {
                    publish_at.get_or_insert(clock.now() + PUBLISH);
                }
                _ = alarms.changed() => {
                    publish_at.get_or_insert(clock.now() + PUBLISH);
                }
                () = clock.sleep_until(wake) => self.run.step(clock.now()),
            }
            let now = clock.now();
            if standing != self.run.standing() {
                standing = self.run.standing();
                self.tell_nodes(standing);
            }
            if state != self.run.state() {
                state = self.run.state();
                tracing::info!(alert = %self.alert, ?state, "alert state changed");
                publish_at = Some(now);
            }
            if publish_at.is_some_and(|at| at <= now) && !self.run.is_settled() {
                publish_at = None;
                self.publish();
            }
            self.answer(&mut waiting, now);
        }
        // The loop never ran for a run that was settled from its beginning: the wave is still on
        // the board.
        self.tell_nodes(None);
        self.publish();
        self.cluster.ended(&self.alert, self.wave);
        let now = clock.now();
        self.answer(&mut waiting, now);
    }

    /// Ends the task of an alert that another coordinator has taken over: no grant, no End and no
    /// further snapshot. Watchers find the channel closed.
    fn give_up(self, waiting: Vec<(Time, oneshot::Sender<CancelState>)>) {
        tracing::info!(alert = %self.alert, "alert run stopped: another coordinator directs it");
        self.cluster.board.abandon(self.wave, self.cluster.clock.now());
        self.cluster.ended(&self.alert, self.wave);
        for (_, answer) in waiting {
            // A caller that has hung up needs no answer.
            let _ = answer.send(CancelState::Superseded);
        }
    }

    fn publish(&mut self) {
        let lane_troubles = if self.run.is_settled() {
            Vec::new()
        } else {
            self.cluster.lanes.troubles(&self.lanes)
        };
        let pruning_alarms = self.alarms();
        let snapshot = Snapshot { lane_troubles, pruning_alarms, ..self.run.snapshot() };
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Pruning alarms of the alert's apps.
    fn alarms(&self) -> Vec<PruningAlarm> {
        self.cluster.pruning_alarms(|of| self.apps.contains(of))
    }

    async fn note(&mut self, node: &NodeName, boot: BootId, mut note: WaveNote) {
        let dead = match &mut note {
            WaveNote::Report(report) => std::mem::take(&mut report.dead),
            WaveNote::Superseded(epoch) => {
                let (alert, epoch) = (&self.alert, epoch.0);
                tracing::info!(%alert, %node, epoch, "node obeys another coordinator for alert");
                return self.superseded.cancel();
            }
            WaveNote::Stopped(stopped) => {
                self.log_stop(node, stopped);
                Vec::new()
            }
            WaveNote::Isolated(reason) => {
                tracing::error!(
                    alert = %self.alert,
                    %node,
                    reason,
                    "alert isolated on node; its devices are not reached"
                );
                Vec::new()
            }
            _ => Vec::new(),
        };
        let added = self.run.note(node, boot, note, self.cluster.clock.now());
        if !added.answers.is_empty() || !dead.is_empty() {
            self.cluster.pruning.hear(&added.answers, &dead, &self.cluster.clock);
        }
    }

    fn log_stop(&self, node: &NodeName, stopped: &wire::Stopped) {
        tracing::info!(
            alert = %self.alert,
            %node,
            last_write_ago_us = ?stopped.last_write_ago_us,
            written_after_cancel = stopped.written_after_cancel,
            "node stopped alert"
        );
    }

    fn tell_nodes(&self, phase: Option<Phase>) {
        self.cluster.board.set_phase(self.wave, phase, self.cluster.clock.now());
    }

    /// Answers the callers whose cancel every reachable node has confirmed, and the callers whose
    /// deadline has passed.
    fn answer(&self, waiting: &mut Vec<(Time, oneshot::Sender<CancelState>)>, now: Time) {
        let (here, away) = self.run.unconfirmed(now);
        let confirmed = here.is_empty() && (self.run.state() != State::Active);
        for i in (0..waiting.len()).rev() {
            if confirmed || waiting[i].0 <= now {
                let (_, answer) = waiting.swap_remove(i);
                let unconfirmed = here.iter().chain(&away).map(|name| name.to_string()).collect();
                // A caller that has hung up needs no answer.
                let _ = answer.send(CancelState::At { state: self.run.state(), unconfirmed });
            }
        }
    }
}
