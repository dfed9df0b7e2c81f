//! Cost of one record on a node that holds ten million devices in 64 partitions: 4,096 records at a
//! time, as a core takes them from the feed, of random devices.

#![allow(missing_docs)] // made by criterion's macros

use clarion_benches::{
    cpu::{self, CpuTime},
    devices::{START_MS, arrival, cell, devices, mixed, place, record, registration},
};
use clarion_proto::{
    device::{Change, Record},
    ids::{PartitionId, UnixMillis, partition_of},
};
use clarion_shard::partition::{Partition, Vocabulary, ahead};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const PARTITIONS: u16 = 64;
const NOW: UnixMillis = UnixMillis(START_MS);
/// Number of records in a batch.
const BATCH: usize = 4_096;

struct Node {
    partitions: Vec<Option<Partition>>,
    words: Vocabulary,
}

type Placed = (PartitionId, Record);

impl Node {
    fn new() -> Self {
        let partitions = (0..PARTITIONS).map(|p| Some(Partition::new(PartitionId(p), 7))).collect();
        Self { partitions, words: Vocabulary::new() }
    }

    /// Applies records as `core/partitions.rs` does.
    fn apply(&mut self, records: &[Placed]) {
        let Self { partitions, words } = self;
        let slot_of = |id: PartitionId| Some(id.0.into());
        ahead::apply_all(partitions, NOW, records, words, slot_of, |_, applied| {
            std::hint::black_box(applied);
        });
    }

    /// Returns the records, because freeing them is not the partition's cost.
    fn take(&mut self, records: Vec<Placed>) -> Vec<Placed> {
        self.apply(&records);
        records
    }
}

fn placed(record: Record) -> Placed {
    (partition_of(record.device, PARTITIONS), record)
}

fn apply(c: &mut Criterion<CpuTime>) {
    let devices = devices();
    let mut node = Node::new();
    for from in (0..devices).step_by(BATCH) {
        node.apply(
            &(from..devices.min(from + BATCH as u64))
                .map(|n| placed(arrival(n)))
                .collect::<Vec<_>>(),
        );
    }
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(30);

    // Each record is a new observation of some device, created outside of the measurement.
    let (mut at, mut arrived) = (0, devices);
    let mut bench = |name: &str, change: &dyn Fn(u64, u64) -> Change| {
        group.bench_function(name, |b| {
            let prepare = || -> Vec<_> {
                (0..BATCH)
                    .map(|_| {
                        at += 1;
                        let n = mixed(at, 77) % devices;
                        placed(record(n, at, change(n, at)))
                    })
                    .collect()
            };
            b.iter_batched(prepare, |records| node.take(records), BatchSize::PerIteration);
        });
    };
    bench("move anywhere", &|n, at| Change::Place(place(n + at)));
    bench("move to the next cell", &|n, at| {
        let ring: Vec<_> = cell(n).grid_disk(1);
        Change::Place(ring[usize::try_from(at % ring.len() as u64).expect("below seven")].into())
    });
    bench("register again", &|n, at| Change::Registration(registration(n, at)));
    bench("arrive again", &|n, at| Change::Arrival(registration(n, at), place(n + at)));
    bench("remove", &|_, _| Change::Removal);
    bench("return", &|n, at| Change::Arrival(registration(n, at), place(n)));
    // Nine of ten records are moves; the others change the token or remove the device.
    bench("mixed", &|n, at| match at % 20 {
        0 => Change::Removal,
        1 => Change::Arrival(registration(n, at), place(n)),
        _ => Change::Place(place(n + at)),
    });
    group.bench_function("first arrival", |b| {
        let prepare = || -> Vec<_> {
            arrived += BATCH as u64;
            (arrived - BATCH as u64..arrived).map(|n| placed(arrival(n))).collect()
        };
        b.iter_batched(prepare, |records| node.take(records), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group! { name = benches; config = cpu::criterion(); targets = apply }
criterion_main!(benches);
