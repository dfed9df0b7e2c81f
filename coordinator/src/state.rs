//! What outlives a process, opened in its order: the data folder with the device key, the objects,
//! the store, and the keys that are half in each.

use std::sync::Arc;

use clarion_runtime::world::World;
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::{
    archive::Archive,
    config::Config,
    folder::DataFolder,
    keys::{
        keeper::{KeyError, KeyKeeper},
        record,
    },
    objects::{
        Objects, ObjectsPlace,
        owner::{self, OwnerError},
    },
    private_folder::FolderError,
    seal::{Generation, KEY_BYTES, Seals},
    store::{
        Store, StoreError, open,
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
    /// The task that makes and erases keys; `None`: one key for the life of the process.
    pub keys: Option<Arc<KeyKeeper>>,
}

/// Why the store or its objects cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The store cannot be opened.
    #[error("store: {0}")]
    Open(#[from] OpenError),
    /// The folder of the objects cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The variables of the bucket cannot be used.
    #[error("objects: {url}: {problem}")]
    Bucket {
        /// URL of the bucket.
        url: String,
        /// The problem, with what to do about it.
        problem: String,
    },
    /// The objects are not those of the store.
    #[error("objects: {place}: {error}")]
    Owner {
        /// Place of the objects, as it was configured.
        place: ObjectsPlace,
        /// The problem, with what to do about it.
        error: OwnerError,
    },
    /// The keys cannot be loaded.
    #[error("{place}: {error}")]
    Keys {
        /// Place of the objects, as it was configured.
        place: ObjectsPlace,
        /// The problem, with what to do about it.
        error: KeyError,
    },
    /// The store failed while the keys were read.
    #[error("store: {0}")]
    Store(#[from] StoreError),
}

/// A store with objects in memory and a key of its own: for a store that is lost with the process.
impl From<Arc<dyn Store>> for Kept {
    fn from(store: Arc<dyn Store>) -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *key).expect("the system has random numbers");
        let seals = Arc::new(Seals::new(Generation(1), &key));
        Self { store, objects: Objects::in_memory(), seals, keys: None }
    }
}

impl Kept {
    /// The archive of the cluster, for a program that uses the store alone.
    pub(crate) fn archive(&self, config: &Config, world: &World) -> Archive {
        let (store, objects) = (Arc::clone(&self.store), self.objects.clone());
        Archive::new(config.archive.clone(), store, objects, Arc::clone(&self.seals), world.clone())
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

/// Opens the objects and the store of the configuration, and loads the keys. From then on no other
/// process writes to the store.
///
/// # Errors
/// The store or the objects cannot be reached or used, or were made for another cluster.
pub(crate) async fn open_store(config: &Config, world: &World) -> Result<Kept, KeptError> {
    // Before the store: a process that cannot use the objects must not take the store over.
    let place = match &config.objects {
        ObjectsPlace::Memory => None,
        place => Some(open_objects(place, world)?),
    };
    let made_for = MadeFor {
        cluster: config.dispatch.cluster.as_str().to_owned(),
        partitions: config.dispatch.partitions,
        logs: config.dispatch.logs,
        device_key: Some(HEXLOWER.encode(&config.api.device_key.fingerprint())),
    };
    let seals = Arc::<Seals>::default();
    let store = open::open(&config.store, &made_for, &seals, world).await?;
    let Some(place) = place else { return Ok(store.into()) };
    let owner = |error| KeptError::Owner { place: config.objects.clone(), error };
    let (records, _) = record::all(&*store).await?;
    let claimed = owner::claim(&place, &made_for.cluster, store.identity(), !records.is_empty());
    let objects = claimed.await.map_err(owner)?;
    objects.sweep().await.map_err(|error| owner(error.into()))?;
    let keys = KeyKeeper::open_accepting(
        Arc::clone(&store),
        objects.clone(),
        Arc::clone(&seals),
        config.key_rotation,
        world.clock(),
        config.accept_lost_changes,
    );
    let failed = |error| KeptError::Keys { place: config.objects.clone(), error };
    let keys = Some(Arc::new(keys.await.map_err(failed)?));
    Ok(Kept { store, objects, seals, keys })
}

/// Opens a place of objects.
///
/// # Errors
/// The folder or the variables of the bucket cannot be used.
pub(crate) fn open_objects(place: &ObjectsPlace, world: &World) -> Result<Objects, KeptError> {
    match place {
        ObjectsPlace::Memory => Ok(Objects::in_memory()),
        ObjectsPlace::Folder(path) => Ok(Objects::in_folder(path)?),
        ObjectsPlace::Bucket(url) => {
            let variables: Vec<_> = std::env::vars_os()
                .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()))
                .collect();
            let opened = Objects::in_bucket(url, &variables, world);
            opened.map_err(|problem| KeptError::Bucket { url: url.clone(), problem })
        }
    }
}
