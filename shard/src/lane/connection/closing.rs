//! The end of requests and connections: resets, GOAWAY, close.

use clarion_proto::time::Time;

use super::{
    CloseReason, Connection, ConnectionEvent, ErrorCode,
    frames::{self, kind},
    streams::Slot,
};
use crate::{
    lane::provider::{answer, apns},
    outcome::{Platform, Reason},
};

/// Phase of a connection's life, which never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// No new requests are sent; open ones may be answered until a deadline.
    Draining {
        until: Time,
    },
    Closed,
}

impl Connection {
    /// Handles the final answer to a request.
    pub(super) fn answered(&mut self, slot: &Slot, status: u16) {
        // 401 and 403 mean that the connection is not bound to a team yet (Apple, "Establishing a
        // token-based connection to APNs").
        self.proven |= !matches!(status, 401 | 403);
        self.decided(slot, status);
        // The answer came before the request was complete: the peer still counts the stream as
        // open.
        if self.windows.forget(slot.id) {
            frames::put_reset(&mut self.out, slot.id, ErrorCode::CANCEL);
        }
        self.settle();
    }

    /// Reports the gateway's decision. For an acceptance only the ticket is stored, and `answers`
    /// has no entry for it.
    fn decided(&mut self, slot: &Slot, status: u16) {
        if status == 200 {
            self.accepted.push_back(slot.ticket);
            return;
        }
        let (_, body, retry_after) =
            slot.answer.map_or((status, &[][..], None), |number| self.answers.end(number));
        let answer = answer::read(self.config.platform, status, body, retry_after);
        self.events.push_back(ConnectionEvent::Answer { ticket: slot.ticket, answer });
    }

    /// Ends a request without a complete answer. If the head of an acceptance arrived, the push
    /// must not be sent again only because the rest of its skipped body is missing. Any other
    /// status means nothing without its reason, because it may be a proxy's.
    pub(super) fn unanswered(&mut self, slot: &Slot) {
        let status = slot.answer.map(|number| self.answers.status(number));
        match status {
            Some(200) => self.decided(slot, 200),
            _ => {
                if let Some(number) = slot.answer {
                    self.answers.end(number);
                }
                self.events.push_back(ConnectionEvent::Unanswered { ticket: slot.ticket, status });
            }
        }
        self.windows.forget(slot.id);
    }

    /// Ends a request that the peer certainly did not process.
    pub(super) fn unprocessed(&mut self, slot: &Slot) {
        if let Some(number) = slot.answer {
            self.answers.end(number);
        }
        self.events.push_back(ConnectionEvent::Unprocessed { ticket: slot.ticket });
        self.windows.forget(slot.id);
    }

    /// Handles GOAWAY. A first one may name the highest possible id, only to announce a second (RFC
    /// 9113, 6.8).
    pub(super) fn gone_away(&mut self, last_id: u32, code: ErrorCode, debug: &[u8]) {
        let reason = match self.config.platform {
            Platform::Apns => apns::read_body(debug).0,
            // A text such as `session_timed_out`, which adds nothing to the code.
            Platform::Fcm => Reason::None,
        };
        self.begin_closing(CloseReason::GoAway { code, reason });
        while let Some(id) = self.streams.newest().map(|s| s.id).filter(|&id| id > last_id) {
            if let Some(slot) = self.streams.remove(id) {
                self.unprocessed(&slot);
            }
        }
        self.settle();
    }

    /// Stops taking requests, and reports the reason once.
    pub(super) fn begin_closing(&mut self, reason: CloseReason) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining { until: self.now + self.config.drain_deadline };
            self.events.push_back(ConnectionEvent::Closing { reason });
        }
    }

    /// Closes the connection once the last request has ended.
    pub(super) fn settle(&mut self) {
        if matches!(self.phase, Phase::Draining { .. }) && self.streams.open() == 0 {
            self.send_goaway(ErrorCode::NO_ERROR);
            self.phase = Phase::Closed;
            self.events.push_back(ConnectionEvent::Closed);
        }
    }

    /// Ends the connection at once, with all open requests.
    pub(super) fn abandon(&mut self, reason: CloseReason, goaway: Option<ErrorCode>) {
        if self.is_closed() {
            return;
        }
        self.begin_closing(reason);
        while let Some(id) = self.streams.oldest().map(|s| s.id) {
            if let Some(slot) = self.streams.remove(id) {
                self.unanswered(&slot);
            }
        }
        match goaway {
            // An error justifies a second GOAWAY.
            Some(code) if code != ErrorCode::NO_ERROR => frames::put_goaway(&mut self.out, code),
            Some(code) => self.send_goaway(code),
            None => {}
        }
        self.goaway_sent = true;
        self.settle();
    }

    /// Sends GOAWAY, unless it was sent before.
    pub(super) fn send_goaway(&mut self, code: ErrorCode) {
        if !self.goaway_sent && !self.is_closed() {
            self.goaway_sent = true;
            frames::put_goaway(&mut self.out, code);
        }
    }

    /// Handles deadlines of the connection as a whole.
    pub(super) fn expire_connection(&mut self) {
        let now = self.now;
        match self.phase {
            Phase::Closed => return,
            Phase::Draining { until } if until <= now => {
                self.abandon(CloseReason::Asked, Some(ErrorCode::NO_ERROR));
                return;
            }
            Phase::Draining { .. } | Phase::Open => {}
        }
        match (self.pinged, self.config.ping_after) {
            (Some(at), _) if at + self.config.ping_deadline <= now => {
                self.abandon(CloseReason::Silent, Some(ErrorCode::NO_ERROR));
            }
            (None, Some(after)) if self.last_received + after <= now => {
                self.pinged = Some(now);
                frames::put(&mut self.out, kind::PING, 0, 0, b"clarion?");
            }
            _ => {}
        }
    }

    /// Handles deadlines of requests. A request without an answer is reset if others were answered.
    /// But if no byte came since it was sent, the path is broken, and every other request on it
    /// would only reach its own deadline later.
    pub(super) fn expire_requests(&mut self) {
        while let Some(oldest) = self.streams.oldest() {
            if oldest.sent + self.config.request_deadline > self.now {
                break;
            }
            if self.last_received <= oldest.sent {
                self.abandon(CloseReason::Silent, Some(ErrorCode::NO_ERROR));
                return;
            }
            let id = oldest.id;
            if let Some(slot) = self.streams.remove(id) {
                frames::put_reset(&mut self.out, id, ErrorCode::CANCEL);
                self.unanswered(&slot);
            }
        }
        self.settle();
    }
}
