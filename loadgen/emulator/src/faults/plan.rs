//! Faults of one setting, prepared for the queries of a worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clarion_proto::time::Time;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    super::script::Scripts, Action, Errors, Faults, Handshake, Latency, Silence, Slow,
    TokenEndpoint,
};

/// Faults of one setting, with prepared data for queries.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Faults as configured.
    pub faults: Faults,
    /// Time at which the faults were set.
    pub since: Time,
    /// Number of the setting, counted up by one for each. Workers compare it to detect a newer
    /// setting.
    pub generation: u64,
    /// Rules of the faults in the form of scripts.
    pub scripts: Scripts,
    /// The latency at 256 evenly spaced quantiles, microseconds.
    quantiles: Box<[u64]>,
    /// For each of the errors, the period (upper half) and the number of affected requests in it
    /// (lower half).
    struck: Arc<[AtomicU64]>,
}

impl Plan {
    /// Prepares faults that are in force from `since` on.
    #[must_use]
    pub fn new(faults: Faults, since: Time, generation: u64) -> Self {
        let quantiles = quantiles(faults.latency);
        let scripts =
            Scripts { seed: faults.seed, rules: faults.rules.clone(), ..Scripts::default() };
        let struck = faults.errors.iter().map(|_| AtomicU64::new(0)).collect();
        Self { faults, since, generation, scripts, quantiles, struck }
    }

    /// Returns the delay of an answer for a random byte.
    #[must_use]
    pub fn latency(&self, random: u8, now: Time) -> Duration {
        let factor = self.slow(now).map_or(1, |s| u64::from(s.factor));
        Duration::from_micros(self.quantiles[usize::from(random)].saturating_mul(factor))
    }

    /// Returns the delay of credit at this time.
    #[must_use]
    pub fn credit_delay(&self, now: Time) -> Duration {
        let credit = self.faults.credit;
        if credit.delay_us > 0 && self.holds(credit.duration_ms, now) {
            Duration::from_micros(credit.delay_us)
        } else {
            Duration::ZERO
        }
    }

    /// Reports whether answers on a connection wait although they are due.
    #[must_use]
    pub fn holds_back(&self, connection: u32, now: Time) -> bool {
        self.faults.silent.is_some()
            && matches!(
                self.silent(connection, now),
                Some(Silence::HoldAnswers | Silence::DropAnswers)
            )
    }

    /// Reports whether answers have no delay, so that no random number is needed.
    #[must_use]
    pub fn is_instant(&self) -> bool {
        self.faults.latency == Latency::default()
            && self.faults.slow.is_none()
            && self.faults.silent.is_none()
    }

    /// Returns the slowness in force at this time.
    #[must_use]
    pub fn slow(&self, now: Time) -> Option<&Slow> {
        self.faults.slow.as_ref().filter(|s| self.holds(s.duration_ms, now))
    }

    /// Returns the interval between two answers of a slow gateway, nanoseconds.
    #[must_use]
    pub fn pace_ns(&self, now: Time) -> Option<u64> {
        self.slow(now).map(|s| {
            u64::from(s.factor.max(1)) * 1_000_000_000 / u64::from(s.normal_per_second.max(1))
        })
    }

    /// Returns the silence in force on a connection at this time.
    #[must_use]
    pub fn silent(&self, connection: u32, now: Time) -> Option<Silence> {
        let silent = self.faults.silent.as_ref().filter(|s| self.holds(s.duration_ms, now))?;
        self.applies_to(connection, silent.connections_ppm).then_some(silent.mode)
    }

    /// Returns the error that a random number selects for a request on a connection, and counts the
    /// request.
    #[must_use]
    pub fn error(&self, random: u64, connection: u32, now: Time) -> Option<&Errors> {
        let mut end = 0;
        let errors = self.faults.errors.iter().zip(&*self.struck);
        let holding = errors.filter(|(e, _)| self.holds_again(e.duration_ms, e.every_ms, now));
        let (error, struck) = holding
            .filter(|(e, _)| self.applies_to(connection, e.connections_ppm))
            .find(|(e, _)| {
                end += u64::from(e.ppm);
                random % 1_000_000 < end
            })?;
        let Some(times) = error.times else { return Some(error) };
        let period = now.since(self.since).as_millis() / u128::from(error.every_ms.max(1));
        let period =
            if error.every_ms == 0 { 0 } else { u64::try_from(period).unwrap_or(u64::MAX) << 32 };
        let count = |was: u64| {
            let (of, so_far) = (was & !u64::from(u32::MAX), was & u64::from(u32::MAX));
            let so_far = if of == period { so_far } else { 0 };
            (so_far < u64::from(times)).then_some(period | (so_far + 1))
        };
        struck.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok().then_some(error)
    }

    /// Returns the faults of a new connection before HTTP/2 begins.
    #[must_use]
    pub fn handshake(&self, connection: u32, now: Time) -> Handshake {
        let fault = self.faults.handshake;
        if self.holds(fault.duration_ms, now) && self.applies_to(connection, fault.connections_ppm)
        {
            fault
        } else {
            Handshake::default()
        }
    }

    /// Returns the greatest age of a provider token at this time, seconds; `None` without such a
    /// fault.
    #[must_use]
    pub fn provider_token_age_max(&self, now: Time) -> Option<u64> {
        let fault = self.faults.provider_token;
        fault.age_seconds_max.filter(|_| self.holds(fault.duration_ms, now))
    }

    /// Returns the actions whose turn came after `then` and until `now`; at most the last one of
    /// each [`super::Repeat`].
    pub fn turns(&self, then: Time, now: Time) -> impl Iterator<Item = &Action> {
        self.faults.repeat.iter().filter_map(move |repeat| {
            let turn =
                |at: Time| at.since(self.since).as_millis() / u128::from(repeat.every_ms.max(1));
            let last = self.end(repeat.duration_ms).map_or(now, |end| end.min(now));
            let (before, after) = (turn(then), turn(last));
            let length =
                u128::try_from(repeat.turns.len()).ok().filter(|&n| n > 0 && after > before)?;
            usize::try_from((after - 1) % length).ok().and_then(|at| repeat.turns.get(at))
        })
    }

    /// Returns the time of the next turn of an action.
    #[must_use]
    pub fn next_turn(&self, now: Time) -> Option<Time> {
        let next = self.faults.repeat.iter().filter(|r| !r.turns.is_empty()).filter_map(|repeat| {
            let every_us = repeat.every_ms.max(1) * 1_000;
            let passed = now.0.saturating_sub(self.since.0) / every_us;
            let next = Time(self.since.0 + every_us * (passed + 1));
            self.end(repeat.duration_ms).is_none_or(|end| next <= end).then_some(next)
        });
        next.min()
    }

    /// Returns the next end of a slowness or silence, at which a worker must wake.
    #[must_use]
    pub fn next_change(&self, now: Time) -> Option<Time> {
        let slow = self.slow(now).map(|s| s.duration_ms);
        let silent =
            self.faults.silent.filter(|s| self.holds(s.duration_ms, now)).map(|s| s.duration_ms);
        slow.into_iter().chain(silent).filter_map(|ms| self.end(ms)).min()
    }

    /// Reports whether a slowness or silence ended between two times. Waiting answers must then be
    /// checked again.
    #[must_use]
    pub fn changed_since(&self, then: Time, now: Time) -> bool {
        self.next_change(then).is_some_and(|change| change <= now)
    }

    /// Returns the faults of the token endpoint at this time.
    #[must_use]
    pub fn token_endpoint(&self, now: Time) -> TokenEndpoint {
        let fault = self.faults.token_endpoint;
        if self.holds(fault.duration_ms, now) { fault } else { TokenEndpoint::default() }
    }

    fn holds(&self, duration_ms: u64, now: Time) -> bool {
        self.end(duration_ms).is_none_or(|end| now < end)
    }

    /// Reports whether a fault that repeats every `every_ms` is in force at this time, like
    /// [`Self::holds`] from the start of each period.
    fn holds_again(&self, duration_ms: u64, every_ms: u64, now: Time) -> bool {
        if every_ms == 0 {
            return self.holds(duration_ms, now);
        }
        now.since(self.since).as_millis() % u128::from(every_ms) < u128::from(duration_ms)
    }

    fn end(&self, duration_ms: u64) -> Option<Time> {
        (duration_ms > 0).then(|| self.since + Duration::from_millis(duration_ms))
    }

    /// Reports whether a fault for a share of the connections applies to this connection.
    fn applies_to(&self, connection: u32, ppm: u32) -> bool {
        ppm >= 1_000_000
            || xxh3_64_with_seed(&connection.to_le_bytes(), self.faults.seed) % 1_000_000
                < u64::from(ppm)
    }
}

/// The lognormal's quantile is p50 · e^(σ·z), with σ such that the 99th percentile (z = 2.326) is
/// p99.
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
    (0..256)
        .map(|i| (p50 * (spread * normal_quantile((f64::from(i) + 0.5) / 256.0)).exp()) as u64)
        .collect()
}

/// Returns the quantile of the standard normal distribution by Hastings' approximation (Abramowitz
/// and Stegun, 26.2.23), with an error below 4.5e-4.
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
        assert_eq!(plan.silent(1, start), Some(Silence::DropAnswers));
        assert_eq!(plan.next_change(start), Some(start + 2 * SECOND));
        assert_eq!(plan.silent(1, start + 2 * SECOND), None);
        assert_eq!(plan.next_change(start + 2 * SECOND), None);
        assert!(plan.error(499_999, 1, start).is_some() && plan.error(500_000, 1, start).is_none());
        assert!(plan.error(0, 1, start + SECOND).is_none());
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

    #[test]
    fn bursts_come_again_and_connections_are_chosen_by_their_number() {
        let plan = plan(
            r#"{"seed": 3, "errors": [{"reason": "ServiceUnavailable", "ppm": 1000000, "connections_ppm": 300000,
                "duration_ms": 200, "every_ms": 1000}]}"#,
        );
        let start = Time(5_000_000);
        let struck = |at: Time| (0..10_000).filter(|&c| plan.error(0, c, at).is_some()).count();
        // The tolerance is six standard deviations of 46.
        assert!((2_725..3_275).contains(&struck(start)), "{}", struck(start));
        assert_eq!(struck(start + Duration::from_millis(200)), 0);
        assert_eq!(struck(start + 7 * SECOND), struck(start), "the same ones");
    }

    #[test]
    fn an_error_strikes_so_many_times_in_all_or_in_each_period() {
        let start = Time(5_000_000);
        let struck =
            |plan: &Plan, at: Time| (0..100).filter(|&c| plan.error(0, c, at).is_some()).count();
        let twice =
            plan(r#"{"errors": [{"reason": "PAGE", "status": 404, "ppm": 1000000, "times": 2}]}"#);
        assert_eq!(
            (struck(&twice, start), struck(&twice.clone(), start + 9 * SECOND)),
            (2, 0),
            "workers count together"
        );
        let again = plan(
            r#"{"errors": [{"reason": "PAGE", "ppm": 1000000, "times": 1, "duration_ms": 500, "every_ms": 1000}]}"#,
        );
        let at = |ms| struck(&again, start + Duration::from_millis(ms));
        assert_eq!([at(0), at(499), at(600), at(1_000), at(1_100), at(7_000)], [1, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn actions_take_turns() {
        let plan = plan(
            r#"{"repeat": [{"every_ms": 100, "duration_ms": 350, "turns": [{"do": "reset"}, {"do": "streams_max", "streams": 1}]}]}"#,
        );
        let at = |ms| Time(5_000_000) + Duration::from_millis(ms);
        let turns = |then, now| plan.turns(at(then), at(now)).cloned().collect::<Vec<_>>();
        let (reset, one) = (Action::Reset { connections: None }, Action::StreamsMax { streams: 1 });
        assert_eq!(turns(0, 99), []);
        assert_eq!(turns(99, 100), std::slice::from_ref(&reset));
        assert_eq!(turns(100, 199), []);
        assert_eq!(turns(100, 200), [one]);
        assert_eq!(turns(100, 300), std::slice::from_ref(&reset), "the last of them");
        assert_eq!(turns(350, 1_000), [], "it is over");
        assert_eq!(turns(0, 1_000), [reset]);
        assert_eq!(plan.next_turn(at(0)), Some(at(100)));
        assert_eq!(plan.next_turn(at(100)), Some(at(200)));
        assert_eq!(plan.next_turn(at(300)), None);
    }
}
