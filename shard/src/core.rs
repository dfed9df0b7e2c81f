//! One core: its lanes pull pushes from its waves. No clock and no socket: times and bytes come in,
//! bytes and I/O requests go out.
//!
//! A core owns partitions, the waves over them, and its end of each lane with its connections. A
//! driver (a thread with sockets, or a simulator) calls these methods in a loop, in this order:
//! [`Core::command`] for commands of the control plane, [`Core::receive`] for bytes from sockets,
//! [`Core::letter`] for letters from other cores, [`Core::turn`], [`Core::transmit`] and
//! [`Core::written`] for each connection, [`Core::poll_io`], [`Core::poll_event`] and
//! [`Core::poll_letter`]; then it waits for the earliest of sockets, commands and
//! [`Core::deadline`].
//!
//! **Everything is pulled.** A device leaves its page only when a connection can take its push now
//! and the connection's socket has taken all bytes before; a report is built only when the control
//! plane has room for one. So a slow gateway or a slow control plane makes this core wait, but
//! never grow:
//!
//! ```text
//! memory that a wave needs = handed bits + open pushes + counts
//! open pushes <= streams of all connections (in flight)
//!                + 65,536 / cores (retry lines) + in flight when those filled
//!                + 256 for each lane whose connections are another core's (runs that wait there,
//!                see `letter`)
//! encoded     <= one flush (32 KiB) for each connection, and one more where other cores are
//!                guests; nothing for those whose sockets have taken it (buffers go around, see
//!                `buffers`)
//! ```

pub(crate) mod answer;
pub(crate) mod audience;
pub(crate) mod buffers;
pub(crate) mod commands;
pub(crate) mod consequence;
pub(crate) mod count;
pub(crate) mod desk;
pub(crate) mod events;
pub(crate) mod guest;
pub(crate) mod guests;
pub(crate) mod host;
pub(crate) mod letter;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod open;
pub(crate) mod outlet;
pub(crate) mod part;
pub(crate) mod partitions;
pub(crate) mod pull;
pub(crate) mod reasons;
pub(crate) mod remote;
pub(crate) mod report;
pub(crate) mod reporting;
pub(crate) mod restore;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod tally;
pub(crate) mod templates;
pub(crate) mod tokens;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{ids::WaveId, time::Time};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::{
    lane::{LaneEnd, spec::LaneSpec},
    partition::TokenBuffer,
};
use buffers::Buffers;
use count::CountRun;
use guests::Guests;
pub use letter::Letter;
pub use link::ConnectionId;
pub use links::Disconnect;
use links::LinkSlot;
use open::Opens;
use outlet::Steps;
use partitions::Partitions;
use restore::Restores;
use run::{Phase, WaveRun};
use save::SaveRun;
use templates::TemplateIds;

/// Most steps of walks in one turn, which take some hundred microseconds.
const STEPS_PER_TURN: usize = 8_192;
/// Most records applied in one turn while waves are running, and while none is.
const RECORDS_PER_TURN: (usize, usize) = (256, 4_096);
/// Time for which a shutdown waits for the answers to requests in flight.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);
/// Time for which a core that has shut down waits until the control plane takes its last reports.
const LAST_REPORTS_WITHIN: Duration = Duration::from_secs(2);

/// Facts about the node that a core needs.
#[derive(Debug, Clone, Copy)]
pub struct CoreConfig {
    /// Whether the node has no other core, so that this core opens bands by itself. Otherwise the
    /// control plane opens a band when all cores have walked the one before.
    pub single: bool,
    /// Number of cores of the node, for the core's share of the node's limits.
    pub cores: usize,
    /// Seed of the core's jitter.
    pub seed: u64,
    /// Seed of the partitions' hashes of device ids; see [`crate::partition::Partition::new`].
    pub hash_seed: u64,
}

/// A request to the driver about a socket.
#[derive(Debug)]
pub enum IoRequest {
    /// Opens a connection to the lane's endpoint, TLS with ALPN `h2`. The driver then calls
    /// [`Core::connected`] or [`Core::disconnected`].
    Connect {
        /// Id of the new connection.
        connection: ConnectionId,
        /// Address and limits of the connection.
        lane: Arc<LaneSpec>,
    },
    /// Closes a connection in any state. The core has removed the connection already.
    Close {
        /// The connection to close.
        connection: ConnectionId,
        /// Whether to close at once with RST, dropping the socket's unsent bytes; otherwise after
        /// the bytes that it can write without waiting.
        reset: bool,
    },
}

/// The state of one core: its partitions, lanes and waves.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    rng: Pcg64Mcg,
    partitions: Partitions,
    restores: Restores,
    /// Snapshot that is being written, if any.
    save: Option<SaveRun>,
    waves: Vec<Option<WaveRun>>,
    lanes: Vec<LaneSlot>,
    /// Lane that is served first, a different one each turn. A walk that looks for few devices
    /// among many uses all steps of a turn, and must not use them for the same lane each time.
    first_lane: usize,
    links: Vec<LinkSlot>,
    opens: Opens,
    buffers: Buffers,
    /// Guests, the cores whose runs use connections of this core.
    guests: Guests,
    /// Letters to other cores, each with the number of the receiver.
    letters: VecDeque<(usize, Letter)>,
    /// Buffer for the token of the current push.
    token: Box<TokenBuffer>,
    /// Tickets of one connection that [`Core::accepted`] is about to handle; empty between two
    /// calls.
    accepted: Vec<u64>,
    /// The batch of answers in progress.
    batch: Batch,
    templates: TemplateIds,
    counts: VecDeque<CountRun>,
    counted: VecDeque<CountRun>,
    io: VecDeque<IoRequest>,
    /// Waves that were cancelled before this core knew them.
    unknown_cancelled: BTreeSet<WaveId>,
    /// Waves of `unknown_cancelled` whose cancel is not confirmed yet.
    cancelled_unknown: VecDeque<WaveId>,
    held_at: Option<Time>,
    shutdown: Option<Time>,
    /// Time of the last turn.
    now: Time,
    /// Whether the last turn left work that could continue at once.
    more: bool,
}

/// Answers that arrived together. Acceptances are handled before all others, so the order between
/// them is lost: if a batch contains a success, its other answers must not extend a row of refusals
/// ([`crate::lane::evidence`]).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Batch {
    pub(crate) number: u64,
    pub(crate) has_success: bool,
}

impl Batch {
    /// Starts the next batch.
    fn begin(&mut self, has_success: bool) {
        self.number = self.number.wrapping_add(1);
        self.has_success = has_success;
    }
}

/// One lane on this core.
#[derive(Debug)]
pub(crate) struct LaneSlot {
    pub(crate) end: LaneEnd,
    /// Connections of the lane, by slot.
    pub(crate) links: Vec<u32>,
    /// Core whose connections the lane uses if this core has none.
    host: Option<usize>,
    /// Number of requests that are promised to guests, for which connections keep room.
    reserved: usize,
    next_link: usize,
    /// Outlets that pull through this lane: (wave slot, outlet of the wave).
    outlets: Vec<(u16, u16)>,
    /// Outlet whose turn it is, and the number of requests it may still send in this turn.
    next_outlet: usize,
    run_left: usize,
}

impl Core {
    /// Creates a core without partitions, lanes and waves.
    #[must_use]
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            rng: Pcg64Mcg::seed_from_u64(config.seed),
            partitions: Partitions::new(config.hash_seed),
            restores: Restores::default(),
            save: None,
            waves: Vec::new(),
            lanes: Vec::new(),
            first_lane: 0,
            links: Vec::new(),
            opens: Opens::default(),
            buffers: Buffers::default(),
            guests: Guests::default(),
            letters: VecDeque::new(),
            token: Box::default(),
            accepted: Vec::new(),
            batch: Batch::default(),
            templates: TemplateIds::default(),
            counts: VecDeque::new(),
            counted: VecDeque::new(),
            io: VecDeque::new(),
            unknown_cancelled: BTreeSet::new(),
            cancelled_unknown: VecDeque::new(),
            held_at: None,
            shutdown: None,
            now: Time(0),
            more: false,
        }
    }

    /// Does all work that is possible now, within bounds. Returns true if more work is possible at
    /// once, so that the driver must not wait before the next turn.
    pub fn turn(&mut self, now: Time) -> bool {
        self.now = now;
        self.lanes.iter_mut().for_each(|slot| slot.end.meter.woke(now));
        self.tend_links(now);
        let mut more = self.apply();
        let mut steps = Steps(STEPS_PER_TURN);
        self.expire_waves(now, &mut steps);
        let lanes = self.lanes.len();
        self.first_lane = (self.first_lane + 1) % lanes.max(1);
        let first = self.first_lane;
        for lane in (0..lanes).map(|n| (first + n) % lanes) {
            more |= self.host(lane, now);
            if self.shutdown.is_none() {
                more |= self.pull(lane, now, &mut steps);
            }
        }
        self.drop_useless(now);
        more |= self.count(&mut steps);
        more |= steps.0 == 0;
        self.more = more;
        self.hand_over(now);
        self.answer_guests();
        self.rest_lanes(now);
        more
    }

    /// Tells each lane's meter what the lane waits for until the next turn.
    fn rest_lanes(&mut self, now: Time) {
        for lane in 0..self.lanes.len() {
            let slot = &self.lanes[lane];
            let busy = self.lane_has_work(slot);
            let mut spent = slot
                .links
                .iter()
                .filter_map(|l| self.links[*l as usize].link.as_ref()?.is_spent())
                .peekable();
            let starved = busy && !self.more && spent.peek().is_some() && spent.all(|spent| spent);
            let end = &mut self.lanes[lane].end;
            end.meter.rests(busy, starved, end.out(), now);
        }
    }

    /// Returns the time at which [`Core::turn`] or [`Core::poll_event`] next has work if no event
    /// comes before.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if self.more {
            return Some(self.now);
        }
        let later = |time: &Time| *time > self.now && *time < Time::NEVER;
        let links = self.links.iter().filter_map(|slot| slot.link.as_ref()?.deadline());
        let waves =
            self.waves.iter().flatten().flat_map(|run| self.wave_deadlines(run)).filter(later);
        let lanes = (0..self.lanes.len()).flat_map(|lane| self.lane_deadlines(lane)).filter(later);
        // A report that is due waits for room in the control plane, which wakes no core: look again
        // in a while.
        let reports = self.report_deadline().map(|at| at.max(self.now + Duration::from_millis(1)));
        links
            .chain(waves)
            .chain(lanes)
            .chain(reports)
            .chain(self.guests.deadline())
            .chain(self.save_deadline())
            .chain(self.shutdown.filter(later))
            .min()
    }

    /// Reports whether [`crate::command::Command::Shutdown`] has been carried out and the control
    /// plane has received all reports. Without the last reports, the next process would push again
    /// to devices answered since the report before.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let unreported = || {
            self.waves.iter().flatten().any(|run| report::due(run, self.config.single).is_some())
        };
        self.is_closed()
            && (!unreported()
                || self.shutdown.is_some_and(|by| self.now >= by + LAST_REPORTS_WITHIN))
    }

    /// Reports whether the core neither sends nor receives any more, so that a report built now is
    /// the last one of its wave.
    fn is_closed(&self) -> bool {
        let idle = || {
            self.links.iter().all(|slot| slot.link.is_none())
                && self.guests.is_empty()
                && self.letters.is_empty()
        };
        self.shutdown.is_some_and(|by| self.now >= by || idle())
    }

    /// Reports whether the core can take the next [`crate::command::Command::Apply`] or
    /// [`crate::command::Command::Restore`].
    #[must_use]
    pub fn feed_ready(&self) -> bool {
        self.partitions.is_free() && self.restores.is_free()
    }

    /// Applies some records of the pending batch, or reads some of a snapshot. Returns true if more
    /// is left.
    fn apply(&mut self) -> bool {
        let busy = self.waves.iter().flatten().any(WaveRun::has_work);
        let mut more = self.read_snapshots(busy);
        if self.is_apply_held(busy) {
            more |= self.write_snapshot(busy);
            // Nothing wakes the core for the batch that has waited.
            return more || self.save.is_none() && !self.partitions.is_free();
        }
        let Self { partitions, waves, .. } = self;
        let records = if busy { RECORDS_PER_TURN.0 } else { RECORDS_PER_TURN.1 };
        let done = partitions.apply(records, |slot, applied| {
            waves.iter_mut().flatten().for_each(|run| run.applied(slot, applied));
        });
        if done {
            waves.iter_mut().flatten().for_each(|run| run.start_parts(partitions));
        }
        more |= !partitions.is_free();
        self.write_snapshot(busy) || more
    }

    /// Expires waves whose time is over, and continues the rest of their walks.
    fn expire_waves(&mut self, now: Time, steps: &mut Steps) {
        for wave in 0..self.waves.len() {
            let Some(run) = self.waves[wave].as_mut() else { continue };
            if run.phase == Phase::Running && now >= run.spec.expires {
                run.phase = Phase::Expired;
                run.open_all_bands();
                run.reporting.change();
                self.give_up_waiting(wave);
            }
            if self.waves[wave].as_ref().is_some_and(|run| run.phase == Phase::Expired) {
                self.expire_walk(wave, steps);
            }
        }
    }

    fn count(&mut self, steps: &mut Steps) -> bool {
        let Some(run) = self.counts.front_mut() else { return false };
        if run.step(&self.partitions, steps) {
            self.counted.extend(self.counts.pop_front());
        }
        !self.counts.is_empty()
    }

    /// Returns the times at which a wave may continue without an event.
    fn wave_deadlines(&self, run: &WaveRun) -> impl Iterator<Item = Time> {
        let running = run.phase == Phase::Running;
        let expires = running.then_some(run.spec.expires);
        let work = running && run.may_send(self.now) && run.has_work();
        let pace = if work { run.pace.ready_at(self.now) } else { None };
        let retry =
            if work { run.outlets.iter().filter_map(|o| o.retry.due()).min() } else { None };
        [expires, pace, retry].into_iter().flatten()
    }

    /// Returns the times at which a lane may continue without an event.
    fn lane_deadlines(&self, lane: usize) -> impl Iterator<Item = Time> {
        let slot = &self.lanes[lane];
        let busy = self.is_busy(lane);
        let connect = self.wants_links(lane).then(|| slot.end.pool.ready_at(busy));
        let send = if busy { slot.end.ready_at(self.now) } else { None };
        connect.into_iter().chain(send).chain(slot.end.trust.reported_at())
    }

    fn lane_has_work(&self, slot: &LaneSlot) -> bool {
        slot.outlets.iter().any(|(wave, outlet)| {
            self.waves[usize::from(*wave)].as_ref().is_some_and(|run| {
                run.phase == Phase::Running && run.outlets[usize::from(*outlet)].has_work()
            })
        })
    }
}
