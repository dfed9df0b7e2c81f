//! Configuration: merges flags, environment and file, and checks the result before any port is
//! bound.
//!
//! Every option can be given three ways: `--store-bytes-max 1000`, `CLARION_STORE_BYTES_MAX=1000`,
//! or `store_bytes_max = 1000` in the file ([`args`] has the table of all options). A flag
//! overrides the environment, and the environment overrides the file. An error is one line: place,
//! key, problem. Signing keys are read and tried here, so that a coordinator that starts can sign;
//! they are held as secrets, and no `Debug` shows them. Only credentials are reloaded while the
//! coordinator runs ([`watch`]).
//!
//! Each part of the coordinator declares the type of its configuration; this module makes the
//! values.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Parser as _;
use clarion_proto::ids::{ClusterName, PARTITIONS_MAX};

pub(crate) use self::store::read_password;
pub use self::{args::Args, store::StoreText, watch::CredentialFiles};
use self::{
    args::Options,
    given::{Given, Places},
    store::StoreOptions,
};
use crate::{
    admission::{AdmissionConfig, Rules},
    api::{AlertsConfig, ApiConfig, registry::DeviceKey},
    archive::{ArchiveConfig, overdue},
    bands::{BandEdges, EDGES_M, STEP_M},
    dispatch::{DispatchConfig, ExpiryConfig, NodesConfig, QUESTIONS_MAX},
    lane::catalog::{Catalog, CredentialEntry},
    lane_owner::Credential,
    members::NAMES_MAX,
    objects::ObjectsPlace,
    store::open::StoreConfig,
};

mod args;
mod credentials;
mod file;
mod given;
mod google;
mod lanes;
mod objects;
mod pem;
mod proxy;
mod store;
mod watch;

/// Longest prefix of an exercise's title, bytes.
const EXERCISE_PREFIX_BYTES_MAX: usize = 64;

/// Range of the days after which registrations expire. With fewer than 30, a phone whose app is
/// opened monthly would miss alerts.
const EXPIRY_DAYS: std::ops::RangeInclusive<u32> = 30..=3_650;

/// Range of the minutes between two data keys. Of a key that seals for more than a day, a removed
/// device would stay in backups for as long after its batches are trimmed.
const KEY_ROTATION_MINUTES: std::ops::RangeInclusive<u32> = 1..=1_440;

/// Complete configuration of a coordinator.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the API; default: loopback. Port 0: the system chooses the port.
    pub listen: SocketAddr,
    /// Address of `grpc.health.v1`, in plaintext.
    pub health_listen: SocketAddr,
    /// Address where nodes follow the logs.
    pub feed_listen: SocketAddr,
    /// Place and limit of the store.
    pub store: StoreConfig,
    /// Whether to start although the store has lost changes that were acknowledged.
    pub accept_lost_changes: bool,
    /// Place of the objects: halves of keys and snapshots.
    pub objects: ObjectsPlace,
    /// Time between two data keys.
    pub key_rotation: Duration,
    /// Path of the data folder; `None`: nothing is kept in a folder.
    pub data_dir: Option<PathBuf>,
    /// Time limit of a graceful shutdown.
    pub drain_deadline: Duration,
    /// Limits and rules of the API.
    pub api: ApiConfig,
    /// Limits and rules of admission.
    pub admission: AdmissionConfig,
    /// Cluster, nodes, gateways and credentials for dispatch.
    pub dispatch: DispatchConfig,
    /// Time after which registrations expire.
    pub expiry: ExpiryConfig,
    /// When nodes save snapshots, and for how long they are kept.
    pub archive: ArchiveConfig,
    /// Files from which credentials are reloaded.
    pub credential_files: CredentialFiles,
}

pub(crate) use objects::of_text as place_of_objects;

/// A problem of the configuration: place, key and problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Path of the file, or "environment and flags".
    pub place: String,
    /// Key at fault, such as `gateways[0].endpoint`; empty: the file itself.
    pub key: String,
    /// Description of the problem, with the limit and the value.
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
    /// Reads the file that the flags name, if any, and checks all options.
    ///
    /// # Errors
    /// The first problem found.
    pub fn load(flags: Args) -> Result<Self, ConfigError> {
        let path = flags.config.clone();
        let file = path.as_deref().map(file::read).transpose()?.unwrap_or_default();
        let credentials_given = flags.credentials.clone();
        Self::build(Options::merge(flags, file), credentials_given, path.as_deref())
    }

    /// Reads the configuration of a coordinator whose store another program uses.
    ///
    /// # Errors
    /// The first problem found.
    pub(crate) fn of_store(
        config: Option<&PathBuf>,
        data_dir: Option<&PathBuf>,
    ) -> Result<Self, ConfigError> {
        let mut args = vec!["coordinator".into()];
        let mut option = |name: &str, value: Option<&PathBuf>| {
            args.extend(value.iter().flat_map(|path| [name.into(), path.as_os_str().to_owned()]));
        };
        option("--config", config);
        option("--data-dir", data_dir);
        let args = Args::try_parse_from(args).map_err(|error| ConfigError {
            place: "environment".to_owned(),
            key: String::new(),
            problem: error.to_string(),
        })?;
        Self::load(args)
    }

    fn build(
        options: Options,
        credentials_given: Option<given::Tables<credentials::CredentialTable>>,
        path: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let places = &Places { path, variables: given::variable };
        let cluster = cluster(&options.cluster, places)?;
        let nodes_min = options.nodes_min.number(places, args::NODES_MIN, 1..=NAMES_MAX)?;
        let nodes = NodesConfig { addresses: nodes(options.nodes, places)?, min: nodes_min };
        let partitions = options.partitions.number(places, args::PARTITIONS, 1..=PARTITIONS_MAX)?;
        let logs = options.logs.number(places, args::LOGS.min(partitions), 1..=partitions)?;
        let device_key = device_key(&options.device_key_file, places)?;
        let store = StoreOptions {
            store: options.store,
            password_file: options.store_password_file,
            data_dir: options.data_dir,
            has_device_key: !device_key.is_random(),
            has_objects: options.objects.value.is_some(),
        };
        let (place, data_dir) = store::store(store, places)?;
        let objects = objects::objects(&options.objects, &place, data_dir.as_deref(), places)?;
        let store = StoreConfig {
            place,
            bytes_max: options.store_bytes_max.number(
                places,
                args::STORE_BYTES_MAX,
                1..=u64::MAX,
            )?,
        };
        let key_rotation = options.key_rotation_minutes.number(
            places,
            args::KEY_ROTATION_MINUTES,
            KEY_ROTATION_MINUTES,
        )?;
        let exercise_prefix = exercise_prefix(options.exercise_prefix, places)?;
        let bands = bands(&options.band_edges_meters, &options.band_step_meters, places)?;
        let (gateways, entries) = lanes::gateways(options.gateways, partitions, places)?;
        let credential_files = CredentialFiles {
            given: credentials_given,
            path: path.map(Path::to_owned),
            gateways: gateways.clone(),
        };
        let credentials = credential_files.check(options.credentials)?;
        let lanes = Arc::new(Catalog {
            gateways: entries,
            credentials: credentials.iter().map(entry).collect(),
        });
        let drain_deadline =
            options.drain_deadline_ms.number(places, args::DRAIN_DEADLINE_MS, 1..=600_000)?;
        let alerts = AlertsConfig {
            exercise_prefix,
            allow_small_audiences: options.allow_small_audiences.or(false),
            bands,
            place_seen_within: days(options.place_seen_within_days.number(
                places,
                args::PLACE_SEEN_WITHIN_DAYS,
                1..=400,
            )?),
            active_max: options.alerts_active_max.number(
                places,
                args::ALERTS_ACTIVE_MAX,
                1..=4_096,
            )?,
            watchers_max: options.watchers_max.number(places, args::WATCHERS_MAX, 1..=65_536)?,
            watchers_per_alert_max: options.watchers_per_alert_max.number(
                places,
                args::WATCHERS_PER_ALERT_MAX,
                1..=65_536,
            )?,
        };
        let expiry = ExpiryConfig {
            apns: expiry(
                &options.registration_expiry_days_apns,
                args::REGISTRATION_EXPIRY_DAYS_APNS,
                places,
            )?,
            fcm: expiry(
                &options.registration_expiry_days_fcm,
                args::REGISTRATION_EXPIRY_DAYS_FCM,
                places,
            )?,
        };
        Ok(Self {
            listen: options.listen.or(args::LISTEN),
            health_listen: options.health_listen.or(args::HEALTH_LISTEN),
            feed_listen: options.feed_listen.or(args::FEED_LISTEN),
            store,
            objects,
            key_rotation: Duration::from_secs(60) * key_rotation,
            data_dir,
            accept_lost_changes: options.accept_lost_changes.or(false),
            drain_deadline: Duration::from_millis(drain_deadline),
            api: ApiConfig {
                cluster: cluster.clone(),
                partitions,
                connections_max: options.connections_max.number(
                    places,
                    args::CONNECTIONS_MAX,
                    1..=65_536,
                )?,
                device_key,
                lanes: Arc::clone(&lanes),
                alerts,
            },
            admission: AdmissionConfig {
                inside_max: options.admissions_max.number(
                    places,
                    args::ADMISSIONS_MAX,
                    1..=1_024,
                )?,
                questions_max: QUESTIONS_MAX,
                rules: Rules {
                    allow_live_without_identity: options.allow_live_without_identity.or(false),
                    lanes,
                },
            },
            archive: ArchiveConfig {
                cluster: cluster.clone(),
                partitions,
                every: snapshot_every(&options.snapshot_every_seconds, places)?,
                keep: Duration::from_secs(options.snapshot_keep_seconds.number(
                    places,
                    args::SNAPSHOT_KEEP_SECONDS,
                    60..=604_800,
                )?),
            },
            dispatch: DispatchConfig { cluster, nodes, partitions, logs, gateways, credentials },
            expiry,
            credential_files,
        })
    }
}

fn cluster(given: &Given<String>, places: &Places<'_>) -> Result<ClusterName, ConfigError> {
    let Some(name) = &given.value else { return Ok(ClusterName::default()) };
    ClusterName::new(name).map_err(|e| given.error(places, e.problem))
}

fn nodes(given: Given<Vec<String>>, places: &Places<'_>) -> Result<Vec<String>, ConfigError> {
    let place = given.place(places);
    let key = given.key;
    let addresses = given.or(vec![args::NODES.to_owned()]);
    if addresses.is_empty() {
        return Err(place.error(key, "must have at least 1 address; got 0"));
    }
    for (i, address) in addresses.iter().enumerate() {
        lanes::host_port(address).map_err(|problem| place.error(format!("{key}[{i}]"), problem))?;
    }
    Ok(addresses)
}

fn device_key(given: &Given<PathBuf>, places: &Places<'_>) -> Result<DeviceKey, ConfigError> {
    let Some(path) = &given.value else { return Ok(DeviceKey::random()) };
    let path = given.place(places).resolve(path);
    DeviceKey::read(&path).map_err(|problem| given.error(places, problem))
}

fn exercise_prefix(given: Given<String>, places: &Places<'_>) -> Result<String, ConfigError> {
    if let Some(prefix) = &given.value
        && (prefix.trim().is_empty() || prefix.len() > EXERCISE_PREFIX_BYTES_MAX)
    {
        let problem = format!(
            "must be 1 to {EXERCISE_PREFIX_BYTES_MAX} bytes and not blank, so that an exercise is \
             distinguishable from a real alert; got {} bytes",
            prefix.len()
        );
        return Err(given.error(places, problem));
    }
    Ok(given.or(args::EXERCISE_PREFIX.to_owned()))
}

fn bands(
    edges: &Given<Vec<f64>>,
    step: &Given<f64>,
    places: &Places<'_>,
) -> Result<BandEdges, ConfigError> {
    let edges_m = edges.value.clone().unwrap_or_else(|| EDGES_M.to_vec());
    let step_m = step.value.unwrap_or(STEP_M);
    BandEdges::new(edges_m, step_m).map_err(|e| match e.field.contains("step") {
        true => step.error(places, e.problem),
        false => edges.error(places, e.problem),
    })
}

fn days(days: u32) -> Duration {
    Duration::from_secs(24 * 3_600) * days
}

/// Time after which a platform's registrations expire; `None`: never.
fn expiry(
    given: &Given<u32>,
    default: u32,
    places: &Places<'_>,
) -> Result<Option<Duration>, ConfigError> {
    match given.value.unwrap_or(default) {
        0 => Ok(None),
        value if EXPIRY_DAYS.contains(&value) => Ok(Some(days(value))),
        value => {
            let (min, max) = (EXPIRY_DAYS.start(), EXPIRY_DAYS.end());
            let problem = format!("must be 0 (never) or {min} to {max} days; got {value}");
            Err(given.error(places, problem))
        }
    }
}

/// Time between two snapshots of a partition; zero: none.
fn snapshot_every(given: &Given<u64>, places: &Places<'_>) -> Result<Duration, ConfigError> {
    let (min, max) = (10, overdue::INTERVAL_MAX.as_secs());
    match given.value.unwrap_or(args::SNAPSHOT_EVERY_SECONDS) {
        0 => Ok(Duration::ZERO),
        value if (min..=max).contains(&value) => Ok(Duration::from_secs(value)),
        value => {
            let problem =
                format!("must be 0 (no snapshots) or {min} to {max} seconds; got {value}");
            Err(given.error(places, problem))
        }
    }
}

fn entry(credential: &Credential) -> CredentialEntry {
    CredentialEntry {
        name: credential.name().to_owned(),
        platform: credential.platform(),
        project: credential.project().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests;
