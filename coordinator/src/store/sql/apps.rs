//! Apps: each operation is one statement. A deleted app keeps its row, with its identity and
//! without its record.

use std::sync::Arc;

use clarion_proto::{
    app::Identity,
    ids::{AlertName, AppName},
};

use super::{
    SqlStore,
    database::{Attempts, TRIES},
    engine::{Engine, Row, Statement},
};
use crate::store::{AppRecord, Created, StoreError, encoded, memory::APPS_MAX};

mod known;

pub(super) use known::KnownApps;

const CREATE: &str = "INSERT INTO app (name, revision, identity, deleted, record) \
     SELECT $2, $3, $4, 0, $5 WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND (SELECT count(*) FROM app WHERE deleted = 0) < $6 \
     ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, \
     identity = excluded.identity, deleted = 0, record = excluded.record \
     WHERE app.deleted > 0 RETURNING revision";
const COUNT: &str = "SELECT count(*) FROM app WHERE deleted = 0";
const REPLACE: &str = "UPDATE app SET revision = $3, identity = $4, record = $5 \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND name = $2 AND deleted = 0 AND revision = $3 - 1 RETURNING revision";
const DELETE: &str = "UPDATE app SET deleted = (SELECT max(deleted) + 1 FROM app), record = $3 \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 AND name = $2 AND deleted = 0 \
     AND NOT EXISTS (SELECT 1 FROM alert \
     WHERE active = 1 AND replace(apps, ',' || $2 || ',', '') <> apps) RETURNING revision";
const USER: &str = "SELECT name FROM alert \
     WHERE active = 1 AND replace(apps, ',' || $1 || ',', '') <> apps ORDER BY name LIMIT 1";
/// Removes the rows of deleted apps except the newest `$2`.
const FORGET: &str = "DELETE FROM app WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND deleted > 0 AND deleted <= (SELECT deleted FROM app WHERE deleted > 0 \
     ORDER BY deleted DESC LIMIT 1 OFFSET $2) RETURNING revision";
const IDENTITY: &str = "SELECT identity FROM app WHERE name = $1 AND deleted > 0";
const DELETED: &str = "SELECT name, identity FROM app WHERE deleted > 0 ORDER BY deleted";
const GET: &str = "SELECT name, record FROM app WHERE name = $1 AND deleted = 0";
const LIST: &str = "SELECT name, record FROM app WHERE deleted = 0 AND name > $1 \
     ORDER BY name LIMIT $2";

impl<E: Engine> SqlStore<E> {
    pub(super) async fn create_app_row(
        &self,
        app: AppRecord,
    ) -> Result<Created<AppRecord>, StoreError> {
        let record = encoded::app(&app);
        let mut attempts = Attempts::default();
        for _ in 0..TRIES {
            let create = self.database.fenced(CREATE).text(app.app.name.id()).integer(app.revision);
            let create = create.integer(number(app.app.identity)).bytes(record.clone());
            let written =
                self.database.write(create.integer(APPS_MAX as u64).serializable()).await?;
            if attempts.changed(written) {
                return Ok(Created::New(Arc::new(app)));
            }
            self.database.check_chief().await?;
            if let Some(existing) = self.app_row(&app.app.name).await? {
                let ours = attempts.maybe_done() && *existing == app;
                return Ok(if ours { Created::New(existing) } else { Created::Existing(existing) });
            }
            let rows = self.database.read(Statement::new(COUNT)).await?;
            let count = rows.first().map_or(Ok(0), |row| row.unsigned(0));
            if self.database.noted(count)? >= APPS_MAX as u64 {
                return Err(StoreError::TooManyApps { limit: APPS_MAX });
            }
        }
        Err(attempts.exhausted(&app.app.name))
    }

    pub(super) async fn replace_app_row(
        &self,
        app: AppRecord,
    ) -> Result<Arc<AppRecord>, StoreError> {
        let record = encoded::app(&app);
        let mut attempts = Attempts::default();
        for _ in 0..TRIES {
            let replace = self.database.fenced(REPLACE).text(app.app.name.id());
            let replace = replace.integer(app.revision).integer(number(app.app.identity));
            let written = self.database.write(replace.bytes(record.clone())).await?;
            if attempts.changed(written) {
                return Ok(Arc::new(app));
            }
            self.database.check_chief().await?;
            let stored = self.app_row(&app.app.name).await?;
            let stored = stored.ok_or_else(|| StoreError::Missing(app.app.name.to_string()))?;
            if attempts.maybe_done() && *stored == app {
                return Ok(stored);
            }
            if stored.revision.checked_add(1) != Some(app.revision) {
                return Err(StoreError::Conflict(app.app.name.to_string()));
            }
        }
        Err(attempts.exhausted(&app.app.name))
    }

    pub(super) async fn delete_app_row(&self, name: &AppName) -> Result<(), StoreError> {
        let mut attempts = Attempts::default();
        for _ in 0..TRIES {
            let delete = self.database.fenced(DELETE).text(name.id()).bytes(Vec::new());
            let written = self.database.write(delete.serializable()).await?;
            if attempts.changed(written) {
                self.forget_deleted().await;
                return Ok(());
            }
            self.database.check_chief().await?;
            if self.app_row(name).await?.is_none() {
                return match attempts.maybe_done() {
                    true => Ok(()),
                    false => Err(StoreError::Missing(name.to_string())),
                };
            }
            let user = self.database.read(Statement::new(USER).text(name.id())).await?;
            if let Some(row) = user.first() {
                let alert = self.database.noted(row.text(0))?;
                let alert = AlertName::from_id(alert).map_err(|error| StoreError::Unreadable {
                    record: "name of an alert".to_owned(),
                    problem: error.to_string(),
                })?;
                return Err(StoreError::InUse { app: name.clone(), alert });
            }
        }
        Err(attempts.exhausted(name))
    }

    pub(super) async fn deleted_app_identity(
        &self,
        name: &AppName,
    ) -> Result<Option<Identity>, StoreError> {
        let rows = self.database.read(Statement::new(IDENTITY).text(name.id())).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        identity(name, self.database.noted(row.integer(0))?).map(Some)
    }

    pub(super) async fn deleted_app_rows(&self) -> Result<Vec<(AppName, Identity)>, StoreError> {
        let rows = self.database.read(Statement::new(DELETED)).await?;
        let deleted = rows.iter().map(|row| {
            let name = self.database.noted(row.text(0))?;
            let name = AppName::from_id(name).map_err(|error| StoreError::Unreadable {
                record: "name of a deleted app".to_owned(),
                problem: error.to_string(),
            })?;
            let identity = identity(&name, self.database.noted(row.integer(1))?)?;
            Ok((name, identity))
        });
        deleted.collect()
    }

    pub(super) async fn app_row(
        &self,
        name: &AppName,
    ) -> Result<Option<Arc<AppRecord>>, StoreError> {
        let rows = self.database.read(Statement::new(GET).text(name.id())).await?;
        rows.first().map(|row| self.read_app(row)).transpose()
    }

    /// The app of a name, from memory if it is there.
    pub(super) async fn known_app(
        &self,
        name: &AppName,
    ) -> Result<Option<Arc<AppRecord>>, StoreError> {
        self.database.usable()?;
        if let Some(app) = self.apps.get(name) {
            return Ok(Some(app));
        }
        let changes = self.apps.changes();
        let app = self.app_row(name).await?;
        app.iter().for_each(|app| self.apps.keep(app, changes));
        Ok(app)
    }

    pub(super) async fn app_rows(
        &self,
        after: Option<&AppName>,
        limit: usize,
    ) -> Result<Vec<Arc<AppRecord>>, StoreError> {
        let list = Statement::new(LIST).text(after.map_or("", AppName::id)).integer(limit as u64);
        let rows = self.database.read(list).await?;
        rows.iter().map(|row| self.read_app(row)).collect()
    }

    fn read_app(&self, row: &Row) -> Result<Arc<AppRecord>, StoreError> {
        let name = self.database.noted(row.text(0))?;
        let record = encoded::read_app(self.database.noted(row.bytes(1))?);
        record.map(Arc::new).map_err(|problem| StoreError::Unreadable {
            record: format!("apps/{name}"),
            problem: problem.to_string(),
        })
    }

    /// Forgets the identities of the apps that were deleted first.
    async fn forget_deleted(&self) {
        let forget = self.database.fenced(FORGET).integer(APPS_MAX as u64);
        self.forget(forget).await;
    }
}

/// The identity of a deleted app whose column has a number.
fn identity(app: &AppName, number: i64) -> Result<Identity, StoreError> {
    let of_number = |identity: &Identity| self::number(*identity) == number;
    let known = [Identity::Device, Identity::Token].into_iter().find(of_number);
    known.ok_or_else(|| StoreError::Unreadable {
        record: format!("identity of the deleted {app}"),
        problem: format!("it has the value {number}, which this version does not know"),
    })
}

/// Number of an identity in its column.
pub(super) fn number(identity: Identity) -> i64 {
    match identity {
        Identity::Device => 1,
        Identity::Token => 2,
    }
}
