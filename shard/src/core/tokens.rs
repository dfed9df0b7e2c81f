//! Provider tokens of connections: applies the decisions of `lane/trust`, and reports the gateway's
//! answers to it.

use std::fmt::Display;

use clarion_proto::{ids::LaneId, time::Time};

use super::{
    Core,
    link::{Link, State},
    links::LinkSlot,
};
use crate::{
    lane::{
        LaneEnd,
        evidence::Witness,
        provider::authorization::Authorization,
        trust::{Change, Refusal, Use},
    },
    outcome::Platform,
};

/// Requests that one turn may send on the connections of a lane, as far as their tokens allow.
pub(super) struct Permits {
    settled: bool,
    /// Whether the one request that tries a token is in flight.
    tried: bool,
}

impl Permits {
    pub(super) fn new(end: &LaneEnd, of_lane: &[u32], links: &[LinkSlot]) -> Self {
        let settled = end.trust.is_settled();
        let number = end.trust.number();
        let tries =
            |link: &Link| !link.leaving && link.credential == number && link.requests_out() > 0;
        let mut of_lane = of_lane.iter().filter_map(|l| links[*l as usize].link.as_ref());
        Self { settled, tried: !settled && of_lane.any(tries) }
    }

    /// Returns the number of requests that may be sent on a connection now.
    pub(super) fn offer(&mut self, end: &LaneEnd, link: &mut Link, now: Time) -> usize {
        let probing = end.is_probing();
        if self.settled {
            return link.offer(probing, now);
        }
        if link.is_remote() {
            return link.offer(probing || end.trust.is_condemned(), now);
        }
        match end.trust.allows(link.credential, now) {
            Use::Freely => link.offer(probing, now),
            Use::Once if !self.tried => {
                let offer = link.offer(true, now).min(1);
                self.tried = offer > 0;
                offer
            }
            Use::Once | Use::Never => 0,
        }
    }
}

impl Core {
    /// Handles a new provider token.
    pub(super) fn provider_token(
        &mut self,
        lane: LaneId,
        authorization: Authorization,
        signer: u64,
        now: Time,
    ) {
        let Some(lane) = self.find_lane(lane) else { return };
        match self.lanes[lane].end.trust.take(authorization, signer, now) {
            Change::None => {}
            Change::Try => self.tend_tokens(lane, now),
            Change::TakeAll => self.take_token(lane, |_| true),
        }
    }

    /// Lets one connection try a new token, and closes those whose token is too old.
    pub(super) fn tend_tokens(&mut self, lane: usize, now: Time) {
        let trust = &mut self.lanes[lane].end.trust;
        if trust.is_settled() {
            return;
        }
        if trust.expire_former(now) {
            match trust.is_condemned() {
                true => self.retire_lane(lane),
                false => self.take_token(lane, |_| true),
            }
        } else if trust.is_trying(now) {
            let Self { lanes, links, .. } = &*self;
            let trust = &lanes[lane].end.trust;
            let other_key = trust.is_trying_other_key(now);
            let own = lanes[lane]
                .links
                .iter()
                .filter_map(|l| Some((*l, links[*l as usize].link.as_ref()?)));
            let own = own.filter(|(_, link)| !link.leaving && !link.is_remote());
            // A new connection gets the newest token when it is established; if all connections
            // take the token, none waits for that.
            let tries = |link: &Link| match link.is_open() {
                true => link.credential == trust.number(),
                false => other_key,
            };
            let soon = other_key && self.wants_links(lane);
            // The connection with the fewest requests in flight has them answered first.
            let chosen = match soon || own.clone().any(|(_, link)| tries(link)) {
                true => None,
                false => own
                    .filter(|(_, link)| link.is_open())
                    .min_by_key(|(_, link)| link.requests_out()),
            };
            let chosen = chosen.map(|(slot, _)| slot);
            self.take_token(lane, |slot| chosen == Some(slot));
        }
    }

    /// Gives the present token to the selected connections of a lane. Those that cannot take it
    /// leave, and their replacements have it; their open requests may still be answered.
    fn take_token(&mut self, lane: usize, which: impl Fn(u32) -> bool) {
        let Some((authorization, number)) = self.lanes[lane].end.trust.present() else { return };
        let authorization = authorization.clone();
        for slot in self.lanes[lane].links.clone() {
            let Some(link) = self.links[slot as usize].link.as_mut() else { continue };
            if !which(slot) && !link.is_remote() || link.credential == number {
                continue;
            }
            let takes = self.lanes[lane].end.trust.takes(link.credential);
            match &mut link.state {
                State::Open(_) if !takes => {
                    self.retire(slot);
                    continue;
                }
                State::Open(connection) => connection.set_authorization(authorization.clone()),
                State::Remote(_) => {}
                State::Connecting(_) => continue, // it gets one when it stands
            }
            link.credential = number;
        }
    }

    /// Records that the gateway answered requests with this token without refusing the token.
    pub(super) fn token_accepted(&mut self, lane: usize, number: u32) {
        if self.lanes[lane].end.trust.accepted(number) {
            self.take_token(lane, |_| true);
        }
    }

    /// Handles a refusal of a request's token.
    pub(super) fn token_refused(
        &mut self,
        link: u32,
        by: Witness,
        number: u32,
        words: &dyn Display,
        now: Time,
    ) {
        let Some(at) = self.links[link as usize].link.as_ref().map(|l| l.lane) else { return };
        let Self { lanes, rng, .. } = self;
        let end = &mut lanes[at].end;
        end.answer_received(now);
        let counts = !self.batch.has_success;
        let refusal = end.trust.refused(number, (by, counts), end.spec.evidence, now, rng);
        if refusal != Refusal::Old {
            end.credential_refused(words);
        }
        match end.spec.platform {
            // APNs's connections remember a refusal: another attempt needs other ones.
            Platform::Apns => {
                if refusal == Refusal::OfToken {
                    for slot in self.lanes[at].links.clone() {
                        if self.links[slot as usize]
                            .link
                            .as_ref()
                            .is_some_and(|link| link.credential == number)
                        {
                            self.retire(slot);
                        }
                    }
                }
                self.retire(link);
            }
            // Each request of FCM is independent: a connection that tried the token returns to the
            // former one, if that is still valid.
            Platform::Fcm => {
                let Some((authorization, best)) = self.lanes[at].end.trust.best(now) else {
                    return;
                };
                let authorization = authorization.clone();
                let Some(link) = self.links[link as usize].link.as_mut() else { return };
                if let State::Open(connection) = &mut link.state
                    && link.credential != best
                {
                    connection.set_authorization(authorization);
                    link.credential = best;
                }
            }
        }
    }
}
