//! Ids of devices whose callers do not number them by UUID.
//!
//! Such a string may be a phone number or an advertising id: it must not be kept, and nobody who
//! sees ids must be able to try out strings. So the id is HMAC-SHA-256 of the string under a key of
//! the cluster, cut to its first 16 bytes (RFC 2104, section 5, allows half of the digest and no
//! less). SipHash would be three times faster, but yields 64 bits, and two devices of 860 million
//! would share an id with certainty; at 128 bits the odds are 1 in 10^21. The 0.3 µs that it costs
//! are a twentieth of what a change may cost.

use std::{fmt, fs, path::Path, sync::Arc};

use clarion_proto::ids::DeviceId;
use ring::hmac;
use zeroize::Zeroizing;

/// Shortest key, bytes: as long as the digest (RFC 2104, section 3).
const KEY_BYTES_MIN: usize = 32;
/// Longest key, bytes: more is a mistaken file.
const KEY_BYTES_MAX: usize = 4_096;

/// The cluster's key for ids. Never printed.
#[derive(Clone)]
pub struct DeviceKey {
    key: Arc<hmac::Key>,
    random: bool,
}

impl DeviceKey {
    /// A key of this process alone.
    ///
    /// # Panics
    /// If the system has no randomness.
    #[must_use]
    pub fn random() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new());
        Self { key: Arc::new(key.expect("the system's random numbers")), random: true }
    }

    /// The bytes of a file, as they are.
    ///
    /// # Errors
    /// What is wrong, naming the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = Zeroizing::new(
            fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?,
        );
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&bytes.len()) {
            let (path, has) = (path.display(), bytes.len());
            return Err(format!(
                "{path} must hold {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, has {has}"
            ));
        }
        Ok(Self { key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes)), random: false })
    }

    /// True if ids mean nothing after a restart.
    #[must_use]
    pub fn is_random(&self) -> bool {
        self.random
    }

    /// The id of a caller's string.
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
                .ends_with("must hold 32 to 4096 bytes, has 31")
        );
    }

    const EXPECTED: [u8; 16] = [
        0x39, 0xc7, 0xa2, 0x0c, 0xaf, 0xaf, 0xc0, 0x1f, 0x0f, 0xfb, 0xdf, 0x32, 0xad, 0xf9, 0x51,
        0x12,
    ];
}
