//! One alert of a run: its submission, the wave with faults during it, the gateways' records.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clarion_emulator::{Platform, clock};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    RunError,
    scene::{Loaded, Scene},
};
use crate::{
    cluster::{NodeOrder, accounting::Cpu, process::Role},
    drive::{
        DriveError,
        alert::{self, Ended, Submitted, now_ns},
        watchers,
    },
    names,
    scenario::{FaultSpec, NodeChange},
};

/// Time after a cancellation for which the record is watched for late requests.
const AFTER_CANCEL: Duration = Duration::from_secs(1);
/// Observations of the wave.
#[derive(Debug)]
pub struct Observed {
    /// Time for the start of all processes.
    pub start: Duration,
    /// Time from the first written device until all are visible.
    pub load: Duration,
    /// Memory growth of all shard nodes during the load, bytes.
    pub load_growth_bytes: u64,
    /// Time from the call of `CreateAlert` to its acknowledgement.
    pub create: Duration,
    /// The alert as the coordinator acknowledged it.
    pub submitted: Submitted,
    /// End of the alert, as the cluster reported it.
    pub ended: Ended,
    /// Devices that the cluster's preview counted.
    pub preview_devices: u64,
    /// Time of the call of `CreateAlert`, nanoseconds of `CLOCK_MONOTONIC`.
    pub called_ns: u64,
    /// Changes of devices acknowledged over the wave.
    pub changes: u64,
    /// CPU time before and after the wave.
    pub cpu: (Cpu, Cpu),
    /// Resident memory of shard nodes and coordinator at the end of the wave, bytes.
    pub rss: (u64, u64),
    /// Start of the fault, nanoseconds of `CLOCK_MONOTONIC`.
    pub fault_ns: Option<u64>,
    /// Memory growth of the worst shard node after the start of the fault, bytes.
    pub shard_growth_bytes: Option<u64>,
    /// Nodes that were killed and started, with times, nanoseconds of `CLOCK_MONOTONIC`.
    pub node_changes: Vec<(u64, NodeChange)>,
    /// Observations of other watchers.
    pub watchers: Option<watchers::Seen>,
    /// Highest memory growth of the coordinator over the wave, bytes.
    pub coordinator_growth_bytes: u64,
    /// Highest memory of each process, bytes.
    pub peaks: BTreeMap<String, u64>,
    /// Files of the gateways' records.
    pub records: Vec<(Platform, PathBuf)>,
}

/// Result of a wave.
struct Waved {
    ended: Ended,
    fault_ns: Option<u64>,
    watchers: Option<watchers::Seen>,
    node_changes: Vec<(u64, NodeChange)>,
}

impl Scene<'_> {
    /// Runs the alert from its preview to the gateways' records, whose names contain the `part` of
    /// the run. `changes` is the number of acknowledged changes of devices so far.
    ///
    /// # Errors
    /// If a step does not end within its deadline.
    pub(super) async fn alert(
        &self,
        channel: Channel,
        loaded: Loaded,
        part: &str,
        changes: impl Fn() -> u64,
    ) -> Result<Observed, RunError> {
        let alert = alert::alert(self.scenario, self.population);
        let preview_devices = alert::preview(channel.clone(), alert.clone()).await?;
        self.show
            .begin("alert", &format!("{}, {preview_devices} devices", self.scenario.alert.region));
        let (cpu_before, changes_before) = (self.cpu()?, changes());
        let coordinator_before = self.rss(Role::Coordinator);
        let called = clock::monotonic();
        // From the seed, so that a run repeats, and from the time, so that two runs against one
        // cluster differ.
        let request_id = uuid::Uuid::from_u64_pair(self.scenario.seed, clock::wall().0).to_string();
        let submitted = alert::submit(channel.clone(), alert, request_id).await?;
        let create = clock::monotonic().since(called);

        let Waved { ended, fault_ns, watchers, node_changes } =
            self.wave(channel, &submitted, preview_devices).await?;
        let (cpu_after, changes_after) = (self.cpu()?, changes());
        let rss = (self.rss(Role::Shard), self.rss(Role::Coordinator));
        if ended.cancelled.is_some() {
            sleep(AFTER_CANCEL).await;
        }
        let mut records = Vec::new();
        for emulator in &self.emulators {
            let record = self.dir.join(names::record(emulator.platform, part));
            emulator.export(&record).await?;
            records.push((emulator.platform, record));
        }
        let shard_growth_bytes = fault_ns
            .and_then(|at| self.memory.growth(Role::Shard, &(submitted.acknowledged_ns..at), at));
        let most = self.memory.most(Role::Coordinator, submitted.acknowledged_ns).max(rss.1);
        Ok(Observed {
            start: Duration::ZERO,
            load: loaded.took,
            load_growth_bytes: loaded.growth_bytes,
            create,
            submitted,
            ended,
            preview_devices,
            called_ns: called.0 * 1_000,
            changes: changes_after - changes_before,
            cpu: (cpu_before, cpu_after),
            rss,
            fault_ns,
            shard_growth_bytes,
            node_changes,
            watchers,
            coordinator_growth_bytes: most.saturating_sub(coordinator_before),
            peaks: BTreeMap::new(),
            records,
        })
    }

    /// Runs the alert with all events during it. Returns the time at which a fault began.
    async fn wave(
        &self,
        channel: Channel,
        submitted: &Submitted,
        expected: u64,
    ) -> Result<Waved, RunError> {
        let bar = self.show.bar("push", expected, "phones");
        let (first_push, mut first_pushed) = watch::channel(false);
        let over = CancellationToken::new();

        let cancel_at = self.scenario.cancel.map(|c| share_of(self.inside(), c.at_share));
        let deadline = Duration::from_secs(self.scenario.deadlines.wave_s);
        let watching = async {
            let seen = |progress: &clarion_proto::wire::v1::Progress| {
                let accepted = progress.outcomes.unwrap_or_default().accepted;
                bar.set(accepted);
                if accepted > 0 {
                    first_push.send_replace(true);
                }
            };
            let ended =
                alert::watch(channel.clone(), &submitted.name, cancel_at, deadline, seen).await;
            over.cancel();
            Ok::<_, RunError>(ended?)
        };
        let trouble = async {
            let Some(fault) = &self.scenario.gateway.fault else { return Ok(None) };
            tokio::select! {
                _ = first_pushed.wait_for(|pushed| *pushed) => {}
                () = over.cancelled() => return Ok(None),
            }
            tokio::select! {
                () = sleep(Duration::from_millis(fault.after_ms())) => {}
                // The wave ended before the fault began, so the fault had no effect, and the report
                // says so.
                () = over.cancelled() => return Ok(None),
            }
            for emulator in self.emulators.iter().filter(|e| fault.applies_to(e.platform)) {
                emulator.fault(fault).await?;
            }
            let begun = now_ns();
            if let FaultSpec::Scripted { for_ms, .. } = fault {
                tokio::select! {
                    () = sleep(Duration::from_millis(*for_ms)) => {}
                    () = over.cancelled() => {}
                }
                for emulator in self.emulators.iter().filter(|e| fault.applies_to(e.platform)) {
                    emulator.calm().await?;
                }
            }
            Ok::<_, RunError>(Some(begun))
        };
        let others = async {
            let Some(spec) = self.scenario.watchers else { return Ok(None) };
            let end = Instant::now() + deadline;
            Ok(Some(watchers::watch(&self.coordinator, &submitted.name, spec, end).await?))
        };
        let changing = self.change_nodes(first_push.subscribe(), over.clone());
        let (ended, fault_ns, watchers, node_changes) =
            tokio::try_join!(watching, trouble, others, changing)?;
        bar.finish();
        Ok(Waved { ended, fault_ns, watchers, node_changes })
    }

    /// Kills and starts nodes at their times after the first push, until the wave ends.
    async fn change_nodes(
        &self,
        mut first_pushed: watch::Receiver<bool>,
        over: CancellationToken,
    ) -> Result<Vec<(u64, NodeChange)>, RunError> {
        let (changes, mut done) = (&self.scenario.node_changes, Vec::new());
        let Some(orders) = self.node_orders.as_ref().filter(|_| !changes.is_empty()) else {
            return Ok(done);
        };
        let begun = async { first_pushed.wait_for(|pushed| *pushed).await.is_ok() };
        if over.run_until_cancelled(begun).await != Some(true) {
            return Ok(done);
        }
        let begun = Instant::now();
        for change in changes {
            let at = begun + Duration::from_millis(change.after_ms);
            if over.run_until_cancelled(sleep_until(at)).await.is_none() {
                break;
            }
            let (signal, finished) = oneshot::channel();
            let order = NodeOrder { action: change.action, node: change.node, done: signal };
            orders.send(order).await.map_err(|e| DriveError::Defect(e.to_string()))?;
            finished.await.map_err(|e| DriveError::Defect(e.to_string()))?;
            self.show.begin("node", &change.to_string());
            done.push((now_ns(), *change));
        }
        Ok(done)
    }
}

// Counts are far below 2^53.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn share_of(count: u64, share: f64) -> u64 {
    ((count as f64 * share) as u64).max(1)
}
