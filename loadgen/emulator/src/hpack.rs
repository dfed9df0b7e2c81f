//! HPACK (RFC 7541): header blocks are decoded by a library that never sees hostile bytes; the few
//! headers of responses are written by hand.
//!
//! `httlib-hpack` 0.1.3 was reviewed before it was used. It is correct on well-formed input and has
//! no unsafe code. But on a truncated integer or string it indexes past the end of its slice (a
//! panic), it does not bound header lists (one byte can name a table entry of 4 KiB, so 16 KiB of
//! block become 64 MiB), and it accepts a size update anywhere. So every block is walked first:
//! [`walk`] finds the end of each representation and refuses what is truncated, over-long or out of
//! place. Only whole representations reach the library, one at a time, with a limit on the sum of
//! their fields. One leniency remains and is harmless here: Huffman padding of zeros instead of
//! ones is accepted.
//!
//! The walk also finds out whether a block leaves the dynamic table unchanged. The meaning of such
//! a block depends only on its bytes and the table, and so does the meaning of each of its
//! representations. The cache in [`super::head`] relies on this.

use std::ops::Range;

use httlib_hpack::Decoder as Library;

/// Size of the dynamic table that clients may use, bytes: the default, which Apple announces too.
pub const TABLE_BYTES: u32 = 4_096;
/// Most representations in one block. A push has a dozen.
const REPRESENTATIONS_MAX: usize = 128;
/// Most octets of one integer, as in the library: 28 bits and the prefix.
const INTEGER_OCTETS_MAX: usize = 5;
/// Indices of `:path` in the static table (RFC 7541, appendix A).
const STATIC_PATH: Range<u32> = 4..6;

/// Defect of a header block. Each one ends the connection, because the tables of both sides no
/// longer agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// An integer or string extends beyond the end of the block.
    #[error("a header block is cut off")]
    Truncated,
    /// An integer has more than five octets.
    #[error("a header block holds an over-long integer")]
    Integer,
    /// A size update exceeds the announced table size, or the update that a smaller table requires
    /// is missing.
    #[error("a header table is larger than it may be")]
    TableTooLarge,
    /// A size update follows a field.
    #[error("a table size update stands after a field")]
    LateSizeUpdate,
    /// The block has more fields or bytes than announced.
    #[error("a header list is over its limit")]
    TooLarge,
    /// The library refuses the block: an index outside the table, an invalid Huffman code, too
    /// large a table.
    #[error("a header block does not decode")]
    Invalid,
}

/// One representation (RFC 7541, section 6) and its place in the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Representation {
    /// Range of the representation's bytes in the block.
    pub bytes: Range<usize>,
    /// Whether the representation adds to the table or resizes it.
    pub changes_table: bool,
    /// New size of the table if this is a table size update, bytes.
    pub resizes: Option<u32>,
    /// Value of a literal `:path` that the static table names and that does not enter the dynamic
    /// table.
    pub path: Option<PathValue>,
}

/// Encoding of the value of a `:path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathValue {
    /// Plain octets, as a range of the header block.
    Raw(Range<usize>),
    /// Huffman coded octets, which the walk does not decode.
    Huffman,
}

/// Splits a block into its representations.
///
/// # Errors
/// The defect of the block. No part of the block may be decoded then.
pub fn walk(block: &[u8], mut each: impl FnMut(Representation)) -> Result<(), HpackError> {
    let (mut at, mut fields, mut count) = (0, 0_usize, 0_usize);
    while let Some(&first) = block.get(at) {
        let start = at;
        count += 1;
        if count > REPRESENTATIONS_MAX {
            return Err(HpackError::TooLarge);
        }
        let (changes_table, path) = match first {
            0x80.. => {
                integer(block, &mut at, 7)?;
                (false, None)
            }
            0x20..0x40 => {
                if fields > 0 {
                    return Err(HpackError::LateSizeUpdate);
                }
                let resizes = Some(integer(block, &mut at, 5)?);
                each(Representation { bytes: start..at, changes_table: true, resizes, path: None });
                continue;
            }
            _ => {
                let indexing = first >= 0x40;
                let name = integer(block, &mut at, if indexing { 6 } else { 4 })?;
                if name == 0 {
                    string(block, &mut at)?;
                }
                let (huffman, value) = string(block, &mut at)?;
                let path = (!indexing && STATIC_PATH.contains(&name)).then_some(if huffman {
                    PathValue::Huffman
                } else {
                    PathValue::Raw(value)
                });
                (indexing, path)
            }
        };
        fields += 1;
        each(Representation { bytes: start..at, changes_table, resizes: None, path });
    }
    Ok(())
}

/// Returns the representation of a `:path` that begins at `at`, if [`walk`] would find one there
/// ([`Representation::path`]).
#[must_use]
pub fn path_at(block: &[u8], at: usize) -> Option<Representation> {
    let first = *block.get(at)?;
    let name = u32::from(first & 0x0f);
    if first & 0xe0 != 0 || !STATIC_PATH.contains(&name) {
        return None;
    }
    let mut end = at + 1;
    let (huffman, value) = string(block, &mut end).ok()?;
    let path = if huffman { PathValue::Huffman } else { PathValue::Raw(value) };
    Some(Representation { bytes: at..end, changes_table: false, resizes: None, path: Some(path) })
}

/// Decoder of a connection, which passes walked representations to the library.
pub struct Decoder {
    library: Library<'static>,
    /// Buffer for one representation, which the library takes by ownership.
    input: Vec<u8>,
    output: Vec<(Vec<u8>, Vec<u8>, u8)>,
}

impl Decoder {
    /// Creates a decoder with an empty table of [`TABLE_BYTES`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            library: Library::with_dynamic_size(TABLE_BYTES),
            input: Vec::new(),
            output: Vec::with_capacity(1),
        }
    }

    /// Decodes representations that [`walk`] found in `block`, and passes name and value of each
    /// field to `each`.
    ///
    /// # Errors
    /// If the library refuses a representation, or the list exceeds `list_bytes_max` (RFC 9113,
    /// section 6.5.2: each field counts 32 bytes more).
    pub fn decode(
        &mut self,
        block: &[u8],
        representations: &[Representation],
        list_bytes_max: usize,
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let mut list_bytes = 0;
        for representation in representations {
            self.input.clear();
            self.input.extend_from_slice(&block[representation.bytes.clone()]);
            self.output.clear();
            self.library
                .decode_exact(&mut self.input, &mut self.output)
                .map_err(|_| HpackError::Invalid)?;
            for (name, value, _) in &self.output {
                list_bytes += name.len() + value.len() + 32;
                if list_bytes > list_bytes_max {
                    return Err(HpackError::TooLarge);
                }
                field(name, value);
            }
        }
        Ok(())
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Encoder of the header blocks of responses. It uses no dynamic table. But a peer that changes
/// SETTINGS_HEADER_TABLE_SIZE waits for the size update that acknowledges it (RFC 7541, section
/// 4.2; nghttp2 requires it).
#[derive(Debug)]
pub struct Encoder {
    size: u32,
    /// Smallest table size since the last block; `None` without a change.
    smallest: Option<u32>,
}

impl Encoder {
    /// Creates the encoder of a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self { size: TABLE_BYTES, smallest: None }
    }

    /// Records the peer's table size, bytes. Sizes above the default have no effect.
    pub fn set_table_size(&mut self, size: u32) {
        let size = size.min(TABLE_BYTES);
        if size != self.size || self.smallest.is_some() {
            self.size = size;
            self.smallest = Some(self.smallest.map_or(size, |s| s.min(size)));
        }
    }

    /// Begins a header block with the size updates that are due.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.smallest.take() {
            if smallest != self.size {
                put_integer(out, 0x20, 5, smallest);
            }
            put_integer(out, 0x20, 5, self.size);
        }
    }

    /// Reports whether [`Self::begin`] would write nothing.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.smallest.is_none()
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Appends a field as a literal with a new name, without indexing.
///
/// # Panics
/// If name or value has 127 bytes or more. The emulator's have at most 36.
pub fn put_literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for part in [name, value] {
        let length = u8::try_from(part.len()).ok().filter(|&n| n < 0x7f).expect("a short string");
        out.push(length);
        out.extend_from_slice(part);
    }
}

/// Appends an integer with a prefix of `bits` bits after the `pattern` (RFC 7541, section 5.1).
#[allow(
    clippy::cast_possible_truncation,
    reason = "each value is below 256 by the comparison or the mask before it"
)]
fn put_integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: u32) {
    let prefix_max = (1 << bits) - 1;
    if value < prefix_max {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | prefix_max as u8);
    let mut rest = value - prefix_max;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn integer(block: &[u8], at: &mut usize, bits: u32) -> Result<u32, HpackError> {
    let start = *at;
    let prefix_max = (1_u32 << bits) - 1;
    let mut value = u32::from(*block.get(start).ok_or(HpackError::Truncated)?) & prefix_max;
    *at += 1;
    if value < prefix_max {
        return Ok(value);
    }
    for shift in (0..).step_by(7).take(INTEGER_OCTETS_MAX - 1) {
        let octet = *block.get(*at).ok_or(HpackError::Truncated)?;
        *at += 1;
        // Shifts are 0, 7, 14 and 21, so the sum is at most 2^28 + 127 and cannot overflow.
        value += u32::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(HpackError::Integer)
}

/// Steps over a string. Returns whether it is Huffman coded, and its bytes.
fn string(block: &[u8], at: &mut usize) -> Result<(bool, Range<usize>), HpackError> {
    let huffman = *block.get(*at).ok_or(HpackError::Truncated)? & 0x80 != 0;
    let length = integer(block, at, 7)? as usize;
    let start = *at;
    if length > block.len() - start {
        return Err(HpackError::Truncated);
    }
    *at = start + length;
    Ok((huffman, start..*at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
        let mut representations = Vec::new();
        walk(block, |r| representations.push(r))?;
        let mut fields = Vec::new();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        decoder.decode(block, &representations, 8_000, |n, v| fields.push((text(n), text(v))))?;
        Ok(fields)
    }

    /// RFC 7541, appendix C.4.1: Huffman coded, one field that enters the table; then the same
    /// field by index.
    #[test]
    fn the_example_of_the_specification() {
        let mut decoder = Decoder::new();
        let block = [
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
            0x90, 0xf4, 0xff,
        ];
        let fields = decode(&mut decoder, &block).expect("well formed");
        assert_eq!(fields[3], (":authority".to_owned(), "www.example.com".to_owned()));
        assert_eq!(decode(&mut decoder, &[0xbe]).expect("in the table")[0].1, "www.example.com");
    }

    #[test]
    fn what_the_library_would_panic_at_is_refused() {
        for block in [
            &[0xff][..],
            &[0x40],
            &[0x40, 1, b'a'],
            &[0x00, 0x05, b'a'],
            &[0x1f],
            &[0x04, 0x7f, 0x80],
        ] {
            assert_eq!(
                decode(&mut Decoder::new(), block),
                Err(HpackError::Truncated),
                "{block:02x?}"
            );
        }
        assert_eq!(
            decode(&mut Decoder::new(), &[0xff, 0xff, 0xff, 0xff, 0xff, 0]),
            Err(HpackError::Integer)
        );
    }

    #[test]
    fn a_size_update_after_a_field_is_refused() {
        assert_eq!(decode(&mut Decoder::new(), &[0x20, 0x82]).map(|f| f.len()), Ok(1));
        assert_eq!(decode(&mut Decoder::new(), &[0x82, 0x20]), Err(HpackError::LateSizeUpdate));
    }

    #[test]
    fn a_small_block_cannot_become_a_large_list() {
        let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
        block.extend(std::iter::repeat_n(b'v', 4_000));
        block.extend([0xbe; 3]);
        assert_eq!(decode(&mut Decoder::new(), &block), Err(HpackError::TooLarge));
    }

    #[test]
    fn a_literal_path_is_found() {
        let mut found = Vec::new();
        walk(&[0x83, 0x04, 2, b'/', b'x', 0x14, 0x81, 0x63], |r| found.push((r.bytes, r.path)))
            .expect("well formed");
        let raw = Some(PathValue::Raw(3..5));
        assert_eq!(found, [(0..1, None), (1..5, raw), (5..8, Some(PathValue::Huffman))]);
    }

    #[test]
    fn a_changed_table_size_is_acknowledged_in_the_next_block() {
        let (mut encoder, mut out) = (Encoder::new(), Vec::new());
        encoder.set_table_size(4_096);
        assert!(encoder.is_settled());
        encoder.set_table_size(0);
        encoder.set_table_size(65_536);
        encoder.begin(&mut out);
        assert_eq!(out, [0x20, 0x3f, 0xe1, 0x1f], "the smallest, then the last");
        encoder.begin(&mut out);
        assert_eq!(out.len(), 4);
    }

    proptest! {
        /// Checks that the library gets nothing that makes it panic, and that blocks are split
        /// without gap or overlap.
        #[test]
        fn no_block_panics(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)) {
            let mut decoder = Decoder::new();
            for block in blocks {
                let (mut end, mut whole) = (0, true);
                let walked = walk(&block, |r| { whole &= r.bytes.start == end; end = r.bytes.end; });
                prop_assert!(whole && (walked.is_err() || end == block.len()));
                let _ = decode(&mut decoder, &block);
            }
        }
    }
}
