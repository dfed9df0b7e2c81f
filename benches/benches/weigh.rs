//! The memory of a device: the growth of a process that holds only partitions, filled by `apply`.
//!
//! `weigh apns|fcm|half [devices]` prints resident bytes for each registered device: loaded; after
//! every device has moved; after a tenth was removed and another tenth was added, spread over
//! thirty days of append time; after a snapshot of each partition; and, on a copy of the same
//! history, with all those tombstones at once.

use std::time::{Duration, Instant};

use clarion_benches::devices::{
    START_MS, place, record, registration, registration_fcm, resident_bytes,
};
use clarion_proto::{
    device::{Change, Record, Registration},
    ids::{PartitionId, Position, UnixMillis, partition_of},
};
use clarion_shard::partition::{Partition, Vocabulary, ahead};

const PARTITIONS: u16 = 64;
const DAY_MS: u64 = 24 * 3_600_000;

struct Weigh {
    kind: String,
    devices: u64,
    before: u64,
    peak: u64,
    begin: Instant,
    partitions: Vec<Option<Partition>>,
    words: Vocabulary,
    /// Records that are applied at this time.
    batch: Vec<(PartitionId, Record)>,
    now: u64,
    /// Time in `apply_all` since the last line; the rest of the time goes into creating records.
    applying: Duration,
}

/// Number of records in a batch.
const BATCH: usize = 4_096;

impl Weigh {
    fn register(&self, n: u64) -> Registration {
        match self.kind.as_str() {
            "fcm" => registration_fcm(n, 0),
            "half" if n % 2 == 1 => registration_fcm(n, 0),
            _ => registration(n, 0),
        }
    }

    fn apply(&mut self, now: u64, record: Record) {
        if self.now != now || self.batch.len() == BATCH {
            self.flush();
        }
        self.now = now;
        self.batch.push((partition_of(record.device, PARTITIONS), record));
    }

    /// Applies the batch as a core does.
    #[allow(clippy::disallowed_methods)] // a bench has a clock
    fn flush(&mut self) {
        let appended = UnixMillis(START_MS + self.now);
        let slot_of = |id: PartitionId| Some(id.0.into());
        let begin = Instant::now();
        ahead::apply_all(
            &mut self.partitions,
            appended,
            &self.batch,
            &mut self.words,
            slot_of,
            |_, _| {},
        );
        self.applying += begin.elapsed();
        self.batch.clear();
    }

    fn arrive(&mut self, now: u64, n: u64) {
        let change = Change::Arrival(self.register(n), place(n));
        self.apply(now, record(n, now, change));
    }

    /// Prints the highest memory so far per present device.
    fn look(&mut self, devices: u64) {
        self.peak = self.peak.max((resident_bytes() - self.before) * 100 / devices);
    }

    fn report(&mut self, what: &str) {
        self.flush();
        let held: u64 = self.partitions.iter().flatten().map(|p| p.held().devices).sum();
        let each = (resident_bytes() - self.before) as f64 / held as f64;
        let took = self.begin.elapsed().as_secs_f64();
        println!(
            "{} {held}: {each:.1} bytes {what}, at most {:.1} meanwhile; {took:.0} s in all, {:.1} s of applying",
            self.kind,
            self.peak as f64 / 100.0,
            self.applying.as_secs_f64(),
        );
        (self.peak, self.applying) = (0, Duration::ZERO);
    }
}

#[allow(clippy::disallowed_methods)] // a bench has a clock
fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let kind = args.next().unwrap_or_else(|| "apns".to_owned());
    let devices: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let at_once = args.next().is_some_and(|arg| arg == "at-once");
    let mut w = Weigh {
        kind,
        devices,
        before: resident_bytes(),
        peak: 0,
        begin: Instant::now(),
        partitions: (0..PARTITIONS).map(|p| Some(Partition::new(PartitionId(p), 7))).collect(),
        words: Vocabulary::new(),
        batch: Vec::with_capacity(BATCH),
        now: 0,
        applying: Duration::ZERO,
    };
    for n in 0..w.devices {
        w.arrive(0, n);
        if n % 65_536 == 65_535 && n * 10 > devices {
            w.look(n);
        }
    }
    w.report("loaded");
    for n in 0..devices {
        w.apply(1_000, record(n, 1_000, Change::Place(place(n + devices))));
        if n % 65_536 == 65_535 {
            w.look(devices);
        }
    }
    w.report("after all have moved");
    for n in (0..devices).step_by(10) {
        let now = if at_once { 2_000 } else { 2_000 + (30 * DAY_MS) / devices * n };
        w.apply(now, record(n, now, Change::Removal));
        w.arrive(now, n + devices);
        if n % 65_536 == 0 {
            w.look(devices);
        }
    }
    w.report(if at_once { "after 10 % churn at once" } else { "after 10 % churn in 30 days" });
    let (mut bytes, mut out) = (0, Vec::new());
    for p in 0..PARTITIONS {
        let partition = w.partitions[usize::from(p)].as_mut().expect("all are here");
        let mut writer = partition.begin_snapshot(Position(0), &w.words, &mut out);
        while writer.next(partition, &w.words, &mut out).expect("nothing changes meanwhile") {
            bytes += out.len();
            out.clear();
        }
        w.look(devices);
    }
    println!("snapshots of {:.1} bytes for each", bytes as f64 / devices as f64);
    w.report("after a snapshot");
}
