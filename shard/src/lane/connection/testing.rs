//! Internals of a connection for fuzz targets and comparisons. Not part of any program.

use std::time::Duration;

use super::{Connection, hpack, retry_after::RetryAfter};

/// The decoder of header blocks.
#[derive(Default)]
pub struct HeaderDecoder(hpack::decode::Decoder);

/// Names and values of a header list, in order.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

impl HeaderDecoder {
    /// Decodes a block as a connection does, with lists of at most `list_max` bytes.
    ///
    /// # Errors
    /// The kind of the defect, by its name in the decoder.
    pub fn decode(&mut self, block: &[u8], list_max: usize) -> Result<Fields, String> {
        let mut fields = Fields::new();
        match self
            .0
            .decode(block, list_max, |name, value| fields.push((name.to_vec(), value.to_vec())))
        {
            Ok(()) => Ok(fields),
            Err(error) => Err(format!("{error:?}")),
        }
    }

    /// Records that the peer has acknowledged a table of this size.
    pub fn acknowledged(&mut self, limit: usize) {
        self.0.acknowledged(limit);
    }

    /// Returns the size of the dynamic table's content by the rules of HPACK, bytes.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.0.table_bytes()
    }
}

/// Decodes a Huffman code; `None` if it is invalid.
#[must_use]
pub fn huffman_decode(coded: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    hpack::huffman::decode(coded, &mut text).ok().map(|()| text)
}

/// Encodes a text in Huffman code.
#[must_use]
pub fn huffman_encode(text: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    hpack::huffman::encode(text, &mut coded);
    coded
}

/// Returns the pause for which an answer with these fields asks.
#[must_use]
pub fn retry_after(fields: &[(&[u8], &[u8])]) -> Option<Duration> {
    let mut read = RetryAfter::default();
    fields.iter().for_each(|(name, value)| read.field(name, value));
    read.wait()
}

impl Connection {
    /// Makes the connection decode every answer completely.
    #[must_use]
    pub fn without_fast_reader(mut self) -> Self {
        self.reader.never_fast();
        self
    }

    /// Returns the memory that a peer can cause to grow, bytes: unread pieces, blocks, bodies,
    /// output. The header table is excluded, because it has its own bound.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.reader.held_bytes() + self.answers.held_bytes() + self.out.capacity()
    }
}
