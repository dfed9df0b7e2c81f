//! Numbered records and checkpoints, each replaced by one statement.

use std::sync::Arc;

use async_trait::async_trait;
use clarion_proto::ids::{AlertName, Epoch};

use super::{
    Condition, SqlStore,
    database::{Attempts, TRIES},
    engine::{Engine, EngineError, Row, Statement},
};
use crate::store::{Checkpoint, ClusterStore, Numbered, Restore, StoreError};

const REPLACE: &str = "INSERT INTO cluster (key, number, record) SELECT $2, $3, $4 \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND $3 = coalesce((SELECT number FROM cluster WHERE key = $2), 0) + 1 \
     ON CONFLICT (key) DO UPDATE SET number = excluded.number, record = excluded.record \
     WHERE cluster.number = excluded.number - 1 RETURNING number";
const GET: &str = "SELECT key, number, record FROM cluster WHERE key = $1";
const GET_ALL: &str =
    "SELECT key, number, record FROM cluster WHERE key >= $1 AND key < $2 ORDER BY key";
const DELETE: &str = "DELETE FROM cluster WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND key = $2 AND number = $3 RETURNING number";
const PUT_CHECKPOINT: &str = "INSERT INTO checkpoint (alert, epoch, number, bytes) \
     SELECT $2, $3, $4, $5 WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND EXISTS (SELECT 1 FROM alert WHERE name = $2 AND active = 1 AND epoch <= $3) \
     AND $4 = coalesce((SELECT number FROM checkpoint WHERE alert = $2), 0) + 1 \
     ON CONFLICT (alert) DO UPDATE SET epoch = excluded.epoch, number = excluded.number, \
     bytes = excluded.bytes WHERE checkpoint.number = excluded.number - 1 RETURNING number";
const GET_CHECKPOINT: &str = "SELECT checkpoint.epoch, number, checkpoint.bytes FROM checkpoint \
     JOIN alert ON name = alert AND active = 1 WHERE alert = $1";
const EPOCH_OF_ACTIVE: &str = "SELECT epoch FROM alert WHERE name = $1 AND active = 1";

#[async_trait]
impl<E: Engine> ClusterStore for SqlStore<E> {
    fn fit(&self) -> Result<(), StoreError> {
        let condition = self.database.condition();
        match &*condition.borrow() {
            Condition::Up => self.database.engine().fit().map_err(StoreError::Away),
            Condition::Away(reason) => Err(StoreError::Away(reason.clone())),
            Condition::Stopped(error) => Err(error.clone()),
        }
    }

    fn restoring(&self) -> Option<&dyn Restore> {
        Some(self)
    }

    async fn close(&self) {
        // The method of the store itself, which comes before this one.
        Self::close(self).await;
    }

    async fn numbered(&self, key: &str) -> Result<Option<Numbered>, StoreError> {
        let rows = self.database.read(Statement::new(GET).text(key)).await?;
        rows.first().map(|row| self.database.noted(read(row))).transpose()
    }

    async fn all_numbered(&self, prefix: &str) -> Result<Vec<Numbered>, StoreError> {
        // Keys are ASCII, so this is behind every key with the prefix.
        let end = format!("{prefix}\u{7f}");
        let rows = self.database.read(Statement::new(GET_ALL).text(prefix).text(end)).await?;
        self.database.noted(rows.iter().map(read).collect())
    }

    async fn replace_numbered(&self, next: Numbered) -> Result<(), StoreError> {
        let mut attempts = Attempts::default();
        for _ in 0..TRIES {
            let replace = self.database.fenced(REPLACE).text(&*next.key).integer(next.number);
            let written = self.database.write(replace.bytes(next.bytes.clone())).await?;
            if attempts.changed(written) {
                return Ok(());
            }
            self.database.check_chief().await?;
            let stored = self.numbered(&next.key).await?;
            if attempts.maybe_done() && stored.as_ref() == Some(&next) {
                return Ok(());
            }
            let stored = stored.map_or(0, |stored| stored.number);
            if stored.checked_add(1) != Some(next.number) {
                return Err(StoreError::Conflict(format!("{} {stored}", next.key)));
            }
        }
        Err(attempts.exhausted(&next.key))
    }

    async fn delete_numbered(&self, key: &str, number: u64) -> Result<(), StoreError> {
        let mut attempts = Attempts::default();
        for _ in 0..TRIES {
            let delete = self.database.fenced(DELETE).text(key).integer(number);
            let written = self.database.write(delete).await?;
            if attempts.changed(written) {
                return Ok(());
            }
            self.database.check_chief().await?;
            match self.numbered(key).await? {
                None => return Ok(()),
                Some(stored) if stored.number != number => {
                    return Err(StoreError::Conflict(format!("{key} {}", stored.number)));
                }
                Some(_) => {}
            }
        }
        Err(attempts.exhausted(&key))
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        self.database.scrub().await
    }

    async fn checkpoint(&self, alert: &AlertName) -> Result<Option<Arc<Checkpoint>>, StoreError> {
        let rows = self.database.read(Statement::new(GET_CHECKPOINT).text(alert.id())).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Arc::new(Checkpoint {
            alert: alert.clone(),
            epoch: Epoch(self.database.noted(row.unsigned(0))?),
            number: self.database.noted(row.unsigned(1))?,
            bytes: self.database.noted(row.bytes(2))?.clone(),
        })))
    }

    async fn put_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let Checkpoint { alert, epoch, number, bytes } = &checkpoint;
        let mut attempts = Attempts::default();
        for _ in 0..TRIES {
            let put = self.database.fenced(PUT_CHECKPOINT).text(alert.id()).integer(epoch.0);
            let put = put.integer(*number).bytes(bytes.clone());
            let written = self.database.write(put).await?;
            if attempts.changed(written) {
                return Ok(());
            }
            self.database.check_chief().await?;
            let active = Statement::new(EPOCH_OF_ACTIVE).text(alert.id());
            let rows = self.database.read(active).await?;
            let Some(row) = rows.first() else {
                return Err(StoreError::Missing(format!("active alert {alert}")));
            };
            let stored = Epoch(self.database.noted(row.unsigned(0))?);
            if stored > *epoch {
                let (alert, epoch) = (alert.clone(), *epoch);
                return Err(StoreError::Superseded { alert, stored, epoch });
            }
            let stored = self.checkpoint(alert).await?;
            if attempts.maybe_done() && stored.as_deref() == Some(&checkpoint) {
                return Ok(());
            }
            let before = stored.map_or(0, |stored| stored.number);
            if before.checked_add(1) != Some(*number) {
                return Err(StoreError::Conflict(format!("checkpoint {before} of {alert}")));
            }
        }
        Err(attempts.exhausted(alert))
    }
}

fn read(row: &Row) -> Result<Numbered, EngineError> {
    Ok(Numbered::new(row.text(0)?, row.unsigned(1)?, row.bytes(2)?.clone()))
}
