use clarion_proto::ids::LogIdentity;

use super::{
    super::ownership::{Ownership, change},
    *,
};

const SECOND: Duration = Duration::from_secs(1);

fn ownership(partitions: &[u16]) -> Ownership {
    let partitions = partitions.iter().map(|p| PartitionId(*p)).collect();
    Ownership { log: LogIdentity([1; 16]), number: 1, partition_count: 8, log_count: 4, partitions }
}

fn snapshot(partition: u16, position: u64) -> Snapshot {
    let id = [u8::try_from(position).unwrap(); 16];
    let (partition, position) = (PartitionId(partition), Position(position));
    Snapshot { partition, id, position, bytes: 1, age: Duration::ZERO }
}

/// The machine, its assignment on one core, and what it said.
struct Bench {
    loading: Loading,
    assignment: Assignment,
    out: VecDeque<Output>,
    list: u64,
    now: Time,
}

impl Bench {
    fn new(partitions: &[u16]) -> Self {
        let change = change(None, ownership(partitions), 1);
        let (assignment, mut out, mut loading) =
            (change.assignment, VecDeque::new(), Loading::default());
        loading.own(&assignment, &change.gained, &mut out);
        Self { loading, assignment, out, list: 0, now: Time(1_000_000) }
    }

    fn own(&mut self, partitions: &[u16]) {
        let change = change(Some(&self.assignment), ownership(partitions), 1);
        self.assignment = change.assignment;
        self.loading.own(&self.assignment, &change.gained, &mut self.out);
    }

    /// What was said since the last call: lists are counted, the rest is named.
    fn said(&mut self) -> Vec<String> {
        let said = std::mem::take(&mut self.out).into_iter().map(|output| match output {
            Output::List(list) => {
                self.list = list.number;
                "list".to_owned()
            }
            Output::Load(load) => {
                let Snapshot { partition, position, .. } = load.snapshot;
                format!("load {}: {partition} at {}", load.number, position.0)
            }
            Output::StopLoad { load } => format!("stop {load}"),
            Output::Command { command: Command::Rebuild(list), .. } => {
                format!("rebuild {:?}", list.iter().map(|p| p.0).collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        });
        said.collect()
    }

    fn listed(&mut self, snapshots: &[Snapshot]) -> Vec<String> {
        self.said();
        self.loading.listed(self.list, snapshots, &self.assignment, &mut self.out);
        self.said()
    }

    fn failed(&mut self, load: u64) -> Vec<String> {
        self.loading.failed(load, "damaged", &self.assignment, &mut self.out);
        self.said()
    }

    fn trimmed(&mut self, log: u16, first: u64, applied: u64) -> Vec<String> {
        let at = (LogId(log), Position(first));
        let applied = |_| Position(applied);
        self.loading.trimmed(at, &self.assignment, applied, &mut self.out);
        self.said()
    }

    fn pass(&mut self, time: Duration) -> Vec<String> {
        self.now = self.now + time;
        self.loading.expire(&self.assignment, self.now, &mut self.out);
        self.said()
    }

    /// Partitions that join the feed now, with their positions.
    fn joined(&mut self) -> Vec<(u16, u64)> {
        if !self.loading.may_join(self.now) {
            return Vec::new();
        }
        self.loading.take_ready().into_iter().map(|(p, at)| (p.0, at.0)).collect()
    }
}

#[test]
fn the_newest_readable_snapshot_is_loaded_and_without_one_the_log_is_read() {
    let mut bench = Bench::new(&[0, 1, 2]);
    assert_eq!(bench.said(), ["list"]);
    let all = [snapshot(0, 5), snapshot(1, 7), snapshot(0, 9)];
    assert_eq!(bench.listed(&all), ["load 1: 0 at 9", "load 2: 1 at 7", "rebuild [2]"]);
    assert_eq!(bench.failed(1), ["load 3: 0 at 5"]);
    bench.loading.restored(PartitionId(0), 1, Position(9));
    assert!(!bench.loading.is_followed(PartitionId(0)), "of a load that was given up");
    bench.loading.restored(PartitionId(0), 3, Position(5));
    assert_eq!(bench.failed(2), ["rebuild [1]"]);
    assert_eq!(bench.joined(), [(0, 5), (1, 0), (2, 0)]);
    assert!(!bench.loading.is_loading());
}

#[test]
fn those_that_are_ready_wait_for_the_others_but_not_long() {
    let mut bench = Bench::new(&[0, 1]);
    bench.listed(&[snapshot(0, 5)]);
    assert_eq!(bench.joined(), [], "partition 0 is under way");
    assert_eq!(bench.loading.deadline(), Some(Time(0)), "the wait begins");
    bench.pass(Duration::ZERO);
    assert_eq!(bench.loading.deadline(), Some(bench.now + JOIN_WITHIN));
    bench.pass(JOIN_WITHIN);
    assert_eq!(bench.joined(), [(1, 0)]);
    bench.loading.restored(PartitionId(0), 1, Position(5));
    assert_eq!(bench.joined(), [(0, 5)]);
    assert_eq!(bench.loading.deadline(), None);
}

#[test]
fn a_log_that_was_trimmed_loads_what_is_behind_and_nothing_older_than_the_log() {
    let mut bench = Bench::new(&[0, 1, 4]);
    bench.listed(&[]);
    assert_eq!(bench.joined().len(), 3);
    // Partitions 0 and 4 are of log 0, which begins at 9.
    assert_eq!(bench.trimmed(0, 9, 3), ["list"]);
    assert!(bench.loading.is_followed(PartitionId(1)), "its log is whole");
    let all = [snapshot(0, 7), snapshot(0, 8), snapshot(4, 7)];
    assert_eq!(bench.listed(&all), ["load 1: 0 at 8"]);
    assert_eq!(bench.loading.lost(), Some(PartitionId(4)), "9 follows 8, and not 7");
    bench.loading.restored(PartitionId(0), 1, Position(8));
    assert_eq!(bench.joined(), [(0, 8)], "a lost partition keeps nobody waiting");

    bench.pass(Duration::ZERO);
    assert!(bench.pass(LOST_PAUSE - SECOND).is_empty());
    assert_eq!(bench.pass(SECOND), ["list"]);
    assert_eq!(bench.loading.lost(), Some(PartitionId(4)), "a retry is no repair");
    assert_eq!(bench.listed(&[snapshot(4, 20)]), ["load 2: 4 at 20"]);
    bench.loading.restored(PartitionId(4), 2, Position(20));
    assert_eq!((bench.loading.lost(), bench.joined()), (None, vec![(4, 20)]));
}

#[test]
fn the_same_refusal_again_is_not_followed_by_a_load_at_once() {
    let mut bench = Bench::new(&[0]);
    bench.listed(&[snapshot(0, 8)]);
    bench.loading.restored(PartitionId(0), 1, Position(8));
    bench.joined();
    assert_eq!(bench.trimmed(0, 9, 8), ["list"]);
    assert_eq!(bench.listed(&[snapshot(0, 8)]), ["load 2: 0 at 8"]);
    bench.loading.restored(PartitionId(0), 2, Position(8));
    bench.joined();
    bench.trimmed(0, 9, 8);
    assert!(bench.listed(&[snapshot(0, 8)]).is_empty());
    bench.pass(Duration::ZERO);
    assert_eq!(bench.pass(LOST_PAUSE), ["list"]);
}

#[test]
fn what_leaves_while_it_is_loaded_is_stopped_and_what_stays_goes_on() {
    let mut bench = Bench::new(&[0, 1]);
    bench.listed(&[snapshot(0, 5), snapshot(1, 6)]);
    bench.own(&[1, 2]);
    assert_eq!(bench.said(), ["stop 1", "list"]);
    bench.loading.restored(PartitionId(0), 1, Position(5));
    bench.loading.restored(PartitionId(1), 2, Position(6));
    assert_eq!(bench.listed(&[snapshot(2, 3)]), ["load 3: 2 at 3"]);
    // An answer to the first list comes late.
    bench.loading.listed(1, &[], &bench.assignment, &mut bench.out);
    assert!(bench.said().is_empty());
    bench.loading.restored(PartitionId(2), 3, Position(3));
    assert_eq!(bench.joined(), [(1, 6), (2, 3)]);
}

#[test]
fn a_log_that_lost_records_is_read_from_the_beginning_unless_that_is_gone() {
    let mut bench = Bench::new(&[0, 1]);
    bench.listed(&[snapshot(0, 5)]);
    bench.loading.rebuild_all(&bench.assignment, &mut bench.out);
    assert_eq!(bench.said(), ["stop 1", "rebuild [0, 1]"]);
    assert_eq!(bench.joined(), [(0, 0), (1, 0)]);
    bench.trimmed(0, 9, 0);
    bench.listed(&[snapshot(0, 20)]);
    bench.loading.restored(PartitionId(0), 2, Position(20));
    bench.joined();
    // The log ends before 20: another try at once would bring the same snapshot.
    bench.loading.rebuild_all(&bench.assignment, &mut bench.out);
    assert_eq!(bench.said(), ["rebuild [0, 1]"]);
    assert_eq!(bench.joined(), [(1, 0)]);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.pass(LOST_PAUSE), ["list"]);
}
