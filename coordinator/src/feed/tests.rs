use clarion_proto::{
    device::{Change, Record},
    ids::{DeviceId, UnixMillis, partition_of},
};
use clarion_runtime::world::World;
use futures_util::FutureExt;
use prost::Message;

use super::*;
use crate::store::{ChangeLog, RecordBatch, memory::MemoryStore};

const PARTITIONS: u16 = 8;

fn store(logs: u16) -> MemoryStore {
    MemoryStore::new(logs, u64::MAX, &World::system())
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

/// The answer of a store that never waits.
fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("the store in memory never waits")
}

fn open(store: &MemoryStore, request: &wire::FeedRequest) -> Result<Follower, FeedError> {
    let (cluster, identity) = (&ClusterName::default(), store.identity());
    let served = Served { cluster, identity, partitions: PARTITIONS, logs: store.logs() };
    Opening::check(&served, request)?.follow(&now(store.heads()).expect("readable"))
}

/// All steps that are possible now, after the store has carried them out.
fn steps(store: &MemoryStore, follower: &mut Follower) -> Vec<Step> {
    let mut all = Vec::new();
    loop {
        match follower.poll() {
            Step::Read { after, bytes_max } => {
                follower.read(now(store.read_many(&after, bytes_max)));
            }
            step @ Step::Send(_) => all.push(step),
            step @ (Step::Wait | Step::End(_)) => {
                all.push(step);
                return all;
            }
        }
    }
}

/// All batches that are available now.
fn drain(store: &MemoryStore, follower: &mut Follower) -> Vec<(LogId, u64, Vec<Record>)> {
    follower.grown();
    let batches = steps(store, follower).into_iter().filter_map(|step| match step {
        Step::Send(Fed::Batch(log, batch)) => Some((log, batch)),
        _ => None,
    });
    let record = |record: wire::Record| Record::from_wire(record).expect("valid");
    let decoded = batches.map(|(log, batch)| {
        let records = wire::FeedResponse::decode(batch.records).expect("records").records;
        (log, batch.position.0, records.into_iter().map(record).collect())
    });
    decoded.collect()
}

fn append<'a>(store: &MemoryStore, log: u16, records: impl IntoIterator<Item = &'a Record>) {
    let batch = RecordBatch::from_records(records);
    now(store.append_all(vec![(LogId(log), batch)])).expect("room");
}

const ALL: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

#[test]
fn batches_of_a_log_come_dense_and_in_order_from_the_position_asked_for() {
    let store = store(2);
    (0..6).for_each(|n| append(&store, u16::from(n % 2), &[record(n)]));
    let mut follower = open(&store, &request(&store, &ALL, &[(1, 2)])).expect("valid");
    let seen = drain(&store, &mut follower);
    let of = |log| {
        seen.iter().filter(|(l, _, _)| *l == LogId(log)).map(|(_, p, _)| *p).collect::<Vec<_>>()
    };
    assert_eq!((of(0), of(1)), (vec![1, 2, 3], vec![3]));
    append(&store, 1, &[record(9)]);
    assert_eq!(drain(&store, &mut follower), [(LogId(1), 4, vec![record(9)])]);
}

#[test]
fn a_follower_of_some_partitions_gets_only_theirs_and_every_position() {
    // 2 logs of 4 partitions each: partitions 0, 2, 4, 6 write to log 0.
    let store = store(2);
    let records: Vec<Record> = (0..=255).map(record).collect();
    let of_log = |log| {
        records.iter().filter(move |r| log_of(partition_of(r.device, PARTITIONS), 2) == LogId(log))
    };
    for chunk in of_log(0).collect::<Vec<_>>().chunks(5) {
        append(&store, 0, chunk.iter().copied());
    }
    append(&store, 1, of_log(1));
    let mut follower = open(&store, &request(&store, &[2, 6], &[])).expect("valid");
    let seen = drain(&store, &mut follower);
    let head = now(store.heads()).expect("up")[0].0;
    assert_eq!(
        seen.iter().map(|(l, p, _)| (l.0, *p)).collect::<Vec<_>>(),
        (1..=head).map(|p| (0, p)).collect::<Vec<_>>()
    );
    let got: Vec<Record> = seen.into_iter().flat_map(|(_, _, r)| r).collect();
    let wanted = |r: &&Record| matches!(partition_of(r.device, PARTITIONS), PartitionId(2 | 6));
    assert_eq!(got, records.iter().filter(wanted).cloned().collect::<Vec<_>>());
}

#[test]
fn logs_are_served_in_turn() {
    let store = store(2);
    // Far more than one read-ahead in log 0, one batch in log 1.
    for _ in 0..40 {
        let many: Vec<Record> = std::iter::repeat_with(|| record(1)).take(1_000).collect();
        append(&store, 0, &many);
    }
    append(&store, 1, &[record(2)]);
    let mut follower = open(&store, &request(&store, &ALL, &[])).expect("valid");
    let order: Vec<u16> = drain(&store, &mut follower).iter().map(|(l, _, _)| l.0).collect();
    let at = order.iter().position(|l| *l == 1).expect("served");
    assert!((1..39).contains(&at), "served at {at} of {}", order.len());
}

#[test]
fn the_start_comes_first_and_names_the_log_and_the_heads_of_the_opening() {
    let store = store(2);
    append(&store, 1, &[record(1)]);
    append(&store, 1, &[record(2)]);
    let heads = |follower: &mut Follower| {
        let Step::Send(Fed::Start(start)) = follower.poll() else { panic!("no start") };
        assert_eq!(start.log_identity, store.identity().to_wire());
        start.heads.iter().map(|head| (head.log, head.position)).collect::<Vec<_>>()
    };
    let mut both = open(&store, &request(&store, &[0, 1], &[(1, 1)])).expect("valid");
    append(&store, 0, &[record(3)]);
    assert_eq!(heads(&mut both), [(0, 0), (1, 2)], "as of the opening; an empty log is named, too");
    let mut one = open(&store, &request(&store, &[2], &[])).expect("valid");
    assert_eq!(heads(&mut one), [(0, 1)], "of the logs followed");
}

#[test]
fn what_was_trimmed_away_is_an_answer_of_its_own() {
    let store = store(2);
    (0..4).for_each(|n| append(&store, 0, &[record(n)]));
    now(store.trim(LogId(0), Position(3))).expect("up");
    let mut behind = open(&store, &request(&store, &[0], &[(0, 1)])).expect("valid");
    let steps = steps(&store, &mut behind);
    let Step::Send(Fed::Trimmed(trimmed)) = &steps[1] else { panic!("{steps:?}") };
    assert_eq!(*trimmed, wire::FeedTrimmed { log: 0, first: 3 });
    assert!(matches!(steps[2..], [Step::End(None)]), "{steps:?}");
    let mut follower = open(&store, &request(&store, &[0], &[(0, 2)])).expect("valid");
    assert_eq!(drain(&store, &mut follower).len(), 2);
}

/// The next two steps, each as a word.
fn next_two(follower: &mut Follower) -> [String; 2] {
    [follower.poll(), follower.poll()].map(|step| match step {
        Step::Send(Fed::Start(_)) => "start".to_owned(),
        Step::Send(Fed::Batch(log, batch)) => format!("send {log}/{}", batch.position),
        Step::Send(Fed::Trimmed(_)) => "trimmed".to_owned(),
        Step::Read { after, .. } => {
            let after = after.iter().map(|(log, position)| format!("{log}/{position}"));
            format!("read {}", after.collect::<Vec<_>>().join(" "))
        }
        Step::Wait => "wait".to_owned(),
        Step::End(error) => format!("end {}", error.map(|e| e.to_string()).unwrap_or_default()),
    })
}

/// The table at the top of the module, with answers of the store by hand.
#[test]
fn each_answer_of_the_store_has_its_next_step() {
    let store = store(2);
    let batch = |position| Batch {
        position: Position(position),
        appended: UnixMillis(1),
        records: bytes::Bytes::new(),
    };
    let mut follower = open(&store, &request(&store, &ALL, &[])).expect("valid");
    assert_eq!(next_two(&mut follower), ["start", "read 0/0 1/0"]);
    assert_eq!(next_two(&mut follower), ["read 0/0 1/0"; 2], "until it is answered");
    follower.read(Ok(vec![(LogId(0), vec![batch(1), batch(2)])]));
    assert_eq!(next_two(&mut follower), ["send 0/1", "send 0/2"]);
    assert_eq!(next_two(&mut follower), ["read 1/0 0/2"; 2], "the other log's turn");
    follower.read(Ok(Vec::new()));
    assert_eq!(next_two(&mut follower), ["wait"; 2]);
    follower.grown();
    assert_eq!(next_two(&mut follower), ["read 1/0 0/2"; 2]);
    follower.read(Err(StoreError::Away("down".to_owned())));
    assert_eq!(next_two(&mut follower), ["end the store is away: down", "end "]);
    follower.grown();
    assert_eq!(next_two(&mut follower), ["end "; 2], "for ever");
}

#[test]
fn a_damaged_log_does_not_hold_the_others_up() {
    let store = store(2);
    let mut follower = open(&store, &request(&store, &ALL, &[])).expect("valid");
    assert_eq!(next_two(&mut follower), ["start", "read 0/0 1/0"]);
    let damaged = |log| StoreError::Damaged {
        log: LogId(log),
        position: Position(1),
        problem: "a bit is wrong".to_owned(),
    };
    follower.read(Err(damaged(0)));
    assert_eq!(next_two(&mut follower), ["read 1/0"; 2], "the other log");
    follower.read(Err(damaged(1)));
    let [last, end] = next_two(&mut follower);
    assert!(last.starts_with("end log 1 is damaged at position 1: "), "{last}");
    assert_eq!(end, "end ");
}

#[test]
fn what_the_cluster_does_not_have_is_refused() {
    let store = store(2);
    append(&store, 0, &[]);
    let refused = |request: wire::FeedRequest| open(&store, &request).expect_err("must be refused");
    let request =
        |partitions: &[u32], positions: &[(u32, u64)]| request(&store, partitions, positions);
    let field = |e: FeedError| match e {
        FeedError::Invalid(e) => e.field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(refused(request(&[0, 8], &[]))), "partitions[1]");
    assert_eq!(field(refused(request(&[], &[(2, 0)]))), "positions[0].log");
    assert_eq!(field(refused(request(&[], &[(1, 0), (1, 0)]))), "positions[1].log");
    let ahead = refused(request(&[0], &[(0, 2)]));
    assert_eq!(ahead, FeedError::Ahead { log: LogId(0), head: Position(1), asked: Position(2) });
    let other = refused(wire::FeedRequest { cluster: "other".into(), ..request(&[0], &[]) });
    assert!(matches!(other, FeedError::OtherCluster { .. }), "{other}");
    for log_identity in [vec![7; 16], Vec::new()] {
        let other = refused(wire::FeedRequest { log_identity, ..request(&[0], &[]) });
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
