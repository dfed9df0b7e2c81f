//! `coordinator import` with real parts: files that Python's `csv`, pyarrow and DuckDB write, a
//! real coordinator and node, and the emulator's record of an alert as the judge.

mod coordinators;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use clarion_coordinator::store::memory::MemoryStore;
use clarion_emulator::{Platform, clock, record::Record};
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan},
    drive::{self, alert},
    names,
    population::{Device, Population},
    scenario::Scenario,
    verdict::recorded,
};
use clarion_proto::{
    device::token_hash,
    wire::v1::{
        self as wire, app_service_client::AppServiceClient,
        registry_service_client::RegistryServiceClient,
    },
};
use clarion_runtime::world::World;
use coordinators::{PATIENCE, Process, plan, scenario};
use data_encoding::HEXLOWER;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

/// Devices of each file: an alert reaches no audience below 100.
const DEVICES: u64 = 200;
const BY_TOKEN: &str = "apps/tokens";
const BY_NAME: &str = "apps/names";

/// A command that runs `coordinator import`.
fn import(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.arg(format!("--child-of={}", std::process::id())).args(["coordinator", "import"]);
    command.args(args);
    command
}

async fn run(args: &[&str]) -> Output {
    let mut command = import(args);
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("no panic").expect("it starts")
}

fn code(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Writes a file as another system does; `None`: its package is not installed.
fn written(folder: &Path, format: &str, rows: &[serde_json::Value]) -> Option<PathBuf> {
    let (source, ending) = (folder.join("rows"), if format == "csv" { "csv" } else { "parquet" });
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    fs::write(&source, lines.join("\n")).expect("written");
    let target = folder.join(format!("{format}.{ending}"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/write.py");
    let args = [text(&script), format, text(&source), text(&target)];
    let status = Command::new("python3").args(args).status().expect("python3");
    match status.code() {
        Some(0) => Some(target),
        Some(77) => {
            eprintln!("SKIPPED: the file of {format}: its Python package is not installed");
            None
        }
        code => panic!("{format}: {code:?}"),
    }
}

fn row(app: &str, device: &Device, observed_ms: u64) -> serde_json::Value {
    let name =
        if app == BY_NAME { uuid::Uuid::from_bytes(device.id).to_string() } else { String::new() };
    json!({
        "app": app,
        "device": name,
        "token": HEXLOWER.encode(device.token.as_slice()),
        "latitude": device.place.latitude,
        "longitude": device.place.longitude,
        "locale": device.locale,
        "segments": device.segments,
        "observed": observed_ms,
        "muted": null,
    })
}

async fn create_app(channel: &Channel, name: &str, identity: wire::Identity) {
    let app = wire::App {
        platform: wire::Platform::Apns.into(),
        gateway: names::gateway(Platform::Apns).to_owned(),
        credential: names::credential(Platform::Apns).to_owned(),
        topic: names::topic("guardian-ios"),
        environment: wire::Environment::Sandbox.into(),
        lane_kind: wire::LaneKind::Test.into(),
        identity: identity.into(),
        ..Default::default()
    };
    let app_id = name.trim_start_matches("apps/").to_owned();
    let request = wire::CreateAppRequest { app_id, app: Some(app) };
    AppServiceClient::new(channel.clone()).create_app(request).await.expect("created");
}

fn population(devices: u64) -> (Scenario, Population) {
    let scenario = scenario(devices, 0);
    let population = Population::new(&scenario.population, scenario.seed, devices);
    (scenario, population.expect("devices"))
}

/// Three files, each of another writer, with rows at fault; then an alert to all devices: every
/// imported phone gets one push, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_phones_get_one_push() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("a folder");
    let (scenario, population) = population(3 * DEVICES);
    let plan = ClusterPlan { nodes_later: vec![], ..plan(&path, &scenario, &population) };
    let cluster = Cluster::start(&plan).await.expect("a cluster");
    let channel = drive::connect(&cluster.coordinator, PATIENCE).await.expect("it listens");
    create_app(&channel, BY_TOKEN, wire::Identity::Token).await;
    create_app(&channel, BY_NAME, wire::Identity::Device).await;

    let month_ago = clock::wall().0 - 30 * 24 * 3_600_000 + 3_600_000;
    let mut imported: BTreeMap<u64, u32> = BTreeMap::new();
    let mut files = Vec::new();
    for (format, range) in ["csv", "pyarrow", "duckdb"].into_iter().zip(0..) {
        let app = if format == "csv" { BY_TOKEN } else { BY_NAME };
        let devices: Vec<Device> =
            (range * DEVICES..(range + 1) * DEVICES).map(|n| population.device(n)).collect();
        let mut rows: Vec<_> = devices.iter().map(|d| row(app, d, month_ago)).collect();
        // The first is muted; the next ones are at fault: an app that does not exist, a place that
        // is none, a token that is none, and a time that is too old.
        rows[0]["muted"] = json!(true);
        rows[1]["app"] = json!("apps/other");
        rows[2]["latitude"] = json!(91.5);
        rows[3]["token"] = json!("xyz");
        rows[4]["observed"] = json!(1_500_000_000_000_u64);
        let Some(file) = written(&path, format, &rows) else { continue };
        files.push(file);
        for (device, n) in devices.iter().zip(0..) {
            let pushes = u32::from(n > 4);
            imported.insert(token_hash(device.token.as_slice()), pushes);
        }
    }
    let rejects = path.join("rejects.csv");
    let paths: Vec<&str> = files.iter().map(|file| text(file)).collect();
    let options = ["--to", &cluster.coordinator, "--historic", "--rejects", text(&rejects)];
    let (code, summary, told) = code(&run(&[&options[..], &paths].concat()).await);
    let all = files.len() as u64 * DEVICES;
    let bad = files.len() as u64 * 4;
    assert_eq!(code, Some(3), "{told}");
    let words = format!("imported {} of {all} rows; rejected {bad};", all - bad);
    assert!(summary.starts_with(&words), "{summary}");

    let told = fs::read_to_string(&rejects).expect("written");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len() as u64, 1 + bad, "{told}");
    assert_eq!(lines[0], "file,row,column,reason");
    for (file, of_file) in files.iter().zip(lines[1..].chunks(4)) {
        // A CSV file counts lines, and its header is the first one.
        let first = if file.ends_with("csv.csv") { 3 } else { 2 };
        for (n, (line, column)) in
            of_file.iter().zip(["app", "latitude", "token", "observed"]).enumerate()
        {
            let start = format!("{},{},{column},", file.display(), first + n);
            assert!(line.starts_with(&start) && !line.contains("xyz"), "{line}, not {start}");
        }
    }

    drive::visible(channel.clone(), all - bad, PATIENCE).await.expect("visible");
    let submitted = wire::Alert {
        audience: Some(wire::Audience {
            apps: [BY_TOKEN, BY_NAME].map(str::to_owned).to_vec(),
            segments: String::new(),
            place_seen_within: None,
        }),
        ..alert::alert(&scenario, &population)
    };
    let request_id = "0192d3a0-0000-7000-8000-000000000002".to_owned();
    let submitted = alert::submit(channel.clone(), submitted, request_id).await.expect("accepted");
    let ended = alert::watch(channel, &submitted.name, None, PATIENCE, |_| {}).await;
    assert_eq!(ended.expect("it ends").progress.state(), wire::State::Resolved);
    let record = path.join("record");
    cluster.emulators[0].export(&record).await.expect("exported");
    assert_eq!(cluster.stop(PATIENCE).await, [""; 0]);
    let Record { entries, .. } = recorded::load(&record).expect("whole");
    let mut pushes: BTreeMap<u64, u32> = imported.keys().map(|token| (*token, 0)).collect();
    for entry in entries.iter().filter(|e| e.collapse_hash == submitted.collapse_hash()) {
        *pushes.entry(entry.token_hash).or_default() += 1;
    }
    assert_eq!(pushes, imported);
}

/// Writes a CSV file with a fault in every 100th row.
fn large(path: &Path, rows: u64) {
    let now = clock::wall().0;
    let mut text = "app,token,latitude,longitude,observed\n".to_owned();
    for n in 0..rows {
        let longitude = if n % 100 == 99 { "181" } else { "114.06" };
        text += &format!("{BY_TOKEN},{n:064x},22.54,{longitude},{}\n", now - 60_000);
    }
    fs::write(path, text).expect("written");
}

async fn changes_written(channel: &Channel) -> u64 {
    let mut client = RegistryServiceClient::new(channel.clone());
    let stats = client.get_registry_stats(wire::GetRegistryStatsRequest {}).await.expect("stats");
    stats.into_inner().changes_written
}

async fn until_written(channel: &Channel, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while changes_written(channel).await < count {
        assert!(Instant::now() < deadline, "{count} changes were to be written");
        sleep(Duration::from_millis(5)).await;
    }
}

/// An importer that runs.
struct Importer(Child);

impl Importer {
    fn start(args: &[&str]) -> Self {
        let mut command = import(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("it starts"))
    }

    fn kill(&mut self) {
        // It cannot be killed if it has ended.
        let _ = self.0.kill();
        self.0.wait().expect("it has ended");
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The importer is killed several times, and the coordinator once: every row is written, the file
/// of rejects has every reject once, and few rows are written twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_import_goes_on_behind_its_last_acknowledged_rows() {
    const ROWS: u64 = 300_000;
    const KILLS: u64 = 4;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("a folder");
    let (scenario, population) = population(100);
    let mut cluster =
        Cluster::start(&plan(&path, &scenario, &population)).await.expect("a cluster");
    // The coordinator runs in this process, over a store that outlives it.
    cluster.kill(names::COORDINATOR).await;
    let file = path.join("coordinator.toml");
    let store = Arc::new(MemoryStore::new(64, 1 << 30, &World::system()));
    let mut coordinator = Process::start(&file, &store, World::system()).await;
    create_app(&coordinator.channel, BY_TOKEN, wire::Identity::Token).await;

    let devices = path.join("devices.csv");
    large(&devices, ROWS);
    let (rejects, resume) = (path.join("rejects.csv"), path.join("resume"));
    let to = cluster.coordinator.clone();
    let options = ["--to", &to, "--rejects", text(&rejects), "--resume", text(&resume)];
    let args = [&[text(&devices)][..], &options].concat();
    for n in 1..=KILLS {
        let mut importer = Importer::start(&args);
        until_written(&coordinator.channel, n * ROWS / (KILLS + 2)).await;
        importer.kill();
    }
    // The coordinator goes away in the middle, and another one comes.
    let mut importer = Importer::start(&args);
    until_written(&coordinator.channel, ROWS * 5 / 6).await;
    coordinator.crash().await;
    sleep(Duration::from_millis(700)).await;
    coordinator = Process::start(&file, &store, World::system()).await;
    let status = tokio::task::spawn_blocking(move || importer.0.wait().expect("it ends"));
    assert_eq!(status.await.expect("no panic").code(), Some(3));

    let told = fs::read_to_string(&rejects).expect("written");
    let lines: Vec<&str> = told.lines().skip(1).collect();
    let expected =
        (0..ROWS / 100).map(|n| format!("{},{},longitude,", text(&devices), n * 100 + 101));
    assert!(lines.iter().zip(expected).all(|(line, start)| line.starts_with(&start)));
    assert_eq!(lines.len() as u64, ROWS / 100);
    let good = ROWS - ROWS / 100;
    let written = changes_written(&coordinator.channel).await;
    println!("{} rows were written twice", written - good);
    // A kill repeats the batches under way and those whose mark was not synced yet.
    assert!((good..=good + (KILLS + 1) * 8 * 4_000).contains(&written), "{written}");
    // The same command again has nothing to do, and says so.
    let (code, summary, told) = code(&run(&args).await);
    assert_eq!(code, Some(3), "{told}");
    let words = format!("imported {good} of {ROWS} rows; rejected {};", ROWS / 100);
    assert!(summary.starts_with(&words) && summary.contains("in earlier runs"), "{summary}");
    assert_eq!(changes_written(&coordinator.channel).await, written);
    // A changed file is noticed.
    large(&devices, 10);
    let (code, _, told) = self::code(&run(&args).await);
    assert_eq!(code, Some(1));
    assert!(told.contains("devices.csv: was changed since"), "{told}");
    coordinator.crash().await;
}

#[test]
fn refusals_are_one_line_that_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        text_of(path)
    };
    let good = file("good.csv", "token,observed\n00,1763769600000\n");
    let lat = file("lat.csv", "app,token,observed,lat\n");
    let short = file("short.parquet", "PAR1");
    let to = "http://127.0.0.1:1";
    for (args, words) in [
        (vec![&*lat, "--to", to], "column \"lat\" is unknown; is it latitude?"),
        (vec![&*good, "--to", to], "or name the app of all rows with --app"),
        (vec![&*good, "--to", "https://x:1", "--app", "apps/a"], "--to: must begin with http://"),
        (vec![&*good, "--to", "127.0.0.1:1", "--app", "apps/a"], "--to: must be http://HOST:PORT"),
        (vec![&*good, "--to", to, "--app", "a"], "--app: "),
        (vec!["/nowhere.csv", "--to", to], "/nowhere.csv: cannot be opened"),
        (vec!["/dev/null", "--to", to], "must end in .csv or .parquet"),
        (vec!["/dev/null", "--to", to, "--format", "csv"], "must be a regular file"),
        (vec![&*short, "--to", to], "is no Parquet file, or its end is missing"),
    ] {
        let output = import(&args).output().expect("it starts");
        let (code, _, told) = code(&output);
        assert_eq!(code, Some(1), "{args:?}: {told}");
        assert!(told.starts_with("error: ") && told.contains(words), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    assert_eq!(import(&[]).output().expect("it starts").status.code(), Some(2));
    let help = import(&["--help"]).output().expect("it starts");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    for word in ["latitude", "observed", "RFC 3339", "--resume", "Exit codes"] {
        assert!(help.contains(word), "{word}");
    }
}

fn text_of(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("UTF-8")
}
