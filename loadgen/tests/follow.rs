//! `coordinator follow` with real parts: a table of a real PostgreSQL server, and a real
//! coordinator and node. Rows appear, change and are marked as deleted, a transaction stays open,
//! the follower is killed, the server goes away: the registry has the devices of the table.

mod coordinators;
#[path = "../../coordinator/src/store/postgres/server.rs"]
mod server;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use clarion_emulator::Platform;
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan},
    drive, names,
    population::Population,
};
use clarion_proto::wire::v1::{
    self as wire, app_service_client::AppServiceClient,
    registry_service_client::RegistryServiceClient,
};
use coordinators::{PATIENCE, plan, scenario};
use server::TestServer;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

const DATABASE: &str = "phones";
const APP: &str = "apps/names";
const TABLE: &str = "CREATE SCHEMA app; CREATE TABLE app.devices (id uuid PRIMARY KEY, \
    push_token bytea, latitude float8, longitude float8, locale text, \
    updated_at timestamptz NOT NULL DEFAULT now(), deleted_at timestamptz); \
    CREATE INDEX ON app.devices (updated_at, id)";

/// Inserts the rows `from` to `to`, each with a token of its own.
fn insert(from: u64, to: u64) -> String {
    format!(
        "INSERT INTO app.devices (id, push_token, latitude, longitude, locale) \
         SELECT lpad(to_hex(n), 32, '0')::uuid, decode(lpad(to_hex(n), 64, '0'), 'hex'), \
         22.5 + n % 100 / 1000.0, 114.0, 'zh-Hans' FROM generate_series({from}, {to}) AS n"
    )
}

/// The condition that a row is one of `from` to `to`.
fn rows(from: u64, to: u64) -> String {
    let id = |n: u64| format!("'{n:032x}'::uuid");
    format!("id BETWEEN {} AND {}", id(from), id(to))
}

/// A follower that runs.
struct Follower(Child);

impl Follower {
    fn start(args: &[&str]) -> Self {
        let mut command = follow(args);
        command.stdout(Stdio::null());
        Self(command.spawn().expect("it starts"))
    }

    fn kill(&mut self) {
        // It cannot be killed if it has ended.
        let _ = self.0.kill();
        self.0.wait().expect("it has ended");
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that runs `coordinator follow`.
fn follow(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.arg(format!("--child-of={}", std::process::id())).args(["coordinator", "follow"]);
    command.args(args);
    command
}

async fn run(args: &[&str]) -> Output {
    let mut command = follow(args);
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("no panic").expect("it starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

async fn create_app(channel: &Channel) {
    let app = wire::App {
        platform: wire::Platform::Apns.into(),
        gateway: names::gateway(Platform::Apns).to_owned(),
        credential: names::credential(Platform::Apns).to_owned(),
        topic: names::topic("guardian-ios"),
        environment: wire::Environment::Sandbox.into(),
        lane_kind: wire::LaneKind::Test.into(),
        identity: wire::Identity::Device.into(),
        ..Default::default()
    };
    let app_id = APP.trim_start_matches("apps/").to_owned();
    let request = wire::CreateAppRequest { app_id, app: Some(app) };
    AppServiceClient::new(channel.clone()).create_app(request).await.expect("created");
}

/// Waits until the registry has exactly so many devices; returns the number of changes so far.
async fn until(channel: &Channel, devices: u64, what: &str) -> u64 {
    let mut client = RegistryServiceClient::new(channel.clone());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = client.get_registry_stats(wire::GetRegistryStatsRequest {}).await;
        let stats = stats.expect("stats").into_inner();
        if stats.devices == devices && stats.changes_applied == stats.changes_written {
            return stats.changes_written;
        }
        assert!(Instant::now() < deadline, "{what}: {} of {devices} devices", stats.devices);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_has_the_devices_of_the_table() {
    let Some(mut server) = TestServer::start() else { return };
    server.create_database(DATABASE);
    server.sql(DATABASE, TABLE);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("a folder");
    let scenario = scenario(100, 0);
    let population = Population::new(&scenario.population, scenario.seed, 100).expect("devices");
    let plan = ClusterPlan { nodes_later: vec![], ..plan(&path, &scenario, &population) };
    let cluster = Cluster::start(&plan).await.expect("a cluster");
    let channel = drive::connect(&cluster.coordinator, PATIENCE).await.expect("it listens");
    create_app(&channel).await;
    let (url, rejects, resume) =
        (server.url(DATABASE), path.join("rejects.csv"), path.join("resume"));
    let options = [
        "--from",
        &url,
        "--table",
        "app.devices",
        "--cursor",
        "updated_at",
        "--column",
        "device=id",
        "--column",
        "token=push_token",
        "--app",
        APP,
        "--deleted-when",
        "deleted_at",
        "--to",
        &cluster.coordinator,
        "--rejects",
        text(&rejects),
        "--resume",
        text(&resume),
    ];
    let args = [&options[..], &["--overlap", "2s", "--every", "200ms"]].concat();

    // More rows than a page, with one cursor for all of them.
    server.sql(DATABASE, &insert(1, 9_000));
    let mut follower = Follower::start(&args);
    let copied = until(&channel, 9_000, "the first copy").await;
    assert_eq!(copied, 9_000);

    // A transaction stays open for much longer than the overlap, while others commit.
    let held = format!("BEGIN; {}; SELECT pg_sleep(6); COMMIT", insert(9_001, 9_100));
    let mut open = server.psql(DATABASE, &held).stdout(Stdio::null()).spawn().expect("psql");
    sleep(Duration::from_millis(500)).await;
    for n in 0..8 {
        server.sql(DATABASE, &insert(10_000 + n * 10, 10_009 + n * 10));
        sleep(Duration::from_millis(500)).await;
    }
    until(&channel, 9_080, "rows beside an open transaction").await;
    assert!(open.wait().expect("psql ends").success());
    until(&channel, 9_180, "rows that were committed late").await;

    // Rows change, devices are removed, and one row cannot be written.
    let moved =
        format!("UPDATE app.devices SET latitude = 31, updated_at = now() WHERE {}", rows(1, 50));
    server.sql(DATABASE, &moved);
    let removed = format!(
        "UPDATE app.devices SET deleted_at = now(), updated_at = now() WHERE {}",
        rows(51, 150)
    );
    server.sql(DATABASE, &removed);
    server.sql(
        DATABASE,
        &format!(
            "{}; UPDATE app.devices SET push_token = '\\x5ec2e7', \
        latitude = 95, updated_at = now() WHERE {}",
            insert(20_000, 20_000),
            rows(20_000, 20_000)
        ),
    );
    let changed = until(&channel, 9_080, "removals").await;
    assert!(follower.is_running());

    // The follower is killed; meanwhile rows appear and vanish.
    follower.kill();
    server.sql(DATABASE, &insert(30_000, 30_499));
    server.sql(DATABASE, &removed.replace(&rows(51, 150), &rows(151, 160)));
    let mut follower = Follower::start(&args);
    until(&channel, 9_570, "what changed while nobody followed").await;

    // The server goes away for a while.
    server.stop();
    sleep(Duration::from_secs(1)).await;
    server.restart();
    server.sql(DATABASE, &insert(40_000, 40_009));
    let written = until(&channel, 9_580, "rows after the server's restart").await;
    assert!(follower.is_running());
    follower.kill();
    println!("{written} changes for {changed} before the kill");
    // The window after the kill is written twice at most.
    assert!(written <= changed + 10_000, "{written}: rows are written again and again");
    let told = fs::read_to_string(&rejects).expect("written");
    let id = uuid::Uuid::from_u128(0x4e20).to_string();
    assert!(told.lines().skip(1).all(|line| line.starts_with(&id)), "{told}");
    assert!(told.lines().count() >= 2 && !told.contains("5ec2e7"), "{told}");

    // Once more from the beginning, as a program that ends.
    let once: Vec<&str> = options.iter().copied().filter(|o| *o != text(&resume)).collect();
    let once: Vec<&str> = once.into_iter().filter(|o| *o != "--resume").collect();
    let output = run(&[&once[..], &["--once"]].concat()).await;
    assert_eq!(output.status.code(), Some(3), "one row is rejected");
    until(&channel, 9_580, "nothing changed").await;
    assert_eq!(cluster.stop(PATIENCE).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_one_line_that_says_what_to_do() {
    let Some(server) = TestServer::start() else { return };
    server.create_database(DATABASE);
    server.sql(DATABASE, TABLE);
    let url = server.url(DATABASE);
    let to = ["--to", "http://127.0.0.1:1", "--app", APP, "--once"];
    for (args, words) in [
        (["--table", "devices", "--cursor", "updated_at"], "table devices: must exist"),
        (["--table", "app.devices", "--cursor", "changed"], "no column changed; it has id, push"),
        (["--table", "app.devices", "--cursor", "locale"], "must be a column of times"),
        (["--table", "app.devices", "--cursor", "updated_at"], "column token is required"),
    ] {
        let output = run(&[&["--from", &url][..], &args, &to].concat()).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.starts_with("error: ") && told.contains(words), "{told}");
    }
    let wrong = "postgres://nobody:secret@127.0.0.1/phones";
    let table = ["--table", "app.devices", "--cursor", "updated_at"];
    let output = run(&[&["--from", wrong][..], &table, &to].concat()).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("--from") && !told.contains("secret"), "{told}");
}
