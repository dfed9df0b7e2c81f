//! Several coordinators over one store, with sessions at one node at the same time: a real node, a
//! real emulator, and the emulator's record as the judge.
//!
//! Two coordinators run an alert each, through one lane with a quota. Then a third one starts in
//! the middle of an alert of the first, which is alive, and takes the alert over.

mod coordinators;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use clarion_coordinator::store::{AlertStore as _, ClusterStore as _, memory::MemoryStore};
use clarion_emulator::{clock, record::Record};
use clarion_loadgen::{
    cluster::{Cluster, Started, ports},
    drive::{self, alert},
    names,
    population::Population,
    verdict::recorded,
};
use clarion_proto::{
    ids::{AlertName, Epoch},
    wire::v1::{self as wire, alert_service_client::AlertServiceClient},
};
use clarion_runtime::world::World;
use coordinators::{PATIENCE, Process, plan, scenario};
use tokio::time::timeout;
use tonic::{Code, transport::Channel};

const DEVICES: u64 = 1_000;
/// Requests that the lane's quota allows in any minute.
const QUOTA_PER_MINUTE: u32 = 9_000;
/// What all slices together allow: (9,000 - 150) / 62 s, and a burst of a second's worth.
const RATE: f64 = 143.0;
const BURST: f64 = 150.0;
const SECOND_US: u64 = 1_000_000;

/// The file of another coordinator: the first one's with other ports, and the quota for its lane.
fn file_of(first: &Path, name: &str, addresses: Option<[String; 2]>) -> std::path::PathBuf {
    let text = std::fs::read_to_string(first).expect("a file");
    let mut file: toml::Table = text.parse().expect("TOML");
    if let Some([listen, feed_listen]) = addresses {
        file.insert("listen".to_owned(), listen.into());
        file.insert("feed_listen".to_owned(), feed_listen.into());
    }
    for gateway in file["gateways"].as_array_mut().expect("gateways") {
        let gateway = gateway.as_table_mut().expect("a gateway");
        gateway.insert("quota_per_minute".to_owned(), i64::from(QUOTA_PER_MINUTE).into());
    }
    let path = first.with_file_name(name);
    std::fs::write(&path, toml::to_string(&file).expect("TOML")).expect("a folder");
    path
}

/// Requests in the window of this length in which there were the most.
fn most_within(times_us: &[u64], window_us: u64) -> usize {
    let until = |from: u64| times_us.partition_point(|at| *at < from + window_us);
    times_us.iter().enumerate().map(|(i, from)| until(*from) - i).max().unwrap_or(0)
}

/// The status with which the watch of an alert ends, or is refused.
async fn watch_ends(channel: Channel, name: &str) -> tonic::Status {
    let mut client = AlertServiceClient::new(channel);
    let request = wire::WatchAlertRequest { name: name.to_owned(), cells: false };
    let watched = async {
        let mut updates = client.watch_alert(request).await?.into_inner();
        while updates.message().await?.is_some() {}
        Err(tonic::Status::ok("it ended as if the alert had"))
    };
    let ended: Result<(), tonic::Status> = timeout(PATIENCE, watched).await.expect("in time");
    ended.expect_err("a status")
}

async fn resolved(process: &Process, name: &str) {
    let watch = alert::watch(process.channel.clone(), name, None, 2 * PATIENCE, |_| {});
    let ended = watch.await.expect("it ends");
    let progress = ended.progress.progress.expect("always");
    assert_eq!(ended.progress.state(), wire::State::Resolved);
    let accepted = progress.outcomes.expect("always").accepted;
    assert_eq!((progress.handed, accepted, progress.open), (DEVICES, DEVICES, 0), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_coordinators_share_a_node_and_a_third_takes_an_alert_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().canonicalize().expect("a folder");
    let scenario = scenario(DEVICES, 0);
    let population =
        Population::new(&scenario.population, scenario.seed, DEVICES).expect("a population");
    let population = Arc::new(population);
    let plan = plan(&folder, &scenario, &population);
    // The coordinator of the cluster makes room for those of this process, before the node meets
    // it.
    let mut cluster = Cluster::start(&plan).await.expect("a cluster");
    cluster.kill(names::COORDINATOR).await;
    let claimed = ports::claim(4).expect("free ports");
    let addresses = |at: usize| Some([claimed[at].address(), claimed[at + 1].address()]);
    let file = folder.join("coordinator.toml");
    let files = [
        file_of(&file, "first.toml", None),
        file_of(&file, "second.toml", addresses(0)),
        file_of(&file, "third.toml", addresses(2)),
    ];
    let started = World::system();
    let store = Arc::new(MemoryStore::new(64, 1 << 30, &started));
    let first = Process::start(&files[0], &store, started).await;
    let second = Process::start(&files[1], &store, World::system()).await;
    cluster.start_again(&names::node(0), Started::default()).await.expect("it starts");
    alert::create_apps(first.channel.clone(), &population).await.expect("created");
    let (channel, loaded) = (first.channel.clone(), Arc::clone(&population));
    let loading = drive::load::load(channel, loaded, clock::wall().0, |_| {});
    timeout(PATIENCE, loading).await.expect("in time").expect("loaded");
    for process in [&first, &second] {
        drive::visible(process.channel.clone(), DEVICES, PATIENCE).await.expect("visible");
    }

    // Both at once, each by its own coordinator.
    let submit = |process: &Process, number: u8| {
        let alert = alert::alert(&scenario, &population);
        let id = format!("0192d3a0-0000-7000-8000-0000000000{number:02}");
        alert::submit(process.channel.clone(), alert, id)
    };
    let of_first = submit(&first, 1).await.expect("accepted");
    let of_second = submit(&second, 2).await.expect("accepted");
    first.until_accepted(&of_first.name, 1).await;
    second.until_accepted(&of_second.name, 1).await;
    // Neither knows anything of the other one's progress.
    for (process, other) in [(&first, &of_second), (&second, &of_first)] {
        assert_eq!(
            watch_ends(process.channel.clone(), &other.name).await.code(),
            Code::Unavailable
        );
        let progress = process.alert(&other.name).await.progress.unwrap_or_default();
        assert_eq!(progress.handed, 0, "its reports go to its own coordinator");
    }
    tokio::join!(resolved(&first, &of_first.name), resolved(&second, &of_second.name));

    // The third one starts in the middle of an alert of the first.
    let taken = submit(&first, 3).await.expect("accepted");
    first.until_accepted(&taken.name, DEVICES / 8).await;
    let (channel, name) = (first.channel.clone(), taken.name.clone());
    let watching = tokio::spawn(async move { watch_ends(channel, &name).await });
    let third = Process::start(&files[2], &store, World::system()).await;
    let status = watching.await.expect("no panic");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("another coordinator directs"), "{status}");
    resolved(&third, &taken.name).await;
    let name = AlertName::from_name(&taken.name).expect("a name");
    let record = store.alert(&name).await.expect("memory").expect("there");
    assert_eq!((record.epoch, record.plan.is_none()), (Epoch(2), true), "taken over once");
    let director = store.lane_director().await.expect("memory").expect("there");
    assert_eq!(director.epoch, Epoch(3), "every coordinator that started");

    let path = folder.join("record");
    cluster.emulators[0].export(&path).await.expect("exported");
    let Record { entries, .. } = recorded::load(&path).expect("whole");
    for submitted in [&of_first, &of_second, &taken] {
        let mut pushes: BTreeMap<u64, u32> = BTreeMap::new();
        let of_alert = entries.iter().filter(|e| e.collapse_hash == submitted.collapse_hash());
        for entry in of_alert {
            assert!(entry.accepted());
            *pushes.entry(entry.token_hash).or_default() += 1;
        }
        let repeated = pushes.values().filter(|pushes| **pushes > 1).count();
        let missed = DEVICES - pushes.len() as u64;
        assert_eq!((missed, repeated), (0, 0), "{}", submitted.name);
    }
    let mut times: Vec<u64> = entries.iter().map(|entry| entry.time_us).collect();
    times.sort_unstable();
    let minute = most_within(&times, 60 * SECOND_US);
    assert!(minute <= QUOTA_PER_MINUTE as usize, "{minute} in a minute");
    // A minute of this test is not full: the slices' own bound shows a quota that was given twice.
    // A second more is for requests that were delayed on their way.
    let (ten, bound) = (most_within(&times, 10 * SECOND_US), BURST + RATE * 11.0);
    #[allow(clippy::cast_precision_loss)] // thousands
    let within = ten as f64 <= bound;
    assert!(within, "{ten} in 10 s, at most {bound}");
    for process in [first, second, third] {
        process.crash().await;
    }
    assert_eq!(cluster.stop(PATIENCE).await, [""; 0]);
}
