//! Random orders of batches, saves, restores, rebuilds and changes of ownership: each partition is
//! what its log says, at its position, whatever became of it before.

use std::collections::{BTreeMap, BTreeSet};

use clarion_proto::{
    device::{Change, Record},
    ids::{ClusterName, LogIdentity, PartitionId, Position, UnixMillis, partition_of},
    time::Time,
    wire::shard_v1 as wire,
};
use proptest::prelude::*;
use tokio::sync::mpsc;

use crate::{
    command::{Command, Event, Owns, RestorePiece, SnapshotPart},
    control::ownership::{Assignment, Ownership, change},
    core::{Core, CoreConfig},
    feed::split::{Positions, Splitter},
    partition::{
        Partition, Vocabulary,
        tests::{START_MS, contents, history, record, rest},
    },
};

const PARTITIONS: u16 = 3;

/// One event in the life of a core.
#[derive(Debug, Clone)]
enum Turn {
    /// So many records of the history become a batch.
    Append(usize),
    /// The feed delivers so many batches; the core does not finish the last one.
    Deliver(usize),
    /// A snapshot of this partition begins, or the one that is written goes on.
    Save(u16),
    /// The newest, or an older, snapshot of this partition is loaded.
    Restore(u16, usize),
    /// The partition begins with its log.
    Rebuild(u16),
    /// Only these partitions are owned from now on.
    Own(BTreeSet<u16>),
    /// The core works on for so many turns.
    Work(usize),
}

fn turn() -> impl Strategy<Value = Turn> {
    let partition = || 0..PARTITIONS;
    prop_oneof![
        3 => (1..12_usize).prop_map(Turn::Append),
        4 => (1..4_usize).prop_map(Turn::Deliver),
        4 => partition().prop_map(Turn::Save),
        3 => (partition(), 0..3_usize).prop_map(|(p, nth)| Turn::Restore(p, nth)),
        1 => partition().prop_map(Turn::Rebuild),
        1 => prop::collection::btree_set(0..PARTITIONS, 0..3).prop_map(Turn::Own),
        2 => (1..4_usize).prop_map(Turn::Work),
    ]
}

/// A snapshot that is being written: its partition, its parts, and what came so far.
struct Writing {
    partition: u16,
    parts: mpsc::Receiver<SnapshotPart>,
    position: Position,
    bytes: Vec<u8>,
}

struct Model {
    core: Core,
    assignment: Assignment,
    positions: Positions,
    records: Vec<(u8, u64, u64, Change)>,
    log: Vec<wire::FeedResponse>,
    append_time: u64,
    writing: Option<Writing>,
    snapshots: BTreeMap<u16, Vec<(Position, Vec<u8>)>>,
    loads: u64,
    owns: u64,
}

fn owned(number: u64, partitions: impl IntoIterator<Item = u16>) -> Ownership {
    let partitions = partitions.into_iter().map(PartitionId).collect();
    let (log, partition_count, log_count) = (LogIdentity([1; 16]), PARTITIONS, 1);
    Ownership { log, number, partition_count, log_count, partitions }
}

impl Model {
    fn new(mut records: Vec<(u8, u64, u64, Change)>) -> Self {
        records.reverse();
        let config = CoreConfig { single: true, cores: 1, seed: 1, hash_seed: 7 };
        let mut model = Self {
            core: Core::new(config),
            assignment: change(None, owned(0, []), 1).assignment,
            positions: Positions::new(),
            records,
            log: Vec::new(),
            append_time: START_MS,
            writing: None,
            snapshots: BTreeMap::new(),
            loads: 0,
            owns: 0,
        };
        model.own((0..PARTITIONS).collect());
        model
    }

    fn own(&mut self, partitions: BTreeSet<u16>) {
        self.owns += 1;
        let owned = owned(self.owns, partitions);
        let change = change(Some(&self.assignment), owned, 1);
        self.assignment = change.assignment;
        let partitions = self.assignment.owned().partitions.clone();
        self.positions.retain(|p, _| partitions.contains(p) && !change.gained.contains(p));
        let awaited: Vec<_> = change.gained.into_iter().collect();
        let owns = Owns { partitions, awaited: awaited.clone(), log_count: 1 };
        self.core.command(Command::Own(owns), Time(1));
        awaited.into_iter().for_each(|p| self.begin(p.0));
    }

    /// A gained partition begins with its newest snapshot, or with its log.
    fn begin(&mut self, partition: u16) {
        if self.snapshots.get(&partition).is_some_and(|all| !all.is_empty()) {
            self.restore(partition, 0);
        } else {
            self.rebuild(partition);
        }
    }

    fn rebuild(&mut self, partition: u16) {
        self.core.command(Command::Rebuild(vec![PartitionId(partition)]), Time(1));
        self.positions.insert(PartitionId(partition), Position(0));
    }

    fn restore(&mut self, partition: u16, nth: usize) {
        let snapshots = self.snapshots.get(&partition);
        let Some((position, bytes)) = snapshots.and_then(|all| all.iter().rev().nth(nth)).cloned()
        else {
            return;
        };
        self.loads += 1;
        let (load, partition) = (self.loads, PartitionId(partition));
        let data = bytes.chunks(777).map(|piece| RestorePiece::Data(piece.to_vec().into()));
        for piece in [RestorePiece::Begin].into_iter().chain(data).chain([RestorePiece::End]) {
            self.settle();
            self.core.command(Command::Restore { partition, load, piece }, Time(1));
        }
        let restored = std::iter::from_fn(|| self.core.poll_event(Time(1))).find_map(|e| match e {
            Event::Restored { load: of, result, .. } if of == load => Some(result),
            _ => None,
        });
        assert_eq!(restored, Some(Ok(position)));
        self.positions.insert(partition, position);
    }

    /// Turns until the core can take the next batch.
    fn settle(&mut self) {
        while !self.core.feed_ready() {
            self.core.turn(Time(1));
        }
    }

    fn append(&mut self, records: usize) {
        let mut batch = Vec::new();
        for _ in 0..records {
            let Some((device, observed, passed, change)) = self.records.pop() else { break };
            self.append_time += passed;
            batch.push(record(device, START_MS + observed, change).to_wire());
        }
        self.log.push(wire::FeedResponse {
            position: self.log.len() as u64 + 1,
            append_time_ms: self.append_time,
            records: batch,
            ..wire::FeedResponse::default()
        });
    }

    fn deliver(&mut self, batches: usize) {
        let mut splitter = Splitter::new(&self.assignment, &self.positions);
        if splitter.is_empty() {
            return;
        }
        let request = splitter.request("node-1", &ClusterName::default());
        let heads = vec![wire::LogPosition { log: 0, position: self.log.len() as u64 }];
        let log_identity = request.log_identity.clone();
        splitter.start(&wire::FeedStart { log_identity, heads }).expect("the log of the request");
        let from = usize::try_from(request.positions[0].position).expect("a short log");
        let followed = |p: PartitionId| request.partitions.contains(&u32::from(p.0));
        let next: Vec<_> = self.log[from..].iter().take(batches).cloned().collect();
        for batch in next {
            let records = batch.records.into_iter().filter(|r| {
                let record = Record::from_wire(r.clone()).expect("a record of this test");
                followed(partition_of(record.device, PARTITIONS))
            });
            let batch = wire::FeedResponse { records: records.collect(), ..batch };
            for (core, command) in splitter.split(batch).expect("dense") {
                let Command::Apply { log, position, .. } = command else { panic!("{command:?}") };
                self.settle();
                self.core.command(command, Time(1));
                splitter.taken(core, log, position);
            }
        }
        self.positions = splitter.positions();
    }

    fn save(&mut self, partition: u16) {
        if self.writing.is_none() {
            let (sink, parts) = mpsc::channel(1);
            let command = Command::Save { partition: PartitionId(partition), sink };
            self.core.command(command, Time(1));
            let (position, bytes) = (Position(0), Vec::new());
            self.writing = Some(Writing { partition, parts, position, bytes });
        }
        self.core.turn(Time(1));
        self.take_parts();
    }

    fn take_parts(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        loop {
            match writing.parts.try_recv() {
                Ok(SnapshotPart::Begin(position)) => {
                    writing.position = position;
                    writing.bytes.clear();
                }
                Ok(SnapshotPart::Data(data)) => writing.bytes.extend_from_slice(&data),
                Ok(SnapshotPart::End) => {
                    let (position, bytes) = (writing.position, std::mem::take(&mut writing.bytes));
                    self.snapshots.entry(writing.partition).or_default().push((position, bytes));
                    self.writing = None;
                    return;
                }
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.writing = None;
                    return;
                }
            }
        }
    }

    /// The state of a partition that read the log up to a position.
    fn expected(&self, id: PartitionId, position: Position) -> (Partition, Vocabulary) {
        let (mut partition, mut words) = (Partition::new(id, 9), Vocabulary::new());
        for batch in &self.log[..usize::try_from(position.0).expect("a short log")] {
            for record in &batch.records {
                let record = Record::from_wire(record.clone()).expect("a record of this test");
                if partition_of(record.device, PARTITIONS) == id {
                    partition.apply(UnixMillis(batch.append_time_ms), &record, &mut words);
                }
            }
        }
        (partition, words)
    }

    fn check(&mut self) {
        self.settle();
        for id in self.assignment.owned().partitions.clone() {
            let (partition, words, position) = self.core.held_partition(id).expect("it is owned");
            assert_eq!(position, self.positions.get(&id).copied(), "{id}");
            let (expected, expected_words) = self.expected(id, position.expect("it has content"));
            assert_eq!(contents(partition, words), contents(&expected, &expected_words), "{id}");
            assert_eq!(rest(partition), rest(&expected), "{id}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 4 + 8))]

    /// After any events, each partition has exactly the rows, ordinals, tombstones and queues of
    /// one that read its whole log up to the same position.
    #[test]
    fn a_partition_is_what_its_log_says(
        history in history(),
        turns in prop::collection::vec(turn(), 1..60),
    ) {
        let mut model = Model::new(history);
        for turn in turns {
            match turn {
                Turn::Append(records) => model.append(records),
                Turn::Deliver(batches) => model.deliver(batches),
                Turn::Save(partition) => model.save(partition),
                Turn::Restore(partition, nth) => {
                    if model.assignment.core_of(PartitionId(partition)).is_some() {
                        model.restore(partition, nth);
                    }
                }
                Turn::Rebuild(partition) => {
                    if model.assignment.core_of(PartitionId(partition)).is_some() {
                        model.rebuild(partition);
                    }
                }
                Turn::Own(partitions) => model.own(partitions),
                Turn::Work(turns) => {
                    for _ in 0..turns {
                        model.core.turn(Time(1));
                        model.take_parts();
                    }
                }
            }
        }
        model.check();
        model.own((0..PARTITIONS).collect());
        model.append(200);
        model.deliver(usize::MAX);
        model.check();
        let whole = Position(model.log.len() as u64);
        prop_assert!(model.positions.values().all(|position| *position == whole));
    }
}
