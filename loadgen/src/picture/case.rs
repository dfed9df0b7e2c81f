//! The input of a drawing apart from the samples: region, bands, and the addressed devices by
//! place.

use std::collections::BTreeMap;

use clarion_emulator::Platform;
use h3o::Resolution;

use crate::{
    scenario::RegionSpec,
    verdict::{counts::SpotCount, sample::Spot},
};

/// Platforms in the order in which they are shown.
pub(super) const PLATFORMS: [Platform; 2] = Platform::ALL;

/// Input of the picture in addition to the samples.
pub struct Case<'a> {
    /// The region of the alert.
    pub region: &'a RegionSpec,
    /// Resolution of the spots.
    pub resolution: Resolution,
    /// Addressed devices by spot.
    pub spots: &'a BTreeMap<Spot, SpotCount>,
    /// Outer limits of the bands, ascending, metres.
    pub edges: &'a [f64],
    /// Time of the alert's acknowledgement, from which times count, nanoseconds.
    pub acknowledged_ns: u64,
}

/// Returns the position of a platform in [`PLATFORMS`].
pub(super) fn number(platform: Platform) -> usize {
    match platform {
        Platform::Apns => 0,
        Platform::Fcm => 1,
    }
}
