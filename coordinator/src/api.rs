//! The rim: requests in, answers out. Each is decoded once into types that cannot be wrong; behind this module nobody
//! knows gRPC, and only here a `Status` is made ([`status`]).

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use clarion_proto::{
    ids::AlertName,
    wire::{DESCRIPTORS, v1::app_service_server::AppServiceServer},
};
use clarion_runtime::drain::Drain;
use tokio::sync::watch;
use tonic::service::{Routes, RoutesBuilder};

use crate::{
    admission::Admission,
    clock::Clock,
    config::Config,
    dispatch::{CancelState, CountError, Dispatcher, StartError},
    lane::LaneKey,
    lane_owner::LaneError,
    members::registry::RegistryTotals,
    planned::{CountPlan, CountedDevices, PlannedAlert},
    snapshot::Snapshot,
    store::{AlertStore, ChangeLog},
};

mod alerts;
mod apps;
pub mod door;
mod feed;
mod page;
pub mod ports;
pub mod registry;
mod status;
mod trace;

/// Largest request but those of `WriteDevices`, bytes: a union of 64 polygons of 10,000 points would be more, one of
/// six is not; the limit is said in the refusal.
pub const REQUEST_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// What carries alerts out, as the API needs it. [`Dispatcher`] in the process; scripted in the API's own tests.
#[async_trait]
pub trait Dispatch: fmt::Debug + Send + Sync + 'static {
    /// See [`Dispatcher::ensure_lane`].
    fn ensure_lane(&self, key: &LaneKey) -> Result<(), LaneError>;
    /// See [`Dispatcher::start`].
    async fn start(&self, alert: Arc<PlannedAlert>) -> Result<(), StartError>;
    /// See [`Dispatcher::cancel`].
    async fn cancel(&self, alert: &AlertName) -> CancelState;
    /// See [`Dispatcher::count`].
    async fn count(&self, plan: CountPlan) -> Result<CountedDevices, CountError>;
    /// See [`Dispatcher::reaches`].
    async fn reaches(&self, plan: CountPlan, least: u64) -> Result<bool, CountError>;
    /// See [`Dispatcher::watch`].
    fn watch(&self, alert: &AlertName) -> Option<watch::Receiver<Arc<Snapshot>>>;
    /// See [`Dispatcher::registry`].
    fn registry(&self) -> RegistryTotals;
    /// See [`Dispatcher::has_session`].
    fn has_session(&self, node: &str) -> bool;
}

#[async_trait]
impl Dispatch for Dispatcher {
    fn ensure_lane(&self, key: &LaneKey) -> Result<(), LaneError> {
        self.ensure_lane(key)
    }

    async fn start(&self, alert: Arc<PlannedAlert>) -> Result<(), StartError> {
        self.start(alert).await
    }

    async fn cancel(&self, alert: &AlertName) -> CancelState {
        self.cancel(alert).await
    }

    async fn count(&self, plan: CountPlan) -> Result<CountedDevices, CountError> {
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

    fn has_session(&self, node: &str) -> bool {
        self.has_session(node)
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

/// All services for callers but health, ready to be served by [`ports::serve_api`].
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
        .add_service(
            AppServiceServer::new(apps::Apps::new(context()))
                .max_decoding_message_size(REQUEST_BYTES_MAX),
        )
        .add_service(alerts::AlertsServer::new(alerts::Alerts::new(context())))
        .add_service(registry::RegistryServer::new(registry::Registry::new(context())))
        .add_service(reflection().build_v1()?)
        // Python's grpcio-reflection and older tools speak nothing newer.
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}
