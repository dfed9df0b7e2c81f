//! What can go wrong at a gateway, as data.
//!
//! Two kinds. **Conditions** hold from the moment they are set for a time, or until replaced: latency, slowness, silence,
//! errors, refusals. **Actions** ([`Action`]) happen once to the connections that are open then. A new [`Faults`] replaces
//! all conditions, so that what holds is always what was said last. Everything here is pure: a worker asks its [`Plan`]
//! with the time and a random number. A later fault is a field, its question, and the place that asks it.

use std::time::Duration;

use clarion_proto::time::Time;
use serde::{Deserialize, Serialize};

use super::{
    answer::{Reason, RetryAfter},
    platform::Platform,
    script::{Rule, Scripts},
};

/// All conditions, and actions to take now. The default: an undisturbed gateway that answers at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// From a request's end to its answer.
    pub latency: Latency,
    /// Fewer and later answers.
    pub slow: Option<Slow>,
    /// No answers.
    pub silent: Option<Silent>,
    /// Answers by chance; the first that strikes counts.
    pub errors: Vec<Errors>,
    /// Parts per million of the requests that are refused unprocessed, by RST_STREAM(REFUSED_STREAM).
    pub refuse_ppm: u32,
    /// Per token, like those of the scripts, and before them.
    pub rules: Vec<Rule>,
    /// Seed of the rules' hash.
    pub seed: u64,
    /// What happens once, now.
    pub once: Vec<Action>,
    /// FCM: the token endpoint's.
    pub token_endpoint: TokenEndpoint,
}

impl Faults {
    /// The first reason that a gateway of this platform never gives.
    #[must_use]
    pub fn foreign_reason(&self, platform: Platform) -> Option<Reason> {
        let goaway = self.once.iter().filter_map(|a| match a {
            Action::Goaway { reason, .. } => *reason,
            Action::Reset { .. } | Action::StreamsMax { .. } => None,
        });
        let reasons =
            self.errors.iter().map(|e| e.reason).chain(self.rules.iter().map(|r| r.answer.reason)).chain(goaway);
        reasons.into_iter().find(|r| r.platform().is_some_and(|p| p != platform))
    }
}

/// A lognormal delay, given by two of its quantiles; equal (or no p99): constant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// Median, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
}

/// A gateway that is `factor` times slower: each answer takes `factor` times the latency, and all connections together
/// get no more than `normal_per_second / factor` answers a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// How many times slower.
    pub factor: u32,
    /// The capacity that counts as normal.
    #[serde(default = "normal_per_second")]
    pub normal_per_second: u32,
    /// How long; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
}

fn normal_per_second() -> u32 {
    100_000
}

/// A gateway that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silent {
    /// In which way.
    pub mode: Silence,
    /// How long; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
}

/// Ways to say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Silence {
    /// Sockets are neither read nor written: TCP pushes back.
    StopReading,
    /// Requests are read and accepted; their answers are written when the silence ends.
    HoldAnswers,
    /// Requests are read and accepted; they are never answered.
    DropAnswers,
}

/// Errors by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// The provider's reason, such as `ServiceUnavailable` or `UNAVAILABLE`.
    pub reason: Reason,
    /// Parts per million of the requests.
    pub ppm: u32,
    /// The push reaches the phone in spite of the answer.
    #[serde(default)]
    pub delivered: bool,
    /// FCM: `Retry-After`.
    #[serde(default)]
    pub retry_after: Option<RetryAfter>,
    /// How long; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
}

/// What is wrong with FCM's OAuth token endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenEndpoint {
    /// It answers 503 to everything.
    pub down: bool,
    /// It takes so long to answer.
    pub delay_ms: u64,
    /// Access tokens are good for so many seconds only, and say so.
    pub lifetime_seconds: Option<u64>,
    /// How long; 0: until replaced.
    pub duration_ms: u64,
}

/// What happens once, to the connections open when it is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// GOAWAY, then what is open is answered, then the connection is closed.
    Goaway {
        /// Goes into the debug data as `{"reason":"…"}`; absent: none of APNs, `session_timed_out` of FCM.
        #[serde(default)]
        reason: Option<Reason>,
        /// First with the largest stream id, and with the real one so many milliseconds later (RFC 9113, section 6.8).
        #[serde(default)]
        two_step_ms: Option<u64>,
        /// Requests still without an answer are told to be unprocessed, by a last stream id below theirs, and are not accepted.
        #[serde(default)]
        refuse_open: bool,
        /// Only so many connections of each worker thread.
        #[serde(default)]
        connections: Option<usize>,
    },
    /// TCP reset.
    Reset {
        /// Only so many connections of each worker thread.
        #[serde(default)]
        connections: Option<usize>,
    },
    /// SETTINGS with another MAX_CONCURRENT_STREAMS, for these connections and those to come.
    StreamsMax {
        /// The limit.
        streams: u32,
    },
}

/// The faults of one moment, ready to be asked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// As set.
    pub faults: Faults,
    /// When.
    pub since: Time,
    /// Counts the settings; workers compare it to see whether theirs is the newest.
    pub generation: u64,
    /// The rules, as scripts.
    pub scripts: Scripts,
    /// The latency at 256 evenly spaced quantiles, microseconds.
    quantiles: Box<[u64]>,
}

impl Plan {
    /// Prepares faults that were set now.
    #[must_use]
    pub fn new(faults: Faults, since: Time, generation: u64) -> Self {
        let quantiles = quantiles(faults.latency);
        let scripts = Scripts { seed: faults.seed, rules: faults.rules.clone(), ..Scripts::default() };
        Self { faults, since, generation, scripts, quantiles }
    }

    /// How long an answer takes, by a random byte.
    #[must_use]
    pub fn latency(&self, random: u8, now: Time) -> Duration {
        let factor = self.slow(now).map_or(1, |s| u64::from(s.factor));
        Duration::from_micros(self.quantiles[usize::from(random)].saturating_mul(factor))
    }

    /// Whether answers wait although they are due.
    #[must_use]
    pub fn holds_back(&self, now: Time) -> bool {
        self.faults.silent.is_some() && matches!(self.silent(now), Some(Silence::HoldAnswers | Silence::DropAnswers))
    }

    /// Whether answers take no time and chance plays no part: then none need be asked.
    #[must_use]
    pub fn is_instant(&self) -> bool {
        self.faults.latency == Latency::default() && self.faults.slow.is_none() && self.faults.silent.is_none()
    }

    /// The slowness that holds now.
    #[must_use]
    pub fn slow(&self, now: Time) -> Option<&Slow> {
        self.faults.slow.as_ref().filter(|s| self.holds(s.duration_ms, now))
    }

    /// Nanoseconds between two answers while slow.
    #[must_use]
    pub fn pace_ns(&self, now: Time) -> Option<u64> {
        self.slow(now).map(|s| u64::from(s.factor.max(1)) * 1_000_000_000 / u64::from(s.normal_per_second.max(1)))
    }

    /// The silence that holds now.
    #[must_use]
    pub fn silent(&self, now: Time) -> Option<Silence> {
        self.faults.silent.as_ref().filter(|s| self.holds(s.duration_ms, now)).map(|s| s.mode)
    }

    /// The error that strikes a request, by a random number.
    #[must_use]
    pub fn error(&self, random: u64, now: Time) -> Option<&Errors> {
        let mut end = 0;
        self.faults.errors.iter().filter(|e| self.holds(e.duration_ms, now)).find(|e| {
            end += u64::from(e.ppm);
            random % 1_000_000 < end
        })
    }

    /// Whether a request is refused unprocessed, by a random number.
    #[must_use]
    pub fn refuses(&self, random: u64) -> bool {
        random % 1_000_000 < u64::from(self.faults.refuse_ppm)
    }

    /// When slowness or silence ends next: a worker must wake then.
    #[must_use]
    pub fn next_change(&self, now: Time) -> Option<Time> {
        let slow = self.slow(now).map(|s| s.duration_ms);
        let silent = self.faults.silent.filter(|_| self.silent(now).is_some()).map(|s| s.duration_ms);
        slow.into_iter().chain(silent).filter(|&ms| ms > 0).map(|ms| self.since + Duration::from_millis(ms)).min()
    }

    /// Whether slowness or silence ended between two times: what waits must be looked at again.
    #[must_use]
    pub fn changed_since(&self, then: Time, now: Time) -> bool {
        self.next_change(then).is_some_and(|change| change <= now)
    }

    /// What is wrong with the token endpoint now.
    #[must_use]
    pub fn token_endpoint(&self, now: Time) -> TokenEndpoint {
        let fault = self.faults.token_endpoint;
        if self.holds(fault.duration_ms, now) { fault } else { TokenEndpoint::default() }
    }

    fn holds(&self, duration_ms: u64, now: Time) -> bool {
        duration_ms == 0 || now < self.since + Duration::from_millis(duration_ms)
    }
}

/// The lognormal's quantile is p50 · e^(σ·z), with σ such that the 99th percentile (z = 2.326) is p99.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "microseconds of latencies are far below 2^52"
)]
fn quantiles(latency: Latency) -> Box<[u64]> {
    let p50 = latency.p50_us as f64;
    let spread = if latency.p99_us > latency.p50_us && latency.p50_us > 0 {
        (latency.p99_us as f64 / p50).ln() / 2.326_347_9
    } else {
        0.0
    };
    (0..256).map(|i| (p50 * (spread * normal_quantile((f64::from(i) + 0.5) / 256.0)).exp()) as u64).collect()
}

/// The standard normal's quantile, by Hastings' approximation (Abramowitz and Stegun, 26.2.23): error below 4.5e-4.
fn normal_quantile(p: f64) -> f64 {
    let tail = p.min(1.0 - p);
    let t = (-2.0 * tail.ln()).sqrt();
    let top = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let bottom = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    let z = t - top / bottom;
    if p < 0.5 { -z } else { z }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(text: &str) -> Plan {
        Plan::new(serde_json::from_str(text).expect("well formed"), Time(5_000_000), 1)
    }

    #[test]
    fn conditions_end_by_themselves() {
        let plan = plan(
            r#"{"silent": {"mode": "drop_answers", "duration_ms": 2000}, "errors": [{"reason": "ServiceUnavailable", "ppm": 500000, "duration_ms": 1000}]}"#,
        );
        let start = Time(5_000_000);
        assert_eq!(plan.silent(start), Some(Silence::DropAnswers));
        assert_eq!(plan.next_change(start), Some(start + 2 * SECOND));
        assert_eq!(plan.silent(start + 2 * SECOND), None);
        assert_eq!(plan.next_change(start + 2 * SECOND), None);
        assert!(plan.error(499_999, start).is_some() && plan.error(500_000, start).is_none());
        assert!(plan.error(0, start + SECOND).is_none());
    }

    #[test]
    fn a_slow_gateway_has_less_capacity_and_more_latency() {
        let plan = plan(
            r#"{"latency": {"p50_us": 2000}, "slow": {"factor": 100, "normal_per_second": 50000, "duration_ms": 1000}}"#,
        );
        let start = Time(5_000_000);
        assert_eq!(plan.latency(200, start), Duration::from_millis(200));
        assert_eq!(plan.pace_ns(start), Some(2_000_000), "500 a second");
        assert_eq!(plan.latency(200, start + SECOND), Duration::from_millis(2));
        assert_eq!(plan.pace_ns(start + SECOND), None);
    }

    #[test]
    fn latency_has_its_median_and_tail() {
        let plan = plan(r#"{"latency": {"p50_us": 50000, "p99_us": 200000}}"#);
        let at = |i| plan.latency(i, Time(0)).as_micros();
        assert!((49_000..51_000).contains(&at(127)), "{}", at(127));
        assert!((180_000..215_000).contains(&at(253)), "{}", at(253));
    }

    #[test]
    fn actions_and_unknown_words() {
        let faults: Faults = serde_json::from_str(
            r#"{"once": [{"do": "goaway", "reason": "Shutdown", "two_step_ms": 5}, {"do": "reset"}]}"#,
        )
        .expect("well formed");
        assert_eq!(faults.once.len(), 2);
        assert!(serde_json::from_str::<Faults>(r#"{"latencies": {}}"#).is_err());
    }
}
