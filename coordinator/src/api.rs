//! The rim: requests in, answers out. Each is decoded once into types that cannot be wrong; behind this module nobody
//! knows gRPC, and only here a `Status` is made ([`status`]).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use clarion_proto::{
    ids::AlertName,
    wire::{DESCRIPTORS, v1::app_service_server::AppServiceServer},
};
use clarion_runtime::drain::Drain;
use tokio::sync::watch;
use tonic::service::{Routes, RoutesBuilder};
use tower::layer::util::{Identity, Stack};

use self::door::DoorLayer;

use crate::{
    admission::Admission,
    clock::Clock,
    config::Config,
    dispatch::{CancelState, CountError, CountPlan, Counts, Dispatcher, LaneKey, PlannedAlert, StartError},
    progress::{RegistryTotals, Snapshot},
    store::{AlertStore, ChangeLog},
};

mod alerts;
mod apps;
pub mod door;
mod feed;
pub mod incoming;
mod page;
pub mod registry;
mod status;
pub mod trace;

/// Largest request but those of `WriteDevices`, bytes: a union of 64 polygons of 10,000 points would be more, one of
/// six is not; the limit is said in the refusal.
pub const REQUEST_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// What carries alerts out, as the API needs it. [`Dispatcher`] in the process; scripted in the API's own tests.
#[async_trait]
pub trait Dispatch: fmt::Debug + Send + Sync + 'static {
    /// See [`Dispatcher::ensure_lane`].
    fn ensure_lane(&self, key: &LaneKey) -> Result<(), StartError>;
    /// See [`Dispatcher::start`].
    async fn start(&self, alert: Arc<PlannedAlert>) -> Result<(), StartError>;
    /// See [`Dispatcher::cancel`].
    async fn cancel(&self, alert: &AlertName) -> CancelState;
    /// See [`Dispatcher::count`].
    async fn count(&self, plan: CountPlan) -> Result<Counts, CountError>;
    /// See [`Dispatcher::reaches`].
    async fn reaches(&self, plan: CountPlan, least: u64) -> Result<bool, CountError>;
    /// See [`Dispatcher::watch`].
    fn watch(&self, alert: &AlertName) -> Option<watch::Receiver<Arc<Snapshot>>>;
    /// See [`Dispatcher::registry`].
    fn registry(&self) -> RegistryTotals;
}

#[async_trait]
impl Dispatch for Dispatcher {
    fn ensure_lane(&self, key: &LaneKey) -> Result<(), StartError> {
        self.ensure_lane(key)
    }

    async fn start(&self, alert: Arc<PlannedAlert>) -> Result<(), StartError> {
        self.start(alert).await
    }

    async fn cancel(&self, alert: &AlertName) -> CancelState {
        self.cancel(alert).await
    }

    async fn count(&self, plan: CountPlan) -> Result<Counts, CountError> {
        self.count(plan).await
    }

    async fn reaches(&self, plan: CountPlan, least: u64) -> Result<bool, CountError> {
        self.reaches(plan, least).await
    }

    fn watch(&self, alert: &AlertName) -> Option<watch::Receiver<Arc<Snapshot>>> {
        self.watch(alert)
    }

    fn registry(&self) -> RegistryTotals {
        self.registry()
    }
}

/// What every service of the API stands on.
#[derive(Debug)]
pub struct Context {
    /// As checked at the start.
    pub config: Config,
    /// The process's.
    pub clock: Clock,
    /// Apps and alerts.
    pub store: Arc<dyn AlertStore>,
    /// Changes of devices.
    pub log: Arc<dyn ChangeLog>,
    /// Carries alerts out.
    pub dispatch: Arc<dyn Dispatch>,
    /// Who is let in.
    pub admission: Admission,
    /// Owns every task; streams end with its token.
    pub drain: Drain,
}

/// All services but health, ready to be served.
///
/// # Errors
/// The descriptors built into this program cannot be read: a defect.
pub fn routes(context: &Arc<Context>) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The details of refusals, so that a caller without generated code can show them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            // The internal contract is no promise to anybody: it is described to nobody.
            .with_service_name("clarion.v1.AppService")
            .with_service_name("clarion.v1.AlertService")
            .with_service_name("clarion.v1.RegistryService")
            .with_service_name("grpc.health.v1.Health")
    };
    let context = || Arc::clone(context);
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(AppServiceServer::new(apps::Apps::new(context())).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(alerts::AlertsServer::new(alerts::Alerts::new(context())))
        .add_service(registry::RegistryServer::new(registry::Registry::new(context())))
        .add_service(feed::FeedServer::new(context()))
        .add_service(reflection().build_v1()?)
        // Python's grpcio-reflection and older tools speak nothing newer.
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}

/// The transport's bounds, the same for the process and for tests.
///
/// A connection may have 512 streams open, most of them watchers; how many requests may be under way says [`door`], how
/// many connections [`incoming`]. `WriteDevices` streams batches of up to 4 MiB, which a window of 64 KiB would chop into
/// 64 round trips: 1 MiB for a stream, 4 MiB for a connection. A peer that is gone is noticed after 30 s and costs no
/// more than that. Heads of requests are a path and a few names: 16 KiB. Who opens streams and resets them at once
/// (CVE-2023-44487) is sent away after 32 that the server has not even begun, or 256 whose own faults it had to reset.
#[must_use]
pub fn server() -> tonic::transport::Server<Stack<DoorLayer, Identity>> {
    tonic::transport::Server::builder()
        .layer(DoorLayer::default())
        .trace_fn(trace::span)
        .max_concurrent_streams(Some(512))
        .http2_max_header_list_size(Some(16 * 1_024))
        .http2_max_pending_accept_reset_streams(Some(32))
        .http2_max_local_error_reset_streams(Some(256))
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(4 << 20))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}
