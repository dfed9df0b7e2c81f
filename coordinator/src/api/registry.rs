//! `RegistryService`: changes of devices in, counts out.
//!
//! One stream is served strictly in order, one batch at a time: decode, check each item, append one batch to each log,
//! answer. Streams run beside each other. Nothing is queued: a batch that is not read yet stays in HTTP/2's window, and a
//! caller who does not read answers is not read from. A batch of 10,000 items is some 30 ms of a core; it is checked in
//! slices with a pause between them, so that progress and sessions on the same threads are not held up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_proto::{
    app::Platform,
    error::InvalidField,
    ids::{AppName, LogId, log_of, partition_of},
    wire::v1::{self as wire, registry_service_server::RegistryService},
};
use futures_util::stream::{self, BoxStream};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, alerts::answer::pruning_alarm, status};
use crate::store::{ChangeLog, RecordBatch, RecordBatchBuilder};

mod change;

/// Largest batch, bytes: 10,000 items of 400 bytes, more than an FCM registration takes.
pub(super) const BATCH_BYTES_MAX: usize = 4 * 1_024 * 1_024;
/// Items of one batch.
const CHANGES_MAX: usize = 10_000;
/// Largest batch of a log, bytes: a node takes messages of 4 MiB, and reads ahead by the batch.
const LOG_BATCH_BYTES_MAX: usize = 1_024 * 1_024;
/// Streams of `WriteDevices` at a time: each holds one batch at most, so all together 256 MiB.
const STREAMS_MAX: usize = 64;
/// Items checked at a stretch: under 2 ms.
const SLICE: usize = 512;

/// The service.
#[derive(Debug)]
pub(super) struct Registry {
    api: Arc<Context>,
    streams: Arc<Semaphore>,
}

impl Registry {
    pub(super) fn new(api: Arc<Context>) -> Self {
        Self { api, streams: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    type WriteDevicesStream = BoxStream<'static, Result<wire::WriteDevicesResponse, Status>>;

    async fn write_devices(
        &self,
        request: Request<Streaming<wire::WriteDevicesRequest>>,
    ) -> Result<Response<Self::WriteDevicesStream>, Status> {
        let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let message = format!("{STREAMS_MAX} streams of WriteDevices are open");
            status::exhausted("WRITE_STREAMS_MAX", message, Duration::from_secs(5))
        })?;
        let first = (Arc::clone(&self.api), request.into_inner(), place);
        Ok(Response::new(Box::pin(stream::unfold(Some(first), |state| async move {
            let (api, mut batches, place) = state?;
            let stop = api.drain.token();
            // Between batches is the place to stop: what was begun is finished and answered.
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Some((Err(status::draining()), None)),
                batch = batches.message() => batch,
            };
            match batch {
                Ok(Some(batch)) => match write(&api, batch).await {
                    Ok(answer) => Some((Ok(answer), Some((api, batches, place)))),
                    Err(status) => Some((Err(status), None)),
                },
                Ok(None) => None,
                Err(status) => Some((Err(status::unreadable(&status).unwrap_or(status)), None)),
            }
        }))))
    }

    async fn get_registry_stats(
        &self,
        _: Request<wire::GetRegistryStatsRequest>,
    ) -> Result<Response<wire::RegistryStats>, Status> {
        let totals = self.api.dispatch.registry();
        let log = &*self.api.log;
        let (mut written, mut applied) = (0, 0);
        for id in (0..log.logs()).map(LogId) {
            let head = log.head(id).await.map_err(status::store)?;
            let position = totals.applied.get(&id).copied().unwrap_or_default();
            written += log.records_until(id, head).await.map_err(status::store)?;
            applied += log.records_until(id, position).await.map_err(status::store)?;
        }
        let apps = totals.apps.iter().map(|(app, &devices)| wire::AppStats { app: app.name(), devices });
        Ok(Response::new(wire::RegistryStats {
            devices: totals.devices,
            placed: totals.placed,
            muted: totals.muted,
            changes_written: written,
            changes_applied: applied,
            apps: apps.collect(),
            pruning_alarms: totals.pruning_alarms.iter().map(pruning_alarm).collect(),
        }))
    }
}

/// Checks and records one batch.
async fn write(api: &Context, batch: wire::WriteDevicesRequest) -> Result<wire::WriteDevicesResponse, Status> {
    if batch.changes.len() > CHANGES_MAX {
        let problem = format!("at most {CHANGES_MAX} in a batch, has {}", batch.changes.len());
        return Err(status::invalid(InvalidField::new("changes", problem)));
    }
    let mut apps = KnownApps { api, known: BTreeMap::new() };
    let mut logs = Logs::default();
    let mut errors = Vec::new();
    let mut written = 0;
    let now = api.clock.wall();
    for (i, change) in batch.changes.into_iter().enumerate() {
        if i % SLICE == SLICE - 1 {
            tokio::task::yield_now().await;
        }
        let checked = match apps.of(&change).await? {
            Ok(app) => change::record(change, app, now, &api.config.device_key),
            Err(problem) => Err(problem),
        };
        match checked {
            Ok(record) => {
                let log = log_of(partition_of(record.device, api.config.partitions), api.config.logs);
                logs.push(log, &record.into_wire());
                written += 1;
            }
            Err(problem) => {
                let index = u32::try_from(i).expect("below CHANGES_MAX");
                errors.push(wire::DeviceError { index, field: problem.field, description: problem.problem });
            }
        }
    }
    logs.append(&*api.log).await?;
    Ok(wire::WriteDevicesResponse { batch_id: batch.batch_id, written, errors })
}

/// The records of one request by their log.
#[derive(Default)]
struct Logs {
    open: BTreeMap<LogId, RecordBatchBuilder>,
    full: Vec<(LogId, RecordBatch)>,
}

impl Logs {
    fn push(&mut self, log: LogId, record: &clarion_proto::wire::shard_v1::Record) {
        let builder = self.open.entry(log).or_default();
        builder.push(record);
        if builder.bytes() >= LOG_BATCH_BYTES_MAX {
            self.full.push((log, std::mem::take(builder).finish()));
        }
    }

    /// One batch for each log, or as many as its size makes. If the store fails in between, some logs have theirs: the
    /// caller sends the whole batch again, and what is there twice is the same change twice.
    async fn append(self, log: &dyn ChangeLog) -> Result<(), Status> {
        let open = self.open.into_iter().filter(|(_, builder)| !builder.is_empty());
        for (id, batch) in self.full.into_iter().chain(open.map(|(id, builder)| (id, builder.finish()))) {
            log.append(id, batch).await.map_err(status::store)?;
        }
        Ok(())
    }
}

/// Apps asked for within one batch: most batches are of one or two.
struct KnownApps<'a> {
    api: &'a Context,
    known: BTreeMap<String, Option<(AppName, Platform)>>,
}

impl KnownApps<'_> {
    /// The app that a change registers for and its platform; `None` if it registers nothing.
    async fn of(
        &mut self,
        change: &wire::DeviceChange,
    ) -> Result<Result<Option<(AppName, Platform)>, InvalidField>, Status> {
        let Some((name, field)) = change::app(change) else { return Ok(Ok(None)) };
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone().map(Some).ok_or_else(|| unknown(field)));
        }
        let app = match AppName::from_name(name) {
            Ok(app) => app,
            Err(problem) => return Ok(Err(problem.within(field))),
        };
        let record = self.api.store.app(&app).await.map_err(status::store)?;
        let app = record.map(|record| (app, record.app.platform));
        self.known.insert(name.to_owned(), app.clone());
        Ok(app.map(Some).ok_or_else(|| unknown(field)))
    }
}

fn unknown(field: &str) -> InvalidField {
    InvalidField::new(field, "there is no app of that name")
}
