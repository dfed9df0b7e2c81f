//! State that the parts of a run share: the scenario, the cluster, and common steps.

use std::{path::Path, sync::Arc, time::Duration};

use clarion_emulator::clock;
use tokio::{sync::mpsc, time::timeout};
use tonic::transport::Channel;

use super::{RunError, io_error};
use crate::{
    cluster::{
        NodeOrder,
        accounting::{self, Cpu, MemoryLog, Watched},
        emulator::Emulator,
        process::Role,
    },
    drive::{self, DriveError},
    names,
    population::Population,
    scenario::Scenario,
    show::Show,
    verdict::geometry::Region,
};

/// Time limit for connecting to a coordinator that has announced its address.
const CONNECT: Duration = Duration::from_secs(10);

/// A scenario on a running cluster, with everything that its parts need.
pub struct Scene<'a> {
    /// Scenario of the run.
    pub scenario: &'a Scenario,
    /// Devices that are registered and alerted.
    pub population: &'a Arc<Population>,
    /// Address of the coordinator, `http://host:port`.
    pub coordinator: String,
    /// Gateway emulators, one for each platform.
    pub emulators: Vec<Emulator>,
    /// Processes whose cost is measured; empty for a cluster that another program started.
    pub watched: Vec<Watched>,
    /// Sender of orders to kill and start nodes; `None` for a cluster that another program started.
    pub node_orders: Option<mpsc::Sender<NodeOrder>>,
    /// Memory of the processes over time.
    pub memory: MemoryLog,
    /// Folder for records.
    pub dir: &'a Path,
    /// Progress bars of the run on the terminal.
    pub show: &'a Show,
}

/// Time and memory of loading all devices.
#[derive(Debug, Clone, Copy)]
pub struct Loaded {
    /// Time until all devices were visible.
    pub took: Duration,
    /// Memory growth of all shard nodes during the load, bytes.
    pub growth_bytes: u64,
}

impl Scene<'_> {
    /// Loads all devices into an empty cluster, and returns time and memory.
    ///
    /// # Errors
    /// If the scenario's deadline has passed, or the coordinator refuses.
    pub(super) async fn fill(&self, channel: Channel) -> Result<Loaded, RunError> {
        let empty = self.rss(Role::Shard);
        let begun = clock::monotonic();
        self.load(channel).await?;
        let took = clock::monotonic().since(begun);
        Ok(Loaded { took, growth_bytes: self.rss(Role::Shard).saturating_sub(empty) })
    }

    /// Connects to the coordinator.
    pub(super) async fn connect(&self) -> Result<Channel, RunError> {
        Ok(drive::connect(&self.coordinator, CONNECT).await?)
    }

    /// Writes all devices, and waits until they are visible.
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

    /// Counts the devices that are exactly inside at the start.
    pub(super) fn inside(&self) -> u64 {
        let region = Region::new(&self.scenario.alert.region);
        self.population.iter().filter(|d| region.outside_meters(d.place) == 0.0).count() as u64
    }

    /// Returns the CPU time of the processes that are neither killed nor started during the run.
    pub(super) fn cpu(&self) -> Result<Cpu, RunError> {
        let changed =
            |w: &Watched| self.scenario.node_changes.iter().any(|c| names::node(c.node) == w.name);
        let staying: Vec<_> = self.watched.iter().filter(|w| !changed(w)).cloned().collect();
        accounting::cpu(&staying).map_err(|e| io_error("/proc", e))
    }

    /// Returns the resident memory of all processes of a role, bytes. The watcher reports a process
    /// that has ended.
    pub(super) fn rss(&self, role: Role) -> u64 {
        let of_role = self.watched.iter().filter(|w| w.role == role);
        of_role.filter_map(|w| accounting::memory(w.pid).ok()).map(|(now, _)| now).sum()
    }
}
