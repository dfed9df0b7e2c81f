//! The set of devices that a log has records of: the removal of any other device changes nothing.
//!
//! The set holds 32-bit fingerprints, nothing else. If two devices of one log share a fingerprint,
//! the log keeps the removal of a device that was never registered, which costs the record's bytes.
//! A device that was registered is always known, because no fingerprint is ever removed.
//!
//! A table has a power of two of places, of which at most 7/8 are taken, and a place is 4 bytes and
//! one of control: 5.7 to 11.4 bytes for a device ([`BYTES_PER_DEVICE`] is what the store charges).
//! A log of 800,000 devices (50 million in 64 logs) takes one in 5,000 unknown devices for a known
//! device.

use clarion_proto::ids::DeviceId;
use hashbrown::HashTable;

/// Bytes that the store charges for a device that becomes known.
pub(super) const BYTES_PER_DEVICE: u64 = 12;

/// Fingerprint of a device: the only data kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fingerprint(u32);

impl Fingerprint {
    pub(super) fn of(device: DeviceId) -> Self {
        let upper = xxhash_rust::xxh3::xxh3_64(&device.0) >> 32;
        Self(u32::try_from(upper).expect("32 bits"))
    }

    /// The table looks at both ends of a hash.
    fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// The set of known devices of one log.
#[derive(Debug, Default)]
pub(super) struct KnownDevices(HashTable<Fingerprint>);

impl KnownDevices {
    /// Adds a device. True: the device was not known before.
    pub(super) fn insert(&mut self, fingerprint: Fingerprint) -> bool {
        let entry = self.0.entry(
            fingerprint.spread(),
            |known| *known == fingerprint,
            |known| known.spread(),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(_) => false,
            hashbrown::hash_table::Entry::Vacant(free) => {
                free.insert(fingerprint);
                true
            }
        }
    }

    /// Whether a device is known; never false for an inserted device.
    pub(super) fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.0.find(fingerprint.spread(), |known| *known == fingerprint).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(n: u32) -> Fingerprint {
        let mut device = [0; 16];
        device[..4].copy_from_slice(&n.to_le_bytes());
        Fingerprint::of(DeviceId(device))
    }

    #[test]
    fn whoever_came_in_is_known_and_hardly_anybody_else() {
        let mut known = KnownDevices::default();
        let new = (0..100_000).filter(|&n| known.insert(fingerprint(n))).count();
        assert!(new > 99_990, "{new} of 100,000 have a fingerprint of their own");
        assert!(
            (0..100_000).all(|n| known.contains(fingerprint(n)) && !known.insert(fingerprint(n)))
        );
        let strangers = (100_000..200_000).filter(|&n| known.contains(fingerprint(n))).count();
        assert!(strangers < 20, "{strangers} of 100,000 strangers are taken for known");
    }

    #[test]
    fn a_device_takes_no_more_than_it_is_charged() {
        let mut known = KnownDevices::default();
        // Just after the table has doubled is the worst moment; the first few hundred devices do
        // not matter.
        for n in 0..200_000 {
            known.insert(fingerprint(n));
            let bytes = known.0.allocation_size() as u64;
            assert!(
                n < 1_000 || bytes <= BYTES_PER_DEVICE * u64::from(n),
                "{bytes} bytes for {n} devices"
            );
        }
    }
}
