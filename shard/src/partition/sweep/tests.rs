//! Registrations that were not observed since the limit of their app are not pushed to and removed.

use clarion_proto::{
    device::{Change, Record},
    ids::{AppName, PartitionId, UnixMillis},
};

use super::{
    super::{
        Applied, Partition, Vocabulary,
        tests::{START_MS, cell, device, record, registration},
    },
    SWEPT_PER_RECORD,
};

struct Registry {
    partition: Partition,
    words: Vocabulary,
}

impl Registry {
    fn new() -> Self {
        Self { partition: Partition::new(PartitionId(0), 7), words: Vocabulary::new() }
    }

    fn at(&mut self, n: u8, observed: u64, change: Change) -> Applied {
        let record = record(n, START_MS + observed, change);
        self.apply(&record)
    }

    fn apply(&mut self, record: &Record) -> Applied {
        self.partition.apply(UnixMillis(START_MS), record, &mut self.words)
    }

    /// Devices 0 to 49, of the apps `demo` and `other` in turn; all observed at 1.
    fn with_devices() -> Self {
        let mut new = Self::new();
        for n in 0..50 {
            new.at(n, 1, Change::Arrival(registration(n), cell(n)));
        }
        new
    }

    fn limit(&mut self, app: &str, limit: u64) {
        let app = AppName::from_id(app).expect("a name");
        self.at(0, limit, Change::Expiry(app));
    }

    fn is_pushable(&self, n: u8) -> bool {
        let ordinal = self.partition.ordinal_of(device(n)).expect("a row");
        self.partition.pushable(ordinal).is_some()
    }

    /// A record that changes nothing.
    fn idle(&mut self) {
        self.at(49, 0, Change::Mute(false));
    }
}

#[test]
fn a_limit_takes_effect_at_once_and_the_sweep_follows() {
    let mut registry = Registry::with_devices();
    registry.at(4, 5, Change::Registration(registration(4)));
    registry.at(6, 5, Change::Place(cell(6)));
    registry.limit("demo", 5);
    let kept = |n: u8| n % 2 == 1 || n == 4 || n == 6;
    assert!((0..50).all(|n| registry.is_pushable(n) == kept(n)), "the other app has no limit");
    assert_eq!(registry.partition.held().devices, 50, "nothing is removed yet");

    registry.idle();
    assert_eq!(registry.partition.held().devices, 50 - 2, "0, 2; 4 and 6 were seen");
    for _ in 0..50_u32.div_ceil(SWEPT_PER_RECORD) {
        registry.idle();
    }
    assert_eq!(registry.partition.held().devices, 25 + 2);
    assert_eq!(registry.partition.sweep.cursor().1, 0);
    assert!((0..50).all(|n| registry.is_pushable(n) == kept(n)));
}

#[test]
fn a_limit_never_goes_back() {
    let mut registry = Registry::with_devices();
    registry.limit("demo", 2);
    registry.limit("demo", 1);
    assert!(!registry.is_pushable(0));
    (0..20).for_each(|_| registry.idle());
    registry.limit("demo", 2);
    assert_eq!(registry.partition.sweep.cursor().1, 0, "a repeated limit begins no sweep");
}

/// A device that is seen before the sweep comes is pushable again, and waves hear of it, although
/// it stands where it stood.
#[test]
fn a_device_that_is_seen_in_time_stays() {
    for change in
        [Change::Place(cell(48)), Change::Registration(registration(48)), Change::Mute(false)]
    {
        let mut registry = Registry::with_devices();
        registry.limit("demo", 5);
        assert!(!registry.is_pushable(48));
        let applied = registry.at(48, 5, change.clone());
        let is_seen = !matches!(change, Change::Mute(_));
        assert_eq!(registry.is_pushable(48), is_seen, "{change:?}");
        assert_eq!(applied.placed.is_some(), is_seen, "{change:?}");
        assert_eq!(applied.refreshed, None);
    }
}

/// After the sweep only a newer registration brings the device back; a late copy of the expired
/// one does not.
#[test]
fn a_swept_device_needs_a_new_registration() {
    let mut registry = Registry::with_devices();
    registry.limit("demo", 5);
    (0..20).for_each(|_| registry.idle());
    registry.at(0, 9, Change::Place(cell(0)));
    assert!(!registry.is_pushable(0));
    registry.at(0, 1, Change::Registration(registration(0)));
    assert!(!registry.is_pushable(0));
    let applied = registry.at(0, 6, Change::Registration(registration(0)));
    assert!(registry.is_pushable(0) && applied.placed.is_some());
}

/// A registration that arrives after the limit and is older is stored, not pushed to, and swept at
/// the next limit, unless its place turns out to be newer.
#[test]
fn a_late_old_registration_waits_for_its_place() {
    let mut registry = Registry::with_devices();
    registry.limit("demo", 5);
    (0..20).for_each(|_| registry.idle());
    for n in [60, 62] {
        registry.at(n, 3, Change::Arrival(registration(n), cell(n)));
        assert!(!registry.is_pushable(n));
    }
    registry.at(60, 8, Change::Place(cell(60)));
    assert!(registry.is_pushable(60));
    registry.limit("demo", 6);
    (0..20).for_each(|_| registry.idle());
    assert!(registry.is_pushable(60));
    assert_eq!(registry.partition.held().devices, 25 + 1);
}
