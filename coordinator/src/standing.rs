//! The board: the desired state of all nodes (ownership, lanes, waves, counts).
//!
//! A bounded queue of changes to each node would lose changes when it is full. So there is no
//! queue: the desired state is one immutable value behind a `watch`; each session compares the
//! value with the state that it has sent and sends the difference. A new session has sent nothing,
//! so it sends the complete state; a slow session skips outdated states; memory does not grow with
//! the rate of changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use clarion_proto::{
    ids::{LaneId, WaveId},
    limits::WAVES_MAX,
    time::Time,
};
use tokio::sync::watch;

use crate::{
    lane::{LaneSpec, ProviderToken, ramp::Ramp},
    owners::Owned,
    planned::{CountPlan, PlannedAlert},
};

/// The desired state of all nodes. Cloning copies pointers only.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// Ownership of partitions; `None` until partitions are assigned.
    pub(crate) owned: Option<Arc<Owned>>,
    pub(crate) lanes: BTreeMap<LaneId, Arc<LaneSpec>>,
    pub(crate) tokens: BTreeMap<LaneId, Arc<ProviderToken>>,
    /// Warm-up states of the lanes with a ramp; a lane without an entry is cold.
    pub(crate) ramps: BTreeMap<LaneId, Ramp>,
    /// Lanes with a ramp that a node uses, as its reports of load say: the waves may be another
    /// coordinator's.
    pub(crate) used: BTreeSet<LaneId>,
    /// Connection budgets in the cluster; a lane without an entry has no budget yet, and each node
    /// holds one connection.
    pub(crate) connections: BTreeMap<LaneId, u32>,
    /// Waves under way; a wave without an entry has ended, and nodes that had it get its end.
    pub(crate) waves: BTreeMap<WaveId, Arc<StandingWave>>,
    /// Waves that another coordinator has taken over, at most [`WAVES_MAX`]: nodes get no End.
    pub(crate) abandoned: BTreeSet<WaveId>,
    /// Counts under way at the nodes.
    pub(crate) counts: BTreeMap<u64, Arc<CountPlan>>,
}

impl Standing {
    /// Updates lanes to busy or idle after waves have begun or ended, or nodes have reported loads.
    fn turn_ramps(&mut self, now: Time) {
        for (id, lane) in &self.lanes {
            let Some(length) =
                lane.gateway.quota.map(|quota| quota.ramp).filter(|length| !length.is_zero())
            else {
                continue;
            };
            let mut running = self.waves.values().filter(|wave| wave.phase == Phase::Running);
            let busy = self.used.contains(id) || running.any(|wave| wave.lanes.contains(id));
            self.ramps.entry(*id).or_default().turn(busy, length, now);
        }
    }
}

/// One wave under way.
#[derive(Debug, Clone)]
pub(crate) struct StandingWave {
    pub(crate) plan: Arc<PlannedAlert>,
    /// Lane of each app of the plan, in the plan's order.
    pub(crate) lanes: Vec<LaneId>,
    /// Expiry of the alert, on the process's clock.
    pub(crate) expires: Time,
    pub(crate) phase: Phase,
}

/// Phase of a wave at the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nodes walk partitions and send requests, with grants.
    Running,
    /// Nodes must write no further requests.
    Cancelled,
    /// Final for callers, because the alert expired or all nodes are complete: no grants, and no
    /// further node gets the wave. A node that has the wave keeps it.
    Closed,
    /// Nodes send their last report and forget the wave.
    Ended,
}

/// The only place where the desired state changes.
#[derive(Debug)]
pub(crate) struct Board(watch::Sender<Arc<Standing>>);

impl Board {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Standing>> {
        self.0.subscribe()
    }

    pub(crate) fn read(&self) -> Arc<Standing> {
        self.0.borrow().clone()
    }

    /// Changes the state for all sessions. `change` runs under a lock: it must be short and must
    /// not access the board.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Standing) -> R) -> R {
        let mut result = None;
        self.0.send_modify(|standing| result = Some(change(Arc::make_mut(standing))));
        result.expect("send_modify calls its argument")
    }

    /// Begins a wave: puts it on the board.
    pub(crate) fn begin(&self, wave: StandingWave, now: Time) {
        self.change(|standing| {
            standing.abandoned.remove(&wave.plan.wave);
            standing.waves.insert(wave.plan.wave, Arc::new(wave));
            standing.turn_ramps(now);
        });
    }

    /// Records whether a node uses a lane.
    pub(crate) fn set_used(&self, lane: LaneId, used: bool, now: Time) {
        if self.read().used.contains(&lane) != used {
            self.change(|standing| {
                match used {
                    true => standing.used.insert(lane),
                    false => standing.used.remove(&lane),
                };
                standing.turn_ramps(now);
            });
        }
    }

    /// Forgets which lanes are used, because a node has no session: the other nodes report again
    /// within a tenth of a second.
    pub(crate) fn forget_used(&self, now: Time) {
        for lane in self.read().used.iter().copied() {
            self.set_used(lane, false, now);
        }
    }

    /// Removes a wave that another coordinator has taken over.
    pub(crate) fn abandon(&self, wave: WaveId, now: Time) {
        self.change(|standing| {
            standing.waves.remove(&wave);
            if standing.abandoned.len() < WAVES_MAX {
                standing.abandoned.insert(wave);
            }
            standing.turn_ramps(now);
        });
    }

    /// Moves a wave to another phase; `None` ends the wave.
    pub(crate) fn set_phase(&self, wave: WaveId, phase: Option<Phase>, now: Time) {
        self.change(|standing| {
            match phase {
                None => drop(standing.waves.remove(&wave)),
                Some(phase) => {
                    if let Some(entry) = standing.waves.get_mut(&wave) {
                        Arc::make_mut(entry).phase = phase;
                    }
                }
            }
            standing.turn_ramps(now);
        });
    }
}
