//! Requests as blocks of bytes with a hole for the token.
//!
//! The pushes of one message differ in the token and in the stream id. So HEADERS and DATA are written once, and a
//! push copies them: a head (frame header, fields before the token), the token in hexadecimal, and a tail (remaining
//! fields, frame header, body). For a body of 257 bytes that is two copies and 64 digits, some 25 ns
//!. A template holds a copy of the body, so that the tail is in one piece: the core that numbers
//! templates bounds their memory by forgetting those of waves that ended.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::{
    frames::{self, HEADER_BYTES, PAYLOAD_BYTES_MAX, flag, kind},
    hpack::{self, encode::Encoder},
    spec::{PushError, TemplateSpec},
};
use crate::lane::apns;

/// All templates of a connection, by number.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    /// Sorted by number.
    all: Vec<Template>,
    /// Where the last one asked for is: pushes come in runs.
    last: usize,
    body_bytes_max: usize,
}

impl Templates {
    /// The largest body of all: what a push of any template may need of the windows.
    pub(crate) fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// The template, if it was made and not forgotten.
    pub(crate) fn get(&mut self, number: u32) -> Option<&mut Template> {
        if self.all.get(self.last).is_none_or(|t| t.number != number) {
            self.last = self.all.binary_search_by_key(&number, |t| t.number).ok()?;
        }
        self.all.get_mut(self.last)
    }

    /// Adds it or replaces the earlier one of its number.
    pub(crate) fn put(&mut self, template: Template) -> &mut Template {
        self.body_bytes_max = self.body_bytes_max.max(template.body_bytes);
        self.last = match self.all.binary_search_by_key(&template.number, |t| t.number) {
            Ok(at) => {
                self.all[at] = template;
                at
            }
            Err(at) => {
                self.all.insert(at, template);
                at
            }
        };
        &mut self.all[self.last]
    }

    pub(crate) fn forget(&mut self, number: u32) {
        self.all.retain(|t| t.number != number);
        self.body_bytes_max = self.all.iter().map(|t| t.body_bytes).max().unwrap_or(0);
    }
}

/// One message's requests, for one state of the header table.
#[derive(Debug)]
pub(crate) struct Template {
    number: u32,
    /// Of the encoder; another one means: make it anew. 0 never matches.
    pub(crate) version: u32,
    /// Fields before the value of `:path`.
    before: Box<[u8]>,
    /// HEADERS' frame header, `before`, the length of `:path`, its beginning; for tokens of `head_token_bytes`.
    head: Vec<u8>,
    head_token_bytes: usize,
    /// Fields after `:path`; then DATA's frame header and the body, if they fit one frame. Holds the credential.
    tail: Zeroizing<Vec<u8>>,
    fields_after_bytes: usize,
    pub(crate) body_bytes: usize,
    /// As RFC 9113 counts it (10.5.1), without the token.
    pub(crate) header_list_bytes: usize,
}

impl Template {
    /// Writes the template of a message as of now. If that changes the header table, the bytes are good for one
    /// request only, and the version is 0.
    ///
    /// # Errors
    /// The alert's headers cannot be sent; the encoder is as before.
    pub(crate) fn new(
        number: u32,
        spec: &TemplateSpec,
        authority: &str,
        authorization: &str,
        authorization_indexed: bool,
        encoder: &mut Encoder,
        header_list_max: usize,
    ) -> Result<Self, PushError> {
        let fields = apns::fields(&spec.headers, authorization, authorization_indexed);
        if let Some(bad) = fields.iter().find(|f| !apns::is_field_value(&f.value)) {
            return Err(PushError::Header(bad.name));
        }
        if !apns::is_field_value(authority) {
            return Err(PushError::Header(":authority"));
        }
        let pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", authority), (":path", apns::PATH)];
        let header_list_bytes = pseudo.iter().map(|(n, v)| hpack::entry_size(n, v.len())).sum::<usize>()
            + fields.iter().map(|f| hpack::entry_size(f.name, f.value.len())).sum::<usize>();
        if header_list_bytes > header_list_max {
            return Err(PushError::HeaderListTooLarge);
        }

        let version = encoder.version();
        let mut before = Vec::new();
        encoder.begin(&mut before);
        for (name, value) in &pseudo[..3] {
            encoder.field(&mut before, name, value, hpack::encode::Indexing::Value, false);
        }
        // `:path` as a literal without indexing, its name being entry 4 of the static table. The digits are not
        // Huffman-coded: that would save 22 of some 360 bytes and cost more time than writing those.
        before.push(0x04);
        let mut tail = Zeroizing::new(Vec::with_capacity(1_024 + spec.body.len()));
        for field in &fields {
            encoder.field(&mut tail, field.name, &field.value, field.indexing, field.secret);
        }
        let fields_after_bytes = tail.len();
        if spec.body.len() <= PAYLOAD_BYTES_MAX {
            frames::put(&mut tail, kind::DATA, flag::END_STREAM, 0, &spec.body);
        }
        Ok(Self {
            number,
            version: if encoder.version() == version { version } else { 0 },
            before: before.into_boxed_slice(),
            head: Vec::new(),
            head_token_bytes: 0,
            tail,
            fields_after_bytes,
            body_bytes: spec.body.len(),
            header_list_bytes,
        })
    }

    /// Whether [`Self::put`] can write requests with tokens of this length: both frames are single ones.
    pub(crate) fn is_plain(&self, token_bytes: usize) -> bool {
        self.body_bytes <= PAYLOAD_BYTES_MAX && self.block_bytes(token_bytes) <= PAYLOAD_BYTES_MAX
    }

    /// Appends a whole request: the hot path.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, id: u32, token: &[u8]) {
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

    /// Appends the header block alone, in as many frames as it takes; the body is the windows' business.
    pub(crate) fn put_headers(&mut self, out: &mut Vec<u8>, id: u32, token: &[u8]) {
        let mut block = Zeroizing::new(Vec::with_capacity(self.block_bytes(token.len())));
        block.extend_from_slice(&self.before);
        self.put_path(&mut block, token.len());
        put_hex(&mut block, token);
        block.extend_from_slice(&self.tail[..self.fields_after_bytes]);
        frames::put_block(out, id, &block);
    }

    fn make_head(&mut self, token_bytes: usize) {
        let length = self.block_bytes(token_bytes);
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        head.extend_from_slice(&frames::header(length, kind::HEADERS, flag::END_HEADERS, 0));
        head.extend_from_slice(&self.before);
        self.put_path(&mut head, token_bytes);
        self.head = head;
        self.head_token_bytes = token_bytes;
    }

    /// The length of `:path` and what stands in it before the token.
    fn put_path(&self, out: &mut Vec<u8>, token_bytes: usize) {
        hpack::put_integer(out, 0, 7, apns::PATH.len() + 2 * token_bytes);
        out.extend_from_slice(apns::PATH.as_bytes());
    }

    fn block_bytes(&self, token_bytes: usize) -> usize {
        let path = apns::PATH.len() + 2 * token_bytes;
        // A string's length takes one byte below 127, two below 255, three up to 16,510 (RFC 7541, 5.1).
        let path_length_bytes = match path {
            0..127 => 1,
            127..255 => 2,
            _ => 3,
        };
        self.before.len() + path_length_bytes + path + self.fields_after_bytes
    }
}

/// A template with its body, for requests that do not go out in one piece.
pub(crate) fn put_in_pieces(
    template: &mut Template,
    body: &Bytes,
    windows: &mut super::flow::SendWindows,
    out: &mut Vec<u8>,
    id: u32,
    token: &[u8],
) {
    template.put_headers(out, id, token);
    windows.begin(out, id, body);
}

/// Appends lower-case hexadecimal digits, as Apple writes tokens. Plain arithmetic, which the compiler turns into
/// vector instructions.
fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let at = out.len();
    out.resize(at + 2 * bytes.len(), 0);
    let digit = |nibble: u8| nibble + b'0' + if nibble > 9 { b'a' - b'0' - 10 } else { 0 };
    for (pair, byte) in out[at..].chunks_exact_mut(2).zip(bytes) {
        pair[0] = digit(byte >> 4);
        pair[1] = digit(byte & 15);
    }
}
