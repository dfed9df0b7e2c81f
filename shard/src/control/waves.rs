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
//! refuses lower epochs. The node remembers cancels and ends beyond the wave's state, so that a
//! late plan of a superseded coordinator cannot restart the wave.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{
    error::InvalidField,
    ids::{Epoch, LaneId, WaveId},
    limits::WAVES_MAX,
    time::Time,
    wire::shard_v1 as wire,
};
use tracing::{Span, debug, info, info_span, warn};

use super::{
    leases,
    merge::Merge,
    message::{Cause, Rejected, Wave},
    output::Output,
    ownership::Assignment,
    placement::Placement,
    plan::{self, Plan},
};
use crate::{
    command::{Command, CoreReport, WaveSpec},
    outcome::Platform,
};

/// Maximum number of ended waves of which only the id and epoch are kept: 1,024 × 16 bytes.
const OVER_MAX: usize = 1_024;
/// Least time between two reports on one wave.
pub const REPORT_EVERY: Duration = Duration::from_millis(20);
/// Time that a wave ended on all nodes waits for the last reports of its cores.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// All waves of the node.
#[derive(Debug, Default)]
pub struct Waves {
    waves: BTreeMap<WaveId, State>,
    /// Waves cancelled or ended on all nodes, with the epoch; the oldest first.
    over: VecDeque<(WaveId, Epoch)>,
}

#[derive(Debug)]
struct State {
    /// The newest plan, without partitions.
    spec: WaveSpec,
    ownership: u64,
    bands: u32,
    /// Number of open bands, by lane of the wave.
    bands_open: BTreeMap<LaneId, u32>,
    /// Cores that got the wave, in this plan or a former plan.
    told: BTreeSet<usize>,
    /// Number of cores that have partitions of the newest plan.
    parts: usize,
    placement: Placement,
    merge: Merge,
    report_due: Time,
    cancel: Option<Cancel>,
    /// Set when the wave has ended on all nodes: its state is kept until this time for the last
    /// report.
    ended_until: Option<Time>,
    span: Span,
}

#[derive(Debug, Default)]
struct Cancel {
    answers: BTreeMap<usize, (Option<Time>, u64)>,
    told: bool,
}

impl Waves {
    /// Accepts a wave, or a new plan of a wave under a higher epoch or for a newer ownership.
    /// Devices that this process has handed in a partition stay handed.
    ///
    /// # Errors
    /// The plan is for another ownership; the wave is superseded or cancelled; a lane was never
    /// described or speaks another platform's protocol than its app; there are too many waves.
    pub fn take(
        &mut self,
        wave: Wave,
        held: &Assignment,
        platform: impl Fn(LaneId) -> Option<Platform>,
        now: Time,
        out: &mut VecDeque<Output>,
    ) -> Result<(), Rejected> {
        if !self.is_news(&wave, held.owned().number)? {
            return Ok(());
        }
        plan::check_lanes(&wave, platform)?;
        let plan = plan::split(wave, held)?;
        let spec = &plan.spec;
        let id = spec.id;
        self.make_room(id, now, out)?;

        let span = info_span!("wave", wave = id.0, alert = %spec.alert, epoch = spec.epoch.0);
        let (bands, cores) = (plan.bands, plan.cores.len());
        info!(parent: &span, bands, cores, ownership = plan.ownership, "wave taken up");
        let state = match self.waves.remove(&id) {
            Some(mut former) => {
                // The coordinator that plans the wave again may have received none of its reports:
                // reports sent in this session before the plan arrived may have reached no alert.
                former.merge.start_over();
                let state = former.replanned(plan, span, out);
                state.tell(out, || Command::ReportAll);
                state
            }
            None => State::new(now, plan.spec.clone()).replanned(plan, span, out),
        };
        self.waves.insert(id, state);
        Ok(())
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
    /// The plan is for another ownership than the node's, or a coordinator of a higher epoch
    /// directs or has ended the wave.
    fn is_news(&self, wave: &Wave, owned: u64) -> Result<bool, Rejected> {
        let superseded = |field: &str, problem: String| {
            let problem = InvalidField::new(field, problem);
            Err(Rejected::of(wave.id, problem).because(Cause::Superseded))
        };
        if wave.ownership != owned {
            let problem = format!("is {}, this node holds {owned}", wave.ownership);
            return superseded("wave.ownership", problem);
        }
        if let Some(epoch) = self.over(wave.id).filter(|epoch| *epoch >= wave.epoch) {
            let problem = format!("is {}, but epoch {epoch} has ended the wave", wave.epoch);
            return superseded("wave.epoch", problem);
        }
        match self.waves.get(&wave.id) {
            Some(known) if known.spec.epoch > wave.epoch => {
                let problem =
                    format!("is {}, but epoch {} is obeyed", wave.epoch, known.spec.epoch);
                superseded("wave.epoch", problem)
            }
            Some(known) => Ok((known.spec.epoch, known.ownership) != (wave.epoch, wave.ownership)),
            None => Ok(true),
        }
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

    /// Waves for which the node asks for a grant.
    pub fn active(&self, now: Time) -> impl Iterator<Item = WaveId> {
        let active = move |s: &State| {
            let open = s.cancel.is_none() && s.ended_until.is_none() && !s.merge.is_ended();
            open && now < s.spec.expires
        };
        self.waves.iter().filter(move |(_, s)| active(s)).map(|(id, _)| *id)
    }

    /// Passes grants on to the cores, each with its part of the rate. A grant for a forgotten wave
    /// is ignored.
    pub fn grant(
        &mut self,
        id: WaveId,
        per_second: Option<f64>,
        until: Time,
        out: &mut VecDeque<Output>,
    ) {
        let Some(state) = self.waves.get(&id).filter(|s| s.cancel.is_none()) else { return };
        let rate = per_second.map(|r| leases::share(r, leases::burst(r), state.parts));
        state.tell(out, || Command::Grant { wave: id, until, rate });
    }

    /// Stops a wave, also a wave that the node does not know.
    ///
    /// # Errors
    /// A coordinator of a higher epoch directs the wave.
    pub fn cancel(
        &mut self,
        id: WaveId,
        epoch: Epoch,
        out: &mut VecDeque<Output>,
    ) -> Result<(), Rejected> {
        if let Some(known) = self.waves.get(&id).filter(|s| s.spec.epoch > epoch) {
            let problem = format_args!("is {epoch}, but epoch {} is obeyed", known.spec.epoch);
            return Err(Rejected::of(id, InvalidField::new("cancel.epoch", problem)));
        }
        self.remember_over(id, epoch);
        let Some(state) = self.waves.get_mut(&id) else { return Ok(()) };
        state.spec.epoch = epoch;
        info!(parent: &state.span, epoch = epoch.0, "wave cancelled by coordinator");
        match &mut state.cancel {
            // The cores have the cancel already; only the response is sent again.
            Some(cancel) => cancel.told = false,
            None => {
                state.cancel = Some(Cancel::default());
                state.tell(out, || Command::Cancel { wave: id, epoch });
            }
        }
        Ok(())
    }

    /// Whether the node knows a wave.
    #[must_use]
    pub fn contains(&self, id: WaveId) -> bool {
        self.waves.contains_key(&id)
    }

    /// Ends a wave that has ended on all nodes.
    pub fn end(&mut self, id: WaveId, now: Time, out: &mut VecDeque<Output>) {
        let Some(state) = self.waves.get_mut(&id).filter(|s| s.ended_until.is_none()) else {
            return;
        };
        let epoch = state.spec.epoch;
        state.ended_until = Some(now + LAST_WORDS);
        debug!(parent: &state.span, "wave ended on all nodes");
        state.tell(out, || Command::End(id));
        self.remember_over(id, epoch);
    }

    /// Ends every wave at once, because the coordinator that directed them is gone. Returns the
    /// number of waves.
    pub fn end_all(&mut self, now: Time, out: &mut VecDeque<Output>) -> usize {
        let ids: Vec<WaveId> = self.waves.keys().copied().collect();
        for id in &ids {
            self.end(*id, now, out);
        }
        self.waves.clear();
        ids.len()
    }

    /// Merges a core's report. `listening`: whether a session exists; without a session, sets of
    /// ordinals are not collected, because the next session gets the complete state anyway.
    pub fn report(
        &mut self,
        core: usize,
        mut report: CoreReport,
        listening: bool,
        out: &mut VecDeque<Output>,
    ) {
        let id = report.wave;
        let Some(state) = self.waves.get_mut(&id) else { return };
        if !listening {
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

    /// Marks the complete state for a new session; `ReportAll` gets the cores' part of it.
    pub fn start_over(&mut self, now: Time) {
        for state in self.waves.values_mut() {
            state.merge.start_over();
            state.report_due = now;
        }
    }

    /// The next cancelled wave that all its cores have stopped.
    pub fn take_stopped(&mut self, now: Time) -> Option<wire::Stopped> {
        let (id, state) = self.waves.iter_mut().find(|(_, s)| s.has_stopped())?;
        let cancel = state.cancel.as_mut()?;
        cancel.told = true;
        let last_write = cancel.answers.values().filter_map(|(last, _)| *last).max();
        let ago = last_write.map(|t| u64::try_from(now.since(t).as_micros()).unwrap_or(u64::MAX));
        let written_after_cancel = cancel.answers.values().map(|(_, n)| n).sum();
        Some(wire::Stopped { wave: id.0, last_write_ago_us: ago, written_after_cancel })
    }

    /// Whether [`Waves::take_stopped`] returns a wave.
    #[must_use]
    pub fn is_stopped_due(&self) -> bool {
        self.waves.values().any(State::has_stopped)
    }

    /// Time of the next report; `None`: there is nothing new to report.
    #[must_use]
    pub fn report_due(&self) -> Option<Time> {
        self.waves.values().filter(|s| s.merge.is_due()).map(|s| s.report_due).min()
    }

    /// The most overdue report. Each wave gets its turn, because a report delays the next report of
    /// its wave.
    pub fn take_report(&mut self, now: Time) -> Option<wire::Report> {
        let due = self.waves.iter_mut().filter(|(_, s)| s.merge.is_due() && s.report_due <= now);
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
    pub fn sweep(&mut self, listening: bool, now: Time) {
        self.waves.retain(|_, s| match s.ended_until {
            Some(until) if now >= until => false,
            Some(_) => !(s.merge.is_ended() && !(listening && s.merge.is_changed())),
            None => true,
        });
    }

    fn over(&self, id: WaveId) -> Option<Epoch> {
        self.over.iter().find(|(other, _)| *other == id).map(|(_, epoch)| *epoch)
    }

    fn remember_over(&mut self, id: WaveId, epoch: Epoch) {
        let epoch = self.over(id).map_or(epoch, |known| known.max(epoch));
        self.over.retain(|(other, _)| *other != id);
        if self.over.len() == OVER_MAX {
            self.over.pop_front();
        }
        self.over.push_back((id, epoch));
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

impl State {
    /// Creates the state of a wave that has no plan yet.
    fn new(now: Time, spec: WaveSpec) -> Self {
        Self {
            spec,
            ownership: 0,
            bands: 0,
            bands_open: BTreeMap::new(),
            told: BTreeSet::new(),
            parts: 0,
            placement: Placement::default(),
            merge: Merge::default(),
            report_due: now,
            cancel: None,
            ended_until: None,
            span: Span::none(),
        }
    }

    /// Switches to a plan and sends it to the cores. Totals and handed devices are kept.
    fn replanned(self, plan: Plan, span: Span, out: &mut VecDeque<Output>) -> Self {
        let Plan { ownership, bands, spec, cores } = plan;
        let number = if self.told.is_empty() { 0 } else { self.spec.plan + 1 };
        let mut state = Self {
            spec: WaveSpec { plan: number, ..spec },
            ownership,
            bands,
            cancel: None,
            ended_until: None,
            span,
            parts: cores.len(),
            ..self
        };
        // A core opens the first band without a command.
        state.bands_open = state.spec.apps.iter().map(|app| (app.lane, 1)).collect();
        state.merge.set_cores(cores.keys().copied(), number);
        let mut shares = state.placement.plan(cores);
        state.told.extend(shares.keys());
        for core in &state.told {
            let shards = shares.remove(core).unwrap_or_default();
            let spec = Arc::new(WaveSpec { shards, ..state.spec.clone() });
            out.push_back(Output::command(*core, Command::Wave(spec)));
        }
        state
    }

    fn tell(&self, out: &mut VecDeque<Output>, command: impl Fn() -> Command) {
        out.extend(self.told.iter().map(|core| Output::command(*core, command())));
    }

    fn has_stopped(&self) -> bool {
        self.cancel
            .as_ref()
            .is_some_and(|c| !c.told && self.told.iter().all(|core| c.answers.contains_key(core)))
    }
}
