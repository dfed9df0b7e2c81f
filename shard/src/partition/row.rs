//! The row of one device, 37 bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | device id |
//! | 5 | place: 34 bits of an H3 index of resolution 9, then six flags |
//! | 4 | registered: where the token is ([`super::token`]); else the lower part of the time when the row is dropped |
//! | 2 | registered: app, locale and segments as one number ([`super::profile`]); else the upper part of that time |
//! | 5 | version of the place, ms since 2020 in 40 bits |
//! | 5 | version of the registration, the same |
//!
//! In addition a device needs its token, 8 bytes of key in a page, 4 in the index, and their unused
//! room; [`super`] has the sum.
//!
//! **Why rows by ordinal, and not columns in the page of its place.** Columns of a page put
//! neighbours together, but cost ten bytes more than they save: a page must then name the ordinal
//! of each device (4), the partition the page of each ordinal (4), and the order within the page is
//! a permutation (2), where rows need one key of 8 bytes that is place, ordinal and order in one.
//! Every move would carry a row and a token from page to page, and leave gaps to be compacted. The
//! advantage of columns is that a push finds its device in a cache. The walk achieves this
//! otherwise: it touches the rows and tokens of the devices that it will return next in one go
//! ([`super::Partition::warm`]), so that the misses overlap.
//!
//! A row has three facets, each with a version of its own, the time of the phone's observation:
//!
//! - *place*: a cell;
//! - *registration*: app, token, locale, segments;
//! - *mute*: a person's choice. It is a facet of its own, because a new registration must keep it,
//!   and because a late mute must take effect despite a newer registration. Few people choose, so
//!   the version is stored beside the rows (`super::Partition::mutes`). A row whose mute was
//!   removed with its place, as in every tombstone, has a bit for this in its absent place.
//!
//! An absent facet has a version too: a facet that was removed at 12:00 is not restored by an
//! observation of 11:59. So a tombstone is a row whose facets are absent.

use clarion_proto::ids::{DeviceId, UnixMillis};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{key::Place, profile::ProfileIndex, token::TokenRef};

/// 2020-01-01 UTC in milliseconds since 1970: before Clarion existed, so before all observations.
const EPOCH_MS: u64 = 1_577_836_800_000;

/// Milliseconds since 2020 in five bytes, enough until November 2054. Times outside are cut to this
/// range.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(super) struct Millis40([u8; 5]);

impl From<UnixMillis> for Millis40 {
    fn from(time: UnixMillis) -> Self {
        Self(to_five(time.0.saturating_sub(EPOCH_MS).min((1 << 40) - 1)))
    }
}

impl From<Millis40> for UnixMillis {
    fn from(time: Millis40) -> Self {
        Self(EPOCH_MS + of_five(time.0))
    }
}

impl Millis40 {
    /// Version of a facet without an observation.
    pub(super) const NEVER: Self = Self([0; 5]);

    /// Reports whether an observation of time `observed` replaces one of this time: at a tie the
    /// later record wins.
    pub(super) fn yields_to(self, observed: Self) -> bool {
        of_five(self.0) <= of_five(observed.0)
    }

    /// Returns the version one millisecond later.
    pub(super) fn next(self) -> Self {
        Self(to_five((of_five(self.0) + 1).min((1 << 40) - 1)))
    }

    /// Returns the version of the newer of two observations.
    pub(super) fn newer(self, other: Self) -> Self {
        if self.yields_to(other) { other } else { self }
    }

    /// Reports whether an observation of this version is older than the limit `bits`, a number of
    /// [`Millis40::bits`].
    pub(super) fn is_before(self, bits: u64) -> bool {
        of_five(self.0) < bits
    }

    /// Returns the version as a number, for a snapshot.
    pub(super) fn bits(self) -> u64 {
        of_five(self.0)
    }

    /// Returns the version with the bits of [`Millis40::bits`]; `None` for more than 40 bits.
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        (bits < 1 << 40).then(|| Self(to_five(bits)))
    }
}

fn of_five(b: [u8; 5]) -> u64 {
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], 0, 0, 0])
}

fn to_five(n: u64) -> [u8; 5] {
    let b = n.to_le_bytes();
    [b[0], b[1], b[2], b[3], b[4]]
}

const PLACE: u64 = (1 << 34) - 1;
const PLACED: u64 = 1 << 34;
const REGISTERED: u64 = 1 << 35;
const MUTED: u64 = 1 << 36;
const LIVE: u64 = 1 << 37;
const SCHEDULED: u64 = 1 << 38;
const GUEST: u64 = 1 << 39;
/// Flag in the bits of an absent place: the mute has the version of the place.
const MUTE_AS_PLACE: u64 = 1;

/// The row of one device. It consists of bytes, because it is stored in a [`super::block`].
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Row {
    device: [u8; 16],
    /// Place in 34 bits, then flags.
    place: [u8; 5],
    token: [u8; 4],
    profile: [u8; 2],
    pub(super) place_version: Millis40,
    pub(super) registration_version: Millis40,
}

const _: () = assert!(size_of::<Row>() == 37);

/// Registration as stored in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) token: TokenRef,
    pub(super) profile: ProfileIndex,
}

impl Row {
    /// A row without a device: all zeros.
    pub(super) const VACANT: Self = Self {
        device: [0; 16],
        place: [0; 5],
        token: [0; 4],
        profile: [0; 2],
        place_version: Millis40::NEVER,
        registration_version: Millis40::NEVER,
    };

    /// Creates the row of a device without any facet or version.
    pub(super) fn new(device: DeviceId) -> Self {
        Self { device: device.0, place: to_five(LIVE), ..Self::VACANT }
    }

    /// Returns the id of the row's device.
    pub(super) fn device(&self) -> DeviceId {
        DeviceId(self.device)
    }

    /// Clears everything except the device, its entry in the expiry queue, and its slot.
    pub(super) fn reset(&mut self) {
        *self = Self {
            place: to_five(LIVE | self.word() & (SCHEDULED | GUEST)),
            ..Self::new(self.device())
        };
    }

    /// Reads the first and the last byte, which loads the whole row into the cache. The result has
    /// no meaning.
    pub(super) fn ends(&self) -> u8 {
        self.device[0] ^ self.registration_version.0[4]
    }

    /// Reports whether the row is stored in the slot of another, resting ordinal ([`super::rows`]).
    pub(super) fn is_guest(&self) -> bool {
        self.has(GUEST)
    }

    pub(super) fn set_guest(&mut self, guest: bool) {
        self.set(GUEST, guest);
    }

    /// Creates a vacant row with its neighbours in the list of vacant slots.
    pub(super) fn link(before: u32, behind: u32) -> Self {
        let [a, b, c, d] = before.to_le_bytes();
        Self {
            token: behind.to_le_bytes(),
            place_version: Millis40([a, b, c, d, 0]),
            ..Self::VACANT
        }
    }

    /// Returns the neighbours that [`Row::link`] stored.
    pub(super) fn links(&self) -> (u32, u32) {
        let [a, b, c, d, _] = self.place_version.0;
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(self.token))
    }

    /// Reports whether the row belongs to a device.
    pub(super) fn is_live(&self) -> bool {
        self.has(LIVE)
    }

    pub(super) fn place(&self) -> Option<Place> {
        self.has(PLACED).then(|| Place::from_bits(self.word() & PLACE))
    }

    pub(super) fn set_place(&mut self, place: Option<Place>) {
        self.place = to_five(
            self.word() & !(PLACE | PLACED) | place.map_or(0, |place| place.bits() | PLACED),
        );
    }

    pub(super) fn is_muted(&self) -> bool {
        self.has(MUTED)
    }

    pub(super) fn set_muted(&mut self, muted: bool) {
        self.set(MUTED, muted);
    }

    /// Reports whether the mute of a row without a place has the version of the place.
    pub(super) fn is_mute_as_place(&self) -> bool {
        self.word() & (PLACED | MUTE_AS_PLACE) == MUTE_AS_PLACE
    }

    /// Sets whether the mute has the version of the place. The row must have no place.
    pub(super) fn set_mute_as_place(&mut self, on: bool) {
        debug_assert!(!self.has(PLACED));
        self.set(MUTE_AS_PLACE, on);
    }

    /// Reports whether the expiry queue contains this row.
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
            token: TokenRef(u32::from_le_bytes(self.token)),
            profile: ProfileIndex(u16::from_le_bytes(self.profile)),
        })
    }

    pub(super) fn register(&mut self, r: Registered) {
        self.set(REGISTERED, true);
        (self.token, self.profile) = (r.token.0.to_le_bytes(), r.profile.0.to_le_bytes());
    }

    /// Returns the version of the newest observation of place or registration.
    pub(super) fn seen(&self) -> Millis40 {
        self.place_version.newer(self.registration_version)
    }

    /// Returns the time at which a row without registration is dropped; `None` for a registered
    /// row.
    pub(super) fn due(&self) -> Option<UnixMillis> {
        let (low, high) = (u32::from_le_bytes(self.token), u16::from_le_bytes(self.profile));
        (!self.is_registered()).then(|| UnixMillis(u64::from(high) << 32 | u64::from(low)))
    }

    /// Removes the registration, if any, and sets the time at which the row is dropped. The caller
    /// must have freed the slot of the token.
    pub(super) fn unregister(&mut self, due: UnixMillis) {
        self.set(REGISTERED, false);
        let due = due.0.min((1 << 48) - 1).to_le_bytes();
        (self.token, self.profile) = ([due[0], due[1], due[2], due[3]], [due[4], due[5]]);
    }

    fn word(&self) -> u64 {
        of_five(self.place)
    }

    fn has(&self, flag: u64) -> bool {
        self.word() & flag != 0
    }

    fn set(&mut self, flag: u64, on: bool) {
        self.place = to_five(if on { self.word() | flag } else { self.word() & !flag });
    }
}
