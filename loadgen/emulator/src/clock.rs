//! The clocks of the emulator; no other module reads a clock.
//!
//! The record is compared with the times of other processes on this machine, so its times are those
//! of CLOCK_MONOTONIC, which all processes share (`std::time::Instant` is the same clock, but hides
//! the number). Provider tokens and 410 timestamps use wall-clock time.

use clarion_proto::{ids::UnixMillis, time::Time};

/// Microseconds of CLOCK_MONOTONIC: the same number in every process of this machine until it is
/// restarted.
#[must_use]
pub fn monotonic() -> Time {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Both parts are non-negative and tv_nsec < 10^9: the clock counts up from the start of the
    // machine.
    Time(
        u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000
            + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000,
    )
}

/// Time of the wall clock.
#[must_use]
pub fn wall() -> UnixMillis {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    UnixMillis(
        u64::try_from(t.tv_sec).unwrap_or(0) * 1_000
            + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000,
    )
}

/// Monotonic and wall clock, read at one moment; state machines get the time only from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time of CLOCK_MONOTONIC, for intervals.
    pub at: Time,
    /// Time of the wall clock, for tokens and response bodies.
    pub wall: UnixMillis,
}

/// Reads the monotonic and the wall clock.
#[must_use]
pub fn now() -> Now {
    Now { at: monotonic(), wall: wall() }
}
