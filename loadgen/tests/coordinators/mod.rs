//! Coordinators as processes within a test's process, over one shared store: a real node and a real
//! emulator are processes of their own.
//!
//! A process of a coordinator is a runtime of its own here; when that is dropped, all its tasks and
//! sockets go at once, as in a crash. What stays is the store.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several tests, each of which uses its part of it"
)]

use std::{path::Path, sync::Arc, time::Duration};

use clarion_coordinator::{
    Coordinator,
    config::{Args, Config},
    store::{Store, memory::MemoryStore},
};
use clarion_loadgen::{
    cluster::{ClusterPlan, emulator::GatewayPlan, network::NetworkPlan},
    names,
    population::Population,
    scenario::{Scenario, StoreKind},
};
use clarion_proto::wire::v1::{self as wire, alert_service_client::AlertServiceClient};
use clarion_runtime::world::World;
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

/// Bound of every wait.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Devices around one place, and an alert that reaches all of them.
pub fn scenario(devices: u64, max_rate_per_second: u32) -> Scenario {
    let text = format!(
        r#"
name = "coordinators"
description = "Coordinators over one store"
seed = 7
devices = {devices}
nodes = 1
[population]
apps = [{{ name = "guardian-ios", platform = "apns" }}]
[[population.areas]]
kind = "disc"
share = 1.0
center = {{ latitude = 22.543, longitude = 114.058 }}
radius_meters = 20_000
[alert]
max_rate_per_second = {max_rate_per_second}
[alert.region]
kind = "circle"
center = {{ latitude = 22.543, longitude = 114.058 }}
radius_meters = 25_000
[expect]
"#
    );
    Scenario::parse("coordinators", &text).expect("a scenario")
}

/// One node, one emulator, and the files of a coordinator.
pub fn plan(folder: &Path, scenario: &Scenario, population: &Population) -> ClusterPlan {
    ClusterPlan {
        program: env!("CARGO_BIN_EXE_loadgen").into(),
        dir: folder.to_owned(),
        nodes: 1,
        nodes_later: vec![0],
        nodes_told: None,
        store: StoreKind::Memory,
        cores_per_node: 2,
        gateway: GatewayPlan {
            platforms: population.platforms(),
            dead_share: 0.0,
            latency_us: 0,
            distance: scenario.gateway.distance,
            seed: 7,
            topics: vec![names::topic("guardian-ios")],
            fcm_quota_per_minute: 60_000_000,
        },
        fcm: scenario.gateway.fcm,
        request_deadline_ms: None,
        authorization_literal: false,
        snapshot_every_seconds: None,
        network: NetworkPlan::default(),
        start_deadline: PATIENCE,
    }
}

/// One process of the coordinator.
pub struct Process {
    runtime: Option<Runtime>,
    pub channel: Channel,
}

impl Process {
    pub async fn start(file: &Path, store: &Arc<MemoryStore>, world: World) -> Self {
        let args = Args { config: Some(file.to_owned()), ..Args::default() };
        let config = Config::load(args).expect("valid");
        let address = format!("http://{}", config.listen);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let store: Arc<dyn Store> = Arc::clone(store) as _;
        let bound = runtime.spawn(async move {
            let coordinator = Coordinator::bind_over(config, store, world).await.expect("bound");
            tokio::spawn(coordinator.run(std::future::pending()));
        });
        bound.await.expect("no panic");
        let endpoint = Endpoint::from_shared(address).expect("an address");
        Self { runtime: Some(runtime), channel: endpoint.connect().await.expect("it listens") }
    }

    /// All its tasks and sockets go at once.
    pub async fn crash(mut self) {
        let runtime = self.runtime.take().expect("it runs");
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE))
            .await
            .expect("no panic");
    }

    pub async fn alert(&self, name: &str) -> wire::Alert {
        let request = wire::GetAlertRequest { name: name.to_owned(), ..Default::default() };
        let mut client = AlertServiceClient::new(self.channel.clone());
        timeout(PATIENCE, client.get_alert(request))
            .await
            .expect("in time")
            .expect("there")
            .into_inner()
    }

    pub async fn until_accepted(&self, name: &str, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let progress = self.alert(name).await.progress.unwrap_or_default();
            if progress.outcomes.unwrap_or_default().accepted >= count {
                return;
            }
            assert!(Instant::now() < deadline, "{count} were to be accepted: {progress:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
