//! What outlives a process, opened in its order: the data folder with the device key, and the store.

use std::sync::Arc;

use clarion_runtime::world::World;
use data_encoding::HEXLOWER;

use crate::{
    config::Config,
    folder::{DataFolder, FolderError},
    store::{
        Store, open,
        sql::{MadeFor, OpenError},
    },
};

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
pub(crate) async fn open_store(
    config: &Config,
    world: &World,
) -> Result<Arc<dyn Store>, OpenError> {
    let made_for = MadeFor {
        cluster: config.dispatch.cluster.as_str().to_owned(),
        partitions: config.dispatch.partitions,
        logs: config.dispatch.logs,
        device_key: Some(HEXLOWER.encode(&config.api.device_key.fingerprint())),
    };
    open::open(&config.store, &made_for, world).await
}
