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
//! InvalidProviderToken heals itself (ostinelli/apnotic#109). So that connection closes, and the
//! others continue. Only a full row of refusals ([`super::evidence`]), with no acceptance in
//! between, condemns the token: the lane raises an alarm, and the lane's owner creates another
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
//! anyway, so nothing is lost: a condemned token only means that the next try has a pause, and that
//! the trouble is reported. Pure.

use std::time::Duration;

use clarion_proto::time::Time;
use rand::Rng;
use secrecy::ExposeSecret as _;

use super::{
    evidence::{Row, Witness},
    retry::Backoff,
};
use crate::{lane::provider::authorization::Authorization, outcome::Platform};

/// Between tries of a condemned one, while there is no other.
const AGAIN: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_millis(4_500),
    floor: Duration::from_millis(500),
};
/// The same while a former one goes on.
const AGAIN_BESIDE_FORMER: Backoff = Backoff {
    min: Duration::from_secs(2),
    max: Duration::from_mins(1),
    floor: Duration::from_secs(1),
};
/// Refusals of an accepted token that last this long, without a success between, are reported
/// whether they condemn it or not: on few connections a row takes a while to fill, and nothing else
/// is sent meanwhile.
const DOUBT_TOLD_AFTER: Duration = Duration::from_secs(1);
/// Time for which the former token of APNs stays valid beside the new one: it is replaced at 24
/// minutes and expires at 60.
const FORMER_APNS: Duration = Duration::from_mins(10);
/// The same of FCM: replaced 5 minutes before its end.
const FORMER_FCM: Duration = Duration::from_mins(3);
/// When the gateway minds that the token has changed (`TooManyProviderTokenUpdates`), the new one
/// is tried again after so long: a try is one request with the same token, which is no further
/// change.
const PUT_OFF: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_secs(2),
    floor: Duration::from_millis(500),
};

/// What may be sent with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// As many requests as there is room for.
    Freely,
    /// One request, while no other request with this token is open.
    Once,
    /// No request at all.
    Never,
}

/// Effect of another token on the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// No effect: the token is the same as before.
    None,
    /// One connection tries the token.
    Try,
    /// No connection has one that is of use: all take it, or make room for one that does.
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

/// Meaning of a refusal of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing that is not known: a token that is not used any more, or an answer from before the
    /// token was condemned.
    Old,
    /// Only the connection that gave the refusal is doubted.
    OfConnection,
    /// The token is condemned from now on.
    OfToken,
    /// The token was condemned before and stays so.
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
    /// Number of the first token by that signer.
    signer_since: u32,
    state: State,
    /// Refusals since it was last accepted.
    refusals: Row,
    /// Start of the present row of refusals.
    doubted_since: Option<Time>,
    /// Times the gateway minded that the token has changed, since it came.
    put_offs: u32,
    former: Option<(Token, Time)>,
    /// Refusals of the former token.
    former_refusals: Row,
    /// The present one is not tried before.
    not_before: Time,
}

impl Trust {
    /// A lane end without a token.
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

    /// Takes a new token.
    pub fn take(&mut self, authorization: Authorization, signer: u64, now: Time) -> Change {
        let known =
            |t: &Token| t.authorization.0.expose_secret() == authorization.0.expose_secret();
        if self.present.as_ref().is_some_and(known) && self.signer == signer {
            // Said again by a new session. If it was refused, somebody may have mended that: it has
            // another try at once.
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
        // Two that come one behind the other: the last good one goes on.
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

    /// Whether a connection that has the token of this number takes the present one: with APNs, if
    /// the same key made both.
    #[must_use]
    pub fn takes(&self, number: u32) -> bool {
        let by_this_signer = self.number().wrapping_sub(self.signer_since);
        self.platform != Platform::Apns || number.wrapping_sub(self.signer_since) <= by_this_signer
    }

    /// The number of the present token.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.present.as_ref().map_or(0, |token| token.number)
    }

    /// The present token and its number.
    #[must_use]
    pub fn present(&self) -> Option<(&Authorization, u32)> {
        self.present.as_ref().map(|token| (&token.authorization, token.number))
    }

    /// What new connections are to use, and its number; `None`: there is nothing to connect for.
    #[must_use]
    pub fn best(&self, now: Time) -> Option<(&Authorization, u32)> {
        let former = self.former.as_ref().filter(|(_, until)| now < *until).map(|(token, _)| token);
        let token = match self.state {
            State::Condemned(_) if now < self.not_before => former.or(self.present.as_ref()),
            State::Condemned(_) | State::Untried | State::Good => self.present.as_ref(),
        };
        token.map(|token| (&token.authorization, token.number))
    }

    /// Whether the present token is accepted and no other exists.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.state == State::Good && self.refusals.is_empty() && self.former.is_none()
    }

    /// An acceptance would be news.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.state != State::Good || !self.refusals.is_empty()
    }

    /// Whether a new token is being tried while the former is in use.
    #[must_use]
    pub fn is_trying(&self, now: Time) -> bool {
        self.state != State::Good && now >= self.not_before && self.former.is_some()
    }

    /// Whether connections with the former token do not take the new one.
    #[must_use]
    pub fn is_trying_other_key(&self, now: Time) -> bool {
        self.is_trying(now)
            && self.former.as_ref().is_some_and(|(former, _)| !self.takes(former.number))
    }

    /// Whether the token is tried by single requests only.
    #[must_use]
    pub fn is_condemned(&self) -> bool {
        matches!(self.state, State::Condemned(_))
    }

    /// Whether the refusal must be reported: the token is condemned, or was refused for a while
    /// without an acceptance.
    #[must_use]
    pub fn is_refused(&self, now: Time) -> bool {
        self.is_condemned() || self.told_at().is_some_and(|at| now >= at)
    }

    /// Time at which [`Trust::is_refused`] may change without an event.
    #[must_use]
    pub fn told_at(&self) -> Option<Time> {
        self.doubted_since.map(|since| since + DOUBT_TOLD_AFTER)
    }

    /// The gateway minds that the token has changed, and has not taken it yet.
    #[must_use]
    pub fn is_put_off(&self) -> bool {
        self.state == State::Untried && self.put_offs > 0
    }

    /// It is tried by one connection at a time, which is opened for that, then; `None`: it is not
    /// condemned, or there is a former one.
    #[must_use]
    pub fn probed_at(&self) -> Option<Time> {
        (self.is_condemned() && self.former.is_none()).then_some(self.not_before)
    }

    /// What may be sent on a connection that has the token of this number.
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
    /// True: all connections must take it.
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

    /// Drops the former token if its time is over. True: it was dropped now.
    pub fn expire_former(&mut self, now: Time) -> bool {
        self.former.take_if(|(_, until)| *until <= now).is_some()
    }

    /// A connection refused the token of this number. `counts`: in the row of refusals.
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

    /// The gateway minds that the token has changed. False: it has taken this one before, so that
    /// is no word on it.
    pub fn put_off(&mut self, number: u32, now: Time, rng: &mut impl Rng) -> bool {
        let tried = number == self.number() && self.state != State::Good;
        if tried && now >= self.not_before {
            self.state = State::Untried;
            self.not_before = now + PUT_OFF.pause(self.put_offs, rng);
            self.put_offs = self.put_offs.saturating_add(1);
        }
        tried
    }

    /// When the present one has its next try; a time that is past: at once.
    #[must_use]
    pub fn not_before(&self) -> Time {
        self.not_before
    }

    /// Time at which [`Trust::allows`] may change without an event.
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
