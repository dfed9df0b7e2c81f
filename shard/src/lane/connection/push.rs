//! The sending of requests on a connection.

use clarion_proto::{device::TOKEN_BYTES_MAX, time::Time};
use secrecy::ExposeSecret as _;

use super::{
    CloseReason, Connection, PushError, TemplateSpec,
    closing::Phase,
    template::{Template, put_in_pieces},
};
use crate::{lane::provider::fcm, outcome::Platform};

impl Connection {
    /// Returns the number of requests that may be pushed now, each with the largest body of all
    /// templates in use.
    ///
    /// It is bounded by the streams that both sides allow (one, until the first answer), by the
    /// window of the connection, by the events not yet polled, and by the streams opened since the
    /// last [`Self::transmit`]. The latter may not exceed the peer's limit even if resets have made
    /// room for others, because servers take that for an attack.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room_for(self.templates.body_bytes_max())
    }

    /// Writes one request.
    ///
    /// `spec` is read only while the template is new to this connection or to its header table, and
    /// for a body that is not sent in one piece. It must be the same for a number until
    /// [`Self::forget_template`].
    ///
    /// # Errors
    /// If the request cannot be sent; nothing was written, and the ticket gets no event.
    pub fn push(
        &mut self,
        ticket: u64,
        template: u32,
        spec: &TemplateSpec,
        token: &[u8],
        now: Time,
    ) -> Result<(), PushError> {
        self.now = now;
        if self.phase != Phase::Open {
            return Err(PushError::Closing);
        }
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(PushError::Token);
        }
        if self.config.platform == Platform::Fcm && !fcm::is_safe_token(token) {
            return Err(PushError::Token);
        }
        let version = self.encoder.version();
        let warm = self.templates.get(template).is_some_and(|t| t.version == version);
        if self.room_for(spec.body_bytes(token.len())) == 0 {
            return Err(PushError::Full);
        }
        // The id comes first: once a template has been created, its block must be written, so that
        // the peer's table follows.
        let Some(id) = self.streams.push(ticket, now) else {
            self.begin_closing(CloseReason::StreamIdsSpent);
            self.settle();
            return Err(PushError::Closing);
        };
        if let Err(error) = self.write_request(template, warm, spec, id, token) {
            self.streams.remove(id);
            return Err(error);
        }
        self.openings += 1;
        if self.streams.is_spent() {
            self.begin_closing(CloseReason::StreamIdsSpent);
        }
        Ok(())
    }

    /// Removes a template; the core pushes with this number no more, or with another message.
    pub fn forget_template(&mut self, template: u32) {
        self.templates.forget(template);
    }

    fn room_for(&self, body_bytes: usize) -> usize {
        if self.phase != Phase::Open {
            return 0;
        }
        let limit = if self.proven {
            self.peer.streams_max.min(self.config.streams_max)
        } else {
            self.peer.streams_max.min(1)
        };
        let open = self.streams.open();
        // Events that are not fetched prevent requests, so that their queue has at most two for
        // each stream.
        let held = open + self.events.len() + self.accepted.len();
        limit
            .saturating_sub(open.max(self.openings))
            .min((2 * self.config.streams_max).saturating_sub(held))
            .min(self.windows.bodies(body_bytes))
    }

    fn write_request(
        &mut self,
        number: u32,
        warm: bool,
        spec: &TemplateSpec,
        id: u32,
        token: &[u8],
    ) -> Result<(), PushError> {
        let list_max = self.peer.header_list_bytes_max;
        let known = if warm { self.templates.get(number) } else { None };
        let template = match known {
            Some(template) => {
                if template.header_list_bytes(token.len()) > list_max {
                    return Err(PushError::HeaderListTooLarge);
                }
                template
            }
            None => {
                let template = Template::new(
                    number,
                    spec,
                    &self.config.authority,
                    self.authorization.0.expose_secret(),
                    self.config.authorization_indexed,
                    &mut self.encoder,
                    token.len(),
                    list_max,
                )?;
                self.templates.put(template)
            }
        };
        let body_bytes = template.body_bytes(token.len());
        if template.is_plain(token.len()) && self.windows.take_whole(body_bytes) {
            template.put(&mut self.out, id, token);
        } else {
            put_in_pieces(template, spec, &mut self.windows, &mut self.out, id, token);
        }
        self.templates.note_body(body_bytes);
        Ok(())
    }
}
