//! The writing and reading of a snapshot of one partition.

#![allow(missing_docs)] // made by criterion's macros

use clarion_benches::{
    cpu::{self, CpuTime},
    devices::{START_MS, place, record, registration, registration_fcm},
};
use clarion_proto::{
    device::Change,
    ids::{PartitionId, Position, UnixMillis},
};
use clarion_shard::partition::{
    Partition, Vocabulary,
    snapshot::{Restored, SnapshotReader},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Devices of one partition of 64, with ten million in all.
const DEVICES: u64 = 156_250;

fn snapshot(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("snapshot");
    group.sample_size(20).throughput(Throughput::Elements(DEVICES));
    for (kind, register) in [("apns", registration as fn(_, _) -> _), ("fcm", registration_fcm)] {
        let (mut partition, mut words) = (Partition::new(PartitionId(0), 7), Vocabulary::new());
        for n in 0..DEVICES {
            let arrival = record(n, 0, Change::Arrival(register(n, 0), place(n)));
            partition.apply(UnixMillis(START_MS), &arrival, &mut words);
        }
        let whole = write(&mut partition, &words);
        println!(
            "snapshot/{kind}: {:.1} bytes for each device",
            whole.len() as f64 / DEVICES as f64
        );
        group
            .bench_function(format!("write, {kind}"), |b| b.iter(|| write(&mut partition, &words)));
        group.bench_function(format!("load, {kind}"), |b| {
            b.iter_with_large_drop(|| load(&whole));
        });
    }
    group.finish();
}

fn write(partition: &mut Partition, words: &Vocabulary) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = partition.begin_snapshot(Position(1), words, &mut out);
    while writer.next(partition, words, &mut out).expect("nothing changes meanwhile") {}
    out
}

/// Reads the snapshot in pieces, as it arrives over a connection.
fn load(whole: &[u8]) -> Restored {
    let (mut reader, mut words) = (SnapshotReader::new(7), Vocabulary::new());
    for piece in whole.chunks(1 << 20) {
        reader.push(piece, &mut words).expect("as it was written");
    }
    reader.finish().expect("all of it")
}

criterion_group! { name = benches; config = cpu::criterion(); targets = snapshot }
criterion_main!(benches);
