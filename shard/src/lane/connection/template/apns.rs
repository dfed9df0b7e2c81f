//! Templates of APNs: the token in `:path`, in hexadecimal digits.

use zeroize::Zeroizing;

use super::{HEADER_BYTES, PAYLOAD_BYTES_MAX, Parts, flag, frames, hpack, kind};
use crate::lane::{
    connection::hpack::encode::Encoder,
    provider::{apns::PATH, field::Indexing},
};

#[derive(Debug, Default)]
pub(super) struct Form {
    /// Fields before the value of `:path`.
    before: Vec<u8>,
    /// Frame header of HEADERS, `before`, the length of `:path` and its beginning, for tokens of
    /// `head_token_bytes`.
    head: Vec<u8>,
    head_token_bytes: usize,
    /// Fields after `:path`, then the frame header of DATA and the body, if they fit one frame.
    /// Contains the credential.
    tail: Zeroizing<Vec<u8>>,
    fields_after_bytes: usize,
    pub(super) body_bytes: usize,
}

impl Form {
    pub(super) fn write(&mut self, request: &Parts<'_>, encoder: &mut Encoder) {
        encoder.begin(&mut self.before);
        for (name, value) in &request.pseudo[..3] {
            encoder.field(&mut self.before, name, value, Indexing::Value, false);
        }
        // `:path` as a literal without indexing, with entry 4 of the static table as its name. The
        // digits are not Huffman coded: that would save 22 of some 360 bytes and cost more time
        // than writing those.
        self.before.push(0x04);
        self.tail.reserve(1_024 + request.body.len());
        for field in request.fields {
            encoder.field(&mut self.tail, field.name, &field.value, field.indexing, field.secret);
        }
        self.fields_after_bytes = self.tail.len();
        self.body_bytes = request.body.len();
        if self.body_bytes <= PAYLOAD_BYTES_MAX {
            frames::put(&mut self.tail, kind::DATA, flag::END_STREAM, 0, request.body);
        }
    }

    /// Appends a complete request: the hot path.
    pub(super) fn put(&mut self, out: &mut Vec<u8>, id: u32, token: &[u8]) {
        if token.len() != self.head_token_bytes {
            self.make_head(token.len());
        }
        let id = id.to_be_bytes();
        let at = out.len();
        out.reserve(self.head.len() + 2 * token.len() + self.tail.len());
        out.extend_from_slice(&self.head);
        out[at + 5..at + HEADER_BYTES].copy_from_slice(&id);
        put_hex(out, token);
        let data = out.len() + self.fields_after_bytes;
        out.extend_from_slice(&self.tail);
        out[data + 5..data + HEADER_BYTES].copy_from_slice(&id);
    }

    /// Appends the header block alone, in as many frames as necessary. The caller sends the body
    /// within the windows.
    pub(super) fn put_headers(&self, out: &mut Vec<u8>, id: u32, token: &[u8]) {
        let mut block = Zeroizing::new(Vec::with_capacity(self.block_bytes(token.len())));
        block.extend_from_slice(&self.before);
        put_path(&mut block, token.len());
        put_hex(&mut block, token);
        block.extend_from_slice(&self.tail[..self.fields_after_bytes]);
        frames::put_block(out, id, &block);
    }

    pub(super) fn block_bytes(&self, token_bytes: usize) -> usize {
        let path = PATH.len() + 2 * token_bytes;
        // A string's length takes one byte below 127, two below 255, three up to 16,510 (RFC 7541,
        // 5.1).
        let path_length_bytes = match path {
            0..127 => 1,
            127..255 => 2,
            _ => 3,
        };
        self.before.len() + path_length_bytes + path + self.fields_after_bytes
    }

    fn make_head(&mut self, token_bytes: usize) {
        let length = self.block_bytes(token_bytes);
        self.head.clear();
        self.head.extend_from_slice(&frames::header(length, kind::HEADERS, flag::END_HEADERS, 0));
        self.head.extend_from_slice(&self.before);
        put_path(&mut self.head, token_bytes);
        self.head_token_bytes = token_bytes;
    }
}

/// Appends the length of `:path` and its bytes before the token.
fn put_path(out: &mut Vec<u8>, token_bytes: usize) {
    hpack::put_integer(out, 0, 7, PATH.len() + 2 * token_bytes);
    out.extend_from_slice(PATH.as_bytes());
}

/// Appends lower-case hexadecimal digits, as Apple writes tokens. It is plain arithmetic, which the
/// compiler turns into vector instructions. The cost is the wait for the token's bytes, unless the
/// walk has loaded them.
fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let at = out.len();
    out.resize(at + 2 * bytes.len(), 0);
    let digit = |nibble: u8| nibble + b'0' + if nibble > 9 { b'a' - b'0' - 10 } else { 0 };
    for (pair, byte) in out[at..].chunks_exact_mut(2).zip(bytes) {
        pair[0] = digit(byte >> 4);
        pair[1] = digit(byte & 15);
    }
}
