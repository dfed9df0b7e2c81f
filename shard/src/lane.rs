//! One core's end of a lane: what its answers say about the gateway as a whole, and so what may be sent now.
//!
//! Three kinds of trouble look alike to a single request and want different answers:
//!
//! - **The gateway asks for less** (503, 500, shutdown). One such answer among thousands of good ones is an accident of
//!   that request; when they are more than about one in ten, the lane stands still for a pause that doubles, with
//!   jitter, and then asks with one request per connection until a good answer comes. Only what was in flight is sent
//!   again: the walk has not moved. If the gateway says for how long (`retry-after`, a quota), one such answer is enough,
//!   and good answers to what was asked before do not end the pause.
//! - **The gateway says nothing.** Requests run into their deadlines with no answer to any of them. Then too one request
//!   per connection asks until an answer comes: whoever recovers from an outage must not meet a flood of repeats.
//! - **The credential is refused.** Nothing can succeed until a new provider token comes.
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

use std::{sync::Arc, time::Duration};

use clarion_proto::time::Time;
use rand::Rng;

use crate::command::{Authorization, LaneHealth, LaneSpec, Platform, Rate};
use load::Meter;
use pool::Pool;
use retry::Backoff;
use slice::Slice;

/// What a lane-level refusal weighs against one good answer: 8 make the lane pause at a share of one in nine.
const REFUSAL_WEIGHT: u32 = 8;
/// Where it pauses: after eight refusals in a row.
const REFUSALS_MAX: u32 = 64;

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
    authorization: Option<Authorization>,
    /// Counts the provider tokens, so that a refusal of a former one is not held against the present one.
    credential: u32,
    /// Whose key made the present provider token.
    signer: Option<u64>,
    /// The present provider token was refused.
    credential_refused: bool,
    slice: Slice,
    pause_until: Time,
    /// The gateway has said that nothing is to come before.
    asked_until: Time,
    /// Pauses since the lane last went well.
    pauses: u32,
    /// One request per connection until a good answer.
    probing: bool,
    throttled: bool,
    silent: bool,
    refusals: u32,
    last_answer: Time,
    /// Its connections idled too long: the next is opened when there is work.
    rests: bool,
    told: Option<LaneHealth>,
    detail: String,
    campaign: Option<String>,
}

impl LaneEnd {
    /// A new end, without a provider token yet.
    #[must_use]
    pub fn new(spec: Arc<LaneSpec>) -> Self {
        Self {
            pool: Pool::new(connect_backoff(&spec), spec.connections),
            meter: Meter::default(),
            connections: spec.connections,
            spec,
            authorization: None,
            credential: 0,
            signer: None,
            credential_refused: false,
            slice: Slice::default(),
            pause_until: Time(0),
            asked_until: Time(0),
            pauses: 0,
            probing: false,
            throttled: false,
            silent: false,
            refusals: 0,
            last_answer: Time(0),
            rests: false,
            told: None,
            detail: String::new(),
            campaign: None,
        }
    }

    /// New limits. True: another gateway, so the connections have to go.
    pub fn respecify(&mut self, spec: Arc<LaneSpec>) -> bool {
        let moved = self.spec.endpoint != spec.endpoint
            || self.spec.server_name != spec.server_name
            || self.spec.roots.roots != spec.roots.roots;
        if moved {
            self.pool = Pool::new(connect_backoff(&spec), self.connections);
        }
        self.spec = spec;
        moved
    }

    /// Another part of the lane's budget.
    pub fn set_connections(&mut self, connections: usize) {
        self.connections = connections;
        self.pool.resize(connections);
    }

    /// How many connections it should have.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// A new provider token: whatever was held against the former one is forgotten. True: another key than that of the
    /// former made it.
    pub fn authorize(&mut self, authorization: Authorization, signer: u64) -> bool {
        self.authorization = Some(authorization);
        self.credential = self.credential.wrapping_add(1);
        self.credential_refused = false;
        self.signer.replace(signer).is_some_and(|former| former != signer)
    }

    /// The present provider token and its number.
    #[must_use]
    pub fn authorization(&self) -> Option<(&Authorization, u32)> {
        self.authorization.as_ref().map(|a| (a, self.credential))
    }

    /// The number of the present provider token.
    #[must_use]
    pub fn credential(&self) -> u32 {
        self.credential
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
        self.may_connect() && now >= self.silent_until()
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
    pub fn may_connect(&self) -> bool {
        self.authorization.is_some() && !self.credential_refused
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
        if now < self.silent_until() {
            return Some(self.silent_until());
        }
        self.slice.ready_at(now)
    }

    /// Nothing is sent before, whoever wanted it so.
    fn silent_until(&self) -> Time {
        self.pause_until.max(self.asked_until)
    }

    /// The gateway answered about so many devices: it works.
    pub fn answered(&mut self, devices: usize, now: Time) {
        self.heard(now);
        self.refusals = self.refusals.saturating_sub(u32::try_from(devices).unwrap_or(u32::MAX));
        self.pool.answered();
        if now >= self.asked_until && (self.probing || self.throttled) {
            self.probing = false;
            self.throttled = false;
            self.pauses = 0;
            self.refusals = 0;
            self.pause_until = self.pause_until.min(now);
        }
    }

    /// The gateway answered something that says nothing of its load.
    pub fn heard(&mut self, now: Time) {
        self.meter.heard();
        self.last_answer = now;
        self.silent = false;
    }

    /// The gateway asked for less: for nothing at all for `wait`, if it says so.
    pub fn refused(&mut self, now: Time, rng: &mut impl Rng, wait: Option<Duration>, detail: &dyn std::fmt::Display) {
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
            None => self.pause(now, rng),
        }
    }

    /// A request ended without an answer. If nothing at all was answered for as long as a request may take, the lane is
    /// silent.
    pub fn unanswered(&mut self, now: Time, rng: &mut impl Rng) {
        if now.since(self.last_answer) >= self.spec.request_deadline {
            self.silent = true;
            self.pause(now, rng);
        }
    }

    /// The provider token with this number was refused. False: another one has come since.
    pub fn credential_refused(&mut self, credential: u32, detail: &dyn std::fmt::Display) -> bool {
        if credential == self.credential && !self.credential_refused {
            self.credential_refused = true;
            self.detail = detail.to_string();
        }
        credential == self.credential
    }

    /// The gateway refuses the message of an app, whoever it is for.
    pub fn campaign_refused(&mut self, detail: String) {
        self.campaign = Some(detail);
    }

    /// Stands still for a while, then probes. Answers that arrive during a pause do not make it longer: they were asked
    /// for before it.
    fn pause(&mut self, now: Time, rng: &mut impl Rng) {
        if now >= self.pause_until {
            self.pause_until = now + backoff(&self.spec).pause(self.pauses, rng);
            self.pauses = self.pauses.saturating_add(1);
            self.probing = true;
        }
    }

    /// What to tell the control plane, if it has changed. `connected`: how many connections stand.
    pub fn take_news(&mut self, connected: usize) -> Option<(LaneHealth, String)> {
        if let Some(detail) = self.campaign.take() {
            self.told = Some(LaneHealth::Campaign);
            return Some((LaneHealth::Campaign, detail));
        }
        let health = self.health(connected)?;
        if self.told == Some(health) {
            return None;
        }
        self.told = Some(health);
        let detail = match health {
            LaneHealth::Credential | LaneHealth::Throttled => self.detail.clone(),
            LaneHealth::Unreachable if self.silent => "no answers".to_owned(),
            LaneHealth::Unreachable => "no connection".to_owned(),
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
        Some(if self.credential_refused {
            LaneHealth::Credential
        } else if self.silent || (connected == 0 && self.pool.failures() > 0) {
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

/// Between tries to connect, which cost the gateway's backends nothing.
fn connect_backoff(spec: &LaneSpec) -> Backoff {
    Backoff { min: spec.backoff_min, max: spec.backoff_max, floor: Duration::ZERO }
}
