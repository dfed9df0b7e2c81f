//! The rate that streams and connections allow, for comparison with the measured rate.
//!
//! A request occupies a stream from sending to answer, and the window of its connection from the
//! sending of its body until credit returns. So a connection carries `streams ÷ latency` requests a
//! second, or `window ÷ body ÷ credit delay` if that is less, and no sender can be faster. The
//! difference to the measured rate is the time in which connections were not used: the time for
//! which a sender collects for a write (2 ms), its other work, the time until a new connection has
//! finished its handshake, and the end of the wave, when no devices are left.

use clarion_emulator::{Platform, apns, fcm};
use serde::Serialize;

use crate::{scenario::LineSpec, verdict::recorded::Requests};

/// Rate that distance, streams and windows allow.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Arithmetic {
    /// Mean number of connections from the first to the last request.
    pub connections: f64,
    /// Highest number of connections at once.
    pub connections_max: u64,
    /// Requests that one connection may have in flight.
    pub at_once: f64,
    /// Mean time to an answer, milliseconds.
    pub latency_ms: f64,
    /// Requests per second that all connections allow.
    pub rate_per_second: f64,
    /// Measured requests per second.
    pub requests_per_second: f64,
    /// Measured rate as a share of the possible rate.
    pub used: f64,
}

impl Arithmetic {
    /// Returns the arithmetic of one gateway; `None` if the gateway is near: then its own
    /// processing time dominates, which the scenario does not know.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // bytes, requests and microseconds far below 2^53
    pub fn of(platform: Platform, line: LineSpec, requests: &Requests) -> Option<Self> {
        let latency = line.latency?;
        let mean_us = mean(latency.p50_us as f64, latency.p99_us as f64).max(1.0);
        let streams = f64::from(line.streams_max.unwrap_or(match platform {
            Platform::Apns => apns::STREAMS_MAX,
            Platform::Fcm => fcm::STREAMS_MAX,
        }));
        // The bytes of a request include TLS and headers, so its body is smaller, and the window
        // takes more bodies.
        let bytes = requests.bytes_received as f64 / requests.count.max(1) as f64;
        let bodies = line
            .connection_window
            .map_or(f64::INFINITY, |window| f64::from(window) / bytes.max(1.0));
        // At least for the time to an answer; credit that comes sooner opens the window sooner.
        let of_window = bodies * mean_us / (line.credit_delay_us as f64).max(1.0);
        let at_once = streams.min(of_window);
        let rate_per_second = requests.connections_mean * at_once / (mean_us / 1e6);
        let requests_per_second = requests.count as f64 / (requests.busy_us as f64 / 1e6).max(1e-3);
        Some(Self {
            connections: requests.connections_mean,
            connections_max: requests.connections_max,
            at_once,
            latency_ms: mean_us / 1e3,
            rate_per_second,
            requests_per_second,
            used: requests_per_second / rate_per_second,
        })
    }
}

/// Returns the mean of a lognormal distribution from its median and its 99th percentile.
fn mean(p50: f64, p99: f64) -> f64 {
    /// The 99th percentile of the normal distribution.
    const Z99: f64 = 2.326_347_874;
    let sigma = (p99.max(p50) / p50.max(1.0)).ln() / Z99;
    p50 * (sigma * sigma / 2.0).exp()
}

#[cfg(test)]
mod tests {
    use clarion_emulator::faults::Latency;

    use super::*;

    fn requests(connections_mean: f64, count: u64) -> Requests {
        Requests {
            count,
            bytes_received: 400 * count,
            busy_us: 10_000_000,
            connections_mean,
            ..Requests::default()
        }
    }

    #[test]
    fn a_constant_latency_is_its_own_mean_and_a_spread_one_is_above_its_median() {
        assert!((mean(50_000.0, 50_000.0) - 50_000.0).abs() < 1e-6);
        // exp(σ²/2) with σ = ln 2.4 ÷ 2.326
        assert!(
            (53_600.0..53_700.0).contains(&mean(50_000.0, 120_000.0)),
            "{}",
            mean(50_000.0, 120_000.0)
        );
    }

    #[test]
    fn streams_bind_or_the_window_does() {
        let line = LineSpec {
            latency: Some(Latency { p50_us: 100_000, p99_us: 100_000 }),
            ..LineSpec::default()
        };
        let streams = Arithmetic::of(Platform::Fcm, line, &requests(10.0, 90_000)).expect("far");
        assert!(
            (streams.rate_per_second - 10_000.0).abs() < 1e-6 && (streams.used - 0.9).abs() < 1e-9
        );
        let narrow = LineSpec { connection_window: Some(65_536), credit_delay_us: 100_000, ..line };
        let window = Arithmetic::of(Platform::Apns, narrow, &requests(1.0, 1_000)).expect("far");
        assert!((window.at_once - 163.84).abs() < 1e-6, "{window:?}");
        let soon = LineSpec { credit_delay_us: 50_000, ..narrow };
        let twice = Arithmetic::of(Platform::Apns, soon, &requests(1.0, 1_000)).expect("far");
        assert!((twice.at_once - 2.0 * window.at_once).abs() < 1e-6, "{twice:?}");
        assert!(Arithmetic::of(Platform::Apns, LineSpec::default(), &requests(1.0, 1)).is_none());
    }
}
