//! Every process of a cluster is killed at a random moment of an alert, and started again over the
//! same data folder. What was acknowledged is there, the alert ends, and no device is missed.
//!
//! Nodes hold devices and progress in memory, so a device may receive an alert once from the killed
//! processes and once from those after them. `CLARION_POWER_SEED=N` repeats a run's moments.

mod coordinators;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_emulator::{Platform, clock};
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan, Started},
    drive::{
        self,
        alert::{self, Submitted},
        load,
    },
    names,
    population::Population,
    scenario::StoreKind,
    verdict::recorded,
};
use clarion_proto::{
    device::token_hash,
    wire::v1::{
        self as wire, alert_service_client::AlertServiceClient,
        app_service_client::AppServiceClient, device_change::Change,
        registry_service_client::RegistryServiceClient,
    },
};
use coordinators::{PATIENCE, plan, scenario};
use data_encoding::HEXLOWER;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

/// Devices with ids of their own, all of which the alert reaches.
const DEVICES: u64 = 3_000;
/// Pushes per second: the alert takes some five seconds.
const RATE: u32 = 600;
/// Phones of the app whose devices are identified by their tokens.
const PHONES: u64 = 150;
const TOKENS: &str = "apps/tokens";

/// Two nodes and a coordinator with a data folder.
fn durable(folder: &tempfile::TempDir, population: &Population) -> ClusterPlan {
    let path = folder.path().canonicalize().expect("a folder");
    let scenario = scenario(DEVICES, RATE);
    let (nodes, nodes_later, store) = (2, Vec::new(), StoreKind::Sqlite);
    ClusterPlan { nodes, nodes_later, store, ..plan(&path, &scenario, population) }
}

/// A number below `bound`, drawn from the seed of the run.
struct Draws(u64);

impl Draws {
    fn new() -> Self {
        let given = std::env::var("CLARION_POWER_SEED").ok();
        let seed = given.map_or_else(|| clock::monotonic().0, |n| n.parse().expect("a number"));
        println!("CLARION_POWER_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

async fn connect(cluster: &Cluster) -> Channel {
    drive::connect(&cluster.coordinator, PATIENCE).await.expect("it listens")
}

async fn kill_all(cluster: &mut Cluster) {
    for name in [names::node(0), names::COORDINATOR.to_owned(), names::node(1)] {
        cluster.kill(&name).await;
    }
}

async fn start_all(cluster: &mut Cluster) {
    for name in [names::node(1), names::COORDINATOR.to_owned(), names::node(0)] {
        cluster.start_again(&name, Started::default()).await.expect("it starts");
    }
}

/// The phones of an app with IDENTITY_TOKEN: their ids depend on the device key.
async fn register_phones(channel: Channel, phones: &Population) {
    let seconds = i64::try_from(clock::wall().0 / 1_000).expect("this century");
    let change = |n| {
        let device = phones.device(n);
        let registration = wire::Registration {
            app: TOKENS.to_owned(),
            token: HEXLOWER.encode(device.token.as_slice()),
            ..Default::default()
        };
        wire::DeviceChange {
            observe_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            change: Some(Change::Registration(registration)),
            ..Default::default()
        }
    };
    let changes = (0..PHONES).map(change).collect();
    let batch = wire::WriteDevicesRequest { batch_id: 1, changes, historic: false };
    let client = RegistryServiceClient::new(channel);
    load::write(client, std::iter::once(batch), |_| {}).await.expect("written");
}

async fn create_tokens_app(channel: Channel) {
    let app = wire::App {
        platform: wire::Platform::Apns.into(),
        gateway: names::gateway(Platform::Apns).to_owned(),
        credential: names::credential(Platform::Apns).to_owned(),
        topic: names::topic("guardian-ios"),
        environment: wire::Environment::Sandbox.into(),
        lane_kind: wire::LaneKind::Test.into(),
        identity: wire::Identity::Token.into(),
        ..Default::default()
    };
    let app_id = TOKENS.trim_start_matches("apps/").to_owned();
    let request = wire::CreateAppRequest { app_id, app: Some(app) };
    AppServiceClient::new(channel).create_app(request).await.expect("created");
}

/// Devices by app, once every node has applied all changes.
async fn counted(channel: Channel) -> BTreeMap<String, u64> {
    let stats = drive::visible(channel, DEVICES + PHONES, PATIENCE).await.expect("visible");
    stats.apps.into_iter().map(|app| (app.app, app.devices)).collect()
}

async fn read(channel: Channel, alert: &Submitted) -> wire::Alert {
    let request = wire::GetAlertRequest { name: alert.name.clone(), ..Default::default() };
    let answer = AlertServiceClient::new(channel).get_alert(request).await;
    answer.expect("there").into_inner()
}

/// Number of pushes of an alert by token, up to a time of the emulator's record.
async fn pushes(cluster: &Cluster, alert: &Submitted) -> BTreeMap<u64, u32> {
    let path = cluster.dir().join("record");
    cluster.emulators[0].export(&path).await.expect("exported");
    let mut pushes = BTreeMap::new();
    let record = recorded::load(&path).expect("whole");
    for entry in record.entries.iter().filter(|e| e.collapse_hash == alert.collapse_hash()) {
        assert!(entry.accepted());
        *pushes.entry(entry.token_hash).or_default() += 1;
    }
    pushes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_killed_and_nothing_acknowledged_is_lost() {
    let (folder, mut draws) = (tempfile::tempdir().expect("a folder"), Draws::new());
    let scenario = scenario(DEVICES, RATE);
    let devices = Population::new(&scenario.population, 7, DEVICES).expect("a population");
    let phones = Population::new(&scenario.population, 8, PHONES).expect("a population");
    let devices = Arc::new(devices);
    let mut cluster = Cluster::start(&durable(&folder, &devices)).await.expect("a cluster");
    let channel = connect(&cluster).await;
    alert::create_apps(channel.clone(), &devices).await.expect("created");
    create_tokens_app(channel.clone()).await;
    register_phones(channel.clone(), &phones).await;

    // The coordinator is killed while devices register; who got no answer registers again.
    let observed = clock::wall().0;
    let loading = load::load(channel, Arc::clone(&devices), observed, |_| {});
    let killed = async {
        sleep(Duration::from_millis(draws.below(200))).await;
        cluster.kill(names::COORDINATOR).await;
    };
    drop(tokio::join!(loading, killed));
    cluster.start_again(names::COORDINATOR, Started::default()).await.expect("it starts");
    let channel = connect(&cluster).await;
    load::load(channel.clone(), Arc::clone(&devices), observed, |_| {}).await.expect("written");
    let expected =
        BTreeMap::from([("apps/guardian-ios".to_owned(), DEVICES), (TOKENS.to_owned(), PHONES)]);
    assert_eq!(counted(channel.clone()).await, expected);

    let id = "0192d3a0-0000-7000-8000-000000000021".to_owned();
    let submitted = alert::alert(&scenario, &devices);
    let submitted = alert::submit(channel.clone(), submitted, id).await.expect("accepted");
    let moment = 1 + draws.below(DEVICES * 9 / 10);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let progress = read(channel.clone(), &submitted).await.progress.unwrap_or_default();
        if progress.outcomes.unwrap_or_default().accepted >= moment {
            break;
        }
        assert!(Instant::now() < deadline, "{moment} were to be accepted: {progress:?}");
        sleep(Duration::from_millis(5)).await;
    }
    kill_all(&mut cluster).await;
    let before = pushes(&cluster, &submitted).await;
    assert!(before.len() as u64 >= moment && (before.len() as u64) < DEVICES, "{}", before.len());

    start_all(&mut cluster).await;
    let channel = connect(&cluster).await;
    assert_eq!(read(channel.clone(), &submitted).await.state(), wire::State::Active);
    let watch = alert::watch(channel.clone(), &submitted.name, None, PATIENCE, |_| {});
    let ended = watch.await.expect("it ends");
    assert_eq!(ended.progress.state(), wire::State::Resolved);

    // Apps and devices are those of before, and the phones are known under the same device key.
    assert_eq!(counted(channel.clone()).await, expected);
    register_phones(channel.clone(), &phones).await;
    assert_eq!(counted(channel.clone()).await, expected);

    let pushed = pushes(&cluster, &submitted).await;
    let of_device = |n| token_hash(devices.device(n).token.as_slice());
    let missed = (0..DEVICES).filter(|n| !pushed.contains_key(&of_device(*n))).count();
    assert_eq!((missed, pushed.len() as u64), (0, DEVICES), "of the devices inside");
    for (token, count) in &pushed {
        let twice = before.contains_key(token);
        assert!(*count == 1 || (*count == 2 && twice), "{count} times; before the kill: {twice}");
    }

    // The end is durable, too.
    cluster.kill(names::COORDINATOR).await;
    cluster.start_again(names::COORDINATOR, Started::default()).await.expect("it starts");
    let ended = read(connect(&cluster).await, &submitted).await;
    let totals = ended.progress.unwrap_or_default();
    assert_eq!((ended.state(), totals.handed), (wire::State::Resolved, DEVICES));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(pushes(&cluster, &submitted).await, pushed, "nothing is sent again");
    let stopped = timeout(PATIENCE, cluster.stop(PATIENCE)).await.expect("in time");
    assert_eq!(stopped, [""; 0]);
}
