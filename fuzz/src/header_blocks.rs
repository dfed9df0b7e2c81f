//! Fuzz target: header blocks, compared with the decoder of another library.

use std::cell::RefCell;

use clarion_shard::lane::connection::testing::{HeaderDecoder, huffman_decode, huffman_encode};

use fluke_hpack::huffman::HuffmanDecoder;

use crate::input::Input;

const TABLE_BYTES: usize = 4_096;
const LIST_BYTES_MAX: usize = 8_192;

/// Decodes several blocks of one connection; the size of the table is acknowledged before one of
/// them.
///
/// # Panics
/// If the two decoders disagree, or the table exceeds its bound.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut mine = HeaderDecoder::default();
    let mut theirs = fluke_hpack::Decoder::new();
    theirs.set_max_allowed_table_size(TABLE_BYTES);
    let acknowledged = input.byte();
    for n in 1..=255u8 {
        if input.is_empty() {
            break;
        }
        if n == acknowledged {
            mine.acknowledged(0);
            theirs.set_max_allowed_table_size(0);
            theirs.set_max_table_size(0);
        }
        let block = match input.byte() {
            // Blocks that are longer than a piece can be.
            255 => {
                let length = usize::from(input.short());
                input.take(length)
            }
            length => input.take(usize::from(length)),
        };
        let read = mine.decode(block, LIST_BYTES_MAX);
        assert!(mine.table_bytes() <= TABLE_BYTES);
        match read {
            // The other library refuses a block without any field, which RFC 7541 allows.
            Ok(fields) if fields.is_empty() && !block.is_empty() => return,
            Ok(fields) => assert_eq!(theirs.decode(block).ok(), Some(fields)),
            // Every decoder must refuse these. (The other library panics at a truncated size
            // update, accepts one in the middle of a block, and does not bound lists and numbers,
            // so `SizeUpdate`, `ListTooLarge` and `Truncated` cannot be compared.)
            Err(error) if error == "Index" || error == "Huffman" => {
                assert!(theirs.decode(block).is_err(), "{error}");
                return;
            }
            Err(_) => return,
        }
    }
}

/// Reads arbitrary bytes as Huffman code and as text.
///
/// # Panics
/// If the other library decodes differently, or encoding and decoding do not return the text.
pub fn run_huffman(input: &[u8]) {
    thread_local! {
        /// Building its table takes longer than decoding any input.
        static THEIRS: RefCell<HuffmanDecoder> = RefCell::new(HuffmanDecoder::new());
    }
    let theirs = THEIRS.with_borrow_mut(|decoder| decoder.decode(input).ok());
    assert_eq!(huffman_decode(input), theirs);
    assert_eq!(huffman_decode(&huffman_encode(input)).as_deref(), Some(input));
}
