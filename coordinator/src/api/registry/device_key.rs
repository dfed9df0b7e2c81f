//! Ids of devices whose callers name them by strings other than UUIDs, or by app and token.
//!
//! Such a string may be a phone number or an advertising id: it must not be kept, and a reader of
//! ids must not be able to find the string by trying. So the id is HMAC-SHA-256 of the string under
//! a key of the cluster, cut to its first 16 bytes (RFC 2104, section 5, allows half of the digest
//! and no less). SipHash would be three times faster, but yields 64 bits, and two of 860 million
//! devices would share an id with certainty; at 128 bits the odds are 1 in 10^21. The HMAC takes
//! 0.3 µs, a twentieth of the time budget of a change.
//!
//! Ids of app and token are made in the same way. Their input begins with a byte that no string has
//! (UTF-8 has no byte 0xff), and their ids have a form of their own ([`DeviceId`]): a caller who
//! names a device of an app with `IDENTITY_DEVICE` can neither find nor name such a device.

use std::{fmt, fs, path::Path, sync::Arc};

use clarion_proto::{
    device::Token,
    ids::{AppName, DeviceId},
};
use ring::hmac;
use zeroize::Zeroizing;

/// Shortest key, bytes: as long as the digest (RFC 2104, section 3).
const KEY_BYTES_MIN: usize = 32;
/// Longest key, bytes: more is a mistaken file.
const KEY_BYTES_MAX: usize = 4_096;
/// First byte of the input for an id of app and token: no string of a caller begins with it.
const TOKEN_DOMAIN: [u8; 1] = [0xff];

/// First byte of the input for a fingerprint of the key: no string of a caller begins with it.
const FINGERPRINT_DOMAIN: [u8; 1] = [0xfe];

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

    /// Fingerprint by which a store recognizes the key; it tells nothing about the key or an id.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        first_half(&hmac::sign(&self.key, &FINGERPRINT_DOMAIN))
    }

    /// Id of the device that a caller names by a string.
    #[must_use]
    pub fn id(&self, device: &str) -> DeviceId {
        DeviceId::of_name(first_half(&hmac::sign(&self.key, device.as_bytes())))
    }

    /// Id of the device of an app that identifies devices by their tokens.
    #[must_use]
    pub fn id_of_token(&self, app: &AppName, token: &Token) -> DeviceId {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&TOKEN_DOMAIN);
        context.update(app.id().as_bytes());
        // An app id has no byte 0, so the end of the id is unambiguous.
        context.update(&[0]);
        context.update(token.as_bytes());
        DeviceId::of_token(first_half(&context.sign()))
    }
}

fn first_half(tag: &hmac::Tag) -> [u8; 16] {
    *tag.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
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

    #[test]
    fn ids_of_tokens_depend_on_the_key_the_app_and_the_token() {
        let key =
            DeviceKey { key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])), random: false };
        let app = |id| AppName::from_id(id).expect("valid");
        let token = |bytes: &'static [u8]| Token::new(bytes.into()).expect("valid");
        let id = key.id_of_token(&app("demo"), &token(b"\xab\xcd"));
        // HMAC-SHA-256 of ff "demo" 00 ab cd, computed with Python's hmac; byte 8 begins with 111.
        assert_eq!(id.0, EXPECTED_OF_TOKEN);
        assert_ne!(key.id_of_token(&app("demo"), &token(b"\xab")), id);
        // The end of the app's id is part of the input.
        assert_ne!(
            key.id_of_token(&app("ab"), &token(b"c")),
            key.id_of_token(&app("a"), &token(b"bc"))
        );
        assert_ne!(DeviceKey::random().id_of_token(&app("demo"), &token(b"\xab\xcd")), id);
        assert!(id.is_of_token() && !key.id("demo").is_of_token());
    }

    const EXPECTED: [u8; 16] = [
        0x39, 0xc7, 0xa2, 0x0c, 0xaf, 0xaf, 0xc0, 0x1f, 0x0f, 0xfb, 0xdf, 0x32, 0xad, 0xf9, 0x51,
        0x12,
    ];
    const EXPECTED_OF_TOKEN: [u8; 16] = [
        0xe5, 0x00, 0x12, 0xb7, 0xab, 0x04, 0x93, 0x20, 0xf4, 0x05, 0xeb, 0xda, 0x72, 0xda, 0xd3,
        0x9f,
    ];
}
