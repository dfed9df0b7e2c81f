//! HPACK (RFC 7541): header blocks in, through a library that is never shown hostile bytes; the few
//! headers out by hand.
//!
//! `httlib-hpack` 0.1.3 was read before it was let near a socket. It is right on well-formed input,
//! and has no unsafe code, but on a truncated integer or string it indexes past the end of its
//! slice (a panic), it bounds no header list (one byte can name a table entry of 4 KiB: 16 KiB of
//! block become 64 MiB), and it takes a size update anywhere. So every block is walked first:
//! [`walk`] finds the end of each representation, refuses what is cut off, over-long or out of
//! place, and only whole representations reach the library, one at a time, with a limit on what
//! they may add up to. What remains of its leniency is harmless here: Huffman padding of zeros
//! instead of ones is accepted.
//!
//! The walk also tells whether a block leaves the dynamic table as it is. Such a block's meaning
//! depends on nothing but its bytes and the table, and that of each representation on nothing but
//! its own bytes and the table: this is what makes the cache in [`super::head`] right.

use std::ops::Range;

use httlib_hpack::Decoder as Library;

/// Bytes of the dynamic table that clients may use: the default, which Apple announces too.
pub const TABLE_BYTES: u32 = 4_096;
/// Representations in one block: a push has a dozen.
const REPRESENTATIONS_MAX: usize = 128;
/// Octets of one integer, as in the library: 28 bits and the prefix.
const INTEGER_OCTETS_MAX: usize = 5;
/// Indices of `:path` in the static table (RFC 7541, appendix A).
const STATIC_PATH: Range<u32> = 4..6;

/// Why a block is refused; each ends the connection, for the tables of both sides no longer agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// An integer or string reaches beyond the end of the block.
    #[error("a header block is cut off")]
    Truncated,
    /// An integer of more than five octets.
    #[error("a header block holds an over-long integer")]
    Integer,
    /// Larger a table than was announced, or none of the size updates that a smaller one asks for.
    #[error("a header table is larger than it may be")]
    TableTooLarge,
    /// A size update after a field.
    #[error("a table size update stands after a field")]
    LateSizeUpdate,
    /// More fields or bytes than announced.
    #[error("a header list is over its limit")]
    TooLarge,
    /// Something that the library refuses: an index out of the table, a bad Huffman code, too large
    /// a table.
    #[error("a header block does not decode")]
    Invalid,
}

/// One representation (RFC 7541, section 6) and its place in the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Representation {
    /// Range of its bytes in the block.
    pub bytes: Range<usize>,
    /// Whether it adds to the table or resizes it.
    pub changes_table: bool,
    /// New size of the table, if it is a table size update.
    pub resizes: Option<u32>,
    /// A literal `:path` named by the static table, not entering the dynamic one: its value, if not
    /// Huffman coded.
    pub path: Option<PathValue>,
}

/// Encoding of the value of a `:path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathValue {
    /// Plain octets: this range of the header block.
    Raw(Range<usize>),
    /// Huffman coded octets, which are not decoded here.
    Huffman,
}

/// Splits a block into its representations.
///
/// # Errors
/// The defect of the block; no part of the block may be decoded then.
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

/// The representation of a `:path` that begins at `at`, if [`walk`] would find one there
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

/// A connection's decoder: the library behind the walk.
pub struct Decoder {
    library: Library<'static>,
    /// One representation at a time, as the library wants to own it.
    input: Vec<u8>,
    output: Vec<(Vec<u8>, Vec<u8>, u8)>,
}

impl Decoder {
    /// A decoder with an empty table of [`TABLE_BYTES`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            library: Library::with_dynamic_size(TABLE_BYTES),
            input: Vec::new(),
            output: Vec::with_capacity(1),
        }
    }

    /// Decodes representations that [`walk`] found in `block`, giving name and value of each field.
    ///
    /// # Errors
    /// If the library refuses one, or the list (RFC 9113, section 6.5.2: each field weighs 32 more)
    /// exceeds `list_bytes_max`.
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

/// Encoder of responses' header blocks. It uses no dynamic table, but a peer that changes
/// SETTINGS_HEADER_TABLE_SIZE waits for the size update that acknowledges it (RFC 7541, section
/// 4.2; nghttp2 insists on it).
#[derive(Debug)]
pub struct Encoder {
    size: u32,
    /// The smallest size since the last block, if there was a change.
    smallest: Option<u32>,
}

impl Encoder {
    /// As at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self { size: TABLE_BYTES, smallest: None }
    }

    /// The peer has set its table's size. More than the default is not made use of.
    pub fn set_table_size(&mut self, size: u32) {
        let size = size.min(TABLE_BYTES);
        if size != self.size || self.smallest.is_some() {
            self.size = size;
            self.smallest = Some(self.smallest.map_or(size, |s| s.min(size)));
        }
    }

    /// Begins a header block: appends the size updates that are due.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.smallest.take() {
            if smallest != self.size {
                put_integer(out, 0x20, 5, smallest);
            }
            put_integer(out, 0x20, 5, self.size);
        }
    }

    /// Whether [`Self::begin`] would write nothing.
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

/// Appends a field as literal without indexing and with a new name.
///
/// # Panics
/// If name or value has 127 bytes or more: the emulator's have at most 36.
pub fn put_literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for part in [name, value] {
        let length = u8::try_from(part.len()).ok().filter(|&n| n < 0x7f).expect("a short string");
        out.push(length);
        out.extend_from_slice(part);
    }
}

/// Appends an integer with a prefix of `bits` behind the `pattern` (RFC 7541, section 5.1).
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
        // Shifts are 0, 7, 14 and 21: at most 2^28 + 127, no overflow.
        value += u32::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(HpackError::Integer)
}

/// Steps over a string: whether it is Huffman coded, and its bytes.
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

    /// RFC 7541, appendix C.4.1: Huffman coded, one field entering the table; then the same by
    /// index.
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
        /// The walk lets nothing through that the library cannot bear, and cuts blocks without gap
        /// or overlap.
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
