use clarion_proto::{
    device::{Change, Record},
    ids::{DeviceId, UnixMillis, partition_of},
};
use futures_util::FutureExt;
use prost::Message;

use super::*;
use crate::store::{RecordBatch, memory::MemoryStore};

const PARTITIONS: u16 = 8;

fn store(logs: u16) -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(logs, u64::MAX, &clarion_runtime::world::World::system()))
}

fn record(n: u8) -> Record {
    Record {
        device: DeviceId([n; 16]),
        observed: UnixMillis(u64::from(n)),
        change: Change::Removal,
    }
}

fn request(store: &MemoryStore, partitions: &[u32], positions: &[(u32, u64)]) -> wire::FeedRequest {
    let positions =
        positions.iter().map(|&(log, position)| wire::LogPosition { log, position }).collect();
    wire::FeedRequest {
        node: "n".into(),
        partitions: partitions.to_vec(),
        positions,
        cluster: ClusterName::DEFAULT.into(),
        log_identity: store.identity().to_wire(),
    }
}

async fn open(
    store: &Arc<MemoryStore>,
    request: &wire::FeedRequest,
) -> Result<Follower, FeedError> {
    let log: Arc<dyn ChangeLog> = Arc::clone(store) as _;
    Follower::open(log, &ClusterName::default(), PARTITIONS, request).await
}

/// All messages that are available now.
async fn drain(follower: &mut Follower) -> Vec<(LogId, u64, Vec<Record>)> {
    let mut all = Vec::new();
    while let Some(next) = follower.next().now_or_never() {
        let (log, batch) = next.expect("readable");
        let records = wire::FeedResponse::decode(batch.records).expect("records").records;
        let records = records.into_iter().map(|r| Record::from_wire(r).expect("valid")).collect();
        all.push((log, batch.position.0, records));
    }
    all
}

#[tokio::test]
async fn batches_of_a_log_come_dense_and_in_order_from_the_position_asked_for() {
    let store = store(2);
    for n in 0..6 {
        store
            .append_all(vec![(LogId(u16::from(n % 2)), RecordBatch::from_records(&[record(n)]))])
            .await
            .expect("room");
    }
    let all: Vec<u32> = (0..u32::from(PARTITIONS)).collect();
    let mut follower = open(&store, &request(&store, &all, &[(1, 2)])).await.expect("valid");
    let seen = drain(&mut follower).await;
    let of = |log| {
        seen.iter().filter(|(l, _, _)| *l == LogId(log)).map(|(_, p, _)| *p).collect::<Vec<_>>()
    };
    assert_eq!((of(0), of(1)), (vec![1, 2, 3], vec![3]));
    store
        .append_all(vec![(LogId(1), RecordBatch::from_records(&[record(9)]))])
        .await
        .expect("room");
    assert_eq!(drain(&mut follower).await, [(LogId(1), 4, vec![record(9)])]);
}

#[tokio::test]
async fn a_follower_of_some_partitions_gets_only_theirs_and_every_position() {
    // 2 logs of 4 partitions each: partitions 0, 2, 4, 6 write to log 0.
    let store = store(2);
    let records: Vec<Record> = (0..=255).map(record).collect();
    let of_log = |log| {
        records.iter().filter(move |r| log_of(partition_of(r.device, PARTITIONS), 2) == LogId(log))
    };
    for chunk in of_log(0).collect::<Vec<_>>().chunks(5) {
        store
            .append_all(vec![(LogId(0), RecordBatch::from_records(chunk.iter().copied()))])
            .await
            .expect("room");
    }
    store.append_all(vec![(LogId(1), RecordBatch::from_records(of_log(1)))]).await.expect("room");
    let mut follower = open(&store, &request(&store, &[2, 6], &[])).await.expect("valid");
    let seen = drain(&mut follower).await;
    let head = store.heads().await.expect("up")[0].0;
    assert_eq!(
        seen.iter().map(|(l, p, _)| (l.0, *p)).collect::<Vec<_>>(),
        (1..=head).map(|p| (0, p)).collect::<Vec<_>>()
    );
    let got: Vec<Record> = seen.into_iter().flat_map(|(_, _, r)| r).collect();
    let wanted = |r: &&Record| matches!(partition_of(r.device, PARTITIONS), PartitionId(2 | 6));
    assert_eq!(got, records.iter().filter(wanted).cloned().collect::<Vec<_>>());
}

#[tokio::test]
async fn logs_are_served_in_turn() {
    let store = store(2);
    // Far more than one read-ahead in log 0, one batch in log 1.
    for _ in 0..40 {
        let many: Vec<Record> = std::iter::repeat_with(|| record(1)).take(1_000).collect();
        store.append_all(vec![(LogId(0), RecordBatch::from_records(&many))]).await.expect("room");
    }
    store
        .append_all(vec![(LogId(1), RecordBatch::from_records(&[record(2)]))])
        .await
        .expect("room");
    let all: Vec<u32> = (0..u32::from(PARTITIONS)).collect();
    let mut follower = open(&store, &request(&store, &all, &[])).await.expect("valid");
    let order: Vec<u16> = drain(&mut follower).await.iter().map(|(l, _, _)| l.0).collect();
    let at = order.iter().position(|l| *l == 1).expect("served");
    assert!((1..39).contains(&at), "served at {at} of {}", order.len());
}

#[tokio::test]
async fn the_start_names_the_log_and_the_heads_of_the_opening() {
    let store = store(2);
    let append = async |log, n| {
        let batch = RecordBatch::from_records(&[record(n)]);
        store.append_all(vec![(LogId(log), batch)]).await.expect("room");
    };
    append(1, 1).await;
    append(1, 2).await;
    let heads = |follower: &Follower| {
        let start = follower.start();
        assert_eq!(start.log_identity, store.identity().to_wire());
        start.heads.iter().map(|head| (head.log, head.position)).collect::<Vec<_>>()
    };
    let mut both = open(&store, &request(&store, &[0, 1], &[(1, 1)])).await.expect("valid");
    assert_eq!(heads(&both), [(0, 0), (1, 2)], "an empty log is named, too");
    append(0, 3).await;
    drain(&mut both).await;
    assert_eq!(heads(&both), [(0, 0), (1, 2)], "as of the opening");
    let one = open(&store, &request(&store, &[2], &[])).await.expect("valid");
    assert_eq!(heads(&one), [(0, 1)], "of the logs followed");
}

#[tokio::test]
async fn what_was_trimmed_away_is_an_answer_of_its_own() {
    let store = store(2);
    for n in 0..4 {
        store
            .append_all(vec![(LogId(0), RecordBatch::from_records(&[record(n)]))])
            .await
            .expect("room");
    }
    store.trim(LogId(0), Position(3)).await.expect("up");
    let mut behind = open(&store, &request(&store, &[0], &[(0, 1)])).await.expect("valid");
    let trimmed = StoreError::Trimmed { log: LogId(0), first: Position(3) };
    assert_eq!(behind.next().await.expect_err("trimmed"), trimmed);
    let mut follower = open(&store, &request(&store, &[0], &[(0, 2)])).await.expect("valid");
    assert_eq!(drain(&mut follower).await.len(), 2);
}

#[tokio::test]
async fn what_the_cluster_does_not_have_is_refused() {
    let store = store(2);
    store.append_all(vec![(LogId(0), RecordBatch::default())]).await.expect("room");
    let refused = async |request: wire::FeedRequest| {
        open(&store, &request).await.expect_err("must be refused")
    };
    let request =
        |partitions: &[u32], positions: &[(u32, u64)]| request(&store, partitions, positions);
    let field = |e: FeedError| match e {
        FeedError::Invalid(e) => e.field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(refused(request(&[0, 8], &[])).await), "partitions[1]");
    assert_eq!(field(refused(request(&[], &[(2, 0)])).await), "positions[0].log");
    assert_eq!(field(refused(request(&[], &[(1, 0), (1, 0)])).await), "positions[1].log");
    let ahead = refused(request(&[0], &[(0, 2)])).await;
    assert_eq!(ahead, FeedError::Ahead { log: LogId(0), head: Position(1), asked: Position(2) });
    let other = refused(wire::FeedRequest { cluster: "other".into(), ..request(&[0], &[]) }).await;
    assert!(matches!(other, FeedError::OtherCluster { .. }), "{other}");
    for log_identity in [vec![7; 16], Vec::new()] {
        let other = refused(wire::FeedRequest { log_identity, ..request(&[0], &[]) }).await;
        assert_eq!(other, FeedError::OtherLog { ours: store.identity() });
    }
}

#[test]
fn partitions_are_shared_out_over_logs() {
    for (partitions, logs) in [(8, 2), (64, 64), (10, 4), (5, 5), (7, 3)] {
        let sum: usize = (0..logs).map(|log| partitions_in(LogId(log), partitions, logs)).sum();
        assert_eq!(sum, usize::from(partitions));
    }
}
