//! The encoder of header blocks in requests, with a dynamic table that is filled once.
//!
//! The encoder never evicts an entry: a field that does not fit is written as a literal each time.
//! So the indexes in a template stay valid until the next entry is added, which
//! [`Encoder::version`] indicates, and entries are added only while templates are new. A table that
//! must start again (other size, other credential) is emptied by a size update to zero at the
//! beginning of the next block, which every decoder understands (RFC 7541, 4.2).

use super::{STATIC_LEN, TABLE_SIZE_DEFAULT, entry_size, huffman, put_integer, static_name};
use crate::lane::provider::field::Indexing;

/// The dynamic table as the peer's decoder has it after all blocks so far.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Entries of the dynamic table, oldest first.
    entries: Vec<Entry>,
    size: usize,
    size_max: usize,
    /// Whether the next block begins with the size of the table.
    announce: bool,
    version: u32,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    /// Value of the entry; `None` for a secret, because a copy would outlive the credential. A
    /// table has only one secret, so `None` matches any.
    value: Option<Box<str>>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            size: 0,
            size_max: TABLE_SIZE_DEFAULT,
            announce: false,
            version: 1,
        }
    }

    /// Returns a number that changes whenever earlier blocks may not be repeated. It is never 0.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Restarts with an empty table of the size that the peer allows, at most the default.
    pub(crate) fn restart(&mut self, allowed: usize) {
        self.entries.clear();
        self.size = 0;
        self.size_max = allowed.min(TABLE_SIZE_DEFAULT);
        self.announce = true;
        self.outdate();
    }

    /// Returns the size of the table in use, bytes.
    pub(crate) fn size_max(&self) -> usize {
        self.size_max
    }

    /// Makes earlier blocks unrepeatable, for a reason outside of the table.
    pub(crate) fn outdate(&mut self) {
        self.version = self.version.wrapping_add(1).max(1);
    }

    /// Begins a header block.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if self.announce {
            // First the smallest size since the last block, then the size in force.
            put_integer(out, 0x20, 5, 0);
            if self.size_max > 0 {
                put_integer(out, 0x20, 5, self.size_max);
            }
            self.announce = false;
            self.outdate();
        }
    }

    /// Writes one field. With `secret` the table keeps no copy of its value.
    pub(crate) fn field(
        &mut self,
        out: &mut Vec<u8>,
        name: &'static str,
        value: &str,
        indexing: Indexing,
        secret: bool,
    ) {
        let known = self.entries.iter().position(|e| {
            e.name == name
                && match &e.value {
                    Some(v) => **v == *value,
                    None => secret,
                }
        });
        if let (Some(at), Indexing::Value) = (known, indexing) {
            put_integer(out, 0x80, 7, self.index(at));
            return;
        }
        let in_table = self.entries.iter().position(|e| e.name == name).map(|at| self.index(at));
        let size = entry_size(name, value.len());
        let wanted = match indexing {
            Indexing::Value => true,
            Indexing::Name => in_table.is_none() && static_name(name).is_none(),
            Indexing::Never => false,
        };
        let insert = wanted && size <= self.size_max - self.size;
        let (first, bits) = match indexing {
            _ if insert => (0x40, 6),
            Indexing::Never => (0x10, 4),
            Indexing::Value | Indexing::Name => (0x00, 4),
        };
        match static_name(name).or(in_table) {
            Some(index) => put_integer(out, first, bits, index),
            None => {
                out.push(first);
                put_string(out, name);
            }
        }
        put_string(out, value);
        if insert {
            self.entries.push(Entry { name, value: (!secret).then(|| value.into()) });
            self.size += size;
            self.outdate();
        }
    }

    /// Returns the index of the entry that was inserted as number `at`; the newest one follows the
    /// static table.
    fn index(&self, at: usize) -> usize {
        STATIC_LEN + self.entries.len() - at
    }
}

/// Appends the shorter of both forms of a string.
fn put_string(out: &mut Vec<u8>, text: &str) {
    let coded = huffman::encoded_len(text.as_bytes());
    if coded < text.len() {
        put_integer(out, 0x80, 7, coded);
        huffman::encode(text.as_bytes(), out);
    } else {
        put_integer(out, 0x00, 7, text.len());
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 5] = [":authority", "authorization", "apns-topic", "apns-expiration", "x"];

    fn indexing() -> impl Strategy<Value = Indexing> {
        prop_oneof![Just(Indexing::Value), Just(Indexing::Name), Just(Indexing::Never)]
    }

    proptest! {
        /// Another library decodes all blocks correctly, with any table sizes.
        #[test]
        fn another_library_reads_what_is_written(
            blocks in proptest::collection::vec(
                (proptest::option::of(0usize..5_000), proptest::collection::vec((0usize..5, "[ -~]{0,90}", indexing()), 0..8)), 1..20)
        ) {
            let (mut encoder, mut decoder) = (Encoder::new(), fluke_hpack::Decoder::new());
            for (restart, fields) in blocks {
                if let Some(size) = restart {
                    encoder.restart(size);
                    decoder.set_max_allowed_table_size(size.min(TABLE_SIZE_DEFAULT));
                }
                if fields.is_empty() {
                    continue; // a block has at least the pseudo-fields of a request
                }
                let mut block = Vec::new();
                encoder.begin(&mut block);
                let mut meant = Vec::new();
                for (name, value, indexing) in &fields {
                    encoder.field(&mut block, NAMES[*name], value, *indexing, false);
                    meant.push((NAMES[*name].as_bytes().to_vec(), value.as_bytes().to_vec()));
                }
                prop_assert_eq!(decoder.decode(&block).unwrap(), meant);
            }
        }
    }

    #[test]
    fn a_secret_is_found_again_but_not_kept() {
        let mut encoder = Encoder::new();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        encoder.field(&mut first, "authorization", "bearer abcdef", Indexing::Value, true);
        encoder.field(&mut second, "authorization", "bearer abcdef", Indexing::Value, true);
        assert_eq!(second, [0xbe]);
        assert!(!format!("{encoder:?}").contains("abcdef"));
    }
}
