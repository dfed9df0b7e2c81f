//! The manifests of `k8s/` render, keep to the schemas of Kubernetes and to its strictest standard
//! for pods, and carry configurations with which the processes run: here without Kubernetes, as
//! processes of this machine, with the commands, configurations and keys of the overlay `local`,
//! and `city` against them as its Job would run it.

#[macro_use]
mod foreign;
mod pages;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::Parser as _;
use clarion_coordinator::config::{Args, Config};
use clarion_emulator::GatewayConfig;
use clarion_loadgen::cluster::ports;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use foreign::{Python, output, verdict};
use pages::{Places, by_hand};

/// Time limit of every wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns a command of the program that the manual's build line makes, as the image has it.
fn loadgen() -> Command {
    Command::new(pages::target().join("release/loadgen"))
}

/// Returns a copy of `k8s/` with keys, created by the command of its README and further options.
async fn manifests(options: &[String]) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    copy(&pages::root().join("k8s"), &dir.path().join("k8s"));
    let keys = "k8s/overlays/local/keys";
    let places = Places::new().with(keys, &dir.path().join(keys).display());
    let command = places.command("cargo run --release -- keys --directory");
    let made = by_hand(&format!("{command} {}", options.join(" ")), None, dir.path()).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    dir
}

/// Copies everything except the folder `keys`.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|e| e.expect("an entry")) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_file() {
            fs::copy(path, to).expect("copied");
        } else if entry.file_name() != "keys" {
            copy(&path, &to);
        }
    }
}

/// Renders the manifests with kubectl and returns the path of the result.
///
/// # Errors
/// The reason why kubectl is not available.
async fn rendered(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let version = Command::new("kubectl")
        .args(["version", "--client", "--output=json"])
        .kill_on_drop(true)
        .output();
    let version: Value =
        version.await.ok().and_then(|v| serde_json::from_slice(&v.stdout).ok()).unwrap_or_default();
    if !version["kustomizeVersion"].as_str().is_some_and(|v| v.starts_with("v5.")) {
        return Err(
            "no kubectl with Kustomize 5 is installed: the manifests were not rendered".to_owned()
        );
    }
    let mut kustomize = Command::new("kubectl");
    kustomize.arg("kustomize").arg(dir.join("k8s").join(name)).kill_on_drop(true);
    let rendered = kustomize.output().await.expect("as before");
    assert!(rendered.status.success(), "{name}: {}", String::from_utf8_lossy(&rendered.stderr));
    let path = dir.join(format!("{}.yaml", name.replace('/', "-")));
    fs::write(&path, rendered.stdout).expect("written");
    Ok(path)
}

#[tokio::test]
async fn they_render_and_keep_to_the_schemas() {
    let dir = manifests(&[]).await;
    let base = or_skip!(rendered(dir.path(), "base").await);
    let local = rendered(dir.path(), "overlays/local").await.expect("as before");
    let city = rendered(dir.path(), "overlays/local/city").await.expect("as before");
    let python = or_skip!(Python::installed().await);
    for (files, kinds) in [
        (vec![&base], json!({ "Deployment": 1, "StatefulSet": 1, "Service": 2, "ConfigMap": 1 })),
        (
            vec![&local, &city],
            json!({
                "Deployment": 3, "StatefulSet": 1, "Job": 1, "Secret": 2, "Namespace": 1,
                "PersistentVolumeClaim": 1
            }),
        ),
    ] {
        let told = verdict(python.program("manifests.py").args(files)).await;
        assert_eq!(told["problems"], json!([]));
        for (kind, count) in kinds.as_object().expect("an object") {
            assert_eq!(&told["kinds"][kind], count, "{kind}: {told}");
        }
    }
}

/// Writes a configuration file in which paths of a pod are replaced by paths of this machine, and
/// further replacements are made.
fn here(dir: &Path, name: &str, more: &[(&str, &str)]) -> PathBuf {
    let local = dir.join("k8s/overlays/local");
    let keys = local.join("keys").display().to_string();
    let mut text = fs::read_to_string(local.join(name)).expect("a configuration");
    let places = [("/etc/clarion/credentials", &*keys), ("/etc/clarion/gateways", &*keys)];
    for (from, to) in places.iter().chain(more) {
        text = text.replace(from, to);
    }
    let path = dir.join(name);
    fs::write(&path, text).expect("written");
    path
}

#[tokio::test]
async fn the_binaries_take_their_configurations() {
    let dir = manifests(&[]).await;
    let path = here(dir.path(), "coordinator.toml", &[]);
    let args = [OsString::from("coordinator"), "--config".into(), path.into()];
    let config = Config::load(Args::parse_from(args)).expect("the coordinator takes it");
    assert_eq!(config.dispatch.gateways.len(), config.dispatch.credentials.len());

    for name in ["gateway-apns.toml", "gateway-fcm.toml"] {
        let text = fs::read_to_string(here(dir.path(), name, &[])).expect("a configuration");
        let gateway: GatewayConfig = toml::from_str(&text).expect(name);
        gateway.policy().expect(name);
        let tls = gateway.tls.expect("clients must know its CA beforehand");
        assert!([tls.ca_file, tls.certificate_file, tls.key_file].iter().all(|f| f.is_file()));
    }
}

/// Starts a process of the cluster and reads its announcement.
async fn start(arguments: &[String]) -> (Child, Value) {
    let mut child = loadgen();
    // Warnings are shown with the output of the test.
    child.args(arguments).env("CLARION_LOG", "error").stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = child.spawn().expect("it starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("in time").expect("text");
    let announced =
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{arguments:?}: {line:?}: {e}"));
    (child, announced)
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Runs `loadgen probe`, as a container without a shell is probed.
async fn probe(address: &Value, service: &str) -> (bool, String) {
    let address = address.as_str().expect("an address");
    let probed =
        output(loadgen().args(["probe", address, "--service", service, "--deadline-ms", "20000"]))
            .await;
    (
        probed.status.success(),
        String::from_utf8_lossy(&[probed.stdout, probed.stderr].concat()).into_owned(),
    )
}

#[tokio::test]
async fn city_against_the_overlay_as_processes() {
    let claimed = ports::claim(3).expect("ports");
    let [oauth, coordinator_port, feed_port] = [0, 1, 2].map(|n| claimed[n].number());
    let token_uri = format!("https://localhost:{oauth}/token");
    let dir =
        manifests(&words(["--server-names=localhost", &format!("--token-uri={token_uri}")])).await;
    let mut running = Vec::new();
    let mut addresses = Vec::new();
    for name in ["gateway-apns", "gateway-fcm"] {
        let listen = [
            ("0.0.0.0:7443", "127.0.0.1:0"),
            ("0.0.0.0:7444", &*format!("127.0.0.1:{oauth}")),
            ("https://gateway-fcm:7444/token", &*token_uri),
        ];
        let config = here(dir.path(), &format!("{name}.toml"), &listen);
        let (child, announced) = start(&words([
            "gateway",
            &format!("--config={}", config.display()),
            &format!("--directory={}", dir.path().join(name).display()),
            "--control=127.0.0.1:0",
            "--health-listen=127.0.0.1:0",
        ]))
        .await;
        assert_eq!(probe(&announced["health"], "").await, (true, "SERVING\n".to_owned()));
        running.push(child);
        addresses.push(announced);
    }
    // Started as a run starts its own processes, so that they end with this test even if it is
    // killed.
    let child_of = format!("--child-of={}", std::process::id());
    let (coordinator, feed) =
        (format!("127.0.0.1:{coordinator_port}"), format!("127.0.0.1:{feed_port}"));
    let (shard, shard_at) = start(&words([
        &child_of,
        "shard",
        "--listen=127.0.0.1:0",
        "--health-listen=127.0.0.1:0",
        "--name=shard-0",
        &format!("--coordinators={feed}"),
        "--cores=1",
        "--announce",
    ]))
    .await;
    let (ready, words_of_it) = probe(&shard_at["health"], "clarion.shard.v1.ShardService").await;
    assert!(
        !ready && words_of_it.starts_with("NOT_SERVING"),
        "without a coordinator it has no partitions: {words_of_it}"
    );
    let at = |i: usize, port: &str| {
        addresses[i][port].as_str().expect("an address").replace("127.0.0.1", "localhost")
    };
    let (apns, fcm) = (at(0, "listen"), at(1, "listen"));
    let endpoints = [("gateway-apns:7443", &*apns), ("gateway-fcm:7443", &*fcm)];
    let config = here(dir.path(), "coordinator.toml", &endpoints);
    let (process, _) = start(&words([
        &child_of,
        "coordinator",
        &format!("--config={}", config.display()),
        &format!("--data-dir={}", dir.path().join("data").display()),
        &format!("--listen={coordinator}"),
        "--health-listen=127.0.0.1:0",
        &format!("--feed-listen={feed}"),
        &format!("--nodes={}", shard_at["listen"].as_str().expect("an address")),
        "--announce",
    ]))
    .await;
    running.extend([shard, process]);

    // Twice, the second time as the README runs it over forwarded ports: the emulators forget their
    // earlier record, and the cluster accepts the same devices again.
    for (run, options) in [("small", " --devices 5000"), ("literal", "")] {
        let report = dir.path().join(run);
        let places = Places::new()
            .with("127.0.0.1:7400", &coordinator)
            .with("127.0.0.1:7690", &at(0, "control"))
            .with("127.0.0.1:7691", &at(1, "control"))
            .with("target/k8s", &report.display());
        let command = places.command("cargo run --release -- run city --cluster");
        let city = by_hand(&(command + options), None, dir.path()).await;
        let text = String::from_utf8_lossy(&[city.stdout, city.stderr].concat()).into_owned();
        assert!(city.status.success(), "{run}: {text}");
        let report: Value =
            serde_json::from_slice(&fs::read(report.join("report.json")).expect("a report"))
                .expect("JSON");
        assert_eq!((&report["passed"], &report["nodes"]), (&json!(true), &json!(1)));
        assert_eq!(report["cluster"], format!("http://{coordinator}"));
        assert!(report["accepted"].as_u64().is_some_and(|n| n > 500), "{report}");
        assert_eq!(
            report["cpu_us_per_push"]["shard"],
            Value::Null,
            "of another's processes nothing is known"
        );
    }
    let (ready, _) = probe(&shard_at["health"], "clarion.shard.v1.ShardService").await;
    assert!(ready, "its partitions are loaded");
}
