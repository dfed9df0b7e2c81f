//! The key of a device in the order of the walk: cell, then the tag of its app, then ordinal, in
//! one 64-bit number.
//!
//! An H3 index of resolution 9 has 34 bits that vary: seven of the base cell and nine digits of
//! three (bits 18 to 51). The mode and the resolution above them and the unused digits below are
//! always the same. The other 30 of 64 bits hold four of tag ([`super::tag`]) and 26 of ordinal, so
//! that a page is an array of plain numbers, and a frontier or the end of a range is one number
//! too.

use clarion_proto::{device::Cell, ids::Ordinal};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::tag::{TAG_BITS, Tag};

/// Bits of an H3 index below the digit of resolution 9: six unused digits, all ones.
const UNUSED_BITS: u32 = 18;
/// Number of bits of a place: base cell and nine digits.
const PLACE_BITS: u32 = 7 + 9 * 3;
/// Number of bits of an ordinal in a key.
pub(crate) const ORDINAL_BITS: u32 = u64::BITS - PLACE_BITS - TAG_BITS;
/// Number of bits of tag and ordinal together.
const AT_PLACE_BITS: u32 = TAG_BITS + ORDINAL_BITS;
/// Bits that are the same in every index of resolution 9: mode 1 (cell), resolution 9, unused
/// digits 7.
const FIXED: u64 = 1 << 59 | 9 << 52 | ((1 << UNUSED_BITS) - 1);

/// Most ordinals of one partition: 67 million, where a partition is designed for a million devices.
pub(crate) const ORDINALS_MAX: u32 = 1 << ORDINAL_BITS;

/// A cell without the bits that all cells share; places order as cells do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

impl Place {
    /// Returns the varying bits of an H3 index of any resolution; unused finer digits stay ones.
    pub(crate) fn of_index(index: u64) -> Self {
        Self(index >> UNUSED_BITS & ((1 << PLACE_BITS) - 1))
    }

    /// Returns the place with the bits that [`Place::bits`] returned.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << PLACE_BITS) - 1))
    }

    /// Returns the 34 bits of the place.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Returns the cell of the place.
    pub(crate) fn cell(self) -> Cell {
        Cell::again(self.0 << UNUSED_BITS | FIXED)
    }
}

impl From<Cell> for Place {
    fn from(cell: Cell) -> Self {
        Self::of_index(cell.index())
    }
}

/// The position of a device in the walk: place, tag and ordinal.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub(crate) struct Key(u64);

impl Key {
    /// The lowest key.
    pub(crate) const MIN: Self = Self(0);

    /// Creates the key of a device. The ordinal must be below [`ORDINALS_MAX`].
    pub(crate) fn new(place: Place, tag: Tag, ordinal: Ordinal) -> Self {
        Self(
            place.0 << AT_PLACE_BITS
                | tag.bits() << ORDINAL_BITS
                | u64::from(ordinal.0 & (ORDINALS_MAX - 1)),
        )
    }

    /// Returns the lowest key that a device at this place can have.
    pub(crate) fn first_at(place: Place) -> Self {
        Self(place.0 << AT_PLACE_BITS)
    }

    /// Returns the highest key that a device at this place can have.
    pub(crate) fn last_at(place: Place) -> Self {
        Self(place.0 << AT_PLACE_BITS | ((1 << AT_PLACE_BITS) - 1))
    }

    /// Returns the ordinal of the device.
    pub(crate) fn ordinal(self) -> Ordinal {
        #[allow(clippy::cast_possible_truncation)] // 26 bits
        Ordinal((self.0 & u64::from(ORDINALS_MAX - 1)) as u32)
    }

    /// Returns the place of the device.
    pub(crate) fn place(self) -> Place {
        Place(self.0 >> AT_PLACE_BITS)
    }

    /// Returns the tag of the device's app.
    pub(crate) fn tag(self) -> Tag {
        Tag::from_bits(self.0 >> ORDINAL_BITS)
    }

    /// Returns the next higher key. The highest of all keys would need base cell 127, which does
    /// not exist.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Prints no position, because a device's place is personal data.
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place(..)")
    }
}

/// Prints nothing, because a key contains a place.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key(.., {})", self.ordinal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use h3o::{LatLng, Resolution};
    use proptest::prelude::*;

    proptest! {
        /// Checks that a key returns its parts, and that keys order by (index, tag, ordinal).
        #[test]
        fn round_trip_and_order(
            a in (-90.0..90.0, -180.0..180.0, 0..16u64, 0..ORDINALS_MAX),
            b in (-90.0..90.0, -180.0..180.0, 0..16u64, 0..ORDINALS_MAX),
        ) {
            let cell = |(lat, lng, ..): (f64, f64, u64, u32)| Cell::from(LatLng::new(lat, lng).expect("finite").to_cell(Resolution::Nine));
            let key = |x: (f64, f64, u64, u32)| Key::new(Place::from(cell(x)), Tag::from_bits(x.2), Ordinal(x.3));
            prop_assert_eq!(key(a).place().cell(), cell(a));
            prop_assert_eq!(key(a).ordinal(), Ordinal(a.3));
            prop_assert!(key(a).tag() == Tag::from_bits(a.2));
            let order = (cell(a).index(), a.2, a.3).cmp(&(cell(b).index(), b.2, b.3));
            prop_assert_eq!(key(a).cmp(&key(b)), order);
            prop_assert!(Key::first_at(key(a).place()) <= key(a) && key(a) <= Key::last_at(key(a).place()));
        }
    }
}
