//! The lanes of a node: terms from the coordinator, their division over the cores, and the health
//! that the cores report.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_proto::{ids::LaneId, latency::Latencies, time::Time, wire::shard_v1 as wire};

use super::message::Lane;
use crate::{
    lane::{
        health::LaneHealth,
        load::{LaneLoad, TELL_EVERY},
        news::News,
        spec::LaneSpec,
    },
    outcome::Platform,
};

/// Highest number of lanes of one node: gateways × credentials of the whole cluster. No message
/// removes a lane, so a bound keeps a faulty coordinator from filling the node.
pub const LANES_MAX: usize = 256;
/// Longest text of a gateway that is passed on, bytes.
const DETAIL_BYTES_MAX: usize = 512;
/// Shortest time between two log lines about the same recurring trouble of a lane.
const LOGGED_EVERY: Duration = Duration::from_mins(1);

/// One lane of the node.
#[derive(Debug)]
pub struct LaneEnd {
    lane: Lane,
    cores: Vec<Option<News>>,
    /// Health of the worst core at the last change, and the number of that change.
    worst: Option<News>,
    state_news: u64,
    log: Log,
    /// Connections of the node, over all its cores.
    connections: usize,
    /// Last load reported by each core.
    loads: Vec<LaneLoad>,
    /// Whether `loads` has changes that no session gets yet.
    load_changed: bool,
    /// Time and number of the last change that sessions get.
    load_published: Option<Time>,
    load_news: u64,
}

/// State of the log lines about a lane.
#[derive(Debug, Default)]
struct Log {
    /// Content and time of the last line.
    last: Option<(LaneHealth, String, Time)>,
    /// Whether the present trouble has been logged.
    open: bool,
    /// Times the same trouble came again since.
    repeated: u64,
}

/// All lanes of the node.
#[derive(Debug)]
pub struct Lanes {
    cores: usize,
    ends: BTreeMap<LaneId, LaneEnd>,
    /// Number of changes of health and load so far.
    news: u64,
}

/// State of lanes that a session's coordinator knows: the numbers of the newest changes of health
/// and of load. The default knows nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    state: u64,
    load: u64,
}

/// Result of a lane message.
#[derive(Debug)]
pub enum Taken {
    /// The terms are known already: connections stay as they are.
    Known,
    /// The specification of a new or changed lane, one for each core.
    Made(Vec<Arc<LaneSpec>>),
    /// The node has [`LANES_MAX`] lanes already.
    TooMany,
    /// The lane speaks this platform's protocol, and waves that use it are made for that.
    Speaks(Platform),
}

impl Lanes {
    /// The lanes of a node with `cores` cores: none yet.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cores, ends: BTreeMap::new(), news: 0 }
    }

    /// Creates or replaces a lane. `directs`: whether the lane comes from the coordinator that
    /// directs the lanes. Another coordinator's description counts only for a lane that the node
    /// does not know, because that coordinator's waves may need it.
    pub fn take(&mut self, lane: Lane, directs: bool) -> Taken {
        let id = lane.terms.id;
        match self.ends.get(&id) {
            Some(_) if !directs => return Taken::Known,
            Some(end) if end.lane.terms == lane.terms => return Taken::Known,
            Some(end) if end.lane.terms.platform != lane.terms.platform => {
                return Taken::Speaks(end.lane.terms.platform);
            }
            None if self.ends.len() == LANES_MAX => return Taken::TooMany,
            _ => {}
        }
        // What was known of its connections stays true if the same lane has other terms.
        let former = self.ends.remove(&id);
        let connections = former.as_ref().map_or(CONNECTIONS_FIRST, |end| end.connections);
        let specs = (0..self.cores)
            .map(|core| Arc::new(spec(&lane, part(connections, id, core, self.cores))))
            .collect();
        let end = LaneEnd {
            lane,
            cores: vec![None; self.cores],
            worst: None,
            state_news: 0,
            log: Log::default(),
            connections,
            loads: former.map_or_else(|| vec![LaneLoad::default(); self.cores], |end| end.loads),
            load_changed: false,
            load_published: None,
            load_news: 0,
        };
        self.ends.insert(id, end);
        Taken::Made(specs)
    }

    /// Sets the node's part of the lane's connection budget. False: it is unchanged.
    pub fn set_connections(&mut self, id: LaneId, connections: usize) -> bool {
        let changed = self.ends.get_mut(&id).filter(|end| end.connections != connections);
        changed.map(|end| end.connections = connections).is_some()
    }

    /// Connections of each core for a lane, and the host of a core without any: the cores with
    /// connections in turn.
    #[must_use]
    pub fn parts(&self, id: LaneId) -> Vec<(usize, Option<usize>)> {
        let connections = self.ends.get(&id).map_or(0, |end| end.connections);
        let parts: Vec<_> =
            (0..self.cores).map(|core| part(connections, id, core, self.cores)).collect();
        let hosts: Vec<_> = (0..self.cores).filter(|core| parts[*core] > 0).collect();
        let mut guests = hosts.iter().copied().cycle();
        parts.into_iter().map(|part| (part, if part > 0 { None } else { guests.next() })).collect()
    }

    /// Whether the node has a lane with this id.
    #[must_use]
    pub fn contains(&self, lane: LaneId) -> bool {
        self.ends.contains_key(&lane)
    }

    /// Platform of a lane; `None`: the lane is unknown.
    #[must_use]
    pub fn platform(&self, lane: LaneId) -> Option<Platform> {
        self.ends.get(&lane).map(|end| end.lane.terms.platform)
    }

    /// Whether the node has no lane.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Ids of all lanes.
    pub fn ids(&self) -> impl Iterator<Item = LaneId> {
        self.ends.keys().copied()
    }

    /// Records the health that a core reports for its part.
    pub fn hear(&mut self, core: usize, lane: LaneId, mut news: News, now: Time) {
        let Some(end) = self.ends.get_mut(&lane) else { return };
        news.detail.truncate(news.detail.floor_char_boundary(DETAIL_BYTES_MAX));
        end.cores[core] = Some(news);
        if end.worst() != end.worst.as_ref() {
            self.news += 1;
            (end.worst, end.state_news) = (end.worst().cloned(), self.news);
        }
        end.write_log(now);
    }

    /// Records the load that a core reports.
    pub fn load(&mut self, core: usize, lane: LaneId, load: LaneLoad) {
        if let Some(end) = self.ends.get_mut(&lane) {
            end.loads[core] = load;
            end.load_changed = true;
        }
    }

    /// Time of a session's next load report; [`Time::default`]: at once.
    #[must_use]
    pub fn load_due(&self, told: &Told) -> Option<Time> {
        let due = |end: &LaneEnd| match end.load_news > told.load {
            true => Some(Time::default()),
            false => end.publish_due(),
        };
        self.ends.values().filter_map(due).min()
    }

    /// The next load report that is due to a session.
    pub fn take_load(&mut self, told: &mut Told, now: Time) -> Option<wire::LaneLoad> {
        for end in self.ends.values_mut() {
            if end.publish_due().is_some_and(|due| due <= now) {
                self.news += 1;
                (end.load_changed, end.load_published) = (false, Some(now));
                end.load_news = self.news;
            }
        }
        let news = self.ends.iter().filter(|(_, end)| end.load_news > told.load);
        let (id, end) = news.min_by_key(|(_, end)| end.load_news)?;
        told.load = end.load_news;
        Some(load_to_wire(*id, &end.loads))
    }

    /// Whether a session does not know the health of some lane.
    #[must_use]
    pub fn is_due(&self, told: &Told) -> bool {
        self.ends.values().any(|end| end.state_news > told.state)
    }

    /// The next lane whose health a session does not know.
    pub fn take_state(&self, told: &mut Told, now: Time) -> Option<wire::LaneState> {
        let news = self.ends.iter().filter(|(_, end)| end.state_news > told.state);
        let (id, end) = news.min_by_key(|(_, end)| end.state_news)?;
        told.state = end.state_news;
        let news = end.worst.as_ref()?;
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(wire::LaneState {
            lane: id.0,
            health: to_wire(news.health).into(),
            detail: news.detail.clone(),
            // A trouble of less than a millisecond is one all the same.
            troubled_for_ms: news.since.map_or(0, |since| ms(now.since(since)).max(1)),
            next_probe_in_ms: news.next_probe.map(|at| ms(at.since(now))),
        })
    }
}

impl LaneEnd {
    /// Time from which sessions may get the newest load.
    fn publish_due(&self) -> Option<Time> {
        let next = |published: Time| published + TELL_EVERY;
        self.load_changed.then(|| self.load_published.map_or(Time::default(), next))
    }

    /// The node's end is as well as its worst part: a credential refused on one core is refused.
    fn worst(&self) -> Option<&News> {
        self.cores.iter().flatten().max_by_key(|news| severity(news.health))
    }

    /// Logs one line at the start of a trouble, at each change of its reason and at its end; for a
    /// recurring trouble, at most one line a minute.
    fn write_log(&mut self, now: Time) {
        let (lane, id) = (self.lane.terms.name.as_str(), self.lane.terms.id);
        let known = self.cores.iter().flatten();
        let Some(News { health, detail, next_probe, .. }) =
            known.max_by_key(|news| severity(news.health))
        else {
            return;
        };
        let log = &mut self.log;
        if *health == LaneHealth::Ready {
            if std::mem::take(&mut log.open) || log.last.is_none() {
                tracing::info!(lane, id = id.0, "lane ready for pushes");
                log.last.get_or_insert((LaneHealth::Ready, String::new(), now));
            }
            return;
        }
        let same = |(of, words, _): &(LaneHealth, String, Time)| of == health && words == detail;
        if log.last.as_ref().is_some_and(|last| same(last) && now < last.2 + LOGGED_EVERY) {
            log.repeated += 1;
            return;
        }
        let next_probe_ms = next_probe.map(|at| at.since(now).as_millis());
        let repeated = std::mem::take(&mut log.repeated);
        tracing::warn!(
            lane,
            id = id.0,
            ?health,
            detail,
            next_probe_ms,
            repeated,
            "lane not ready for pushes"
        );
        log.last = Some((*health, detail.clone(), now));
        log.open = true;
    }
}

/// Connections of a lane before its budget is known: enough that the first push of an alert finds a
/// warm connection.
const CONNECTIONS_FIRST: usize = 1;

/// Connections of a core as its part of its node's: all cores have the same number, or one more.
/// The cores with one more depend on the lane, so that not all lanes of a node use its first core.
/// A core without connections is the guest of a core with some.
fn part(connections: usize, lane: LaneId, core: usize, cores: usize) -> usize {
    let place = (core + lane.0 as usize) % cores;
    connections / cores + usize::from(place < connections % cores)
}

/// Sum of the load of all cores.
fn load_to_wire(lane: LaneId, loads: &[LaneLoad]) -> wire::LaneLoad {
    let sum = |of: fn(&LaneLoad) -> u64| loads.iter().map(of).sum::<u64>();
    let mut latencies = Latencies::default();
    loads.iter().for_each(|load| latencies.add(&load.latencies));
    let starved = loads.iter().map(|load| load.starved).fold(0.0, f64::max);
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    wire::LaneLoad {
        lane: lane.0,
        busy: loads.iter().any(|load| load.busy),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share
        starved_permille: (starved * 1_000.0) as u32,
        connections: narrow(sum(|load| load.connections)),
        streams: sum(|load| load.streams),
        window_bytes: sum(|load| load.window_bytes),
        requests_out_max: sum(|load| load.requests_out_max),
        body_bytes: narrow(
            sum(|load| load.body_bytes).checked_div(sum(|load| load.bodies)).unwrap_or(0),
        ),
        latencies: latencies.to_wire(),
    }
}

/// A lane as a core needs it.
fn spec(lane: &Lane, connections: usize) -> LaneSpec {
    let terms = &lane.terms;
    LaneSpec {
        id: terms.id,
        platform: terms.platform,
        name: terms.name.clone(),
        endpoint: terms.endpoint.clone(),
        server_name: terms.server_name.clone(),
        roots: lane.roots.clone(),
        live: terms.live,
        route: terms.route.clone(),
        connections,
        streams_per_connection: terms.streams_per_connection,
        request_deadline: terms.request_deadline,
        connect_deadline: terms.connect_deadline,
        backoff_min: terms.backoff_min,
        backoff_max: terms.backoff_max,
        authorization_indexed: terms.authorization_indexed,
        evidence: terms.evidence,
    }
}

/// Order of severity: troubles that need an operator are above those that pass by themselves.
fn severity(health: LaneHealth) -> u8 {
    match health {
        LaneHealth::Ready => 0,
        LaneHealth::Throttled => 1,
        LaneHealth::Unsigned => 2,
        LaneHealth::Unreachable => 3,
        LaneHealth::Project => 4,
        LaneHealth::Credential => 5,
        LaneHealth::Campaign => 6,
    }
}

fn to_wire(health: LaneHealth) -> wire::LaneHealth {
    match health {
        LaneHealth::Ready => wire::LaneHealth::Ready,
        LaneHealth::Unreachable => wire::LaneHealth::Unreachable,
        LaneHealth::Credential => wire::LaneHealth::Credential,
        LaneHealth::Campaign => wire::LaneHealth::Campaign,
        LaneHealth::Throttled => wire::LaneHealth::Throttled,
        LaneHealth::Unsigned => wire::LaneHealth::Unsigned,
        LaneHealth::Project => wire::LaneHealth::Project,
    }
}
