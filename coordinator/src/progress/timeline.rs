//! One alert's wall times on the clock of the process that runs it.
//!
//! A record holds wall times only, because it outlives the process. What decides counts on the
//! process's own clock, which does not jump. One moment on both clocks, taken when the run begins,
//! translates between the two.

use std::time::Duration;

use clarion_proto::{ids::UnixMillis, time::Time};
use clarion_runtime::world::Moment;

/// Translates between the wall times of an alert's record and the process's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeline {
    /// When this process began to run the alert.
    begun: Moment,
    /// Age of the record at that moment.
    age: Duration,
}

impl Timeline {
    /// Timeline of an alert recorded at `created` that is run from `begun` on.
    pub(crate) fn new(created: UnixMillis, begun: Moment) -> Self {
        let age = Duration::from_millis(begun.wall.0.saturating_sub(created.0));
        Self { begun, age }
    }

    /// Wall time of a moment on the process's clock.
    pub(crate) fn wall(&self, at: Time) -> UnixMillis {
        let since = u64::try_from(at.since(self.begun.at).as_millis()).unwrap_or(u64::MAX);
        UnixMillis(self.begun.wall.0.saturating_add(since))
    }

    /// Moment on the process's clock of a wall time; the past is the moment of the beginning.
    pub(crate) fn at(&self, wall: UnixMillis) -> Time {
        self.begun.at + Duration::from_millis(wall.0.saturating_sub(self.begun.wall.0))
    }

    /// Time from the record to a moment on the process's clock.
    pub(crate) fn since_created(&self, at: Time) -> Duration {
        self.age + at.since(self.begun.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_older_than_the_process_keeps_its_age() {
        let begun = Moment { at: Time(2_000_000), wall: UnixMillis(50_000) };
        let timeline = Timeline::new(UnixMillis(20_000), begun);
        assert_eq!(timeline.since_created(Time(3_000_000)), Duration::from_secs(31));
        assert_eq!(timeline.wall(Time(3_500_000)), UnixMillis(51_500));
        assert_eq!(timeline.at(UnixMillis(60_000)), Time(12_000_000));
        assert_eq!(timeline.at(UnixMillis(1_000)), begun.at, "over before the run began");
    }
}
