//! What is known of one device, in 56 bytes.
//!
//! A walk meets rows in the order of places, which is no order of rows: every device costs a cache miss or two. So what a
//! push needs stands together in one row rather than in columns (a miss each), and the row is packed: versions in 48 bits,
//! cell and flags in one word, words as indices, the token elsewhere.
//!
//! A row has three facets, each with a version of its own, the time when the phone observed it:
//!
//! - *place*: a cell;
//! - *registration*: app, token, locale, segments;
//! - *mute*: a person's choice. A facet of its own, because a new registration must keep it, and because a late mute must
//!   find its way past a newer registration.
//!
//! An absent facet has a version too: what was removed at 12:00 is not brought back by an observation of 11:59. That is
//! all a tombstone is: a row whose facets are absent.

use clarion_proto::ids::{DeviceId, UnixMillis};

use super::{
    key::Place,
    vocabulary::{AppIndex, LocaleIndex, SegmentsIndex},
};

/// Milliseconds since 1970 in six bytes, enough until the year 10889; later times are cut to that.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Millis48([u16; 3]);

impl From<UnixMillis> for Millis48 {
    fn from(time: UnixMillis) -> Self {
        let t = time.0.min((1 << 48) - 1);
        #[allow(clippy::cast_possible_truncation)] // three pieces of 16 bits
        Self([(t >> 32) as u16, (t >> 16) as u16, t as u16])
    }
}

impl From<Millis48> for UnixMillis {
    fn from(time: Millis48) -> Self {
        Self(u64::from(time.0[0]) << 32 | u64::from(time.0[1]) << 16 | u64::from(time.0[2]))
    }
}

impl Millis48 {
    /// Whether an observation of that time replaces one of this: at a tie the later record wins.
    pub(super) fn yields_to(self, observed: Self) -> bool {
        UnixMillis::from(self) <= UnixMillis::from(observed)
    }
}

const PLACE: u64 = (1 << 34) - 1;
const PLACED: u64 = 1 << 40;
const REGISTERED: u64 = 1 << 41;
const MUTED: u64 = 1 << 42;
const LIVE: u64 = 1 << 43;
const SCHEDULED: u64 = 1 << 44;
const PERSON: u64 = 1 << 45;

/// One device.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) device: DeviceId,
    /// 34 bits of place, then flags.
    place: u64,
    /// Registered: the slot of the token. Else the lower half of the time when the row is dropped: the same bytes serve
    /// both, as no row has both.
    slot: u32,
    /// Registered: the bytes in the slot. Else the upper half of that time.
    slot_bytes: u16,
    app: u16,
    locale: u16,
    segments: u16,
    pub(super) place_version: Millis48,
    pub(super) registration_version: Millis48,
    pub(super) mute_version: Millis48,
}

const _: () = assert!(size_of::<Row>() == 56);

/// A registration as a row keeps it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) slot: u32,
    pub(super) slot_bytes: u16,
    /// The slot holds a person behind the token.
    pub(super) person: bool,
    pub(super) app: AppIndex,
    pub(super) locale: LocaleIndex,
    pub(super) segments: SegmentsIndex,
}

impl Row {
    /// Nobody's.
    pub(super) const VACANT: Self = Self {
        device: DeviceId([0; 16]),
        place: 0,
        slot: 0,
        slot_bytes: 0,
        app: 0,
        locale: 0,
        segments: 0,
        place_version: Millis48([0; 3]),
        registration_version: Millis48([0; 3]),
        mute_version: Millis48([0; 3]),
    };

    /// Somebody's, of whom nothing is known, not even a version.
    pub(super) fn new(device: DeviceId) -> Self {
        Self { device, place: LIVE, ..Self::VACANT }
    }

    /// Forgets everything but the device and that it is scheduled to be looked at.
    pub(super) fn reset(&mut self) {
        *self = Self { place: LIVE | self.place & SCHEDULED, ..Self::new(self.device) };
    }

    /// Whether it is somebody's.
    pub(super) fn is_live(&self) -> bool {
        self.place & LIVE != 0
    }

    pub(super) fn place(&self) -> Option<Place> {
        self.has(PLACED).then(|| Place::from_bits(self.place & PLACE))
    }

    pub(super) fn set_place(&mut self, place: Option<Place>) {
        self.place = self.place & !PLACE | place.map_or(0, Place::bits);
        self.set(PLACED, place.is_some());
    }

    pub(super) fn is_muted(&self) -> bool {
        self.has(MUTED)
    }

    pub(super) fn set_muted(&mut self, muted: bool) {
        self.set(MUTED, muted);
    }

    /// Whether an entry of the expiry queue names this row.
    pub(super) fn is_scheduled(&self) -> bool {
        self.has(SCHEDULED)
    }

    pub(super) fn set_scheduled(&mut self, scheduled: bool) {
        self.set(SCHEDULED, scheduled);
    }

    pub(super) fn is_registered(&self) -> bool {
        self.has(REGISTERED)
    }

    pub(super) fn registration(&self) -> Option<Registered> {
        self.has(REGISTERED).then(|| Registered {
            slot: self.slot,
            slot_bytes: self.slot_bytes,
            person: self.has(PERSON),
            app: AppIndex(self.app),
            locale: LocaleIndex(self.locale),
            segments: SegmentsIndex(self.segments),
        })
    }

    pub(super) fn register(&mut self, r: Registered) {
        self.set(REGISTERED, true);
        self.set(PERSON, r.person);
        (self.slot, self.slot_bytes) = (r.slot, r.slot_bytes);
        (self.app, self.locale, self.segments) = (r.app.0, r.locale.0, r.segments.0);
    }

    /// When a row without registration is dropped; `None` for one with it.
    pub(super) fn due(&self) -> Option<UnixMillis> {
        (!self.is_registered()).then(|| UnixMillis(u64::from(self.slot_bytes) << 32 | u64::from(self.slot)))
    }

    /// Takes the registration away, if there is one, and says when the row is dropped. The token's slot must be free.
    pub(super) fn unregister(&mut self, due: UnixMillis) {
        self.set(REGISTERED, false);
        self.set(PERSON, false);
        let due = due.0.min((1 << 48) - 1);
        #[allow(clippy::cast_possible_truncation)] // two pieces of 48 bits
        let halves = (due as u32, (due >> 32) as u16);
        (self.slot, self.slot_bytes) = halves;
        (self.app, self.locale, self.segments) = (0, 0, 0);
    }

    fn has(&self, flag: u64) -> bool {
        self.place & flag != 0
    }

    fn set(&mut self, flag: u64, on: bool) {
        self.place = if on { self.place | flag } else { self.place & !flag };
    }
}
