//! A coordinator crashes in the middle of an alert whose lane has a quota, and starts again over
//! the same store: no minute of the emulator's record exceeds the quota, and no device is
//! missed or alerted twice.

mod coordinators;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_coordinator::store::memory::MemoryStore;
use clarion_emulator::{clock, record::Record};
use clarion_loadgen::{
    cluster::{Cluster, Started},
    drive::{self, alert},
    names,
    population::Population,
    verdict::recorded,
};
use clarion_proto::wire::v1 as wire;
use clarion_runtime::world::World;
use coordinators::{PATIENCE, Process, plan, scenario};
use tokio::time::{sleep, timeout};

/// With the quota, the alert takes some 80 seconds: more than a minute, at any offset.
const DEVICES: u64 = 2_600;
const QUOTA_PER_MINUTE: u32 = 2_400;
const MINUTE_US: u64 = 60_000_000;

/// Requests in the window of a minute in which there were the most.
fn most_in_a_minute(times_us: &[u64]) -> usize {
    let until = |from: u64| times_us.partition_point(|at| *at < from + MINUTE_US);
    times_us.iter().enumerate().map(|(i, from)| until(*from) - i).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_in_the_middle_of_an_alert_keep_the_quota() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().canonicalize().expect("a folder");
    let scenario = scenario(DEVICES, 0);
    let population =
        Population::new(&scenario.population, scenario.seed, DEVICES).expect("a population");
    let population = Arc::new(population);
    let plan = plan(&folder, &scenario, &population);
    // The coordinator of the cluster makes room for those of this process.
    let mut cluster = Cluster::start(&plan).await.expect("a cluster");
    cluster.kill(names::COORDINATOR).await;
    let file = folder.join("coordinator.toml");
    let text = std::fs::read_to_string(&file).expect("a file");
    let mut table: toml::Table = text.parse().expect("TOML");
    for gateway in table["gateways"].as_array_mut().expect("gateways") {
        let gateway = gateway.as_table_mut().expect("a gateway");
        gateway.insert("quota_per_minute".to_owned(), i64::from(QUOTA_PER_MINUTE).into());
        gateway.insert("ramp_ms".to_owned(), 5_000.into());
    }
    std::fs::write(&file, toml::to_string(&table).expect("TOML")).expect("a folder");
    let world = World::system();
    let store = Arc::new(MemoryStore::new(64, 1 << 30, &world));
    let mut process = Process::start(&file, &store, world).await;
    cluster.start_again(&names::node(0), Started::default()).await.expect("it starts");
    alert::create_apps(process.channel.clone(), &population).await.expect("created");
    let (channel, loaded) = (process.channel.clone(), Arc::clone(&population));
    let loading = drive::load::load(channel, loaded, clock::wall().0, |_| {});
    timeout(PATIENCE, loading).await.expect("in time").expect("loaded");
    drive::visible(process.channel.clone(), DEVICES, PATIENCE).await.expect("visible");

    let id = "0192d3a0-0000-7000-8000-000000000031".to_owned();
    let submitted = alert::alert(&scenario, &population);
    let submitted = alert::submit(process.channel.clone(), submitted, id).await.expect("accepted");
    // At once, within a lease; and long after the leases of the former process have ended.
    for (accepted, away_ms) in [(DEVICES / 8, 0), (DEVICES / 4, 0), (DEVICES / 2, 7_000)] {
        process.until_accepted(&submitted.name, accepted).await;
        process.crash().await;
        sleep(Duration::from_millis(away_ms)).await;
        process = Process::start(&file, &store, World::system()).await;
    }
    let watch = alert::watch(process.channel.clone(), &submitted.name, None, 3 * PATIENCE, |_| {});
    let ended = watch.await.expect("it ends");
    assert_eq!(ended.progress.state(), wire::State::Resolved);

    let path = folder.join("record");
    cluster.emulators[0].export(&path).await.expect("exported");
    let Record { entries, .. } = recorded::load(&path).expect("whole");
    let mut pushes: BTreeMap<u64, u32> = BTreeMap::new();
    for entry in &entries {
        assert!(entry.accepted());
        *pushes.entry(entry.token_hash).or_default() += 1;
    }
    let repeated = pushes.values().filter(|pushes| **pushes > 1).count();
    let missed = DEVICES - pushes.len() as u64;
    assert_eq!((missed, repeated), (0, 0));
    let mut times: Vec<u64> = entries.iter().map(|entry| entry.time_us).collect();
    times.sort_unstable();
    let minute = most_in_a_minute(&times);
    println!("{minute} of {QUOTA_PER_MINUTE} requests in the fullest minute");
    assert!(minute <= QUOTA_PER_MINUTE as usize, "{minute} in a minute");
    assert!(minute >= QUOTA_PER_MINUTE as usize / 2, "{minute}: the test shows little");
    process.crash().await;
    assert_eq!(cluster.stop(PATIENCE).await, [""; 0]);
}
