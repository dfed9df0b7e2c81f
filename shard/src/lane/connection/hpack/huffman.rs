//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: sorted by length and then by symbol, each code is the previous one plus
//! one. So the lengths are the whole table, and decoding compares a left-aligned window with one
//! bound per length.

/// Length in bits of each symbol's code; 256 is the end of string, which never occurs in a string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const SHORTEST: usize = 5;
const LONGEST: usize = 30;
const END_OF_STRING: u16 = 256;

/// Error for a string that is not a Huffman code: it contains the end of string, or its padding is
/// too long or not of ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadHuffman;

/// Returns the length of the encoded `text`, bytes.
pub(crate) fn encoded_len(text: &[u8]) -> usize {
    text.iter().map(|&b| usize::from(LENGTHS[usize::from(b)])).sum::<usize>().div_ceil(8)
}

/// Appends the encoding of `text`.
#[allow(clippy::cast_possible_truncation)] // whole bytes are taken off the accumulator
pub(crate) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0u64, 0u32);
    for &byte in text {
        let symbol = usize::from(byte);
        bits = bits << LENGTHS[symbol] | u64::from(TABLE.codes[symbol]);
        have += u32::from(LENGTHS[symbol]);
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        // Padded with ones, the first bits of the end of string.
        out.push((bits << (8 - have)) as u8 | (0xff >> have));
    }
}

/// Appends the decoded `input`, at most 8/5 of its length.
#[allow(clippy::cast_possible_truncation)] // a window of 32 bits, and symbols below 256
pub(crate) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), BadHuffman> {
    let mut input = input.iter();
    let (mut bits, mut have) = (0u64, 0usize);
    loop {
        while have <= 32 {
            let Some(&byte) = input.next() else { break };
            bits = bits << 8 | u64::from(byte);
            have += 8;
        }
        // The next 32 bits, filled up with ones, as padding is.
        let window = if have >= 32 {
            (bits >> (have - 32)) as u32
        } else {
            (bits << (32 - have)) as u32 | u32::MAX >> have
        };
        let Some(length) = (SHORTEST..=LONGEST).find(|&l| u64::from(window) < TABLE.bounds[l])
        else {
            return Err(BadHuffman);
        };
        if length > have {
            return if have < 8 && window == u32::MAX { Ok(()) } else { Err(BadHuffman) };
        }
        let code = (window >> (32 - length)) as usize;
        match TABLE.sorted[TABLE.offsets[length] + code - TABLE.firsts[length]] {
            END_OF_STRING => return Err(BadHuffman),
            symbol => out.push(symbol as u8),
        }
        have -= length;
    }
}

/// Tables derived from the code lengths.
struct Table {
    codes: [u32; 257],
    /// Symbols by length, then by value.
    sorted: [u16; 257],
    /// For each length, the position of its symbols in `sorted`, and its first code.
    offsets: [usize; LONGEST + 1],
    firsts: [usize; LONGEST + 1],
    /// For each length, a bound above every code up to this length, left-aligned in 32 bits.
    bounds: [u64; LONGEST + 1],
}

static TABLE: Table = table();

#[allow(clippy::cast_possible_truncation)] // symbols are at most 256, codes at most 2^30
const fn table() -> Table {
    let mut t = Table {
        codes: [0; 257],
        sorted: [0; 257],
        offsets: [0; LONGEST + 1],
        firsts: [0; LONGEST + 1],
        bounds: [0; LONGEST + 1],
    };
    let (mut code, mut at, mut length) = (0usize, 0, SHORTEST);
    while length <= LONGEST {
        t.offsets[length] = at;
        t.firsts[length] = code;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                t.codes[symbol] = code as u32;
                t.sorted[at] = symbol as u16;
                at += 1;
                code += 1;
            }
            symbol += 1;
        }
        t.bounds[length] = (code as u64) << (32 - length);
        code <<= 1;
        length += 1;
    }
    t
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_specification() {
        // RFC 7541, C.4.1 and C.6.1.
        for (text, bytes) in [
            (
                "www.example.com",
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
            ),
            ("302", &[0x64, 0x02]),
            ("private", &[0xae, 0xc3, 0x77, 0x1a, 0x4b]),
        ] {
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(out, bytes);
            assert_eq!(encoded_len(text.as_bytes()), bytes.len());
        }
    }

    #[test]
    fn end_of_string_long_padding_and_zero_padding_are_refused() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff][..], &[0xff], &[0xf1, 0xff, 0xff], &[0x18]] {
            assert_eq!(decode(bytes, &mut Vec::new()), Err(BadHuffman), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (mut coded, mut back) = (Vec::new(), Vec::new());
            encode(&text, &mut coded);
            prop_assert_eq!(coded.len(), encoded_len(&text));
            decode(&coded, &mut back).unwrap();
            prop_assert_eq!(back, text);
        }

        /// The independent decoder returns the same for arbitrary bytes, accepted or not.
        #[test]
        fn arbitrary_bytes_decode_as_elsewhere(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut mine = Vec::new();
            let theirs = fluke_hpack::huffman::HuffmanDecoder::new().decode(&bytes);
            match decode(&bytes, &mut mine) {
                Ok(()) => prop_assert_eq!(theirs.ok(), Some(mine)),
                Err(BadHuffman) => prop_assert!(theirs.is_err()),
            }
        }
    }
}
