//! The rim: requests in, answers out. Each is decoded once into types that cannot be wrong; behind
//! this module nobody knows gRPC, and only here a `Status` is made ([`status`]).

use std::sync::Arc;

use clarion_proto::{
    ids::ClusterName,
    wire::{DESCRIPTORS, v1::app_service_server::AppServiceServer},
};
use clarion_runtime::{drain::Drain, world::World};
use tonic::service::{Routes, RoutesBuilder};

use self::registry::DeviceKey;
use crate::{
    admission::Admission,
    archive::Archive,
    dispatch::{Dispatch, NewestObservation},
    lane::catalog::Catalog,
    reconcile::Reconciler,
    store::{AlertStore, ChangeLog},
};

mod alerts;
mod apps;
mod backup;
pub mod door;
mod by_hand;
mod compression;
mod feed;
mod method;
mod page;
pub mod ports;
pub mod registry;
mod snapshots;
mod status;
mod trace;

pub use alerts::AlertsConfig;

/// Largest request but those of `WriteDevices`, bytes: a region of 100,000 points takes a quarter of
/// it, and as GeoJSON with every digit up to all of it. No region travels to nodes: waves carry its
/// cover.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;

/// What the API is configured by.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Nodes of another cluster follow no log of this one.
    pub cluster: ClusterName,
    /// P: fixed when a cluster is made.
    pub partitions: u16,
    /// Connections of callers at a time; one more takes the place of an idle one or is closed.
    pub connections_max: usize,
    /// Makes ids of devices that are named by strings other than UUIDs, or by app and token.
    pub device_key: DeviceKey,
    /// Lanes that apps may name.
    pub lanes: Arc<Catalog>,
    /// Alerts, previews and watchers.
    pub alerts: AlertsConfig,
}

/// What every service of the API stands on.
#[derive(Debug)]
pub struct Context {
    /// As checked at the start.
    pub config: ApiConfig,
    /// Time and identities.
    pub world: World,
    /// Records of apps and alerts.
    pub store: Arc<dyn AlertStore>,
    /// Runs every active alert of the store.
    pub reconciler: Reconciler,
    /// Logs of the changes of devices.
    pub log: Arc<dyn ChangeLog>,
    /// Snapshots of partitions.
    pub archive: Arc<Archive>,
    /// Newest observation of a phone, which bounds the limits of expiry.
    pub observed: Arc<NewestObservation>,
    /// Nodes and lanes that carry alerts out.
    pub dispatch: Arc<dyn Dispatch>,
    /// Rules and limits by which alerts and previews are let in.
    pub admission: Arc<Admission>,
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
    let mut apps = AppServiceServer::new(apps::Apps::new(context()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    for encoding in compression::ENCODINGS {
        apps = apps.accept_compressed(encoding).send_compressed(encoding);
    }
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(apps)
        .add_service(alerts::server(alerts::Alerts::new(context())))
        .add_service(registry::server(registry::Registry::new(context())))
        .add_service(reflection().build_v1()?)
        // Python's grpcio-reflection and older tools speak nothing newer.
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}
