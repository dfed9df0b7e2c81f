//! What one record costs, in a partition that holds a million devices already; and what a device weighs.

#![allow(missing_docs)] // made by criterion's macros

use clarion_benches::devices::{START_MS, arrival, place, record, registration, resident_bytes};
use clarion_proto::{
    device::{Change, Record},
    ids::{PartitionId, UnixMillis, partition_of},
};
use clarion_shard::partition::{Partition, Vocabulary};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const DEVICES: u64 = 1_000_000;
const PARTITIONS: u16 = 64;
const NOW: UnixMillis = UnixMillis(START_MS);

fn apply(c: &mut Criterion) {
    weigh();

    let (mut partition, mut words) = (Partition::new(PartitionId(0)), Vocabulary::new());
    for n in 0..DEVICES {
        partition.apply(NOW, &arrival(n), &mut words);
    }
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(1));

    // Each iteration is a new observation of the next device, prepared outside of the measurement.
    let mut at = 0;
    let mut next = move || {
        at += 1;
        (at % DEVICES, at)
    };
    group.bench_function("move", |b| {
        let prepare = || {
            let (n, at) = next();
            record(n, at, Change::Place(place(n + at)))
        };
        b.iter_batched(prepare, |r| partition.apply(NOW, &r, &mut words), BatchSize::SmallInput);
    });
    group.bench_function("register again", |b| {
        let prepare = || {
            let (n, at) = next();
            record(n, at, Change::Registration(registration(n, at)))
        };
        b.iter_batched(prepare, |r| partition.apply(NOW, &r, &mut words), BatchSize::SmallInput);
    });
    group.throughput(Throughput::Elements(2));
    group.bench_function("remove and return", |b| {
        let prepare = || {
            let (n, at) = next();
            let back = Change::Arrival(registration(n, at), place(n));
            (record(n, at, Change::Removal), record(n, at, back))
        };
        let both = |(gone, back)| {
            partition.apply(NOW, &gone, &mut words);
            partition.apply(NOW, &back, &mut words)
        };
        b.iter_batched(prepare, both, BatchSize::SmallInput);
    });
    drop(partition);

    // From nothing, growth of all structures included.
    group.throughput(Throughput::Elements(20_000));
    group.bench_function("20,000 arrivals", |b| {
        let arrivals: Vec<_> = (0..20_000).map(arrival).collect();
        b.iter_batched(
            || (Partition::new(PartitionId(0)), Vocabulary::new()),
            |(mut partition, mut words)| {
                for record in &arrivals {
                    partition.apply(NOW, record, &mut words);
                }
                (partition, words)
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// Prints the growth of the process for a million APNs devices in 64 partitions: after loading, and after everybody has
/// moved and every tenth device was removed and another came.
fn weigh() {
    let before = resident_bytes();
    let mut partitions: Vec<_> = (0..PARTITIONS).map(|p| Partition::new(PartitionId(p))).collect();
    let mut words = Vocabulary::new();
    let mut apply = |record: Record| {
        let partition = &mut partitions[usize::from(partition_of(record.device, PARTITIONS).0)];
        partition.apply(NOW, &record, &mut words);
    };
    (0..DEVICES).for_each(|n| apply(arrival(n)));
    let loaded = resident_bytes();
    (0..DEVICES).for_each(|n| apply(record(n, 1, Change::Place(place(n + DEVICES)))));
    for n in (0..DEVICES).step_by(10) {
        apply(record(n, 2, Change::Removal));
        apply(arrival(n + DEVICES));
    }
    let turned = resident_bytes();
    let held: u64 = partitions.iter().map(|p| p.held().devices).sum();
    assert_eq!(held, DEVICES);
    let each = |after: u64| after.saturating_sub(before) as f64 / DEVICES as f64;
    println!(
        "resident bytes per APNs device: {:.1} loaded, {:.1} after turnover and 10 % churn",
        each(loaded),
        each(turned)
    );
}

criterion_group!(benches, apply);
criterion_main!(benches);
