//! The in-memory engine: for one coordinator, for tests and for evaluation. Its content is lost
//! when the process ends.
//!
//! Three numbers bound the memory. The logs hold at most `log_bytes_max`;
//! [`room`](super::room) divides this limit between kinds of records. The newest
//! [`ENDED_ALERTS_KEPT`] ended alerts are kept (an alert of 120 km keeps some 1,300 cells of 40
//! bytes, so all together hold some 50 MB), and fewer if the alerts are large
//! ([`ALERT_BYTES_MAX`]).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use async_trait::async_trait;
use clarion_proto::{
    app::Identity,
    ids::{AlertName, AppName, LogId, LogIdentity, Position},
};
use clarion_runtime::world::{Clock, World};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use tokio::sync::watch;

use self::log::Log;
use super::{
    AlertCursor, AlertFilter, AlertRecord, AlertStore, AppRecord, Batch, ChangeLog, Checkpoint,
    ClusterStore, Created, Numbered, RecordBatch, RequestId, StoreError, Usage, room::Room,
};

mod log;

/// Number of ended alerts kept; older alerts are removed together with their `request_id`.
pub const ENDED_ALERTS_KEPT: usize = 1_000;
/// Bytes of alerts above which ended alerts are removed sooner: one region may have 8 MB.
pub(super) const ALERT_BYTES_MAX: usize = 64 << 20;
/// Maximum number of apps of one cluster.
pub const APPS_MAX: usize = 10_000;

/// Store of apps, alerts and logs in memory.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Clock,
    /// Drawn by this process, because the logs of a former process are lost.
    identity: LogIdentity,
    room: Room,
    logs: Vec<RwLock<Log>>,
    grown: watch::Sender<u64>,
    /// The tables. Lock order: tables before logs.
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    apps: BTreeMap<AppName, Arc<AppRecord>>,
    /// Identities of at most [`APPS_MAX`] deleted apps, in the order of their deletion.
    deleted_apps: VecDeque<(AppName, Identity)>,
    alerts: BTreeMap<AlertName, Arc<AlertRecord>>,
    by_request: BTreeMap<RequestId, AlertName>,
    by_age: BTreeSet<AlertCursor>,
    /// Alerts with an external identifier, by age; no entry is empty.
    by_external_id: BTreeMap<String, BTreeSet<AlertCursor>>,
    /// Names of the alerts that have not ended.
    active: BTreeSet<AlertName>,
    /// Checkpoints of the alerts that have not ended.
    checkpoints: BTreeMap<AlertName, Arc<Checkpoint>>,
    numbered: BTreeMap<String, Numbered>,
    /// Names of the ended alerts, in the order of their end.
    ended: VecDeque<AlertName>,
    /// Bytes of all alerts, as [`bytes_of`] counts them.
    bytes: usize,
}

impl MemoryStore {
    /// An empty store with `logs` logs that together hold at most `log_bytes_max` bytes of records.
    #[must_use]
    pub fn new(logs: u16, log_bytes_max: u64, world: &World) -> Self {
        Self {
            clock: world.clock(),
            identity: LogIdentity(world.id()),
            room: Room::new(log_bytes_max, 0),
            logs: (0..logs).map(|_| RwLock::default()).collect(),
            grown: watch::Sender::new(0),
            tables: Mutex::default(),
        }
    }

    fn heads_now(&self) -> Vec<Position> {
        self.logs.iter().map(|log| log.read().head()).collect()
    }

    fn log(&self, log: LogId) -> Result<&RwLock<Log>, StoreError> {
        self.logs.get(usize::from(log.0)).ok_or_else(|| StoreError::Missing(format!("log {log}")))
    }
}

#[async_trait]
impl ChangeLog for MemoryStore {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn logs(&self) -> u16 {
        u16::try_from(self.logs.len()).expect("made from a u16")
    }

    async fn append_all(
        &self,
        batches: Vec<(LogId, RecordBatch)>,
    ) -> Result<Vec<Position>, StoreError> {
        // Logs are locked in the order of their numbers, so that two calls never deadlock.
        let named: BTreeSet<LogId> = batches.iter().map(|(id, _)| *id).collect();
        let mut logs = BTreeMap::new();
        for id in named {
            logs.insert(id, self.log(id)?.write());
        }
        let growing = batches.iter().any(|(_, batch)| batch.growing() > 0);
        let cost = batches.iter().map(|(_, batch)| log::cost(batch)).sum();
        let mut logs: BTreeMap<LogId, &mut Log> =
            logs.iter_mut().map(|(id, log)| (*id, &mut **log)).collect();
        let batches = match self.room.take(cost, growing) {
            Ok(()) => batches.into_iter().map(|(id, batch)| (id, Some(batch))).collect(),
            // Records that change nothing are dropped; the remaining records may use the reserve.
            Err(_) if !growing => log::reserve(&mut logs, batches, &self.room)?,
            Err(full) => return Err(full),
        };
        let now = self.clock.wall();
        let mut positions = Vec::with_capacity(batches.len());
        for (id, batch) in batches {
            let log = logs.get_mut(&id).expect("locked above");
            positions.push(match batch {
                Some(batch) => log.append(batch, now, &self.room),
                None => log.head(),
            });
        }
        drop(logs);
        self.grown.send_modify(|n| *n += 1);
        Ok(positions)
    }

    fn has_room(&self) -> watch::Receiver<bool> {
        self.room.watch()
    }

    fn usage(&self) -> Usage {
        self.room.usage()
    }

    async fn heads(&self) -> Result<Vec<Position>, StoreError> {
        Ok(self.heads_now())
    }

    async fn read_many(
        &self,
        after: &[(LogId, Position)],
        bytes_max: usize,
    ) -> Result<Vec<(LogId, Vec<Batch>)>, StoreError> {
        let (mut found, mut left) = (Vec::new(), bytes_max);
        for &(id, after) in after {
            if left == 0 {
                break;
            }
            let batches = self.log(id)?.read().after(id, after, left, found.is_empty())?;
            left -= batches.iter().map(|batch| batch.records.len()).sum::<usize>().min(left);
            if !batches.is_empty() {
                found.push((id, batches));
            }
        }
        Ok(found)
    }

    async fn records_until(&self, of: &[(LogId, Position)]) -> Result<Vec<u64>, StoreError> {
        of.iter().map(|&(id, until)| Ok(self.log(id)?.read().records_until(until))).collect()
    }

    async fn trim(&self, log: LogId, before: Position) -> Result<(), StoreError> {
        self.log(log)?.write().trim(before, &self.room);
        Ok(())
    }

    fn grown(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }
}

#[async_trait]
impl AlertStore for MemoryStore {
    async fn create_alert(
        &self,
        alert: AlertRecord,
        active_max: usize,
    ) -> Result<Created<AlertRecord>, StoreError> {
        let mut tables = self.tables.lock();
        if let Some(existing) = tables.request(alert.request_id) {
            return Ok(Created::Existing(existing));
        }
        if tables.alerts.contains_key(&alert.name) {
            return Err(StoreError::Conflict(alert.name.to_string()));
        }
        let active = tables.active.len();
        if active >= active_max {
            return Err(StoreError::TooManyActive { active, limit: active_max });
        }
        // An app may have been deleted since admission; the lock excludes a deletion from here on.
        if let Some(gone) = alert.apps.iter().find(|app| !tables.apps.contains_key(*app)) {
            return Err(StoreError::Missing(gone.to_string()));
        }
        let (log, positions) = (self.identity, self.heads_now());
        let alert = Arc::new(AlertRecord { log, positions, ..alert });
        tables.by_request.insert(alert.request_id, alert.name.clone());
        tables.by_age.insert(cursor(&alert));
        let external_id = &alert.submitted.external_id;
        if !external_id.is_empty() {
            tables.by_external_id.entry(external_id.clone()).or_default().insert(cursor(&alert));
        }
        tables.active.insert(alert.name.clone());
        tables.put(&alert);
        tables.forget_ended();
        Ok(Created::New(alert))
    }

    async fn replace_alert(&self, alert: AlertRecord) -> Result<Arc<AlertRecord>, StoreError> {
        let mut tables = self.tables.lock();
        let name = alert.name.clone();
        let stored =
            tables.alerts.get(&name).ok_or_else(|| StoreError::Missing(name.to_string()))?;
        if stored.epoch > alert.epoch {
            let (stored, epoch) = (stored.epoch, alert.epoch);
            return Err(StoreError::Superseded { alert: name, stored, epoch });
        }
        if stored.revision + 1 != alert.revision {
            return Err(StoreError::Conflict(name.to_string()));
        }
        let alert = Arc::new(alert);
        tables.put(&alert);
        if alert.state.is_final() && tables.active.remove(&name) {
            tables.checkpoints.remove(&name);
            tables.ended.push_back(name);
        }
        tables.forget_ended();
        Ok(alert)
    }

    async fn alert(&self, name: &AlertName) -> Result<Option<Arc<AlertRecord>>, StoreError> {
        Ok(self.tables.lock().alerts.get(name).cloned())
    }

    async fn alert_by_request(
        &self,
        request: RequestId,
    ) -> Result<Option<Arc<AlertRecord>>, StoreError> {
        Ok(self.tables.lock().request(request))
    }

    async fn alerts(
        &self,
        filter: &AlertFilter,
        after: Option<&AlertCursor>,
        limit: usize,
    ) -> Result<Vec<Arc<AlertRecord>>, StoreError> {
        let tables = self.tables.lock();
        let matching = |cursor: &AlertCursor| {
            Some(&tables.alerts[&cursor.name]).filter(|alert| filter.matches(alert)).map(Arc::clone)
        };
        let cursors = match &filter.external_id {
            Some(id) => tables.by_external_id.get(id),
            None => Some(&tables.by_age),
        };
        let older = (Bound::Unbounded, after.map_or(Bound::Unbounded, Bound::Excluded));
        let older = cursors.into_iter().flat_map(|all| all.range::<AlertCursor, _>(older).rev());
        Ok(older.filter_map(matching).take(limit).collect())
    }

    async fn active_alerts(&self) -> Result<Vec<Arc<AlertRecord>>, StoreError> {
        let tables = self.tables.lock();
        Ok(tables.active.iter().map(|name| Arc::clone(&tables.alerts[name])).collect())
    }

    async fn create_app(&self, app: AppRecord) -> Result<Created<AppRecord>, StoreError> {
        let mut tables = self.tables.lock();
        if let Some(existing) = tables.apps.get(&app.app.name) {
            return Ok(Created::Existing(Arc::clone(existing)));
        }
        if tables.apps.len() >= APPS_MAX {
            return Err(StoreError::TooManyApps { limit: APPS_MAX });
        }
        let app = Arc::new(app);
        tables.deleted_apps.retain(|(name, _)| *name != app.app.name);
        tables.apps.insert(app.app.name.clone(), Arc::clone(&app));
        Ok(Created::New(app))
    }

    async fn replace_app(&self, app: AppRecord) -> Result<Arc<AppRecord>, StoreError> {
        let mut tables = self.tables.lock();
        let name = app.app.name.clone();
        let stored = tables.apps.get(&name).ok_or_else(|| StoreError::Missing(name.to_string()))?;
        if stored.revision + 1 != app.revision {
            return Err(StoreError::Conflict(name.to_string()));
        }
        let app = Arc::new(app);
        tables.apps.insert(name, Arc::clone(&app));
        Ok(app)
    }

    async fn delete_app(&self, name: &AppName) -> Result<(), StoreError> {
        let mut tables = self.tables.lock();
        let app = tables.apps.get(name).ok_or_else(|| StoreError::Missing(name.to_string()))?;
        let identity = app.app.identity;
        if let Some(alert) =
            tables.active.iter().find(|alert| tables.alerts[*alert].apps.contains(name))
        {
            return Err(StoreError::InUse { app: name.clone(), alert: alert.clone() });
        }
        tables.apps.remove(name);
        tables.deleted_apps.push_back((name.clone(), identity));
        if tables.deleted_apps.len() > APPS_MAX {
            tables.deleted_apps.pop_front();
        }
        Ok(())
    }

    async fn deleted_identity(&self, name: &AppName) -> Result<Option<Identity>, StoreError> {
        let tables = self.tables.lock();
        let mut deleted = tables.deleted_apps.iter();
        Ok(deleted.find(|(deleted, _)| deleted == name).map(|(_, identity)| *identity))
    }

    async fn deleted_apps(&self) -> Result<Vec<(AppName, Identity)>, StoreError> {
        Ok(self.tables.lock().deleted_apps.iter().cloned().collect())
    }

    async fn app(&self, name: &AppName) -> Result<Option<Arc<AppRecord>>, StoreError> {
        Ok(self.tables.lock().apps.get(name).cloned())
    }

    async fn apps(
        &self,
        after: Option<&AppName>,
        limit: usize,
    ) -> Result<Vec<Arc<AppRecord>>, StoreError> {
        let tables = self.tables.lock();
        let later = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        Ok(tables
            .apps
            .range::<AppName, _>(later)
            .take(limit)
            .map(|(_, app)| Arc::clone(app))
            .collect())
    }
}

#[async_trait]
impl ClusterStore for MemoryStore {
    async fn numbered(&self, key: &str) -> Result<Option<Numbered>, StoreError> {
        Ok(self.tables.lock().numbered.get(key).cloned())
    }

    async fn all_numbered(&self, prefix: &str) -> Result<Vec<Numbered>, StoreError> {
        let tables = self.tables.lock();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let all = tables.numbered.range::<str, _>(from).map(|(_, record)| record.clone());
        Ok(all.take_while(|record| record.key.starts_with(prefix)).collect())
    }

    async fn replace_numbered(&self, next: Numbered) -> Result<(), StoreError> {
        let mut tables = self.tables.lock();
        let stored = tables.numbered.get(&next.key).map_or(0, |stored| stored.number);
        if stored.checked_add(1) != Some(next.number) {
            return Err(StoreError::Conflict(format!("{} {stored}", next.key)));
        }
        tables.numbered.insert(next.key.clone(), next);
        Ok(())
    }

    async fn delete_numbered(&self, key: &str, number: u64) -> Result<(), StoreError> {
        let mut tables = self.tables.lock();
        match tables.numbered.get(key).map(|stored| stored.number) {
            Some(stored) if stored != number => {
                Err(StoreError::Conflict(format!("{key} {stored}")))
            }
            _ => {
                tables.numbered.remove(key);
                Ok(())
            }
        }
    }

    async fn checkpoint(&self, alert: &AlertName) -> Result<Option<Arc<Checkpoint>>, StoreError> {
        Ok(self.tables.lock().checkpoints.get(alert).cloned())
    }

    async fn put_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let mut tables = self.tables.lock();
        let alert = checkpoint.alert.clone();
        if !tables.active.contains(&alert) {
            return Err(StoreError::Missing(format!("active alert {alert}")));
        }
        let (stored, epoch) = (tables.alerts[&alert].epoch, checkpoint.epoch);
        if stored > epoch {
            return Err(StoreError::Superseded { alert, stored, epoch });
        }
        let before = tables.checkpoints.get(&alert).map_or(0, |before| before.number);
        if checkpoint.number != before + 1 {
            return Err(StoreError::Conflict(format!("checkpoint {before} of {alert}")));
        }
        tables.checkpoints.insert(alert, Arc::new(checkpoint));
        Ok(())
    }
}

impl Tables {
    fn request(&self, request: RequestId) -> Option<Arc<AlertRecord>> {
        self.by_request.get(&request).map(|name| Arc::clone(&self.alerts[name]))
    }

    /// Records an alert, or its next revision.
    fn put(&mut self, alert: &Arc<AlertRecord>) {
        self.bytes += bytes_of(alert);
        if let Some(former) = self.alerts.insert(alert.name.clone(), Arc::clone(alert)) {
            self.bytes -= bytes_of(&former);
        }
    }

    /// Removes the alerts that ended first until the rest is within both limits. The alert that
    /// ended last stays, whatever its size.
    fn forget_ended(&mut self) {
        while self.ended.len() > ENDED_ALERTS_KEPT
            || (self.ended.len() > 1 && self.bytes > ALERT_BYTES_MAX)
        {
            let oldest = self.ended.pop_front().expect("not empty");
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, name: &AlertName) {
        if let Some(alert) = self.alerts.remove(name) {
            self.bytes -= bytes_of(&alert);
            self.by_request.remove(&alert.request_id);
            self.by_age.remove(&cursor(&alert));
            if let Some(same) = self.by_external_id.get_mut(&alert.submitted.external_id) {
                same.remove(&cursor(&alert));
                if same.is_empty() {
                    self.by_external_id.remove(&alert.submitted.external_id);
                }
            }
        }
    }
}

/// Bytes of a record: a decoded region has the size of the encoded region, within a factor of two.
/// The record holds the bodies only until the alert has ended.
fn bytes_of(alert: &AlertRecord) -> usize {
    let messages = alert.plan.iter().flat_map(|plan| &plan.apps).flat_map(|app| &app.messages[..]);
    let bodies: usize = messages.map(|m| m.body.len() + m.body_after_token.len()).sum();
    let snapshot = alert
        .settled
        .as_ref()
        .map_or(0, |last| size_of_val(&last.cells[..]) + size_of_val(&last.bands[..]));
    size_of::<AlertRecord>() + alert.submitted.encoded_len() + bodies + snapshot
}

fn cursor(alert: &AlertRecord) -> AlertCursor {
    AlertCursor { created: alert.created, name: alert.name.clone() }
}

#[cfg(test)]
mod tests;
