//! The decoder of header blocks in responses.
//!
//! We announce a table of size 0, so after the peer has acknowledged that, a block refers to the
//! static table only, and blocks no longer depend on each other. Until then the peer may use the
//! default table, so the decoder supports all of HPACK.

use std::collections::VecDeque;

use super::{ENTRY_OVERHEAD, STATIC_LEN, TABLE_SIZE_DEFAULT, huffman, static_entry, take_integer};

/// Defect of a header block. It also loses the state of the two tables, so the connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HpackError {
    #[error("header block is truncated, or a number in it is too large")]
    Truncated,
    #[error("header index outside of both tables")]
    Index,
    #[error("header string is not valid Huffman code")]
    Huffman,
    #[error("table size update above the announced size or not at the beginning of a block")]
    SizeUpdate,
    #[error("header list larger than announced")]
    ListTooLarge,
}

/// Name and value of a table entry.
type Entry = (Box<[u8]>, Box<[u8]>);

/// Decoder of blocks in the order of their arrival.
pub(crate) struct Decoder {
    /// Entries, newest first. Bounded by `size_max`, at most 4,096 bytes by the rules of HPACK, 128
    /// entries.
    table: VecDeque<Entry>,
    size: usize,
    /// Table size that the peer's encoder has chosen, at most `limit`.
    size_max: usize,
    /// Table size that was announced and acknowledged.
    limit: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            size_max: TABLE_SIZE_DEFAULT,
            limit: TABLE_SIZE_DEFAULT,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Records that the peer has acknowledged this table size. A correct peer announces a change at
    /// the beginning of its next block; for a peer that never uses its table and announces nothing,
    /// the table is emptied now.
    pub(crate) fn acknowledged(&mut self, limit: usize) {
        self.limit = limit;
        self.size_max = self.size_max.min(limit);
        self.evict();
    }

    /// Reports whether no block can change how the next one is decoded.
    pub(crate) fn is_stateless(&self) -> bool {
        self.limit == 0
    }

    /// Returns the size of the table's content (RFC 7541, 4.1), bytes.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn table_bytes(&self) -> usize {
        self.size
    }

    /// Calls `field` with each name and value of one complete block.
    ///
    /// `list_max` bounds the list as RFC 9113 counts it (10.5.1): names, values and 32 bytes for
    /// each field.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        list_max: usize,
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let (mut list, mut begun) = (0, false);
        while let Some(&first) = block.first() {
            if first & 0xe0 == 0x20 {
                let size = take_integer(&mut block, 5).ok_or(HpackError::Truncated)?;
                if begun || size > self.limit {
                    return Err(HpackError::SizeUpdate);
                }
                self.size_max = size;
                self.evict();
                continue;
            }
            begun = true;
            let indexed = first & 0x80 != 0;
            let insert = first & 0xc0 == 0x40;
            let bits = if indexed {
                7
            } else if insert {
                6
            } else {
                4
            };
            let index = take_integer(&mut block, bits).ok_or(HpackError::Truncated)?;
            self.name.clear();
            self.value.clear();
            if indexed {
                self.entry(index, true)?;
            } else {
                if index == 0 {
                    take_string(&mut block, &mut self.name)?;
                } else {
                    self.entry(index, false)?;
                }
                take_string(&mut block, &mut self.value)?;
            }
            let size = self.name.len() + self.value.len() + ENTRY_OVERHEAD;
            list += size;
            if list > list_max {
                return Err(HpackError::ListTooLarge);
            }
            field(&self.name, &self.value);
            if insert {
                self.insert(size);
            }
        }
        Ok(())
    }

    /// Copies an entry of either table to `name` and, on request, to `value`.
    fn entry(&mut self, index: usize, with_value: bool) -> Result<(), HpackError> {
        let (name, value) = match static_entry(index) {
            Some((name, value)) => (name.as_bytes(), value.as_bytes()),
            None => {
                let at = index.checked_sub(STATIC_LEN + 1).ok_or(HpackError::Index)?;
                let (name, value) = self.table.get(at).ok_or(HpackError::Index)?;
                (&**name, &**value)
            }
        };
        self.name.extend_from_slice(name);
        if with_value {
            self.value.extend_from_slice(value);
        }
        Ok(())
    }

    /// Adds the current field to the table; one that is larger than the table empties it (RFC 7541,
    /// 4.4).
    fn insert(&mut self, size: usize) {
        if size <= self.size_max {
            self.table.push_front((self.name.as_slice().into(), self.value.as_slice().into()));
            self.size += size;
            self.evict();
        } else {
            self.table.clear();
            self.size = 0;
        }
    }

    fn evict(&mut self) {
        while self.size > self.size_max {
            let Some((name, value)) = self.table.pop_back() else { break };
            self.size -= name.len() + value.len() + ENTRY_OVERHEAD;
        }
    }
}

fn take_string(input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let coded = input.first().ok_or(HpackError::Truncated)? & 0x80 != 0;
    let length = take_integer(input, 7).ok_or(HpackError::Truncated)?;
    let (text, rest) = input.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *input = rest;
    if coded {
        huffman::decode(text, out).map_err(|huffman::BadHuffman| HpackError::Huffman)?;
    } else {
        out.extend_from_slice(text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST_MAX: usize = 16_384;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn all(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, HpackError> {
        let mut fields = Vec::new();
        decoder.decode(block, LIST_MAX, |n, v| fields.push((n.to_vec(), v.to_vec())))?;
        Ok(fields)
    }

    #[test]
    fn a_size_update_cut_short_is_an_error() {
        assert_eq!(all(&mut Decoder::new(), &[0x3f]), Err(HpackError::Truncated));
    }

    #[test]
    fn a_size_update_above_the_limit_or_in_the_middle_is_an_error() {
        assert_eq!(all(&mut Decoder::new(), &[0x3f, 0xe2, 0x1f]), Err(HpackError::SizeUpdate));
        assert_eq!(all(&mut Decoder::new(), &[0x88, 0x20]), Err(HpackError::SizeUpdate));
    }

    #[test]
    fn after_the_acknowledgement_nothing_is_remembered() {
        let mut decoder = Decoder::new();
        // `a: b` enters the table, and is index 62.
        assert_eq!(all(&mut decoder, &[0x40, 1, b'a', 1, b'b']).unwrap().len(), 1);
        assert_eq!(all(&mut decoder, &[0xbe]).unwrap(), [(b"a".to_vec(), b"b".to_vec())]);
        decoder.acknowledged(0);
        assert_eq!(all(&mut decoder, &[0xbe]), Err(HpackError::Index));
        all(&mut decoder, &[0x40, 1, b'a', 1, b'b']).unwrap();
        assert_eq!(all(&mut decoder, &[0xbe]), Err(HpackError::Index));
        assert_eq!(all(&mut decoder, &[0x21, 0x88]), Err(HpackError::SizeUpdate));
    }

    #[test]
    fn a_header_list_is_bounded() {
        let mut decoder = Decoder::new();
        let mut block = vec![0x40, 1, b'a', 0x7f, 0xd1, 0x1e];
        block.resize(block.len() + 4_048 - 32, b'x');
        block.resize(block.len() + 16_000, 0xbe);
        assert_eq!(all(&mut decoder, &block), Err(HpackError::ListTooLarge));
    }

    fn fields() -> impl Strategy<Value = Fields> {
        let name = prop_oneof![
            Just(b":status".to_vec()),
            Just(b"apns-id".to_vec()),
            Just(b"date".to_vec()),
            proptest::collection::vec(any::<u8>(), 1..20)
        ];
        let value =
            prop_oneof![Just(b"200".to_vec()), proptest::collection::vec(any::<u8>(), 0..200)];
        proptest::collection::vec((name, value), 0..20)
    }

    proptest! {
        /// Another library encodes with a table that changes, and the decoder returns the same
        /// fields.
        #[test]
        fn reads_what_another_library_writes(blocks in proptest::collection::vec(fields(), 1..8)) {
            let (mut encoder, mut decoder) = (fluke_hpack::Encoder::new(), Decoder::new());
            for fields in blocks {
                let block = encoder.encode(fields.iter().map(|(n, v)| (&n[..], &v[..])));
                prop_assert_eq!(all(&mut decoder, &block).unwrap(), fields);
            }
        }

        /// Arbitrary blocks neither panic nor grow the table beyond its limit.
        #[test]
        fn arbitrary_blocks_are_harmless(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..10)) {
            let mut decoder = Decoder::new();
            for block in blocks {
                let _ = all(&mut decoder, &block);
                prop_assert!(decoder.size <= TABLE_SIZE_DEFAULT);
                let size: usize = decoder.table.iter().map(|(n, v)| n.len() + v.len() + ENTRY_OVERHEAD).sum();
                prop_assert_eq!(size, decoder.size);
            }
        }
    }
}
