//! Ids of devices whose callers name them by strings other than UUIDs.
//!
//! Such a string may be a phone number or an advertising id: it must not be kept, and a reader of
//! ids must not be able to find the string by trying. So the id is HMAC-SHA-256 of the string under
//! a key of the cluster, cut to its first 16 bytes (RFC 2104, section 5, allows half of the digest
//! and no less). SipHash would be three times faster, but yields 64 bits, and two of 860 million
//! devices would share an id with certainty; at 128 bits the odds are 1 in 10^21. The HMAC takes
//! 0.3 µs, a twentieth of the time budget of a change.

use std::{fmt, fs, path::Path, sync::Arc};

use clarion_proto::ids::DeviceId;
use ring::hmac;
use zeroize::Zeroizing;

/// Shortest key, bytes: as long as the digest (RFC 2104, section 3).
const KEY_BYTES_MIN: usize = 32;
/// Longest key, bytes: more is a mistaken file.
const KEY_BYTES_MAX: usize = 4_096;

/// Key of the cluster that makes ids of device names; never printed.
#[derive(Clone)]
pub struct DeviceKey {
    key: Arc<hmac::Key>,
    random: bool,
}

impl DeviceKey {
    /// Makes a random key, which only this process has.
    ///
    /// # Panics
    /// If the system has no randomness.
    #[must_use]
    pub fn random() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new());
        Self { key: Arc::new(key.expect("the system's random numbers")), random: true }
    }

    /// Reads a key: the bytes of the file are the key.
    ///
    /// # Errors
    /// The file is unreadable, or its length is out of range; the error names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = Zeroizing::new(
            fs::read(path).map_err(|e| format!("{}: cannot be read: {e}", path.display()))?,
        );
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&bytes.len()) {
            let (path, has) = (path.display(), bytes.len());
            return Err(format!(
                "{path}: must be {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes; got {has} bytes"
            ));
        }
        Ok(Self { key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes)), random: false })
    }

    /// Whether the key is random, so that its ids are unknown after a restart.
    #[must_use]
    pub fn is_random(&self) -> bool {
        self.random
    }

    /// Id of the device that a caller names by a string.
    #[must_use]
    pub fn id(&self, device: &str) -> DeviceId {
        let tag = hmac::sign(&self.key, device.as_bytes());
        DeviceId(*tag.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_the_key_and_the_string() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("key");
        fs::write(&path, [7; 32]).expect("written");
        let key = DeviceKey::read(&path).expect("valid");
        // HMAC-SHA-256 of "phone-1" under 32 bytes of 7, computed with Python's hmac.
        assert_eq!(key.id("phone-1").0, EXPECTED);
        assert_ne!(key.id("phone-1"), key.id("phone-2"));
        assert_ne!(key.id("phone-1"), DeviceKey::random().id("phone-1"));
        assert!(!key.is_random() && DeviceKey::random().is_random());
        fs::write(&path, [7; 31]).expect("written");
        assert!(
            DeviceKey::read(&path)
                .expect_err("short")
                .ends_with("must be 32 to 4096 bytes; got 31 bytes")
        );
    }

    const EXPECTED: [u8; 16] = [
        0x39, 0xc7, 0xa2, 0x0c, 0xaf, 0xaf, 0xc0, 0x1f, 0x0f, 0xfb, 0xdf, 0x32, 0xad, 0xf9, 0x51,
        0x12,
    ];
}
