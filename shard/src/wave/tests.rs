//! The guarantee of a wave, under any interleaving of changes and steps:
//!
//! - no device is handed twice, whatever was delivered late or repeatedly, removed or registered
//!   again;
//! - no device is handed while outside the cover, muted, unregistered, in a band that is not open,
//!   or not addressed;
//! - a device that can be pushed to, is addressed and inside the cover at the end is handed by the
//!   end. That is more than the promise, which is only for devices that were there at the start
//!   too;
//! - a holder that takes over from a snapshot and the log after it has the same devices under the
//!   same ordinals as one that began with the log, and continues with the devices that were handed
//!   over;
//! - a device that was returned and not addressed is returned again only after it has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use bytes::Bytes;
use clarion_proto::{
    device::{Cell, Change, Record, Registration, Token},
    ids::{AppName, DeviceId, Ordinal, PartitionId, Position, UnixMillis},
};
use h3o::{CellIndex, LatLng, Resolution};
use proptest::prelude::*;
use roaring::RoaringBitmap;

use self::told::{Told, told};
use super::{walk::Limits, *};
use crate::{
    partition::{
        Partition, Tags, Vocabulary,
        snapshot::{SnapshotReader, SnapshotWriter},
        tests::{contents, rest},
    },
    wave::SegmentOp,
};

mod told;

const HOUR_MS: u64 = 3_600_000;
const START_MS: u64 = 1_780_000_000_000;
const BANDS: u32 = 3;

/// Some cells of a city: band 0 is a whole res-7 cell without a hole that is band 2, band 1 its
/// neighbour, all else is outside.
fn town() -> (Cover, Vec<Cell>) {
    let middle = LatLng::new(22.54, 114.06).expect("finite").to_cell(Resolution::Seven);
    let children: Vec<CellIndex> = middle.children(Resolution::Eight).collect();
    let around: Vec<CellIndex> =
        middle.grid_disk::<Vec<_>>(1).into_iter().filter(|c| *c != middle).collect();
    let indices = |cells: &[CellIndex]| cells.iter().map(|c| u64::from(*c)).collect::<Vec<_>>();
    let cover = Cover::new(&[
        (0.0, 1.0, indices(&[&children[..3], &children[5..]].concat())),
        (1.0, 2.0, indices(&around[..1])),
        (2.0, 3.0, indices(&children[3..4])),
    ]);
    let ancestors = [&children[..], &around[..2]].concat();
    let places = ancestors
        .iter()
        .flat_map(|c| c.children(Resolution::Nine).take(3))
        .map(Cell::from)
        .collect();
    (cover.expect("disjoint"), places)
}

#[derive(Debug, Clone)]
enum Action {
    /// Device, observed at, what; places are numbers into the town.
    Apply(u8, u64, Told),
    /// Some of the last records come again.
    Again(usize),
    /// Append time passes.
    Pass(u64),
    /// Runs this many steps, with this many bands open.
    Step(u8, u32),
    /// A snapshot begins; an earlier one that is not whole is given up.
    Begin,
    /// Writes this many sections of the snapshot.
    Write(u8),
    /// Another node takes over, from the last whole snapshot.
    TakeOver,
}

/// Addressed: the app `demo`. Then an app whose devices the walk passes over by their tag, and one
/// with the tag of `demo`.
static APPS: LazyLock<[AppName; 3]> = LazyLock::new(|| {
    let demo = AppName::from_id("demo").unwrap();
    let of = |same| {
        let mut others = (0..).map(|n| AppName::from_id(&format!("other-{n}")).unwrap());
        others.find(|app| (Tags::of([app]) == Tags::of([&demo])) == same).unwrap()
    };
    [demo.clone(), of(false), of(true)]
});

fn tags() -> Tags {
    Tags::of(&APPS[..1])
}

/// Segment `yes` is addressed.
fn registration(n: u8) -> Registration {
    Registration {
        app: APPS[[0, 0, 0, 0, 1, 2][usize::from(n % 6)]].clone(),
        token: Token::new(Bytes::from(vec![n; 8])).unwrap(),
        locale: String::new(),
        segments: vec![if n.is_multiple_of(3) { "no" } else { "yes" }.to_owned()],
        person: String::new(),
    }
}

fn program() -> Program {
    Program::compile(&[SegmentOp::Has("yes".to_owned())]).unwrap()
}

struct Town {
    cover: Cover,
    places: Vec<Cell>,
    partition: Partition,
    words: Vocabulary,
    program: Program,
    now: u64,
    /// Oldest observation of a place that the wave accepts.
    place_seen_after: u64,
    /// With the append time.
    log: Vec<(u64, (u8, u64, Told))>,
}

impl Town {
    fn new() -> Self {
        let (cover, places) = town();
        let (partition, words) = (Partition::with_pages(PartitionId(0), 7, 4), Vocabulary::new());
        let (program, log) = (program(), Vec::new());
        Self { cover, places, partition, words, program, now: START_MS, place_seen_after: 0, log }
    }

    /// Writes a record to the log and applies it. Returns the device that may have changed for
    /// waves, as the partition reports it.
    fn apply(&mut self, told: (u8, u64, Told)) -> Option<(Ordinal, Cell)> {
        let record = self.record(&told);
        self.log.push((self.now, told));
        let applied = self.partition.apply(UnixMillis(self.now), &record, &mut self.words);
        let refreshed = applied.refreshed.filter(|device| device.earlier.0 < self.place_seen_after);
        applied.placed.or(refreshed.map(|device| (device.ordinal, device.cell)))
    }

    fn record(&self, (n, observed, told): &(u8, u64, Told)) -> Record {
        let place = |at: usize| self.places[at % self.places.len()];
        let change = match told {
            Told::Arrival(r, at) => Change::Arrival(registration(*r), place(*at)),
            Told::Registration(r) => Change::Registration(registration(*r)),
            Told::Place(at) => Change::Place(place(*at)),
            Told::Removal => Change::Removal,
            Told::Mute(muted) => Change::Mute(*muted),
            Told::Dead(r, at) => Change::Feedback {
                token_hash: registration(*r).token.hash(),
                gateway_time: at.map(|at| UnixMillis(START_MS + at)),
            },
            Told::Expiry(limit) => {
                let (device, observed) = (DeviceId([u8::MAX; 16]), UnixMillis(START_MS + limit));
                return Record { device, observed, change: Change::Expiry(APPS[0].clone()) };
            }
        };
        Record { device: DeviceId([*n; 16]), observed: UnixMillis(START_MS + observed), change }
    }

    /// The partition that another node has: a snapshot, in two pieces, and the log behind it.
    fn replica(&self, snapshot: &[u8], cut: usize) -> (Partition, Vocabulary) {
        let (mut reader, mut words) = (SnapshotReader::with_pages(7, 5), Vocabulary::new());
        words.intern_segments(&["met before".to_owned()]);
        let (one, two) = snapshot.split_at(cut % snapshot.len());
        for piece in [one, two] {
            reader.push(piece, &mut words).expect("nothing was changed");
        }
        let mut restored = reader.finish().expect("all of it");
        for (appended, told) in &self.log[usize::try_from(restored.position.0).unwrap()..] {
            restored.partition.apply(UnixMillis(*appended), &self.record(told), &mut words);
        }
        (restored.partition, words)
    }

    /// The band of a device, if it is to be pushed to now.
    fn band(&mut self, ordinal: Ordinal) -> Option<u32> {
        let pushable = self.partition.pushable(ordinal)?;
        let addressed = pushable.place_seen.0 >= self.place_seen_after
            && self.words.app(pushable.app) == Some(&APPS[0])
            && self.program.matches(&self.words, pushable.segments);
        self.cover.band_of(pushable.cell).filter(|_| addressed)
    }
}

/// One wave over a town, with its handed devices.
struct Run {
    town: Town,
    walk: Walk,
    handed: BTreeMap<DeviceId, Ordinal>,
    reported: RoaringBitmap,
    /// Returned and not handed, and unchanged since.
    passed_over: BTreeSet<Ordinal>,
    limits: Limits,
    writing: Option<(SnapshotWriter, Vec<u8>)>,
    snapshot: Vec<u8>,
}

impl Run {
    fn apply(&mut self, told: (u8, u64, Told)) {
        if let Some((ordinal, cell)) = self.town.apply(told) {
            self.passed_over.remove(&ordinal);
            self.walk.entered(&self.town.cover, ordinal, cell);
        }
    }

    fn step(&mut self, bands_open: u32) -> Step {
        let walked = self.walk.bands_walked();
        let step = self.walk.step(&self.town.partition, &self.town.cover, bands_open);
        assert!(
            walked <= self.walk.bands_walked()
                && self.walk.bands_walked() <= bands_open.max(walked)
        );
        if let Step::Device { ordinal, cell, band } = step {
            let Some(pushable) = self.town.partition.pushable(ordinal) else {
                // Expired, and not swept yet.
                assert!(self.town.partition.key_of(ordinal).is_some(), "returned only with a key");
                self.passed_over.insert(ordinal);
                return step;
            };
            let device = pushable.device;
            assert!(self.town.words.app(pushable.app) != Some(&APPS[1]), "of another tag");
            assert_eq!((pushable.cell, self.town.cover.band_of(cell)), (cell, Some(band)));
            assert!(band < bands_open);
            assert!(!self.passed_over.contains(&ordinal), "nothing about it changed");
            if self.town.band(ordinal).is_some() {
                assert!(self.walk.hand(ordinal) && !self.walk.hand(ordinal));
                // Who was gone for a day was forgotten with its ordinal, and counts as another
                // device.
                let before = self.handed.insert(device, ordinal);
                let forgotten = before.is_some_and(|o| o != ordinal)
                    && self.town.now >= START_MS + 24 * HOUR_MS;
                assert!(before.is_none() || forgotten, "handed twice");
            } else {
                self.passed_over.insert(ordinal);
            }
        }
        step
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Apply(n, observed, told) => self.apply((n, observed, told)),
            Action::Again(n) => {
                let log = &self.town.log;
                let again: Vec<_> = log[log.len().saturating_sub(n)..].to_vec();
                again.into_iter().for_each(|(_, told)| self.apply(told));
            }
            Action::Begin => {
                let (mut out, position) = (Vec::new(), Position(self.town.log.len() as u64));
                let Town { partition, words, .. } = &mut self.town;
                let writer = partition.begin_snapshot_with(position, words, (1_000, 7), &mut out);
                self.writing = Some((writer, out));
            }
            Action::Write(sections) => {
                for _ in 0..sections {
                    let Some((writer, out)) = &mut self.writing else { break };
                    if !writer
                        .next(&mut self.town.partition, &self.town.words, out)
                        .expect("few changes")
                    {
                        self.snapshot = self.writing.take().expect("just seen").1;
                    }
                }
            }
            Action::TakeOver if self.snapshot.is_empty() => {}
            Action::TakeOver => {
                let (partition, words) =
                    self.town.replica(&self.snapshot, self.town.log.len() * 31);
                assert_eq!(
                    contents(&partition, &words),
                    contents(&self.town.partition, &self.town.words)
                );
                assert_eq!(rest(&partition), rest(&self.town.partition));
                (self.town.partition, self.town.words, self.writing) = (partition, words, None);
                self.town.program = program();
                self.reported |= self.walk.take_handed();
                self.walk = Walk::with_limits(&self.reported, tags(), self.limits);
                self.passed_over.clear();
            }
            // No wave lasts as long as an ordinal rests (96 h since its device could be pushed to).
            Action::Pass(ms) => self.town.now = (self.town.now + ms).min(START_MS + 90 * HOUR_MS),
            Action::Step(times, bands_open) => {
                for _ in 0..times {
                    self.step(bands_open);
                }
            }
        }
    }

    /// Walks to the end, and checks that no device is left that should have been handed.
    fn finish(mut self) -> Result<(), TestCaseError> {
        for tries in 0.. {
            match self.step(BANDS) {
                Step::Idle => break,
                Step::Waiting => prop_assert!(false, "all bands are open"),
                Step::Device { .. } | Step::More => {
                    prop_assert!(tries < 100_000, "it does not end");
                }
            }
        }
        prop_assert_eq!((self.walk.bands_walked(), self.walk.late()), (BANDS, 0));
        for n in 0..=u8::MAX {
            let Some(ordinal) = self.town.partition.ordinal_of(DeviceId([n; 16])) else { continue };
            if self.town.band(ordinal).is_some() {
                prop_assert!(self.walk.handed().contains(ordinal), "missed");
            }
        }
        self.reported |= self.walk.take_handed();
        prop_assert_eq!(self.walk.handed().to_roaring(), self.reported);
        Ok(())
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => (0u8..60, 0u64..200, told()).prop_map(|(n, at, told)| Action::Apply(n, at, told)),
        2 => (0usize..8).prop_map(Action::Again),
        1 => prop_oneof![0u64..50, Just(13 * HOUR_MS)].prop_map(Action::Pass),
        6 => (1u8..12, 0u32..=BANDS).prop_map(|(times, bands)| Action::Step(times, bands)),
        1 => Just(Action::Begin),
        3 => (1u8..5).prop_map(Action::Write),
        1 => Just(Action::TakeOver),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (1usize..6, 1usize..6, 1usize..4).prop_map(|(buffer_keys, late_max, work_per_step)| Limits {
        buffer_keys,
        late_max,
        work_per_step,
    })
}

proptest! {
    /// See the module.
    #[test]
    fn each_once_and_nobody_else(
        before in prop::collection::vec((0u8..60, 0u64..100, told()), 0..150),
        during in prop::collection::vec(action(), 0..150),
        limits in limits(),
        place_seen_after in prop_oneof![Just(0), START_MS..START_MS + 200],
    ) {
        let mut town = Town { place_seen_after, ..Town::new() };
        for told in before {
            town.apply(told);
        }
        let walk = Walk::with_limits(&RoaringBitmap::new(), tags(), limits);
        let (handed, reported) = (BTreeMap::new(), RoaringBitmap::new());
        let (passed_over, writing, snapshot) = (BTreeSet::new(), None, Vec::new());
        let mut run = Run { town, walk, handed, reported, passed_over, limits, writing, snapshot };
        for action in during {
            run.act(action);
            run.reported |= run.walk.take_handed();
        }
        run.finish()?;
    }
}

/// A town with devices 0, 1, 2 … at the given places, all addressed.
fn town_with(places: &[Cell]) -> Town {
    let mut town = Town::new();
    for (n, place) in (0..).zip(places) {
        let at = town.places.iter().position(|p| p == place).unwrap();
        town.apply((n, 0, Told::Arrival(1, at)));
    }
    town
}

/// Places of the town by band, and those outside.
fn by_band() -> BTreeMap<Option<u32>, Vec<Cell>> {
    let (cover, places) = town();
    let mut by_band = BTreeMap::<_, Vec<_>>::new();
    for place in places {
        by_band.entry(cover.band_of(place)).or_default().push(place);
    }
    by_band
}

fn next(walk: &mut Walk, town: &Town, bands_open: u32) -> Option<(u32, u32)> {
    match walk.step(&town.partition, &town.cover, bands_open) {
        Step::Device { ordinal, band, .. } => walk.hand(ordinal).then_some((ordinal.0, band)),
        Step::More => next(walk, town, bands_open),
        Step::Waiting | Step::Idle => None,
    }
}

fn move_to(walk: &mut Walk, town: &mut Town, n: u8, observed: u64, place: Cell) {
    let at = town.places.iter().position(|p| *p == place).unwrap();
    let (ordinal, cell) = town.apply((n, observed, Told::Place(at))).unwrap();
    walk.entered(&town.cover, ordinal, cell);
}

/// The nearest band comes first; closed bands, devices outside and devices that another holder
/// handed do not come.
#[test]
fn walks_bands_in_order() {
    let at = by_band();
    let (near, mid, far, out) = (at[&Some(0)][0], at[&Some(1)][0], at[&Some(2)][0], at[&None][0]);
    let town = town_with(&[far, out, mid, near, near, mid]);
    let mut walk = Walk::new([5].into_iter().collect(), tags(), Ahead::Tokens);
    assert_eq!(next(&mut walk, &town, 0), None);
    assert_eq!(
        [next(&mut walk, &town, 1), next(&mut walk, &town, 1)],
        [Some((3, 0)), Some((4, 0))]
    );
    assert_eq!(
        (walk.step(&town.partition, &town.cover, 1), walk.bands_walked()),
        (Step::Waiting, 1)
    );
    assert_eq!(
        [next(&mut walk, &town, 3), next(&mut walk, &town, 3)],
        [Some((2, 1)), Some((0, 2))]
    );
    assert_eq!((walk.step(&town.partition, &town.cover, 3), walk.bands_walked()), (Step::Idle, 3));
    assert_eq!(walk.take_handed(), [0, 2, 3, 4].into_iter().collect());
    assert_eq!((walk.take_handed(), walk.handed().len()), (RoaringBitmap::new(), 5));
}

/// A device that moves behind the frontier is late, and comes before all devices ahead of the
/// frontier; nearest first.
#[test]
fn late_devices_come_first() {
    let at = by_band();
    let (near, mid, far, out) = (at[&Some(0)][0], at[&Some(1)][0], at[&Some(2)][0], at[&None][0]);
    let mut town = town_with(&[out, out, far, far]);
    let mut walk = Walk::new(RoaringBitmap::new(), tags(), Ahead::Tokens);
    assert_eq!(next(&mut walk, &town, 3), Some((2, 2)));
    move_to(&mut walk, &mut town, 0, 1, mid);
    move_to(&mut walk, &mut town, 1, 1, near);
    assert_eq!(walk.late(), 2);
    assert_eq!(
        [next(&mut walk, &town, 3), next(&mut walk, &town, 3)],
        [Some((1, 0)), Some((0, 1))]
    );
    assert_eq!([next(&mut walk, &town, 3), next(&mut walk, &town, 3)], [Some((3, 2)), None]);
    assert_eq!(walk.step(&town.partition, &town.cover, 3), Step::Idle);
}

/// A device that left again before its turn is not returned, buffered or late; a handed device is
/// not late.
#[test]
fn those_who_left_are_skipped() {
    let at = by_band();
    let (near, mid, out) = (at[&Some(0)][0], at[&Some(1)][0], at[&None][0]);
    let mut town = town_with(&[near, near, out, mid]);
    let mut walk = Walk::new(RoaringBitmap::new(), tags(), Ahead::Tokens);
    assert_eq!(next(&mut walk, &town, 3), Some((0, 0)));
    move_to(&mut walk, &mut town, 1, 1, out); // was in the buffer
    assert_eq!(next(&mut walk, &town, 3), Some((3, 1)));
    move_to(&mut walk, &mut town, 2, 1, near);
    move_to(&mut walk, &mut town, 2, 2, out);
    move_to(&mut walk, &mut town, 0, 1, at[&Some(0)][1]);
    assert_eq!(walk.late(), 1);
    assert_eq!((next(&mut walk, &town, 3), walk.late()), (None, 0));
}

/// With more late devices than the queue holds, the walk starts over and meets all of them, and
/// none twice.
#[test]
fn a_full_late_queue_loses_nobody() {
    let at = by_band();
    let (near, far, out) = (at[&Some(0)][0], at[&Some(2)][0], at[&None][0]);
    let mut town = town_with(&[vec![out; 20], vec![near; 3], vec![far; 2]].concat());
    let limits = Limits { buffer_keys: 4, late_max: 8, work_per_step: 2 };
    let mut walk = Walk::with_limits(&RoaringBitmap::new(), tags(), limits);
    let mut handed: Vec<_> = (0..4).map_while(|_| next(&mut walk, &town, 3)).collect();
    assert_eq!(handed, [(20, 0), (21, 0), (22, 0), (23, 2)]);
    for n in 0..20 {
        move_to(&mut walk, &mut town, n, 1, near);
        assert!(walk.late() <= limits.late_max);
    }
    assert_eq!(walk.bands_walked(), 2);
    handed.extend(std::iter::from_fn(|| next(&mut walk, &town, 3)));
    let expected =
        (20..23).map(|n| (n, 0)).chain([(23, 2)]).chain((0..20).map(|n| (n, 0))).chain([(24, 2)]);
    assert_eq!(handed, expected.collect::<Vec<_>>());
}
