//! Alerts: each operation is one statement. The engine-independent order of the refusals is that of
//! the memory engine.

use std::sync::Arc;

use async_trait::async_trait;
use clarion_proto::{
    app::Identity,
    ids::{AlertName, AppName, Epoch, Position},
};

use super::{
    SqlStore,
    database::{Attempts, TRIES, Written},
    engine::{Engine, Row, Statement},
};
use crate::store::{
    AlertCursor, AlertFilter, AlertRecord, AlertStore, AppRecord, Created, RequestId, StoreError,
    encoded,
    memory::{ALERT_BYTES_MAX, ENDED_ALERTS_KEPT},
};

/// `$11`: maximum number of active alerts; `$12`: number of apps that have to exist.
const CREATE: &str = "INSERT INTO alert (name, request_id, created, external_id, apps, active, \
     ended, epoch, revision, bytes, record, positions) \
     SELECT $2, $3, $4, $5, $6, 1, 0, $7, $8, $9, $10, \
     (SELECT string_agg(CAST(position AS TEXT), ',' ORDER BY log) FROM log_head) \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND (SELECT count(*) FROM alert WHERE active = 1) < $11 \
     AND (SELECT count(*) FROM app \
     WHERE deleted = 0 AND replace($6, ',' || name || ',', '') <> $6) = $12 \
     ON CONFLICT DO NOTHING RETURNING positions";
const COUNT_ACTIVE: &str = "SELECT count(*) FROM alert WHERE active = 1";
/// `$5`: 1 if the alert has ended with this revision, or had before.
const REPLACE: &str = "UPDATE alert SET epoch = $3, revision = $4, \
     active = CASE WHEN $5 = 1 THEN 0 ELSE active END, \
     ended = CASE WHEN $5 = 1 AND active = 1 THEN (SELECT max(ended) + 1 FROM alert) \
     ELSE ended END, bytes = $6, record = $7, positions = $8 \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND name = $2 AND epoch <= $3 AND revision = $4 - 1 RETURNING revision";
/// Removes the alerts that ended first, so that at most `$2` ended ones and `$3` bytes of all are
/// left. The alert that ended last stays, whatever its size.
const FORGET: &str = "DELETE FROM alert WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND active = 0 AND ended < (SELECT max(ended) FROM alert) AND (ended <= \
     coalesce((SELECT ended FROM alert WHERE active = 0 ORDER BY ended DESC LIMIT 1 OFFSET $2), 0) \
     OR name IN (SELECT name FROM (SELECT name, \
     sum(bytes) OVER (ORDER BY active DESC, ended DESC) AS held FROM alert) AS newest \
     WHERE held > $3)) RETURNING revision";
/// Removes the checkpoints of alerts that have ended.
const FORGET_CHECKPOINTS: &str = "DELETE FROM checkpoint \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 AND NOT EXISTS (SELECT 1 FROM alert \
     WHERE alert.name = checkpoint.alert AND alert.active = 1) RETURNING number";
const GET: &str = "SELECT name, record, positions FROM alert WHERE name = $1";
const GET_BY_REQUEST: &str = "SELECT name, record, positions FROM alert WHERE request_id = $1";
const ACTIVE: &str = "SELECT name, record, positions FROM alert WHERE active = 1 ORDER BY name";
/// Alerts created from `$1` on and before `$2`, after the cursor of `$3` and `$4`.
const LIST: &str = "SELECT name, record, positions, created FROM alert \
     WHERE created >= $1 AND created < $2 AND (created < $3 OR (created = $3 AND name < $4)) \
     ORDER BY created DESC, name DESC LIMIT $5";
const LIST_BY_EXTERNAL_ID: &str = "SELECT name, record, positions, created FROM alert \
     WHERE created >= $1 AND created < $2 AND (created < $3 OR (created = $3 AND name < $4)) \
     AND external_id = $6 ORDER BY created DESC, name DESC LIMIT $5";
/// Number of alerts that one statement of a list reads: a record may have megabytes.
const LIST_AT_ONCE: usize = 64;

#[async_trait]
impl<E: Engine> AlertStore for SqlStore<E> {
    async fn create_alert(
        &self,
        alert: AlertRecord,
        active_max: usize,
    ) -> Result<Created<AlertRecord>, StoreError> {
        let alert = AlertRecord { log: self.logs.identity, ..alert };
        let mut attempts = Attempts::default();
        for _ in 0..TRIES {
            let written = self.database.write(self.creation(&alert, active_max)).await?;
            if let Written::Rows(rows) = &written
                && let Some(row) = rows.first()
            {
                let positions = positions(self.database.noted(row.text(0))?);
                let positions = positions.ok_or_else(|| unreadable(&alert.name, "positions"))?;
                self.forget_ended().await;
                return Ok(Created::New(Arc::new(AlertRecord { positions, ..alert })));
            }
            attempts.changed(written);
            self.database.check_chief().await?;
            if let Some(existing) = self.alert_by_request(alert.request_id).await? {
                let ours = attempts.maybe_done() && existing.name == alert.name;
                return Ok(if ours { Created::New(existing) } else { Created::Existing(existing) });
            }
            self.refusal(&alert, active_max).await?;
        }
        Err(attempts.exhausted(&alert.name))
    }

    async fn replace_alert(&self, alert: AlertRecord) -> Result<Arc<AlertRecord>, StoreError> {
        let record = encoded::alert(&alert);
        let mut attempts = Attempts::default();
        for _ in 0..TRIES {
            let replace = self.database.fenced(REPLACE).text(alert.name.id());
            let replace = replace.integer(alert.epoch.0).integer(alert.revision);
            let replace = replace.integer(i64::from(alert.state.is_final()));
            let replace = replace.integer(record.len() as u64).bytes(record.clone());
            let written = self.database.write(replace.text(joined(&alert.positions))).await?;
            if attempts.changed(written) {
                if alert.state.is_final() {
                    self.forget(self.database.fenced(FORGET_CHECKPOINTS)).await;
                }
                self.forget_ended().await;
                return Ok(Arc::new(alert));
            }
            self.database.check_chief().await?;
            let (stored_epoch, stored_revision, stored) = self.row_of(&alert.name).await?;
            if attempts.maybe_done() && stored == record {
                return Ok(Arc::new(alert));
            }
            if stored_epoch > alert.epoch {
                let (alert, epoch) = (alert.name, alert.epoch);
                return Err(StoreError::Superseded { alert, stored: stored_epoch, epoch });
            }
            if stored_revision.checked_add(1) != Some(alert.revision) {
                return Err(StoreError::Conflict(alert.name.to_string()));
            }
        }
        Err(attempts.exhausted(&alert.name))
    }

    async fn alert(&self, name: &AlertName) -> Result<Option<Arc<AlertRecord>>, StoreError> {
        let rows = self.database.read(Statement::new(GET).text(name.id())).await?;
        rows.first().map(|row| self.read_alert(row)).transpose()
    }

    async fn alert_by_request(
        &self,
        request: RequestId,
    ) -> Result<Option<Arc<AlertRecord>>, StoreError> {
        let get = Statement::new(GET_BY_REQUEST).bytes(request.0.as_bytes().to_vec());
        let rows = self.database.read(get).await?;
        rows.first().map(|row| self.read_alert(row)).transpose()
    }

    async fn alerts(
        &self,
        filter: &AlertFilter,
        after: Option<&AlertCursor>,
        limit: usize,
    ) -> Result<Vec<Arc<AlertRecord>>, StoreError> {
        let mut found = Vec::new();
        let mut cursor = after.map_or((u64::MAX, String::new()), |after| {
            (after.created.0, after.name.id().to_owned())
        });
        while found.len() < limit {
            let rows = self.database.read(list(filter, cursor.clone())).await?;
            for row in &rows {
                cursor = self.database.noted(cursor_of(row))?;
                match self.read_alert(row) {
                    Ok(alert) if filter.matches(&alert) => found.push(alert),
                    Ok(_) => {}
                    Err(error) => skipped(&error),
                }
                if found.len() == limit {
                    break;
                }
            }
            if rows.len() < LIST_AT_ONCE {
                break;
            }
        }
        Ok(found)
    }

    async fn active_alerts(&self) -> Result<Vec<Arc<AlertRecord>>, StoreError> {
        let rows = self.database.read(Statement::new(ACTIVE)).await?;
        let mut active = Vec::with_capacity(rows.len());
        for row in &rows {
            match self.read_alert(row) {
                Ok(alert) => active.push(alert),
                Err(error) => skipped(&error),
            }
        }
        Ok(active)
    }

    async fn create_app(&self, app: AppRecord) -> Result<Created<AppRecord>, StoreError> {
        let name = app.app.name.clone();
        self.apps.begin(&name);
        let created = self.create_app_row(app).await;
        self.written(&name, &created);
        created
    }

    async fn replace_app(&self, app: AppRecord) -> Result<Arc<AppRecord>, StoreError> {
        let name = app.app.name.clone();
        self.apps.begin(&name);
        let replaced = self.replace_app_row(app).await;
        self.written(&name, &replaced);
        replaced
    }

    async fn delete_app(&self, name: &AppName) -> Result<(), StoreError> {
        self.apps.begin(name);
        let deleted = self.delete_app_row(name).await;
        self.written(name, &deleted);
        deleted
    }

    async fn deleted_identity(&self, name: &AppName) -> Result<Option<Identity>, StoreError> {
        self.deleted_app_identity(name).await
    }

    async fn deleted_apps(&self) -> Result<Vec<(AppName, Identity)>, StoreError> {
        self.deleted_app_rows().await
    }

    async fn app(&self, name: &AppName) -> Result<Option<Arc<AppRecord>>, StoreError> {
        self.known_app(name).await
    }

    async fn apps(
        &self,
        after: Option<&AppName>,
        limit: usize,
    ) -> Result<Vec<Arc<AppRecord>>, StoreError> {
        self.app_rows(after, limit).await
    }
}

impl<E: Engine> SqlStore<E> {
    fn creation(&self, alert: &AlertRecord, active_max: usize) -> Statement {
        let record = encoded::alert(alert);
        let (apps, count) = joined_apps(&alert.apps);
        let create = self.database.fenced(CREATE).text(alert.name.id());
        let create = create.bytes(alert.request_id.0.as_bytes().to_vec()).integer(alert.created.0);
        let create = create.bytes(alert.submitted.external_id.clone().into_bytes());
        let create = create.text(apps).integer(alert.epoch.0).integer(alert.revision);
        let create = create.integer(record.len() as u64).bytes(record);
        create.integer(active_max as u64).integer(count as u64).serializable()
    }

    /// Why an alert was not created.
    async fn refusal(&self, alert: &AlertRecord, active_max: usize) -> Result<(), StoreError> {
        if self.alert(&alert.name).await?.is_some() {
            return Err(StoreError::Conflict(alert.name.to_string()));
        }
        let rows = self.database.read(Statement::new(COUNT_ACTIVE)).await?;
        let active = self.database.noted(rows.first().map_or(Ok(0), |row| row.unsigned(0)))?;
        let active = usize::try_from(active).unwrap_or(usize::MAX);
        if active >= active_max {
            return Err(StoreError::TooManyActive { active, limit: active_max });
        }
        for app in &alert.apps {
            if self.app_row(app).await?.is_none() {
                return Err(StoreError::Missing(app.to_string()));
            }
        }
        Ok(())
    }

    /// Epoch, revision and record of an alert as they are stored.
    async fn row_of(&self, name: &AlertName) -> Result<(Epoch, u64, bytes::Bytes), StoreError> {
        let get = "SELECT epoch, revision, record FROM alert WHERE name = $1";
        let rows = self.database.read(Statement::new(get).text(name.id())).await?;
        let row = rows.first().ok_or_else(|| StoreError::Missing(name.to_string()))?;
        let read = || Ok((Epoch(row.unsigned(0)?), row.unsigned(1)?, row.bytes(2)?.clone()));
        self.database.noted(read())
    }

    /// Reads name, record and positions of a row.
    fn read_alert(&self, row: &Row) -> Result<Arc<AlertRecord>, StoreError> {
        let name = self.database.noted(row.text(0))?;
        let record = encoded::read_alert(self.database.noted(row.bytes(1))?);
        let record = record.map_err(|problem| unreadable_of(name, problem.to_string()))?;
        let positions = positions(self.database.noted(row.text(2))?);
        let positions =
            positions.ok_or_else(|| unreadable_of(name, "positions are damaged".to_owned()))?;
        Ok(Arc::new(AlertRecord { positions, ..record }))
    }

    async fn forget_ended(&self) {
        let forget = self.database.fenced(FORGET).integer(ENDED_ALERTS_KEPT as u64);
        self.forget(forget.integer(ALERT_BYTES_MAX as u64)).await;
    }

    /// Removes what is not needed any more. The write before it is committed, so a failure is
    /// nobody's error (the condition tells it): the next write removes the rest.
    pub(super) async fn forget(&self, statement: Statement) {
        drop(self.database.write(statement).await);
    }

    /// Ends a write of an app. One whose outcome is unknown may still be committed: it never ends,
    /// and the app is read from the database from then on.
    fn written<T>(&self, name: &AppName, result: &Result<T, StoreError>) {
        if !result.as_ref().is_err_and(StoreError::may_pass) {
            self.apps.end(name);
        }
    }
}

fn list(filter: &AlertFilter, (created, name): (u64, String)) -> Statement {
    let text = match filter.external_id {
        Some(_) => LIST_BY_EXTERNAL_ID,
        None => LIST,
    };
    let list = Statement::new(text).integer(filter.created_from.map_or(0, |from| from.0));
    let list = list.integer(filter.created_before.map_or(u64::MAX, |before| before.0));
    let list = list.integer(created).text(name).integer(LIST_AT_ONCE as u64);
    match &filter.external_id {
        Some(id) => list.bytes(id.clone().into_bytes()),
        None => list,
    }
}

fn cursor_of(row: &Row) -> Result<(u64, String), super::EngineError> {
    Ok((row.unsigned(3)?, row.text(0)?.to_owned()))
}

/// Positions with commas between them.
/// The apps of an alert as its column has them, each between commas, and their number.
pub(super) fn joined_apps(apps: &[AppName]) -> (String, usize) {
    let mut apps: Vec<&str> = apps.iter().map(AppName::id).collect();
    apps.sort_unstable();
    apps.dedup();
    (apps.iter().map(|app| format!(",{app},")).collect(), apps.len())
}

pub(super) fn joined(positions: &[Position]) -> String {
    positions.iter().map(Position::to_string).collect::<Vec<_>>().join(",")
}

fn positions(joined: &str) -> Option<Vec<Position>> {
    if joined.is_empty() {
        return Some(Vec::new());
    }
    joined.split(',').map(|position| position.parse().ok().map(Position)).collect()
}

fn unreadable(name: &AlertName, what: &str) -> StoreError {
    unreadable_of(name.id(), format!("{what} are damaged"))
}

fn unreadable_of(name: &str, problem: String) -> StoreError {
    StoreError::Unreadable { record: format!("alerts/{name}"), problem }
}

fn skipped(error: &StoreError) {
    tracing::error!(%error, "record left out of a list");
}
