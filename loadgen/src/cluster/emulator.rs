//! A gateway emulator as a run uses it: started, put into trouble, asked for its record. One process plays one platform.

use std::path::{Path, PathBuf};

use super::{
    ClusterError, ClusterPlan,
    files::{self, SigningKey},
    orders::Orders,
    prepare,
    process::{Process, Role},
    start_with_pipes, write_private,
};
use crate::{
    gateway::{
        Platform,
        answer::{Reason, RetryAfter},
        config::{GatewayConfig, KeyConfig, ProjectConfig, ServiceAccountConfig, TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM},
        faults::{Errors, Faults, Latency, Silence, Silent, Slow},
        script::{Rule, Scripted, Scripts},
    },
    run::RunError,
    scenario::FaultSpec,
};

/// The receive window of a connection, bytes: some thousand pushes, so that it is not what limits a near lane. What Apple
/// opens is not published.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What a healthy emulator is taken to answer in a second; a slow one answers a factor less.
const NORMAL_PER_SECOND: u32 = 100_000;

/// What a scenario asks of the gateways.
#[derive(Debug, Clone)]
pub struct GatewayPlan {
    /// One emulator for each.
    pub platforms: Vec<Platform>,
    /// Share of tokens called dead, 0 to 1.
    pub dead_share: f64,
    /// Of every answer, microseconds.
    pub latency_us: u64,
    /// Of everything random.
    pub seed: u64,
    /// APNs: topics of the apps.
    pub topics: Vec<String>,
    /// FCM: messages in any 60 s.
    pub fcm_quota_per_minute: u32,
}

/// A running emulator.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// Which provider it plays.
    pub platform: Platform,
    latency: Latency,
    orders: Orders,
}

/// Where an emulator serves, for the coordinator's configuration.
#[derive(Debug, Clone)]
pub struct Served {
    /// Which provider it plays.
    pub platform: Platform,
    /// host:port of the push service.
    pub endpoint: String,
    /// The name in its certificate.
    pub server_name: &'static str,
    /// Its CA, PEM.
    pub ca_file: PathBuf,
    /// FCM: where access tokens are asked for.
    pub token_uri: Option<String>,
}

impl Emulator {
    /// Starts it.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start(
        plan: &ClusterPlan,
        platform: Platform,
        key: &SigningKey,
    ) -> Result<(Process, Self, Served), ClusterError> {
        let latency = latency(plan.gateway.latency_us);
        let name = format!("gateway-{}", platform.as_str());
        let config = plan.dir.join(format!("{name}.toml"));
        let text = toml::to_string(&configuration(&plan.gateway, platform, latency, key))
            .map_err(|e| prepare("the gateway's configuration", e))?;
        write_private(&config, &text).map_err(|e| prepare(&config.display().to_string(), e))?;
        let arguments = [
            "gateway".to_owned(),
            format!("--config={}", config.display()),
            format!("--directory={}", plan.dir.join(&name).display()),
        ];
        let (process, announced, pipes) = start_with_pipes(plan, Role::Gateway, name, &arguments).await?;
        let ca_file = announced.ca_file.ok_or_else(|| prepare("the gateway's CA", "it was not announced"))?;
        let (endpoint, token_uri) = (announced.listen, announced.token_uri);
        if platform == Platform::Fcm && token_uri.is_none() {
            return Err(prepare("the gateway's token endpoint", "it was not announced"));
        }
        let served = Served { platform, endpoint, server_name: "localhost", ca_file, token_uri };
        Ok((process, Self { platform, latency, orders: Orders::child(pipes) }, served))
    }

    /// Takes over one that runs already, by its control port. It forgets what it has recorded.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn attach(platform: Platform, control: &str, latency_us: u64) -> Result<Self, RunError> {
        let orders = Orders::connect(control).await?;
        orders.reset().await?;
        Ok(Self { platform, latency: latency(latency_us), orders })
    }

    /// Begins a time of trouble, which ends by itself.
    ///
    /// # Errors
    /// The emulator does not answer, or refuses.
    pub async fn fault(&self, fault: FaultSpec) -> Result<(), RunError> {
        let latency = self.latency;
        let faults = match fault {
            FaultSpec::Slow { factor, for_ms, .. } => {
                let slow = Slow { factor, normal_per_second: NORMAL_PER_SECOND, duration_ms: for_ms };
                Faults { latency, slow: Some(slow), ..Faults::default() }
            }
            FaultSpec::Silent { for_ms, .. } => {
                // The hardest silence: what was sent reaches the phones, and the sender never learns it.
                let silent = Silent { mode: Silence::DropAnswers, duration_ms: for_ms };
                Faults { latency, silent: Some(silent), ..Faults::default() }
            }
            FaultSpec::Failing { share, delivered, retry_after_s, for_ms, .. } => {
                let reason = match self.platform {
                    Platform::Apns => Reason::ServiceUnavailable,
                    Platform::Fcm => Reason::FcmUnavailable,
                };
                let retry_after = retry_after_s.filter(|_| self.platform == Platform::Fcm);
                let retry_after = retry_after.map(|seconds| RetryAfter { seconds, date: false });
                let errors = Errors { reason, ppm: ppm(share), delivered, retry_after, duration_ms: for_ms };
                Faults { latency, errors: vec![errors], ..Faults::default() }
            }
        };
        self.orders.faults(&faults).await
    }

    /// Has the record written to a file, in this machine's clock.
    ///
    /// # Errors
    /// The emulator does not answer, or the file cannot be written.
    pub async fn export(&self, path: &Path) -> Result<(), RunError> {
        self.orders.export(path).await
    }
}

fn latency(us: u64) -> Latency {
    Latency { p50_us: us, p99_us: us }
}

fn configuration(plan: &GatewayPlan, platform: Platform, latency: Latency, key: &SigningKey) -> GatewayConfig {
    let ppm = ppm(plan.dead_share);
    // Apple has two words for a token that will never do, half and half; Google one.
    let words = match platform {
        Platform::Apns => [Reason::Unregistered, Reason::BadDeviceToken],
        Platform::Fcm => [Reason::FcmUnregistered; 2],
    };
    let dead = |reason, ppm| Rule { ppm, answer: Scripted::always(reason) };
    let common = GatewayConfig {
        platform,
        connection_window: CONNECTION_WINDOW,
        scripts: Scripts {
            seed: plan.seed,
            rules: vec![dead(words[0], ppm.div_ceil(2)), dead(words[1], ppm / 2)],
            ..Scripts::default()
        },
        faults: Faults { latency, ..Faults::default() },
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
                project: files::PROJECT.to_owned(),
                quota_per_minute: plan.fcm_quota_per_minute,
            }],
            service_accounts: vec![ServiceAccountConfig {
                client_email: files::CLIENT_EMAIL.to_owned(),
                private_key_id: Some(files::PRIVATE_KEY_ID.to_owned()),
                public_key_file: None,
                public_key_pem: Some(TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM.to_owned()),
                projects: vec![files::PROJECT.to_owned()],
            }],
            ..common
        },
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a million
fn ppm(share: f64) -> u32 {
    (share * 1e6) as u32
}
