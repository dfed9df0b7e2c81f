//! Ownership, lane director and checkpoints: numbered records, each replaced by one statement.

use std::sync::Arc;

use async_trait::async_trait;
use clarion_proto::ids::{AlertName, Epoch};

use super::{
    Condition, SqlStore,
    database::{Attempts, TRIES},
    engine::{Engine, Statement},
};
use crate::{
    owners::Ownership,
    store::{Checkpoint, ClusterStore, LaneDirector, StoreError, encoded},
};

const REPLACE: &str = "INSERT INTO cluster (key, number, record) SELECT $2, $3, $4 \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND $3 = coalesce((SELECT number FROM cluster WHERE key = $2), 0) + 1 \
     ON CONFLICT (key) DO UPDATE SET number = excluded.number, record = excluded.record \
     WHERE cluster.number = excluded.number - 1 RETURNING number";
const GET: &str = "SELECT number, record FROM cluster WHERE key = $1";
const PUT_CHECKPOINT: &str = "INSERT INTO checkpoint (alert, epoch, number, bytes) \
     SELECT $2, $3, $4, $5 WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND EXISTS (SELECT 1 FROM alert WHERE name = $2 AND active = 1 AND epoch <= $3) \
     AND $4 = coalesce((SELECT number FROM checkpoint WHERE alert = $2), 0) + 1 \
     ON CONFLICT (alert) DO UPDATE SET epoch = excluded.epoch, number = excluded.number, \
     bytes = excluded.bytes WHERE checkpoint.number = excluded.number - 1 RETURNING number";
const GET_CHECKPOINT: &str = "SELECT checkpoint.epoch, number, checkpoint.bytes FROM checkpoint \
     JOIN alert ON name = alert AND active = 1 WHERE alert = $1";
const EPOCH_OF_ACTIVE: &str = "SELECT epoch FROM alert WHERE name = $1 AND active = 1";

/// Key of the ownership.
const OWNERSHIP: &str = "ownership";
/// Key of the lane director.
const LANE_DIRECTOR: &str = "lane_director";

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

    async fn close(&self) {
        // The method of the store itself, which comes before this one.
        Self::close(self).await;
    }

    async fn ownership(&self) -> Result<Option<Arc<Ownership>>, StoreError> {
        let Some((_, record)) = self.cluster_record(OWNERSHIP).await? else { return Ok(None) };
        let ownership = encoded::read_ownership(&record);
        ownership
            .map(|read| Some(Arc::new(read)))
            .map_err(|problem| unreadable(OWNERSHIP, &problem))
    }

    async fn replace_ownership(&self, next: Ownership) -> Result<Arc<Ownership>, StoreError> {
        let record = encoded::ownership(&next);
        self.replace_record(OWNERSHIP, "ownership", next.number, record).await?;
        Ok(Arc::new(next))
    }

    async fn lane_director(&self) -> Result<Option<LaneDirector>, StoreError> {
        let Some((_, record)) = self.cluster_record(LANE_DIRECTOR).await? else { return Ok(None) };
        let director = encoded::read_lane_director(&record);
        director.map(Some).map_err(|problem| unreadable(LANE_DIRECTOR, &problem))
    }

    async fn replace_lane_director(&self, next: LaneDirector) -> Result<(), StoreError> {
        let record = encoded::lane_director(&next);
        self.replace_record(LANE_DIRECTOR, "lane director", next.epoch.0, record).await
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

impl<E: Engine> SqlStore<E> {
    async fn cluster_record(
        &self,
        key: &'static str,
    ) -> Result<Option<(u64, bytes::Bytes)>, StoreError> {
        let rows = self.database.read(Statement::new(GET).text(key)).await?;
        let read = |row: &super::Row| Ok((row.unsigned(0)?, row.bytes(1)?.clone()));
        rows.first().map(|row| self.database.noted(read(row))).transpose()
    }

    async fn replace_record(
        &self,
        key: &'static str,
        name: &str,
        number: u64,
        record: Vec<u8>,
    ) -> Result<(), StoreError> {
        let mut attempts = Attempts::default();
        for _ in 0..TRIES {
            let replace = self.database.fenced(REPLACE).text(key).integer(number);
            let written = self.database.write(replace.bytes(record.clone())).await?;
            if attempts.changed(written) {
                return Ok(());
            }
            self.database.check_chief().await?;
            let stored = self.cluster_record(key).await?;
            if attempts.maybe_done()
                && stored.as_ref().is_some_and(|(at, stored)| *at == number && *stored == record)
            {
                return Ok(());
            }
            let stored = stored.map_or(0, |(number, _)| number);
            if stored.checked_add(1) != Some(number) {
                return Err(StoreError::Conflict(format!("{name} {stored}")));
            }
        }
        Err(attempts.exhausted(&name))
    }
}

fn unreadable(record: &str, problem: &impl ToString) -> StoreError {
    StoreError::Unreadable { record: record.to_owned(), problem: problem.to_string() }
}
