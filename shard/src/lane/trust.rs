//! What is known of a lane end's provider tokens: which may be used, on which connections, and how much at once.
//!
//! **A new one is tried before it is used**: by one request, on one connection; the others go on with the former, which is
//! still good (the lane's owner replaces tokens well before their end). When the new one has been accepted, all take it.
//! So a token that is no good (a key that is wrong, a clock that is off, one change too many) costs one request and not a
//! burst on every connection, which APNs answers with smaller SETTINGS and in the end by disconnecting (Apple, "Handling
//! error responses from APNs"). Where there is no former one to go on with, all wait for that one request. Another key's token is
//! tried in the same way, over a connection of its own, since APNs ties each to the key of its first request (Apple,
//! "Establishing a token-based connection to APNs"): a wrong key that somebody put in place costs a connection.
//!
//! **`ExpiredProviderToken` of one connection is that connection's word.** It sticks to a connection (jchambers/pushy#783), and
//! one host's clock may be wrong. So that connection goes, and others go on. Only when [`DOUBTS_MAX`] connections in a row
//! say so, with nobody accepted in between, is the token held to be expired: an alarm, and the lane's owner makes another
//! when its spacing of 20 minutes allows. Meanwhile the same token is tried again, by one request over one new connection
//! each time, after pauses that double from 2 s to a minute: the fault is often the gateway's and passes, and 20 minutes
//! are long for whoever looks for a child. That is at most `60 s / 1 s` tries in the first minute and, from the sixth on, one
//! in half a minute on average.
//!
//! Any other refusal (key, team, environment) holds until another token comes. Pure.

use std::time::Duration;

use clarion_proto::time::Time;
use rand::Rng;
use secrecy::ExposeSecret as _;

use super::retry::Backoff;
use crate::command::{Authorization, Platform};

/// Connections in a row that call a token expired.
const DOUBTS_MAX: u32 = 2;
/// Between tries of an expired one.
const AGAIN: Backoff =
    Backoff { min: Duration::from_secs(2), max: Duration::from_mins(1), floor: Duration::from_secs(1) };
/// How long the former token of APNs is good for beside the new one: it is replaced at 45 minutes and expires at 60.
const FORMER_APNS: Duration = Duration::from_mins(10);
/// The same of FCM: replaced 5 minutes before its end.
const FORMER_FCM: Duration = Duration::from_mins(3);
/// When the gateway minds that the token has changed (`TooManyProviderTokenUpdates`), the new one is tried again after so long.
const PUT_OFF: Duration = Duration::from_secs(30);

/// What may be sent with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// As much as there is room for.
    Freely,
    /// One request, while no other of it is out.
    Once,
    /// Nothing.
    Never,
}

/// What another token means for the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The same as before.
    None,
    /// One connection tries it.
    Try,
    /// No connection has one that is of use: all take it, or make room for one that does.
    TakeAll,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody has accepted it yet.
    Untried,
    Good,
    /// So many times refused as expired since it was held to be.
    Expired(u32),
    Refused,
}

#[derive(Debug)]
struct Token {
    authorization: Authorization,
    number: u32,
}

/// All that is known.
#[derive(Debug)]
pub struct Trust {
    platform: Platform,
    present: Option<Token>,
    signer: u64,
    /// Number of the first token by that signer.
    signer_since: u32,
    state: State,
    /// Connections that called it expired since it was last accepted.
    doubts: u32,
    former: Option<(Token, Time)>,
    /// The present one is not tried before.
    not_before: Time,
}

impl Trust {
    /// Without a token.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self {
            platform,
            present: None,
            signer: 0,
            signer_since: 0,
            state: State::Untried,
            doubts: 0,
            former: None,
            not_before: Time(0),
        }
    }

    /// A token came.
    pub fn take(&mut self, authorization: Authorization, signer: u64, now: Time) -> Change {
        let known = |t: &Token| t.authorization.0.expose_secret() == authorization.0.expose_secret();
        if self.present.as_ref().is_some_and(known) && self.signer == signer {
            // Said again by a new session. If it was refused, somebody may have mended that: it has another try.
            if matches!(self.state, State::Untried | State::Good) {
                return Change::None;
            }
            (self.state, self.doubts, self.not_before) = (State::Untried, 0, Time(0));
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
        }
        (self.state, self.doubts, self.not_before) = (State::Untried, 0, Time(0));
        match &self.former {
            Some((_, until)) if now < *until => Change::Try,
            _ => {
                self.former = None;
                Change::TakeAll
            }
        }
    }

    /// Whether a connection that has the token of this number takes the present one: with APNs, if the same key made both.
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
        let present = self.present.as_ref();
        let token = if self.state == State::Refused { former } else { present };
        token.map(|token| (&token.authorization, token.number))
    }

    /// Nothing is to be said of it: the present token is good, and there is no other.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.state == State::Good && self.doubts == 0 && self.former.is_none()
    }

    /// An acceptance would be news.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.state != State::Good || self.doubts > 0
    }

    /// A new token is being tried while the former goes on.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        self.state == State::Untried && self.former.is_some()
    }

    /// And connections that have the former do not take it.
    #[must_use]
    pub fn is_trying_other_key(&self) -> bool {
        self.is_trying() && self.former.as_ref().is_some_and(|(former, _)| !self.takes(former.number))
    }

    /// Held to be refused or expired: somebody should know.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.state, State::Expired(_) | State::Refused)
    }

    /// It is tried by one connection at a time, which is opened for that, then; `None`: it is not expired, or there is a
    /// former one.
    #[must_use]
    pub fn probed_at(&self) -> Option<Time> {
        (matches!(self.state, State::Expired(_)) && self.former.is_none()).then_some(self.not_before)
    }

    /// What may be sent on a connection that has the token of this number.
    #[must_use]
    pub fn allows(&self, number: u32, now: Time) -> Use {
        if number == self.number() {
            return match self.state {
                State::Good => Use::Freely,
                State::Untried | State::Expired(_) if now >= self.not_before => Use::Once,
                State::Untried | State::Expired(_) | State::Refused => Use::Never,
            };
        }
        match &self.former {
            Some((token, until)) if token.number == number && now < *until => Use::Freely,
            _ => Use::Never,
        }
    }

    /// A request with this one was answered by something else than a refusal of it. True: all connections are to take it.
    pub fn accepted(&mut self, number: u32) -> bool {
        if number != self.number() {
            return false;
        }
        let news = self.is_in_doubt();
        (self.state, self.doubts, self.not_before) = (State::Good, 0, Time(0));
        self.former.take().is_some() || news
    }

    /// The time of the former one is over. True: it was not before.
    pub fn expire_former(&mut self, now: Time) -> bool {
        self.former.take_if(|(_, until)| *until <= now).is_some()
    }

    /// One connection called this one expired. True: it is held to be so from now on.
    pub fn called_expired(&mut self, number: u32, now: Time, rng: &mut impl Rng) -> bool {
        if self.is_former(number) {
            self.former = None;
        }
        if number != self.number() || self.state == State::Refused {
            return false;
        }
        self.doubts = self.doubts.saturating_add(1);
        let times = match self.state {
            State::Expired(times) => times.saturating_add(1),
            _ if self.doubts < DOUBTS_MAX => return false,
            _ => 0,
        };
        self.state = State::Expired(times);
        self.not_before = now + AGAIN.pause(times, rng);
        times == 0
    }

    /// This one was refused for good. True: it is the present one, and that is news.
    pub fn refused(&mut self, number: u32) -> bool {
        if self.is_former(number) {
            self.former = None;
        }
        let news = number == self.number() && self.state != State::Refused;
        if news {
            self.state = State::Refused;
        }
        news
    }

    /// The gateway minds that the token has changed.
    pub fn put_off(&mut self, number: u32, now: Time) {
        if number == self.number() && self.state == State::Untried {
            self.not_before = now + PUT_OFF;
        }
    }

    /// When [`Trust::allows`] may change by time alone.
    #[must_use]
    pub fn ready_at(&self, now: Time) -> Option<Time> {
        Some(self.not_before).filter(|at| *at > now)
    }

    fn is_former(&self, number: u32) -> bool {
        self.former.as_ref().is_some_and(|(token, _)| token.number == number)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn token(value: &str) -> Authorization {
        Authorization(Arc::new(secrecy::SecretString::from(value.to_owned())))
    }

    /// With a token that has been accepted.
    fn good() -> Trust {
        let mut trust = Trust::new(Platform::Apns);
        assert_eq!(trust.take(token("one"), 7, Time(0)), Change::TakeAll);
        assert_eq!(trust.allows(1, Time(0)), Use::Once, "even the first");
        assert!(trust.accepted(1));
        assert!(trust.is_settled() && !trust.accepted(1));
        trust
    }

    #[test]
    fn the_former_goes_on_until_the_new_one_was_accepted() {
        let mut trust = good();
        assert_eq!(trust.take(token("two"), 7, Time(1)), Change::Try);
        assert_eq!([1, 2].map(|n| trust.allows(n, Time(2))), [Use::Freely, Use::Once]);
        assert!(!trust.accepted(1), "which says nothing of the new one");
        assert!(trust.is_trying());
        assert!(trust.accepted(2));
        assert_eq!([1, 2].map(|n| trust.allows(n, Time(2))), [Use::Never, Use::Freely]);
        assert!(trust.is_settled());
    }

    #[test]
    fn the_time_of_the_former_is_over_whether_the_new_one_was_tried_or_not() {
        let mut trust = good();
        trust.take(token("two"), 7, Time(0));
        let over = Time(0) + FORMER_APNS;
        assert!(!trust.expire_former(over - SECOND));
        assert_eq!(trust.allows(1, over), Use::Never);
        assert!(trust.expire_former(over) && !trust.expire_former(over));
        assert_eq!(trust.allows(2, over), Use::Once);
    }

    #[test]
    fn one_that_is_refused_is_an_alarm_and_the_former_goes_on_for_its_time() {
        let mut trust = good();
        trust.take(token("two"), 7, Time(0));
        assert!(trust.refused(2) && !trust.refused(2));
        assert!(trust.is_refused());
        assert_eq!(trust.best(Time(1)).map(|(_, number)| number), Some(1));
        assert_eq!([1, 2].map(|n| trust.allows(n, Time(1))), [Use::Freely, Use::Never]);
        assert_eq!(trust.best(Time(0) + FORMER_APNS).map(|(_, number)| number), None);
        assert_eq!(trust.take(token("three"), 7, Time(2)), Change::Try, "with the first, still");
        assert_eq!([1, 2, 3].map(|n| trust.allows(n, Time(2))), [Use::Freely, Use::Never, Use::Once]);
    }

    #[test]
    fn one_connection_in_doubt_is_no_alarm_and_two_in_a_row_are() {
        let (mut trust, mut rng) = (good(), Pcg64Mcg::seed_from_u64(1));
        assert!(!trust.called_expired(1, Time(0), &mut rng));
        assert!(trust.is_in_doubt() && !trust.is_refused());
        assert_eq!(trust.allows(1, Time(0)), Use::Freely, "the others go on");
        trust.accepted(1);
        assert!(!trust.called_expired(1, Time(0), &mut rng), "somebody was accepted in between");
        assert!(trust.called_expired(1, Time(0), &mut rng));
        assert!(trust.is_refused());
        let at = trust.probed_at().unwrap();
        assert_eq!([trust.allows(1, at - SECOND), trust.allows(1, at)], [Use::Never, Use::Once]);
        trust.accepted(1);
        assert!(trust.is_settled());
    }

    #[test]
    fn an_expired_one_is_tried_seldom_and_for_ever() {
        let (mut trust, mut rng) = (good(), Pcg64Mcg::seed_from_u64(1));
        (0..2).for_each(|_| _ = trust.called_expired(1, Time(0), &mut rng));
        let mut tries = Vec::new();
        while tries.len() < 100 {
            let at = trust.probed_at().unwrap();
            tries.push(at);
            assert!(!trust.called_expired(1, at, &mut rng), "told once");
        }
        assert!(tries.windows(2).all(|w| (SECOND..=61 * SECOND).contains(&w[1].since(w[0]))));
        assert!(tries[99].since(tries[9]) > 90 * 20 * SECOND, "half a minute on average");
    }

    #[test]
    fn the_same_again_changes_nothing_but_gives_a_refused_one_another_try() {
        let mut trust = good();
        assert_eq!(trust.take(token("one"), 7, Time(5)), Change::None);
        assert!(trust.is_settled());
        trust.refused(1);
        assert_eq!(trust.take(token("one"), 7, Time(5)), Change::TakeAll);
        assert_eq!((trust.allows(1, Time(5)), trust.is_refused()), (Use::Once, false));
    }

    #[test]
    fn a_change_that_the_gateway_minds_is_tried_again_later() {
        let mut trust = good();
        trust.take(token("two"), 7, Time(0));
        trust.put_off(2, Time(0));
        assert_eq!([1, 2].map(|n| trust.allows(n, Time(1))), [Use::Freely, Use::Never]);
        assert_eq!(trust.allows(2, Time(0) + PUT_OFF), Use::Once);
        assert_eq!(trust.ready_at(Time(1)), Some(Time(0) + PUT_OFF));
    }

    #[test]
    fn another_keys_token_is_tried_too_and_old_connections_do_not_take_it() {
        let mut trust = good();
        assert_eq!(trust.take(token("two"), 7, Time(0)), Change::Try);
        assert!(trust.accepted(2) && trust.takes(1));
        assert_eq!(trust.take(token("three"), 8, Time(0)), Change::Try);
        assert_eq!([1, 2, 3].map(|n| trust.takes(n)), [false, false, true]);
        assert_eq!([2, 3].map(|n| trust.allows(n, Time(0))), [Use::Freely, Use::Once]);
        assert!(trust.is_trying_other_key());
        // Its next one goes to the connections that have this.
        assert_eq!(trust.take(token("four"), 8, Time(1)), Change::Try);
        assert_eq!([2, 3, 4].map(|n| trust.takes(n)), [false, true, true]);
        assert_eq!(trust.allows(2, Time(1)), Use::Freely, "the last one that was good");
        let mut fcm = Trust::new(Platform::Fcm);
        fcm.take(token("one"), 7, Time(0));
        fcm.take(token("two"), 8, Time(0));
        assert!(fcm.takes(1), "each request of FCM's stands for itself");
    }
}
