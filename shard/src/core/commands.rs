//! Executes the commands of the control plane.

use std::sync::Arc;

use clarion_proto::{
    ids::{Epoch, LaneId, WaveId},
    time::Time,
};

use super::{
    Core, LaneSlot,
    count::CountRun,
    link::CANCEL_PATIENCE,
    run::{Cancel, Phase, WaveRun},
};
use crate::{
    command::{COUNTS_MAX, Command, CountSpec, Owns, WaveSpec},
    lane::{LaneEnd, spec::LaneSpec},
};

/// Most waves that are kept only because a cancel arrived before the wave.
const UNKNOWN_MAX: usize = 1_024;

impl Core {
    /// Executes a command. [`Command::Apply`] is allowed only when [`Core::feed_ready`].
    pub fn command(&mut self, command: Command, now: Time) {
        match command {
            Command::Own(owns) => self.own(&owns),
            Command::Rebuild(partitions) => partitions.into_iter().for_each(|p| self.rebuild(p)),
            Command::Save { partition, sink } => self.begin_save(partition, sink),
            Command::Restore { partition, load, piece } => self.restore(partition, load, piece),
            Command::Apply { log, position, appended, partitions, records } => {
                self.partitions.take(log, position, appended, &partitions, records);
            }
            Command::Lane(spec) => self.lane(spec),
            Command::ProviderToken { lane, authorization, signer } => {
                self.provider_token(lane, authorization, signer, now);
            }
            Command::Wave(spec) => self.wave(spec),
            Command::Shard { wave, plan, shard } => {
                let Self { waves, partitions, .. } = self;
                let mut runs = waves.iter_mut().flatten().filter(|run| run.spec.id == wave);
                if let Some(run) = runs.next().filter(|run| plan > run.plan) {
                    run.plan = plan;
                    run.add(&shard, partitions);
                    run.reporting.change();
                }
            }
            Command::OpenBands { wave, lane, bands } => {
                if let Some(run) = self.find_wave(wave) {
                    run.open_bands(lane, bands);
                }
            }
            Command::Grant { wave, until, rate } => {
                if let Some(run) = self.find_wave(wave) {
                    run.grant_until = until;
                    run.pace.set(rate, now);
                }
            }
            Command::Slice { lane, until, rate } => {
                if let Some(lane) = self.find_lane(lane) {
                    self.lanes[lane].end.set_slice(until, rate, now);
                }
            }
            Command::Connections { lane, connections, host } => {
                if let Some(lane) = self.find_lane(lane) {
                    self.lanes[lane].end.set_connections(connections, now);
                    self.lanes[lane].host = host;
                }
            }
            Command::Cancel { wave, epoch } => self.cancel(wave, epoch, now),
            Command::End(wave) => self.end_wave(wave),
            Command::Count(spec) => self.take_count(spec),
            Command::ReportAll => {
                self.waves.iter_mut().flatten().for_each(WaveRun::repeat_all);
                self.lanes.iter_mut().for_each(|lane| lane.end.report_again());
                self.partitions.repeat();
            }
            Command::Shutdown => self.shut_down(now),
        }
    }

    fn own(&mut self, owns: &Owns) {
        let Self { partitions, waves, .. } = self;
        for slot in partitions.own(owns) {
            waves.iter_mut().flatten().for_each(|run| run.drop_slot(slot));
        }
        self.restores.own(&owns.partitions);
        self.save.take_if(|run| !run.is_of_any(&owns.partitions));
        (0..self.waves.len()).for_each(|wave| self.give_back_waiting(wave));
    }

    /// Abandons the devices that wait for a retry in partitions that the core no longer holds.
    fn give_back_waiting(&mut self, wave: usize) {
        let Self { waves, opens, .. } = self;
        let Some(run) = waves[wave].as_mut() else { return };
        for outlet in 0..run.outlets.len() {
            let mut retry = std::mem::take(&mut run.outlets[outlet].retry);
            for slot in retry.take_out(|slot| !run.holds(opens.get(slot))) {
                let open = opens.remove(slot);
                run.give_back(&open);
            }
            run.outlets[outlet].retry = retry;
        }
    }

    fn lane(&mut self, spec: Arc<LaneSpec>) {
        match self.find_lane(spec.id) {
            Some(lane) => {
                if self.lanes[lane].end.respecify(spec) {
                    self.retire_lane(lane);
                }
            }
            None => {
                let id = spec.id;
                let end = LaneEnd::new(spec);
                self.lanes.push(LaneSlot {
                    end,
                    links: Vec::new(),
                    host: None,
                    reserved: 0,
                    next_link: 0,
                    outlets: Vec::new(),
                    next_outlet: 0,
                    run_left: super::pull::RUN,
                });
                let lane = self.lanes.len() - 1;
                for (wave, run) in self.waves.iter().enumerate() {
                    let Some(run) = run else { continue };
                    let here =
                        run.outlets.iter().enumerate().filter(|(_, outlet)| outlet.lane == id);
                    self.lanes[lane].outlets.extend(here.map(|(outlet, _)| names(wave, outlet)));
                }
            }
        }
    }

    fn wave(&mut self, spec: Arc<WaveSpec>) {
        if self.unknown_cancelled.contains(&spec.id) {
            return;
        }
        if let Some(at) = self.wave_slot(spec.id) {
            let run = self.waves[at].as_mut().expect("found");
            if (spec.epoch, spec.plan) > (run.epoch, run.plan) {
                run.replan(&spec, &self.partitions);
                self.give_back_waiting(at);
            }
            return;
        }
        let run = match WaveRun::new(spec, &mut self.templates, &self.partitions) {
            Ok(run) => run,
            Err(error) => {
                // The control plane has checked the audience with the same function, so this is a
                // defect, which must not stop other waves.
                tracing::error!(%error, "wave dropped: invalid audience");
                return;
            }
        };
        let at = self.waves.iter().position(Option::is_none).unwrap_or_else(|| {
            self.waves.push(None);
            self.waves.len() - 1
        });
        for (n, outlet) in run.outlets.iter().enumerate() {
            if let Some(lane) = self.find_lane(outlet.lane) {
                self.lanes[lane].outlets.push(names(at, n));
            }
        }
        self.waves[at] = Some(run);
    }

    fn cancel(&mut self, wave: WaveId, epoch: Epoch, now: Time) {
        let Some(at) = self.wave_slot(wave) else {
            if self.unknown_cancelled.len() == UNKNOWN_MAX {
                self.unknown_cancelled.pop_first();
            }
            self.unknown_cancelled.insert(wave);
            if self.cancelled_unknown.len() < UNKNOWN_MAX && !self.cancelled_unknown.contains(&wave)
            {
                self.cancelled_unknown.push_back(wave);
            }
            return;
        };
        let run = self.waves[at].as_mut().expect("found");
        if epoch < run.epoch {
            return;
        }
        run.epoch = epoch;
        let before = run.cancel.unwrap_or_default();
        run.cancel = Some(Cancel { confirmed: false, ..before });
        run.stop(Phase::Stopped);
        self.give_up_waiting(at);
        self.void_wave(at);
        self.hurry(at, now);
    }

    fn end_wave(&mut self, wave: WaveId) {
        self.unknown_cancelled.remove(&wave);
        if let Some(at) = self.wave_slot(wave) {
            self.waves[at].as_mut().expect("found").stop(Phase::Ending);
            self.give_up_waiting(at);
            self.void_wave(at);
        }
    }

    /// Sets a reset deadline on connections with encoded but unwritten requests of a stopped wave,
    /// because the requests must not be written much later.
    fn hurry(&mut self, wave: usize, now: Time) {
        // Another core sets the deadlines of its own connections when it gets the cancel.
        let own = self
            .links
            .iter_mut()
            .filter_map(|slot| slot.link.as_mut())
            .filter(|link| link.is_open());
        for link in own {
            if link.unsent.iter().any(|(w, _)| usize::from(*w) == wave) {
                link.reset_at = Some(
                    link.reset_at.map_or(now + CANCEL_PATIENCE, |at| at.min(now + CANCEL_PATIENCE)),
                );
            }
        }
    }

    fn take_count(&mut self, spec: Arc<CountSpec>) {
        match CountRun::new(spec) {
            Ok(run) => {
                if self.counts.len() == COUNTS_MAX {
                    self.counts.pop_front();
                }
                self.counts.push_back(run);
            }
            Err(error) => tracing::error!(%error, "count dropped: invalid audience"),
        }
    }

    /// Removes the state of a wave whose pushes have all ended.
    pub(super) fn forget_wave(&mut self, at: usize) {
        let Some(run) = self.waves[at].take() else { return };
        for template in run.audience.templates() {
            self.forget_remotely(template);
            self.forget_template(template);
        }
        for lane in &mut self.lanes {
            lane.outlets.retain(|(wave, _)| usize::from(*wave) != at);
        }
    }

    /// Releases a template with which no more requests are sent.
    pub(super) fn forget_template(&mut self, template: u32) {
        for link in self.links.iter_mut().filter_map(|slot| slot.link.as_mut()) {
            if let Some(connection) = link.connection() {
                connection.forget_template(template);
            }
        }
        self.templates.release(template);
    }

    pub(super) fn wave_slot(&self, wave: WaveId) -> Option<usize> {
        self.waves.iter().position(|run| run.as_ref().is_some_and(|run| run.spec.id == wave))
    }

    fn find_wave(&mut self, wave: WaveId) -> Option<&mut WaveRun> {
        self.waves.iter_mut().flatten().find(|run| run.spec.id == wave)
    }

    pub(super) fn find_lane(&self, lane: LaneId) -> Option<usize> {
        self.lanes.iter().position(|slot| slot.end.spec.id == lane)
    }
}

fn names(wave: usize, outlet: usize) -> (u16, u16) {
    (u16::try_from(wave).expect("few waves"), u16::try_from(outlet).expect("few lanes"))
}
