//! Carries snapshots of partitions between coordinators and cores.
//!
//! ```text
//! control ── list ──▶ ListSnapshots ──▶ what there is ──▶ control
//!         ── load ──▶ LoadSnapshot  ──▶ pieces ──▶ the core's queue of batches
//!         ── save ──▶ the core's sections ──▶ SaveSnapshot ──▶ stored, or not ──▶ control
//! ```
//!
//! [`crate::control`] decides what is loaded and saved. Here are the calls: every wait has a
//! deadline, and a coordinator that fails or hangs is left for the next one, after a pause with
//! full jitter.
//!
//! Memory: [`Snapshots::new`] allows two loads at a time for each core; one that waits for its next
//! attempt leaves its place to others. Each has a window of 1 MiB and one message, and the core's
//! queue holds four pieces of at most 1 MiB. One save is under way,
//! with two sections of some 200 KiB between core and call.

mod call;
mod load;
mod save;
#[cfg(test)]
mod model_tests;

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use tokio::{
    sync::{Mutex, Semaphore, mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};

use self::call::{Carrier, Listing};
use crate::{
    command::CommandSink,
    control::snapshot::{List, Load, Save, SnapshotNote},
    feed::{FeedConfig, coordinators::Coordinators},
};
use clarion_runtime::world::World;

/// Loads that are under way at a time, for each core: one is read while the next one arrives.
const LOADS_PER_CORE: usize = 2;

/// The calls that are under way. Dropping it ends them.
pub(crate) struct Snapshots {
    carrier: Carrier,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
    list: Option<AbortHandle>,
    save: Option<AbortHandle>,
    loads: BTreeMap<u64, AbortHandle>,
}

impl Snapshots {
    /// No call is under way. The cores are those of the feed, and `notes` leads to the control
    /// plane.
    #[must_use]
    pub(crate) fn new(
        config: FeedConfig,
        cores: Vec<Arc<dyn CommandSink>>,
        notes: mpsc::Sender<SnapshotNote>,
        world: World,
    ) -> Self {
        let places = Arc::new(Semaphore::new(LOADS_PER_CORE * cores.len()));
        let coordinators = Coordinators::new(config.coordinators.clone(), world.clone());
        let coordinators = Arc::new(Mutex::new(coordinators));
        let carrier = Carrier { config: Arc::new(config), cores, notes, world, coordinators };
        let (tasks, loads) = (JoinSet::new(), BTreeMap::new());
        Self { carrier, places, tasks, list: None, save: None, loads }
    }

    /// Asks for the snapshots of partitions as soon as every receiver in `after` has resolved (or
    /// lost its sender), instead of an earlier request.
    pub(crate) fn list(&mut self, list: List, after: Vec<oneshot::Receiver<()>>) {
        let carrier = self.carrier.clone();
        let task = self.spawn(async move {
            join_all(after).await;
            Listing { list, carrier }.run().await;
        });
        self.list.replace(task).into_iter().for_each(|former| former.abort());
    }

    /// Loads a snapshot into its core.
    pub(crate) fn load(&mut self, load: Load) {
        let (carrier, places, number) =
            (self.carrier.clone(), Arc::clone(&self.places), load.number);
        let task = self.spawn(load::run(carrier, load, places));
        self.loads.retain(|_, task| !task.is_finished());
        self.loads.insert(number, task);
    }

    /// Stops a load, wherever it is.
    pub(crate) fn stop_load(&mut self, number: u64) {
        self.loads.remove(&number).into_iter().for_each(|task| task.abort());
    }

    /// Lets a core write a snapshot and a coordinator store it, instead of an earlier one.
    pub(crate) fn save(&mut self, save: Save) {
        self.stop_save();
        let carrier = self.carrier.clone();
        self.save = Some(self.spawn(save::run(carrier, save)));
    }

    /// Stops the save that is under way.
    pub(crate) fn stop_save(&mut self) {
        self.save.take().into_iter().for_each(|task| task.abort());
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(task)
    }
}
