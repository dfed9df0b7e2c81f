//! The desired state of all nodes: ownership, lanes, waves and counts. Free of I/O.
//!
//! A bounded queue of changes to each node would lose changes when it is full. So there is no
//! queue: the desired state is one immutable value behind a `watch` (`dispatch/board.rs`); each
//! session compares the value with the state that it has sent and sends the difference. A new
//! session has sent nothing, so it sends the complete state; a slow session skips outdated states;
//! memory does not grow with the rate of changes.
//!
//! Machines ask for a [`Change`]; [`Standing::apply`] is the only place where the value changes:
//!
//! | Change | Effect | No effect |
//! |---|---|---|
//! | `Owned` | replaces the ownership | – |
//! | `Lane` | adds the lane, and its token if there is one | – |
//! | `Token` | replaces the token of these lanes | without lanes |
//! | `Budget` | sets the lane's budget of connections | at the same budget |
//! | `Begin` | adds a wave; its lanes become busy if it runs | – |
//! | `Phase(Some)` | moves a wave to the phase | at the same phase; of an unknown wave |
//! | `Phase(None)` | removes the wave; lanes without a running wave become idle | of an unknown wave |
//! | `Used` | the lane becomes busy or idle | at the same use |
//! | `Warm` | warms the lane's ramp up | – |
//! | `BeginCount` | adds a count | if as many as allowed are under way |
//! | `EndCount` | removes the count | of an unknown count |

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{
    ids::{LaneId, WaveId},
    limits::WAVES_MAX,
    time::Time,
};

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
    /// The newest [`WAVES_MAX`] waves that another coordinator has taken over, oldest first: nodes
    /// get no End, also a node whose memory names the wave when its next session begins.
    pub(crate) abandoned: VecDeque<WaveId>,
    /// Counts under way at the nodes.
    pub(crate) counts: BTreeMap<u64, Arc<CountPlan>>,
}

/// A change of the desired state.
#[derive(Debug)]
pub(crate) enum Change {
    /// Partitions are assigned to nodes.
    Owned(Arc<Owned>),
    /// A lane exists from now on; without a token until one is issued.
    Lane(Arc<LaneSpec>, Option<Arc<ProviderToken>>),
    /// These lanes, which share a credential, have a new token.
    Token(Vec<LaneId>, Arc<ProviderToken>),
    /// The lane has this budget of connections in the cluster.
    Budget(LaneId, u32),
    /// A wave begins.
    Begin(StandingWave),
    /// A wave moves to another phase; `None` ends the wave.
    Phase(WaveId, Option<Phase>),
    /// A count begins, unless `limit` counts are under way.
    BeginCount { id: u64, plan: Arc<CountPlan>, limit: usize },
    /// Another coordinator has taken the wave over.
    Abandon(WaveId),
    /// Whether a node uses the lane, as its reports of load say.
    Used(LaneId, bool),
    /// A former process has recorded this warmth of the lane.
    Warm(LaneId, Duration),
    /// A count ends.
    EndCount(u64),
}

impl Standing {
    /// Applies a change. False: the change has no effect, and sessions need no notice.
    pub(crate) fn apply(&mut self, change: Change, now: Time) -> bool {
        match change {
            Change::Owned(owned) => self.owned = Some(owned),
            Change::Lane(lane, token) => {
                self.tokens.extend(token.map(|token| (lane.id, token)));
                self.lanes.insert(lane.id, lane);
            }
            Change::Token(lanes, _) if lanes.is_empty() => return false,
            Change::Token(lanes, token) => {
                self.tokens.extend(lanes.into_iter().map(|lane| (lane, token.clone())));
            }
            Change::Budget(lane, connections) => {
                return self.connections.insert(lane, connections) != Some(connections);
            }
            Change::Begin(wave) => {
                self.abandoned.retain(|abandoned| *abandoned != wave.plan.wave);
                self.waves.insert(wave.plan.wave, Arc::new(wave));
                self.turn_ramps(now);
            }
            Change::Phase(wave, phase) => {
                let has_moved = self.move_wave(wave, phase);
                if has_moved {
                    self.turn_ramps(now);
                }
                return has_moved;
            }
            Change::Abandon(wave) => {
                self.waves.remove(&wave);
                self.abandoned.retain(|abandoned| *abandoned != wave);
                if self.abandoned.len() == WAVES_MAX {
                    self.abandoned.pop_front();
                }
                self.abandoned.push_back(wave);
                self.turn_ramps(now);
            }
            Change::Used(lane, used) => {
                let has_changed = match used {
                    true => self.used.insert(lane),
                    false => self.used.remove(&lane),
                };
                if has_changed {
                    self.turn_ramps(now);
                }
                return has_changed;
            }
            Change::Warm(lane, warm) => self.ramps.entry(lane).or_default().raise(warm, now),
            Change::BeginCount { limit, .. } if self.counts.len() >= limit => return false,
            Change::BeginCount { id, plan, .. } => drop(self.counts.insert(id, plan)),
            Change::EndCount(id) => return self.counts.remove(&id).is_some(),
        }
        true
    }

    /// Moves a wave to a phase, or removes it; false if that changes nothing.
    fn move_wave(&mut self, wave: WaveId, phase: Option<Phase>) -> bool {
        let Some(phase) = phase else { return self.waves.remove(&wave).is_some() };
        match self.waves.get_mut(&wave) {
            Some(entry) if entry.phase != phase => {
                Arc::make_mut(entry).phase = phase;
                true
            }
            Some(_) | None => false,
        }
    }

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

#[cfg(test)]
mod tests;
