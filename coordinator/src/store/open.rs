//! From the configuration to a store.

use std::{path::PathBuf, sync::Arc};

use clarion_runtime::world::World;
use secrecy::SecretString;

use super::{
    Store,
    memory::MemoryStore,
    postgres::{Address, PostgresEngine},
    sql::{Engine, MadeFor, OpenError, SqlStore},
    sqlite::SqliteEngine,
};
use crate::seal::Seals;

/// Bytes of the newest batches that a database's store keeps in memory: what nodes that follow read
/// within some seconds at a full load of changes.
const TAIL_BYTES_MAX: usize = 64 << 20;

/// Place and limit of a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Engine and address of the store.
    pub place: StorePlace,
    /// Limit of the logs, bytes. Near the limit, registrations and places are refused; the last
    /// 64 MiB are reserved for removals, mutes and dead tokens. A million APNs devices take some
    /// 110 MB of records; the memory engine takes 12 MB more to recognize the devices.
    pub bytes_max: u64,
}

/// Engine and address of a store.
#[derive(Debug, Clone)]
pub enum StorePlace {
    /// In the memory of the process: lost when the process ends.
    Memory,
    /// In a SQLite file.
    Sqlite(PathBuf),
    /// In a PostgreSQL database.
    Postgres {
        /// Servers, user and database.
        address: Address,
        /// Password of the user; `None`: the server asks for none.
        password: Option<SecretString>,
    },
}

/// Opens a store, and makes it if it does not exist. From then on no other process writes to it.
/// `seals`: keys of the batches of a database, which must be there when the first batch is appended
/// or read.
///
/// # Errors
/// The store cannot be reached or used, or was made for another cluster.
pub async fn open(
    config: &StoreConfig,
    made_for: &MadeFor,
    seals: &Arc<Seals>,
    world: &World,
) -> Result<Arc<dyn Store>, OpenError> {
    let bytes_max = config.bytes_max;
    match &config.place {
        StorePlace::Memory => Ok(Arc::new(MemoryStore::new(made_for.logs, bytes_max, world))),
        StorePlace::Sqlite(path) => {
            let engine = SqliteEngine::open(path, world.clock()).await?;
            over(engine, made_for, bytes_max, seals, world).await
        }
        StorePlace::Postgres { address, password } => {
            let engine = PostgresEngine::open(address.clone(), password.clone(), world).await?;
            over(engine, made_for, bytes_max, seals, world).await
        }
    }
}

async fn over<E: Engine>(
    engine: E,
    made_for: &MadeFor,
    bytes_max: u64,
    seals: &Arc<Seals>,
    world: &World,
) -> Result<Arc<dyn Store>, OpenError> {
    let seals = Arc::clone(seals);
    let store = SqlStore::open(engine, made_for, bytes_max, TAIL_BYTES_MAX, seals, world).await?;
    Ok(Arc::new(store))
}
