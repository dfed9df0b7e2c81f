//! The archive over the memory engine, in virtual time: crashes, losses, and what always holds.

use clarion_proto::ids::{LogId, UnixMillis};
use clarion_runtime::world::{Clock, Pipes};
use proptest::{prelude::*, sample::select};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    fixtures::{batch, content},
    gather::CHUNK_BYTES,
    record::object,
    *,
};
use crate::{
    owners::Ownership,
    seal::{Generation, KEY_BYTES},
    store::memory::MemoryStore,
};

const P: u16 = 5;
const L: u16 = 2;
const HOUR: Duration = Duration::from_secs(3_600);
const NODE: &str = "shard-0";

/// An archive, and what outlives it.
struct Stage {
    archive: Arc<Archive>,
    store: Arc<dyn Store>,
    objects: Objects,
    seals: Arc<Seals>,
    world: World,
}

impl Stage {
    async fn new(log_bytes_max: u64) -> Self {
        // Objects in memory have the system's time.
        let clock = Clock::start_at(World::system().clock().wall());
        let world = World::new(clock, 1, Arc::new(Pipes::default()));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(L, log_bytes_max, &world));
        let owned = Ownership::assign(1, P, &[NodeName::new(NODE).expect("valid")]);
        store.replace_ownership(owned).await.expect("the first");
        let seals = Arc::new(Seals::new(Generation(1), &[1; KEY_BYTES]));
        let objects = Objects::in_memory();
        let archive = Self::opened(&store, &objects, &seals, &world);
        Self { archive, store, objects, seals, world }
    }

    fn opened(
        store: &Arc<dyn Store>,
        objects: &Objects,
        seals: &Arc<Seals>,
        world: &World,
    ) -> Arc<Archive> {
        let config = ArchiveConfig {
            cluster: ClusterName::default(),
            partitions: P,
            every: HOUR / 6,
            keep: HOUR,
        };
        let (store, seals) = (Arc::clone(store), Arc::clone(seals));
        Arc::new(Archive::new(config, store, objects.clone(), seals, world.clone()))
    }

    /// Another process over the same store and objects.
    fn restart(&mut self) {
        self.archive = Self::opened(&self.store, &self.objects, &self.seals, &self.world);
    }

    async fn append(&self, log: u16) {
        let _ = self.store.append_all(vec![(LogId(log), batch())]).await;
    }

    async fn head(&self, partition: PartitionId) -> Position {
        self.store.heads().await.expect("up")[usize::from(log_of(partition, L).0)]
    }

    async fn begin(
        &self,
        partition: PartitionId,
        position: Position,
        length: usize,
    ) -> Result<(Saving, u64), ArchiveError> {
        let node = NodeName::new(NODE).expect("valid");
        let mut saving = self.archive.save(node, partition, position, 1).await?;
        let content = content(partition, length);
        for piece in content.chunks(1 << 20) {
            saving.push(piece).await?;
        }
        Ok((saving, xxh3_64(&content)))
    }

    async fn save(
        &self,
        partition: PartitionId,
        position: Position,
        length: usize,
    ) -> Result<StoredSnapshot, ArchiveError> {
        let (saving, hash) = self.begin(partition, position, length).await?;
        saving.finish(length as u64, hash).await
    }

    async fn load(&self, partition: PartitionId, id: SnapshotId) -> Result<Vec<u8>, ArchiveError> {
        let mut loading = self.archive.open(partition, id).await?;
        let mut whole = Vec::new();
        while let Some(chunk) = loading.next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    /// Whether a log has every batch after a position.
    async fn is_complete(&self, log: LogId, after: Position, head: Position) -> bool {
        let Ok(read) = self.store.read_many(&[(log, after)], usize::MAX).await else {
            return false;
        };
        let found = read.into_iter().flat_map(|(_, batches)| batches).map(|batch| batch.position.0);
        found.eq(after.0 + 1..=head.0)
    }

    /// Whether a node that starts from nothing can have a partition.
    async fn is_reachable(&self, partition: PartitionId) -> bool {
        let (log, head) = (log_of(partition, L), self.head(partition).await);
        for snapshot in self.archive.record(partition).await.expect("up").1.current() {
            let loaded = self.load(partition, snapshot.id).await;
            if loaded.is_ok() && self.is_complete(log, snapshot.position, head).await {
                return true;
            }
        }
        self.is_complete(log, Position(0), head).await
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.objects.list(record::OBJECTS).await.expect("up");
        let mut names: Vec<_> = listed.into_iter().map(|listed| listed.name).collect();
        names.sort();
        names
    }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_saved_is_loaded_chunk_by_chunk_and_by_nobody_else() {
    let stage = Stage::new(1 << 20).await;
    stage.append(1).await;
    let (partition, length) = (PartitionId(3), 2 * CHUNK_BYTES + 5);
    let stored = stage.save(partition, Position(1), length).await.expect("room");
    assert_eq!((stored.chunks, stored.bytes), (3, length as u64));
    let loaded = stage.load(partition, stored.id).await.expect("whole");
    assert!(loaded == content(partition, length));
    let names = stage.names().await;
    assert_eq!(names, [0, 1, 2].map(|chunk| object(partition, stored.id, chunk)));
    let sealed = stage.objects.get(&names[0]).await.expect("there");
    assert!(!sealed.windows(8).any(|part| part == b"CLARPART"), "it is sealed");
    let gone = stage.load(PartitionId(1), stored.id).await.expect_err("of another partition");
    assert_eq!(gone, ArchiveError::Gone { partition: PartitionId(1), id: stored.id });
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_damage_is_named_and_the_older_snapshot_is_read() {
    let stage = Stage::new(1 << 20).await;
    let partition = PartitionId(0);
    let length = CHUNK_BYTES + 100;
    for position in 1..=2 {
        stage.append(0).await;
        stage.save(partition, Position(position), length).await.expect("room");
    }
    let [newer, older] =
        &stage.archive.record(partition).await.expect("up").1.current().to_vec()[..]
    else {
        panic!("two are current")
    };
    for chunk in 0..2 {
        let name = object(partition, newer.id, chunk);
        let whole = stage.objects.get(&name).await.expect("there");
        let other = stage.objects.get(&object(partition, older.id, chunk)).await.expect("there");
        let mut flipped = whole.to_vec();
        flipped[whole.len() / 2] ^= 1;
        let cut = whole.slice(..whole.len() - 1);
        for damage in [Some(flipped.into()), Some(cut), Some(other), Some("".into()), None] {
            stage.objects.delete(&name).await.expect("up");
            if let Some(damage) = damage {
                stage.objects.put(&name, damage).await.expect("up");
            }
            let error = stage.load(partition, newer.id).await.expect_err("damaged");
            let ArchiveError::Damaged { id, chunk: found, .. } = &error else { panic!("{error}") };
            assert_eq!((*id, *found), (newer.id, chunk), "{error}");
            assert!(stage.load(partition, older.id).await.is_ok());
        }
        let _ = stage.objects.delete(&name).await;
        stage.objects.put(&name, whole).await.expect("up");
    }
    let listed = stage.archive.list(&[partition]).await.expect("up");
    let ids: Vec<_> = listed.iter().map(|(_, snapshot)| snapshot.id).collect();
    assert_eq!(ids, [older.id, newer.id], "one that was damaged comes last");
    assert!(stage.load(partition, newer.id).await.is_ok(), "somebody has put it back");
}

#[tokio::test(start_paused = true)]
async fn who_may_save_what() {
    let stage = Stage::new(1 << 20).await;
    stage.append(0).await;
    let node = |name: &str| NodeName::new(name).expect("valid");
    let refused = async |name: &str, position: u64, ownership: u64| {
        let position = Position(position);
        let begun = stage.archive.save(node(name), PartitionId(2), position, ownership).await;
        begun.err().expect("must be refused").to_string()
    };
    let words = "partition 2 is owned by shard-0 in ownership 1; ";
    assert_eq!(refused("other", 1, 1).await, format!("{words}other holds it under ownership 1"));
    assert!(refused(NODE, 1, 2).await.starts_with(words));
    assert_eq!(refused(NODE, 2, 1).await, "log 0 ends at 1, the snapshot is at 2");
    assert_eq!(refused(NODE, 0, 1).await, "start.position: must be at least 1; got 0");
    stage.save(PartitionId(2), Position(1), 100).await.expect("valid");
    let words = "partition 2: a snapshot at position 1 is stored; got 1";
    assert_eq!(refused(NODE, 1, 1).await, words);
    // Two savers race to the record: the second one learns it at its end, and leaves nothing.
    stage.append(0).await;
    let (first, hash) = stage.begin(PartitionId(2), Position(2), 100).await.expect("valid");
    let (second, _) = stage.begin(PartitionId(2), Position(2), 100).await.expect("valid");
    let stored = first.finish(100, hash).await.expect("the first");
    let late = second.finish(100, hash).await.expect_err("the second");
    assert!(matches!(late, ArchiveError::Behind { .. }), "{late}");
    let objects = stage.objects.list(&record::folder(PartitionId(2))).await.expect("up");
    assert_eq!(objects.len(), 2);
    assert!(objects.iter().any(|listed| listed.name == object(PartitionId(2), stored.id, 0)));
    stage.append(0).await;
    assert!(refused(NODE, 3, 1).await.contains("was saved 0ns ago"), "too soon");
    pass(HOUR / 24).await;
    stage.save(PartitionId(2), Position(3), 100).await.expect("a quarter of the interval later");
}

#[tokio::test(start_paused = true)]
async fn a_log_is_trimmed_at_the_slowest_of_its_partitions_and_not_before_its_time() {
    let mut stage = Stage::new(1 << 20).await;
    let first = async |stage: &Stage, log: u16| match stage
        .store
        .read_many(&[(LogId(log), Position(0))], 1)
        .await
    {
        Err(StoreError::Trimmed { first, .. }) => first.0,
        read => read.expect("up")[0].1[0].position.0,
    };
    for round in 1..=3 {
        for _ in 0..10 {
            stage.append(0).await;
            stage.append(1).await;
        }
        // Partitions 0, 2 and 4 are in log 0, of which 4 is behind; 1 and 3 are in log 1, and 3
        // has a single snapshot.
        for (partition, behind) in [(0, 0), (2, 0), (4, 3), (1, 0), (3, 0)] {
            if (partition, round) != (3, 1) && (partition, round) != (3, 2) {
                let position = Position(round * 10 - behind);
                stage.save(PartitionId(partition), position, 50).await.expect("valid");
            }
        }
        stage.archive.round().await;
        pass(HOUR / 6).await;
    }
    assert_eq!((first(&stage, 0).await, first(&stage, 1).await), (1, 1));
    pass(HOUR / 2 - Duration::from_secs(1)).await;
    stage.archive.round().await;
    assert_eq!(first(&stage, 0).await, 1, "a second before the hour");
    pass(Duration::from_secs(1)).await;
    stage.restart();
    stage.archive.round().await;
    assert_eq!((first(&stage, 0).await, first(&stage, 1).await), (8, 1), "4 stopped at 7");
    pass(HOUR).await;
    stage.archive.round().await;
    assert_eq!((first(&stage, 0).await, first(&stage, 1).await), (18, 1), "the first are deleted");
    assert_eq!(stage.names().await.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_log_is_not_trimmed_behind_objects_that_are_gone() {
    let mut stage = Stage::new(1 << 20).await;
    for position in 1..=2 {
        stage.append(0).await;
        for partition in [0, 2, 4] {
            stage.save(PartitionId(partition), Position(position), 50).await.expect("valid");
        }
    }
    pass(2 * HOUR).await;
    // As after a restart with objects in memory, or with another folder.
    stage.objects = Objects::in_memory();
    stage.restart();
    for _ in 0..3 {
        stage.archive.round().await;
    }
    assert!(stage.is_complete(LogId(0), Position(0), Position(2)).await);
}

#[tokio::test(start_paused = true)]
async fn the_hour_is_waived_when_the_logs_fill_up() {
    let stage = Stage::new(8_000).await;
    let mut appended = 0;
    while stage.store.usage().held <= 4_000 {
        appended += 1;
        stage.append(0).await;
        if appended == 5 || appended == 10 {
            for partition in [0, 2, 4] {
                stage.save(PartitionId(partition), Position(appended), 50).await.expect("valid");
            }
            stage.archive.round().await;
            assert!(stage.is_complete(LogId(0), Position(0), Position(appended)).await);
        }
    }
    stage.archive.round().await;
    let read = stage.store.read_many(&[(LogId(0), Position(4))], 1).await;
    assert!(matches!(read, Err(StoreError::Trimmed { first: Position(6), .. })), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn the_alarm_says_how_many_partitions_are_without_a_snapshot() {
    let stage = Stage::new(1 << 20).await;
    let overdue = stage.archive.overdue();
    stage.append(0).await;
    stage.archive.round().await;
    pass(HOUR / 6 * 4 - Duration::from_secs(1)).await;
    stage.archive.round().await;
    assert_eq!(*overdue.borrow(), 0);
    pass(Duration::from_secs(1)).await;
    stage.archive.round().await;
    assert_eq!(*overdue.borrow(), 3, "partitions 0, 2 and 4");
    stage.save(PartitionId(2), Position(1), 50).await.expect("valid");
    stage.archive.round().await;
    assert_eq!(*overdue.borrow(), 2);
}

/// A process ends between objects and record, or while it deletes: nothing is left for ever.
#[tokio::test(start_paused = true)]
async fn a_crash_between_two_steps_leaves_what_the_next_process_deletes() {
    let mut stage = Stage::new(1 << 20).await;
    stage.append(0).await;
    let (saving, _) = stage.begin(PartitionId(0), Position(1), CHUNK_BYTES + 1).await.expect("up");
    drop(saving);
    assert_eq!(stage.names().await.len(), 1, "the process was killed");
    stage.restart();
    stage.archive.delete_orphans().await.expect("up");
    assert_eq!(stage.names().await.len(), 1, "it is young: it may belong to a save");
    for position in 1..=3 {
        if position > 1 {
            stage.append(0).await;
        }
        stage.save(PartitionId(0), Position(position), 50).await.expect("valid");
        pass(HOUR / 6).await;
    }
    let (_, record) = stage.archive.record(PartitionId(0)).await.expect("up");
    pass(HOUR).await;
    // Objects of the retired one are deleted, its place in the record is not: as after a crash.
    let retired = record.expired(UnixMillis(u64::MAX), HOUR);
    assert_eq!(retired.len(), 1);
    stage.objects.delete(&object(PartitionId(0), retired[0].id, 0)).await.expect("up");
    stage.restart();
    stage.archive.round().await;
    stage.archive.delete_orphans().await.expect("up");
    let (_, record) = stage.archive.record(PartitionId(0)).await.expect("up");
    assert!(!record.names(retired[0].id));
    let mut current: Vec<_> =
        record.current().iter().map(|s| object(PartitionId(0), s.id, 0)).collect();
    current.sort();
    assert_eq!(stage.names().await, current);
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        log: u16,
    },
    Save {
        partition: u16,
        behind: u64,
    },
    /// A save that ends with the process, before its record.
    Crash {
        partition: u16,
    },
    /// A round at one time and another one, as after two processes.
    Round,
    Orphans,
    Pass {
        minutes: u64,
    },
    /// An object of a current snapshot is lost, if another snapshot can still be read.
    Lose {
        partition: u16,
        newest: bool,
    },
    /// A node loads, and finds what is damaged.
    Load {
        partition: u16,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let partition = || 0..P;
    prop_oneof![
        6 => (0..L).prop_map(|log| Step::Append { log }),
        8 => (partition(), select(vec![0, 0, 1, 2]))
            .prop_map(|(partition, behind)| Step::Save { partition, behind }),
        1 => partition().prop_map(|partition| Step::Crash { partition }),
        4 => Just(Step::Round),
        1 => Just(Step::Orphans),
        4 => select(vec![1, 3, 10, 40, 70]).prop_map(|minutes| Step::Pass { minutes }),
        1 => (partition(), any::<bool>())
            .prop_map(|(partition, newest)| Step::Lose { partition, newest }),
        1 => partition().prop_map(|partition| Step::Load { partition }),
        1 => Just(Step::Restart),
    ]
}

async fn perform(stage: &mut Stage, step: &Step) {
    match *step {
        Step::Append { log } => stage.append(log).await,
        Step::Save { partition, behind } => {
            let partition = PartitionId(partition);
            let head = stage.head(partition).await.0;
            match stage.save(partition, Position(head.saturating_sub(behind)), 40).await {
                Ok(_)
                | Err(
                    ArchiveError::Behind { .. }
                    | ArchiveError::TooSoon { .. }
                    | ArchiveError::Invalid(_),
                ) => {}
                Err(error) => panic!("{error}"),
            }
        }
        Step::Crash { partition } => {
            let id = SnapshotId(stage.world.id());
            let name = object(PartitionId(partition), id, 0);
            stage.objects.put(&name, "x".into()).await.expect("up");
        }
        Step::Round => stage.archive.round().await,
        Step::Orphans => stage.archive.delete_orphans().await.expect("up"),
        Step::Pass { minutes } => pass(Duration::from_secs(60 * minutes)).await,
        Step::Lose { partition, newest } => {
            let partition = PartitionId(partition);
            let (_, record) = stage.archive.record(partition).await.expect("up");
            let [first, second] = record.current() else { return };
            let (lost, left) = if newest { (first, second) } else { (second, first) };
            let head = stage.head(partition).await;
            let is_left = stage.load(partition, left.id).await.is_ok()
                && stage.is_complete(log_of(partition, L), left.position, head).await;
            if is_left {
                let name = object(partition, lost.id, 0);
                stage.objects.delete(&name).await.expect("up");
            }
        }
        Step::Load { partition } => {
            let partition = PartitionId(partition);
            for (_, snapshot) in stage.archive.list(&[partition]).await.expect("up") {
                let _ = stage.load(partition, snapshot.id).await;
            }
        }
        Step::Restart => stage.restart(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    /// A node that starts from nothing finds for every partition a snapshot and the whole log
    /// behind it, or the whole log.
    #[test]
    fn every_partition_can_be_rebuilt_after_whatever_happened(
        steps in prop::collection::vec(step(), 1..120),
        log_bytes_max in select(vec![1 << 20, 6_000]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let mut stage = Stage::new(log_bytes_max).await;
            for (i, step) in steps.iter().enumerate() {
                perform(&mut stage, step).await;
                for partition in (0..P).map(PartitionId) {
                    assert!(stage.is_reachable(partition).await, "{partition} after step {i}");
                }
            }
        });
    }
}
