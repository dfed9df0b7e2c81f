//! From a header block to what a request asks, and the cache that makes this cheap.
//!
//! A million pushes of one alert differ in the value of `:path`. If a block leaves the dynamic table alone and holds its path
//! as a literal outside that table, then everything else in it means what the same bytes meant before, for as long as the
//! table has not changed ([`super::hpack`] has the argument). So the bytes before and after the path are kept with what they
//! meant, and dropped at the first block that changes the table. Age and binding of the provider token depend on time and
//! connection, and are asked anew each time.

use std::sync::Arc;

use super::{
    answer::{Reason, Uuid},
    auth::{self, Key, Verified},
    hpack::{self, Decoder, HpackError, PathValue, Representation},
    policy::{Fields, Path},
};

/// Header lists above this end the connection; announced as SETTINGS_MAX_HEADER_LIST_SIZE, as Apple does.
pub const LIST_BYTES_MAX: usize = 8_000;
/// Templates kept for a connection: alerts times locales in flight. At most 16 KiB each.
const TEMPLATES_MAX: usize = 8;
/// Provider tokens whose verification is remembered.
const TOKENS_MAX: usize = 4;

/// What a header block says, its path apart. `None`s are absent or wrong, as the faults tell.
#[derive(Debug)]
pub struct Rest {
    /// What is wrong before authorization is looked at.
    pub method_fault: Option<Reason>,
    /// Who asks.
    pub authorization: Result<Verified, Reason>,
    /// What is wrong after authorization was looked at.
    pub header_fault: Option<Reason>,
    /// To be echoed.
    pub apns_id: Option<Uuid>,
    /// For the record.
    pub collapse_hash: u64,
    /// Of this push type.
    pub payload_bytes_max: usize,
    /// Announced length of the body.
    pub content_length: Option<u64>,
}

/// A request's head.
#[derive(Debug, Clone)]
pub struct Head {
    /// All but the path.
    pub rest: Arc<Rest>,
    /// The path.
    pub path: Path,
}

/// What a header block turned out to be.
#[derive(Debug)]
pub enum Read {
    /// A request.
    Request(Head),
    /// No HTTP/2 request: the stream is reset.
    Malformed,
}

struct Template {
    before: Box<[u8]>,
    after: Box<[u8]>,
    rest: Arc<Rest>,
}

/// A connection's reader of header blocks.
#[derive(Default)]
pub struct Reader {
    decoder: Decoder,
    representations: Vec<Representation>,
    templates: Vec<Template>,
    tokens: Vec<(Vec<u8>, Result<Verified, Reason>)>,
}

impl Reader {
    /// Reads a request's block.
    ///
    /// # Errors
    /// If the tables of both sides can no longer agree: the connection must end.
    pub fn read(&mut self, block: &[u8], keys: &[Key], topics: &[String]) -> Result<Read, HpackError> {
        if let Some((template, representation)) = self.template(block) {
            let rest = Arc::clone(&self.templates[template].rest);
            self.templates.swap(0, template);
            return Ok(Read::Request(Head { rest, path: self.path(block, &representation)? }));
        }
        self.read_new(block, keys, topics)
    }

    /// Decodes a block whose fields mean nothing (trailers, ignored streams), to keep the table in step.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn skip(&mut self, block: &[u8]) -> Result<(), HpackError> {
        self.walk(block)?;
        self.decoder.decode(block, &self.representations, LIST_BYTES_MAX, |_, _| {})
    }

    fn read_new(&mut self, block: &[u8], keys: &[Key], topics: &[String]) -> Result<Read, HpackError> {
        self.walk(block)?;
        let mut fields = Fields::default();
        self.decoder.decode(block, &self.representations, LIST_BYTES_MAX, |n, v| fields.add(n, v))?;
        let (Some(path), false) = (&fields.path, fields.is_malformed()) else {
            return Ok(Read::Malformed);
        };
        let path = Path::read(path);
        let rest = Arc::new(Rest {
            method_fault: fields.method_fault(),
            authorization: self.verify(fields.authorization.as_deref(), keys),
            header_fault: fields.header_fault(topics),
            apns_id: fields.apns_id(),
            collapse_hash: fields.collapse_hash(),
            payload_bytes_max: fields.payload_bytes_max(),
            content_length: fields.content_length(),
        });
        if let Some(cut) = self.representations.iter().find(|r| r.path.is_some())
            && !self.representations.iter().any(|r| r.changes_table)
        {
            self.templates.truncate(TEMPLATES_MAX - 1);
            let (before, after) = (block[..cut.bytes.start].into(), block[cut.bytes.end..].into());
            self.templates.insert(0, Template { before, after, rest: Arc::clone(&rest) });
        }
        Ok(Read::Request(Head { rest, path }))
    }

    /// The template that fits, and the path between its halves.
    fn template(&self, block: &[u8]) -> Option<(usize, Representation)> {
        self.templates.iter().enumerate().find_map(|(i, t)| {
            let path = block.starts_with(&t.before).then(|| hpack::path_at(block, t.before.len()))??;
            (block[path.bytes.end..] == *t.after).then_some((i, path))
        })
    }

    fn path(&mut self, block: &[u8], representation: &Representation) -> Result<Path, HpackError> {
        if let Some(PathValue::Raw(value)) = &representation.path {
            return Ok(Path::read(&block[value.clone()]));
        }
        let mut path = Path::Bad;
        let one = std::slice::from_ref(representation);
        self.decoder.decode(block, one, LIST_BYTES_MAX, |_, value| path = Path::read(value))?;
        Ok(path)
    }

    fn walk(&mut self, block: &[u8]) -> Result<(), HpackError> {
        self.representations.clear();
        hpack::walk(block, |r| self.representations.push(r))?;
        if self.representations.iter().any(|r| r.changes_table) {
            self.templates.clear();
        }
        Ok(())
    }

    fn verify(&mut self, value: Option<&[u8]>, keys: &[Key]) -> Result<Verified, Reason> {
        let value = value.ok_or(Reason::MissingProviderToken)?;
        if let Some((_, outcome)) = self.tokens.iter().find(|(known, _)| known == value) {
            return *outcome;
        }
        let outcome = auth::verify(value, keys);
        self.tokens.truncate(TOKENS_MAX - 1);
        self.tokens.insert(0, (value.to_vec(), outcome));
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD_POST: u8 = 0x83;
    const SCHEME_HTTPS: u8 = 0x87;

    fn literal(first: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first, u8::try_from(value.len()).expect("short")];
        bytes.extend_from_slice(value);
        bytes
    }

    fn path_of(read: Result<Read, HpackError>) -> Path {
        match read {
            Ok(Read::Request(head)) => head.path,
            other => panic!("{other:?}"),
        }
    }

    fn block(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn a_template_gives_what_decoding_gives() {
        let mut reader = Reader::default();
        let authority = literal(0x01, b"host");
        let of = |path: &[u8]| block(&[&[METHOD_POST, SCHEME_HTTPS], &literal(0x04, path), &authority]);
        assert_eq!(path_of(reader.read(&of(b"/3/device/ab"), &[], &[])), Path::read(b"/3/device/ab"));
        assert_eq!(reader.templates.len(), 1);
        assert_eq!(path_of(reader.read(&of(b"/3/device/cdef"), &[], &[])), Path::read(b"/3/device/cdef"));
        assert_eq!(path_of(reader.read(&of(b"/x"), &[], &[])), Path::Bad);
        assert_eq!(reader.templates.len(), 1, "all of them by the first");
    }

    #[test]
    fn a_changed_table_drops_the_templates() {
        let mut reader = Reader::default();
        let topic = [literal(0x40, b"apns-topic"), literal(1, b"a")[1..].to_vec()].concat();
        let head = [METHOD_POST, SCHEME_HTTPS];
        let path = literal(0x04, b"/3/device/ab");
        let host = literal(0x01, b"h");
        reader.read(&block(&[&head, &path, &host, &topic]), &[], &["a".to_owned()]).expect("decodes");
        assert!(reader.templates.is_empty(), "it changed the table");
        let by_index = block(&[&head, &path, &host, &[0xbe]]);
        let fault = |reader: &mut Reader| match reader.read(&by_index, &[], &["a".to_owned()]) {
            Ok(Read::Request(head)) => head.rest.header_fault,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(&mut reader), None);
        assert_eq!(reader.templates.len(), 1);
        // Now entry 62 is another topic, and the same bytes mean it.
        let other = [literal(0x40, b"apns-topic"), literal(1, b"b")[1..].to_vec()].concat();
        reader.skip(&other).expect("decodes");
        assert_eq!(fault(&mut reader), Some(Reason::TopicDisallowed));
    }
}
