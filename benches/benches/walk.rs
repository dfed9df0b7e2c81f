//! The walk: over all devices of a partition, over few of them, and over the rest after a takeover.

#![allow(missing_docs)] // made by criterion's macros

use std::collections::BTreeSet;

use clarion_benches::{
    cpu::{self, CpuTime},
    devices::{START_MS, arrival, cell},
};
use clarion_proto::{
    device::token_hash,
    ids::{PartitionId, UnixMillis},
};
use clarion_shard::{
    partition::{Partition, Tags, TokenBuffer, Vocabulary},
    wave::{Ahead, Cover, Step, Walk},
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use h3o::Resolution;
use roaring::RoaringBitmap;

const DEVICES: u64 = 1_000_000;

fn walk(c: &mut Criterion<CpuTime>) {
    let (mut partition, mut words) = (Partition::new(PartitionId(0), 7), Vocabulary::new());
    for n in 0..DEVICES {
        partition.apply(UnixMillis(START_MS), &arrival(n), &mut words);
    }
    let everybody: RoaringBitmap = (0..u32::try_from(DEVICES).expect("a million")).collect();
    // Cells of resolution 6 with all devices, divided among twelve bands; and 3,900 cells of
    // resolution 9 somewhere among them.
    let whole =
        cover((0..DEVICES).map(|n| cell(n).parent(Resolution::Six).expect("coarser").into()));
    let scattered = cover((0..3_900).map(|n| cell(n).into()));

    let mut group = c.benchmark_group("walk");
    group.sample_size(20);
    let mut bench = |name: &str, cover: &Cover, handed: &RoaringBitmap, ahead| {
        let found = drain(&partition, cover, Walk::new(handed.clone(), Tags::ALL, ahead));
        println!("walk/{name}: {found} of {DEVICES} devices");
        group.throughput(Throughput::Elements(if found == 0 { DEVICES } else { found }));
        group.bench_function(name, |b| {
            let start = || Walk::new(handed.clone(), Tags::ALL, ahead);
            b.iter_batched(start, |walk| drain(&partition, cover, walk), BatchSize::LargeInput);
        });
    };
    // The next device, without and with the data of each that is read ahead.
    bench("dense", &whole, &RoaringBitmap::new(), Ahead::Nothing);
    bench("dense, rows", &whole, &RoaringBitmap::new(), Ahead::Rows);
    bench("dense, rows and tokens", &whole, &RoaringBitmap::new(), Ahead::Tokens);
    bench("sparse", &scattered, &RoaringBitmap::new(), Ahead::Nothing);
    bench("sparse, rows and tokens", &scattered, &RoaringBitmap::new(), Ahead::Tokens);
    bench("all handed already", &whole, &everybody, Ahead::Tokens);
    // The data of a push: the walk, and all of the device as a lane reads it.
    group.throughput(Throughput::Elements(DEVICES));
    group.bench_function("dense, reading each", |b| {
        let start = || Walk::new(RoaringBitmap::new(), Tags::ALL, Ahead::Tokens);
        b.iter_batched(start, |walk| read_all(&partition, &whole, walk), BatchSize::LargeInput);
    });
    group.finish();
}

fn cover(cells: impl Iterator<Item = u64>) -> Cover {
    let mut bands = vec![(0.0, 0.0, Vec::new()); 12];
    for (n, cell) in cells.collect::<BTreeSet<_>>().into_iter().enumerate() {
        bands[n % 12].2.push(cell);
    }
    for (n, band) in bands.iter_mut().enumerate() {
        (band.0, band.1) = (n as f64, n as f64 + 1.0);
    }
    Cover::new(&bands).expect("disjoint")
}

fn drain(partition: &Partition, cover: &Cover, mut walk: Walk) -> u64 {
    let mut found = 0;
    loop {
        match walk.step(partition, cover, u32::MAX) {
            Step::Device { ordinal, .. } => found += u64::from(walk.hand(ordinal)),
            Step::More => {}
            Step::Waiting | Step::Idle => return found,
        }
    }
}

fn read_all(partition: &Partition, cover: &Cover, mut walk: Walk) -> u64 {
    let mut sum = 0;
    loop {
        match walk.step(partition, cover, u32::MAX) {
            Step::Device { ordinal, .. } => {
                let Some(device) = partition.pushable(ordinal) else { continue };
                sum += token_hash(device.token.read(&mut TokenBuffer::default()))
                    ^ u64::from(device.device.0[0])
                    ^ u64::from(device.locale.0);
                walk.hand(ordinal);
            }
            Step::More => {}
            Step::Waiting | Step::Idle => return sum,
        }
    }
}

criterion_group! { name = benches; config = cpu::criterion(); targets = walk }
criterion_main!(benches);
