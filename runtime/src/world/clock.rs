//! The two clocks of a process, a monotonic clock and the wall clock, read in one place.
//!
//! Every state machine takes [`Time`] (microseconds since the process started) as a parameter;
//! shells read the time here. [`Time`] follows tokio's clock, so a test that pauses tokio pauses
//! every task of the process. A thread outside a runtime may read the clock as well: without
//! tokio's feature `test-util`, which no program enables, tokio's clock *is* the system's monotonic
//! clock, so a core's thread pays nothing for the choice. Wall time is for values that leave the
//! process: append times, `iat` of provider tokens.

use std::time::SystemTime;

use clarion_proto::{ids::UnixMillis, time::Time};

/// The clocks of the process; copied to each shell.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: tokio::time::Instant,
    /// Fixed wall time at the start, for tests; `None`: the system's wall clock.
    wall_at_start: Option<UnixMillis>,
}

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Monotonic time, for state machines.
    pub at: Time,
    /// Wall time, for values that leave the process.
    pub wall: UnixMillis,
}

impl Clock {
    /// Reads both clocks.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment { at: self.now(), wall: self.wall() }
    }

    /// Starts a clock at [`Time`] 0.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the only place that reads tokio's clock")]
    pub fn start() -> Self {
        Self { started: tokio::time::Instant::now(), wall_at_start: None }
    }

    /// Starts a clock with a fixed wall time, which advances with tokio's clock; for tests.
    #[must_use]
    pub fn start_at(wall: UnixMillis) -> Self {
        Self { wall_at_start: Some(wall), ..Self::start() }
    }

    /// Monotonic time since the start; never goes back.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Instant of tokio's clock at `time`.
    #[must_use]
    pub fn instant(&self, time: Time) -> tokio::time::Instant {
        // Where the sum would overflow: an instant 30 years away, which is as good as never.
        const FAR: std::time::Duration = std::time::Duration::from_secs(86_400 * 365 * 30);
        self.started.checked_add(time.since(Time(0))).unwrap_or_else(|| self.started + FAR)
    }

    /// Sleeps until tokio's clock reaches `time`; `None`: sleeps for ever.
    pub async fn sleep_until(&self, time: Option<Time>) {
        match time {
            Some(time) => tokio::time::sleep_until(self.instant(time)).await,
            None => std::future::pending().await,
        }
    }

    /// Wall time in UTC, milliseconds since 1970.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the only place that reads the wall clock")]
    pub fn wall(&self) -> UnixMillis {
        if let Some(UnixMillis(start)) = self.wall_at_start {
            return UnixMillis(start + self.now().0 / 1_000);
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
