//! The coordinator is destroyed twice in the middle of a wave and built again over the same store,
//! within this process. The node, the emulator and the emulator's record are real.
//!
//! A process of a coordinator is a runtime of its own here. When the runtime is dropped, all its
//! tasks and sockets end at once, as in a crash. Only the store stays.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use clarion_coordinator::{
    Coordinator,
    config::{Args, Config},
    store::{AlertStore as _, memory::MemoryStore},
};
use clarion_emulator::{Platform, clock};
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan, Started, emulator::GatewayPlan},
    drive::{self, alert},
    names,
    population::Population,
    scenario::Scenario,
    verdict::{ledger::Fate, recorded::Recorded},
};
use clarion_proto::{
    ids::{AlertName, Epoch},
    wire::v1::{self as wire, alert_service_client::AlertServiceClient},
};
use clarion_runtime::world::World;
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

/// Time limit of every wait.
const PATIENCE: Duration = Duration::from_secs(60);
const DEVICES: u64 = 4_000;
/// Pushes per second: the wave takes some ten seconds.
const RATE: u32 = 400;

fn scenario() -> Scenario {
    let text = format!(
        r#"
name = "rebuilt"
description = "A coordinator that is built anew"
seed = 7
devices = {DEVICES}
nodes = 1
[population]
apps = [{{ name = "guardian-ios", platform = "apns" }}]
[[population.areas]]
kind = "disc"
share = 1.0
center = {{ latitude = 22.543, longitude = 114.058 }}
radius_meters = 20_000
[alert]
max_rate_per_second = {RATE}
[alert.region]
kind = "circle"
center = {{ latitude = 22.543, longitude = 114.058 }}
radius_meters = 25_000
[expect]
"#
    );
    Scenario::parse("rebuilt", &text).expect("a scenario")
}

/// One coordinator in a runtime of its own.
struct Process {
    runtime: Option<Runtime>,
    channel: Channel,
}

impl Process {
    async fn start(file: &Path, store: &Arc<MemoryStore>, world: World) -> Self {
        let args = Args { config: Some(file.to_owned()), ..Args::default() };
        let config = Config::load(args).expect("valid");
        let address = format!("http://{}", config.listen);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let store = Arc::clone(store);
        let bound = runtime.spawn(async move {
            let coordinator = Coordinator::bind_over(config, store, world).await.expect("bound");
            tokio::spawn(coordinator.run(std::future::pending()));
        });
        bound.await.expect("no panic");
        let endpoint = Endpoint::from_shared(address).expect("an address");
        Self { runtime: Some(runtime), channel: endpoint.connect().await.expect("it listens") }
    }

    /// Ends all its tasks and sockets at once.
    async fn crash(mut self) {
        let runtime = self.runtime.take().expect("it runs");
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE))
            .await
            .expect("no panic");
    }

    async fn alert(&self, name: &str) -> wire::Alert {
        let request = wire::GetAlertRequest { name: name.to_owned() };
        let mut client = AlertServiceClient::new(self.channel.clone());
        timeout(PATIENCE, client.get_alert(request))
            .await
            .expect("in time")
            .expect("there")
            .into_inner()
    }

    async fn until_accepted(&self, name: &str, count: u64) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wave_goes_on_over_two_crashes_of_its_coordinator() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().canonicalize().expect("a folder");
    let scenario = scenario();
    let population =
        Population::new(&scenario.population, scenario.seed, DEVICES).expect("a population");
    let population = Arc::new(population);
    let plan = ClusterPlan {
        program: env!("CARGO_BIN_EXE_loadgen").into(),
        dir: folder.clone(),
        nodes: 1,
        nodes_later: vec![0],
        nodes_told: None,
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
        start_deadline: PATIENCE,
    };
    // The coordinator of the cluster ends for those of this process, which use the same ports and
    // configuration file, before the node connects to it.
    let mut cluster = Cluster::start(&plan).await.expect("a cluster");
    cluster.kill(names::COORDINATOR).await;
    let (file, world) = (folder.join("coordinator.toml"), World::system());
    let store = Arc::new(MemoryStore::new(64, 1 << 30, &world));
    let first = Process::start(&file, &store, world).await;
    cluster.start_again(&names::node(0), Started::default()).await.expect("it starts");
    alert::create_apps(first.channel.clone(), &population).await.expect("created");
    let (channel, loaded) = (first.channel.clone(), Arc::clone(&population));
    let loading = drive::load::load(channel, loaded, clock::wall().0, |_| {});
    timeout(PATIENCE, loading).await.expect("in time").expect("loaded");
    drive::visible(first.channel.clone(), DEVICES, PATIENCE).await.expect("visible");

    let id = "0192d3a0-0000-7000-8000-000000000007".to_owned();
    let submitted = alert::alert(&scenario, &population);
    let submitted = alert::submit(first.channel.clone(), submitted, id).await.expect("accepted");
    first.until_accepted(&submitted.name, DEVICES / 8).await;
    first.crash().await;
    let second = Process::start(&file, &store, World::system()).await;
    second.until_accepted(&submitted.name, DEVICES / 2).await;
    second.crash().await;
    let third = Process::start(&file, &store, World::system()).await;
    let before = third.alert(&submitted.name).await;
    assert_eq!(before.state(), wire::State::Active, "in the middle of its wave");

    let watch = alert::watch(third.channel.clone(), &submitted.name, None, PATIENCE, |_| {});
    let ended = watch.await.expect("it ends");
    let progress = ended.progress.progress.expect("always");
    assert_eq!(ended.progress.state(), wire::State::Resolved);
    let accepted = progress.outcomes.expect("always").accepted;
    assert_eq!((progress.handed, accepted, progress.open), (DEVICES, DEVICES, 0));

    let name = AlertName::from_name(&submitted.name).expect("a name");
    let record = store.alert(&name).await.expect("memory").expect("there");
    assert_eq!((record.epoch, record.plan.is_none()), (Epoch(3), true), "taken over twice");
    assert_eq!(third.alert(&submitted.name).await.state(), wire::State::Resolved);

    let path = folder.join("record");
    cluster.emulators[0].export(&path).await.expect("exported");
    let recorded = Recorded::read([(Platform::Apns, path.as_path())]).expect("whole");
    let mut pushes: BTreeMap<u64, u32> = BTreeMap::new();
    for push in recorded.ledger.pushes() {
        assert_eq!(push.fate, Fate::Accepted);
        *pushes.entry(push.token_hash).or_default() += 1;
    }
    let repeated = pushes.values().filter(|pushes| **pushes > 1).count();
    let missed = DEVICES - pushes.len() as u64;
    assert_eq!((missed, repeated), (0, 0));
    third.crash().await;
    assert_eq!(cluster.stop(PATIENCE).await, [""; 0]);
}
