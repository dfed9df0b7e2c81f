//! The engine in memory: for one coordinator, for tests and for a first look. What it holds ends with the process.
//!
//! Memory is bounded by two numbers. The logs hold at most `log_bytes_max`: the engine cannot trim them, because nodes
//! rebuild themselves from their beginning. Of ended alerts the newest [`ENDED_ALERTS_KEPT`] are remembered: an ended
//! alert of 120 km keeps some 1,300 cells of 40 bytes, so all together hold some 50 MB.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_proto::ids::{AlertName, AppName, LogId, LogIdentity, Position, UnixMillis};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    AlertCursor, AlertRecord, AlertStore, AppRecord, Batch, ChangeLog, Created, RecordBatch, RequestId, StoreError,
};
use crate::{alert::is_final, clock::Clock};

/// Ended alerts remembered; older ones are forgotten together with their `request_id`.
pub const ENDED_ALERTS_KEPT: usize = 1_000;
/// Apps of one cluster.
pub const APPS_MAX: usize = 10_000;

/// Apps, alerts and logs in memory.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Clock,
    /// Of this process: what a former one held is gone.
    identity: LogIdentity,
    log_bytes_max: u64,
    log_bytes: AtomicU64,
    logs: Vec<RwLock<Log>>,
    grown: watch::Sender<u64>,
    tables: Mutex<Tables>,
}

/// Batches in the order of their positions: the one at index `i` has position `i + 1`.
#[derive(Debug, Default)]
struct Log {
    batches: Vec<Appended>,
}

#[derive(Debug)]
struct Appended {
    at: UnixMillis,
    records: Bytes,
    /// Records in the log up to and with this batch.
    records_until: u64,
}

#[derive(Debug, Default)]
struct Tables {
    apps: BTreeMap<AppName, Arc<AppRecord>>,
    alerts: BTreeMap<AlertName, Arc<AlertRecord>>,
    by_request: BTreeMap<RequestId, AlertName>,
    by_age: BTreeSet<AlertCursor>,
    /// Those that have not ended.
    active: BTreeSet<AlertName>,
    /// In the order of their end.
    ended: std::collections::VecDeque<AlertName>,
}

impl MemoryStore {
    /// Empty, with `logs` logs that hold at most `log_bytes_max` bytes of records together.
    #[must_use]
    pub fn new(logs: u16, log_bytes_max: u64, clock: Clock) -> Self {
        Self {
            clock,
            identity: LogIdentity(Uuid::new_v4().into_bytes()),
            log_bytes_max,
            log_bytes: AtomicU64::new(0),
            logs: (0..logs).map(|_| RwLock::default()).collect(),
            grown: watch::Sender::new(0),
            tables: Mutex::default(),
        }
    }

    fn log(&self, log: LogId) -> Result<&RwLock<Log>, StoreError> {
        self.logs.get(usize::from(log.0)).ok_or_else(|| StoreError::Missing(format!("log {log}")))
    }

    /// Takes room for a batch, or says how much there is.
    fn reserve(&self, bytes: u64) -> Result<(), StoreError> {
        let limit = self.log_bytes_max;
        let fits = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= limit);
        match self.log_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(held) => Err(StoreError::Full { held, limit }),
        }
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

    async fn append(&self, log: LogId, batch: RecordBatch) -> Result<Position, StoreError> {
        let log = self.log(log)?;
        // The fixed part too, so that empty batches cannot grow without bound.
        self.reserve(batch.bytes() as u64 + size_of::<Appended>() as u64)?;
        let count = u64::from(batch.count());
        let position = {
            let mut log = log.write();
            // Read within the lock, so that the order of times is that of positions; a wall clock may be set back.
            let (last, until) = log.batches.last().map_or((UnixMillis(0), 0), |b| (b.at, b.records_until));
            let at = self.clock.wall().max(last);
            log.batches.push(Appended { at, records: batch.into_records(), records_until: until + count });
            Position(log.batches.len() as u64)
        };
        self.grown.send_modify(|n| *n += 1);
        Ok(position)
    }

    async fn head(&self, log: LogId) -> Result<Position, StoreError> {
        Ok(Position(self.log(log)?.read().batches.len() as u64))
    }

    async fn read(&self, log: LogId, after: Position, bytes_max: usize) -> Result<Vec<Batch>, StoreError> {
        let log = self.log(log)?.read();
        let mut batches = Vec::new();
        let mut room = bytes_max;
        for (position, appended) in (after.0 + 1..).zip(log.batches.iter().skip(index(after))) {
            let bytes = appended.records.len();
            if !batches.is_empty() && bytes > room {
                break;
            }
            room = room.saturating_sub(bytes);
            let (appended, records) = (appended.at, appended.records.clone());
            batches.push(Batch { position: Position(position), appended, records });
            if room == 0 {
                break;
            }
        }
        Ok(batches)
    }

    async fn records_until(&self, log: LogId, position: Position) -> Result<u64, StoreError> {
        let log = self.log(log)?.read();
        let held = index(position).min(log.batches.len());
        Ok(held.checked_sub(1).map_or(0, |last| log.batches[last].records_until))
    }

    fn grown(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }
}

/// How many batches there are up to and with a position.
fn index(position: Position) -> usize {
    usize::try_from(position.0).unwrap_or(usize::MAX)
}

#[async_trait]
impl AlertStore for MemoryStore {
    async fn create_alert(&self, alert: AlertRecord, active_max: usize) -> Result<Created<AlertRecord>, StoreError> {
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
        // An app can vanish between admission and here: within this step it cannot.
        if let Some(gone) = alert.apps.iter().find(|app| !tables.apps.contains_key(*app)) {
            return Err(StoreError::Missing(gone.to_string()));
        }
        let alert = Arc::new(alert);
        tables.by_request.insert(alert.request_id, alert.name.clone());
        tables.by_age.insert(cursor(&alert));
        tables.active.insert(alert.name.clone());
        tables.alerts.insert(alert.name.clone(), Arc::clone(&alert));
        Ok(Created::New(alert))
    }

    async fn discard_alert(&self, name: &AlertName) -> Result<(), StoreError> {
        let mut tables = self.tables.lock();
        tables.forget(name);
        tables.active.remove(name);
        Ok(())
    }

    async fn replace_alert(&self, alert: AlertRecord) -> Result<Arc<AlertRecord>, StoreError> {
        let mut tables = self.tables.lock();
        let name = alert.name.clone();
        let stored = tables.alerts.get(&name).ok_or_else(|| StoreError::Missing(name.to_string()))?;
        if stored.revision + 1 != alert.revision {
            return Err(StoreError::Conflict(name.to_string()));
        }
        let alert = Arc::new(alert);
        tables.alerts.insert(name.clone(), Arc::clone(&alert));
        if is_final(alert.state) && tables.active.remove(&name) {
            tables.ended.push_back(name);
            while tables.ended.len() > ENDED_ALERTS_KEPT {
                let oldest = tables.ended.pop_front().expect("not empty");
                tables.forget(&oldest);
            }
        }
        Ok(alert)
    }

    async fn alert(&self, name: &AlertName) -> Result<Option<Arc<AlertRecord>>, StoreError> {
        Ok(self.tables.lock().alerts.get(name).cloned())
    }

    async fn alert_by_request(&self, request: RequestId) -> Result<Option<Arc<AlertRecord>>, StoreError> {
        Ok(self.tables.lock().request(request))
    }

    async fn alerts(&self, after: Option<&AlertCursor>, limit: usize) -> Result<Vec<Arc<AlertRecord>>, StoreError> {
        let tables = self.tables.lock();
        let older = (Bound::Unbounded, after.map_or(Bound::Unbounded, Bound::Excluded));
        let names = tables.by_age.range::<AlertCursor, _>(older).rev().take(limit);
        Ok(names.map(|c| Arc::clone(&tables.alerts[&c.name])).collect())
    }

    async fn active_count(&self) -> Result<usize, StoreError> {
        Ok(self.tables.lock().active.len())
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
        if !tables.apps.contains_key(name) {
            return Err(StoreError::Missing(name.to_string()));
        }
        if let Some(alert) = tables.active.iter().find(|alert| tables.alerts[*alert].apps.contains(name)) {
            return Err(StoreError::InUse { app: name.clone(), alert: alert.clone() });
        }
        tables.apps.remove(name);
        Ok(())
    }

    async fn app(&self, name: &AppName) -> Result<Option<Arc<AppRecord>>, StoreError> {
        Ok(self.tables.lock().apps.get(name).cloned())
    }

    async fn apps(&self, after: Option<&AppName>, limit: usize) -> Result<Vec<Arc<AppRecord>>, StoreError> {
        let tables = self.tables.lock();
        let later = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        Ok(tables.apps.range::<AppName, _>(later).take(limit).map(|(_, app)| Arc::clone(app)).collect())
    }
}

impl Tables {
    fn request(&self, request: RequestId) -> Option<Arc<AlertRecord>> {
        self.by_request.get(&request).map(|name| Arc::clone(&self.alerts[name]))
    }

    fn forget(&mut self, name: &AlertName) {
        if let Some(alert) = self.alerts.remove(name) {
            self.by_request.remove(&alert.request_id);
            self.by_age.remove(&cursor(&alert));
        }
    }
}

fn cursor(alert: &AlertRecord) -> AlertCursor {
    AlertCursor { created: alert.created, name: alert.name.clone() }
}

#[cfg(test)]
mod tests;
