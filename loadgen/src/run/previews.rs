//! Previews of an ordinary region beside previews of the worst ones, from many addresses.
//!
//! One region must not delay another: the run measures how long a preview of a circle of 120 km
//! takes while callers from other addresses of the loopback network preview regions that cost the
//! most, each as often as it may. Before that, each of these regions is checked and covered in this
//! process, and its CPU time is measured.

pub mod worst;

use std::{cell::RefCell, collections::BTreeMap, net::Ipv4Addr, rc::Rc, time::Duration};

use clarion_coordinator::cover::{CellBudget, cover};
use clarion_proto::{
    region::Region,
    wire::v1::{self as wire, alert_service_client::AlertServiceClient},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::{Options, RunError, Stage, scene::Scene};
use crate::{
    cluster::Cluster,
    drive::{DriveError, alert},
    scenario::Scenario,
    show::Show,
};

/// Target for the 99th percentile of ordinary previews, milliseconds.
pub const ORDINARY_P99_MS: f64 = 300.0;
/// Target for the CPU time of one region, milliseconds.
pub const REGION_CPU_MS: f64 = 500.0;
/// Time between two ordinary previews.
const EVERY: Duration = Duration::from_millis(100);
/// Previews from one address: fewer than the 24 that an address has at once of one region.
const PREVIEWS_OF_ADDRESS: u32 = 20;
/// Time limit of one preview.
const PATIENCE: Duration = Duration::from_secs(60);

/// Cost of one region in this process.
#[derive(Debug, Clone)]
pub struct Cost {
    /// Name of the shape.
    pub name: &'static str,
    /// CPU time of the check, milliseconds.
    pub check_ms: f64,
    /// CPU time of the cover, milliseconds.
    pub cover_ms: f64,
    /// Result: the number of cells and their resolution, or the problem.
    pub result: String,
}

/// Result of a run.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Durations of ordinary previews, milliseconds, ascending.
    pub ordinary_ms: Vec<f64>,
    /// Number of refusals of ordinary previews because the coordinator was busy. The caller repeats
    /// such a preview, and its duration includes the pauses.
    pub ordinary_refused: u64,
    /// Answers to the worst previews, by status code.
    pub answers: BTreeMap<String, u64>,
}

impl Seen {
    /// The duration below which a share of the ordinary previews ended, milliseconds.
    #[must_use]
    pub fn ordinary_percentile_ms(&self, share: f64) -> f64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an index
        let at = (self.ordinary_ms.len() as f64 * share) as usize;
        let last = self.ordinary_ms.len().saturating_sub(1);
        self.ordinary_ms.get(at.min(last)).copied().unwrap_or(f64::INFINITY)
    }
}

/// Measures each of the worst regions in this process.
#[must_use]
pub fn costs() -> Vec<Cost> {
    let cost = |(name, region): (&'static str, wire::Region)| {
        let begun_ms = cpu_ms();
        let checked = Region::from_wire(region);
        let check_ms = cpu_ms() - begun_ms;
        let result = checked.map_err(|e| e.to_string()).and_then(|region| {
            let cover = cover(&region, CellBudget::default()).map_err(|e| e.to_string())?;
            Ok(format!("{} cells, resolution {}", cover.len(), cover.finest()))
        });
        let result = result.unwrap_or_else(|problem| problem.chars().take(120).collect());
        Cost { name, check_ms, cover_ms: cpu_ms() - begun_ms - check_ms, result }
    };
    worst::regions().into_iter().map(cost).collect()
}

/// Runs ordinary previews for some seconds, beside `others` callers of the worst ones.
///
/// # Errors
/// If the cluster cannot be started or filled, or an ordinary preview fails.
pub async fn run(
    scenario: &Scenario,
    options: &Options,
    (others, seconds): (u32, u64),
    show: &Show,
) -> Result<Seen, RunError> {
    let Stage { dir, population, plan, .. } = Stage::prepare(scenario, options, show)?;
    let mut cluster = Cluster::start(&plan).await?;
    let scene = Scene {
        scenario,
        population: &population,
        coordinator: cluster.coordinator.clone(),
        emulators: cluster.emulators.clone(),
        watched: cluster.watched(),
        node_orders: None,
        memory: cluster.memory.clone(),
        dir: &dir,
        show,
    };
    let seen = tokio::select! {
        seen = play(&scene, others, Duration::from_secs(seconds)) => seen,
        death = cluster.watch() => Err(death.into()),
    };
    cluster.stop(Duration::from_secs(scenario.deadlines.stop_s)).await;
    seen
}

async fn play(scene: &Scene<'_>, others: u32, duration: Duration) -> Result<Seen, RunError> {
    let channel = scene.connect().await?;
    alert::create_apps(channel.clone(), scene.population).await?;
    scene.fill(channel).await?;
    let ordinary = alert::alert(scene.scenario, scene.population);
    let worst: Rc<Vec<wire::Region>> =
        Rc::new(worst::regions().into_iter().map(|(_, region)| region).collect());
    let (answers, end) = (Rc::new(RefCell::default()), Instant::now() + duration);
    let callers = LocalSet::new();
    for number in 0..others {
        let caller = Caller {
            coordinator: scene.coordinator.clone(),
            address: address(1, number),
            ordinary: wire::Alert { region: None, ..ordinary.clone() },
            worst: Rc::clone(&worst),
            answers: Rc::clone(&answers),
        };
        callers.spawn_local(timeout(duration, caller.preview_all(number as usize)));
    }
    let mut seen = Seen::default();
    let measured = async {
        let mut number = 0;
        while Instant::now() < end {
            let from = address(0, 2 + number / PREVIEWS_OF_ADDRESS);
            let client = AlertServiceClient::new(connect(&scene.coordinator, from).await?);
            for _ in 0..PREVIEWS_OF_ADDRESS {
                let begun = Instant::now();
                if begun >= end {
                    break;
                }
                loop {
                    let request = wire::PreviewAlertRequest { alert: Some(ordinary.clone()) };
                    match client.clone().preview_alert(request).await {
                        Ok(_) => break,
                        Err(busy) if busy.code() == Code::ResourceExhausted => {
                            seen.ordinary_refused += 1;
                            sleep(pause(&busy)).await;
                        }
                        Err(other) => return Err(other.into()),
                    }
                }
                seen.ordinary_ms.push(begun.elapsed().as_secs_f64() * 1_000.0);
                number += 1;
                sleep(EVERY).await;
            }
        }
        Ok::<(), DriveError>(())
    };
    callers.run_until(measured).await?;
    seen.ordinary_ms.sort_by(f64::total_cmp);
    seen.answers = answers.take();
    Ok(seen)
}

/// A caller of the worst previews, from an address of its own.
struct Caller {
    coordinator: String,
    address: Ipv4Addr,
    /// The alert of the previews, without its region.
    ordinary: wire::Alert,
    worst: Rc<Vec<wire::Region>>,
    answers: Rc<RefCell<BTreeMap<String, u64>>>,
}

impl Caller {
    /// Previews one region after another, as fast as the answers come.
    async fn preview_all(self, first: usize) {
        let Ok(channel) = connect(&self.coordinator, self.address).await else {
            *self.answers.borrow_mut().entry("not connected".to_owned()).or_default() += 1;
            return;
        };
        for number in first.. {
            let region = Some(self.worst[number % self.worst.len()].clone());
            let alert = Some(wire::Alert { region, ..self.ordinary.clone() });
            let mut client = AlertServiceClient::new(channel.clone());
            let preview = client.preview_alert(wire::PreviewAlertRequest { alert });
            let answer = timeout(PATIENCE, preview).await;
            let code = match &answer {
                Err(_) => "no answer in 60 s".to_owned(),
                Ok(Ok(_)) => "Ok".to_owned(),
                Ok(Err(status)) => format!("{:?}", status.code()),
            };
            *self.answers.borrow_mut().entry(code).or_default() += 1;
            if let Ok(Err(busy)) = answer
                && busy.code() == Code::ResourceExhausted
            {
                sleep(pause(&busy)).await;
            }
        }
    }
}

/// The pause that a refusal asks for, in `grpc-retry-pushback-ms`.
fn pause(refusal: &tonic::Status) -> Duration {
    let asked = refusal.metadata().get("grpc-retry-pushback-ms");
    let asked = asked.and_then(|ms| ms.to_str().ok()?.parse().ok());
    asked.map_or(Duration::from_secs(1), Duration::from_millis)
}

/// An address of the loopback network.
fn address(block: u8, number: u32) -> Ipv4Addr {
    let [.., third, fourth] = (number + 1).to_be_bytes();
    Ipv4Addr::new(127, block, third, fourth)
}

async fn connect(coordinator: &str, from: Ipv4Addr) -> Result<Channel, DriveError> {
    let endpoint = Endpoint::from_shared(coordinator.to_owned())?;
    Ok(endpoint.local_address(Some(from.into())).tcp_nodelay(true).connect().await?)
}

/// CPU time of this thread, milliseconds.
fn cpu_ms() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1_000.0 + now.tv_nsec as f64 / 1e6
}
