//! The walk of a small alert over many devices: a circle of one kilometre, ten million devices in
//! 64 partitions.

#![allow(missing_docs)] // made by criterion's macros

use clarion_benches::{
    cpu::{self, CpuTime},
    devices::{START_MS, arrival, devices},
};
use clarion_proto::ids::{PartitionId, UnixMillis, partition_of};
use clarion_shard::{
    partition::{Partition, Tags, Vocabulary},
    wave::{Ahead, Cover, Step, Walk},
};
use criterion::{Criterion, criterion_group, criterion_main};
use h3o::{LatLng, Resolution};
use roaring::RoaringBitmap;

const PARTITIONS: u16 = 64;

fn near(c: &mut Criterion<CpuTime>) {
    let devices = devices();
    let mut partitions: Vec<_> =
        (0..PARTITIONS).map(|p| Partition::new(PartitionId(p), 7)).collect();
    let mut words = Vocabulary::new();
    for n in 0..devices {
        let record = arrival(n);
        let partition = &mut partitions[usize::from(partition_of(record.device, PARTITIONS).0)];
        partition.apply(UnixMillis(START_MS), &record, &mut words);
    }
    let mut group = c.benchmark_group("near");
    group.sample_size(20);
    // In the middle, where a sixtieth of all devices are, and twenty kilometres away.
    for (name, lat) in [("middle", 22.54), ("suburb", 22.72)] {
        let cover = circle(lat, 114.06);
        let walk = || partitions.iter().map(|partition| drain(partition, &cover)).sum::<u64>();
        println!("near/{name}: {} of {devices} devices", walk());
        group.bench_function(name, |b| b.iter(walk));
    }
    group.finish();
}

/// Returns about the cells of resolution 9 within a kilometre: four rings around the one in the
/// middle.
fn circle(lat: f64, lng: f64) -> Cover {
    let middle = LatLng::new(lat, lng).expect("finite").to_cell(Resolution::Nine);
    let cells = middle.grid_disk::<Vec<_>>(4).into_iter().map(u64::from).collect();
    Cover::new(&[(0.0, 1_000.0, cells)]).expect("disjoint")
}

fn drain(partition: &Partition, cover: &Cover) -> u64 {
    let (mut found, mut walk) = (0, Walk::new(RoaringBitmap::new(), Tags::ALL, Ahead::Tokens));
    loop {
        match walk.step(partition, cover, u32::MAX) {
            Step::Device { ordinal, .. } => found += u64::from(walk.hand(ordinal)),
            Step::More => {}
            Step::Waiting | Step::Idle => return found,
        }
    }
}

criterion_group! { name = benches; config = cpu::criterion(); targets = near }
criterion_main!(benches);
