//! Flags, environment and file into one typed configuration, checked whole before anything is bound.
//!
//! Every option can be given three ways: `--store-bytes-max 1000`, `CLARION_STORE_BYTES_MAX=1000`, or
//! `store_bytes_max = 1000` in the file. A flag beats the environment, the environment beats the file. What is wrong is
//! said in one line: where, which key, what about it. Keys are read and tried here, so that a coordinator that starts
//! can sign; they are held as secrets and no `Debug` shows them. They alone are looked at again while it runs ([`watch`]).

use std::{fmt, net::SocketAddr, path::Path, time::Duration};

use clarion_proto::{
    app::{Environment, LaneKind},
    ids::{ClusterName, PARTITIONS_MAX},
};

pub use self::{args::Args, watch::CredentialFiles};
use crate::{
    api::registry::DeviceKey, bands::BandEdges, dispatch::NodesConfig, lane::Gateway,
    lane_owner::Credential, members::NAMES_MAX,
};

mod args;
mod credentials;
mod file;
mod lanes;
mod watch;

/// All that a coordinator is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API is served; loopback unless said otherwise. Port 0: the system chooses.
    pub listen: SocketAddr,
    /// Where `grpc.health.v1` is served in plaintext.
    pub health_listen: SocketAddr,
    /// Where nodes follow the logs.
    pub feed_listen: SocketAddr,
    /// Nodes of another cluster refuse this coordinator.
    pub cluster: ClusterName,
    /// The shard nodes.
    pub nodes: NodesConfig,
    /// P: fixed when a cluster is made.
    pub partitions: u16,
    /// L: fixed when a cluster is made; at most P.
    pub logs: u16,
    /// Makes ids of devices that are no UUIDs.
    pub device_key: DeviceKey,
    /// What an EXERCISE says in front of its title.
    pub exercise_prefix: String,
    /// LIVE alerts, and exercises on live lanes, are taken although nobody has to say who they are.
    pub allow_live_without_identity: bool,
    /// Regions and audiences that are small enough to single people out are taken too ([`crate::privacy`]).
    pub allow_small_audiences: bool,
    /// Connections to the API at a time; one more takes the place of an idle one or is closed.
    pub connections_max: usize,
    /// Streams of WatchAlert at a time; one more is refused.
    pub watchers_max: usize,
    /// The same for one alert.
    pub watchers_per_alert_max: usize,
    /// Where one band ends and the next begins.
    pub bands: BandEdges,
    /// Alerts that may be active at once; one more is refused.
    pub alerts_active_max: usize,
    /// Alerts and previews that may be in admission at once (each holds a decoded region and its cover, a few MB);
    /// one more is refused.
    pub admissions_max: usize,
    /// Bytes that the logs in memory may hold; then registrations and places are refused, and 64 MiB later all changes. A
    /// million APNs devices take some 120 MB: 110 of records, and 12 to know them again.
    pub store_bytes_max: u64,
    /// How long a stop in order may take.
    pub drain_deadline: Duration,
    /// By name.
    pub gateways: Vec<GatewayConfig>,
    /// By name.
    pub credentials: Vec<Credential>,
    /// Where to look whether they have changed.
    pub credential_files: CredentialFiles,
}

/// A gateway, and what apps on it must agree with.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// As nodes get it.
    pub gateway: Gateway,
    /// Which tokens it takes.
    pub environment: Environment,
    /// Who is behind it.
    pub lane_kind: LaneKind,
}

/// Something is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file, or the environment and flags.
    pub place: String,
    /// The key at fault, such as `gateways[0].endpoint`; empty if it is the file itself.
    pub key: String,
    /// What about it.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

impl Config {
    /// Reads the file that the flags name, if any, and checks everything.
    ///
    /// # Errors
    /// The first problem found.
    pub fn load(args: Args) -> Result<Self, ConfigError> {
        let path = args.config.clone();
        let file = path.as_deref().map(file::read).transpose()?.unwrap_or_default();
        Self::merge(args, file, path.as_deref())
    }

    /// A gateway by name.
    #[must_use]
    pub fn gateway(&self, name: &str) -> Option<&GatewayConfig> {
        self.gateways.iter().find(|g| g.gateway.name == name)
    }

    /// A credential by name.
    #[must_use]
    pub fn credential(&self, name: &str) -> Option<&Credential> {
        self.credentials.iter().find(|c| c.name() == name)
    }

    fn merge(args: Args, file: file::File, path: Option<&Path>) -> Result<Self, ConfigError> {
        let place = Places { path };
        let listen = args.listen.or(file.listen).unwrap_or(([127, 0, 0, 1], 7400).into());
        let health_listen =
            args.health_listen.or(file.health_listen).unwrap_or(([127, 0, 0, 1], 7401).into());
        let feed_listen =
            args.feed_listen.or(file.feed_listen).unwrap_or(([127, 0, 0, 1], 7402).into());
        let cluster = cluster(&place, args.cluster, file.cluster)?;
        let nodes_min =
            place.number("nodes_min", args.nodes_min, file.nodes_min, 1, 1..=NAMES_MAX)?;
        let nodes =
            NodesConfig { addresses: nodes(&place, args.nodes, file.nodes)?, min: nodes_min };
        let partitions =
            place.number("partitions", args.partitions, file.partitions, 64, 1..=PARTITIONS_MAX)?;
        let logs =
            place.number("logs", args.logs, file.logs, partitions.min(64), 1..=partitions)?;
        let device_key =
            device_key(&place, args.device_key_file.as_deref(), file.device_key_file.as_deref())?;
        let exercise_prefix = args
            .exercise_prefix
            .or(file.exercise_prefix)
            .unwrap_or_else(|| "EXERCISE: ".to_owned());
        if exercise_prefix.trim().is_empty() || exercise_prefix.len() > 64 {
            let problem = "must say something, in at most 64 bytes: an exercise is to be told from the real thing";
            return Err(place.own("exercise_prefix", problem));
        }
        let bands = bands(
            &place,
            args.band_edges_meters.or(file.band_edges_meters),
            args.band_step_meters.or(file.band_step_meters),
        )?;
        let (gateways, in_file) = place.tables("gateways", args.gateways, file.gateways)?;
        let gateways = lanes::gateways(gateways, partitions, &place.of(in_file))?;
        let credential_files = CredentialFiles {
            given: args.credentials,
            path: path.map(Path::to_owned),
            gateways: gateways.clone(),
        };
        let credentials = credential_files.check(file.credentials)?;
        let drain_ms = place.number(
            "drain_deadline_ms",
            args.drain_deadline_ms,
            file.drain_deadline_ms,
            10_000,
            1..=600_000,
        )?;
        Ok(Self {
            listen,
            health_listen,
            feed_listen,
            nodes,
            cluster,
            partitions,
            logs,
            device_key,
            exercise_prefix,
            allow_live_without_identity: args
                .allow_live_without_identity
                .or(file.allow_live_without_identity)
                .unwrap_or(false),
            allow_small_audiences: args
                .allow_small_audiences
                .or(file.allow_small_audiences)
                .unwrap_or(false),
            connections_max: place.number(
                "connections_max",
                args.connections_max,
                file.connections_max,
                1_024,
                1..=65_536,
            )?,
            watchers_max: place.number(
                "watchers_max",
                args.watchers_max,
                file.watchers_max,
                8_192,
                1..=65_536,
            )?,
            watchers_per_alert_max: place.number(
                "watchers_per_alert_max",
                args.watchers_per_alert_max,
                file.watchers_per_alert_max,
                2_048,
                1..=65_536,
            )?,
            bands,
            alerts_active_max: place.number(
                "alerts_active_max",
                args.alerts_active_max,
                file.alerts_active_max,
                64,
                1..=4_096,
            )?,
            admissions_max: place.number(
                "admissions_max",
                args.admissions_max,
                file.admissions_max,
                32,
                1..=1_024,
            )?,
            store_bytes_max: place.number(
                "store_bytes_max",
                args.store_bytes_max,
                file.store_bytes_max,
                4 << 30,
                1..=u64::MAX,
            )?,
            drain_deadline: Duration::from_millis(drain_ms),
            gateways,
            credentials,
            credential_files,
        })
    }
}

/// Where options came from, for what is said of them.
struct Places<'a> {
    path: Option<&'a Path>,
}

/// One of the two places, and from where its relative paths count.
pub(crate) struct Place<'a> {
    name: String,
    directory: Option<&'a Path>,
}

impl Place<'_> {
    fn error(&self, key: impl Into<String>, problem: impl fmt::Display) -> ConfigError {
        ConfigError { place: self.name.clone(), key: key.into(), problem: problem.to_string() }
    }

    /// Relative to the file that named it, else to the working directory.
    fn resolve(&self, path: &Path) -> std::path::PathBuf {
        self.directory.map_or_else(|| path.to_owned(), |d| d.join(path))
    }
}

impl Places<'_> {
    fn of(&self, in_file: bool) -> Place<'_> {
        match self.path.filter(|_| in_file) {
            Some(path) => Place { name: path.display().to_string(), directory: path.parent() },
            None => Place { name: "environment and flags".to_owned(), directory: None },
        }
    }

    /// Of an option whose origin does not matter to the reader: the file if there is one.
    fn own(&self, key: &str, problem: impl fmt::Display) -> ConfigError {
        self.of(self.path.is_some()).error(key, problem)
    }

    fn number<T: PartialOrd + Copy + fmt::Display>(
        &self,
        key: &str,
        given: Option<T>,
        file: Option<T>,
        default: T,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<T, ConfigError> {
        let value = given.or(file).unwrap_or(default);
        if range.contains(&value) {
            return Ok(value);
        }
        let problem = format!("must be {} to {}, is {value}", range.start(), range.end());
        Err(self.of(given.is_none()).error(key, problem))
    }

    /// Tables given as one TOML array by flag or environment, else those of the file.
    fn tables<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
        given: Option<String>,
        file: Option<Vec<T>>,
    ) -> Result<(Vec<T>, bool), ConfigError> {
        match given {
            Some(text) => Ok((
                file::array(&text).map_err(|problem| self.of(false).error(key, problem))?,
                false,
            )),
            None => Ok((file.unwrap_or_default(), true)),
        }
    }
}

fn nodes(
    place: &Places<'_>,
    given: Option<Vec<String>>,
    file: Option<Vec<String>>,
) -> Result<Vec<String>, ConfigError> {
    let in_file = given.is_none();
    let addresses = given.or(file).unwrap_or_else(|| vec!["127.0.0.1:7500".to_owned()]);
    if addresses.is_empty() {
        return Err(place.of(in_file).error("nodes", "must name one node at least"));
    }
    for (i, address) in addresses.iter().enumerate() {
        lanes::host_port(address)
            .map_err(|problem| place.of(in_file).error(format!("nodes[{i}]"), problem))?;
    }
    Ok(addresses)
}

fn cluster(
    place: &Places<'_>,
    given: Option<String>,
    file: Option<String>,
) -> Result<ClusterName, ConfigError> {
    let in_file = given.is_none();
    let Some(name) = given.or(file) else { return Ok(ClusterName::default()) };
    ClusterName::new(&name).map_err(|e| place.of(in_file).error("cluster", e.problem))
}

fn device_key(
    place: &Places<'_>,
    given: Option<&Path>,
    file: Option<&Path>,
) -> Result<DeviceKey, ConfigError> {
    let Some(path) = given.or(file) else { return Ok(DeviceKey::random()) };
    let place = place.of(given.is_none());
    let path = place.resolve(path);
    DeviceKey::read(&path).map_err(|problem| place.error("device_key_file", problem))
}

fn bands(
    place: &Places<'_>,
    edges: Option<Vec<f64>>,
    step: Option<f64>,
) -> Result<BandEdges, ConfigError> {
    let edges = edges.unwrap_or_else(|| vec![1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0]);
    BandEdges::new(edges, step.unwrap_or(10_000.0)).map_err(|e| {
        let key = if e.field.contains("step") { "band_step_meters" } else { "band_edges_meters" };
        place.own(key, e.problem)
    })
}

#[cfg(test)]
pub(crate) mod tests;
