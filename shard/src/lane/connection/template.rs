//! Request templates: blocks of bytes with a gap for the token.
//!
//! The pushes of one message differ in the token and in the stream id. So HEADERS and DATA are
//! written once, and a push copies them: the bytes before the token, the token, and the bytes after
//! it. For a body of 257 bytes these are two copies and the token, some 25 ns. The place of the gap
//! differs: APNs has the token in `:path` ([`apns`]), FCM in the body ([`fcm`]), where it changes
//! the length of the frame. A template holds a copy of the body, so that the bytes on each side of
//! the gap are contiguous: the core that numbers templates bounds their memory by dropping the
//! templates of waves that ended.

mod apns;
mod fcm;

use bytes::Bytes;

use super::{
    frames::{self, HEADER_BYTES, PAYLOAD_BYTES_MAX, flag, kind},
    hpack::{self, encode::Encoder},
    spec::{PushError, TemplateSpec},
};
use crate::lane::provider::{
    self,
    field::{Field, is_field_value},
    request::Request,
};

/// What a token of FCM is reckoned until one was seen: no longer one has been (firebasex#581,
/// fcm-django#131).
const FCM_TOKEN_BYTES: usize = 163;

/// All templates of a connection, by number.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    /// Templates, sorted by number.
    all: Vec<Template>,
    /// Where the last one asked for is: pushes come in runs.
    last: usize,
    body_bytes_max: usize,
}

impl Templates {
    /// The largest body of all: what a push of any template is reckoned to need of the windows.
    pub(crate) fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// A body of this size was pushed.
    pub(crate) fn note_body(&mut self, bytes: usize) {
        self.body_bytes_max = self.body_bytes_max.max(bytes);
    }

    /// The template, if it was made and not forgotten.
    pub(crate) fn get(&mut self, number: u32) -> Option<&mut Template> {
        if self.all.get(self.last).is_none_or(|t| t.number != number) {
            self.last = self.all.binary_search_by_key(&number, |t| t.number).ok()?;
        }
        self.all.get_mut(self.last)
    }

    /// Adds a template, or replaces the one with its number.
    pub(crate) fn put(&mut self, template: Template) -> &mut Template {
        self.note_body(template.body_bytes(FCM_TOKEN_BYTES));
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
        self.body_bytes_max =
            self.all.iter().map(|t| t.body_bytes(FCM_TOKEN_BYTES)).max().unwrap_or(0);
    }
}

/// One message's requests, for one state of the header table.
#[derive(Debug)]
pub(crate) struct Template {
    number: u32,
    /// Of the encoder; another one means: make it anew. 0 never matches.
    pub(crate) version: u32,
    /// As RFC 9113 counts it (10.5.1), without the token.
    header_list_bytes: usize,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Apns(apns::Form),
    Fcm(fcm::Form),
}

impl Template {
    /// Writes the template of a message as of now. If that changes the header table, the bytes are
    /// good for one request only, and the version is 0.
    ///
    /// # Errors
    /// The alert's headers cannot be sent, or not with a token of this length; the encoder is as
    /// before.
    #[allow(clippy::too_many_arguments)] // all that a request is made of
    pub(crate) fn new(
        number: u32,
        spec: &TemplateSpec,
        authority: &str,
        authorization: &str,
        authorization_indexed: bool,
        encoder: &mut Encoder,
        token_bytes: usize,
        header_list_max: usize,
    ) -> Result<Self, PushError> {
        let (path, fields) = match &spec.request {
            Request::Apns(headers) => (
                provider::apns::PATH.into(),
                provider::apns::fields(headers, authorization, authorization_indexed),
            ),
            Request::Fcm { project } => (
                provider::fcm::path(project),
                provider::fcm::fields(authorization, authorization_indexed),
            ),
        };
        let pseudo = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", authority),
            (":path", &path),
        ];
        let all = || pseudo.iter().copied().chain(fields.iter().map(|f| (f.name, &*f.value)));
        if let Some((name, _)) = all().find(|(_, value)| !is_field_value(value)) {
            return Err(PushError::Header(name));
        }
        let header_list_bytes =
            all().map(|(name, value)| hpack::entry_size(name, value.len())).sum();
        let version = encoder.version();
        let request = Parts {
            pseudo: &pseudo,
            fields: &fields,
            body: &spec.body,
            after: &spec.body_after_token,
        };
        let mut template =
            Self { number, version: 0, header_list_bytes, form: Form::of(&spec.request) };
        if template.header_list_bytes(token_bytes) > header_list_max {
            return Err(PushError::HeaderListTooLarge);
        }
        match &mut template.form {
            Form::Apns(form) => form.write(&request, encoder),
            Form::Fcm(form) => form.write(&request, encoder),
        }
        if encoder.version() == version {
            template.version = version;
        }
        Ok(template)
    }

    /// Size of the header list with a token of this length, bytes.
    pub(crate) fn header_list_bytes(&self, token_bytes: usize) -> usize {
        match self.form {
            Form::Apns(_) => self.header_list_bytes + 2 * token_bytes,
            Form::Fcm(_) => self.header_list_bytes,
        }
    }

    /// Size of the body with a token of this length, bytes.
    pub(crate) fn body_bytes(&self, token_bytes: usize) -> usize {
        match &self.form {
            Form::Apns(form) => form.body_bytes,
            Form::Fcm(form) => form.body_bytes + token_bytes,
        }
    }

    /// Whether [`Self::put`] can write requests with tokens of this length: both frames are single
    /// ones.
    pub(crate) fn is_plain(&self, token_bytes: usize) -> bool {
        let block_bytes = match &self.form {
            Form::Apns(form) => form.block_bytes(token_bytes),
            Form::Fcm(form) => form.block().len(),
        };
        self.body_bytes(token_bytes) <= PAYLOAD_BYTES_MAX && block_bytes <= PAYLOAD_BYTES_MAX
    }

    /// Appends a whole request: the hot path.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, id: u32, token: &[u8]) {
        match &mut self.form {
            Form::Apns(form) => form.put(out, id, token),
            Form::Fcm(form) => form.put(out, id, token),
        }
    }

    /// Appends the header block alone, in as many frames as it takes.
    fn put_headers(&self, out: &mut Vec<u8>, id: u32, token: &[u8]) {
        match &self.form {
            Form::Apns(form) => form.put_headers(out, id, token),
            Form::Fcm(form) => frames::put_block(out, id, form.block()),
        }
    }
}

impl Form {
    fn of(request: &Request) -> Self {
        match request {
            Request::Apns(_) => Self::Apns(apns::Form::default()),
            Request::Fcm { .. } => Self::Fcm(fcm::Form::default()),
        }
    }
}

/// Parts of a request.
struct Parts<'a> {
    /// `:method`, `:scheme`, `:authority`, `:path`.
    pseudo: &'a [(&'static str, &'a str); 4],
    fields: &'a [Field<'a>],
    body: &'a Bytes,
    /// Behind the token, if that is in the body.
    after: &'a Bytes,
}

/// A template with its body, for requests that do not go out in one piece.
pub(crate) fn put_in_pieces(
    template: &Template,
    spec: &TemplateSpec,
    windows: &mut super::flow::SendWindows,
    out: &mut Vec<u8>,
    id: u32,
    token: &[u8],
) {
    template.put_headers(out, id, token);
    let body = match template.form {
        Form::Apns(_) => spec.body.clone(),
        Form::Fcm(_) => [&spec.body, token, &spec.body_after_token].concat().into(),
    };
    windows.begin(out, id, &body);
}
