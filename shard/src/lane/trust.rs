//! State of a lane end's provider tokens: which token may be used, on which connections, and for
//! how many requests at once.
//!
//! **A new token is tried before it is used**: by one request, on one connection; the other
//! connections continue with the former token, which is still valid (the lane's owner replaces
//! tokens well before they expire). When the gateway has accepted the new token, all connections
//! take it. So a bad token (a wrong key, a clock that is off, one change too many) costs one
//! request and not a burst on every connection, which APNs answers with smaller SETTINGS and in the
//! end by disconnecting (Apple, "Handling error responses from APNs"). Without a former token, all
//! connections wait for that one request. The token of another key is tried in the same way, over a
//! new connection, since APNs ties each connection to the key of its first request (Apple,
//! "Establishing a token-based connection to APNs"): a wrong key that an operator installed costs
//! one connection.
//!
//! **A refusal on one connection counts for that connection only.** A refusal sticks to a
//! connection (jchambers/pushy#783), the clock of one host may be wrong, and a sporadic
//! InvalidProviderToken disappears by itself (ostinelli/apnotic#109). So that connection closes,
//! and the others continue. Only a full row of refusals ([`super::evidence`]), with no acceptance
//! in between, condemns the token: the lane raises an alarm, and the lane's owner creates another
//! token when its spacing of 24 minutes allows. Meanwhile the same token is tried again, by one
//! request over one new connection each time, after pauses that double up to 5 s, or up to a minute
//! while a former token is in use: 20 minutes are long during a search for a child.
//!
//! ```text
//!            accepted                       a full row of refusals
//! Untried ------------> Good ------------------------------------------> Condemned
//!    |  ^                ^                                                |  |  ^ |
//!    |  '-- put off      '----------------- accepted ---------------------'  |  '-' refused:
//!    |                                                                       |      the next pause
//!    '------------------------ refused once -------------------------------->  another token:
//!                                                                              Untried
//! ```
//!
//! **The first answer to an untried token counts at once.** One request at a time tries the token
//! anyway, so nothing is lost: a condemned token only means that the next attempt has a pause, and
//! that the trouble is reported. No code here does I/O.

use std::time::Duration;

use clarion_proto::time::Time;
use rand::Rng;
use secrecy::ExposeSecret as _;

use super::{
    evidence::{Row, Witness},
    retry::Backoff,
};
use crate::{lane::provider::authorization::Authorization, outcome::Platform};

/// Pauses between attempts of a condemned token while there is no other token.
const AGAIN: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_millis(4_500),
    floor: Duration::from_millis(500),
};
/// Pauses between attempts of a condemned token while the former token is in use.
const AGAIN_BESIDE_FORMER: Backoff = Backoff {
    min: Duration::from_secs(2),
    max: Duration::from_mins(1),
    floor: Duration::from_secs(1),
};
/// Time after which refusals of an accepted token, without a success between, are reported whether
/// they condemn the token or not: on few connections a row takes a while to fill, and nothing else
/// is sent meanwhile.
const DOUBT_REPORTED_AFTER: Duration = Duration::from_secs(1);
/// Time for which the former token of APNs stays valid beside the new one: a token is replaced
/// after at most 50 minutes and expires after 60; the rest is for clocks that differ.
const FORMER_APNS: Duration = Duration::from_mins(5);
/// Time for which the former token of FCM stays valid: a token is replaced 5 minutes before its
/// end, or at half of a life below 10 minutes.
const FORMER_FCM: Duration = Duration::from_secs(150);
/// Pauses before a new token is tried again after the gateway has answered that the token changes
/// too often (`TooManyProviderTokenUpdates`). An attempt is one request with the same token, which
/// is no further change.
const PUT_OFF: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_secs(2),
    floor: Duration::from_millis(500),
};

/// Number of requests that may be sent with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// As many requests as there is room for.
    Freely,
    /// One request, while no other request with this token is open.
    Once,
    /// No request at all.
    Never,
}

/// Effect of a new token on the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// No effect, because the token is the same as before.
    None,
    /// One connection tries the token.
    Try,
    /// No connection has a usable token: all take the new one, or are closed for connections that
    /// can.
    TakeAll,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The gateway has not accepted the token yet.
    Untried,
    Good,
    /// Number of refusals since the token was condemned.
    Condemned(u32),
}

/// Effect of a refusal of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No effect: the token is no longer used, or the answer is from before the token was
    /// condemned.
    Old,
    /// Only the connection that returned the refusal is in doubt.
    OfConnection,
    /// The token is condemned from now on.
    OfToken,
    /// The token was condemned before and stays condemned.
    Still,
}

#[derive(Debug)]
struct Token {
    authorization: Authorization,
    number: u32,
}

/// State of the provider tokens of a lane end.
#[derive(Debug)]
pub struct Trust {
    platform: Platform,
    present: Option<Token>,
    signer: u64,
    /// Number of the first token of this signer.
    signer_since: u32,
    state: State,
    /// Row of refusals since the token was last accepted.
    refusals: Row,
    /// Start of the present row of refusals.
    doubted_since: Option<Time>,
    /// Number of answers since the token arrived that it changes too often.
    put_offs: u32,
    former: Option<(Token, Time)>,
    /// Row of refusals of the former token.
    former_refusals: Row,
    /// Time before which the present token is not tried.
    not_before: Time,
}

impl Trust {
    /// Creates the state of a lane end without a token.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self {
            platform,
            present: None,
            signer: 0,
            signer_since: 0,
            state: State::Untried,
            refusals: Row::default(),
            doubted_since: None,
            put_offs: 0,
            former: None,
            former_refusals: Row::default(),
            not_before: Time(0),
        }
    }

    /// Takes a new token and returns its effect on the connections.
    pub fn take(&mut self, authorization: Authorization, signer: u64, now: Time) -> Change {
        let known =
            |t: &Token| t.authorization.0.expose_secret() == authorization.0.expose_secret();
        if self.present.as_ref().is_some_and(known) && self.signer == signer {
            // A new session repeats the token. If it was refused, somebody may have fixed the
            // cause, so it is tried again at once.
            if matches!(self.state, State::Untried | State::Good) {
                return Change::None;
            }
            self.restart();
            return Change::TakeAll;
        }
        let number = self.number().wrapping_add(1);
        if self.present.is_none() || self.signer != signer {
            (self.signer, self.signer_since) = (signer, number);
        }
        let good = self.state == State::Good;
        let present = self.present.replace(Token { authorization, number });
        let life = match self.platform {
            Platform::Apns => FORMER_APNS,
            Platform::Fcm => FORMER_FCM,
        };
        // Of two new tokens in quick succession, the last accepted one stays in use.
        if good {
            self.former = present.map(|token| (token, now + life));
            self.former_refusals = self.refusals;
        }
        self.restart();
        match &self.former {
            Some((_, until)) if now < *until => Change::Try,
            _ => {
                self.former = None;
                Change::TakeAll
            }
        }
    }

    fn restart(&mut self) {
        (self.state, self.doubted_since, self.put_offs, self.not_before) =
            (State::Untried, None, 0, Time(0));
        self.refusals.clear();
    }

    /// Reports whether a connection that has the token of this number may take the present one:
    /// with APNs, if the same key made both.
    #[must_use]
    pub fn takes(&self, number: u32) -> bool {
        let by_this_signer = self.number().wrapping_sub(self.signer_since);
        self.platform != Platform::Apns || number.wrapping_sub(self.signer_since) <= by_this_signer
    }

    /// Returns the number of the present token.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.present.as_ref().map_or(0, |token| token.number)
    }

    /// Returns the present token and its number.
    #[must_use]
    pub fn present(&self) -> Option<(&Authorization, u32)> {
        self.present.as_ref().map(|token| (&token.authorization, token.number))
    }

    /// Returns the token for new connections, and its number; `None` if there is no token.
    #[must_use]
    pub fn best(&self, now: Time) -> Option<(&Authorization, u32)> {
        let former = self.former.as_ref().filter(|(_, until)| now < *until).map(|(token, _)| token);
        let token = match self.state {
            State::Condemned(_) if now < self.not_before => former.or(self.present.as_ref()),
            State::Condemned(_) | State::Untried | State::Good => self.present.as_ref(),
        };
        token.map(|token| (&token.authorization, token.number))
    }

    /// Reports whether the present token is accepted and there is no other.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.state == State::Good && self.refusals.is_empty() && self.former.is_none()
    }

    /// Reports whether an acceptance of the present token would change the state.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.state != State::Good || !self.refusals.is_empty()
    }

    /// Reports whether a new token is being tried while the former one is in use.
    #[must_use]
    pub fn is_trying(&self, now: Time) -> bool {
        self.state != State::Good && now >= self.not_before && self.former.is_some()
    }

    /// Reports whether connections with the former token cannot take the new one.
    #[must_use]
    pub fn is_trying_other_key(&self, now: Time) -> bool {
        self.is_trying(now)
            && self.former.as_ref().is_some_and(|(former, _)| !self.takes(former.number))
    }

    /// Reports whether only single requests try the token.
    #[must_use]
    pub fn is_condemned(&self) -> bool {
        matches!(self.state, State::Condemned(_))
    }

    /// Reports whether the refusal must be reported: the token is condemned, or was refused for a
    /// while without an acceptance.
    #[must_use]
    pub fn is_refused(&self, now: Time) -> bool {
        self.is_condemned() || self.reported_at().is_some_and(|at| now >= at)
    }

    /// Returns the time at which [`Trust::is_refused`] may change without an event.
    #[must_use]
    pub fn reported_at(&self) -> Option<Time> {
        self.doubted_since.map(|since| since + DOUBT_REPORTED_AFTER)
    }

    /// Reports whether the gateway has answered that the token changes too often, and has not
    /// accepted it yet.
    #[must_use]
    pub fn is_put_off(&self) -> bool {
        self.state == State::Untried && self.put_offs > 0
    }

    /// Returns the time of the next attempt of a condemned token over a new connection; `None` if
    /// it is not condemned or there is a former token.
    #[must_use]
    pub fn probed_at(&self) -> Option<Time> {
        (self.is_condemned() && self.former.is_none()).then_some(self.not_before)
    }

    /// Returns how many requests a connection may send that has the token of this number.
    #[must_use]
    pub fn allows(&self, number: u32, now: Time) -> Use {
        if number == self.number() {
            return match self.state {
                State::Good => Use::Freely,
                State::Untried | State::Condemned(_) if now >= self.not_before => Use::Once,
                State::Untried | State::Condemned(_) => Use::Never,
            };
        }
        match &self.former {
            Some((token, until)) if token.number == number && now < *until => Use::Freely,
            _ => Use::Never,
        }
    }

    /// Records that the provider answered a request with this token without refusing the token.
    /// Returns true if all connections must take it.
    pub fn accepted(&mut self, number: u32) -> bool {
        if self.is_former(number) {
            self.former_refusals.clear();
        }
        if number != self.number() {
            return false;
        }
        let news = self.is_in_doubt();
        self.restart();
        self.state = State::Good;
        self.former.take().is_some() || news
    }

    /// Drops the former token if its time is over. Returns true if it was dropped now.
    pub fn expire_former(&mut self, now: Time) -> bool {
        self.former.take_if(|(_, until)| *until <= now).is_some()
    }

    /// Records that a connection refused the token of this number. `counts` says whether the
    /// refusal counts in the row.
    pub fn refused(
        &mut self,
        number: u32,
        (by, counts): (Witness, bool),
        needed: u32,
        now: Time,
        rng: &mut impl Rng,
    ) -> Refusal {
        if self.is_former(number) {
            if counts && self.former_refusals.add(by, needed) {
                self.former = None;
            }
            return Refusal::OfConnection;
        }
        if number != self.number() {
            return Refusal::Old;
        }
        if counts {
            self.doubted_since.get_or_insert(now);
        }
        let times = match self.state {
            State::Good if !(counts && self.refusals.add(by, needed)) => {
                return Refusal::OfConnection;
            }
            State::Good | State::Untried => 0,
            State::Condemned(_) if now < self.not_before => return Refusal::Old,
            State::Condemned(times) => times.saturating_add(1),
        };
        self.state = State::Condemned(times);
        let again = if self.former.is_some() { AGAIN_BESIDE_FORMER } else { AGAIN };
        self.not_before = now + again.pause(times, rng);
        if times == 0 { Refusal::OfToken } else { Refusal::Still }
    }

    /// Records an answer that the token changes too often. Returns false if the gateway has
    /// accepted this token before, so that the answer does not concern the token.
    pub fn put_off(&mut self, number: u32, now: Time, rng: &mut impl Rng) -> bool {
        let tried = number == self.number() && self.state != State::Good;
        if tried && now >= self.not_before {
            self.state = State::Untried;
            self.not_before = now + PUT_OFF.pause(self.put_offs, rng);
            self.put_offs = self.put_offs.saturating_add(1);
        }
        tried
    }

    /// Returns the time of the next attempt of the present token; a past time means at once.
    #[must_use]
    pub fn not_before(&self) -> Time {
        self.not_before
    }

    /// Returns the time at which [`Trust::allows`] may change without an event.
    #[must_use]
    pub fn ready_at(&self, now: Time) -> Option<Time> {
        Some(self.not_before).filter(|at| *at > now)
    }

    fn is_former(&self, number: u32) -> bool {
        self.former.as_ref().is_some_and(|(token, _)| token.number == number)
    }
}

#[cfg(test)]
mod tests;
