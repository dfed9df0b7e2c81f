//! Opening of a store: its tables, what it was made for, and the heads of its logs.

use clarion_proto::ids::{LogIdentity, Position, UnixMillis};
use clarion_runtime::world::World;

use super::{
    database::Database,
    engine::{Engine, EngineError, Row, Statement},
    logs::Head,
    schema,
};

/// What a store is made for, fixed at its creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFor {
    /// Name of the cluster.
    pub cluster: String,
    /// Number of partitions.
    pub partitions: u16,
    /// Number of logs.
    pub logs: u16,
    /// Fingerprint of the key that device identifiers are derived with; it must not tell the key.
    /// `None`: not compared.
    pub device_key: Option<String>,
}

/// Why a store cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The database cannot be reached, or is not one of this program's.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A later version has changed the tables.
    #[error(
        "the store has schema version {stored}, and this program knows versions up to {known}: \
         start the newer version of the program again, or use another store"
    )]
    Newer {
        /// Version of the store.
        stored: u64,
        /// Version of this program.
        known: u64,
    },
    /// The store was made for something else.
    #[error(
        "{what}: the store was made for {stored}; got {given}. Configure the store's value, or use \
         another store"
    )]
    MadeForOther {
        /// Setting that differs.
        what: &'static str,
        /// Value that the store was made for.
        stored: String,
        /// Value of this process.
        given: String,
    },
}

/// Opens the database: creates or checks its tables, takes the role of chief, and reads the heads.
pub(super) async fn open<E: Engine>(
    engine: E,
    made_for: &MadeFor,
    world: &World,
) -> Result<(Database<E>, Vec<Head>), OpenError> {
    engine.migrate(vec![Statement::new(schema::META)]).await?;
    let stored = match meta(&engine, "schema_version").await? {
        Some(version) => Some(version),
        None => {
            engine.migrate(creation(made_for, world.id())).await?;
            meta(&engine, "schema_version").await?
        }
    };
    let version = stored.as_deref().and_then(|version| std::str::from_utf8(version).ok());
    let version = version.and_then(|version| version.parse().ok());
    let version: u64 = version.ok_or_else(|| unreadable("schema_version"))?;
    if version > schema::VERSION {
        return Err(OpenError::Newer { stored: version, known: schema::VERSION });
    }
    for (what, given) in settings(made_for) {
        let stored =
            meta(&engine, what).await?.map(|stored| String::from_utf8_lossy(&stored).into_owned());
        match stored {
            Some(stored) if stored != given => {
                return Err(OpenError::MadeForOther { what, stored, given });
            }
            Some(_) => {}
            None => engine.migrate(vec![entry(what, given.into_bytes())]).await?,
        }
    }
    let identity = meta(&engine, "identity").await?;
    let identity = identity.and_then(|identity| LogIdentity::from_wire(&identity).ok());
    let identity = identity.ok_or_else(|| unreadable("identity"))?;
    let epoch = engine.lead(world.id()).await?;
    if version < schema::VERSION {
        // Only now: no process of the former version writes any more.
        engine.migrate(vec![schema::raise()]).await?;
    }
    let database = Database::new(engine, epoch, identity, world.clock());
    let heads = heads(database.engine(), made_for.logs).await?;
    Ok((database, heads))
}

fn creation(made_for: &MadeFor, identity: [u8; 16]) -> Vec<Statement> {
    let mut statements: Vec<_> = schema::TABLES.into_iter().map(Statement::new).collect();
    statements.push(schema::no_chief());
    statements.extend((0..made_for.logs).map(|log| schema::empty_log(log, identity)));
    statements.push(entry("identity", identity.to_vec()));
    for (what, value) in settings(made_for) {
        statements.push(entry(what, value.into_bytes()));
    }
    statements.push(entry("schema_version", schema::VERSION.to_string().into_bytes()));
    statements
}

/// Settings that a store keeps and compares, by name.
fn settings(made_for: &MadeFor) -> Vec<(&'static str, String)> {
    let MadeFor { cluster, partitions, logs, device_key } = made_for;
    let mut settings = vec![
        ("cluster", cluster.clone()),
        ("partitions", partitions.to_string()),
        ("logs", logs.to_string()),
    ];
    settings.extend(device_key.clone().map(|key| ("device_key", key)));
    settings
}

fn entry(key: &'static str, value: Vec<u8>) -> Statement {
    Statement::new("INSERT INTO meta (key, value) VALUES ($1, $2)").text(key).bytes(value)
}

async fn meta<E: Engine>(
    engine: &E,
    key: &'static str,
) -> Result<Option<bytes::Bytes>, EngineError> {
    let query = Statement::new("SELECT value FROM meta WHERE key = $1").text(key);
    let rows = engine.query(query).await?;
    rows.first().map(|row| row.bytes(0).cloned()).transpose()
}

async fn heads<E: Engine>(engine: &E, logs: u16) -> Result<Vec<Head>, OpenError> {
    let query = Statement::new(
        "SELECT position, appended, records, bytes, chain, first, records_trimmed, trimmed_chain \
         FROM log_head ORDER BY log",
    );
    let rows = engine.query(query).await?;
    if rows.len() != usize::from(logs) {
        return Err(unreadable("log_head").into());
    }
    Ok(rows.iter().map(head).collect::<Result<_, _>>()?)
}

fn head(row: &Row) -> Result<Head, EngineError> {
    Ok(Head {
        position: Position(row.unsigned(0)?),
        appended: UnixMillis(row.unsigned(1)?),
        records: row.unsigned(2)?,
        bytes: row.unsigned(3)?,
        chain: row.hash(4)?,
        first: Position(row.unsigned(5)?),
        records_trimmed: row.unsigned(6)?,
        trimmed_chain: row.hash(7)?,
    })
}

fn unreadable(what: &str) -> EngineError {
    EngineError::Broken(format!(
        "{what} of the store is missing or damaged: restore the database from a backup"
    ))
}
