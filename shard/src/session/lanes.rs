//! Lane ends: what the coordinator said of each, divided over the cores, and how the cores say it is.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::{ids::LaneId, wire::shard_v1 as wire};

use super::message::Lane;
use crate::command::{LaneHealth, LaneSpec, Platform};

/// Lanes of one node: gateways × credentials of a whole cluster. There is no message that removes one, so a bound keeps
/// a mistaken coordinator from filling the node.
pub const LANES_MAX: usize = 256;
/// Longest text of a gateway that is passed on.
const DETAIL_BYTES_MAX: usize = 512;

/// One lane end of the node.
#[derive(Debug)]
pub struct LaneEnd {
    lane: Lane,
    cores: Vec<Option<(LaneHealth, String)>>,
    told: Option<LaneHealth>,
    changed: bool,
}

/// All lane ends.
#[derive(Debug)]
pub struct Lanes {
    cores: usize,
    ends: BTreeMap<LaneId, LaneEnd>,
}

/// What became of a lane message.
#[derive(Debug)]
pub enum Taken {
    /// The same was said before: its connections stay as they are.
    Known,
    /// One for each core.
    Made(Vec<Arc<LaneSpec>>),
    /// [`LANES_MAX`] are there already.
    TooMany,
    /// The lane speaks this platform's protocol, and waves that use it are made for that.
    Speaks(Platform),
}

impl Lanes {
    /// None yet.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cores, ends: BTreeMap::new() }
    }

    /// Makes or replaces a lane end.
    pub fn take(&mut self, lane: Lane) -> Taken {
        let id = lane.terms.id;
        match self.ends.get(&id) {
            Some(end) if end.lane.terms == lane.terms => return Taken::Known,
            Some(end) if end.lane.terms.platform != lane.terms.platform => {
                return Taken::Speaks(end.lane.terms.platform);
            }
            None if self.ends.len() == LANES_MAX => return Taken::TooMany,
            _ => {}
        }
        let specs = (0..self.cores).map(|core| Arc::new(spec(&lane, core, self.cores))).collect();
        self.ends.insert(id, LaneEnd { lane, cores: vec![None; self.cores], told: None, changed: false });
        Taken::Made(specs)
    }

    /// Whether there is such a lane.
    #[must_use]
    pub fn contains(&self, lane: LaneId) -> bool {
        self.ends.contains_key(&lane)
    }

    /// Whose protocol a lane speaks; `None`: there is no such lane.
    #[must_use]
    pub fn platform(&self, lane: LaneId) -> Option<Platform> {
        self.ends.get(&lane).map(|end| end.lane.terms.platform)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All of them.
    pub fn ids(&self) -> impl Iterator<Item = LaneId> {
        self.ends.keys().copied()
    }

    /// A core's word on its part.
    pub fn hear(&mut self, core: usize, lane: LaneId, health: LaneHealth, mut detail: String) {
        let Some(end) = self.ends.get_mut(&lane) else { return };
        if detail.len() > DETAIL_BYTES_MAX {
            detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        }
        end.cores[core] = Some((health, detail));
        end.changed = end.worst().map(|(health, _)| health) != end.told;
    }

    /// A new session is told of all.
    pub fn start_over(&mut self) {
        for end in self.ends.values_mut() {
            end.told = None;
            end.changed = end.worst().is_some();
        }
    }

    /// Whether a lane's health is to be told.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.ends.values().any(|end| end.changed)
    }

    /// The next lane whose health changed.
    pub fn take_state(&mut self) -> Option<wire::LaneState> {
        let (id, end) = self.ends.iter_mut().find(|(_, end)| end.changed)?;
        end.changed = false;
        let (health, detail) = end.worst()?;
        let state = wire::LaneState { lane: id.0, health: to_wire(health).into(), detail: detail.to_owned() };
        end.told = Some(health);
        Some(state)
    }
}

impl LaneEnd {
    /// The node's end is as well as its worst part: a credential refused on one core is refused.
    fn worst(&self) -> Option<(LaneHealth, &str)> {
        let known = self.cores.iter().flatten();
        known.max_by_key(|(health, _)| severity(*health)).map(|(health, detail)| (*health, detail.as_str()))
    }
}

/// One core's part: connections are divided, each core has at least one, since its partitions have no other way out.
fn spec(lane: &Lane, core: usize, cores: usize) -> LaneSpec {
    let terms = &lane.terms;
    let connections = terms.connections / cores + usize::from(core < terms.connections % cores);
    LaneSpec {
        id: terms.id,
        platform: terms.platform,
        name: terms.name.clone(),
        endpoint: terms.endpoint.clone(),
        server_name: terms.server_name.clone(),
        roots: lane.roots.clone(),
        live: terms.live,
        connections: connections.max(1),
        streams_per_connection: terms.streams_per_connection,
        request_deadline: terms.request_deadline,
        connect_deadline: terms.connect_deadline,
        backoff_min: terms.backoff_min,
        backoff_max: terms.backoff_max,
        authorization_indexed: terms.authorization_indexed,
    }
}

/// What needs somebody to act stands above what passes by itself.
fn severity(health: LaneHealth) -> u8 {
    match health {
        LaneHealth::Ready => 0,
        LaneHealth::Throttled => 1,
        LaneHealth::Unreachable => 2,
        LaneHealth::Credential => 3,
        LaneHealth::Campaign => 4,
    }
}

fn to_wire(health: LaneHealth) -> wire::LaneHealth {
    match health {
        LaneHealth::Ready => wire::LaneHealth::Ready,
        LaneHealth::Unreachable => wire::LaneHealth::Unreachable,
        LaneHealth::Credential => wire::LaneHealth::Credential,
        LaneHealth::Campaign => wire::LaneHealth::Campaign,
        LaneHealth::Throttled => wire::LaneHealth::Throttled,
    }
}
