//! Templates of FCM: the token in the body, unchanged. The header block is the same for all
//! devices; only the length of DATA depends on the token.

use zeroize::Zeroizing;

use super::{HEADER_BYTES, PAYLOAD_BYTES_MAX, Parts, flag, frames, kind};
use crate::lane::{connection::hpack::encode::Encoder, provider::field::Indexing};

#[derive(Debug, Default)]
pub(super) struct Form {
    /// HEADERS, the frame header of DATA, and the body up to the token. Contains the credential.
    head: Zeroizing<Vec<u8>>,
    /// Offset in `head` at which DATA begins.
    data: usize,
    /// Body after the token.
    tail: Vec<u8>,
    /// Length of the body without the token, bytes.
    pub(super) body_bytes: usize,
}

impl Form {
    pub(super) fn write(&mut self, request: &Parts<'_>, encoder: &mut Encoder) {
        // Capacity for the longest, so that no reallocation leaves a copy of the credential. It is
        // shrunk afterwards, because each connection has one for each message.
        let mut head = Zeroizing::new(Vec::with_capacity(4_096 + request.body.len()));
        head.extend_from_slice(&[0; HEADER_BYTES]);
        encoder.begin(&mut head);
        for (name, value) in request.pseudo {
            encoder.field(&mut head, name, value, Indexing::Value, false);
        }
        for field in request.fields {
            encoder.field(&mut head, field.name, &field.value, field.indexing, field.secret);
        }
        self.data = head.len();
        // Blocks beyond a frame are sent in pieces, and then this header is not used.
        let length = (self.data - HEADER_BYTES).min(PAYLOAD_BYTES_MAX);
        head[..HEADER_BYTES].copy_from_slice(&frames::header(
            length,
            kind::HEADERS,
            flag::END_HEADERS,
            0,
        ));
        head.extend_from_slice(&frames::header(0, kind::DATA, flag::END_STREAM, 0));
        head.extend_from_slice(request.body);
        self.head = Zeroizing::new(head.as_slice().to_vec());
        self.tail = request.after.to_vec();
        self.body_bytes = request.body.len() + request.after.len();
    }

    /// Returns the bytes of the header block.
    pub(super) fn block(&self) -> &[u8] {
        &self.head[HEADER_BYTES..self.data]
    }

    /// Appends a complete request: the hot path.
    pub(super) fn put(&self, out: &mut Vec<u8>, id: u32, token: &[u8]) {
        let id = id.to_be_bytes();
        #[allow(clippy::cast_possible_truncation)]
        // Three bytes: at most a frame, which the caller has checked.
        let [_, length @ ..] = ((self.body_bytes + token.len()) as u32).to_be_bytes();
        let (at, data) = (out.len(), out.len() + self.data);
        out.reserve(self.head.len() + token.len() + self.tail.len());
        out.extend_from_slice(&self.head);
        out[at + 5..at + HEADER_BYTES].copy_from_slice(&id);
        out[data..data + 3].copy_from_slice(&length);
        out[data + 5..data + HEADER_BYTES].copy_from_slice(&id);
        out.extend_from_slice(token);
        out.extend_from_slice(&self.tail);
    }
}
