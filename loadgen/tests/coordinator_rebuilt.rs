//! The coordinator is destroyed twice in the middle of a wave and built again over the same store,
//! within this process. The node, the emulator and the emulator's record are real.
//!
//! A process of a coordinator is a runtime of its own here. When the runtime is dropped, all its
//! tasks and sockets end at once, as in a crash. Only the store stays.

mod coordinators;

use std::{collections::BTreeMap, sync::Arc};

use clarion_coordinator::store::{AlertStore as _, memory::MemoryStore};
use clarion_emulator::{Platform, clock};
use clarion_loadgen::{
    cluster::{Cluster, Started},
    drive::{self, alert},
    names,
    population::Population,
    verdict::{ledger::Fate, recorded::Recorded},
};
use clarion_proto::{
    ids::{AlertName, Epoch},
    wire::v1 as wire,
};
use clarion_runtime::world::World;
use coordinators::{PATIENCE, Process, plan, scenario};
use tokio::time::timeout;

const DEVICES: u64 = 4_000;
/// Pushes per second: the wave takes some ten seconds.
const RATE: u32 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wave_goes_on_over_two_crashes_of_its_coordinator() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().canonicalize().expect("a folder");
    let scenario = scenario(DEVICES, RATE);
    let population =
        Population::new(&scenario.population, scenario.seed, DEVICES).expect("a population");
    let population = Arc::new(population);
    let plan = plan(&folder, &scenario, &population);
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
