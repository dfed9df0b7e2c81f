//! A cluster of real processes with a running alert, and clients that the attack must not affect.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use clarion_emulator::clock;
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan, Started, emulator::GatewayPlan, network::NetworkPlan},
    drive::{self, alert},
    population::Population,
    scenario::{Scenario, StoreKind},
};
use clarion_proto::wire::v1::{self as wire, alert_service_client::AlertServiceClient};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Time limit of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The cluster and its registered devices.
pub(crate) struct Stage {
    cluster: Cluster,
    channel: Channel,
    scenario: Scenario,
    population: Arc<Population>,
    _dir: TempDir,
}

/// Creates a scenario in which every device is inside the region and has one app of FCM.
fn scenario(nodes: u32, devices: u64, quota: Option<u32>) -> Scenario {
    let quota =
        quota.map_or(String::new(), |quota| format!("[gateway.fcm]\nquota_per_minute = {quota}\n"));
    let text = format!(
        r#"
name = "attack"
description = "A lane under attack"
seed = 7
devices = {devices}
nodes = {nodes}
[population]
apps = [{{ name = "guardian-android", platform = "fcm" }}]
[[population.areas]]
kind = "disc"
share = 1.0
center = {{ latitude = 22.543, longitude = 114.058 }}
radius_meters = 20_000
[alert.region]
kind = "circle"
center = {{ latitude = 22.543, longitude = 114.058 }}
radius_meters = 25_000
{quota}
[expect]
"#
    );
    Scenario::parse("attack", &text).expect("a scenario")
}

/// Returns this program, or a script that starts nodes under a limit of descriptors.
fn program(dir: &Path, descriptors: Option<u32>) -> PathBuf {
    let loadgen = env!("CARGO_BIN_EXE_loadgen");
    let Some(limit) = descriptors else { return loadgen.into() };
    let path = dir.join("limited");
    let script =
        format!("#!/bin/sh\n[ \"$2\" = shard ] && ulimit -n {limit}\nexec '{loadgen}' \"$@\"\n");
    fs::write(&path, script).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("allowed");
    path
}

impl Stage {
    pub(crate) async fn set(
        nodes: u32,
        devices: u64,
        quota: Option<u32>,
        descriptors: Option<u32>,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let scenario = scenario(nodes, devices, quota);
        let population =
            Population::new(&scenario.population, scenario.seed, devices).expect("a population");
        let plan = ClusterPlan {
            program: program(dir.path(), descriptors),
            dir: dir.path().canonicalize().expect("a folder"),
            nodes,
            nodes_later: Vec::new(),
            nodes_told: None,
            store: StoreKind::Memory,
            cores_per_node: 1,
            gateway: GatewayPlan {
                platforms: population.platforms(),
                dead_share: 0.0,
                latency_us: 0,
                distance: scenario.gateway.distance,
                seed: 7,
                topics: Vec::new(),
                fcm_quota_per_minute: quota.unwrap_or(60_000_000),
            },
            fcm: scenario.gateway.fcm,
            request_deadline_ms: None,
            authorization_literal: false,
            snapshot_every_seconds: None,
            network: NetworkPlan::default(),
            start_deadline: PATIENCE,
        };
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let endpoint = Endpoint::from_shared(cluster.coordinator.clone()).expect("an address");
        let channel = endpoint.connect().await.expect("it listens");
        let stage =
            Self { cluster, channel, scenario, population: Arc::new(population), _dir: dir };
        alert::create_apps(stage.channel.clone(), &stage.population).await.expect("created");
        let loading = drive::load::load(
            stage.channel.clone(),
            Arc::clone(&stage.population),
            clock::wall().0,
            |_| {},
        );
        timeout(PATIENCE, loading).await.expect("in time").expect("loaded");
        drive::visible(stage.channel.clone(), devices, PATIENCE).await.expect("visible");
        stage
    }

    /// Returns an address of a process: `listen`, `feed` or `health`.
    pub(crate) fn address(&self, process: &str, port: &str) -> SocketAddr {
        let announced = self.cluster.announced(process).expect("it runs");
        let address = match port {
            "listen" => Some(&announced.listen),
            "feed" => announced.feed.as_ref(),
            _ => announced.health.as_ref(),
        };
        address.expect("it has such a port").parse().expect("an address")
    }

    pub(crate) fn pid(&self, process: &str) -> u32 {
        self.cluster.watched().iter().find(|watched| watched.name == process).expect("it runs").pid
    }

    /// Submits the alert and returns its name.
    pub(crate) async fn alert(&self) -> String {
        let alert = alert::alert(&self.scenario, &self.population);
        let id = "0192d3a0-0000-7000-8000-000000000007".to_owned();
        let submitted = timeout(PATIENCE, alert::submit(self.channel.clone(), alert, id)).await;
        submitted.expect("in time").expect("accepted").name
    }

    async fn progress(&self, name: &str) -> wire::AlertProgress {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A new watch each time, because attackers may have ended the connection of the last.
            let mut client = AlertServiceClient::new(self.channel.clone());
            let request = wire::WatchAlertRequest { name: name.to_owned(), ..Default::default() };
            let first = async {
                client.watch_alert(request).await.ok()?.into_inner().message().await.ok()?
            };
            if let Ok(Some(progress)) = timeout(Duration::from_secs(2), first).await {
                return progress;
            }
            assert!(Instant::now() < deadline, "no progress of {name}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Returns the number of pushes accepted so far.
    pub(crate) async fn accepted(&self, name: &str) -> u64 {
        let progress = self.progress(name).await.progress.unwrap_or_default();
        progress.outcomes.unwrap_or_default().accepted
    }

    pub(crate) async fn until_accepted(&self, name: &str, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.accepted(name).await < count {
            assert!(Instant::now() < deadline, "{count} were to be accepted");
            sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) async fn until_resolved(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.progress(name).await.state() != wire::State::Resolved {
            assert!(Instant::now() < deadline, "{:?}", self.progress(name).await);
            sleep(LOOK_EVERY).await;
        }
    }

    /// Kills a node and starts it again.
    pub(crate) async fn restart(&mut self, node: &str) {
        self.cluster.kill(node).await;
        self.cluster.start_again(node, Started::default()).await.expect("it starts");
    }

    /// Waits until a node has its partitions.
    pub(crate) async fn until_ready(&self, node: &str) {
        let (address, deadline) = (self.address(node, "health"), Instant::now() + PATIENCE);
        while !is_serving(address, "clarion.shard.v1.ShardService").await {
            assert!(Instant::now() < deadline, "{node} is not ready");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the cluster even if an alert is running, because the test is about ports.
    pub(crate) fn end(self) {
        drop(self.cluster);
    }
}

async fn is_serving(address: SocketAddr, service: &str) -> bool {
    let ask = async {
        let channel =
            Endpoint::from_shared(format!("http://{address}")).ok()?.connect().await.ok()?;
        let request = HealthCheckRequest { service: service.to_owned() };
        Some(
            HealthClient::new(channel).check(request).await.ok()?.into_inner().status()
                == ServingStatus::Serving,
        )
    };
    timeout(Duration::from_secs(2), ask).await.ok().flatten().unwrap_or(false)
}

/// Checks that the process is alive, as a kubelet would; three consecutive failures would restart
/// it.
pub(crate) async fn probe(address: SocketAddr) {
    for _ in 0..3 {
        if is_serving(address, "").await {
            return;
        }
    }
    panic!("three probes of {address} failed");
}

/// Returns the resident memory of a process, bytes.
pub(crate) fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident");
    kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

/// Meter of the highest growth of a process.
pub(crate) struct Growth {
    stop: oneshot::Sender<()>,
    most: JoinHandle<u64>,
}

impl Growth {
    pub(crate) fn of(pid: u32) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let before = rss(pid);
        let most = tokio::spawn(async move {
            let mut most = before;
            while timeout(LOOK_EVERY, &mut stopped).await.is_err() {
                most = most.max(rss(pid));
            }
            most.max(rss(pid)) - before
        });
        Self { stop, most }
    }

    pub(crate) async fn end(self) -> u64 {
        let _ = self.stop.send(());
        self.most.await.expect("no panic")
    }
}

/// Ordinary callers, each over new connections and over one that they keep.
pub(crate) struct Others {
    stop: oneshot::Sender<()>,
    seen: JoinHandle<(Vec<Duration>, u32)>,
}

impl Others {
    pub(crate) fn begin(api: SocketAddr) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let seen = tokio::spawn(async move {
            let endpoint = Endpoint::from_shared(format!("http://{api}")).expect("an address");
            let kept = endpoint.connect_lazy();
            let (mut times, mut failures) = (Vec::new(), 0);
            while timeout(LOOK_EVERY, &mut stopped).await.is_err() {
                for channel in [kept.clone(), endpoint.connect_lazy()] {
                    let begun = Instant::now();
                    let list = async {
                        AlertServiceClient::new(channel)
                            .list_alerts(wire::ListAlertsRequest::default())
                            .await
                    };
                    match timeout(Duration::from_secs(5), list).await {
                        Ok(Ok(_)) => times.push(begun.elapsed()),
                        _ => failures += 1,
                    }
                }
            }
            (times, failures)
        });
        Self { stop, seen }
    }

    pub(crate) async fn end(self) -> String {
        let _ = self.stop.send(());
        let (mut times, failures) = self.seen.await.expect("no panic");
        times.sort_unstable();
        let at =
            |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        format!(
            "{} requests, {failures} refused or late, p50 {:.1?}, p99 {:.1?} (target 200 ms)",
            times.len(),
            at(50),
            at(99)
        )
    }
}

/// Starts an emulator with a control port.
pub(crate) async fn emulator() -> (Child, SocketAddr) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["gateway", "--control=127.0.0.1:0", "--directory"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("in time").expect("text");
    let announced: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    (child, announced["control"].as_str().expect("a control port").parse().expect("an address"))
}
