use std::fs;

use clap::Parser;
use clarion_proto::{device::Change, wire::shard_v1::FeedResponse};
use clarion_runtime::world::World;
use futures_util::FutureExt;
use prost::Message;

use super::{
    super::{Target, args::ImportArgs, import, journal::Counts},
    *,
};
use crate::store::{memory::MemoryStore, suite::app};
use clarion_proto::{
    device::Record,
    ids::{LogId, Position},
};

/// All records of a store.
fn records(store: &MemoryStore) -> Vec<Record> {
    let after: Vec<_> = (0..store.logs()).map(|log| (LogId(log), Position(0))).collect();
    let read = store.read_many(&after, usize::MAX).now_or_never().expect("in memory");
    let batches = read.expect("readable").into_iter().flat_map(|(_, batches)| batches);
    let wire = batches
        .flat_map(|batch| FeedResponse::decode(batch.records).expect("encoded by us").records);
    wire.map(|record| Record::from_wire(record).expect("valid")).collect()
}

#[test]
fn rows_go_into_a_store_with_the_checks_of_the_api() {
    let world = World::system();
    let store = Arc::new(MemoryStore::new(8, 1 << 30, &world));
    store.create_app(app("demo")).now_or_never().expect("in memory").expect("created");
    let direct = Direct {
        apps: Arc::clone(&store) as _,
        log: Arc::clone(&store) as _,
        device_key: DeviceKey::random(),
        partitions: 64,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (file, rejects) = (folder.path().join("devices.csv"), folder.path().join("rejects.csv"));
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
        "--to=http://127.0.0.1:1".as_ref(),
        "--app=apps/demo".as_ref(),
        "--rejects".as_ref(),
        rejects.as_os_str(),
    ];
    let args = ImportArgs::try_parse_from(arguments).expect("valid");
    let counts = import(&args, &Target::Store(direct)).expect("imported");
    assert_eq!(counts, Counts { written: 9_990, rejected: 10, warned: 0 });
    let records = records(&store);
    let muted = records.iter().filter(|record| record.change == Change::Mute(true)).count();
    let arrived = |record: &&Record| matches!(record.change, Change::Arrival(..));
    assert_eq!((muted, records.iter().filter(arrived).count()), (10, 9_990));
    let told = fs::read_to_string(rejects).expect("written");
    assert_eq!(told.lines().count(), 11);
    assert!(told.contains(",9,latitude,"), "{told}");
}
