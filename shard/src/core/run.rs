//! One wave on one core: its partitions, phase, grant and counts.

use std::{collections::VecDeque, sync::Arc};

use clarion_proto::{
    device::Cell,
    ids::{Epoch, LaneId, Ordinal, Position},
    outcome::Outcome,
    time::Time,
};

use super::{
    audience::{Audience, Message},
    open::Open,
    outlet::Outlet,
    part::Part,
    partitions::Partitions,
    reasons::{Reasons, Why},
    reporting::Reporting,
    tally::Tally,
    templates::TemplateIds,
};
use crate::{
    command::{Consequence, DeadToken, RefusedMessage, ShardSpec, WaveSpec},
    lane::pace::Pace,
    partition::{Applied, Tags},
    wave::ProgramError,
};

/// Most dead tokens that wait for a report. More are dropped: the next push to such a token finds
/// it dead again.
const DEAD_MAX: usize = 65_536;
/// Most refused messages that are kept; more would add no information.
const REFUSED_MAX: usize = 16;

/// State of a wave on this core.
#[derive(Debug)]
pub(crate) struct WaveRun {
    pub(crate) spec: Arc<WaveSpec>,
    pub(crate) epoch: Epoch,
    /// Number of the newest plan: see [`WaveSpec::plan`].
    pub(crate) plan: u64,
    pub(crate) phase: Phase,
    pub(crate) audience: Audience,
    pub(crate) parts: Vec<Part>,
    /// Part of each slot of the core's partitions; `NO_PART`: none.
    part_of: Vec<u16>,
    /// Outlets of the wave, one for each lane that its apps name.
    pub(crate) outlets: Vec<Outlet>,
    pub(crate) tally: Tally,
    pub(crate) grant_until: Time,
    pub(crate) pace: Pace,
    /// Number of pushes without an outcome: in flight or waiting for a retry.
    pub(crate) open: usize,
    pub(crate) unanswered_requests: u64,
    pub(crate) retried_requests: u64,
    pub(crate) dead: VecDeque<DeadToken>,
    /// Reasons for which devices were not accepted at once.
    pub(crate) reasons: Reasons,
    /// Messages that the gateway has refused; they are no longer sent.
    pub(crate) refused_messages: Vec<RefusedMessage>,
    /// Number of connections with requests of this wave that are not completely written to the
    /// socket.
    pub(crate) unsent: usize,
    pub(crate) last_write: Option<Time>,
    pub(crate) cancel: Option<Cancel>,
    pub(crate) reporting: Reporting,
}

/// Phase of a wave on this core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The wave sends while it has a grant.
    Running,
    /// No more requests are sent; the rest of the walk is counted as expired.
    Expired,
    /// The wave was cancelled or ended by the coordinator. Nothing more is sent or walked; requests
    /// in flight may still get answers.
    Stopped,
    /// The wave is stopped, and its state is removed with the last report.
    Ending,
}

/// State of a received cancel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cancel {
    pub(crate) confirmed: bool,
    pub(crate) written_after: u64,
}

const NO_PART: u16 = u16::MAX;

impl WaveRun {
    /// Creates the state of a wave that has not begun.
    ///
    /// # Errors
    /// If the audience's expression is invalid.
    pub(crate) fn new(
        spec: Arc<WaveSpec>,
        ids: &mut TemplateIds,
        partitions: &Partitions,
    ) -> Result<Self, ProgramError> {
        let mut lanes: Vec<_> = spec.apps.iter().map(|app| app.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        let outlet_of =
            |lane| u16::try_from(lanes.binary_search(&lane).unwrap_or(0)).expect("few lanes");
        let audience = Audience::new(&spec.apps, &spec.segments, ids, |app| outlet_of(app.lane))?;
        let bands = spec.cover.bands();
        let tags =
            |lane| Tags::of(spec.apps.iter().filter(|app| app.lane == lane).map(|app| &app.app));
        let mut run = Self {
            epoch: spec.epoch,
            plan: spec.plan,
            phase: Phase::Running,
            audience,
            parts: Vec::new(),
            part_of: Vec::new(),
            outlets: lanes.iter().map(|lane| Outlet::new(*lane, tags(*lane), bands)).collect(),
            tally: Tally::new(bands as usize, spec.cover.reported()),
            grant_until: Time(0),
            pace: Pace::default(),
            open: 0,
            unanswered_requests: 0,
            retried_requests: 0,
            dead: VecDeque::new(),
            reasons: Reasons::default(),
            refused_messages: Vec::new(),
            unsent: 0,
            last_write: None,
            cancel: None,
            reporting: Reporting::default(),
            spec,
        };
        for shard in &run.spec.clone().shards {
            run.add(shard, partitions);
        }
        Ok(run)
    }

    /// Switches to a newer plan, and drops partitions that the plan does not name.
    pub(crate) fn replan(&mut self, spec: &WaveSpec, partitions: &Partitions) {
        (self.epoch, self.plan) = (spec.epoch, spec.plan);
        for n in 0..self.parts.len() {
            let partition = self.parts[n].partition;
            if !spec.shards.iter().any(|shard| shard.partition == partition) {
                self.parts[n].planned = false;
                self.let_go(n);
            }
        }
        spec.shards.iter().for_each(|shard| self.add(shard, partitions));
        self.reporting.change();
    }

    /// Adds a partition. If the wave knows the partition, its handed devices stay handed, and
    /// devices that other cores have handed meanwhile are added.
    pub(crate) fn add(&mut self, shard: &ShardSpec, partitions: &Partitions) {
        let known = self.parts.iter().position(|p| p.partition == shard.partition);
        let n = known.unwrap_or(self.parts.len());
        if known.is_none() {
            self.parts.push(Part {
                partition: shard.partition,
                start: shard.start,
                slot: None,
                started: false,
                planned: true,
                farewell: false,
            });
            self.outlets.iter_mut().for_each(|outlet| outlet.add(shard.handed.clone()));
        } else {
            self.outlets.iter_mut().for_each(|o| o.walk(n).handed_elsewhere(&shard.handed));
        }
        self.parts[n].planned = true;
        if self.parts[n].slot.is_none()
            && let Some(slot) = partitions.slot_of(shard.partition)
        {
            let at = usize::from(slot);
            if self.part_of.len() <= at {
                self.part_of.resize(at + 1, NO_PART);
            }
            self.part_of[at] = u16::try_from(n).expect("at most PARTITIONS_MAX");
            let part = &mut self.parts[n];
            (part.slot, part.start, part.farewell) = (Some(slot), shard.start, false);
            self.outlets.iter_mut().for_each(|outlet| outlet.restart(n));
        }
        self.start_parts(partitions);
    }

    /// Starts the walk in partitions that have been applied up to the wave's position.
    pub(crate) fn start_parts(&mut self, partitions: &Partitions) {
        for (n, part) in self.parts.iter_mut().enumerate() {
            let applied = part.slot.and_then(|slot| partitions.applied(slot));
            if !part.started && applied >= Some(part.start) {
                part.started = true;
                self.outlets.iter_mut().for_each(|outlet| outlet.make_ready(n));
                self.reporting.change();
            }
        }
    }

    /// Drops a partition that another node or core owns now.
    pub(crate) fn drop_slot(&mut self, slot: u16) {
        if let Some(part) = self.part_at(slot) {
            self.let_go(part);
        }
    }

    /// Restarts a partition whose content was replaced: its walk begins again once its log is
    /// applied up to a position, without the devices that were handed.
    pub(crate) fn restart(&mut self, slot: u16, from: Position) {
        let Some(n) = self.part_at(slot) else { return };
        let part = &mut self.parts[n];
        (part.started, part.start) = (false, part.start.max(from));
        self.outlets.iter_mut().for_each(|outlet| outlet.restart(n));
        self.reporting.change();
    }

    fn part_at(&self, slot: u16) -> Option<usize> {
        let part = self.part_of.get(usize::from(slot)).filter(|part| **part != NO_PART)?;
        Some(usize::from(*part))
    }

    fn let_go(&mut self, n: usize) {
        let part = &mut self.parts[n];
        let Some(slot) = part.slot.take() else { return };
        self.part_of[usize::from(slot)] = NO_PART;
        (part.started, part.farewell) = (false, true);
        let number = u16::try_from(n).expect("at most PARTITIONS_MAX");
        self.outlets.iter_mut().for_each(|outlet| outlet.rest(number));
        self.reporting.change();
    }

    /// Reports whether the core holds the partition of an open push. If not, this core does not
    /// retry the device.
    pub(crate) fn holds(&self, open: &Open) -> bool {
        self.parts[usize::from(open.part)].slot.is_some()
    }

    /// Abandons a device of a partition that the core no longer holds. The core that walks the
    /// partition next hands the device again and counts it there.
    pub(crate) fn give_back(&mut self, open: &Open) {
        let part = usize::from(open.part);
        self.outlets.iter_mut().for_each(|outlet| outlet.walk(part).take_back(open.ordinal));
        self.ended(open, given_up(open));
    }

    /// Processes the effect of a record: a device that appeared, moved, or reported its place again
    /// after the wave had left it out for the age of its place.
    pub(crate) fn applied(&mut self, slot: u16, applied: Applied) {
        let refreshed =
            applied.refreshed.filter(|device| device.earlier < self.spec.place_seen_after);
        let entered = applied.placed.or(refreshed.map(|device| (device.ordinal, device.cell)));
        if let Some((ordinal, cell)) = entered {
            self.entered(slot, ordinal, cell);
        }
    }

    fn entered(&mut self, slot: u16, ordinal: Ordinal, cell: Cell) {
        if self.phase != Phase::Running {
            return;
        }
        let Some(part) = self.part_at(slot) else { return };
        let inside = self.spec.cover.band_of(cell).is_some();
        for outlet in &mut self.outlets {
            outlet.entered(&self.spec.cover, part, ordinal, cell);
            if inside && self.parts[part].started {
                outlet.make_ready_first(part);
                self.reporting.change();
            }
        }
    }

    /// Opens the bands below a number for one lane.
    pub(crate) fn open_bands(&mut self, lane: LaneId, bands: u32) {
        let outlets = self.outlets.iter_mut().filter(|outlet| outlet.lane == lane);
        outlets.for_each(|outlet| outlet.open_bands(bands, &self.parts));
    }

    /// Opens all bands for all lanes.
    pub(crate) fn open_all_bands(&mut self) {
        self.outlets.iter_mut().for_each(|outlet| outlet.open_bands(u32::MAX, &self.parts));
    }

    /// Stops the wave for good; a stronger phase stays.
    pub(crate) fn stop(&mut self, phase: Phase) {
        if self.phase != Phase::Ending {
            self.phase = phase;
        }
        self.reporting.change();
    }

    /// Reports whether requests may be written now.
    pub(crate) fn may_send(&self, now: Time) -> bool {
        self.phase == Phase::Running && now < self.grant_until && now < self.spec.expires
    }

    /// Reports whether a push is left to be sent now or at a known time.
    pub(crate) fn has_work(&self) -> bool {
        self.phase == Phase::Running && self.outlets.iter().any(Outlet::has_work)
    }

    /// Returns the number of bands handed completely in all partitions, for each lane.
    pub(crate) fn lanes_walked(&self) -> impl Iterator<Item = (LaneId, u32)> {
        self.outlets.iter().map(|outlet| (outlet.lane, outlet.bands_walked(&self.parts)))
    }

    /// Reports whether every partition of the plan is walked and no late device waits. A partition
    /// that the core does not hold counts as not walked.
    fn walked(&self) -> bool {
        self.parts.iter().all(|p| p.slot.is_some() || !p.planned) && self.walked_here()
    }

    /// Reports whether every partition that the core holds is walked and no late device waits.
    fn walked_here(&self) -> bool {
        self.parts.iter().all(|p| p.started || p.slot.is_none())
            && self.outlets.iter().all(|outlet| outlet.is_idle())
            && self.lanes_walked().all(|(_, bands)| bands == self.spec.cover.bands())
    }

    /// Reports whether every partition of the plan is walked, no push is open and no device waits.
    pub(crate) fn is_complete(&self) -> bool {
        self.open == 0 && self.walked()
    }

    /// Reports whether the wave's counts are final on this core.
    pub(crate) fn is_ended(&self) -> bool {
        self.open == 0
            && match self.phase {
                Phase::Running => false,
                Phase::Expired => self.walked_here(),
                Phase::Stopped | Phase::Ending => self.unsent == 0,
            }
    }

    /// Counts the outcome of a push that was open.
    pub(crate) fn ended(&mut self, open: &Open, outcome: Outcome) {
        self.tally.ended(open.band, open.cell, outcome);
        self.message(open).answers.count(outcome);
        self.open -= 1;
        self.reporting.change();
    }

    /// Returns the message that was last sent for an open push.
    pub(crate) fn message(&mut self, open: &Open) -> &mut Message {
        self.audience.app(open.app).message(open.message)
    }

    /// Counts the reason for which a device was not accepted, or not at once.
    pub(crate) fn count_reason(&mut self, then: Consequence, app: u16, why: &Why) {
        self.reasons.count(then, app, why);
        self.reporting.change();
    }

    /// Counts a device in the region that gets no request: the wave has expired, or the gateway
    /// refuses the device's message for every device.
    pub(crate) fn ended_unsent(&mut self, band: u32, cell: Cell, outcome: Outcome) {
        let slot = self.tally.handed(band, cell);
        self.tally.ended(band, slot, outcome);
        self.reporting.change();
    }

    /// Stops a message of an app after the gateway has refused it with a reason.
    pub(crate) fn refuse_message(&mut self, app: u16, detail: String) {
        let refused = RefusedMessage { app: self.audience.app(app).name().clone(), detail };
        if self.refused_messages.len() < REFUSED_MAX && !self.refused_messages.contains(&refused) {
            self.refused_messages.push(refused);
            self.reporting.change();
        }
    }

    /// Stores a dead token for the next report.
    pub(crate) fn note_dead(&mut self, dead: DeadToken) {
        if self.dead.len() < DEAD_MAX {
            self.dead.push_back(dead);
        }
    }
}

/// Returns the outcome of a handed device that gets no further request: its wave has stopped, or at
/// its retry the device is removed, muted or no longer addressed. A request without an answer may
/// have been delivered, so its outcome is unknown, and a correction must go to this device too.
/// Otherwise the gateway had deferred the device, and the outcome is expired.
pub(crate) fn given_up(open: &Open) -> Outcome {
    if open.unanswered { Outcome::Unknown } else { Outcome::Expired }
}
