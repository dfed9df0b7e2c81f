//! The alerts of a series: each is started, watched beside others, and given its requests until it
//! is judged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clarion_emulator::clock;
use clarion_proto::wire::v1::Progress;
use tokio::{sync::Notify, task::JoinSet};
use tonic::transport::Channel;

use super::super::{RunError, scene::Scene};
use crate::{
    drive::{
        DriveError,
        alert::{self, Ended},
    },
    scenario::SeriesSpec,
    verdict::ledger::Push,
};

/// Alerts that are not judged yet.
pub(super) struct Alerts<'a> {
    channel: Channel,
    scene: &'a Scene<'a>,
    alerts_max: usize,
    deadline: Duration,
    /// Alerts in progress by the hash of their collapse key, which every record contains.
    open: BTreeMap<u64, Open>,
    /// Number of unanswered requests that the cluster reported and no record has shown yet, by the
    /// hash of judged alerts.
    unseen: BTreeMap<u64, u64>,
    watching: JoinSet<(u64, Result<Ended, DriveError>)>,
    /// Whether the newest alert has handed over all devices, or has ended.
    handed: Arc<AtomicBool>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Open {
    ended: Option<Ended>,
    pushes: Vec<Push>,
}

/// An alert that is ready to be judged.
pub(super) struct Complete {
    /// Hash of the collapse key of its pushes.
    pub hash: u64,
    /// End of the alert, as the cluster reported it.
    pub ended: Ended,
    /// Requests in the gateways' records.
    pub pushes: Vec<Push>,
}

impl<'a> Alerts<'a> {
    pub(super) fn new(channel: Channel, scene: &'a Scene<'a>, series: &SeriesSpec) -> Self {
        Self {
            channel,
            scene,
            alerts_max: series.alerts_max,
            // An alert may begin at the start of the fault, and has this much time after its end.
            deadline: Duration::from_secs_f64(series.seconds)
                + Duration::from_secs(scene.scenario.deadlines.wave_s),
            open: BTreeMap::new(),
            unseen: BTreeMap::new(),
            watching: JoinSet::new(),
            handed: Arc::new(AtomicBool::new(true)),
            changed: Arc::new(Notify::new()),
        }
    }

    /// Reports whether the next alert may begin.
    pub(super) fn has_room(&self) -> bool {
        self.watching.len() < self.alerts_max && self.handed.load(Ordering::Relaxed)
    }

    /// Reports whether no alert is in progress.
    pub(super) fn are_over(&self) -> bool {
        self.watching.is_empty()
    }

    /// Submits an alert, and returns the hash of its collapse key.
    pub(super) async fn begin(&mut self) -> Result<u64, RunError> {
        let alert = alert::alert(self.scene.scenario, self.scene.population);
        // Derived from the time, so that no two ids are equal, in this run or another against the
        // same cluster.
        let request_id =
            uuid::Uuid::from_u64_pair(self.scene.scenario.seed, clock::monotonic().0).to_string();
        let submitted = alert::submit(self.channel.clone(), alert, request_id).await?;
        let hash = submitted.collapse_hash();
        self.open.insert(hash, Open::default());
        self.handed = Arc::new(AtomicBool::new(false));
        let (handed, changed) = (Arc::clone(&self.handed), Arc::clone(&self.changed));
        let (channel, deadline) = (self.channel.clone(), self.deadline);
        self.watching.spawn(async move {
            let seen = |progress: &Progress| {
                if progress.nodes > 0
                    && progress.nodes_walked == progress.nodes
                    && !handed.swap(true, Ordering::Relaxed)
                {
                    changed.notify_one();
                }
            };
            let ended = alert::watch(channel, &submitted.name, None, deadline, seen).await;
            handed.store(true, Ordering::Relaxed);
            changed.notify_one();
            (hash, ended)
        });
        Ok(hash)
    }

    /// Waits until an alert has handed over all devices or has ended. The call is safe to cancel.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Collects the alerts that have ended.
    pub(super) fn collect(&mut self) -> Result<(), RunError> {
        while let Some(ended) = self.watching.try_join_next() {
            let (hash, ended) = ended.map_err(|e| DriveError::Defect(e.to_string()))?;
            let ended = ended?;
            if let Some(open) = self.open.get_mut(&hash) {
                open.ended = Some(ended);
            }
        }
        Ok(())
    }

    /// Assigns a request to its alert. Returns false if there is none.
    pub(super) fn take(&mut self, hash: u64, push: Push) -> bool {
        let alert = self.open.get_mut(&hash);
        alert.map(|open| open.pushes.push(push)).is_some()
    }

    /// Records the result of an alert: the number of requests that were sent, never answered, and
    /// seen by no gateway.
    pub(super) fn judged(&mut self, hash: u64, unseen: u64) {
        if unseen > 0 {
            self.unseen.insert(hash, unseen);
        }
    }

    /// Reports whether a request is one of those: a gateway that had stopped reading continued with
    /// earlier requests.
    pub(super) fn is_late(&mut self, hash: u64) -> bool {
        let unseen = self.unseen.get_mut(&hash).filter(|unseen| **unseen > 0);
        unseen.map(|unseen| *unseen -= 1).is_some()
    }

    /// Removes and returns the alerts that ended before a time.
    pub(super) fn ended_before(&mut self, before_ns: u64) -> Vec<Complete> {
        let ended = |open: &Open| open.ended.as_ref().is_some_and(|e| e.seen_ns < before_ns);
        let hashes: Vec<u64> =
            self.open.iter().filter(|(_, open)| ended(open)).map(|(hash, _)| *hash).collect();
        let complete = |hash| {
            let open = self.open.remove(&hash)?;
            Some(Complete { hash, ended: open.ended?, pushes: open.pushes })
        };
        hashes.into_iter().filter_map(complete).collect()
    }
}
