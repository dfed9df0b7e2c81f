//! A cluster is backed up while it works, all of it is lost, and the backup is restored elsewhere:
//! the same apps, alerts and devices are there, and the emulator's record shows that an alert
//! reaches every phone.

mod coordinators;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use clarion_emulator::clock;
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
        app_service_client::AppServiceClient,
    },
};
use coordinators::{PATIENCE, plan, scenario};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

/// Devices that are registered before the backup.
const DEVICES: u64 = 3_000;
/// Pushes per second of the alert that is active during the backup.
const RATE: u32 = 100;
/// Devices that register while the backup is read.
const MORE: u64 = 1_000;

async fn connect(cluster: &Cluster) -> Channel {
    drive::connect(&cluster.coordinator, PATIENCE).await.expect("it listens")
}

async fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.arg(format!("--child-of={}", std::process::id())).arg("coordinator").args(args);
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("no panic").expect("it starts")
}

/// Standard output of a command that succeeded.
async fn done(args: &[&str]) -> String {
    let output = run(args).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a command that failed.
async fn refused(args: &[&str]) -> String {
    let output = run(args).await;
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn devices(channel: &Channel, expected: u64) {
    drive::visible(channel.clone(), expected, PATIENCE).await.expect("visible");
}

async fn submit(cluster: &Cluster, population: &Population, rate: u32, last: u8) -> Submitted {
    let submitted = alert::alert(&scenario(DEVICES, rate), population);
    let id = format!("0192d3a0-0000-7000-8000-0000000000{last:02}");
    alert::submit(connect(cluster).await, submitted, id).await.expect("accepted")
}

async fn ended(cluster: &Cluster, alert: &Submitted) {
    let watch = alert::watch(connect(cluster).await, &alert.name, None, PATIENCE, |_| {});
    let ended = watch.await.expect("it ends");
    assert_eq!(ended.progress.state(), wire::State::Resolved);
}

async fn read(cluster: &Cluster, alert: &Submitted) -> wire::Alert {
    let request = wire::GetAlertRequest { name: alert.name.clone(), ..Default::default() };
    let answer = AlertServiceClient::new(connect(cluster).await).get_alert(request).await;
    answer.expect("there").into_inner()
}

/// Number of accepted pushes of an alert by token.
async fn pushes(cluster: &Cluster, alert: &Submitted) -> BTreeMap<u64, u32> {
    let path = cluster.dir().join("record");
    cluster.emulators[0].export(&path).await.expect("exported");
    let mut pushes = BTreeMap::new();
    let record = recorded::load(&path).expect("whole");
    for entry in record.entries.iter().filter(|e| e.collapse_hash == alert.collapse_hash()) {
        *pushes.entry(entry.token_hash).or_default() += u32::from(entry.accepted());
    }
    pushes
}

/// Address of a coordinator's feed port, from its configuration.
fn feed_of(config: &Path) -> String {
    let text = fs::read_to_string(config).expect("written by the cluster");
    let config: toml::Table = text.parse().expect("TOML");
    format!("http://{}", config["feed_listen"].as_str().expect("an address"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_cluster_is_restored_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("a folder");
    let scenario = scenario(DEVICES, RATE);
    let population = Population::new(&scenario.population, 7, DEVICES).expect("a population");
    let population = Arc::new(population);
    let later = Arc::new(Population::new(&scenario.population, 8, MORE).expect("a population"));
    let plan = ClusterPlan {
        nodes: 2,
        nodes_later: Vec::new(),
        store: StoreKind::Sqlite,
        snapshot_every_seconds: Some(10),
        ..plan(&path, &scenario, &population)
    };
    let mut cluster = Cluster::start(&plan).await.expect("a cluster");
    let channel = connect(&cluster).await;
    alert::create_apps(channel.clone(), &population).await.expect("created");
    load::load(channel.clone(), Arc::clone(&population), clock::wall().0, |_| {})
        .await
        .expect("written");
    devices(&channel, DEVICES).await;
    let over = submit(&cluster, &population, 0, 1).await;
    ended(&cluster, &over).await;
    // Partitions have snapshots after 10 s, give or take a quarter; the backup is to have some.
    sleep(Duration::from_secs(15)).await;

    // While devices register and an alert is on its way, everything is copied.
    let running = submit(&cluster, &population, RATE, 2).await;
    let (key, backups) = (path.join("backup.key"), path.join("backups"));
    fs::write(&key, [7; 40]).expect("written");
    let config = path.join(format!("{}.toml", names::COORDINATOR));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (config, key) = (text(&config), text(&key));
    let place = format!("file:{}", text(&backups));
    let feed = feed_of(Path::new(&config));
    let backup = ["backup", "--from", &feed, "--to", &place, "--key-file", &key];
    let writing = load::load(channel.clone(), Arc::clone(&later), clock::wall().0, |_| {});
    let (written, told) = tokio::join!(writing, done(&backup));
    written.expect("written");
    println!("{told}");
    assert!(told.contains("1 apps, 2 alerts"), "{told}");
    assert!(!told.contains(" 0 snapshots"), "{told}");
    let restore = ["restore", "--from", &place, "--key-file", &key];
    assert!(done(&[&restore[..], &["--check"]].concat()).await.contains("is whole"));
    let data = path.join(format!("{}-data", names::COORDINATOR));
    let data_dir = text(&data);
    let into = [&restore[..], &["--config", &config, "--data-dir", &data_dir]].concat();
    assert!(refused(&into).await.contains("is used by process"), "it runs");

    // All processes and the data folder are lost; the device key was kept elsewhere.
    for name in [names::node(0), names::COORDINATOR.to_owned(), names::node(1)] {
        cluster.kill(&name).await;
    }
    let pushed_before = pushes(&cluster, &running).await;
    let device_key = fs::read(data.join("device.key")).expect("made at the start");
    fs::remove_dir_all(&data).expect("removed");
    assert!(refused(&into).await.contains("device_key"), "ids depend on it");
    let _ = fs::remove_dir_all(&data);
    fs::create_dir(&data).expect("created");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("ours");
    fs::write(data.join("device.key"), device_key).expect("written");
    fs::set_permissions(data.join("device.key"), fs::Permissions::from_mode(0o600)).expect("ours");
    let told = done(&into).await;
    println!("{told}");
    assert!(told.contains(&running.name) && told.contains("are cancelled"), "{told}");
    assert!(refused(&into).await.contains("the store is not empty"), "once");

    for name in [names::node(1), names::COORDINATOR.to_owned(), names::node(0)] {
        cluster.start_again(&name, Started::default()).await.expect("it starts");
    }
    let channel = connect(&cluster).await;
    let mut apps = AppServiceClient::new(channel.clone());
    let apps = apps.list_apps(wire::ListAppsRequest::default()).await.expect("up");
    assert_eq!(apps.into_inner().apps.len(), 1);
    assert_eq!(read(&cluster, &over).await.state(), wire::State::Resolved);
    assert_eq!(read(&cluster, &running).await.state(), wire::State::Cancelled);
    // Who registered before the backup is there; who registered meanwhile registers again.
    load::load(channel.clone(), Arc::clone(&later), clock::wall().0, |_| {})
        .await
        .expect("written");
    devices(&channel, DEVICES + MORE).await;
    let last = submit(&cluster, &population, 0, 3).await;
    ended(&cluster, &last).await;
    let pushed = pushes(&cluster, &last).await;
    let of = |population: &Population, n| token_hash(population.device(n).token.as_slice());
    let expected: Vec<u64> =
        (0..DEVICES).map(|n| of(&population, n)).chain((0..MORE).map(|n| of(&later, n))).collect();
    assert_eq!(expected.iter().filter(|token| pushed.get(token) != Some(&1)).count(), 0);
    assert_eq!(pushed.len(), expected.len());
    // The alert that was on its way is not sent to anybody again.
    let until = Instant::now() + Duration::from_secs(1);
    sleep(until - Instant::now()).await;
    assert_eq!(pushes(&cluster, &running).await, pushed_before);
    let stopped = timeout(PATIENCE, cluster.stop(PATIENCE)).await.expect("in time");
    assert_eq!(stopped, [""; 0]);
}
