//! Reports of phones and gateways about one device, for the tests of the walk.

use proptest::prelude::*;

/// One report. Places are numbers into the town.
#[derive(Debug, Clone)]
pub(super) enum Told {
    Arrival(u8, usize),
    Registration(u8),
    Place(usize),
    Removal,
    Mute(bool),
    Dead(u8, Option<u64>),
    /// Registrations of the addressed app that were not observed since then expire.
    Expiry(u64),
}

/// Any report.
pub(super) fn told() -> impl Strategy<Value = Told> {
    prop_oneof![
        4 => (0u8..12, any::<usize>()).prop_map(|(r, at)| Told::Arrival(r, at)),
        2 => (0u8..12).prop_map(Told::Registration),
        6 => any::<usize>().prop_map(Told::Place),
        1 => Just(Told::Removal),
        2 => any::<bool>().prop_map(Told::Mute),
        1 => (0u8..12, prop::option::of(0u64..200)).prop_map(|(r, at)| Told::Dead(r, at)),
        1 => (0u64..200).prop_map(Told::Expiry),
    ]
}
