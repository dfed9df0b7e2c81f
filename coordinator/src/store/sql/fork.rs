//! Whether the database still has what it acknowledged: a standby that is promoted without the
//! newest commits has not, and goes on at positions that were given out.
//!
//! A flush finds that out for its own logs ([`Logs::appended`]). All other logs are compared once a
//! second, so that a process without appends does not serve changes that the database has lost.

use std::{sync::Arc, time::Duration};

use clarion_proto::ids::Position;
use tokio::time::sleep;

use super::{
    database::Database,
    engine::{Engine, EngineError, Statement},
    logs::Logs,
};
use crate::store::StoreError;

/// Pause between two comparisons.
const EVERY: Duration = Duration::from_secs(1);

/// Compares the heads until the store can be used no more.
pub(super) async fn watch<E: Engine>(database: Arc<Database<E>>, logs: Arc<Logs>) {
    while database.usable().is_ok() {
        sleep(EVERY).await;
        // The condition of the database has the error.
        drop(compare(&database, &logs).await);
    }
}

/// Compares the heads of the database with those that this process knows.
///
/// # Errors
/// [`StoreError::Broken`]: the database has lost an acknowledged batch. The store is stopped.
pub(super) async fn compare<E: Engine>(
    database: &Database<E>,
    logs: &Logs,
) -> Result<(), StoreError> {
    // First what is known: the database may be ahead of it by a flush that is not answered yet.
    let known = logs.links();
    let query = Statement::new("SELECT position, chain FROM log_head ORDER BY log");
    let rows = database.read(query).await?;
    let stored = rows.iter().map(|row| Ok((Position(row.unsigned(0)?), row.hash(1)?)));
    let stored = database.noted(stored.collect::<Result<Vec<_>, EngineError>>())?;
    let lost = known.iter().zip(&stored).find(|(known, (position, chain))| {
        *position < known.position || (*position == known.position && *chain != known.chain)
    });
    let Some((known, (stored, _))) = lost else { return Ok(()) };
    let error = StoreError::Broken(format!(
        "log {} ends at position {stored}, but position {} was acknowledged, with its chain: the \
         database lost acknowledged changes, as after a failover to a standby that lags. Restore \
         the database to a state that has them; if they are gone for good, start once with \
         --accept-lost-changes",
        known.log, known.position
    ));
    database.stop(error.clone());
    Err(error)
}
