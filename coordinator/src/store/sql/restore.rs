//! A backup into a new database.

use async_trait::async_trait;
use clarion_proto::{
    app::Identity,
    ids::{AppName, LogId, Position},
};

use super::{
    SqlStore, alerts, apps,
    database::{TRIES, Written},
    engine::{Engine, Statement},
};
use crate::store::{AlertRecord, Numbered, Restore, StoreError, encoded};

const ALERT: &str = "INSERT INTO alert (name, request_id, created, external_id, apps, active, \
     ended, epoch, revision, bytes, record, positions) \
     SELECT $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13 \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 ON CONFLICT DO NOTHING RETURNING name";
const DELETED_APP: &str = "INSERT INTO app (name, revision, identity, deleted, record) \
     SELECT $2, 1, $3, (SELECT coalesce(max(deleted), 0) + 1 FROM app), $4 \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 ON CONFLICT DO NOTHING RETURNING name";
const NUMBERED: &str = "INSERT INTO cluster (key, number, record) SELECT $2, $3, $4 \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 ON CONFLICT DO NOTHING RETURNING key";
const BEGIN: &str = "UPDATE log_head SET position = $3 - 1, first = $3, records = $4, \
     records_trimmed = $4 WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND log = $2 AND position = 0 RETURNING log";

#[async_trait]
impl<E: Engine> Restore for SqlStore<E> {
    async fn restore_alert(&self, alert: AlertRecord) -> Result<(), StoreError> {
        let alert = AlertRecord { log: self.logs.identity, ..alert };
        let record = encoded::alert(&alert);
        let (active, ended) = match alert.ended {
            Some(at) => (0, at.0),
            None => (1, 0),
        };
        let (apps, _) = alerts::joined_apps(&alert.apps);
        let insert = self.database.fenced(ALERT).text(alert.name.id());
        let insert = insert.bytes(alert.request_id.0.as_bytes().to_vec()).integer(alert.created.0);
        let insert = insert.bytes(alert.submitted.external_id.clone().into_bytes()).text(apps);
        let insert = insert.integer(active).integer(ended).integer(alert.epoch.0);
        let insert = insert.integer(alert.revision).integer(record.len() as u64).bytes(record);
        let insert = insert.text(alerts::joined(&alert.positions));
        self.insert(insert, &alert.name).await
    }

    async fn restore_deleted_app(&self, name: &AppName, id: Identity) -> Result<(), StoreError> {
        let insert = self.database.fenced(DELETED_APP).text(name.id());
        let insert = insert.integer(apps::number(id)).bytes(Vec::new());
        self.insert(insert, name).await
    }

    async fn restore_numbered(&self, record: Numbered) -> Result<(), StoreError> {
        let insert = self.database.fenced(NUMBERED).text(&*record.key).integer(record.number);
        self.insert(insert.bytes(record.bytes), &record.key).await
    }

    async fn begin_log(
        &self,
        log: LogId,
        first: Position,
        records_before: u64,
    ) -> Result<(), StoreError> {
        let begin = self.database.fenced(BEGIN).integer(log.0).integer(first.0);
        self.insert(begin.integer(records_before), &format!("log {log}")).await?;
        self.logs.begun(log, first, records_before);
        Ok(())
    }
}

impl<E: Engine> SqlStore<E> {
    /// Runs a statement that changes one row, which nobody else writes.
    async fn insert(
        &self,
        statement: Statement,
        name: &impl std::fmt::Display,
    ) -> Result<(), StoreError> {
        let mut unknown = None;
        for _ in 0..TRIES {
            match self.database.write(statement.clone()).await? {
                Written::Rows(rows) if !rows.is_empty() => return Ok(()),
                Written::Rows(_) => {
                    self.database.check_chief().await?;
                    return match unknown {
                        // An attempt before this one has changed the row.
                        Some(_) => Ok(()),
                        None => Err(StoreError::Conflict(name.to_string())),
                    };
                }
                Written::Unknown(reason) => unknown = Some(reason),
            }
        }
        Err(StoreError::Away(unknown.unwrap_or_default()))
    }
}
