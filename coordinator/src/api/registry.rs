//! `RegistryService`: takes changes of devices and returns counts.
//!
//! A stream is served strictly in order, one batch at a time: check each item, append one batch to
//! each log, answer. Nothing is queued: a batch that is not read yet stays in HTTP/2's window, and
//! the coordinator does not read from a caller who does not read answers. A batch of 10,000 items
//! takes some 30 ms of a core; it is checked in slices with a pause between them, so that progress
//! and sessions on the same threads are not delayed.
//!
//! No caller can block the others: peers share [`STREAMS_MAX`] streams, each stream has deadlines
//! ([`stream`]), and the peers' batches are taken in turn ([`UNWRITTEN_BYTES_MAX`]) and checked in
//! turn ([`WORK_MAX`] at a time), however many one peer sends. A batch that waits for the disk holds
//! no turn to be checked: the store joins appends that wait together into one sync.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{
    ids::LogId,
    wire::v1::{self as wire, registry_service_server::RegistryService},
};
use clarion_runtime::peers::{shares::Places, turns::Turns};
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, alerts::answer::pruning_alarm, door, status};

mod ages;
pub(crate) mod batch;
mod change;
pub(crate) mod device_key;
mod server;
mod stream;

pub use device_key::DeviceKey;
pub(super) use server::server;
pub use stream::{ANSWER_TAKEN_WITHIN, NEXT_BATCH_WITHIN};

/// Largest batch, bytes: 10,000 items of 400 bytes, more than an FCM registration takes.
pub(super) const BATCH_BYTES_MAX: usize = 4 * 1_024 * 1_024;
/// Maximum number of `WriteDevices` streams; one peer may have half of them.
pub const STREAMS_MAX: usize = 64;
/// Number of batches that are checked at a time. Two keep two cores busy, some 600,000 changes a
/// second.
const WORK_MAX: u64 = 2;
/// Bytes of all batches that are checked or wait for the store; one peer may have half of them. They
/// cost their own bytes once more, in records that are not yet appended.
const UNWRITTEN_BYTES_MAX: u64 = 32 << 20;

/// Server of `RegistryService`, with the limits of its streams.
#[derive(Debug)]
pub(super) struct Registry {
    api: Arc<Context>,
    streams: Places,
    unwritten: Turns,
    work: Turns,
}

impl Registry {
    pub(super) fn new(api: Arc<Context>) -> Self {
        Self {
            api,
            streams: Places::new(STREAMS_MAX),
            unwritten: Turns::new(UNWRITTEN_BYTES_MAX, UNWRITTEN_BYTES_MAX / 2),
            work: Turns::new(WORK_MAX, WORK_MAX),
        }
    }

    /// Serves a stream of `WriteDevices`, if a place is free: see [`stream`].
    fn write(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<BoxStream<'static, Result<wire::WriteDevicesResponse, Status>>, Status> {
        let peer = door::peer(request.extensions());
        let place = self.streams.enter(peer).map_err(|full| {
            status::share(
                "WRITE_STREAMS_MAX",
                "streams of WriteDevices",
                peer,
                full,
                Duration::from_secs(5),
            )
        })?;
        let writer = stream::Writer {
            api: Arc::clone(&self.api),
            peer,
            unwritten: self.unwritten.clone(),
            work: self.work.clone(),
            _place: place,
        };
        Ok(stream::serve(writer, request.into_inner()))
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    type WriteDevicesStream = BoxStream<'static, Result<wire::WriteDevicesResponse, Status>>;

    async fn write_devices(
        &self,
        _: Request<Streaming<wire::WriteDevicesRequest>>,
    ) -> Result<Response<Self::WriteDevicesStream>, Status> {
        // The generated trait requires the method; `server` takes its requests before this one.
        Err(status::internal(&"WriteDevices reached the generated server"))
    }

    async fn get_registry_stats(
        &self,
        _: Request<wire::GetRegistryStatsRequest>,
    ) -> Result<Response<wire::RegistryStats>, Status> {
        let totals = self.api.dispatch.registry();
        let log = &*self.api.log;
        let heads: Vec<_> =
            (0..).map(LogId).zip(log.heads().await.map_err(status::store)?).collect();
        let applied: Vec<_> = heads
            .iter()
            .map(|(id, _)| (*id, totals.applied.get(id).copied().unwrap_or_default()))
            .collect();
        let written: u64 =
            log.records_until(&heads).await.map_err(status::store)?.into_iter().sum();
        let applied: u64 =
            log.records_until(&applied).await.map_err(status::store)?.into_iter().sum();
        let apps =
            totals.apps.iter().map(|(app, &devices)| wire::AppStats { app: app.name(), devices });
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
