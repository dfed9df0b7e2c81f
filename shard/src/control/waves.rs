//! The waves of a node: divides each plan over the cores and synchronizes the cores.
//!
//! The cores walk a wave band by band, and no core begins a band before all cores have walked the
//! previous band: nearest first holds for the node, not only for each core. The gate is in this
//! module because only this module gets the reports of all cores. Each lane of a wave has its own
//! gate: a lane whose quota allows a thousand requests a second takes minutes for a band, and the
//! phones of the second platform must not wait for that lane.
//!
//! A running wave may be planned again: by a coordinator of a higher epoch, or under the same epoch
//! for a newer ownership. Cores continue with the partitions that they have; [`super::placement`]
//! decides which core walks which partition. Plans are numbered, and a core's report names the
//! number of its plan, so a report on a former plan does not complete a later plan.
//!
//! The epoch decides which coordinator directs a wave: the node obeys the highest epoch seen and
//! refuses lower epochs. An epoch belongs to the coordinator that first used it. The **director**
//! of a wave is the coordinator that offered the wave under its highest epoch: it alone is asked
//! for grants and gets reports, also after its session broke and began anew. [`super::over`]
//! remembers cancels and ends beyond the wave's state.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use clarion_proto::{
    error::InvalidField,
    ids::{CoordinatorId, Epoch, LaneId, WaveId},
    limits::WAVES_MAX,
    time::Time,
    wire::shard_v1 as wire,
};
use tracing::{debug, info, info_span, warn};

use self::state::State;
use super::{
    leases,
    message::{Cause, Rejected, Wave, WaveGrant},
    output::Output,
    over::Over,
    ownership::Assignment,
    plan,
};
use crate::{
    command::{Command, CoreReport},
    outcome::Platform,
};

mod state;

/// Least time between two reports on one wave.
pub const REPORT_EVERY: Duration = Duration::from_millis(20);
/// Time that a wave ended on all nodes waits for the last reports of its cores.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// All waves of the node.
#[derive(Debug, Default)]
pub struct Waves {
    waves: BTreeMap<WaveId, State>,
    over: Over,
}

impl Waves {
    /// Accepts a wave, or a new plan of a wave under a higher epoch or for a newer ownership.
    /// Devices that this process has handed in a partition stay handed. Returns the coordinator
    /// that directed the wave before, if that is another one.
    ///
    /// # Errors
    /// The plan is for another ownership; the wave is superseded or cancelled; a lane was never
    /// described or speaks another platform's protocol than its app; there are too many waves.
    pub fn take(
        &mut self,
        from: CoordinatorId,
        wave: Wave,
        held: &Assignment,
        platform: impl Fn(LaneId) -> Option<Platform>,
        now: Time,
        out: &mut VecDeque<Output>,
    ) -> Result<Option<CoordinatorId>, Rejected> {
        if !self.is_news(from, &wave, held.owned().number)? {
            return Ok(None);
        }
        plan::check_lanes(&wave, platform)?;
        let plan = plan::split(wave, held)?;
        let spec = &plan.spec;
        let id = spec.id;
        self.make_room(id, now, out)?;

        let span = info_span!("wave", wave = id.0, alert = %spec.alert, epoch = spec.epoch.0);
        let before = self.waves.get(&id).map(|state| state.director);
        let (bands, cores) = (plan.bands, plan.cores.len());
        info!(parent: &span, bands, cores, ownership = plan.ownership, "wave taken up");
        let state = match self.waves.remove(&id) {
            Some(mut former) => {
                // The coordinator that plans the wave again may have received none of its reports:
                // reports sent in this session before the plan arrived may have reached no alert.
                former.merge.start_over();
                former.director = from;
                let state = former.replanned(plan, span, out);
                state.tell(out, || Command::ReportAll);
                state
            }
            None => State::new(now, from, plan.spec.clone()).replanned(plan, span, out),
        };
        self.waves.insert(id, state);
        Ok(before.filter(|before| *before != from))
    }

    /// Applies a new ownership after the cores have got it.
    pub fn own(&mut self, assignment: &Assignment) {
        for state in self.waves.values_mut() {
            state.placement.own(assignment);
            state.merge.change();
        }
    }

    /// Whether a plan must be applied. `false`: exactly this plan has been applied already.
    ///
    /// # Errors
    /// The plan is for another ownership than the node's, or another coordinator directs or has
    /// ended the wave.
    fn is_news(&self, from: CoordinatorId, wave: &Wave, owned: u64) -> Result<bool, Rejected> {
        if wave.ownership != owned {
            let problem = format!("is {}, this node holds {owned}", wave.ownership);
            return Err(superseded(wave.id, "wave.ownership", problem));
        }
        if let Some(problem) = self.over.forbids(wave.id, wave.epoch) {
            return Err(superseded(wave.id, "wave.epoch", problem));
        }
        // Later ends may have displaced the cancel from `over` while the wave is still here.
        if self.waves.get(&wave.id).is_some_and(|state| state.cancel.is_some()) {
            let problem = format!("is {}, but a cancel has ended the wave", wave.epoch);
            return Err(superseded(wave.id, "wave.epoch", problem));
        }
        self.check_director(from, wave.id, wave.epoch, "wave.epoch")?;
        let known = self.waves.get(&wave.id).map(|known| (known.spec.epoch, known.ownership));
        Ok(known != Some((wave.epoch, wave.ownership)))
    }

    /// Whether a message may be about a wave under this epoch.
    ///
    /// # Errors
    /// A coordinator of a higher epoch directs the wave, or another coordinator used the same epoch
    /// first.
    fn check_director(
        &self,
        from: CoordinatorId,
        id: WaveId,
        epoch: Epoch,
        field: &str,
    ) -> Result<(), Rejected> {
        let Some(State { spec, director, .. }) = self.waves.get(&id) else { return Ok(()) };
        if spec.epoch > epoch {
            let problem = format!("is {epoch}, but epoch {} is obeyed", spec.epoch);
            return Err(superseded(id, field, problem));
        }
        if spec.epoch == epoch && *director != from {
            let problem = format!(
                "is {epoch}, which coordinator {director} used first; coordinator {from} needs a \
                 higher one"
            );
            return Err(superseded(id, field, problem));
        }
        Ok(())
    }

    /// Highest epoch that was seen for a wave; 0: the wave is not known.
    #[must_use]
    pub fn epoch(&self, id: WaveId) -> Epoch {
        let known = self.waves.get(&id).map(|state| state.spec.epoch);
        known.max(self.over.epoch(id)).unwrap_or(Epoch(0))
    }

    /// Whether a coordinator directs a wave of this node.
    #[must_use]
    pub fn is_directed_by(&self, coordinator: CoordinatorId) -> bool {
        self.waves.values().any(|state| state.director == coordinator)
    }

    /// Makes room for one more wave.
    ///
    /// # Errors
    /// Every wave of the node is still needed.
    fn make_room(
        &mut self,
        id: WaveId,
        now: Time,
        out: &mut VecDeque<Output>,
    ) -> Result<(), Rejected> {
        if self.waves.contains_key(&id) || self.waves.len() < WAVES_MAX || self.evict(now, out) {
            return Ok(());
        }
        let problem = InvalidField::new("wave", format_args!("would be more than {WAVES_MAX}"));
        Err(Rejected::of(id, problem).because(Cause::Room))
    }

    /// Waves for which the node asks a coordinator for a grant: those that it directs.
    pub fn active(&self, director: CoordinatorId, now: Time) -> impl Iterator<Item = WaveId> {
        let active = move |s: &State| {
            let open = s.cancel.is_none() && s.ended_until.is_none() && !s.merge.is_ended();
            open && s.director == director && now < s.spec.expires
        };
        self.waves.iter().filter(move |(_, s)| active(s)).map(|(id, _)| *id)
    }

    /// Passes a grant on to the cores, each with its part of the rate. A grant for a forgotten or
    /// cancelled wave, or under an epoch that the node has not seen yet, is ignored.
    ///
    /// # Errors
    /// Another coordinator directs the wave.
    pub fn grant(
        &mut self,
        from: CoordinatorId,
        granted: &WaveGrant,
        until: Time,
        out: &mut VecDeque<Output>,
    ) -> Result<(), Rejected> {
        let WaveGrant { wave, epoch, per_second } = *granted;
        let running = self.waves.get(&wave).filter(|state| state.cancel.is_none());
        let Some(state) = running else { return Ok(()) };
        self.check_director(from, wave, epoch, "grant.waves.epoch")?;
        if state.spec.epoch != epoch {
            return Ok(());
        }
        let rate = per_second.map(|r| leases::share(r, leases::burst(r), state.parts));
        state.tell(out, || Command::Grant { wave, until, rate });
        Ok(())
    }

    /// Stops a wave, also a wave that the node does not know. A cancel is final under any epoch:
    /// whoever may send it has recorded it, and a stop that comes too late cannot be made good.
    ///
    /// The coordinator of a cancel under a higher epoch directs the wave from then on: it took the
    /// alert over when the cancel was recorded already, so it offers no plan, and needs the last
    /// reports and the end. Returns the coordinator that directed the wave before, if that is
    /// another one.
    pub fn cancel(
        &mut self,
        from: CoordinatorId,
        id: WaveId,
        epoch: Epoch,
        out: &mut VecDeque<Output>,
    ) -> Option<CoordinatorId> {
        let Some(state) = self.waves.get_mut(&id) else {
            self.over.cancelled(id, epoch);
            return None;
        };
        let former = state.director;
        if epoch > state.spec.epoch && from != former {
            state.director = from;
            state.merge.start_over();
            state.tell(out, || Command::ReportAll);
        }
        // Cores ignore a cancel of a lower epoch than the wave's.
        let epoch = state.spec.epoch.max(epoch);
        self.over.cancelled(id, epoch);
        state.spec.epoch = epoch;
        info!(parent: &state.span, epoch = epoch.0, "wave cancelled by coordinator");
        let new = state.cancel.is_none();
        // A repeated cancel only asks for the confirmation again: the cores have the first one.
        let cancel = state.cancel.get_or_insert_default();
        cancel.waiting.insert(from);
        if new {
            cancel.waiting.insert(state.director);
            state.tell(out, || Command::Cancel { wave: id, epoch });
        }
        Some(former).filter(|former| *former != state.director)
    }

    /// Whether a wave was cancelled, under any epoch.
    #[must_use]
    pub fn is_cancelled(&self, id: WaveId) -> bool {
        self.over.is_cancelled(id) || self.waves.get(&id).is_some_and(|s| s.cancel.is_some())
    }

    /// Lets a coordinator wait for the confirmation of another coordinator's cancel.
    pub fn confirm_to(&mut self, coordinator: CoordinatorId, id: WaveId) {
        if let Some(cancel) = self.waves.get_mut(&id).and_then(|state| state.cancel.as_mut()) {
            cancel.waiting.insert(coordinator);
        }
    }

    /// Whether the node knows a wave.
    #[must_use]
    pub fn contains(&self, id: WaveId) -> bool {
        self.waves.contains_key(&id)
    }

    /// Ends a wave that has ended on all nodes.
    ///
    /// # Errors
    /// Another coordinator directs the wave.
    pub fn end(
        &mut self,
        from: CoordinatorId,
        id: WaveId,
        epoch: Epoch,
        now: Time,
        out: &mut VecDeque<Output>,
    ) -> Result<(), Rejected> {
        self.check_director(from, id, epoch, "end.epoch")?;
        self.finish(id, epoch, now, out);
        Ok(())
    }

    /// Ends a wave under an epoch, also a wave that the node does not know: a plan of a lower epoch
    /// may still be on its way.
    fn finish(&mut self, id: WaveId, epoch: Epoch, now: Time, out: &mut VecDeque<Output>) {
        let known = self.waves.get(&id).map(|state| state.spec.epoch);
        self.over.ended(id, known.map_or(epoch, |known| known.max(epoch)));
        let Some(state) = self.waves.get_mut(&id).filter(|s| s.ended_until.is_none()) else {
            return;
        };
        state.ended_until = Some(now + LAST_WORDS);
        debug!(parent: &state.span, "wave ended on all nodes");
        state.tell(out, || Command::End(id));
    }

    /// Ends every wave at once, because the log that they were planned for is gone. Returns the
    /// number of waves.
    pub fn end_all(&mut self, now: Time, out: &mut VecDeque<Output>) -> usize {
        let ids: Vec<WaveId> = self.waves.keys().copied().collect();
        for id in &ids {
            self.finish(*id, Epoch(0), now, out);
        }
        self.waves.clear();
        ids.len()
    }

    /// Merges a core's report. `listening`: whether a coordinator has a session; while the director
    /// has none, sets of ordinals are not collected, because its next session gets the complete
    /// state anyway.
    pub fn report(
        &mut self,
        core: usize,
        mut report: CoreReport,
        listening: impl Fn(CoordinatorId) -> bool,
        out: &mut VecDeque<Output>,
    ) {
        let id = report.wave;
        let Some(state) = self.waves.get_mut(&id) else { return };
        if !listening(state.director) {
            report.handed.clear();
        }
        for (to, shard) in state.placement.farewell(core, std::mem::take(&mut report.let_go)) {
            state.spec.plan += 1;
            let plan = state.spec.plan;
            state.merge.expect(to, plan);
            out.push_back(Output::command(to, Command::Shard { wave: id, plan, shard }));
        }
        state.merge.add(core, report);
        match state.merge.take_dead_dropped() {
            0 => {}
            dropped => warn!(parent: &state.span, dropped, "dead tokens dropped without session"),
        }
        let mut opened = Vec::new();
        for (lane, bands_open) in &mut state.bands_open {
            let bands = state
                .merge
                .lane_bands_walked(*lane, state.bands)
                .saturating_add(1)
                .min(state.bands);
            if bands > *bands_open {
                *bands_open = bands;
                opened.push((*lane, bands));
            }
        }
        for (lane, bands) in opened {
            state.tell(out, || Command::OpenBands { wave: id, lane, bands });
        }
    }

    /// Records that a core writes no further requests of a wave.
    pub fn stopped(
        &mut self,
        core: usize,
        id: WaveId,
        last_write: Option<Time>,
        written_after: u64,
    ) {
        let Some(cancel) = self.waves.get_mut(&id).and_then(|s| s.cancel.as_mut()) else { return };
        cancel.answers.insert(core, (last_write, written_after));
    }

    /// Marks the complete state of a coordinator's waves for its new session; `ReportAll` gets the
    /// cores' part of it.
    pub fn start_over(&mut self, director: CoordinatorId, now: Time) {
        for state in self.waves.values_mut().filter(|s| s.director == director) {
            state.merge.start_over();
            state.report_due = now;
        }
    }

    /// A coordinator whose session has ended waits for no confirmation: it cancels again.
    pub fn forget_waiting(&mut self, coordinator: CoordinatorId) {
        for cancel in self.waves.values_mut().filter_map(|s| s.cancel.as_mut()) {
            cancel.waiting.remove(&coordinator);
        }
    }

    /// The next cancelled wave that all its cores have stopped and whose confirmation a coordinator
    /// waits for.
    pub fn take_stopped(&mut self, to: CoordinatorId, now: Time) -> Option<wire::Stopped> {
        let (id, state) = self.waves.iter_mut().find(|(_, s)| s.is_confirmed_to(to))?;
        let cancel = state.cancel.as_mut()?;
        cancel.waiting.remove(&to);
        let last_write = cancel.answers.values().filter_map(|(last, _)| *last).max();
        let ago = last_write.map(|t| u64::try_from(now.since(t).as_micros()).unwrap_or(u64::MAX));
        let written_after_cancel = cancel.answers.values().map(|(_, n)| n).sum();
        Some(wire::Stopped { wave: id.0, last_write_ago_us: ago, written_after_cancel })
    }

    /// Whether [`Waves::take_stopped`] returns a wave.
    #[must_use]
    pub fn is_stopped_due(&self, to: CoordinatorId) -> bool {
        self.waves.values().any(|state| state.is_confirmed_to(to))
    }

    /// Time of the next report to a coordinator; `None`: there is nothing new to report.
    #[must_use]
    pub fn report_due(&self, to: CoordinatorId) -> Option<Time> {
        let due = self.waves.values().filter(|s| s.director == to && s.merge.is_due());
        due.map(|s| s.report_due).min()
    }

    /// The most overdue report to a coordinator. Each wave gets its turn, because a report delays
    /// the next report of its wave.
    pub fn take_report(&mut self, to: CoordinatorId, now: Time) -> Option<wire::Report> {
        let is_due = |s: &State| s.director == to && s.merge.is_due() && s.report_due <= now;
        let due = self.waves.iter_mut().filter(|(_, s)| is_due(s));
        let (id, state) = due.min_by_key(|(_, s)| s.report_due)?;
        state.report_due = now + REPORT_EVERY;
        let whole = state.placement.is_whole();
        Some(state.merge.take(*id, state.spec.epoch, state.bands, whole))
    }

    /// Waves with something new to report.
    #[must_use]
    pub fn untold(&self) -> usize {
        self.waves.values().filter(|s| s.merge.is_changed()).count()
    }

    /// Time at which [`Waves::sweep`] has work next.
    #[must_use]
    pub fn sweep_due(&self) -> Option<Time> {
        self.waves.values().filter_map(|s| s.ended_until).min()
    }

    /// Removes waves that have ended on all nodes and whose last report is sent or overdue.
    pub fn sweep(&mut self, listening: impl Fn(CoordinatorId) -> bool, now: Time) {
        self.waves.retain(|_, s| match s.ended_until {
            Some(until) if now >= until => false,
            Some(_) => !(s.merge.is_ended() && !(listening(s.director) && s.merge.is_changed())),
            None => true,
        });
    }

    /// Makes room: first removes a wave that has ended on all cores, then an expired wave that no
    /// coordinator has ended.
    fn evict(&mut self, now: Time, out: &mut VecDeque<Output>) -> bool {
        let gone = |s: &State| {
            s.ended_until.is_some() || s.merge.is_ended() || s.spec.expires + LAST_WORDS < now
        };
        let Some(id) = self.waves.iter().find(|(_, s)| gone(s)).map(|(id, _)| *id) else {
            return false;
        };
        if let Some(state) = self.waves.remove(&id) {
            info!(parent: &state.span, "finished wave removed to make room");
            state.tell(out, || Command::End(id));
        }
        true
    }
}

fn superseded(wave: WaveId, field: &str, problem: String) -> Rejected {
    Rejected::of(wave, InvalidField::new(field, problem)).because(Cause::Superseded)
}
