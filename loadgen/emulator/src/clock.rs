//! The clocks of the emulator; no other module reads a clock.
//!
//! Verdicts compare the times of a record with the times of other processes on this machine. So the
//! times are those of CLOCK_MONOTONIC, which all processes share (`std::time::Instant` reads the
//! same clock but hides the number). Provider tokens and 410 timestamps use wall-clock time.

use clarion_proto::{ids::UnixMillis, time::Time};

/// Reads CLOCK_MONOTONIC, microseconds. Every process of this machine reads the same clock, which
/// starts again when the machine does.
#[must_use]
pub fn monotonic() -> Time {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Both parts are non-negative and tv_nsec < 10^9, because the clock counts up from the start of
    // the machine.
    Time(
        u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000
            + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000,
    )
}

/// Reads the wall clock, milliseconds since 1970.
#[must_use]
pub fn wall() -> UnixMillis {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    UnixMillis(
        u64::try_from(t.tv_sec).unwrap_or(0) * 1_000
            + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000,
    )
}

/// Monotonic and wall-clock time of one moment. State machines get the time only from this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time, for intervals.
    pub at: Time,
    /// Wall-clock time, for tokens and response bodies.
    pub wall: UnixMillis,
}

/// Reads the monotonic and the wall clock.
#[must_use]
pub fn now() -> Now {
    Now { at: monotonic(), wall: wall() }
}
