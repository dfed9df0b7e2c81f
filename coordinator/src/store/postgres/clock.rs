//! Difference between the server's clock and this machine's.
//!
//! Append times are the server's. A coordinator whose clock differs by more than
//! [`OFFSET_MAX_MS`] would expire places and alerts too early or too late, and must not be ready.

use std::time::Duration;

use clarion_proto::ids::UnixMillis;

use super::query::Query;

/// Largest difference of a coordinator that is ready, milliseconds.
pub const OFFSET_MAX_MS: i64 = 2_000;
/// Interval between two measurements.
pub(super) const MEASURE_INTERVAL: Duration = Duration::from_secs(30);

/// A measured difference of two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    /// The server's clock minus this machine's, milliseconds; the middle of what is possible.
    pub offset_ms: i64,
    /// Largest error of [`ClockOffset::offset_ms`]: half of the time that the server's answer took.
    pub error_ms: i64,
}

impl ClockOffset {
    /// The difference, from the server's time and the times before and after it was asked.
    pub(super) fn of(before: UnixMillis, server_ms: i64, after: UnixMillis) -> Self {
        let [before, after] = [before, after].map(|t| i64::try_from(t.0).unwrap_or(i64::MAX));
        let error_ms = after.saturating_sub(before).max(0) / 2;
        Self { offset_ms: server_ms.saturating_sub(before.saturating_add(error_ms)), error_ms }
    }

    /// Whether the clocks differ for certain by more than [`OFFSET_MAX_MS`]: a slow answer alone is
    /// no difference.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.offset_ms.saturating_abs().saturating_sub(self.error_ms) > OFFSET_MAX_MS
    }
}

/// Reads the server's clock, milliseconds.
pub(super) fn ask() -> Query {
    Query::new("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_certain_only_beyond_its_error() {
        let of = |server, after| ClockOffset::of(UnixMillis(10_000), server, UnixMillis(after));
        assert_eq!(of(10_002, 10_004), ClockOffset { offset_ms: 0, error_ms: 2 });
        assert!(!of(12_010, 10_020).is_too_large());
        assert!(of(12_021, 10_020).is_too_large() && of(7_989, 10_020).is_too_large());
        assert!(!of(13_000, 14_000).is_too_large(), "the answer took 4 s");
        // This machine's clock was set back meanwhile.
        assert_eq!(of(10_000, 9_000), ClockOffset { offset_ms: 0, error_ms: 0 });
    }
}
