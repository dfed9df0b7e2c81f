//! The part of a run that talks to the cluster: load, alert, trouble, record.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clarion_emulator::{Platform, clock};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{RunError, io_error, motion::Moving};
use crate::{
    cluster::{
        NodeOrder,
        accounting::{self, Cpu, MemoryLog, Watched},
        emulator::Emulator,
        process::Role,
    },
    drive::{
        self, DriveError,
        alert::{self, Ended, Submitted, now_ns},
        watchers,
    },
    names,
    population::Population,
    scenario::{FaultSpec, NodeChange, Scenario},
    show::Show,
    verdict::geometry::Region,
};

/// After a cancellation the record is watched for so long, for what still arrives.
const AFTER_CANCEL: Duration = Duration::from_secs(1);
/// To connect to a coordinator that has said that it listens.
const CONNECT: Duration = Duration::from_secs(10);

/// All that a run needs of its surroundings.
pub struct Scene<'a> {
    /// What is played.
    pub scenario: &'a Scenario,
    /// With whom.
    pub population: &'a Arc<Population>,
    /// Where the coordinator is.
    pub coordinator: String,
    /// Where the gateways are.
    pub emulators: Vec<Emulator>,
    /// The processes.
    pub watched: Vec<Watched>,
    /// Where nodes are killed and started; none if they are somebody else's.
    pub node_orders: Option<mpsc::Sender<NodeOrder>>,
    /// Their memory.
    pub memory: MemoryLog,
    /// Where the record goes.
    pub dir: &'a Path,
    /// To whom it is shown.
    pub show: &'a Show,
}

/// What loading all devices took.
#[derive(Debug, Clone, Copy)]
pub struct Loaded {
    /// Until all were visible.
    pub took: Duration,
    /// Growth of all shard nodes.
    pub growth_bytes: u64,
}

/// What was seen of the wave.
#[derive(Debug)]
pub struct Observed {
    /// Start of all processes.
    pub start: Duration,
    /// Writing all devices until visible.
    pub load: Duration,
    /// Growth of all shard nodes meanwhile, bytes.
    pub load_growth_bytes: u64,
    /// Call to acknowledgement of `CreateAlert`.
    pub create: Duration,
    /// The alert.
    pub submitted: Submitted,
    /// Its end, by the cluster's words.
    pub ended: Ended,
    /// What the cluster's preview counted.
    pub preview_devices: u64,
    /// When `CreateAlert` was called, nanoseconds of `CLOCK_MONOTONIC`.
    pub called_ns: u64,
    /// Changes of devices acknowledged over the wave.
    pub changes: u64,
    /// Processor time before and after the wave.
    pub cpu: (Cpu, Cpu),
    /// Resident memory of shard nodes and coordinator at the end of the wave.
    pub rss: (u64, u64),
    /// When the fault began, nanoseconds of `CLOCK_MONOTONIC`.
    pub fault_ns: Option<u64>,
    /// Growth of the worst shard node after the fault began.
    pub shard_growth_bytes: Option<u64>,
    /// Nodes killed and started, and when, nanoseconds of `CLOCK_MONOTONIC`.
    pub node_changes: Vec<(u64, NodeChange)>,
    /// What other watchers saw.
    pub watchers: Option<watchers::Seen>,
    /// Growth of the coordinator over the wave, at its most.
    pub coordinator_growth_bytes: u64,
    /// Highest memory of each process.
    pub peaks: BTreeMap<String, u64>,
    /// The gateways' records.
    pub records: Vec<(Platform, PathBuf)>,
}

/// What a wave leaves behind.
struct Waved {
    ended: Ended,
    fault_ns: Option<u64>,
    watchers: Option<watchers::Seen>,
    node_changes: Vec<(u64, NodeChange)>,
}

impl Scene<'_> {
    /// Plays the scenario; tells beside it what was seen of its parts, if it is one in motion.
    ///
    /// # Errors
    /// A step did not succeed within its deadline.
    pub async fn play(&self) -> Result<(Observed, Option<Moving>), RunError> {
        let channel = self.connect().await?;
        alert::create_apps(channel.clone(), self.population).await?;
        let empty = self.rss(Role::Shard);
        let begun = clock::monotonic();
        self.load(channel.clone()).await?;
        let took = clock::monotonic().since(begun);
        let loaded = Loaded { took, growth_bytes: self.rss(Role::Shard).saturating_sub(empty) };
        match self.scenario.motion {
            None => Ok((self.alert(channel, loaded, "", || 0).await?, None)),
            Some(spec) => {
                let (observed, moving) = self.play_moving(channel, spec, loaded).await?;
                Ok((observed, Some(moving)))
            }
        }
    }

    /// The alert from its preview to the gateways' records, which are named after the `part` of the run; `changes`: of devices,
    /// acknowledged so far.
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
        // From the seed, so that a run repeats, and with the time, so that two runs against one cluster differ.
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

    pub(super) async fn connect(&self) -> Result<Channel, RunError> {
        Ok(drive::connect(&self.coordinator, CONNECT).await?)
    }

    pub(super) async fn load(&self, channel: Channel) -> Result<(), RunError> {
        let count = self.population.count();
        let bar = self.show.bar("load", count, "devices");
        let deadline = Duration::from_secs(self.scenario.deadlines.load_s);
        let progress = bar.clone();
        let load = drive::load::load(
            channel.clone(),
            Arc::clone(self.population),
            clock::wall().0,
            move |n| progress.inc(n),
        );
        timeout(deadline, load).await.map_err(|_| DriveError::Late {
            what: "writing all devices",
            seconds: deadline.as_secs(),
            state: format!("{} of {count} acknowledged", bar.position()),
        })??;
        drive::visible(channel, count, deadline).await?;
        bar.finish();
        Ok(())
    }

    /// The alert with everything that happens meanwhile; tells when a fault began.
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
                // The wave was faster than its trouble: nothing was shown, and the report says so.
                () = over.cancelled() => return Ok(None),
            }
            for emulator in self.emulators.iter().filter(|e| fault.befalls(e.platform)) {
                emulator.fault(fault).await?;
            }
            let begun = now_ns();
            if let FaultSpec::Scripted { for_ms, .. } = fault {
                tokio::select! {
                    () = sleep(Duration::from_millis(*for_ms)) => {}
                    () = over.cancelled() => {}
                }
                for emulator in self.emulators.iter().filter(|e| fault.befalls(e.platform)) {
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

    /// Kills and starts nodes at their times after the first push, until the wave is over.
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
            let (told, heeded) = oneshot::channel();
            let order = NodeOrder { action: change.action, node: change.node, done: told };
            orders.send(order).await.map_err(|e| DriveError::Defect(e.to_string()))?;
            heeded.await.map_err(|e| DriveError::Defect(e.to_string()))?;
            self.show.begin("node", &change.to_string());
            done.push((now_ns(), *change));
        }
        Ok(done)
    }

    /// Devices exactly inside at the start.
    fn inside(&self) -> u64 {
        let region = Region::new(&self.scenario.alert.region);
        self.population.iter().filter(|d| region.outside_meters(d.place) == 0.0).count() as u64
    }

    /// Of the processes that stay.
    pub(super) fn cpu(&self) -> Result<Cpu, RunError> {
        let changed =
            |w: &Watched| self.scenario.node_changes.iter().any(|c| names::node(c.node) == w.name);
        let staying: Vec<_> = self.watched.iter().filter(|w| !changed(w)).cloned().collect();
        accounting::cpu(&staying).map_err(|e| io_error("/proc", e))
    }

    /// Of all processes of a role; one that is gone is found by the watcher.
    fn rss(&self, role: Role) -> u64 {
        let of_role = self.watched.iter().filter(|w| w.role == role);
        of_role.filter_map(|w| accounting::memory(w.pid).ok()).map(|(now, _)| now).sum()
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts far below 2^53
fn share_of(count: u64, share: f64) -> u64 {
    ((count as f64 * share) as u64).max(1)
}
