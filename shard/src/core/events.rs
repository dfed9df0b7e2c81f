//! Events for the control plane.
//!
//! Events are not queued: each event is derived from state, and [`Core::poll_event`] returns the
//! newest state when the control plane has room. A control plane that reads slowly gets fewer,
//! larger reports.

use std::time::Duration;

use clarion_proto::time::Time;

use super::{Core, count::CountRun, report, run::Phase};
use crate::{command::Event, lane::news::News};

/// Shortest time between two events about the held devices.
const HELD_EVERY: Duration = Duration::from_millis(100);

impl Core {
    /// Returns the next event for the control plane, if there is one. The caller must be able to
    /// take it.
    pub fn poll_event(&mut self, now: Time) -> Option<Event> {
        self.stopped()
            .or_else(|| self.restores.take_result())
            .or_else(|| self.next_lane_state(now))
            .or_else(|| self.lane_load(now))
            .or_else(|| self.answer_count())
            .or_else(|| self.report(now))
            .or_else(|| self.held(now))
    }

    /// Returns the time at which a report or an event about the held devices is due.
    pub(super) fn report_deadline(&self) -> Option<Time> {
        if self.is_closed() {
            return Some(self.now);
        }
        let reports =
            self.waves.iter().flatten().filter_map(|run| report::due(run, self.config.single));
        let held =
            self.partitions.changed().then(|| self.held_at.map_or(Time(0), |at| at + HELD_EVERY));
        let loads = self.lanes.iter().filter_map(|slot| slot.end.meter.due());
        reports.chain(held).chain(loads).min()
    }

    fn stopped(&mut self) -> Option<Event> {
        if let Some(wave) = self.cancelled_unknown.pop_front() {
            return Some(Event::Stopped { wave, last_write: None, written_after: 0 });
        }
        self.waves.iter_mut().flatten().find_map(|run| {
            let cancel =
                run.cancel.as_mut().filter(|cancel| !cancel.confirmed && run.unsent == 0)?;
            cancel.confirmed = true;
            Some(Event::Stopped {
                wave: run.spec.id,
                last_write: run.last_write,
                written_after: cancel.written_after,
            })
        })
    }

    fn next_lane_state(&mut self, now: Time) -> Option<Event> {
        let Self { lanes, links, .. } = self;
        lanes.iter_mut().find_map(|slot| {
            // Connections of a host count once an answer came through them; the host reports their
            // health.
            let stands =
                |link: &super::link::Link| link.is_open() || link.is_remote() && link.answers > 0;
            let open = |link: &&u32| links[**link as usize].link.as_ref().is_some_and(stands);
            let news = slot.end.take_news(slot.links.iter().filter(open).count(), now)?;
            let News { health, detail, since, next_probe } = news;
            Some(Event::LaneState {
                lane: slot.end.spec.id,
                at: now,
                health,
                detail,
                since,
                next_probe,
            })
        })
    }

    fn lane_load(&mut self, now: Time) -> Option<Event> {
        let Self { lanes, links, .. } = self;
        let slot =
            lanes.iter_mut().find(|slot| slot.end.meter.due().is_some_and(|at| at <= now))?;
        let mut load = Box::new(slot.end.meter.take(now));
        for l in &slot.links {
            let link = links[*l as usize].link.as_mut().filter(|link| !link.leaving);
            let Some((streams, window_bytes)) = link.and_then(|link| link.connection()?.capacity())
            else {
                continue;
            };
            load.connections += 1;
            load.streams += streams as u64;
            load.window_bytes += window_bytes;
        }
        Some(Event::LaneLoad { lane: slot.end.spec.id, load })
    }

    fn answer_count(&mut self) -> Option<Event> {
        let run = self.counted.pop_front()?;
        let CountRun { spec, devices, left_out_for_age, .. } = run;
        Some(Event::Counted { id: spec.id, devices, left_out_for_age })
    }

    fn report(&mut self, now: Time) -> Option<Event> {
        let (single, last) = (self.config.single, self.is_closed());
        let due = |run: &super::run::WaveRun| {
            report::due(run, single).is_some_and(|at| last || at <= now)
        };
        let at = self.waves.iter().position(|run| run.as_ref().is_some_and(due))?;
        let run = self.waves[at].as_mut()?;
        let slot = u16::try_from(at).expect("few waves");
        let report =
            report::build(run, self.opens.iter().filter(|open| open.wave == slot), last, now);
        if report.ended && run.phase == Phase::Ending {
            self.forget_wave(at);
        }
        Some(Event::Report(Box::new(report)))
    }

    fn held(&mut self, now: Time) -> Option<Event> {
        if !self.partitions.changed() || self.held_at.is_some_and(|at| now < at + HELD_EVERY) {
            return None;
        }
        self.held_at = Some(now);
        Some(Event::Held(self.partitions.held()))
    }
}
