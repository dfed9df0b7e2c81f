//! Tokens in the formats of the two providers, drawn from the seed.

use clarion_emulator::Platform;

use super::draws::Draws;

/// Longest generated token, bytes.
pub const TOKEN_BYTES_MAX: usize = 163;

/// Lengths of APNs tokens with their shares of a hundred. Apple's are 32 bytes so far, "variable
/// length", at most 100 announced; a few of each other size test the lengths.
const APNS_LENGTHS: &[(usize, u8)] = &[(32, 90), (54, 6), (100, 4)];
/// Lengths of FCM tokens with their shares of a hundred. Google promises nothing; these lengths
/// were observed (dpa99c/cordova-plugin-firebasex#581, xtrinch/fcm-django#131), with unknown
/// frequencies.
const FCM_LENGTHS: &[(usize, u8)] = &[(142, 30), (152, 20), (163, 50)];
/// Number of characters before the colon of an FCM token: the id of the installation.
const INSTALLATION_CHARS: usize = 22;
/// Characters after the id with which every observed FCM token continues.
const FCM_PREFIX: &[u8] = b":APA91b";
/// Alphabet of base64url (RFC 4648, section 5).
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Bytes of a token without an allocation. It implements no `Debug`, because tokens are secret.
#[derive(Clone, Copy)]
pub struct TokenBytes {
    bytes: [u8; TOKEN_BYTES_MAX],
    len: usize,
}

impl TokenBytes {
    /// Draws a token of a platform.
    #[must_use]
    pub fn draw(platform: Platform, draws: &mut Draws) -> Self {
        match platform {
            Platform::Apns => Self::apns(draws),
            Platform::Fcm => Self::fcm(draws),
        }
    }

    fn apns(draws: &mut Draws) -> Self {
        let len = length(APNS_LENGTHS, draws);
        let mut bytes = [0; TOKEN_BYTES_MAX];
        for chunk in bytes[..len].chunks_mut(8) {
            chunk.copy_from_slice(&draws.bits().to_be_bytes()[..chunk.len()]);
        }
        Self { bytes, len }
    }

    /// Draws a token in the form of FCM: `<22 characters>:APA91b<more>`.
    fn fcm(draws: &mut Draws) -> Self {
        let len = length(FCM_LENGTHS, draws);
        let mut bytes = [0; TOKEN_BYTES_MAX];
        // Ten characters of six bits from each draw.
        for chunk in bytes[..len].chunks_mut(10) {
            let mut bits = draws.bits();
            for byte in chunk {
                *byte = URL_SAFE[(bits & 63) as usize];
                bits >>= 6;
            }
        }
        bytes[INSTALLATION_CHARS..INSTALLATION_CHARS + FCM_PREFIX.len()]
            .copy_from_slice(FCM_PREFIX);
        Self { bytes, len }
    }

    /// Returns the bytes of the token: for APNs those that the hexadecimal digits encode, for FCM
    /// the characters.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Returns the hash by which records name the token: xxh3-64 of its bytes, as everywhere in
    /// Clarion.
    #[must_use]
    pub fn hash(&self) -> u64 {
        clarion_proto::device::token_hash(self.as_slice())
    }
}

fn length(lengths: &[(usize, u8)], draws: &mut Draws) -> usize {
    let mut left = draws.below(100);
    for (length, share) in lengths {
        match left.checked_sub(usize::from(*share)) {
            Some(rest) => left = rest,
            None => return *length,
        }
    }
    lengths[0].0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn lengths(platform: Platform) -> BTreeMap<usize, u32> {
        let mut lengths = BTreeMap::new();
        for n in 0..10_000 {
            let token = TokenBytes::draw(platform, &mut Draws::new(1, 3, n));
            *lengths.entry(token.as_slice().len()).or_insert(0) += 1;
        }
        lengths
    }

    #[test]
    fn lengths_are_those_seen_in_the_field() {
        for (platform, expected) in [(Platform::Apns, APNS_LENGTHS), (Platform::Fcm, FCM_LENGTHS)] {
            let lengths = lengths(platform);
            assert_eq!(lengths.len(), expected.len());
            for (length, share) in expected {
                let off = i64::from(lengths[length]) - i64::from(*share) * 100;
                assert!(off.abs() < 200, "{platform:?}: {lengths:?}");
            }
        }
    }

    #[test]
    fn an_fcm_token_is_made_of_the_characters_of_one() {
        for n in 0..1_000 {
            let token = TokenBytes::draw(Platform::Fcm, &mut Draws::new(1, 3, n));
            let (installation, rest) =
                std::str::from_utf8(token.as_slice()).unwrap().split_once(':').unwrap();
            assert_eq!(installation.len(), INSTALLATION_CHARS);
            assert!(rest.starts_with("APA91b"));
            let url_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(installation.chars().chain(rest.chars()).all(url_safe));
        }
    }
}
