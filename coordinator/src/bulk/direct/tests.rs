use std::fs;

use clap::Parser;
use clarion_proto::{
    device::{Change, Record},
    ids::{LogId, Position},
    wire::shard_v1::FeedResponse,
};
use clarion_runtime::world::World;
use prost::Message;

use super::{
    super::{Target, args::ImportArgs, import, journal::Counts},
    *,
};
use crate::store::{Store, suite::app};

/// The store of a data folder, as a coordinator opens it.
async fn store(args: &ImportArgs, world: &World) -> Arc<dyn Store> {
    let StoreAt(mut config) = args.store().expect("a configuration");
    drop(state::lock_folder(&mut config).expect("free").expect("a folder"));
    state::open_store(&config, world).await.expect("a store").store
}

/// All records of a store.
async fn records(store: &dyn Store) -> Vec<Record> {
    let after: Vec<_> = (0..store.logs()).map(|log| (LogId(log), Position(0))).collect();
    let read = store.read_many(&after, usize::MAX).await.expect("readable");
    let batches = read.into_iter().flat_map(|(_, batches)| batches);
    let wire = batches
        .flat_map(|batch| FeedResponse::decode(batch.records).expect("encoded by us").records);
    wire.map(|record| Record::from_wire(record).expect("valid")).collect()
}

#[test]
fn rows_go_into_the_store_of_a_data_folder_with_the_checks_of_the_api() {
    let world = World::system();
    let folder = tempfile::tempdir().expect("a folder");
    let (file, rejects) = (folder.path().join("devices.csv"), folder.path().join("rejects.csv"));
    let data = folder.path().join("data");
    let now = world.clock().wall().0;
    let mut text = "device,token,observed,latitude,longitude,muted\n".to_owned();
    for n in 0..10_000 {
        let (latitude, muted) = match n % 1_000 {
            7 => (90.1, ""),
            8 => (22.54, "true"),
            _ => (22.54, ""),
        };
        text += &format!("phone-{n},{n:08x},{now},{latitude},114.06,{muted}\n");
    }
    fs::write(&file, text).expect("written");
    let arguments = [
        "import".as_ref(),
        file.as_os_str(),
        "--data-dir".as_ref(),
        data.as_os_str(),
        "--app=apps/demo".as_ref(),
        "--rejects".as_ref(),
        rejects.as_os_str(),
    ];
    let args = ImportArgs::try_parse_from(arguments).expect("valid");
    let runtime = tokio::runtime::Runtime::new().expect("started");
    runtime.block_on(async {
        let store = store(&args, &world).await;
        store.create_app(app("demo")).await.expect("created");
        let refused = Direct::open(args.store().expect("valid"), &world).await;
        let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.starts_with("store: "), "a coordinator uses it: {refused}");
        store.close().await;
    });
    let counts = import(&args, Target::Store(args.store().expect("valid"))).expect("imported");
    assert_eq!(counts, Counts { written: 9_990, rejected: 10, warned: 0 });
    let store = runtime.block_on(store(&args, &world));
    let records = runtime.block_on(records(&*store));
    let muted = records.iter().filter(|record| record.change == Change::Mute(true)).count();
    let arrived = |record: &&Record| matches!(record.change, Change::Arrival(..));
    assert_eq!((muted, records.iter().filter(arrived).count()), (10, 9_990));
    let told = fs::read_to_string(rejects).expect("written");
    assert_eq!(told.lines().count(), 11);
    assert!(told.contains(",9,latitude,"), "{told}");
}
