//! Ages through the real processes: a place of a year ago is not alerted by default, and is alerted
//! if the alert asks for it; a phone that reports during the alert is alerted exactly once; an FCM
//! registration of a year ago is gone once a coordinator has written the limit of expiry.
//!
//! The emulators' record is the judge.

mod coordinators;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use clarion_coordinator::store::memory::MemoryStore;
use clarion_emulator::{Platform, clock};
use clarion_loadgen::{
    cluster::{Cluster, Started},
    drive::{
        self,
        alert::{self, Submitted},
        load,
    },
    names,
    population::Population,
    scenario::Scenario,
    verdict::{ledger::Fate, recorded::Recorded},
};
use clarion_proto::wire::v1::{self as wire, registry_service_client::RegistryServiceClient};
use clarion_runtime::world::World;
use coordinators::{PATIENCE, Process, plan};
use tokio::time::Instant;
use tonic::transport::Channel;

const DEVICES: u64 = 900;
const DAY_MS: u64 = 24 * 3_600_000;
/// Pushes per second of the alert during which phones report: it takes some three seconds.
const RATE: u32 = 100;

const SCENARIO: &str = r#"
name = "ages"
description = "Places and registrations of a year ago"
seed = 7
devices = 900
nodes = 1
[population]
apps = [
  { name = "guardian-ios", platform = "apns" },
  { name = "guardian-android", platform = "fcm" },
]
[[population.areas]]
kind = "disc"
share = 1.0
center = { latitude = 22.543, longitude = 114.058 }
radius_meters = 20_000
[alert]
max_rate_per_second = 0
[alert.region]
kind = "circle"
center = { latitude = 22.543, longitude = 114.058 }
radius_meters = 25_000
[expect]
"#;

/// Reports the present place of devices, which is the same as a year ago.
async fn report(channel: &Channel, population: &Population, devices: impl Iterator<Item = u64>) {
    let seen = prost_types::Timestamp {
        seconds: i64::try_from(clock::wall().0 / 1_000).expect("a time"),
        nanos: 0,
    };
    let change = |n| {
        let device = population.device(n);
        let (latitude, longitude) = (device.place.latitude, device.place.longitude);
        let point = wire::place::Place::Point(wire::LatLng { latitude, longitude });
        wire::DeviceChange {
            device: uuid::Uuid::from_bytes(device.id).to_string(),
            observe_time: Some(seen),
            change: Some(wire::device_change::Change::Place(wire::Place {
                place: Some(point),
                datum: 0,
            })),
            token_device: None,
        }
    };
    let changes = devices.map(change).collect();
    let batch = wire::WriteDevicesRequest { batch_id: 1, changes, ..Default::default() };
    let client = RegistryServiceClient::new(channel.clone());
    load::write(client, std::iter::once(batch), |_| {}).await.expect("written");
}

/// Number of accepted pushes of each device.
async fn pushes(cluster: &Cluster, population: &Population, folder: &Path) -> BTreeMap<u64, usize> {
    let platforms = population.platforms();
    let mut files = Vec::new();
    for (platform, emulator) in platforms.iter().zip(&cluster.emulators) {
        let path = folder.join(format!("record-{platform:?}"));
        emulator.export(&path).await.expect("exported");
        files.push((*platform, path));
    }
    let read = files.iter().map(|(platform, path)| (*platform, path.as_path()));
    let ledger = Recorded::read(read).expect("whole").ledger;
    let of_device = |n| {
        let of = ledger.of(population.device(n).token.hash());
        (n, of.iter().filter(|push| push.fate == Fate::Accepted).count())
    };
    (0..population.count()).map(of_device).filter(|(_, pushes)| *pushes > 0).collect()
}

async fn submitted(channel: &Channel, alert: wire::Alert, number: u32) -> Submitted {
    let id = format!("0192d3a0-0000-7000-8000-00000000{number:04}");
    alert::submit(channel.clone(), alert, id).await.expect("accepted")
}

async fn ended(channel: &Channel, name: &str) {
    let watch = alert::watch(channel.clone(), name, None, PATIENCE, |_| {});
    let ended = watch.await.expect("it ends");
    assert_eq!(ended.progress.state(), wire::State::Resolved);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_places_and_registrations_are_left_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().canonicalize().expect("a folder");
    let scenario = Scenario::parse("ages", SCENARIO).expect("a scenario");
    let population =
        Population::new(&scenario.population, scenario.seed, DEVICES).expect("a population");
    let population = Arc::new(population);
    let plan = plan(&folder, &scenario, &population);
    let mut cluster = Cluster::start(&plan).await.expect("a cluster");
    // The coordinator of the cluster ends for those of this process, which share a store.
    cluster.kill(names::COORDINATOR).await;
    let (file, world) = (folder.join("coordinator.toml"), World::system());
    let store = Arc::new(MemoryStore::new(64, 1 << 30, &world));
    // The first coordinator writes no limits, so that only the second one expires anything.
    let without = folder.join("without-expiry.toml");
    let text = std::fs::read_to_string(&file).expect("a file");
    std::fs::write(&without, format!("registration_expiry_days_fcm = 0\n{text}")).expect("written");
    let first = Process::start(&without, &store, world).await;
    cluster.start_again(&names::node(0), Started::default()).await.expect("it starts");
    let channel = first.channel.clone();
    alert::create_apps(channel.clone(), &population).await.expect("created");
    let year_ago = clock::wall().0 - 365 * DAY_MS;
    load::load(channel.clone(), Arc::clone(&population), year_ago, |_| {}).await.expect("imported");
    report(&channel, &population, (0..DEVICES).filter(|n| n % 3 == 0)).await;
    drive::visible(channel.clone(), DEVICES, PATIENCE).await.expect("visible");

    // By default the third that was seen is alerted, and during the alert another third is seen.
    let ordinary = alert::alert(&scenario, &population);
    let slow = wire::Alert { max_rate_per_second: RATE, ..ordinary.clone() };
    let made = submitted(&channel, slow, 1).await;
    first.until_accepted(&made.name, DEVICES / 9).await;
    report(&channel, &population, (0..DEVICES).filter(|n| n % 3 == 1)).await;
    ended(&channel, &made.name).await;
    let told = pushes(&cluster, &population, &folder).await;
    let expected = (0..DEVICES).filter(|n| n % 3 != 2).map(|n| (n, 1)).collect();
    assert_eq!(told, expected, "once each");

    // An alert for every place reaches the last third, too.
    let mut of_all = ordinary.clone();
    let within = Some(prost_types::Duration { seconds: 400 * 24 * 3_600, nanos: 0 });
    of_all.audience.as_mut().expect("set").place_seen_within = within;
    let made = submitted(&channel, of_all.clone(), 2).await;
    ended(&channel, &made.name).await;
    let told = pushes(&cluster, &population, &folder).await;
    let expected = (0..DEVICES).map(|n| (n, if n % 3 == 2 { 1 } else { 2 })).collect();
    assert_eq!(told, expected);

    // Another coordinator writes the limit when it starts. Registrations of FCM that were not seen
    // for 270 days get nothing from then on, those of APNs stay.
    first.crash().await;
    let second = Process::start(&file, &store, World::system()).await;
    let channel = second.channel.clone();
    let deadline = Instant::now() + PATIENCE;
    drive::visible(channel.clone(), 1, PATIENCE).await.expect("visible");
    // It does so once a phone has shown that its clock is right.
    report(&channel, &population, 0..1).await;
    let made = loop {
        assert!(Instant::now() < deadline, "no limit took effect");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let counted = alert::preview(channel.clone(), of_all.clone()).await.unwrap_or_default();
        if (1..DEVICES).contains(&counted) {
            break submitted(&channel, of_all.clone(), 3).await;
        }
    };
    ended(&channel, &made.name).await;
    let told = pushes(&cluster, &population, &folder).await;
    let expired = |n| n % 3 == 2 && population.device(n).platform == Platform::Fcm;
    let before = |n| if n % 3 == 2 { 1 } else { 2 };
    let expected: BTreeMap<_, _> =
        (0..DEVICES).map(|n| (n, before(n) + usize::from(!expired(n)))).collect();
    assert_eq!(told, expected);

    // The sweep follows with the next changes.
    let left = (0..DEVICES).filter(|n| !expired(*n)).count() as u64;
    for _ in 0..4 {
        report(&channel, &population, (0..DEVICES).filter(|n| !expired(*n))).await;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = RegistryServiceClient::new(channel.clone());
        let stats = client.get_registry_stats(wire::GetRegistryStatsRequest {}).await;
        let devices = stats.expect("told").into_inner().devices;
        if devices == left {
            break;
        }
        assert!(Instant::now() < deadline, "{devices} devices, {left} are left");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    second.crash().await;
    assert_eq!(cluster.stop(PATIENCE).await, [""; 0]);
}
