//! The shell of expiry: one task writes to the logs since when registrations must have been
//! observed.
//!
//! A limit is a record of the log, so every node removes the same registrations. The task writes
//! one for each app and partition when the limit has reached another day (UTC). Limits never go
//! back on a node: a second coordinator, or a restarted one, that writes the same limit changes
//! nothing, and neither does one whose configuration has a longer time.
//!
//! A limit cannot be taken back, so this coordinator's clock alone must not decide it: a clock that
//! is a year ahead would expire every phone. The newest observation that callers reported bounds
//! the clock ([`NewestObservation`]), and no limit is written before the first one.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use clarion_proto::{
    app::Platform,
    device::{Change, Record},
    ids::{AppName, DeviceId, LogId, PartitionId, UnixMillis, log_of, partition_of},
    time::Time,
};
use clarion_runtime::{repeated::Repeated, world::Clock};

use crate::store::{AlertStore, AppRecord, ChangeLog, RecordBatch, StoreError};

/// Time between two looks at the apps and the clock.
const EVERY: Duration = Duration::from_secs(3_600);
/// Time between two looks until callers have reported an observation.
const UNTIL_OBSERVED: Duration = Duration::from_secs(5);
/// Step of a limit, milliseconds: a day, so that the logs get few records.
const STEP_MS: u64 = 24 * 3_600_000;
/// Number of apps that are read from the store at a time.
const APPS_PER_PAGE: usize = 256;

/// Time after which registrations expire, by platform; `None`: never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpiryConfig {
    /// Time for registrations of apps on APNs.
    pub apns: Option<Duration>,
    /// Time for registrations of apps on FCM.
    pub fcm: Option<Duration>,
}

impl ExpiryConfig {
    /// The limit of a platform's apps, whole days; `None`: their registrations do not expire.
    fn limit(self, platform: Platform, now: UnixMillis) -> Option<UnixMillis> {
        let after = match platform {
            Platform::Apns => self.apns?,
            Platform::Fcm => self.fcm?,
        };
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        Some(UnixMillis(now.0.saturating_sub(after) / STEP_MS * STEP_MS))
    }
}

/// Newest `observe_time` that this coordinator has recorded: 0 before the first one.
#[derive(Debug, Default)]
pub struct NewestObservation(AtomicU64);

impl NewestObservation {
    /// Records an observation.
    pub fn note(&self, observed: UnixMillis) {
        self.0.fetch_max(observed.0, Ordering::Relaxed);
    }

    /// Returns the time of a clock, at most a day after the newest observation; `None`: there is no
    /// observation.
    fn bound(&self, now: UnixMillis) -> Option<UnixMillis> {
        let newest = self.0.load(Ordering::Relaxed);
        (newest > 0).then(|| UnixMillis(now.0.min(newest.saturating_add(STEP_MS))))
    }
}

/// Writes limits to the logs until it is dropped.
pub(crate) async fn run(
    config: ExpiryConfig,
    partitions: u16,
    newest: &NewestObservation,
    log: &dyn ChangeLog,
    apps: &dyn AlertStore,
    clock: Clock,
) {
    if config == ExpiryConfig::default() {
        return;
    }
    let devices = devices(partitions);
    let (mut written, mut failing) = (BTreeMap::new(), Repeated::default());
    loop {
        let Some(now) = newest.bound(clock.wall()) else {
            clock.sleep_until(Some(clock.now() + UNTIL_OBSERVED)).await;
            continue;
        };
        if let Err(error) = write(config, &devices, (log, apps), &mut written, now).await
            && let Some(times) = failing.note(&error.to_string(), clock.now().since(Time(0)))
        {
            tracing::warn!(%error, times, "limits of expiry not written; retrying in an hour");
        }
        clock.sleep_until(Some(clock.now() + EVERY)).await;
    }
}

/// Writes the limits that have advanced since they were `written`.
async fn write(
    config: ExpiryConfig,
    devices: &BTreeMap<PartitionId, DeviceId>,
    (log, apps): (&dyn ChangeLog, &dyn AlertStore),
    written: &mut BTreeMap<AppName, UnixMillis>,
    now: UnixMillis,
) -> Result<(), StoreError> {
    // A full store drops records of unknown devices without an error, and those of limits are such.
    if !*log.has_room().borrow() {
        return Ok(());
    }
    let mut after = None;
    loop {
        let page = apps.apps(after.as_ref(), APPS_PER_PAGE).await?;
        for AppRecord { app, .. } in page.iter().map(AsRef::as_ref) {
            let limit = config.limit(app.platform, now);
            let Some(limit) = limit.filter(|limit| written.get(&app.name) < Some(limit)) else {
                continue;
            };
            log.append_all(batches(&app.name, limit, devices, log.logs())).await?;
            written.insert(app.name.clone(), limit);
            tracing::info!(app = %app.name, limit_ms = limit.0, "limit of expiry written");
        }
        match page.last() {
            Some(last) if page.len() == APPS_PER_PAGE => after = Some(last.app.name.clone()),
            _ => return Ok(()),
        }
    }
}

/// The records of one limit: one for each partition, in one batch for each log.
fn batches(
    app: &AppName,
    limit: UnixMillis,
    devices: &BTreeMap<PartitionId, DeviceId>,
    logs: u16,
) -> Vec<(LogId, RecordBatch)> {
    let mut records: BTreeMap<LogId, Vec<Record>> = BTreeMap::new();
    for (partition, device) in devices {
        let change = Change::Expiry(app.clone());
        let record = Record { device: *device, observed: limit, change };
        records.entry(log_of(*partition, logs)).or_default().push(record);
    }
    records.into_iter().map(|(log, records)| (log, RecordBatch::from_records(&records))).collect()
}

/// An id for each partition, which names the partition in records that are about no device.
fn devices(partitions: u16) -> BTreeMap<PartitionId, DeviceId> {
    let mut devices = BTreeMap::new();
    let ids = (0u128..).map(|n| DeviceId(n.to_be_bytes()));
    for id in ids {
        devices.entry(partition_of(id, partitions)).or_insert(id);
        if devices.len() == usize::from(partitions) {
            break;
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clarion_proto::{app::App, ids::Position};
    use clarion_runtime::world::World;
    use prost::Message as _;

    use super::*;
    use crate::store::{memory::MemoryStore, suite};

    const DAY: Duration = Duration::from_secs(24 * 3_600);
    /// 2026-06-01 03:00 UTC.
    const NOW: UnixMillis = UnixMillis(1_780_282_800_000);

    async fn store() -> Arc<MemoryStore> {
        let store = Arc::new(MemoryStore::new(2, 1 << 20, &World::system()));
        for (name, platform) in [("ios", Platform::Apns), ("android", Platform::Fcm)] {
            let AppRecord { app, .. } = suite::app(name);
            let app = App { platform, ..app };
            let record = AppRecord { app, created: UnixMillis(1), revision: 1 };
            store.create_app(record).await.expect("a new app");
        }
        store
    }

    /// Partition, app and limit of each record of a log.
    async fn limits(store: &MemoryStore, log: LogId) -> Vec<(PartitionId, String, u64)> {
        let read = store.read_many(&[(log, Position(0))], usize::MAX).await.expect("a log");
        let batches = read.into_iter().flat_map(|(_, batches)| batches);
        let records = batches.flat_map(|batch| {
            let message = clarion_proto::wire::shard_v1::FeedResponse::decode(batch.records);
            message.expect("a batch").records
        });
        let limit = |record| {
            let record = Record::from_wire(record).expect("a record");
            let Change::Expiry(app) = record.change else { panic!("another change") };
            (partition_of(record.device, 5), app.id().to_owned(), record.observed.0)
        };
        records.map(limit).collect()
    }

    #[tokio::test]
    async fn a_limit_is_written_to_every_partition_once_a_day() {
        let (store, devices) = (store().await, devices(5));
        let config = ExpiryConfig { apns: None, fcm: Some(270 * DAY) };
        let mut written = BTreeMap::new();
        let first = 1_780_272_000_000 - 270 * 86_400_000;
        for hour in 0..30 {
            let now = UnixMillis(NOW.0 + hour * 3_600_000);
            write(config, &devices, (&*store, &*store), &mut written, now).await.expect("room");
        }
        let of = |partitions: &[u16]| {
            let days = [first, first + STEP_MS].into_iter();
            let all = days.flat_map(|limit| {
                partitions.iter().map(move |p| (PartitionId(*p), "android".to_owned(), limit))
            });
            all.collect::<Vec<_>>()
        };
        assert_eq!(limits(&store, LogId(0)).await, of(&[0, 2, 4]));
        assert_eq!(limits(&store, LogId(1)).await, of(&[1, 3]));
    }

    #[test]
    fn a_clock_that_is_ahead_of_all_phones_is_not_believed() {
        let newest = NewestObservation::default();
        assert_eq!(newest.bound(NOW), None, "nothing is known yet");
        newest.note(NOW);
        newest.note(UnixMillis(NOW.0 - STEP_MS));
        assert_eq!(
            newest.bound(UnixMillis(NOW.0 + 400 * STEP_MS)),
            Some(UnixMillis(NOW.0 + STEP_MS))
        );
        assert_eq!(newest.bound(UnixMillis(NOW.0 + 7)), Some(UnixMillis(NOW.0 + 7)));
    }

    #[tokio::test(start_paused = true)]
    async fn each_platform_has_a_time_of_its_own() {
        let store = store().await;
        let running = |config| {
            let (clock, store) = (World::system().clock(), store.clone());
            async move {
                let newest = NewestObservation::default();
                newest.note(clock.wall());
                let limits = run(config, 5, &newest, &*store, &*store, clock);
                let _ = tokio::time::timeout(Duration::from_secs(1), limits).await;
            }
        };
        running(ExpiryConfig::default()).await;
        assert_eq!(limits(&store, LogId(0)).await, []);
        running(ExpiryConfig { apns: Some(365 * DAY), fcm: Some(90 * DAY) }).await;
        let written = limits(&store, LogId(0)).await;
        let limit = |app: &str| written.iter().find(|(_, of, _)| of == app).map(|found| found.2);
        assert_eq!(
            limit("android").expect("written") - limit("ios").expect("written"),
            275 * STEP_MS
        );
    }
}
