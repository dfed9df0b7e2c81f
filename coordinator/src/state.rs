//! What outlives a process, opened in its order: the data folder with the device key, and the store.

use std::sync::Arc;

use clarion_runtime::world::World;
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::{
    config::Config,
    folder::{DataFolder, FolderError},
    objects::Objects,
    seal::{Generation, KEY_BYTES, Seals},
    store::{
        Store, open,
        sql::{MadeFor, OpenError},
    },
};

/// What a cluster keeps beyond its processes, opened.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Records and logs.
    pub store: Arc<dyn Store>,
    /// Snapshots of partitions.
    pub objects: Objects,
    /// Keys that seal what is kept.
    pub seals: Arc<Seals>,
}

/// A store with objects in memory and a key of its own: for a store that is lost with the process.
impl From<Arc<dyn Store>> for Kept {
    fn from(store: Arc<dyn Store>) -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *key).expect("the system has random numbers");
        let seals = Arc::new(Seals::new(Generation(1), &key));
        Self { store, objects: Objects::in_memory(), seals }
    }
}

/// Locks the data folder, if the configuration needs one, and takes the device key from it unless
/// the configuration names another.
///
/// # Errors
/// The folder cannot be used, or another process uses it.
pub(crate) fn lock_folder(config: &mut Config) -> Result<Option<DataFolder>, FolderError> {
    let folder = config.data_dir.as_deref().map(DataFolder::open).transpose()?;
    if let Some(folder) = &folder
        && config.api.device_key.is_random()
    {
        config.api.device_key = folder.device_key()?;
    }
    Ok(folder)
}

/// Opens the store of the configuration. From then on no other process writes to it.
///
/// # Errors
/// The store cannot be reached or used, or was made for another cluster.
pub(crate) async fn open_store(config: &Config, world: &World) -> Result<Kept, OpenError> {
    let made_for = MadeFor {
        cluster: config.dispatch.cluster.as_str().to_owned(),
        partitions: config.dispatch.partitions,
        logs: config.dispatch.logs,
        device_key: Some(HEXLOWER.encode(&config.api.device_key.fingerprint())),
    };
    Ok(open::open(&config.store, &made_for, world).await?.into())
}
