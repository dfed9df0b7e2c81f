//! Writes batches into a store that no coordinator holds, with the checks of the API.
//!
//! A batch is checked and appended by the code that serves `WriteDevices`, so the same rows are
//! imported and rejected, with the same reasons.

use std::sync::Arc;

use clarion_runtime::world::{Clock, World};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    args::StoreAt,
    error::ImportError,
    flow::{Flow, Step, retry},
    ledger::{Acknowledged as _, Ledger},
    stream::{Batches, WriteError},
};
use crate::{
    api::registry::{
        DeviceKey,
        batch::{RawBatch, Registrar},
    },
    dispatch::NewestObservation,
    folder::DataFolder,
    heads::{self, Former},
    objects::Objects,
    state::{self, Kept},
    store::{AlertStore, ChangeLog, open::StorePlace},
};

/// A store, and what a coordinator's configuration says of its cluster.
pub(super) struct Direct {
    /// Apps of the store.
    pub(super) apps: Arc<dyn AlertStore>,
    /// Logs of the store.
    pub(super) log: Arc<dyn ChangeLog>,
    /// Key that makes ids of device names: that of the cluster.
    pub(super) device_key: DeviceKey,
    /// Number of partitions of the cluster.
    pub(super) partitions: u16,
    /// Where the ends of the logs are kept, which show a store that went back.
    objects: Objects,
    world: World,
    /// Locked until the import has ended.
    pub(super) _folder: Option<DataFolder>,
}

impl Direct {
    /// Opens a store, so that no coordinator writes to it meanwhile.
    ///
    /// # Errors
    /// A folder or store that cannot be used, or that a coordinator uses.
    pub(super) async fn open(at: StoreAt, world: &World) -> Result<Self, ImportError> {
        let StoreAt(mut config) = at;
        if let StorePlace::Sqlite(path) = &config.store.place
            && !path.try_exists().map_err(|e| ImportError::file(path, "read", e))?
        {
            let problem = "there is no store; start a coordinator on it once and create the apps";
            return Err(ImportError::content(path, problem));
        }
        let folder = state::lock_folder(&mut config)?;
        let Kept { store, objects, .. } = state::open_store(&config, world).await?;
        heads::check(&*store, &objects, config.accept_lost_changes).await?;
        let device_key = config.api.device_key;
        let (apps, log) = (Arc::clone(&store) as _, store as _);
        let (partitions, world) = (config.api.partitions, world.clone());
        Ok(Self { apps, log, device_key, partitions, objects, world, _folder: folder })
    }

    /// Writes the ends of the logs, as a coordinator does when it ends.
    async fn keep_ends(&self) {
        let stopped = CancellationToken::new();
        stopped.cancel();
        heads::keep(&*self.log, &self.objects, Former::default(), &self.world, stopped).await;
    }

    /// Writes all batches, one after another, while the reader packs the next ones.
    ///
    /// # Errors
    /// The store refuses a batch, or has no room for long.
    pub(super) async fn write_all(
        &self,
        clock: Clock,
        batches: &mut Batches,
        ledger: &mut Ledger,
    ) -> Result<(), WriteError> {
        let (observed, mut flow) = (NewestObservation::default(), Flow::default());
        loop {
            if flow.is_empty() {
                let Some(batch) = batches.next().await else {
                    self.keep_ends().await;
                    return Ok(());
                };
                flow.push(batch);
            }
            let Some(request) = flow.next_to_send() else { continue };
            let to = Registrar {
                apps: &*self.apps,
                log: &*self.log,
                device_key: &self.device_key,
                partitions: self.partitions,
                observed: &observed,
                now: clock.wall(),
                turns: None,
            };
            let answer = match RawBatch::new(request) {
                Ok(batch) => batch.write(to).await,
                Err(status) => Err(status),
            };
            let (after, problem) = match answer {
                Ok(answer) => match flow.answered(answer).map_err(WriteError::Import)? {
                    Step::Written(batch, outcome) => {
                        ledger.take(&batch, outcome).await.map_err(WriteError::Journal)?;
                        continue;
                    }
                    Step::NoRoom(_) => return Err(WriteError::Import(full())),
                },
                // Nobody makes room meanwhile.
                Err(_) if !*self.log.has_room().borrow() => {
                    return Err(WriteError::Import(full()));
                }
                Err(status) => match retry(&status) {
                    // A store that this process must not use any more does not come back.
                    Some(after) if !matches!(self.log.heads().await, Err(e) if e.ends_process()) => {
                        (after, status.message().to_owned())
                    }
                    _ => {
                        let refused = ImportError::Refused(Box::new(status));
                        return Err(WriteError::Import(refused));
                    }
                },
            };
            let after = flow.broken(after, &problem).map_err(WriteError::Import)?;
            ledger.say(&format!("{problem}; trying again in {} ms", after.as_millis()));
            sleep(after).await;
        }
    }
}

fn full() -> ImportError {
    ImportError::Option {
        option: "store_bytes_max",
        problem: "the store is full; raise the limit, then run the import again".to_owned(),
    }
}

#[cfg(test)]
mod tests;
