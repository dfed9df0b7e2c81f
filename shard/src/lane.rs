//! One core's end of a lane: what its answers say about the gateway as a whole, and so what may be sent now.
//!
//! Four kinds of trouble look alike to a single request and want different answers:
//!
//! - **The gateway asks for less** (503, 500, shutdown). One such answer among thousands of good ones is an accident of
//!   that request; when they are more than about one in ten, the lane stands still for a pause that doubles, with
//!   jitter, and then asks with one request per connection until a good answer comes. Only what was in flight is sent
//!   again: the walk has not moved. If the gateway says for how long (`retry-after`, a quota), one such answer is enough,
//!   and good answers to what was asked before do not end the pause.
//! - **The gateway says nothing.** Requests run into their deadlines with no answer to any of them. Then too one request
//!   per connection asks until an answer comes: whoever recovers from an outage must not meet a flood of repeats.
//! - **Nothing can be said to it.** Connections stand, and take no request ([`Mute`]). For people that is the same as if
//!   there was none, and they are told why.
//! - **The credential is refused.** Nothing can succeed until a new provider token comes, or the gateway changes its mind
//!   (`trust`).
//!
//! The state here is pure: times come in, decisions come out. Connections are kept by the core.

pub mod connection;
mod field;
pub mod apns;
pub mod fcm;
pub mod answer;
pub mod load;
pub mod pool;
pub mod pace;
pub mod retry;
pub mod slice;
pub mod trust;

use std::{fmt, sync::Arc, time::Duration};

use clarion_proto::time::Time;
use rand::Rng;

use crate::command::{LaneHealth, LaneSpec, Platform, Rate};
use connection::Obstacle;
use load::Meter;
use pool::Pool;
use retry::Backoff;
use slice::Slice;
use trust::Trust;

/// What a lane-level refusal weighs against one good answer: 8 make the lane pause at a share of one in nine.
const REFUSAL_WEIGHT: u32 = 8;
/// Where it pauses: after eight refusals in a row.
const REFUSALS_MAX: u32 = 64;

/// Why a gateway that can be reached is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mute {
    /// Requests run into their deadlines.
    Silent,
    /// Requests cannot even be written.
    Obstacle(Obstacle),
}

impl fmt::Display for Mute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("no answers"),
            Self::Obstacle(obstacle) => obstacle.fmt(f),
        }
    }
}

/// One core's end of one lane.
#[derive(Debug)]
pub struct LaneEnd {
    /// As told by the control plane.
    pub spec: Arc<LaneSpec>,
    /// When connections may be opened.
    pub pool: Pool,
    /// How they are used.
    pub meter: Meter,
    /// How many it should have.
    connections: usize,
    /// Its provider tokens.
    pub trust: Trust,
    slice: Slice,
    pause_until: Time,
    /// The gateway has said that nothing is to come before.
    asked_until: Time,
    /// Pauses since the lane last went well.
    pauses: u32,
    /// One request per connection until a good answer.
    probing: bool,
    throttled: bool,
    /// Until it was of use again.
    mute: Option<Mute>,
    refusals: u32,
    last_answer: Time,
    /// Its connections idled too long: the next is opened when there is work.
    rests: bool,
    /// What was told last, and how often its words had changed by then.
    told: Option<(LaneHealth, Option<Mute>, u32)>,
    detail: String,
    /// Why the last attempt to connect came to nothing.
    no_connection: String,
    /// Counts the reasons.
    reasons: u32,
    campaign: Option<String>,
}

impl LaneEnd {
    /// A new end, without a provider token yet.
    #[must_use]
    pub fn new(spec: Arc<LaneSpec>) -> Self {
        Self {
            pool: Pool::new((spec.backoff_min, spec.backoff_max), spec.connections),
            meter: Meter::default(),
            connections: spec.connections,
            trust: Trust::new(spec.platform),
            spec,
            slice: Slice::default(),
            pause_until: Time(0),
            asked_until: Time(0),
            pauses: 0,
            probing: false,
            throttled: false,
            mute: None,
            refusals: 0,
            last_answer: Time(0),
            rests: false,
            told: None,
            detail: String::new(),
            no_connection: String::new(),
            reasons: 0,
            campaign: None,
        }
    }

    /// New limits. True: another gateway, so the connections have to go.
    pub fn respecify(&mut self, spec: Arc<LaneSpec>) -> bool {
        let moved = self.spec.endpoint != spec.endpoint
            || self.spec.server_name != spec.server_name
            || self.spec.roots.roots != spec.roots.roots;
        if moved {
            self.pool = Pool::new((spec.backoff_min, spec.backoff_max), self.connections);
        }
        self.spec = spec;
        moved
    }

    /// Another part of the lane's budget.
    pub fn set_connections(&mut self, connections: usize, now: Time) {
        self.connections = connections;
        self.pool.resize(connections, now);
    }

    /// How many connections it should have.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// Part of the lane's quota, until a time.
    pub fn set_slice(&mut self, until: Time, rate: Option<Rate>, now: Time) {
        self.slice.set(until, rate, now);
    }

    /// How many requests may go now: credential, pause and slice allow it.
    pub fn room(&mut self, now: Time) -> usize {
        if self.is_open(now) { self.slice.room(now) } else { 0 }
    }

    /// Whether credential and pause allow requests.
    #[must_use]
    pub fn is_open(&self, now: Time) -> bool {
        self.may_connect(now) && now >= self.silent_until()
    }

    /// Nothing may be written later under the present slice.
    #[must_use]
    pub fn leased_until(&self) -> Time {
        self.slice.until()
    }

    /// So many requests go out.
    pub fn take(&mut self, requests: usize, now: Time) {
        self.slice.take(requests, now);
    }

    /// So many requests that went out were answered or given up.
    pub fn settled(&mut self, requests: usize, now: Time) {
        self.slice.settled(requests, now);
    }

    /// Requests that went out and have no fate yet.
    #[must_use]
    pub fn out(&self) -> usize {
        self.slice.out()
    }

    /// Whether only one request per connection may be out.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.probing
    }

    /// Whether connections make sense.
    #[must_use]
    pub fn may_connect(&self, now: Time) -> bool {
        self.trust.best(now).is_some() && self.trust.probed_at().is_none_or(|at| now >= at)
    }

    /// A connection that idled has gone; nobody opens another one for nothing.
    pub fn rest(&mut self) {
        self.rests = true;
    }

    /// A connection is opened.
    pub fn wake(&mut self) {
        self.rests = false;
    }

    /// Whether no connection is wanted before there is work.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.rests
    }

    /// When the time alone may make [`LaneEnd::room`] grow; `None`: never.
    #[must_use]
    pub fn ready_at(&self, now: Time) -> Option<Time> {
        let until = self.silent_until().max(self.trust.ready_at(now).unwrap_or_default());
        if now < until {
            return Some(until);
        }
        // For a wave that begins, and for the others.
        let (first, others) = (self.slice.ready_at(now, 0), self.slice.ready_at(now, self.slice.reserve()));
        first.filter(|at| *at > now).or(others)
    }

    /// Requests of the slice that are kept free for a wave that begins: so many of it may go before it waits as others do.
    #[must_use]
    pub fn reserve(&self) -> usize {
        self.slice.reserve()
    }

    /// Nothing is sent before, whoever wanted it so.
    fn silent_until(&self) -> Time {
        self.pause_until.max(self.asked_until)
    }

    /// The gateway answered about so many devices: it works.
    pub fn answered(&mut self, devices: usize, now: Time) {
        self.heard(now);
        self.refusals = self.refusals.saturating_sub(u32::try_from(devices).unwrap_or(u32::MAX));
        if now >= self.asked_until && (self.probing || self.throttled) {
            self.probing = false;
            self.throttled = false;
            self.pauses = 0;
            self.refusals = 0;
            self.pause_until = self.pause_until.min(now);
        }
    }

    /// A connection has had more answers: what that says of connecting.
    pub fn counted(&mut self, before: u32, answers: u32) {
        if before == 0 {
            self.pool.answered();
        }
        if before < pool::ANSWERS_FOR_AN_ATTEMPT && answers >= pool::ANSWERS_FOR_AN_ATTEMPT {
            self.pool.earned();
        }
    }

    /// The gateway answered something that says nothing of its load.
    pub fn heard(&mut self, now: Time) {
        self.meter.heard();
        self.last_answer = now;
        if self.mute == Some(Mute::Silent) {
            self.mute = None;
        }
    }

    /// A connection has had so many answers. The first request may go out before SETTINGS come and say that none may.
    pub fn was_of_use(&mut self, answers: u32) {
        if self.mute.is_some() && answers > 1 {
            self.mute = None;
        }
    }

    /// The gateway asked for less: for nothing at all for `wait`, if it says so.
    pub fn refused(&mut self, now: Time, rng: &mut impl Rng, wait: Option<Duration>, detail: &dyn fmt::Display) {
        self.heard(now);
        self.refusals = (self.refusals + REFUSAL_WEIGHT).min(2 * REFUSALS_MAX);
        if wait.is_none() && !self.probing && self.refusals < REFUSALS_MAX {
            return;
        }
        if !self.throttled {
            self.throttled = true;
            self.detail = detail.to_string();
        }
        match wait {
            // Each answer speaks for itself: the latest end counts. Without jitter: all that follows is one request for
            // each connection.
            Some(wait) => {
                self.asked_until = self.asked_until.max(now + wait);
                self.probing = true;
            }
            None => self.pause(now, backoff(&self.spec), rng),
        }
    }

    /// A request ended without an answer. If nothing at all was answered for as long as a request may take, the lane is
    /// silent. Nobody has asked for less then, and one request for each connection, which waits for its whole deadline,
    /// is little: the pauses are those between attempts to connect.
    pub fn unanswered(&mut self, now: Time, rng: &mut impl Rng) {
        if self.went_mute(Mute::Silent, false, now) {
            let (min, max) = (self.spec.backoff_min.min(pool::PAUSE_MIN), self.spec.backoff_max);
            let backoff = Backoff { min, max: max.min(pool::BUSY_PAUSE_MAX), floor: Duration::ZERO };
            self.pause(now, backoff, rng);
        }
    }

    /// A connection is of no use. The whole lane is not, if there is no other (`alone`), or nobody was answered for as long
    /// as a request may take.
    pub fn went_mute(&mut self, why: Mute, alone: bool, now: Time) -> bool {
        let mute = alone || now.since(self.last_answer) >= self.spec.request_deadline;
        if mute {
            self.mute = Some(why);
        }
        mute
    }

    /// There is no connection, for this reason; none, if it is empty.
    pub fn cannot_connect(&mut self, why: String) {
        if self.no_connection != why {
            self.no_connection = why;
            self.reasons = self.reasons.wrapping_add(1);
        }
    }

    /// The present provider token is held to be refused, in these words.
    pub fn credential_refused(&mut self, detail: &dyn fmt::Display) {
        self.detail = detail.to_string();
    }

    /// The gateway refuses the message of an app, whoever it is for.
    pub fn campaign_refused(&mut self, detail: String) {
        self.campaign = Some(detail);
    }

    /// Stands still for a while, then probes. Answers that arrive during a pause do not make it longer: they were asked
    /// for before it.
    fn pause(&mut self, now: Time, backoff: Backoff, rng: &mut impl Rng) {
        if now >= self.pause_until {
            self.pause_until = now + backoff.pause(self.pauses, rng);
            self.pauses = self.pauses.saturating_add(1);
            self.probing = true;
        }
    }

    /// What to tell the control plane, if it has changed. `connected`: how many connections stand.
    pub fn take_news(&mut self, connected: usize) -> Option<(LaneHealth, String)> {
        if let Some(detail) = self.campaign.take() {
            self.told = Some((LaneHealth::Campaign, None, 0));
            return Some((LaneHealth::Campaign, detail));
        }
        let health = self.health(connected)?;
        let mute = self.mute.filter(|_| health == LaneHealth::Unreachable);
        let reason = if health == LaneHealth::Unreachable && mute.is_none() { self.reasons } else { 0 };
        if self.told == Some((health, mute, reason)) {
            return None;
        }
        self.told = Some((health, mute, reason));
        let detail = match health {
            LaneHealth::Credential | LaneHealth::Throttled => self.detail.clone(),
            LaneHealth::Unreachable => match mute {
                Some(mute) => mute.to_string(),
                None if self.no_connection.is_empty() => "no connection".to_owned(),
                None => format!("no connection: {}", self.no_connection),
            },
            LaneHealth::Ready | LaneHealth::Campaign => String::new(),
        };
        Some((health, detail))
    }

    /// Forgets what was told, so that it is told again.
    pub fn tell_again(&mut self) {
        self.meter.tell_again();
        self.told = None;
    }

    fn health(&self, connected: usize) -> Option<LaneHealth> {
        Some(if self.trust.is_refused() {
            LaneHealth::Credential
        } else if self.mute.is_some() || (connected == 0 && self.pool.failures() > 0) {
            LaneHealth::Unreachable
        } else if self.throttled {
            LaneHealth::Throttled
        } else if connected > 0 {
            LaneHealth::Ready
        } else {
            return None; // still connecting for the first time
        })
    }

    /// Between tries of one device.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        backoff(&self.spec)
    }
}

/// Between tries of a request. Google wants the first pause whole (Firebase, "Best practices when sending FCM messages at
/// scale": at least 10 s), so there the jitter comes on top of it.
fn backoff(spec: &LaneSpec) -> Backoff {
    let floor = match spec.platform {
        Platform::Apns => Duration::ZERO,
        Platform::Fcm => spec.backoff_min,
    };
    Backoff { min: spec.backoff_min, max: spec.backoff_max, floor }
}
