//! From the configuration to a store.

use std::{path::PathBuf, sync::Arc};

use clarion_runtime::world::World;

use super::{Store, StoreError, memory::MemoryStore};

/// Place and limit of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Engine and address of the store.
    pub place: StorePlace,
    /// Limit of the logs, bytes. Near the limit, registrations and places are refused; the last
    /// 64 MiB are reserved for removals, mutes and dead tokens. A million APNs devices take some
    /// 110 MB of records; the memory engine takes 12 MB more to recognize the devices.
    pub bytes_max: u64,
}

/// Engine and address of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// In the memory of the process: lost when the process ends.
    Memory,
    /// In a file.
    Sqlite(PathBuf),
}

/// Opens a store, and makes it if it does not exist.
///
/// # Errors
/// The store cannot be reached or used.
pub async fn open(
    config: &StoreConfig,
    logs: u16,
    world: &World,
) -> Result<Arc<dyn Store>, StoreError> {
    match &config.place {
        StorePlace::Memory => Ok(Arc::new(MemoryStore::new(logs, config.bytes_max, world))),
        StorePlace::Sqlite(path) => Err(StoreError::Away(format!("{}: no engine", path.display()))),
    }
}
