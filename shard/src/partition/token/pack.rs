//! Packed tokens: six bits for each character of base64url, with one colon among them.

/// Characters of base64url (RFC 4648, section 5) by value.
const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Values by character; 64 for characters outside base64url.
#[allow(clippy::cast_possible_truncation)] // 64 values
const VALUES: [u8; 256] = {
    let mut values = [64; 256];
    let mut n = 0;
    while n < 64 {
        values[CHARACTERS[n] as usize] = n as u8;
        n += 1;
    }
    values
};
/// Pairs of characters by twelve bits. Every push unpacks a token, and half the look-ups take half
/// the time.
const PAIRS: [[u8; 2]; 4_096] = {
    let mut pairs = [[0; 2]; 4_096];
    let mut n = 0;
    while n < 4_096 {
        pairs[n] = [CHARACTERS[n >> 6], CHARACTERS[n & 63]];
        n += 1;
    }
    pairs
};

/// Returns the position of the colon if the token can be packed: exactly one colon, and base64url
/// otherwise.
pub(super) fn colon_of(token: &[u8]) -> Option<u8> {
    let colon = token.iter().position(|b| *b == b':')?;
    let packable =
        token.iter().enumerate().all(|(n, b)| n == colon || VALUES[usize::from(*b)] < 64);
    // A token of a single colon would take no byte at all.
    if packable && token.len() > 1 { u8::try_from(colon).ok() } else { None }
}

/// Returns the number of bytes for this many characters.
pub(super) fn packed_bytes(characters: usize) -> usize {
    (characters * 6).div_ceil(8)
}

/// Packs a token with a colon at that position into exactly as many bytes as it needs: four
/// characters into three bytes, the first character in the highest bits.
pub(super) fn pack(token: &[u8], colon: usize, packed: &mut [u8]) {
    let (mut bits, mut held, mut to) = (0u32, 0, packed.iter_mut());
    let mut put = |byte: u32| {
        if let Some(to) = to.next() {
            *to = (byte & 0xff) as u8;
        }
    };
    for (_, character) in token.iter().enumerate().filter(|(n, _)| *n != colon) {
        bits = bits << 6 | u32::from(VALUES[usize::from(*character)]);
        held += 6;
        if held >= 8 {
            held -= 8;
            put(bits >> held);
        }
    }
    if held > 0 {
        put(bits << (8 - held));
    }
}

/// Reverses [`pack`]; the length of `token` is the number of characters.
pub(super) fn unpack(packed: &[u8], colon: usize, token: &mut [u8]) {
    let characters = token.len() - 1;
    let mut triples = packed.chunks_exact(3);
    let mut fours = token[..characters].chunks_exact_mut(4);
    for (to, from) in fours.by_ref().zip(triples.by_ref()) {
        let bits = usize::from(from[0]) << 16 | usize::from(from[1]) << 8 | usize::from(from[2]);
        to[..2].copy_from_slice(&PAIRS[bits >> 12]);
        to[2..].copy_from_slice(&PAIRS[bits & 0xfff]);
    }
    // One, two or three characters are left, in as many bytes.
    let rest = &packed[characters / 4 * 3..];
    let bits = rest.iter().fold(0usize, |bits, byte| bits << 8 | usize::from(*byte))
        << (8 * (3 - rest.len()));
    for (n, to) in fours.into_remainder().iter_mut().enumerate() {
        *to = CHARACTERS[bits >> (18 - 6 * n) & 63];
    }
    token.copy_within(colon..characters, colon + 1);
    token[colon] = b':';
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Checks that a packed token is unpacked unchanged, and that other tokens are recognized.
        #[test]
        fn round_trip(token in prop_oneof!["[A-Za-z0-9_-]{0,180}:[A-Za-z0-9_-]{0,180}", "[A-Za-z0-9_:.-]{0,8}"]) {
            let token = token.into_bytes();
            let colons = token.iter().filter(|b| **b == b':').count();
            let first = token.iter().position(|b| *b == b':');
            let other = token.contains(&b'.');
            let expected = colons == 1 && !other && token.len() > 1 && first.is_some_and(|at| at < 256);
            prop_assert_eq!(colon_of(&token).is_some(), expected);
            if let Some(colon) = colon_of(&token) {
                let mut packed = vec![0; packed_bytes(token.len() - 1)];
                pack(&token, colon.into(), &mut packed);
                let mut again = vec![0; token.len()];
                unpack(&packed, colon.into(), &mut again);
                prop_assert_eq!(again, token);
            }
        }
    }
}
