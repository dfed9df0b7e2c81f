//! Snapshots over the wire: nodes that save and load, and nodes that do as they should not.

use std::{path::Path, sync::Arc, time::Duration};

use clarion_coordinator::{
    Coordinator,
    archive::record::{SnapshotId, object},
    config::{Args, Config},
    objects::Objects,
    owners::{NodeName, Ownership},
    seal::{Generation, KEY_BYTES, Seals},
    state::Kept,
    store::{RecordBatch, Store, StoreError, memory::MemoryStore, open, sql::MadeFor},
};
use clarion_proto::{
    device::{Change, Record},
    ids::{ClusterName, DeviceId, LogId, PartitionId, Position, UnixMillis},
    wire::shard_v1::{
        self as wire, save_snapshot_request::Part, snapshot_service_client::SnapshotServiceClient,
    },
};
use clarion_runtime::{
    channel::{self, ChannelLimits},
    world::{Clock, Pipes, World},
};
use futures_util::{Stream, StreamExt, stream};
use tonic::{Code, Status, transport::Channel};
use xxhash_rust::xxh3::xxh3_64;

use crate::support::{Server, busy, config, field, soon};

const NODE: &str = "node-1";
const PIECE: usize = 1 << 20;

fn args() -> Args {
    Args { partitions: Some(4), logs: Some(2), ..Args::default() }
}

/// A server whose node owns every partition, with some batches in each log.
async fn server() -> Server {
    prepared(Server::start_with(args()).await).await
}

async fn prepared(server: Server) -> Server {
    let nodes = [NodeName::new(NODE).expect("valid")];
    let owned = Ownership::assign(1, 4, &nodes);
    server.kept.store.replace_ownership(owned).await.expect("the first");
    grow(&server, 10).await;
    server
}

/// Appends some batches to each log.
async fn grow(server: &Server, batches: u8) {
    for n in 0..batches {
        let record = Record {
            device: DeviceId([n; 16]),
            observed: UnixMillis(1),
            change: Change::Mute(true),
        };
        let records = [record];
        let both = [0, 1].map(|log| (LogId(log), RecordBatch::from_records(&records)));
        server.context.log.append_all(both.to_vec()).await.expect("room");
    }
}

async fn client(server: &Server) -> SnapshotServiceClient<Channel> {
    SnapshotServiceClient::new(server.feeds().await)
}

fn caller(server: &Server) -> wire::SnapshotCaller {
    wire::SnapshotCaller {
        node: NODE.to_owned(),
        cluster: ClusterName::DEFAULT.to_owned(),
        log_identity: server.context.log.identity().to_wire(),
    }
}

fn content(partition: u16, length: usize) -> Vec<u8> {
    let mut content = b"CLARPART\x02\0".to_vec();
    content.extend_from_slice(&partition.to_le_bytes());
    content.extend((0..length - 12).map(|i| u8::try_from(i * i % 251).expect("small")));
    content
}

fn part(part: Part) -> wire::SaveSnapshotRequest {
    wire::SaveSnapshotRequest { part: Some(part) }
}

fn start(server: &Server, partition: u32, position: u64) -> Part {
    let caller = Some(caller(server));
    Part::Start(wire::SaveSnapshotStart { caller, partition, position, ownership: 1 })
}

fn end(content: &[u8]) -> Part {
    Part::End(wire::SaveSnapshotEnd { bytes: content.len() as u64, hash: xxh3_64(content) })
}

/// The parts of a save as a node sends them.
fn parts(server: &Server, partition: u16, position: u64, content: &[u8]) -> Vec<Part> {
    let pieces = content.chunks(PIECE).map(|piece| Part::Data(piece.to_vec().into()));
    let start = start(server, partition.into(), position);
    std::iter::once(start).chain(pieces).chain([end(content)]).collect()
}

async fn send(
    server: &Server,
    messages: impl Stream<Item = Part> + Send + 'static,
) -> Result<wire::Snapshot, Status> {
    let saved = soon(client(server).await.save_snapshot(messages.map(part))).await?;
    Ok(saved.into_inner().snapshot.expect("the stored one"))
}

async fn save(
    server: &Server,
    partition: u16,
    position: u64,
    content: &[u8],
) -> Result<wire::Snapshot, Status> {
    send(server, stream::iter(parts(server, partition, position, content))).await
}

async fn list(server: &Server, partitions: Vec<u32>) -> wire::ListSnapshotsResponse {
    let request = wire::ListSnapshotsRequest { caller: Some(caller(server)), partitions };
    soon(client(server).await.list_snapshots(request)).await.expect("valid").into_inner()
}

async fn load(server: &Server, partition: u32, id: Vec<u8>) -> Result<Vec<u8>, Status> {
    let request = wire::LoadSnapshotRequest { caller: Some(caller(server)), partition, id };
    let stream = soon(client(server).await.load_snapshot(request)).await?;
    let (mut stream, mut whole) = (stream.into_inner(), Vec::new());
    while let Some(message) = soon(stream.message()).await? {
        assert!((1..=PIECE).contains(&message.data.len()));
        whole.extend_from_slice(&message.data);
    }
    Ok(whole)
}

async fn objects(server: &Server) -> usize {
    server.kept.objects.list("snapshots").await.expect("up").len()
}

/// Waits until the objects are this number.
async fn objects_become(server: &Server, number: usize) {
    soon(async {
        while objects(server).await != number {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_node_saves_another_one_lists_and_loads() {
    let server = server().await;
    let whole = content(3, 9 * PIECE + 17);
    let saved = save(&server, 3, 7, &whole).await.expect("stored");
    assert_eq!((saved.partition, saved.position, saved.bytes), (3, 7, whole.len() as u64));
    let listed = list(&server, vec![3, 0, 3]).await;
    assert_eq!(listed.snapshots, std::slice::from_ref(&saved));
    assert_eq!(listed.policy.expect("set").interval_ms, 600_000);
    assert!(load(&server, 3, saved.id.clone()).await.expect("whole") == whole);
    assert_eq!(objects(&server).await, 3);
    let newer = save(&server, 3, 9, &whole[..PIECE]).await.expect("stored");
    let listed = list(&server, vec![3]).await;
    assert_eq!(listed.snapshots, [newer, saved], "the newest first");
}

#[tokio::test]
async fn what_is_not_as_documented_is_refused_and_leaves_nothing() {
    let server = server().await;
    let whole = content(3, 5 * PIECE);
    let refused = async |messages: Vec<Part>| {
        let status = send(&server, stream::iter(messages)).await.expect_err("must be refused");
        objects_become(&server, 0).await;
        status
    };
    let valid = || parts(&server, 3, 7, &whole);
    let spoiled = |at: usize, part: Part| {
        let mut messages = valid();
        messages[at] = part;
        messages
    };
    let last = valid().len() - 1;
    let hash = Part::End(wire::SaveSnapshotEnd { bytes: whole.len() as u64, hash: 1 });
    assert_eq!(field(&refused(spoiled(last, hash)).await), "end.hash");
    let bytes = Part::End(wire::SaveSnapshotEnd { bytes: 1, hash: xxh3_64(&whole) });
    assert_eq!(field(&refused(spoiled(last, bytes)).await), "end.bytes");
    assert_eq!(field(&refused(valid()[..last].to_vec()).await), "end");
    assert_eq!(field(&refused(spoiled(2, start(&server, 3, 7))).await), "start");
    assert_eq!(field(&refused(valid()[1..].to_vec()).await), "start");
    assert_eq!(field(&refused(vec![]).await), "end");
    let long = Part::Data(vec![0; PIECE + 1].into());
    assert_eq!(field(&refused(spoiled(2, long)).await), "data");
    let huge = Part::Data(vec![0; 2 * PIECE].into());
    assert_eq!(refused(spoiled(2, huge)).await.code(), Code::InvalidArgument);
    assert_eq!(field(&refused(spoiled(1, Part::Data(vec![].into()))).await), "data");
    assert_eq!(field(&refused(parts(&server, 2, 7, &whole)).await), "data", "of partition 3");
    for (partition, position, wrong) in
        [(4, 7, "start.partition"), (65_535, 7, "start.partition"), (3, 0, "start.position")]
    {
        let status = refused(spoiled(0, start(&server, partition, position))).await;
        assert_eq!(field(&status), wrong);
    }
    let ahead = refused(spoiled(0, start(&server, 3, 11))).await;
    assert_eq!(ahead.code(), Code::OutOfRange);
    let with = |change: fn(&mut wire::SaveSnapshotStart)| {
        let Part::Start(mut start) = start(&server, 3, 7) else { unreachable!() };
        change(&mut start);
        spoiled(0, Part::Start(start))
    };
    let set: [fn(&mut wire::SaveSnapshotStart); 4] = [
        |start| start.ownership = 2,
        |start| start.caller.as_mut().expect("set").node = "node-2".to_owned(),
        |start| start.caller.as_mut().expect("set").cluster = "other".to_owned(),
        |start| start.caller.as_mut().expect("set").log_identity = vec![7; 16],
    ];
    for change in set {
        let status = refused(with(change)).await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    }
    assert_eq!(field(&refused(with(|start| start.caller = None)).await), "caller");
    save(&server, 3, 7, &whole).await.expect("as documented");
    let same = save(&server, 3, 7, &whole).await.expect_err("the same position");
    assert_eq!(same.code(), Code::Aborted);
    let gone = load(&server, 3, vec![9; 16]).await.expect_err("no such id");
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(field(&load(&server, 3, vec![9]).await.expect_err("short")), "id");
}

#[tokio::test]
async fn a_node_that_goes_away_leaves_nothing_and_frees_its_place() {
    let server = server().await;
    let whole = content(0, 5 * PIECE);
    for _ in 0..9 {
        // More than there are places: each one is free again.
        let begun = parts(&server, 0, 7, &whole).into_iter().take(5);
        let endless = stream::iter(begun).chain(stream::pending());
        let saving = send(&server, endless);
        let written = objects_become(&server, 1);
        tokio::select! {
            saved = saving => panic!("{saved:?}"),
            () = written => {}
        }
        objects_become(&server, 0).await;
    }
    save(&server, 0, 7, &whole).await.expect("a place is free");
}

#[tokio::test]
async fn one_peer_has_half_of_the_places_and_a_stop_ends_its_saves() {
    let server = server().await;
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    for partition in 0..4 {
        let begun = stream::iter([start(&server, partition, 7)]).chain(stream::pending());
        let mut client = client(&server).await;
        let mut saving = Box::pin(async move { client.save_snapshot(begun.map(part)).await });
        match tokio::time::timeout(Duration::from_millis(300), &mut saving).await {
            Ok(status) => refused.push(status.expect_err("no place")),
            Err(_) => open.push(saving),
        }
    }
    assert_eq!((open.len(), refused.len()), (2, 2));
    assert_eq!(busy(&refused[0]), (Code::ResourceExhausted, "SAVES_BUSY".to_owned()));
    server.context.drain.token().cancel();
    for saving in open {
        let status = soon(saving).await.expect_err("draining");
        assert_eq!(busy(&status), (Code::Unavailable, "DRAINING".to_owned()));
    }
}

#[tokio::test]
async fn damage_is_named_and_the_older_snapshot_is_loaded() {
    let server = server().await;
    let whole = content(1, 5 * PIECE);
    let older = save(&server, 1, 7, &whole).await.expect("stored");
    let newer = save(&server, 1, 8, &whole).await.expect("stored");
    let id = SnapshotId(newer.id.clone().try_into().expect("16 bytes"));
    server.kept.objects.delete(&object(PartitionId(1), id, 1)).await.expect("up");
    let lost = load(&server, 1, newer.id.clone()).await.expect_err("an object is gone");
    assert_eq!(lost.code(), Code::DataLoss);
    let words = format!("partition 1: snapshot {id}, object 1: is missing");
    assert_eq!(lost.message(), words);
    assert!(load(&server, 1, older.id.clone()).await.expect("whole") == whole);
    let listed = list(&server, vec![1]).await.snapshots;
    assert_eq!(listed, [older, newer], "what was found damaged comes last");
}

#[tokio::test]
async fn a_cluster_without_snapshots_says_so() {
    let args = Args { snapshot_every_seconds: Some(0), ..args() };
    let server = prepared(Server::start_with(args).await).await;
    assert_eq!(list(&server, vec![0]).await.policy.expect("set").interval_ms, 0);
    let refused = save(&server, 0, 7, &content(0, 100)).await.expect_err("turned off");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn callers_are_served_no_snapshots() {
    let server = server().await;
    let request = wire::ListSnapshotsRequest { caller: Some(caller(&server)), partitions: vec![] };
    let mut client = SnapshotServiceClient::new(server.channel.clone());
    let refused = soon(client.list_snapshots(request)).await.expect_err("not on this port");
    assert_eq!(refused.code(), Code::Unimplemented);
}

/// The same file and folder under another process.
async fn kept(folder: &Path) -> (Config, Kept, World) {
    let (mut config, world) = (config(args()), World::system());
    // Nothing has to wait.
    config.archive.every = Duration::from_millis(1);
    config.archive.keep = Duration::ZERO;
    config.store.place = open::StorePlace::Sqlite(folder.join("store.sqlite"));
    let made_for =
        MadeFor { cluster: "clarion".to_owned(), partitions: 4, logs: 2, device_key: None };
    let seals = Arc::new(Seals::new(Generation(1), &[7; KEY_BYTES]));
    let store = open::open(&config.store, &made_for, &seals, &world).await;
    let store = store.expect("the file is free");
    let objects = Objects::in_folder(&folder.join("objects")).expect("writable");
    (config, Kept { store, objects, seals, keys: None }, world)
}

#[tokio::test]
async fn a_log_of_sqlite_is_trimmed_behind_the_snapshots_that_the_next_process_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, stored, world) = kept(folder.path()).await;
    let server = prepared(Server::start_over(config, stored, world).await).await;
    for position in [4, 6, 8] {
        for partition in 0..4 {
            // Partition 3 is slower than 1, which has the same log.
            let position = if partition == 3 { position - 1 } else { position };
            save(&server, partition, position, &content(partition, PIECE)).await.expect("stored");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        server.context.archive.round().await;
    }
    objects_become(&server, 8).await;
    // The second snapshots are the older ones that are left.
    server.context.archive.round().await;
    let first = async |server: &Server| {
        let mut first = Vec::new();
        for log in [0, 1] {
            let read = server.context.log.read_many(&[(LogId(log), Position(0))], 1).await;
            first.push(read.expect_err("it is trimmed").to_string());
        }
        first
    };
    let words = |log: u16, first: u64| {
        format!("log {log} begins at position {first}: what was before is trimmed away")
    };
    let expected = [words(0, 7), words(1, 6)];
    assert_eq!(first(&server).await, expected);
    let listed = list(&server, vec![0, 1, 2, 3]).await.snapshots;
    server.kept.store.close().await;
    drop(server);

    let (config, stored, world) = kept(folder.path()).await;
    let server = Server::start_over(config, stored, world).await;
    assert_eq!(first(&server).await, expected);
    assert_eq!(list(&server, vec![0, 1, 2, 3]).await.snapshots, listed);
    for snapshot in listed {
        let partition = u16::try_from(snapshot.partition).expect("small");
        let loaded = load(&server, snapshot.partition, snapshot.id).await.expect("whole");
        assert!(loaded == content(partition, PIECE));
        let after = (LogId(partition % 2), Position(snapshot.position));
        let rest = server.context.log.read_many(&[after], usize::MAX).await.expect("complete");
        assert_eq!(rest[0].1.len() as u64, 10 - snapshot.position);
    }
    server.kept.store.close().await;
}

/// A whole coordinator without a socket, in virtual time, with the default options.
#[tokio::test(start_paused = true)]
async fn slow_nodes_are_sent_away_and_the_coordinator_trims_by_itself() {
    let clock = Clock::start_at(World::system().clock().wall());
    let world = World::new(clock, 1, Arc::new(Pipes::default()));
    let port = Some("127.0.0.1:0".parse().expect("an address"));
    let nodes = Some(vec!["127.0.0.1:9".to_owned()]);
    let ports = Args { listen: port, health_listen: port, feed_listen: port, nodes, ..args() };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(2, 1 << 20, &world));
    let owned = Ownership::assign(1, 4, &[NodeName::new(NODE).expect("valid")]);
    store.replace_ownership(owned).await.expect("the first");
    let coordinator =
        Coordinator::bind_over(config(ports), Arc::clone(&store), world.clone()).await;
    let coordinator = coordinator.expect("bound");
    let feeds = coordinator.feed_listen();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(coordinator.run(async move { drop(stopped.await) }));
    let minute = Duration::from_secs(60);
    let limits = ChannelLimits {
        connect_within: minute,
        window_bytes: 65_535,
        ping_every: minute,
        pong_within: minute,
    };
    let channel = channel::connect(&world, feeds, limits).await.expect("listens");
    let mut client = SnapshotServiceClient::new(channel);
    let caller = wire::SnapshotCaller {
        node: NODE.to_owned(),
        cluster: ClusterName::DEFAULT.to_owned(),
        log_identity: store.identity().to_wire(),
    };
    let start = |partition: u16, position: u64| {
        let (caller, partition) = (Some(caller.clone()), partition.into());
        Part::Start(wire::SaveSnapshotStart { caller, partition, position, ownership: 1 })
    };
    let append = async || {
        let batch = RecordBatch::from_records(&[]);
        let both = [0, 1].map(|log| (LogId(log), batch.clone())).to_vec();
        store.append_all(both).await.expect("room");
    };
    append().await;

    let silent = stream::iter([start(0, 1)]).chain(stream::pending());
    let every_second = |bytes: Vec<u8>| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Part::Data(bytes.into())
    };
    let bytes = stream::iter(content(0, 5_000)).map(|byte| vec![byte]).then(every_second);
    let slow = stream::iter([start(0, 1)]).chain(bytes);
    let pieces = |partition: u16| {
        let whole = content(partition, 100 * (128 << 10));
        let pieces = whole.chunks(128 << 10).map(<[u8]>::to_vec).collect::<Vec<_>>();
        stream::iter(pieces).then(every_second).chain(stream::iter([end(&whole)]))
    };
    let steady = stream::iter([start(0, 1)]).chain(pieces(0));
    let took = async |client: &mut SnapshotServiceClient<Channel>, messages| {
        let began = clock.now();
        let messages: stream::BoxStream<'static, Part> = messages;
        let saved = client.save_snapshot(messages.map(part)).await;
        (saved.map(drop), clock.now().since(began).as_secs())
    };
    let (late, seconds) = took(&mut client, silent.boxed()).await;
    assert_eq!(busy(&late.expect_err("silent")), (Code::DeadlineExceeded, "SAVE_SLOW".to_owned()));
    assert_eq!(seconds, 10);
    let (late, seconds) = took(&mut client, slow.boxed()).await;
    assert_eq!(late.expect_err("slow").code(), Code::DeadlineExceeded);
    assert_eq!(seconds, 60);
    let (saved, seconds) = took(&mut client, steady.boxed()).await;
    assert_eq!((saved.map_err(|status| status.to_string()), seconds), (Ok(()), 100));

    // Every ten minutes one batch and one snapshot of each partition.
    for position in 2..=18 {
        tokio::time::sleep(10 * minute).await;
        append().await;
        for partition in 0..4 {
            let whole = content(partition, 100);
            let parts = [start(partition, position), Part::Data(whole.clone().into()), end(&whole)];
            let saved = client.save_snapshot(stream::iter(parts).map(part)).await;
            saved.expect("stored");
        }
    }
    tokio::time::sleep(2 * minute).await;
    for log in [0, 1] {
        let read = store.read_many(&[(LogId(log), Position(0))], 1).await;
        // 18 and 17 are current; 16 was retired a moment ago, and 11 not quite an hour ago.
        let expected = StoreError::Trimmed { log: LogId(log), first: Position(12) };
        assert_eq!(read.expect_err("it is trimmed"), expected);
    }
    stop.send(()).expect("it runs");
    running.await.expect("no panic").expect("in order");
}
