//! A cluster with its people and one alert, ready to run.
//!
//! The people and the alert are the same for every seed; the seed decides delays, jitter, pauses,
//! the clocks of the processes, and which requests the gateway refuses.

pub mod alert;
pub mod people;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_coordinator::{
    lane::{ConnectionLimits, Quota},
    machine::MachineConfig,
    owners::{NodeName, Ownership},
    planned::PlannedAlert,
    snapshot::Snapshot,
};
use clarion_emulator::record::Entry;
use clarion_proto::{
    ids::{
        BootId, ClusterName, CoordinatorId, Epoch, LogIdentity, UnixMillis, log_of, partition_of,
    },
    time::Time,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use self::people::Person;
use crate::{
    bus::Bus,
    coordinator::Coordinator,
    cores::{CoreActor, CorePlace},
    gateway::Gateway,
    link::{Cut, Delay, Links, Place},
    log::LogModel,
    message::Message,
    node::{Node, NodeConfig},
    stream::ActorId,
};

/// Wall time at the bus's time 0: 15 January 2027.
const WALL: UnixMillis = UnixMillis(1_800_000_000_000);
/// Delay between two actors of one process.
const WITHIN: Delay = Delay::micros(2, 60);
/// Delay between coordinator and nodes.
const INSIDE: Delay = Delay::micros(150, 2_500);
/// Delay between nodes and gateway.
const OUTSIDE: Delay = Delay::micros(2_000, 9_000);
/// Number of records in one batch of a log.
const BATCH: usize = 100;
/// Largest difference between the clocks of two processes, milliseconds.
const AHEAD_MS_MAX: u64 = 3_600_000;

/// The size of a scene, and its seed.
#[derive(Debug, Clone, Copy)]
pub struct SceneConfig {
    /// Seed of all random choices.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: u16,
    /// Number of cores of each node.
    pub cores: u16,
    /// Number of devices.
    pub devices: u32,
    /// Number of partitions, P.
    pub partitions: u16,
    /// Number of logs, L.
    pub logs: u16,
    /// Number of connections to the gateway, in the cluster.
    pub connections: u32,
    /// Requests that the gateway's provider allows per minute.
    pub per_minute: u32,
    /// Largest rate of the alert, requests per second; 0: no limit.
    pub rate: u32,
    /// Faults of the gateway, as JSON.
    pub faults: &'static str,
}

impl SceneConfig {
    /// Two nodes of two cores, 5,000 devices in 8 partitions, five connections.
    #[must_use]
    pub fn ordinary(seed: u64) -> Self {
        Self {
            seed,
            nodes: 2,
            cores: 2,
            devices: 5_000,
            partitions: 8,
            logs: 4,
            connections: 5,
            per_minute: 120_000,
            rate: 1_000,
            faults: alert::FAULTS,
        }
    }
}

/// A cluster, its gateway and its devices on one bus.
pub struct Scene {
    config: SceneConfig,
    bus: Bus,
    people: Vec<Person>,
    coordinator: ActorId,
    log: Arc<LogModel>,
    nodes: Vec<ActorId>,
    gateway: ActorId,
    alert: Option<Arc<PlannedAlert>>,
}

impl Scene {
    /// Creates a cluster at time 0.
    ///
    /// # Panics
    /// If the emulator refuses its configuration: a defect of this crate.
    #[must_use]
    pub fn new(config: SceneConfig) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(config.seed);
        let mut draw = || random.random::<u64>();
        let mut links = Links::new(WITHIN, INSIDE);
        let gateway_place = Place(1);
        for node in 0..config.nodes {
            links.set(node_place(node), gateway_place, OUTSIDE);
        }
        let mut bus = Bus::new(draw(), links);
        let (cluster, identity) = (cluster(), LogIdentity([7; 16]));
        let people = people::all(config.devices);
        let log = Arc::new(LogModel::new(identity, config.logs));
        fill(&log, &people, config);

        // Actor names are fixed before the first actor begins: the coordinator, the gateway, then
        // each node followed by its cores.
        let (coordinator, gateway) = (ActorId(0), ActorId(1));
        let node_id = |node: u16| ActorId(2 + node * (1 + config.cores));
        let nodes: Vec<ActorId> = (0..config.nodes).map(node_id).collect();
        let machine = MachineConfig {
            cluster: cluster.clone(),
            coordinator: CoordinatorId([3; 16]),
            log: identity,
            lanes_epoch: Epoch(1),
            partitions: config.partitions,
            logs: config.logs,
            nodes: nodes.len(),
            gateways: vec![alert::gateway(
                ConnectionLimits { floor: config.connections, ceiling: config.connections },
                Quota { per_minute: config.per_minute, burst: None, ramp: Duration::ZERO },
            )],
            credentials: vec![alert::credential()],
        };
        let mut ahead = || Duration::from_millis(draw() % AHEAD_MS_MAX);
        let coordinator_ahead = ahead();
        let wall = UnixMillis(WALL.0 - millis(coordinator_ahead));
        let aheads: Vec<Duration> = nodes.iter().map(|_| ahead()).collect();
        let lanes = vec![alert::lane()];
        let start = (wall, draw());
        let actor = Coordinator::new(coordinator, machine, log.clone(), &nodes, lanes, start);
        bus.add(Place(0), coordinator_ahead, actor);
        let emulator =
            Gateway::new(&alert::emulator(config.faults, draw()), WALL).expect("a configuration");
        bus.add(gateway_place, Duration::ZERO, emulator);
        for (node, ahead) in (0..config.nodes).zip(aheads) {
            let cores: Vec<ActorId> =
                (0..config.cores).map(|core| ActorId(node_id(node).0 + 1 + core)).collect();
            let (mut boot, name) = ([0; 16], format!("node-{node}"));
            boot[..8].copy_from_slice(&draw().to_le_bytes());
            let of_node = NodeConfig {
                name,
                boot: BootId(boot),
                cluster: cluster.clone(),
                coordinator,
                cores: cores.clone(),
                seed: draw(),
            };
            bus.add(node_place(node), ahead, Node::new(node_id(node), of_node));
            for core in &cores {
                let control = node_id(node);
                let place = CorePlace { control, cores: cores.clone(), gateway, seed: draw() };
                bus.add(node_place(node), ahead, CoreActor::new(*core, place));
            }
        }
        Self { config, bus, people, coordinator, log, nodes, gateway, alert: None }
    }

    /// Runs until the coordinator can start an alert. False: the time ran out before.
    pub fn run_until_ready(&mut self, until: Time) -> bool {
        let coordinator = self.coordinator;
        self.bus.run(until, |bus| bus.actor::<Coordinator>(coordinator).is_ready())
    }

    /// Runs until a time on the bus's clock.
    pub fn run_until(&mut self, until: Time) {
        self.bus.run(until, |_| false);
    }

    /// Starts the alert now.
    pub fn start_alert(&mut self) {
        let created = UnixMillis(WALL.0 + self.bus.now().0 / 1_000);
        let plan = Arc::new(alert::plan(created, &self.log, self.config.rate));
        self.bus.order(self.coordinator, Message::Start(plan.clone()));
        self.alert = Some(plan);
    }

    /// Runs until the alert is settled. False: the time ran out before.
    pub fn run_until_settled(&mut self, until: Time) -> bool {
        let coordinator = self.coordinator;
        self.bus.run(until, |bus| bus.actor::<Coordinator>(coordinator).is_settled(alert::WAVE))
    }

    /// Cuts the link between the coordinator and a node.
    pub fn cut_off(&mut self, node: u16, from: Time, until: Time) {
        self.bus.cut(Cut { between: (Place(0), node_place(node)), from, until });
    }

    /// The bus that the actors are on.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The settings of the scene.
    #[must_use]
    pub fn config(&self) -> SceneConfig {
        self.config
    }

    /// All devices of the scene.
    #[must_use]
    pub fn people(&self) -> &[Person] {
        &self.people
    }

    /// The alert, once it has started.
    #[must_use]
    pub fn alert(&self) -> Option<&PlannedAlert> {
        self.alert.as_deref()
    }

    /// The newest state of the alert.
    pub fn snapshot(&mut self) -> Option<Snapshot> {
        self.bus.actor::<Coordinator>(self.coordinator).snapshot(alert::WAVE)
    }

    /// What the gateway recorded, in the order of decisions.
    pub fn record(&mut self) -> Vec<Entry> {
        self.bus.actor::<Gateway>(self.gateway).record().copied().collect()
    }

    /// Number of connections that the gateway has accepted.
    pub fn connections(&mut self) -> u32 {
        self.bus.actor::<Gateway>(self.gateway).accepted()
    }

    /// Number of the node that holds each phone, by hash of the token.
    #[must_use]
    pub fn nodes_of_tokens(&self) -> BTreeMap<u64, u16> {
        let names: Vec<_> = (0..self.config.nodes)
            .map(|node| NodeName::new(&format!("node-{node}")))
            .collect::<Result<_, _>>()
            .expect("names of nodes");
        let partitions = self.config.partitions;
        let owners = Ownership::assign(1, partitions, &names);
        let node = |person: &Person| {
            let owner = owners.owner(partition_of(person.device, partitions));
            let node = names.iter().position(|name| Some(name) == owner).expect("an owner");
            u16::try_from(node).expect("few nodes")
        };
        self.people.iter().map(|person| (person.token_hash(), node(person))).collect()
    }

    /// Unexpected events that the actors recorded.
    pub fn problems(&mut self) -> Vec<String> {
        let mut problems = self.bus.actor::<Coordinator>(self.coordinator).problems();
        for node in &self.nodes {
            problems.extend(self.bus.actor::<Node>(*node).problems().iter().cloned());
        }
        problems
    }
}

fn node_place(node: u16) -> Place {
    Place(2 + node)
}

fn cluster() -> ClusterName {
    ClusterName::new("sim").expect("a name")
}

/// Appends the arrivals of all people to the logs.
fn fill(log: &LogModel, people: &[Person], config: SceneConfig) {
    let mut of_log = BTreeMap::new();
    for person in people {
        let partition = partition_of(person.device, config.partitions);
        let records: &mut Vec<_> = of_log.entry(log_of(partition, config.logs)).or_default();
        records.push(person.arrival(WALL));
    }
    for (id, records) in of_log {
        records.chunks(BATCH).for_each(|batch| log.append(id, batch, WALL));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("an hour")
}
