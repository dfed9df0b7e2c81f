//! The reader of header blocks, with a cache of templates that makes decoding cheap.
//!
//! A million pushes of one alert differ in the value of `:path` (APNs), or not at all (FCM, where
//! the token is in the body). If a block leaves the dynamic table unchanged and has its path as a
//! literal outside that table, then all other bytes keep their meaning for as long as the table
//! does not change ([`super::hpack`] has the argument). So the cache holds the bytes before and
//! after the path with their meaning, or the whole block where the path is constant. The first
//! block that changes the table clears the cache. The age and the binding of credentials depend on
//! time and connection, so they are checked each time.

use std::sync::Arc;

use super::{
    answer::Reason,
    apns::{
        self,
        auth::{self, Key, Verified},
        request::{AppleFields, Path},
    },
    fcm,
    fields::Fields,
    hpack::{self, Decoder, HpackError, PathValue, Representation},
    policy::{Policy, Provider},
};

/// Longest header list, bytes; a longer one ends the connection. Announced as
/// SETTINGS_MAX_HEADER_LIST_SIZE, as Apple does.
pub const LIST_BYTES_MAX: usize = 8_000;
/// Number of templates in a connection's cache: alerts times locales in flight. Each has at most 16
/// KiB.
const TEMPLATES_MAX: usize = 8;
/// Number of provider tokens whose verification a connection caches.
const TOKENS_MAX: usize = 4;

/// Head of one request.
#[derive(Debug, Clone)]
pub struct Head {
    /// Length of the body that the client announced.
    pub content_length: Option<u64>,
    /// Longest part of the body that is read, bytes.
    pub body_bytes_max: usize,
    /// Content of the head that concerns the provider.
    pub ask: Ask,
}

/// Content of a request's head for one provider.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A push to APNs.
    Apns(apns::request::Ask),
    /// A message to FCM.
    Fcm(Arc<fcm::request::Ask>),
}

/// Result of decoding a header block.
#[derive(Debug)]
pub enum Read {
    /// A complete request head.
    Request(Head),
    /// The block is not a valid HTTP/2 request, so the stream is reset.
    Malformed,
}

struct Template {
    before: Box<[u8]>,
    /// Bytes after the path; `None` if `before` is the whole block.
    after: Option<Box<[u8]>>,
    head: Head,
}

/// Size of the dynamic table and its limit, bytes.
#[derive(Debug)]
struct Table {
    size: u32,
    limit: u32,
}

impl Default for Table {
    fn default() -> Self {
        Self { size: hpack::TABLE_BYTES, limit: hpack::TABLE_BYTES }
    }
}

/// Reader of a connection's header blocks.
#[derive(Default)]
pub struct Reader {
    decoder: Decoder,
    representations: Vec<Representation>,
    templates: Vec<Template>,
    table: Table,
    tokens: Vec<(Vec<u8>, Result<Verified, Reason>)>,
}

impl Reader {
    /// Decodes the header block of a request.
    ///
    /// # Errors
    /// If the dynamic tables of both sides no longer agree, so that the connection must end.
    pub fn read(&mut self, block: &[u8], policy: &Policy) -> Result<Read, HpackError> {
        if self.table.size <= self.table.limit
            && let Some((template, path)) = self.template(block)
        {
            let mut head = self.templates[template].head.clone();
            self.templates.swap(0, template);
            if let (Ask::Apns(ask), Some(path)) = (&mut head.ask, path) {
                ask.path = self.path(block, &path)?;
            }
            return Ok(Read::Request(head));
        }
        self.read_new(block, policy)
    }

    /// Clears the caches of blocks and credentials. The dynamic table stays.
    pub fn forget(&mut self) {
        self.templates.clear();
        self.tokens.clear();
    }

    /// Decodes a block whose fields are ignored (trailers, ignored streams), to keep the dynamic
    /// table in step.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn skip(&mut self, block: &[u8]) -> Result<(), HpackError> {
        self.walk(block)?;
        self.decoder.decode(block, &self.representations, LIST_BYTES_MAX, |_, _| {})
    }

    /// Limits the client's dynamic table. If the table is larger, the next block must shrink it
    /// (RFC 7541, section 4.2).
    pub fn limit_table(&mut self, bytes: u32) {
        self.table.limit = bytes;
    }

    fn read_new(&mut self, block: &[u8], policy: &Policy) -> Result<Read, HpackError> {
        self.walk(block)?;
        let mut fields = Fields::default();
        let (mut apple, mut google) =
            (AppleFields::default(), fcm::request::GoogleFields::default());
        self.decoder.decode(block, &self.representations, LIST_BYTES_MAX, |name, value| {
            if !fields.add(name, value) {
                match &policy.provider {
                    Provider::Apns(_) => apple.add(name, value),
                    Provider::Fcm(_) => google.add(name, value),
                }
            }
        })?;
        let (Some(path), false) = (&fields.path, fields.is_malformed()) else {
            return Ok(Read::Malformed);
        };
        let (body_bytes_max, ask) = match &policy.provider {
            Provider::Apns(policy) => {
                let authorization = self.verify(fields.authorization.as_deref(), &policy.keys);
                let rest = Arc::new(apple.read(&fields, &policy.topics, authorization));
                (
                    apple.payload_bytes_max(),
                    Ask::Apns(apns::request::Ask { rest, path: Path::read(path) }),
                )
            }
            Provider::Fcm(policy) => (
                fcm::request::BODY_BYTES_MAX,
                Ask::Fcm(Arc::new(google.read(&fields, path, policy))),
            ),
        };
        let head = Head { content_length: fields.content_length(), body_bytes_max, ask };
        if !self.representations.iter().any(|r| r.changes_table) {
            self.remember(block, &head);
        }
        Ok(Read::Request(head))
    }

    fn remember(&mut self, block: &[u8], head: &Head) {
        let (before, after) = match &head.ask {
            Ask::Fcm(_) => (block, None),
            Ask::Apns(_) => match self.representations.iter().find(|r| r.path.is_some()) {
                Some(cut) => (&block[..cut.bytes.start], Some(block[cut.bytes.end..].into())),
                None => return,
            },
        };
        self.templates.truncate(TEMPLATES_MAX - 1);
        self.templates.insert(0, Template { before: before.into(), after, head: head.clone() });
    }

    /// Returns the index of the matching template, and the path between its halves.
    fn template(&self, block: &[u8]) -> Option<(usize, Option<Representation>)> {
        self.templates.iter().enumerate().find_map(|(i, t)| {
            let Some(after) = &t.after else { return (*block == *t.before).then_some((i, None)) };
            let path =
                block.starts_with(&t.before).then(|| hpack::path_at(block, t.before.len()))??;
            (block[path.bytes.end..] == **after).then_some((i, Some(path)))
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
        let (size, limit) = (&mut self.table.size, self.table.limit);
        let mut shrunk = *size <= limit;
        for update in self.representations.iter().filter_map(|r| r.resizes) {
            shrunk |= update <= limit;
            *size = update;
        }
        if !shrunk || *size > limit {
            return Err(HpackError::TableTooLarge);
        }
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
    use super::{super::config::GatewayConfig, *};

    const METHOD_POST: u8 = 0x83;
    const SCHEME_HTTPS: u8 = 0x87;

    fn literal(first: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first, u8::try_from(value.len()).expect("short")];
        bytes.extend_from_slice(value);
        bytes
    }

    fn policy(topics: &[&str]) -> Policy {
        let topics = topics.iter().map(|&t| t.to_owned()).collect();
        GatewayConfig { topics, ..GatewayConfig::default() }.policy().expect("a good configuration")
    }

    fn path_of(read: Result<Read, HpackError>) -> Path {
        match read {
            Ok(Read::Request(Head { ask: Ask::Apns(ask), .. })) => ask.path,
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
        let of =
            |path: &[u8]| block(&[&[METHOD_POST, SCHEME_HTTPS], &literal(0x04, path), &authority]);
        assert_eq!(
            path_of(reader.read(&of(b"/3/device/ab"), &policy(&[]))),
            Path::read(b"/3/device/ab")
        );
        assert_eq!(reader.templates.len(), 1);
        assert_eq!(
            path_of(reader.read(&of(b"/3/device/cdef"), &policy(&[]))),
            Path::read(b"/3/device/cdef")
        );
        assert_eq!(path_of(reader.read(&of(b"/x"), &policy(&[]))), Path::Bad);
        assert_eq!(reader.templates.len(), 1, "all of them by the first");
    }

    #[test]
    fn a_changed_table_drops_the_templates() {
        let mut reader = Reader::default();
        let topic = [literal(0x40, b"apns-topic"), literal(1, b"a")[1..].to_vec()].concat();
        let head = [METHOD_POST, SCHEME_HTTPS];
        let path = literal(0x04, b"/3/device/ab");
        let host = literal(0x01, b"h");
        reader.read(&block(&[&head, &path, &host, &topic]), &policy(&["a"])).expect("decodes");
        assert!(reader.templates.is_empty(), "it changed the table");
        let by_index = block(&[&head, &path, &host, &[0xbe]]);
        let fault = |reader: &mut Reader| match reader.read(&by_index, &policy(&["a"])) {
            Ok(Read::Request(Head { ask: Ask::Apns(ask), .. })) => ask.rest.header_fault,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(&mut reader), None);
        assert_eq!(reader.templates.len(), 1);
        // Now entry 62 is another topic, and the same bytes refer to that topic.
        let other = [literal(0x40, b"apns-topic"), literal(1, b"b")[1..].to_vec()].concat();
        reader.skip(&other).expect("decodes");
        assert_eq!(fault(&mut reader), Some(Reason::TopicDisallowed));
    }
}
