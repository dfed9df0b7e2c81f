//! Comparison of the partition with a model: a map of facets with versions, dropped in time.

use std::collections::BTreeMap;

use bytes::Bytes;
use clarion_proto::{
    device::{Registration, Token},
    ids::AppName,
};
use h3o::{LatLng, Resolution};
use proptest::prelude::*;

use self::model::Model;
use super::*;

mod model;

pub(crate) const HOUR_MS: u64 = 3_600_000;
/// Time at which tests begin: some time in 2026.
pub(crate) const START_MS: u64 = 1_780_000_000_000;

pub(crate) fn cell(n: u8) -> Cell {
    LatLng::new(22.5, 114.0 + f64::from(n) * 0.01).expect("finite").to_cell(Resolution::Nine).into()
}

pub(crate) fn device(n: u8) -> DeviceId {
    DeviceId([n; 16])
}

pub(crate) fn registration(n: u8) -> Registration {
    Registration {
        app: AppName::from_id(["demo", "other"][usize::from(n) % 2]).unwrap(),
        token: Token::new(Bytes::from(vec![n % 4; 20 + usize::from(n % 3)])).unwrap(),
        locale: ["", "de", "zh-hans"][usize::from(n) % 3].to_owned(),
        segments: (0..n % 3).map(|s| format!("s{s}")).collect(),
        person: if n.is_multiple_of(5) { format!("p{n}") } else { String::new() },
    }
}

pub(crate) fn record(device_n: u8, observed: u64, change: Change) -> Record {
    Record { device: device(device_n), observed: UnixMillis(observed), change }
}

/// All that is known of one device. The contents leave out rows without any facet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    place: Option<u64>,
    registration: Option<Registration>,
    muted: bool,
}

pub(crate) type Contents = BTreeMap<DeviceId, (Ordinal, Known)>;

/// State that later records depend on and that the contents do not have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    now: UnixMillis,
    unused: u32,
    resting: Vec<u64>,
    expiry: Vec<(UnixMillis, Ordinal)>,
    versions: Vec<(Ordinal, [u64; 3], Option<UnixMillis>)>,
    sweep: (u32, u32),
}

pub(crate) fn rest(partition: &Partition) -> Rest {
    let mut expiry: Vec<_> = partition.expiry.iter().collect();
    expiry.sort();
    let versions = partition.rows.iter().map(|(ordinal, row)| {
        let versions =
            [row.place_version, row.registration_version, partition.mute_version(ordinal)];
        (ordinal, versions.map(Millis40::bits), row.due())
    });
    Rest {
        now: partition.now,
        unused: partition.rows.unused(),
        resting: partition.rows.saved_resting().collect(),
        expiry,
        versions: versions.collect(),
        sweep: partition.sweep.cursor(),
    }
}

/// Returns the contents of a partition, and checks the invariants of its structures.
pub(crate) fn contents(partition: &Partition, words: &Vocabulary) -> Contents {
    let mut contents = Contents::new();
    let (mut keys, mut held) = (Vec::new(), Held::default());
    for (ordinal, row) in partition.rows.iter() {
        assert_eq!(partition.ordinal_of(row.device()), Some(ordinal));
        let standing = partition.standing(ordinal);
        keys.extend(standing.key);
        held.count(standing, |n| *n += 1);
        assert!(row.is_registered() || row.is_scheduled());
        if row.due().is_some_and(|due| due <= partition.now) {
            continue;
        }
        let registration = row.registration().map(|r| {
            let (stored, mut buffer) = (partition.tokens.get(r.token), TokenBuffer::default());
            let (token, person) = (stored.read(&mut buffer), stored.person());
            let r = partition.profiles.get(ordinal, r.profile);
            let mut segments: Vec<_> =
                words.segments(r.segments).unwrap().map(str::to_owned).collect();
            segments.sort();
            let person = std::str::from_utf8(person).unwrap().to_owned();
            assert_eq!(partition.person(ordinal).unwrap_or(""), person);
            let token = Token::new(Bytes::copy_from_slice(token)).unwrap();
            let app = words.app(r.app).unwrap().clone();
            Registration { app, token, locale: words.locale(r.locale).to_owned(), segments, person }
        });
        let known = Known {
            place: row.place().map(|p| p.cell().index()),
            registration,
            muted: row.is_muted(),
        };
        let reachable = known.registration.is_some() && known.place.is_some() && !known.muted;
        assert_eq!(partition.pushable(ordinal).is_some(), reachable && !standing.expired);
        if known != Known::default() {
            contents.insert(row.device(), (ordinal, known));
        }
    }
    keys.sort();
    assert_eq!(partition.pages.check(), keys);
    let trailing = partition.held().apps.len();
    held.apps.resize(trailing, 0);
    assert_eq!(*partition.held(), held);
    contents
}

fn change() -> impl Strategy<Value = Change> {
    let feedback = (0u8..12, prop::option::of(0u64..40)).prop_map(|(n, at)| Change::Feedback {
        token_hash: registration(n).token.hash(),
        gateway_time: at.map(|at| UnixMillis(START_MS + at)),
    });
    prop_oneof![
        4 => any::<u8>().prop_map(|n| Change::Registration(registration(n))),
        4 => (0u8..20).prop_map(|n| Change::Place(cell(n))),
        4 => (any::<u8>(), 0u8..20).prop_map(|(n, c)| Change::Arrival(registration(n), cell(c))),
        2 => Just(Change::Removal),
        2 => any::<bool>().prop_map(Change::Mute),
        2 => feedback,
        1 => any::<bool>().prop_map(|n| Change::Expiry(registration(n.into()).app)),
    ]
}

/// (device, observed, append time passed, change): in a narrow time, so that ties and lateness are
/// common; sometimes a day passes.
pub(crate) fn history() -> impl Strategy<Value = Vec<(u8, u64, u64, Change)>> {
    let passed = prop_oneof![8 => 0u64..3, 1 => Just(9 * HOUR_MS), 1 => Just(30 * HOUR_MS), 1 => Just(34 * 24 * HOUR_MS)];
    prop::collection::vec((0u8..12, 0u64..40, passed, change()), 0..200)
}

proptest! {
    /// After each record a partition equals the model, its structures agree, and a second partition
    /// with the same records equals it, ordinals included, whatever words its core had met before.
    #[test]
    fn equals_the_model_and_its_twin(history in history()) {
        let mut one = Partition::with_pages(PartitionId(1), 7, 4);
        // The seed of the hash changes nothing either.
        let mut two = Partition::new(PartitionId(1), 8);
        let (mut words, mut other_words) = (Vocabulary::new(), Vocabulary::new());
        other_words.intern_app(&AppName::from_id("seen-before").unwrap());
        other_words.intern_segments(&["s1".to_owned(), "else".to_owned()]);
        let mut model = Model::default();
        let mut now = START_MS;
        for (n, observed, passed, change) in history {
            now += passed;
            let record = record(n, START_MS + observed, change);
            let stands = |one: &Partition| {
                let ordinal = one.ordinal_of(record.device)?;
                Some((one.key_of(ordinal)?, one.pushable(ordinal)?.place_seen))
            };
            let (before, swept) = (stands(&one), one.next_swept());
            let applied = one.apply(UnixMillis(now), &record, &mut words);
            prop_assert_eq!(two.apply(UnixMillis(now), &record, &mut other_words), applied);
            model.apply(now, &swept, n, &record);
            let held = contents(&one, &words);
            prop_assert_eq!(&contents(&two, &other_words), &held);
            let known: BTreeMap<_, _> = held.into_iter().map(|(d, (_, known))| (d, known)).collect();
            prop_assert_eq!(known, model.contents());
            // Whoever stands at another key than before was told to waves, and nobody was who
            // cannot be pushed to.
            let after = stands(&one);
            prop_assert_eq!(after.is_some(), model.is_pushable(n));
            let key = |of: Option<(Key, UnixMillis)>| of.map(|(key, _)| key);
            prop_assert!(after.is_none() || key(before) == key(after) || applied.placed.is_some());
            // So was whoever was seen again at the same place.
            if let (Some((_, earlier)), Some((_, seen)), None) = (before, after, applied.placed) {
                prop_assert_eq!(applied.refreshed.map(|r| r.earlier), (earlier < seen).then_some(earlier));
            } else {
                prop_assert_eq!(applied.refreshed, None);
            }
            if let Some((ordinal, cell)) = applied.placed {
                prop_assert_eq!(one.pushable(ordinal).map(|p| (p.device, p.cell)), Some((record.device, cell)));
            }
        }
    }

    /// The pipeline gives the same as single records in the same order, even if earlier records
    /// invalidate the results of looking ahead. Records of other partitions are skipped.
    #[test]
    fn the_pipeline_changes_nothing(history in history(), batch in 1usize..80, page_keys in 2u32..5) {
        let new = |id| Partition::with_pages(PartitionId(id), 7, 1 << page_keys);
        let mut piped = vec![Some(new(0)), None, Some(new(2))];
        let (mut plain, mut words) = ([new(0), new(1), new(2)], Vocabulary::new());
        let mut now = START_MS;
        for few in history.chunks(batch) {
            now += few.iter().map(|(_, _, passed, _)| passed).sum::<u64>();
            let records: Vec<_> = few
                .iter()
                .map(|(n, at, _, change)| (PartitionId(u16::from(n % 4)), record(*n, START_MS + at, change.clone())))
                .collect();
            let mut told = Vec::new();
            let slot_of = |id: PartitionId| (id.0 < 3).then_some(usize::from(id.0));
            ahead::apply_all(&mut piped, UnixMillis(now), &records, &mut words, slot_of, |slot, applied| {
                told.push((slot, applied));
            });
            let mut wanted = Vec::new();
            for (id, record) in &records {
                if let 0 | 2 = id.0 {
                    let slot = usize::from(id.0);
                    wanted.push((slot, plain[slot].apply(UnixMillis(now), record, &mut words)));
                }
            }
            prop_assert_eq!(told, wanted);
            for slot in [0, 2] {
                let piped = piped[slot].as_ref().expect("it is here");
                prop_assert_eq!(contents(piped, &words), contents(&plain[slot], &words));
                prop_assert_eq!(rest(piped), rest(&plain[slot]));
            }
        }
    }

    /// Within a day, records with distinct times give the same in any order and with any
    /// repetition.
    #[test]
    fn order_and_repeats_do_not_matter(
        (history, order) in prop::collection::vec((0u8..5, change()), 0..60).prop_flat_map(|h| {
            let order: Vec<_> = (0..h.len()).chain(0..h.len() / 2).collect();
            (Just(h), Just(order).prop_shuffle())
        }),
    ) {
        let records: Vec<_> = (0..)
            .zip(history)
            // A gateway speaks of what it was sent: feedback comes after the registration that it
            // means.
            // When a device expires depends on the sweep.
            .filter(|(_, (_, change))| !matches!(change, Change::Feedback { .. } | Change::Expiry(_)))
            .map(|(at, (n, change))| record(n, START_MS + at, change))
            .collect();
        let apply = |order: &mut dyn Iterator<Item = &Record>| {
            let mut partition = Partition::with_pages(PartitionId(0), 7, 4);
            let mut words = Vocabulary::new();
            order.for_each(|r| { partition.apply(UnixMillis(START_MS), r, &mut words); });
            contents(&partition, &words).into_iter().map(|(d, (_, known))| (d, known)).collect::<BTreeMap<_, _>>()
        };
        let in_order = apply(&mut records.iter());
        prop_assert_eq!(apply(&mut order.iter().filter_map(|&n| records.get(n))), in_order);
    }
}

/// A conversation with one partition.
struct Told {
    partition: Partition,
    words: Vocabulary,
}

impl Told {
    fn new() -> Self {
        Self { partition: Partition::new(PartitionId(0), 7), words: Vocabulary::new() }
    }

    fn at(&mut self, hour: u64, observed: u64, change: Change) -> Applied {
        let now = UnixMillis(START_MS + hour * HOUR_MS);
        self.partition.apply(now, &record(1, START_MS + observed, change), &mut self.words)
    }

    fn ordinal(&self) -> Option<u32> {
        self.partition.ordinal_of(device(1)).map(|o| o.0)
    }

    fn pushable(&self) -> bool {
        self.partition.ordinal_of(device(1)).is_some_and(|o| self.partition.pushable(o).is_some())
    }
}

/// A place alone is kept for a day of append time, and a registration within it makes the device
/// reachable.
#[test]
fn a_place_waits_a_day_for_its_registration() {
    for (hour, reached) in [(23, true), (24, false)] {
        let mut told = Told::new();
        assert_eq!(told.at(0, 1, Change::Place(cell(1))).placed, None);
        let applied = told.at(hour, 2, Change::Registration(registration(1)));
        assert_eq!((applied.placed.is_some(), told.pushable()), (reached, reached));
    }
}

/// A removal keeps older observations out for a day; a newer one brings the device back under its
/// ordinal.
#[test]
fn a_tombstone_keeps_older_observations_out() {
    let mut told = Told::new();
    told.at(0, 10, Change::Arrival(registration(1), cell(1)));
    told.at(0, 20, Change::Removal);
    told.at(23, 19, Change::Arrival(registration(1), cell(1)));
    assert!(!told.pushable());
    assert_eq!(
        told.at(23, 21, Change::Arrival(registration(1), cell(2))).placed,
        Some((Ordinal(0), cell(2)))
    );
    // What the removal took stays away although the device is back.
    told.at(23, 30, Change::Removal);
    told.at(23, 31, Change::Registration(registration(1)));
    told.at(23, 29, Change::Place(cell(1)));
    assert!(!told.pushable());
}

/// After its day a tombstone is dropped, and its ordinal rests before another device gets it.
#[test]
fn a_dropped_ordinal_rests() {
    let mut told = Told::new();
    told.at(0, 10, Change::Arrival(registration(1), cell(1)));
    told.at(0, 20, Change::Removal);
    let arrive = |told: &mut Told, hour: u64, n: u8| {
        let record = record(n, START_MS, Change::Arrival(registration(1), cell(1)));
        told.partition
            .apply(UnixMillis(START_MS + hour * HOUR_MS), &record, &mut told.words)
            .placed
            .unwrap()
            .0
            .0
    };
    assert_eq!(arrive(&mut told, 23, 2), 1);
    assert_eq!(told.ordinal(), Some(0));
    assert_eq!(arrive(&mut told, 25, 3), 2); // the removal was observed 20 ms ahead of its append time
    assert_eq!(told.ordinal(), None);
    let rest_hours = 33 * 24;
    assert_eq!(arrive(&mut told, 25 + rest_hours - 1, 4), 3);
    assert_eq!(arrive(&mut told, 26 + rest_hours, 5), 0);
}

/// Feedback means one token at one time, and a late copy of the registration does not revive it.
#[test]
fn feedback_removes_only_what_it_means() {
    let hash = registration(1).token.hash();
    let dead = |token_hash, at: Option<u64>| Change::Feedback {
        token_hash,
        gateway_time: at.map(|at| UnixMillis(START_MS + at)),
    };
    let mut told = Told::new();
    told.at(0, 10, Change::Arrival(registration(1), cell(1)));
    told.at(0, 11, dead(registration(2).token.hash(), None));
    told.at(0, 11, dead(hash, Some(9)));
    assert!(told.pushable());
    told.at(0, 11, dead(hash, Some(10)));
    assert_eq!((told.pushable(), told.partition.held().devices), (false, 0));
    told.at(0, 10, Change::Registration(registration(1)));
    assert!(!told.pushable());
    assert!(told.at(0, 11, Change::Registration(registration(2))).placed.is_some());
    told.at(0, 12, dead(registration(2).token.hash(), None));
    assert!(!told.pushable());
}

/// A choice outlives a new registration, also one that is observed later than the choice comes in.
#[test]
fn a_new_registration_keeps_the_mute() {
    let mut told = Told::new();
    told.at(0, 10, Change::Arrival(registration(1), cell(1)));
    told.at(0, 30, Change::Registration(registration(2)));
    assert_eq!(told.at(0, 20, Change::Mute(true)), Applied::default());
    told.at(0, 40, Change::Registration(registration(3)));
    assert_eq!((told.pushable(), told.partition.held().muted), (false, 1));
    assert!(told.at(0, 50, Change::Mute(false)).placed.is_some());
}

/// The result of `apply` names every device whose change may affect waves, and no other.
#[test]
fn waves_hear_of_moves_and_of_other_segments() {
    let mut told = Told::new();
    let with = |segments: &[&str], token: u8| Registration {
        segments: segments.iter().map(|s| (*s).to_owned()).collect(),
        token: Token::new(Bytes::from(vec![token; 32])).unwrap(),
        ..registration(1)
    };
    assert!(told.at(0, 1, Change::Arrival(with(&[], 1), cell(1))).placed.is_some());
    assert_eq!(told.at(0, 2, Change::Registration(with(&[], 2))).placed, None);
    assert!(told.at(0, 3, Change::Registration(with(&["volunteer"], 2))).placed.is_some());
    assert_eq!(told.at(0, 4, Change::Place(cell(1))).placed, None);
    assert_eq!(told.at(0, 5, Change::Place(cell(2))).placed, Some((Ordinal(0), cell(2))));
    assert_eq!(told.at(0, 4, Change::Place(cell(3))).placed, None);
}

/// What names a person's place or phone is not printed.
#[test]
fn debug_tells_nothing() {
    let mut told = Told::new();
    told.at(0, 1, Change::Arrival(registration(3), cell(1)));
    let pushable = told.partition.pushable(Ordinal(0)).unwrap();
    let printed =
        format!("{:?} {pushable:?} {:?}", told.partition, told.partition.key_of(Ordinal(0)));
    assert!(
        !printed.contains("token") && !printed.contains(&cell(1).index().to_string()),
        "{printed}"
    );
}
