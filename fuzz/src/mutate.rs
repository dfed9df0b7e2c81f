//! Mutations of inputs, for the run without coverage guidance.

use rand::RngExt as _;
use rand_pcg::Pcg64Mcg;

const BYTES_MAX: usize = 4_096;

/// Byte strings that some reader searches for.
const WORDS: &[&[u8]] = &[
    b"\x88",
    b"\x20",
    b"\x3f\xe1\x1f",
    b"\x20\x88",
    b"\x08\x03410",
    b"\x40\x01a\x01b",
    b"\xbe",
    b"retry-after",
    b"date",
    b"{\"reason\":\"BadDeviceToken\"}",
    b"{\"reason\":\"Unregistered\",\"timestamp\":1700000000000}",
    b"{\"error\":{\"status\":\"UNAVAILABLE\",\"details\":[]}}",
    b"UNREGISTERED",
    b"google.rpc.BadRequest",
    b"Sun, 06 Nov 1994 08:49:37 GMT",
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
];

/// Returns a mutation of an input of the corpus.
pub fn another(corpus: &[Vec<u8>], rng: &mut Pcg64Mcg) -> Vec<u8> {
    let any = |rng: &mut Pcg64Mcg| match corpus.len() {
        0 => Vec::new(),
        inputs => corpus[rng.random_range(0..inputs)].clone(),
    };
    let mut input = any(rng);
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..7) {
            0 => input.insert(at, rng.random()),
            1 if at < input.len() => input[at] = rng.random(),
            2 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            3 => {
                let end = rng.random_range(at..=input.len());
                input.drain(at..end);
            }
            4 => {
                let word = WORDS[rng.random_range(0..WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            5 => {
                // Repeats a piece of the input.
                let end = rng.random_range(at..=input.len());
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let other = any(rng);
                input.truncate(at);
                input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
            }
        }
    }
    input.truncate(BYTES_MAX);
    input
}
