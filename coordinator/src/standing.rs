//! Everything that holds now, for all nodes.
//!
//! A queue of changes to each node would have to be bounded, and then somebody would have to decide
//! what to lose. So there is none: what holds is one immutable value behind a `watch`; each session
//! compares it with what it has sent and sends the difference. A new session has sent nothing, so
//! it starts complete; a slow one skips what is outdated; memory does not grow with the speed of
//! changes.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::{
    ids::{LaneId, WaveId},
    time::Time,
};
use tokio::sync::watch;

use crate::{
    lane::{LaneSpec, ProviderToken, ramp::Ramp},
    owners::Owned,
    planned::{CountPlan, PlannedAlert},
};

/// What holds now. Cloning copies pointers only.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// `None` until enough nodes were there to share partitions out.
    pub(crate) owned: Option<Arc<Owned>>,
    pub(crate) lanes: BTreeMap<LaneId, Arc<LaneSpec>>,
    pub(crate) tokens: BTreeMap<LaneId, Arc<ProviderToken>>,
    /// How warm the lanes with a ramp are; one that is not here is cold.
    pub(crate) ramps: BTreeMap<LaneId, Ramp>,
    /// Budgets of connections, in the cluster; a lane that is not here has none yet, and its nodes
    /// hold one each.
    pub(crate) connections: BTreeMap<LaneId, u32>,
    /// A wave that is no longer here has ended: nodes that had it are told so.
    pub(crate) waves: BTreeMap<WaveId, Arc<StandingWave>>,
    /// Questions to the nodes that are under way.
    pub(crate) counts: BTreeMap<u64, Arc<CountPlan>>,
}

impl Standing {
    /// Waves have come or gone: lanes become busy or idle.
    fn turn_ramps(&mut self, now: Time) {
        for (id, lane) in &self.lanes {
            let Some(length) =
                lane.gateway.quota.map(|quota| quota.ramp).filter(|length| !length.is_zero())
            else {
                continue;
            };
            let mut running = self.waves.values().filter(|wave| wave.phase == Phase::Running);
            let busy = running.any(|wave| wave.lanes.contains(id));
            self.ramps.entry(*id).or_default().turn(busy, length, now);
        }
    }
}

/// One wave under way.
#[derive(Debug, Clone)]
pub(crate) struct StandingWave {
    pub(crate) plan: Arc<PlannedAlert>,
    /// Of each app of the plan, in its order.
    pub(crate) lanes: Vec<LaneId>,
    /// When the alert's time is over, on the process's clock.
    pub(crate) expires: Time,
    pub(crate) phase: Phase,
}

/// What nodes are to do with a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Walk and send, with grants.
    Running,
    /// Nodes are to write nothing more.
    Cancelled,
    /// Over for callers, by its time or because all is done: no grants, and no node is given it
    /// anew. A node that has it keeps it.
    Closed,
    /// Send the last report and forget it.
    Ended,
}

/// The one place where what holds is changed.
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

    /// Changes it for everybody. `change` runs under a lock: short, and no second look at the board
    /// inside.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Standing) -> R) -> R {
        let mut result = None;
        self.0.send_modify(|standing| result = Some(change(Arc::make_mut(standing))));
        result.expect("send_modify calls its argument")
    }

    /// Puts a wave on the board: it begins.
    pub(crate) fn begin(&self, wave: StandingWave, now: Time) {
        self.change(|standing| {
            standing.waves.insert(wave.plan.wave, Arc::new(wave));
            standing.turn_ramps(now);
        });
    }

    /// Moves a wave to another phase, or ends it.
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
