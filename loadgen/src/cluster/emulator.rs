//! The gateway emulator as a run uses it: started, put into trouble, asked for its record.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    sync::Mutex,
    time::timeout,
};

use super::{
    ClusterError, ClusterPlan,
    files::SigningKey,
    prepare,
    process::{Pipes, Process, Role},
    start_with_pipes, write_private,
};
use crate::{
    gateway::{
        answer::Reason,
        config::{GatewayConfig, KeyConfig},
        faults::{Faults, Latency, Silence, Silent, Slow},
        record::{Entry, Record, flag},
        script::{Rule, Scripted, Scripts},
    },
    run::RunError,
    scenario::FaultSpec,
    verdict::ledger::{Answer, Fate, Ledger, Push},
};

/// The receive window of a connection, bytes: some thousand pushes, so that it is not what limits a near lane. What Apple
/// opens is not published.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What a healthy emulator is taken to answer in a second; a slow one answers a factor less.
const NORMAL_PER_SECOND: u32 = 100_000;
/// To write a record of a few million requests takes a second or two.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// What a scenario asks of the gateway.
#[derive(Debug, Clone)]
pub struct GatewayPlan {
    /// Share of tokens called dead, 0 to 1.
    pub dead_share: f64,
    /// Of every answer, microseconds.
    pub latency_us: u64,
    /// Of everything random.
    pub seed: u64,
    /// Topics of the apps.
    pub topics: Vec<String>,
}

/// A running emulator; its orders are JSON lines on its standard input, each answered by one on its output.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// host:port of the push service.
    pub endpoint: String,
    /// The name in its certificate.
    pub server_name: &'static str,
    /// Its CA, PEM.
    pub ca_file: PathBuf,
    latency: Latency,
    /// It ends when its standard input does, so this lives as long as it.
    pipes: Arc<Mutex<Pipes>>,
}

/// One order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Order<'a> {
    Faults(&'a Faults),
    Export(&'a Path),
}

/// What it answers; what else is in it is not needed here.
#[derive(Debug, Deserialize)]
struct Reply {
    #[serde(default)]
    error: Option<String>,
}

impl Emulator {
    /// Starts it.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start(plan: &ClusterPlan, key: &SigningKey) -> Result<(Process, Self), ClusterError> {
        let latency = Latency { p50_us: plan.gateway.latency_us, p99_us: plan.gateway.latency_us };
        let config = plan.dir.join("gateway.toml");
        let text = toml::to_string(&configuration(&plan.gateway, latency, key))
            .map_err(|e| prepare("the gateway's configuration", e))?;
        write_private(&config, &text).map_err(|e| prepare(&config.display().to_string(), e))?;
        let arguments = [
            "gateway".to_owned(),
            format!("--config={}", config.display()),
            format!("--directory={}", plan.dir.display()),
        ];
        let (process, announced, pipes) =
            start_with_pipes(plan, Role::Gateway, "gateway".to_owned(), &arguments).await?;
        let ca_file = announced.ca_file.ok_or_else(|| prepare("the gateway's CA", "it was not announced"))?;
        let pipes = Arc::new(Mutex::new(pipes));
        Ok((process, Self { endpoint: announced.listen, server_name: "localhost", ca_file, latency, pipes }))
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
        };
        self.order(&Order::Faults(&faults)).await
    }

    /// Has the record written to a file.
    ///
    /// # Errors
    /// The emulator does not answer, or cannot write.
    pub async fn export(&self, path: &Path) -> Result<(), RunError> {
        self.order(&Order::Export(path)).await
    }

    async fn order(&self, order: &Order<'_>) -> Result<(), RunError> {
        let failed = |problem: String| RunError::Gateway(problem);
        let line = serde_json::to_string(order).map_err(|e| failed(e.to_string()))? + "\n";
        let exchange = async {
            let mut pipes = self.pipes.lock().await;
            pipes.stdin.write_all(line.as_bytes()).await?;
            let mut answer = String::new();
            pipes.stdout.read_line(&mut answer).await?;
            Ok::<_, io::Error>(answer)
        };
        let answer = timeout(ANSWER_DEADLINE, exchange)
            .await
            .map_err(|_| failed(format!("no answer for {ANSWER_DEADLINE:?}")))?
            .map_err(|e| failed(e.to_string()))?;
        let reply: Reply = serde_json::from_str(&answer).map_err(|e| failed(e.to_string()))?;
        reply.error.map_or(Ok(()), |e| Err(failed(e)))
    }
}

fn configuration(plan: &GatewayPlan, latency: Latency, key: &SigningKey) -> GatewayConfig {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a million
    let ppm = (plan.dead_share * 1e6) as u32;
    // Both words that Apple has for it, half and half.
    let dead = |reason, ppm| Rule { ppm, answer: Scripted::always(reason) };
    GatewayConfig {
        keys: vec![KeyConfig {
            key_id: key.key_id.to_owned(),
            team_id: key.team_id.to_owned(),
            public_key_file: Some(key.public.clone()),
            public_key_pem: None,
        }],
        topics: plan.topics.clone(),
        sandbox: true,
        connection_window: CONNECTION_WINDOW,
        scripts: Scripts {
            seed: plan.seed,
            rules: vec![dead(Reason::Unregistered, ppm.div_ceil(2)), dead(Reason::BadDeviceToken, ppm / 2)],
            ..Scripts::default()
        },
        faults: Faults { latency, ..Faults::default() },
        seed: plan.seed,
        ..GatewayConfig::default()
    }
}

/// A record as the verdict reads it.
#[derive(Debug)]
pub struct Recorded {
    /// Every request.
    pub ledger: Ledger,
    /// Bytes that came from clients, TLS and all.
    pub bytes_received: u64,
}

/// Reads an exported record.
///
/// # Errors
/// It is not there, or not whole.
pub fn read_record(path: &Path) -> Result<Recorded, RunError> {
    let record = Record::load(path).map_err(|e| RunError::Record(format!("{}: {e}", path.display())))?;
    if record.header.dropped > 0 {
        return Err(RunError::Record(format!("{} requests did not fit: it proves nothing", record.header.dropped)));
    }
    let bytes_received = record.bytes_received();
    Ok(Recorded { ledger: Ledger::new(record.entries.iter().map(push).collect()), bytes_received })
}

fn push(entry: &Entry) -> Push {
    let fate = match entry.status {
        _ if entry.accepted() => Fate::Accepted,
        410 => Fate::Dead,
        400 if entry.reason() == Some(Reason::BadDeviceToken) => Fate::Dead,
        _ => Fate::Failed,
    };
    let answered = entry.flags & (flag::ANSWERED | flag::UNPROCESSED) != 0;
    let doubtful = entry.flags & (flag::CANCELLED | flag::DOUBTFUL) != 0;
    let answer = match (answered, doubtful) {
        (false, _) => Answer::Withheld,
        (true, true) => Answer::Doubtful,
        (true, false) => Answer::Given,
    };
    Push { token_hash: entry.token_hash, at_ns: entry.time_us * 1_000, fate, answer }
}
