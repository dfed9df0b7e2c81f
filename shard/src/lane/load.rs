//! Load of a lane's connections on one core: the measurement for the cluster-wide connection
//! budget.
//!
//! Connections are the bottleneck exactly while a core waits although it has devices to push to and
//! no connection has a free stream or window. A core that is never idle cannot use more
//! connections; a lane that waits for its quota, the rate of its alert or the end of a pause has
//! room on its connections. So this module measures that waiting time, from the end of a turn to
//! the beginning of the next. The time does not count while the gateway answers nothing: more
//! connections to a silent gateway would be silent too.
//!
//! The time to an answer is sampled, one request in [`SAMPLED`] and one at a time on a connection:
//! the median of some hundred samples per second is as good as that of all requests, and a request
//! that is not sampled costs one decrement.

use std::time::Duration;

use clarion_proto::{latency::Latencies, time::Time};

/// Number of requests of which one is sampled.
const SAMPLED: u8 = 64;
/// Time after which a sampled request without an answer is forgotten; longer than any useful
/// deadline.
const LOST: Duration = Duration::from_mins(1);
/// Shortest time between two reports of the load.
pub const TELL_EVERY: Duration = Duration::from_millis(100);
/// Length of a generation of samples: latencies of the present one and of the one before count.
/// Older answers mean nothing for a gateway that has become slow since.
const GENERATION: Duration = Duration::from_secs(2);
/// Most bodies in the mean before the sums are halved, so that the bodies of a new alert soon
/// dominate.
const BODIES_MAX: u64 = 4_096;

/// Load of one core's connections of a lane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LaneLoad {
    /// Whether devices wait to be pushed to.
    pub busy: bool,
    /// Share of the time in which more connections would have been useful, 0 to 1.
    pub starved: f64,
    /// Number of established connections that accept as many requests as the gateway allows.
    pub connections: u64,
    /// Sum of the connections' stream limits, as the gateway announced them.
    pub streams: u64,
    /// Sum of the connections' windows as opened by the gateway, bytes.
    pub window_bytes: u64,
    /// Highest number of requests in flight at once.
    pub requests_out_max: u64,
    /// Number of recent requests whose bodies were measured.
    pub bodies: u64,
    /// Sum of the sizes of those bodies, bytes.
    pub body_bytes: u64,
    /// Latencies sampled in the last seconds.
    pub latencies: Latencies,
}

/// Meter of one core's end of a lane.
#[derive(Debug, Default)]
pub struct Meter {
    reported_at: Option<Time>,
    reported_busy: bool,
    busy: bool,
    starved_since: Option<Time>,
    starved: Duration,
    out_max: usize,
    answered_since: bool,
    bodies: u64,
    body_bytes: u64,
    latencies: Latencies,
    former: Latencies,
    turned: Time,
}

impl Meter {
    /// Records that a turn begins, which ends the wait.
    pub fn woke(&mut self, now: Time) {
        if let Some(since) = self.starved_since.take() {
            self.starved += now.since(since);
        }
    }

    /// Records that a turn has ended. With `starved`, the following time is lost for lack of
    /// streams and windows.
    pub fn rests(&mut self, busy: bool, starved: bool, out: usize, now: Time) {
        self.busy |= busy;
        self.out_max = self.out_max.max(out);
        self.starved_since = starved.then_some(now);
    }

    /// Counts requests that were sent and the bytes of their bodies.
    pub fn sent(&mut self, requests: usize, body_bytes: usize) {
        (self.bodies, self.body_bytes) =
            (self.bodies + requests as u64, self.body_bytes + body_bytes as u64);
        if self.bodies > BODIES_MAX {
            (self.bodies, self.body_bytes) = (self.bodies / 2, self.body_bytes / 2);
        }
    }

    /// Records an answer of the gateway.
    pub fn answer_received(&mut self) {
        self.answered_since = true;
    }

    /// Records the latency of a sampled request.
    pub fn answered(&mut self, took: Duration, now: Time) {
        self.turn(now);
        self.latencies.count(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Returns the time of the next report; `None` if nothing has changed.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        let Some(reported) = self.reported_at else { return Some(Time(0)) };
        (self.busy || self.reported_busy).then_some(reported + TELL_EVERY)
    }

    /// Marks the load as unreported, so that it is reported again.
    pub fn report_again(&mut self) {
        self.reported_at = None;
    }

    /// Returns the load to report, without the connections.
    pub fn take(&mut self, now: Time) -> LaneLoad {
        self.turn(now);
        if self.starved_since.is_some() {
            self.woke(now);
            self.starved_since = Some(now);
        }
        let since =
            self.reported_at.map_or(TELL_EVERY, |at| now.since(at)).max(Duration::from_micros(1));
        let mut latencies = self.latencies;
        latencies.add(&self.former);
        let starved = if self.answered_since { self.starved } else { Duration::ZERO };
        let load = LaneLoad {
            busy: self.busy,
            starved: (starved.as_secs_f64() / since.as_secs_f64()).min(1.0),
            requests_out_max: self.out_max as u64,
            bodies: self.bodies,
            body_bytes: self.body_bytes,
            latencies,
            ..LaneLoad::default()
        };
        (self.reported_at, self.reported_busy) = (Some(now), self.busy);
        (self.busy, self.answered_since, self.starved, self.out_max) =
            (false, false, Duration::ZERO, 0);
        load
    }

    fn turn(&mut self, now: Time) {
        let passed = now.since(self.turned);
        if passed >= GENERATION {
            let latencies = std::mem::take(&mut self.latencies);
            self.former = if passed < 2 * GENERATION { latencies } else { Latencies::default() };
            self.turned = now;
        }
    }
}

/// Sampling of the requests of one connection.
#[derive(Debug, Default)]
pub struct Probe {
    skip: u8,
    under_way: Option<(u64, Time)>,
}

impl Probe {
    /// Records that a request is sent, and samples it if its turn has come.
    pub fn sent(&mut self, ticket: u64, now: Time) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.skip = SAMPLED - 1;
        if self.under_way.is_none_or(|(_, at)| now.since(at) > LOST) {
            self.under_way = Some((ticket, now));
        }
    }

    /// Returns the latency of the sampled request if it is among the answered ones.
    pub fn among(&mut self, tickets: &[u64], now: Time) -> Option<Duration> {
        let (_, sent) = self.under_way.take_if(|(sampled, _)| tickets.contains(sampled))?;
        Some(now.since(sent))
    }

    /// Returns the latency if the answered request is the sampled one.
    pub fn answered(&mut self, ticket: u64, now: Time) -> Option<Duration> {
        let (_, sent) = self.under_way.take_if(|(sampled, _)| *sampled == ticket)?;
        Some(now.since(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_in_so_many_is_sampled_and_one_at_a_time() {
        let (mut probe, mut taken) = (Probe::default(), 0);
        for ticket in 0..1_000 {
            probe.sent(ticket, Time(ticket));
        }
        for ticket in 0..1_000 {
            if let Some(took) = probe.answered(ticket, Time(ticket + 5_000)) {
                assert_eq!((ticket, took), (0, 5 * MS));
                taken += 1;
            }
        }
        assert_eq!(taken, 1);
        (0..64).for_each(|ticket| probe.sent(ticket, Time(9_000)));
        assert!(
            (0..64).any(|ticket| probe.answered(ticket, Time(9_500)).is_some()),
            "the next one after it was answered"
        );
    }

    #[test]
    fn a_sample_without_an_answer_is_given_up() {
        let mut probe = Probe::default();
        probe.sent(1, Time(0));
        let later = Time(0) + LOST + MS;
        (0..64).for_each(|n| probe.sent(100 + n, later));
        assert_eq!(probe.answered(1, later), None);
        assert!((100..164).any(|ticket| probe.answered(ticket, later + MS) == Some(MS)));
    }

    #[test]
    fn waits_without_room_are_a_share_of_the_time() {
        let mut meter = Meter::default();
        assert_eq!(meter.due(), Some(Time(0)), "said once without being asked");
        let idle = meter.take(Time(0));
        assert_eq!((idle.busy, idle.starved), (false, 0.0));
        assert_eq!(meter.due(), None);
        let mut now = Time(0);
        for _ in 0..10 {
            meter.woke(now);
            meter.rests(true, true, 7, now);
            now = now + 4 * MS; // waited
            meter.woke(now);
            meter.answer_received();
            meter.rests(true, false, 3, now);
            now = now + 6 * MS; // at work
        }
        assert_eq!(meter.due(), Some(Time(0) + TELL_EVERY));
        let load = meter.take(now);
        assert!(load.busy && (0.39..=0.41).contains(&load.starved), "{load:?}");
        assert_eq!(load.requests_out_max, 7);
        assert_eq!(meter.due(), Some(now + TELL_EVERY), "and that it is idle now");
        assert!(!meter.take(now + TELL_EVERY).busy);
        assert_eq!(meter.due(), None);
    }

    #[test]
    fn a_silent_gateway_is_no_reason_for_more_connections() {
        let mut meter = Meter::default();
        meter.take(Time(0));
        meter.rests(true, true, 100, Time(0));
        assert_eq!(meter.take(Time(0) + TELL_EVERY).starved, 0.0);
    }

    #[test]
    fn old_latencies_are_forgotten() {
        let mut meter = Meter::default();
        meter.answered(50 * MS, Time(0));
        assert_eq!(meter.take(Time(0) + GENERATION).latencies.total(), 1);
        assert_eq!(meter.take(Time(0) + 2 * GENERATION).latencies.total(), 0);
    }
}
