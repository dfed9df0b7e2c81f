use clarion_proto::{device::Change, ids::DeviceId};
use proptest::prelude::*;

use super::*;
use crate::control::ownership::{Ownership, change};

const PARTITIONS: u16 = 16;
const LOGS: u16 = 4;

fn assignment(partitions: impl IntoIterator<Item = u16>, cores: usize) -> Assignment {
    let partitions = partitions.into_iter().map(PartitionId).collect();
    let log = LogIdentity([1; 16]);
    let owned =
        Ownership { log, number: 1, partition_count: PARTITIONS, log_count: LOGS, partitions };
    change(None, owned, cores).assignment
}

/// A splitter whose partitions are all at the beginning of their logs.
fn splitter(partitions: impl IntoIterator<Item = u16>, cores: usize) -> Splitter {
    let assignment = assignment(partitions, cores);
    Splitter::new(&assignment, &beginning(&assignment))
}

fn beginning(assignment: &Assignment) -> Positions {
    assignment.places().map(|(partition, ..)| (partition, Position(0))).collect()
}

/// A device of a partition, the n-th.
fn device(partition: u16, n: u32) -> DeviceId {
    let ids = (0_u32..).map(|i| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&i.to_le_bytes());
        DeviceId(id)
    });
    ids.filter(|d| partition_of(*d, PARTITIONS) == PartitionId(partition)).nth(n as usize).unwrap()
}

fn record(partition: u16, n: u32) -> wire::Record {
    Record {
        device: device(partition, n),
        observed: UnixMillis(u64::from(n)),
        change: Change::Removal,
    }
    .to_wire()
}

fn batch(log: u16, position: u64, records: Vec<wire::Record>) -> wire::FeedResponse {
    let (log, append_time_ms) = (u32::from(log), position * 10);
    wire::FeedResponse { log, position, append_time_ms, records, ..wire::FeedResponse::default() }
}

fn start(heads: &[(u32, u64)]) -> wire::FeedStart {
    let heads =
        heads.iter().map(|(log, position)| wire::LogPosition { log: *log, position: *position });
    wire::FeedStart { log_identity: LogIdentity([1; 16]).to_wire(), heads: heads.collect() }
}

/// Opens a stream at the splitter's positions and accepts its start: every log is empty.
fn begin(splitter: &mut Splitter) -> wire::FeedRequest {
    let request = splitter.request("node-1", &ClusterName::default());
    let head = splitter.positions().values().map(|at| at.0).max().unwrap_or(0);
    splitter.start(&start(&[0, 1, 2, 3].map(|log| (log, head)))).unwrap();
    request
}

fn parts(commands: &[(usize, Command)]) -> Vec<(usize, Vec<(u16, u64)>)> {
    let part = |(core, command): &(usize, Command)| {
        let Command::Apply { records, .. } = command else { panic!("{command:?}") };
        (*core, records.iter().map(|(p, r)| (p.0, r.observed.0)).collect())
    };
    commands.iter().map(part).collect()
}

#[test]
fn each_core_gets_its_records_in_order_and_every_position() {
    // Log 1 has partitions 1, 5, 9, 13; with all 16 on two cores they are at odd places: all of
    // core 1. With 1, 2, 5, 6 owned: core 0 has 1 and 5, core 1 has 2 and 6.
    let mut splitter = splitter([1, 2, 5, 6], 2);
    let request = begin(&mut splitter);
    assert_eq!(request.partitions, [1, 2, 5, 6]);
    assert_eq!((request.cluster.as_str(), &request.log_identity[..]), ("clarion", &[1; 16][..]));
    assert_eq!(
        request.positions.iter().map(|p| (p.log, p.position)).collect::<Vec<_>>(),
        [(1, 0), (2, 0)]
    );

    let commands =
        splitter.split(batch(1, 1, vec![record(1, 0), record(5, 1), record(1, 2)])).unwrap();
    assert_eq!(parts(&commands), [(0, vec![(1, 0), (5, 1), (1, 2)])]);
    let commands = splitter.split(batch(2, 1, vec![])).unwrap();
    assert_eq!(parts(&commands), [(1, vec![])], "a batch without records moves the position");
}

#[test]
fn a_log_on_two_cores_is_split() {
    // Both partitions are of log 1; 1 is core 0's, 5 is core 1's.
    let mut splitter = splitter([1, 5], 2);
    begin(&mut splitter);
    let commands =
        splitter.split(batch(1, 1, vec![record(5, 0), record(1, 1), record(5, 2)])).unwrap();
    assert_eq!(parts(&commands), [(0, vec![(1, 1)]), (1, vec![(5, 0), (5, 2)])]);
}

#[test]
fn partitions_that_are_further_on_skip_what_they_have() {
    // Of log 1: 1 and 9 are core 0's, 5 is core 1's. 5 and 9 come from snapshots.
    let owned = assignment([1, 5, 9], 2);
    let positions = [(1, 1), (5, 3), (9, 2)].map(|(p, at)| (PartitionId(p), Position(at)));
    let mut splitter = Splitter::new(&owned, &positions.into());
    let request = splitter.request("node-1", &ClusterName::default());
    assert_eq!(request.positions, [wire::LogPosition { log: 1, position: 1 }], "the lowest");
    splitter.start(&start(&[(1, 3)])).unwrap();
    let records = || vec![record(1, 0), record(5, 1), record(9, 2)];
    let mut deliver = |position| {
        let commands = splitter.split(batch(1, position, records())).unwrap();
        let parts = parts(&commands);
        parts.iter().for_each(|(core, _)| splitter.taken(*core, LogId(1), Position(position)));
        (parts, splitter.has_caught_up())
    };
    assert_eq!(deliver(2), (vec![(0, vec![(1, 0)])], false));
    assert_eq!(deliver(3), (vec![(0, vec![(1, 0), (9, 2)])], true));
    assert_eq!(deliver(4), (vec![(0, vec![(1, 0), (9, 2)]), (1, vec![(5, 1)])], true));
    assert!(splitter.positions().values().all(|position| *position == Position(4)));
}

#[test]
fn a_partition_without_a_position_is_not_followed() {
    let owned = assignment([1, 5], 1);
    let mut splitter = Splitter::new(&owned, &[(PartitionId(5), Position(7))].into());
    let request = begin(&mut splitter);
    assert_eq!(request.partitions, [5]);
    assert!(Splitter::new(&owned, &Positions::new()).is_empty());
}

#[test]
fn a_gap_and_a_repetition_are_errors_and_change_nothing() {
    let mut splitter = splitter([1], 1);
    begin(&mut splitter);
    splitter.split(batch(1, 1, vec![])).unwrap();
    let dense = |position| SplitError::NotDense {
        log: LogId(1),
        expected: Position(2),
        position: Position(position),
    };
    assert_eq!(splitter.split(batch(1, 3, vec![])).unwrap_err(), dense(3));
    assert_eq!(splitter.split(batch(1, 1, vec![])).unwrap_err(), dense(1));
    splitter.split(batch(1, 2, vec![])).unwrap();
}

#[test]
fn what_is_not_ours_is_an_error() {
    let mut splitter = splitter([1], 1);
    begin(&mut splitter);
    assert_eq!(splitter.split(batch(2, 1, vec![])).unwrap_err(), SplitError::NotAsked(2));
    assert_eq!(splitter.split(batch(70, 1, vec![])).unwrap_err(), SplitError::NotAsked(70));
    let foreign =
        SplitError::Foreign { log: LogId(1), position: Position(1), partition: PartitionId(5) };
    assert_eq!(splitter.split(batch(1, 1, vec![record(5, 0)])).unwrap_err(), foreign);
}

#[test]
fn one_broken_record_does_not_keep_the_node_from_the_rest() {
    let mut splitter = splitter([1], 1);
    begin(&mut splitter);
    let broken = wire::Record { change: None, ..record(1, 0) };
    let commands = splitter.split(batch(1, 1, vec![broken, record(1, 1)])).unwrap();
    assert_eq!(parts(&commands), [(0, vec![(1, 1)])]);
}

#[test]
fn caught_up_is_a_position() {
    let mut splitter = splitter([1, 5], 2);
    assert!(!splitter.has_caught_up(), "no stream has begun");
    splitter.request("node-1", &ClusterName::default());
    splitter.start(&start(&[(1, 2)])).unwrap();
    assert!(!splitter.has_caught_up(), "silent, but not read");
    for position in 1..=2 {
        for (core, _) in splitter.split(batch(1, position, vec![])).unwrap() {
            assert!(!splitter.has_caught_up(), "one core is behind");
            splitter.taken(core, LogId(1), Position(position));
        }
    }
    assert!(splitter.has_caught_up());
    // A growing log changes nothing.
    splitter.split(batch(1, 3, vec![])).unwrap();
    assert!(splitter.has_caught_up());
    // The next stream names new heads.
    splitter.request("node-1", &ClusterName::default());
    assert!(!splitter.has_caught_up());
    splitter.start(&start(&[(1, 9)])).unwrap();
    assert!(!splitter.has_caught_up());
}

#[test]
fn an_empty_log_is_caught_up_with_at_once() {
    let mut splitter = splitter([1], 1);
    begin(&mut splitter);
    assert!(splitter.has_caught_up());
}

#[test]
fn a_stream_begins_with_one_start_of_the_right_log() {
    let mut splitter = splitter([1, 2], 1);
    splitter.request("node-1", &ClusterName::default());
    assert_eq!(splitter.split(batch(1, 1, vec![])).unwrap_err(), SplitError::Start);
    let ours = LogIdentity([1; 16]);
    let other = wire::FeedStart { log_identity: vec![2; 16], ..start(&[(1, 0), (2, 0)]) };
    assert_eq!(splitter.start(&other).unwrap_err(), SplitError::OtherLog { ours });
    splitter.request("node-1", &ClusterName::default());
    assert_eq!(splitter.start(&start(&[(1, 0)])).unwrap_err(), SplitError::NoHead(LogId(2)));
    begin(&mut splitter);
    assert_eq!(splitter.start(&start(&[(1, 0), (2, 0)])).unwrap_err(), SplitError::Start);
}

proptest! {
    /// Wherever the feed is cut (between two cores' parts of one batch too) and however often: each
    /// core gets each of its records once, in order, and each position once.
    #[test]
    fn a_cut_feed_goes_on_without_loss_or_repetition(
        cores in 1..4_usize,
        sizes in prop::collection::vec(0..6_u32, 1..12),
        cuts in prop::collection::vec(0..40_usize, 0..6),
    ) {
        let owned = assignment([1, 2, 5, 6, 9, 13], cores);
        let partitions = [1, 5, 9, 13];
        let log: Vec<wire::FeedResponse> = sizes.iter().enumerate().map(|(i, n)| {
            let time = u32::try_from(i).unwrap() * 10;
            let partition = |k: u32| partitions[(k as usize + i) % 4];
            let records = (0..*n).map(|k| record(partition(k), time + k)).collect();
            batch(1, i as u64 + 1, records)
        }).collect();
        let mut taken: Vec<Vec<(u64, u64)>> = vec![Vec::new(); cores];
        let mut seen: Vec<Vec<u64>> = vec![Vec::new(); cores];
        let mut positions = beginning(&owned);
        let mut cuts = cuts.into_iter();
        loop {
            let mut splitter = Splitter::new(&owned, &positions);
            let request = begin(&mut splitter);
            let from = request.positions.iter().find(|p| p.log == 1).unwrap().position;
            let mut budget = cuts.next().unwrap_or(usize::MAX);
            'stream: for batch in &log[usize::try_from(from).unwrap()..] {
                for (core, command) in splitter.split(batch.clone()).unwrap() {
                    if budget == 0 { break 'stream; }
                    budget -= 1;
                    let Command::Apply { log, position, records, .. } = command else { panic!() };
                    seen[core].push(position.0);
                    taken[core].extend(records.iter().map(|(p, r)| (u64::from(p.0), r.observed.0)));
                    splitter.taken(core, log, position);
                }
            }
            positions = splitter.positions();
            if budget > 0 { break; }
        }
        let of_log = owned.places().filter(|(.., log)| *log == LogId(1));
        for core in of_log.map(|(_, core, _)| core).collect::<std::collections::BTreeSet<_>>() {
            prop_assert_eq!(&seen[core], &(1..=log.len() as u64).collect::<Vec<_>>());
            let mine = log.iter().flat_map(|b| &b.records);
            let mine = mine.map(|r| Record::from_wire(r.clone()).unwrap());
            let mine = mine.map(|r| (partition_of(r.device, PARTITIONS), r.observed.0));
            let mine = mine.filter(|(p, _)| owned.core_of(*p) == Some(core));
            let mine: Vec<_> = mine.map(|(p, t)| (u64::from(p.0), t)).collect();
            prop_assert_eq!(&taken[core], &mine);
        }
    }
}
