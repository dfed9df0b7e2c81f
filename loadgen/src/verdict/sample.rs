//! One acceptance as the judgement stores it: 16 bytes, so that 14 million of them are 224 MB.
//!
//! A picture needs the time, distance, approximate place and platform of each device. The place is
//! a cell of one resolution for the whole run, at most [`FINEST`]. Version and unused digits are
//! the same for all cells of that resolution, which leaves 7 bits of base cell and 3 of each digit:
//! 31 bits at resolution 8, and one for the platform.

use clarion_emulator::Platform;
use h3o::{CellIndex, LatLng, Resolution};

use crate::place::Place;

/// Finest resolution of spots, with cells of some 0.7 km².
pub const FINEST: Resolution = Resolution::Eight;

/// First acceptance of one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Time of the acceptance, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Distance of its first place from the place last seen, metres.
    pub meters: f32,
    /// Approximate place and platform.
    pub spot: Spot,
}

const _: () = assert!(size_of::<Sample>() == 16);

/// A cell of the run's resolution and a platform, in 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot(u32);

/// Number of the bit below which a cell's digits start; see h3geo.org, "Index bit layout".
const DIGITS_END: u32 = 45;
const MODE_CELL: u64 = 1 << 59;
const RESOLUTION_SHIFT: u32 = 52;
const FCM: u32 = 1 << 31;

impl Spot {
    /// Returns the spot of a place and platform.
    ///
    /// # Panics
    /// If the place is not on the earth.
    #[must_use]
    pub fn of(place: Place, platform: Platform, resolution: Resolution) -> Self {
        let cell = LatLng::new(place.latitude, place.longitude)
            .expect("finite coordinates")
            .to_cell(resolution.min(FINEST));
        Self::new(cell, platform)
    }

    /// Returns the spot of a cell no finer than [`FINEST`].
    #[must_use]
    pub fn new(cell: CellIndex, platform: Platform) -> Self {
        let digits = 3 * u32::from(u8::from(cell.resolution()));
        let bits = u64::from(cell) >> (DIGITS_END - digits) & ((1 << (7 + digits)) - 1);
        let bits = u32::try_from(bits).expect("31 bits at most: no finer than FINEST");
        Self(match platform {
            Platform::Apns => bits,
            Platform::Fcm => bits | FCM,
        })
    }

    /// Returns the platform of the spot.
    #[must_use]
    pub fn platform(self) -> Platform {
        if self.0 & FCM == 0 { Platform::Apns } else { Platform::Fcm }
    }

    /// Returns the cell of the spot; `resolution` is that of the run.
    ///
    /// # Panics
    /// If the spot was created with another resolution.
    #[must_use]
    pub fn cell(self, resolution: Resolution) -> CellIndex {
        let resolution = u8::from(resolution.min(FINEST));
        let shift = DIGITS_END - 3 * u32::from(resolution);
        let unused = (1u64 << shift) - 1;
        let bits = MODE_CELL
            | u64::from(resolution) << RESOLUTION_SHIFT
            | u64::from(self.0 & !FCM) << shift
            | unused;
        CellIndex::try_from(bits).expect("made from a cell of this resolution")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_comes_back_from_its_spot() {
        for (lat, lng) in
            [(22.5, 114.0), (-17.0, 180.0), (90.0, 0.0), (-90.0, 0.0), (0.0, 0.0), (64.7, 10.5)]
        {
            for resolution in Resolution::range(Resolution::Zero, FINEST) {
                let cell = LatLng::new(lat, lng).unwrap().to_cell(resolution);
                for platform in [Platform::Apns, Platform::Fcm] {
                    let spot = Spot::of(Place::new(lat, lng), platform, resolution);
                    assert_eq!((spot.cell(resolution), spot.platform()), (cell, platform));
                }
            }
        }
    }
}
