//! One core's end of a lane: the state of the gateway, and how many requests may be sent now.
//!
//! Several kinds of trouble look alike to a single request and need different reactions:
//!
//! - **The gateway asks for less** (503, 500, shutdown, a quota). One such answer among good ones
//!   concerns that request. A full row of them ([`evidence`]) pauses the lane: for the shortest
//!   time that all answers of the row ask for (`retry-after`, a quota), otherwise for a pause that
//!   doubles, with jitter. Then one request per connection probes until a good answer comes. Only
//!   requests in flight are repeated: the walk has not moved. Good answers to earlier requests do
//!   not end a pause that the gateway has asked for.
//! - **An intermediary answers** (a proxy's pages, redirects, truncated answers). A full row of
//!   these is an outage, too, with pauses of seconds.
//! - **All answers say that the project does not exist.** The reaction is the same, because an
//!   operator may be repairing the project.
//! - **The gateway does not answer.** Requests reach their deadlines without any answer. Then too
//!   one request per connection probes, because a recovering gateway needs time.
//! - **Connections accept no request** ([`Mute`]) although they are established.
//! - **The credential is refused.** Single requests try it until it is accepted or a new provider
//!   token arrives ([`trust`]).
//!
//! The state machine here does no I/O: times come in, decisions go out. The core owns the
//! connections.

pub mod provider;
pub mod connection;
pub mod spec;
pub mod rate;
pub mod health;
pub mod evidence;
pub mod load;
pub mod news;
pub mod pool;
pub mod pace;
pub mod retry;
pub mod slice;
pub mod trust;

use std::{fmt, sync::Arc, time::Duration};

use clarion_proto::time::Time;
use clarion_runtime::repeated::Repeated;
use rand::Rng;

use crate::{
    lane::{health::LaneHealth, rate::Rate, spec::LaneSpec},
    outcome::Platform,
};
use connection::Obstacle;
use evidence::{Row, Witness};
use load::Meter;
use pool::Pool;
use retry::Backoff;
use slice::Slice;
use trust::Trust;

/// Pauses of a lane whose gateway has not asked for a pause. The longest one is the time by which a
/// lane may be late after its trouble has ended.
const PROBE: Backoff = Backoff {
    min: Duration::from_millis(500),
    max: Duration::from_millis(2_250),
    floor: Duration::from_millis(250),
};
/// Meaning for the lane of an answer other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The gateway asks for less load; with a duration, for no request during that time.
    Load(Option<Duration>),
    /// The provider token changed too often. A probe uses the same token: no further change.
    TokenChange,
    /// The gateway did not sign the answer.
    Unsigned,
    /// The project does not exist, according to the answer.
    Project,
}

/// Reason why an established connection serves no requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mute {
    /// Requests reach their deadlines without an answer.
    Silent,
    /// Requests cannot be written.
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

/// One lane on one core: state of the gateway, and the decision how many requests may be sent.
#[derive(Debug)]
pub struct LaneEnd {
    /// Specification of the lane, from the control plane.
    pub spec: Arc<LaneSpec>,
    /// Pool that decides when connections may be opened.
    pub pool: Pool,
    /// Meter of the load on the connections.
    pub meter: Meter,
    /// Target number of connections.
    connections: usize,
    /// State of the lane's provider tokens.
    pub trust: Trust,
    slice: Slice,
    pause_until: Time,
    /// Time before which the gateway asked for no requests.
    asked_until: Time,
    /// Number of pauses since the lane last worked.
    pauses: u32,
    /// Whether each connection sends only one request until a good answer.
    probing: bool,
    /// Trouble shown by a full row of answers, which keeps the lane from sending.
    trouble: Option<LaneHealth>,
    /// Reason why connections serve no requests, until one serves a request again.
    mute: Option<Mute>,
    /// Row of answers that ask for less, with the shortest requested time.
    load: Row,
    load_wait: Duration,
    /// Row of answers that the gateway did not sign.
    unsigned: Row,
    /// Row of answers that call the project unknown.
    project: Row,
    last_answer: Time,
    /// Whether connections closed after they were idle; the next one is opened when there is work.
    rests: bool,
    /// Health in the last report.
    reported: Option<news::Reported>,
    /// Present trouble and the time at which it was first noticed.
    since: Option<(LaneHealth, Time)>,
    /// Text of the answer that filled the row of the present trouble.
    detail: String,
    /// Text of the last refusal of the credential.
    credential_detail: String,
    /// Error of the last failed attempt to connect.
    no_connection: String,
    /// Number of changes of the three texts above.
    words: u32,
    campaign: Option<String>,
    /// Limits the log lines about connections that failed.
    failures: Repeated,
}

impl LaneEnd {
    /// Creates a lane end without a provider token.
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
            trouble: None,
            mute: None,
            load: Row::default(),
            load_wait: Duration::ZERO,
            unsigned: Row::default(),
            project: Row::default(),
            last_answer: Time(0),
            rests: false,
            reported: None,
            since: None,
            detail: String::new(),
            credential_detail: String::new(),
            no_connection: String::new(),
            words: 0,
            campaign: None,
            failures: Repeated::default(),
        }
    }

    /// Counts a failed connection. Returns the failures since the last log line, if it is logged.
    pub fn times_to_log(&mut self, reason: &str, now: Time) -> Option<u64> {
        self.failures.note(reason, now.since(Time(0)))
    }

    /// Replaces the specification. Returns true if the connections must close: another gateway.
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

    /// Sets this core's part of the lane's connection budget.
    pub fn set_connections(&mut self, connections: usize, now: Time) {
        self.connections = connections;
        self.pool.resize(connections, now);
    }

    /// Returns the target number of connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// Sets this core's part of the lane's quota until a time; `None` means no limit.
    pub fn set_slice(&mut self, until: Time, rate: Option<Rate>, now: Time) {
        self.slice.set(until, rate, now);
    }

    /// Returns the number of requests that credential, pause and slice allow now.
    pub fn room(&mut self, now: Time) -> usize {
        if self.is_open(now) { self.slice.room(now) } else { 0 }
    }

    /// Reports whether credential and pause allow requests.
    #[must_use]
    pub fn is_open(&self, now: Time) -> bool {
        self.may_connect(now) && now >= self.silent_until()
    }

    /// Returns the time after which the present slice allows no writes.
    #[must_use]
    pub fn leased_until(&self) -> Time {
        self.slice.until()
    }

    /// Counts requests that are sent.
    pub fn take(&mut self, requests: usize, now: Time) {
        self.slice.take(requests, now);
    }

    /// Counts requests that were answered or abandoned.
    pub fn settled(&mut self, requests: usize, now: Time) {
        self.slice.settled(requests, now);
    }

    /// Returns the number of requests that were sent and have no result yet.
    #[must_use]
    pub fn out(&self) -> usize {
        self.slice.out()
    }

    /// Reports whether only one request per connection may be in flight.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.probing
    }

    /// Reports whether connections are useful at this time.
    #[must_use]
    pub fn may_connect(&self, now: Time) -> bool {
        self.trust.best(now).is_some() && self.trust.probed_at().is_none_or(|at| now >= at)
    }

    /// Records that an idle connection closed; the next one is opened when there is work.
    pub fn rest(&mut self) {
        self.rests = true;
    }

    /// Records that a connection is opened.
    pub fn wake(&mut self) {
        self.rests = false;
    }

    /// Reports whether no connection is wanted until there is work.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.rests
    }

    /// Returns when [`LaneEnd::room`] may grow without an event; `None` if it cannot.
    #[must_use]
    pub fn ready_at(&self, now: Time) -> Option<Time> {
        let until = self.silent_until();
        if now < until {
            return Some(until);
        }
        // For a new wave and for the others. A token with a later attempt delays no other token.
        let (first, others) =
            (self.slice.ready_at(now, 0), self.slice.ready_at(now, self.slice.reserve()));
        let slice = first.filter(|at| *at > now).or(others);
        match self.trust.ready_at(now) {
            Some(at) => Some(slice.filter(|slice| *slice > now).map_or(at, |slice| slice.min(at))),
            None => slice,
        }
    }

    /// Returns the number of requests of the slice that only a new wave may use.
    #[must_use]
    pub fn reserve(&self) -> usize {
        self.slice.reserve()
    }

    /// Returns the time before which nothing is sent for any reason.
    fn silent_until(&self) -> Time {
        self.pause_until.max(self.asked_until)
    }

    /// Records an answer about a device, which shows that the gateway works.
    pub fn answered(&mut self, now: Time) {
        self.answer_received(now);
        self.load.clear();
        self.unsigned.clear();
        self.project.clear();
        if now >= self.asked_until && (self.probing || self.trouble.is_some()) {
            self.probing = false;
            self.trouble = None;
            self.pauses = 0;
            self.pause_until = self.pause_until.min(now);
        }
    }

    /// Counts answers of a connection, which show that connecting is useful.
    pub fn counted(&mut self, before: u32, answers: u32) {
        if before == 0 {
            self.pool.answered();
        }
        if before < pool::ANSWERS_FOR_AN_ATTEMPT && answers >= pool::ANSWERS_FOR_AN_ATTEMPT {
            self.pool.earned();
        }
    }

    /// Records an answer that says nothing about the gateway's load.
    pub fn answer_received(&mut self, now: Time) {
        self.meter.answer_received();
        self.last_answer = now;
        if self.mute == Some(Mute::Silent) {
            self.mute = None;
        }
    }

    /// Records that a connection was useful. The first request may be sent before SETTINGS arrive
    /// that allow none.
    pub fn was_of_use(&mut self, answers: u32) {
        if self.mute.is_some() && answers > 1 {
            self.mute = None;
        }
    }

    /// Records an answer other than success that concerns the lane. `counts` says whether the
    /// answer counts in rows.
    pub fn doubted(
        &mut self,
        doubt: Doubt,
        (by, counts): (Witness, bool),
        detail: &dyn fmt::Display,
        now: Time,
        rng: &mut impl Rng,
    ) {
        self.answer_received(now);
        let (health, mut asked) = match doubt {
            Doubt::Load(wait) => {
                let wait = wait.unwrap_or_default();
                self.load_wait = if self.load.is_empty() { wait } else { self.load_wait.min(wait) };
                (LaneHealth::Throttled, Some(wait))
            }
            Doubt::TokenChange => (LaneHealth::Throttled, None),
            Doubt::Unsigned => (LaneHealth::Unsigned, None),
            Doubt::Project => (LaneHealth::Project, None),
        };
        let needed = self.spec.evidence;
        let row = match doubt {
            Doubt::Load(_) | Doubt::TokenChange => &mut self.load,
            Doubt::Unsigned => &mut self.unsigned,
            Doubt::Project => &mut self.project,
        };
        let full = counts && row.add(by, needed);
        if doubt != Doubt::Unsigned {
            self.unsigned.clear();
        }
        if !full && !self.probing {
            return;
        }
        if self.trouble != Some(health) {
            self.trouble = Some(health);
            self.set_detail(detail);
        }
        // Answers that arrive during a pause do not make it longer, because their requests were
        // sent before it.
        if now < self.silent_until() {
            return;
        }
        if !self.probing {
            // The pause is the shortest that the answers of the row ask for.
            asked = asked.map(|_| self.load_wait);
        }
        match asked {
            Some(wait) if !wait.is_zero() => {
                self.asked_until = now + wait;
                self.probing = true;
            }
            Some(_) => self.pause(now, backoff(&self.spec), rng),
            None => self.pause(now, PROBE, rng),
        }
    }

    /// Reports whether the lane treats the project as missing.
    #[must_use]
    pub fn misses_project(&self) -> bool {
        self.trouble == Some(LaneHealth::Project)
    }

    fn set_detail(&mut self, detail: &dyn fmt::Display) {
        self.detail = detail.to_string();
        self.words = self.words.wrapping_add(1);
    }

    /// Records a request that ended without an answer. If no request was answered for as long as a
    /// request may take, the lane is silent. The gateway has not asked for less load then, and one
    /// request for each connection, which waits for its whole deadline, is little. So the pauses
    /// are those between attempts to connect.
    pub fn unanswered(&mut self, now: Time, rng: &mut impl Rng) {
        if self.went_mute(Mute::Silent, false, now) {
            let (min, max) = (self.spec.backoff_min.min(pool::PAUSE_MIN), self.spec.backoff_max);
            let backoff =
                Backoff { min, max: max.min(pool::BUSY_PAUSE_MAX), floor: Duration::ZERO };
            self.pause(now, backoff, rng);
        }
    }

    /// Records a connection that serves no requests. The whole lane is mute if it has no other
    /// connection (`alone`), or if no request was answered for as long as a request may take.
    pub fn went_mute(&mut self, why: Mute, alone: bool, now: Time) -> bool {
        let mute = alone || now.since(self.last_answer) >= self.spec.request_deadline;
        if mute {
            self.mute = Some(why);
        }
        mute
    }

    /// Records the reason why there is no connection; an empty reason means that there is one.
    pub fn cannot_connect(&mut self, why: String) {
        if self.no_connection != why {
            self.no_connection = why;
            self.words = self.words.wrapping_add(1);
        }
    }

    /// Records the text of a refusal of the provider token.
    pub fn credential_refused(&mut self, detail: &dyn fmt::Display) {
        let detail = detail.to_string();
        if self.credential_detail != detail {
            self.credential_detail = detail;
            self.words = self.words.wrapping_add(1);
        }
    }

    /// Records that the gateway refuses an app's message for every device.
    pub fn campaign_refused(&mut self, detail: String) {
        self.campaign = Some(detail);
    }

    /// Pauses the lane, then probes. Answers that arrive during a pause do not make it longer:
    /// their requests were sent before it.
    fn pause(&mut self, now: Time, backoff: Backoff, rng: &mut impl Rng) {
        if now >= self.pause_until {
            self.pause_until = now + backoff.pause(self.pauses, rng);
            self.pauses = self.pauses.saturating_add(1);
            self.probing = true;
        }
    }

    /// Marks the health and the load as unreported, so that they are reported again.
    pub fn report_again(&mut self) {
        self.meter.report_again();
        self.reported = None;
    }

    /// Returns the pauses between attempts of a device whose answer does not concern the gateway's
    /// load: the configured pauses, but at least a second.
    #[must_use]
    pub fn backoff_elsewhere(&self) -> Backoff {
        let (min, max) = (self.spec.backoff_min.min(pool::PAUSE_MIN), self.spec.backoff_max);
        Backoff { min, max, floor: min / 2 }
    }

    /// Returns the pauses between attempts of one device.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        backoff(&self.spec)
    }
}

/// Returns the pauses between attempts of a request. Google requires the complete first pause
/// (Firebase, "Best practices when sending FCM messages at scale": at least 10 s), so for FCM the
/// jitter is added to it.
fn backoff(spec: &LaneSpec) -> Backoff {
    let floor = match spec.platform {
        Platform::Apns => Duration::ZERO,
        Platform::Fcm => spec.backoff_min,
    };
    Backoff { min: spec.backoff_min, max: spec.backoff_max, floor }
}
