//! A gateway emulator of a run, one process per platform: its start, its faults and its record.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clarion_emulator::{
    Platform,
    answer::{Reason, RetryAfter},
    apns,
    config::{
        GatewayConfig, KeyConfig, ProjectConfig, ServiceAccountConfig,
        TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM,
    },
    faults::{Action, Credit, Errors, Faults, Latency, Silence, Silent, Slow},
    fcm,
    head::LIST_BYTES_MAX,
    hpack::TABLE_BYTES,
    script::{Fate, Rule, Scripted, Scripts},
};

use super::{
    ClusterError, ClusterPlan,
    network::{self, Credentials},
    orders::{Counted, OrderError, Orders},
    prepare,
    process::{Process, Role},
    start_with_pipes,
};
use crate::{
    keys::{self, SigningKey},
    names,
    scenario::{DistanceSpec, FaultSpec},
};

/// Receive window of a connection, bytes: some thousand pushes, so that it does not limit a near
/// lane. The value of APNs is not published.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Receive window of a stream, bytes: HTTP/2's default (RFC 9113, section 6.9.2).
const STREAM_WINDOW: u32 = 65_535;
/// Assumed number of answers per second of a healthy emulator; a slow one gives fewer by its
/// factor.
const NORMAL_PER_SECOND: u32 = 100_000;

/// Gateways of a scenario.
#[derive(Debug, Clone)]
pub struct GatewayPlan {
    /// Platforms, each with an emulator of its own.
    pub platforms: Vec<Platform>,
    /// Share of tokens called dead, 0 to 1.
    pub dead_share: f64,
    /// Latency of every answer, microseconds, for a platform whose distance has no latency.
    pub latency_us: u64,
    /// Distance to each gateway.
    pub distance: DistanceSpec,
    /// Seed of everything random.
    pub seed: u64,
    /// Topics of the apps of APNs.
    pub topics: Vec<String>,
    /// FCM messages that the quota allows in any 60 s.
    pub fcm_quota_per_minute: u32,
}

/// A running emulator.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// Platform that the emulator emulates.
    pub platform: Platform,
    /// Conditions without a fault, which also hold during faults.
    conditions: Faults,
    /// MAX_CONCURRENT_STREAMS and INITIAL_WINDOW_SIZE without a fault.
    streams_max: u32,
    stream_window: u32,
    /// Whether a fault has changed settings of connections, which stay changed until they are set
    /// again.
    set: Arc<AtomicBool>,
    orders: Orders,
}

/// Addresses of an emulator, for the coordinator's configuration.
#[derive(Debug, Clone)]
pub struct Served {
    /// Platform that the emulator emulates.
    pub platform: Platform,
    /// host:port of the push service.
    pub endpoint: String,
    /// Name in the emulator's certificate.
    pub server_name: &'static str,
    /// File with the emulator's CA, PEM.
    pub ca_file: PathBuf,
    /// URI of FCM's token endpoint.
    pub token_uri: Option<String>,
    /// host:port of the metadata server, if the machine has a service account.
    pub metadata_host: Option<String>,
}

impl Emulator {
    /// Starts an emulator process and waits until it is ready.
    ///
    /// # Errors
    /// If the emulator does not start.
    pub async fn start(
        plan: &ClusterPlan,
        platform: Platform,
        key: &SigningKey,
    ) -> Result<(Process, Self, Served), ClusterError> {
        let conditions = conditions(&plan.gateway, platform);
        let name = names::emulator(platform);
        let config = plan.dir.join(format!("{name}.toml"));
        let mut configuration = configuration(&plan.gateway, platform, conditions.clone(), key);
        match plan.network.credentials {
            _ if platform == Platform::Apns => {}
            Credentials::KeyFile => {}
            Credentials::Metadata => {
                configuration.machine_account = Some(keys::CLIENT_EMAIL.to_owned());
            }
            Credentials::WorkloadIdentity => {
                configuration.workload_identities = vec![network::workload_identity()];
            }
        }
        let text = toml::to_string(&configuration)
            .map_err(|e| prepare("the gateway's configuration", e))?;
        keys::write_private(&config, &text)
            .map_err(|e| prepare(&config.display().to_string(), e))?;
        let arguments = [
            "gateway".to_owned(),
            format!("--config={}", config.display()),
            format!("--directory={}", plan.dir.join(&name).display()),
        ];
        let (process, announced, pipes) =
            start_with_pipes(plan, (Role::Gateway, name, Vec::new()), &arguments).await?;
        let ca_file =
            announced.ca_file.ok_or_else(|| prepare("the gateway's CA", "it was not announced"))?;
        let (endpoint, token_uri) = (announced.listen, announced.token_uri);
        if platform == Platform::Fcm && token_uri.is_none() {
            return Err(prepare("the gateway's token endpoint", "it was not announced"));
        }
        let metadata_host = announced.metadata_host;
        let server_name = "localhost";
        let served = Served { platform, endpoint, server_name, ca_file, token_uri, metadata_host };
        Ok((process, Self::new(platform, &plan.gateway, Orders::child(pipes)), served))
    }

    /// Connects to a running emulator by its control port, and resets its record.
    ///
    /// # Errors
    /// If no emulator answers there.
    pub async fn attach(
        platform: Platform,
        control: &str,
        plan: &GatewayPlan,
    ) -> Result<Self, OrderError> {
        let orders = Orders::connect(control).await?;
        orders.reset().await?;
        Ok(Self::new(platform, plan, orders))
    }

    fn new(platform: Platform, plan: &GatewayPlan, orders: Orders) -> Self {
        let line = plan.distance.of(platform);
        let streams_max = line.streams_max.unwrap_or(match platform {
            Platform::Apns => apns::STREAMS_MAX,
            Platform::Fcm => fcm::STREAMS_MAX,
        });
        let stream_window = line.stream_window.unwrap_or(STREAM_WINDOW);
        let (conditions, set) = (conditions(plan, platform), Arc::default());
        Self { platform, conditions, streams_max, stream_window, set, orders }
    }

    /// Sets a fault, which ends by itself.
    ///
    /// # Errors
    /// If the emulator does not answer, or refuses the order.
    pub async fn fault(&self, fault: &FaultSpec) -> Result<(), OrderError> {
        let conditions = self.conditions.clone();
        let faults = match fault {
            &FaultSpec::Slow { factor, for_ms, .. } => {
                let slow =
                    Slow { factor, normal_per_second: NORMAL_PER_SECOND, duration_ms: for_ms };
                Faults { slow: Some(slow), ..conditions }
            }
            &FaultSpec::Silent { for_ms, .. } => {
                // The hardest silence: pushes reach the phones, and the sender never learns it.
                let silent = Silent {
                    mode: Silence::DropAnswers,
                    connections_ppm: 1_000_000,
                    duration_ms: for_ms,
                };
                Faults { silent: Some(silent), ..conditions }
            }
            FaultSpec::Scripted { faults, .. } => return self.disturb(faults).await,
            &FaultSpec::Failing { share, delivered, retry_after_s, for_ms, .. } => {
                let reason = match self.platform {
                    Platform::Apns => Reason::ServiceUnavailable,
                    Platform::Fcm => Reason::FcmUnavailable,
                };
                let retry_after = retry_after_s.filter(|_| self.platform == Platform::Fcm);
                let retry_after = retry_after.map(|seconds| RetryAfter { seconds, date: false });
                let errors = Errors {
                    fate: Fate::Answer,
                    reason,
                    status: None,
                    times: None,
                    ppm: ppm(share),
                    connections_ppm: 1_000_000,
                    delivered,
                    retry_after,
                    duration_ms: for_ms,
                    every_ms: 0,
                };
                Faults { errors: vec![errors], ..conditions }
            }
        };
        self.orders.faults(&faults).await
    }

    /// Sets faults until they are removed. The usual conditions (latency, delayed credit) hold too,
    /// unless the faults change them.
    ///
    /// # Errors
    /// If the emulator does not answer, or refuses the order.
    pub async fn disturb(&self, faults: &Faults) -> Result<(), OrderError> {
        let near = Faults::default();
        let (latency, credit) = (faults.latency, faults.credit);
        let faults = Faults {
            latency: if latency == near.latency { self.conditions.latency } else { latency },
            credit: if credit == near.credit { self.conditions.credit } else { credit },
            ..faults.clone()
        };
        let mut actions = faults.once.iter().chain(faults.repeat.iter().flat_map(|r| &r.turns));
        if actions.any(|action| matches!(action, Action::Settings { .. })) {
            self.set.store(true, Ordering::Relaxed);
        }
        self.orders.faults(&faults).await
    }

    /// Removes all faults, and restores settings that they may have changed.
    ///
    /// # Errors
    /// If the emulator does not answer.
    pub async fn calm(&self) -> Result<(), OrderError> {
        let mut once = vec![Action::StreamsMax { streams: self.streams_max }];
        if self.set.swap(false, Ordering::Relaxed) {
            once.push(Action::Settings {
                initial_window: Some(self.stream_window),
                header_table: Some(TABLE_BYTES),
                header_list: u32::try_from(LIST_BYTES_MAX).ok(),
                unknown: false,
            });
        }
        self.orders.faults(&Faults { once, ..self.conditions.clone() }).await
    }

    /// Writes the record to a file and starts a new one: see [`Orders::take`].
    ///
    /// # Errors
    /// If the emulator does not answer, or the file cannot be written.
    pub async fn take(&self, path: &Path, before_us: u64) -> Result<u64, OrderError> {
        self.orders.take(path, before_us).await
    }

    /// Returns the counts since the start or the last reset.
    ///
    /// # Errors
    /// If the emulator does not answer.
    pub async fn counted(&self) -> Result<Counted, OrderError> {
        self.orders.counted().await
    }

    /// Clears the record and the counts of the emulator.
    ///
    /// # Errors
    /// If the emulator does not answer.
    pub async fn reset(&self) -> Result<(), OrderError> {
        self.orders.reset().await
    }

    /// Clears the record so far.
    ///
    /// # Errors
    /// If the emulator does not answer.
    pub async fn forget(&self) -> Result<(), OrderError> {
        self.orders.reset().await
    }

    /// Exports the record to a file, in this machine's clock.
    ///
    /// # Errors
    /// If the emulator does not answer, or the file cannot be written.
    pub async fn export(&self, path: &Path) -> Result<(), OrderError> {
        self.orders.export(path).await
    }
}

/// Returns the emulator's conditions for a gateway's distance.
fn conditions(plan: &GatewayPlan, platform: Platform) -> Faults {
    let line = plan.distance.of(platform);
    let latency =
        line.latency.unwrap_or(Latency { p50_us: plan.latency_us, p99_us: plan.latency_us });
    let credit = Credit { delay_us: line.credit_delay_us, duration_ms: 0 };
    Faults { latency, credit, seed: plan.seed, ..Faults::default() }
}

fn configuration(
    plan: &GatewayPlan,
    platform: Platform,
    conditions: Faults,
    key: &SigningKey,
) -> GatewayConfig {
    let line = plan.distance.of(platform);
    let ppm = ppm(plan.dead_share);
    // APNs has two reasons for a dead token, half of the tokens each; FCM has one.
    let words = match platform {
        Platform::Apns => [Reason::Unregistered, Reason::BadDeviceToken],
        Platform::Fcm => [Reason::FcmUnregistered; 2],
    };
    let dead = |reason, ppm| Rule { ppm, answer: Scripted::always(reason) };
    let common = GatewayConfig {
        platform,
        connection_window: line.connection_window.unwrap_or(CONNECTION_WINDOW),
        stream_window: line.stream_window.unwrap_or(STREAM_WINDOW),
        streams_max: line.streams_max,
        scripts: Scripts {
            seed: plan.seed,
            rules: vec![dead(words[0], ppm.div_ceil(2)), dead(words[1], ppm / 2)],
            ..Scripts::default()
        },
        faults: conditions,
        seed: plan.seed,
        ..GatewayConfig::default()
    };
    match platform {
        Platform::Apns => GatewayConfig {
            keys: vec![KeyConfig {
                key_id: key.key_id.to_owned(),
                team_id: key.team_id.to_owned(),
                public_key_file: Some(key.public.clone()),
                public_key_pem: None,
            }],
            topics: plan.topics.clone(),
            sandbox: true,
            ..common
        },
        Platform::Fcm => GatewayConfig {
            projects: vec![ProjectConfig {
                project: names::PROJECT.to_owned(),
                quota_per_minute: plan.fcm_quota_per_minute,
            }],
            service_accounts: vec![ServiceAccountConfig {
                client_email: keys::CLIENT_EMAIL.to_owned(),
                private_key_id: Some(keys::PRIVATE_KEY_ID.to_owned()),
                public_key_file: None,
                public_key_pem: Some(TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM.to_owned()),
                projects: vec![names::PROJECT.to_owned()],
            }],
            ..common
        },
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a million
fn ppm(share: f64) -> u32 {
    (share * 1e6) as u32
}
