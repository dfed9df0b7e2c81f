//! The coordinator's two clocks, read in one place.
//!
//! Everything that decides takes [`Time`] (microseconds since start) as a parameter; drivers read
//! it here. It follows tokio's clock, so a test that pauses tokio pauses all of the coordinator.
//! Wall time is for what leaves the process: append times, `iat` of provider tokens.

use std::time::SystemTime;

use clarion_proto::{ids::UnixMillis, time::Time};

/// One for the process, copied to whoever drives something.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: tokio::time::Instant,
    /// Wall time at the start, where it is made up.
    wall_at_start: Option<UnixMillis>,
    /// The moment that a clock without time shows for ever.
    stands_at: Option<Moment>,
}

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Time for what decides.
    pub at: Time,
    /// Wall time for what leaves the process.
    pub wall: UnixMillis,
}

impl Clock {
    /// What both clocks show now.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment { at: self.now(), wall: self.wall() }
    }

    /// Starts at [`Time`] 0.
    #[must_use]
    pub fn start() -> Self {
        Self { started: tokio::time::Instant::now(), wall_at_start: None, stands_at: None }
    }

    /// A clock that shows one moment for ever. A simulator hands it to what asks a clock, once for
    /// each call.
    #[must_use]
    pub fn standing(moment: Moment) -> Self {
        Self { stands_at: Some(moment), ..Self::start() }
    }

    /// The same with a wall time that is made up and passes as tokio's clock does.
    #[must_use]
    pub fn start_at(wall: UnixMillis) -> Self {
        Self { wall_at_start: Some(wall), ..Self::start() }
    }

    /// Since the start; never goes back.
    #[must_use]
    pub fn now(&self) -> Time {
        if let Some(moment) = self.stands_at {
            return moment.at;
        }
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// When tokio's clock shows `time`.
    #[must_use]
    pub fn instant(&self, time: Time) -> tokio::time::Instant {
        // 30 years away where the sum would overflow: as good as never.
        const FAR: std::time::Duration = std::time::Duration::from_secs(86_400 * 365 * 30);
        self.started.checked_add(time.since(Time(0))).unwrap_or_else(|| self.started + FAR)
    }

    /// Sleeps until tokio's clock shows `time`; without a time for ever.
    pub async fn sleep_until(&self, time: Option<Time>) {
        match time {
            Some(time) => tokio::time::sleep_until(self.instant(time)).await,
            None => std::future::pending().await,
        }
    }

    /// Wall time, UTC.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // the one place that reads it
    pub fn wall(&self) -> UnixMillis {
        if let Some(moment) = self.stands_at {
            return moment.wall;
        }
        if let Some(UnixMillis(start)) = self.wall_at_start {
            return UnixMillis(start + self.now().0 / 1_000);
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
