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

/// Assumed length of an FCM token until one is seen, characters. No longer one has been observed
/// (firebasex#581, fcm-django#131).
const FCM_TOKEN_BYTES: usize = 163;

/// All templates of a connection.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    /// Templates, sorted by number.
    all: Vec<Template>,
    /// Position of the last template, because pushes come in runs.
    last: usize,
    body_bytes_max: usize,
}

impl Templates {
    /// Returns the largest body of all templates, bytes. Every push is assumed to need that much of
    /// the windows.
    pub(crate) fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// Records the size of a body that was pushed.
    pub(crate) fn note_body(&mut self, bytes: usize) {
        self.body_bytes_max = self.body_bytes_max.max(bytes);
    }

    /// Returns a template, if it exists.
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

/// Template of one message, for one state of the header table.
#[derive(Debug)]
pub(crate) struct Template {
    number: u32,
    /// Version of the encoder; another one means that the template is outdated. 0 never matches.
    pub(crate) version: u32,
    /// Size of the header list without the token, as RFC 9113 counts it (10.5.1), bytes.
    header_list_bytes: usize,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Apns(apns::Form),
    Fcm(fcm::Form),
}

impl Template {
    /// Creates the template of a message. If that changes the header table, the bytes are valid for
    /// one request only, and the version is 0.
    ///
    /// # Errors
    /// If the alert's headers cannot be sent, or not with a token of this length; the encoder is
    /// unchanged then.
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

    /// Returns the size of the header list with a token of this length, bytes.
    pub(crate) fn header_list_bytes(&self, token_bytes: usize) -> usize {
        match self.form {
            Form::Apns(_) => self.header_list_bytes + 2 * token_bytes,
            Form::Fcm(_) => self.header_list_bytes,
        }
    }

    /// Returns the size of the body with a token of this length, bytes.
    pub(crate) fn body_bytes(&self, token_bytes: usize) -> usize {
        match &self.form {
            Form::Apns(form) => form.body_bytes,
            Form::Fcm(form) => form.body_bytes + token_bytes,
        }
    }

    /// Reports whether [`Self::put`] can write requests with tokens of this length, each as one
    /// HEADERS and one DATA frame.
    pub(crate) fn is_plain(&self, token_bytes: usize) -> bool {
        let block_bytes = match &self.form {
            Form::Apns(form) => form.block_bytes(token_bytes),
            Form::Fcm(form) => form.block().len(),
        };
        self.body_bytes(token_bytes) <= PAYLOAD_BYTES_MAX && block_bytes <= PAYLOAD_BYTES_MAX
    }

    /// Appends a complete request: the hot path.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, id: u32, token: &[u8]) {
        match &mut self.form {
            Form::Apns(form) => form.put(out, id, token),
            Form::Fcm(form) => form.put(out, id, token),
        }
    }

    /// Appends the header block alone, in as many frames as necessary.
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
    /// Pseudo-header fields `:method`, `:scheme`, `:authority`, `:path`.
    pseudo: &'a [(&'static str, &'a str); 4],
    fields: &'a [Field<'a>],
    body: &'a Bytes,
    /// Body after the token, if the token is in the body.
    after: &'a Bytes,
}

/// Appends a request that is not sent in one piece: its header block, and its body as far as the
/// windows allow.
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
