//! The manual, followed literally: every block of code of `README.md` and `k8s/README.md` that can
//! run on one machine, as a reader would copy it.
//!
//! The build lines are executed as they stand: a release build takes minutes the first time, and
//! whoever runs a scenario needs the same one. `manifests.rs` executes the blocks that need the
//! configuration of Kubernetes.

#[macro_use]
mod foreign;
mod pages;

use std::{ffi::OsString, fs, path::Path};

use clap::Parser as _;
use clarion_coordinator::config::{Args, Config};
use clarion_loadgen::cluster::ports;
use serde_json::Value;
use tokio::process::Command;

use foreign::{Node, Python, output};
use pages::{PAGES, Places, blocks, by_hand};

/// The manual's folder for the reader's files.
const FOLDER: &str = "target/hand";
/// The manual's ports: API, coordinator's health and feeds, node and its health, emulator and its
/// control port.
const PORTS: [&str; 7] = ["7400", "7401", "7402", "7500", "7501", "2197", "2190"];

/// Blocks that a test executes, each by some of its words.
const EXECUTED: [&str; 13] = [
    // In this file.
    "cargo run --release\n",
    "import grpc",
    "target/hand/first.py",
    "AlertService/CancelAlert",
    "# target/hand/gateway.toml",
    "# target/hand/coordinator.toml",
    "loadgen keys --directory target/hand",
    "coordinator backup --from",
    "loadgen stats 127.0.0.1:2190",
    "endpoint = \"fcm.googleapis.com:443\"",
    // In `manifests.rs`: the lines of these blocks that do not call a cluster.
    "keys --directory k8s/overlays/local/keys",
    "run city --cluster",
    // Executed by whoever runs this test.
    "cargo test --workspace\n",
];
/// Blocks for machines that a test does not have, with what they need.
const ELSEWHERE: [(&str, &str); 3] = [
    ("docker run", "docker, and the image that .ci/image builds"),
    ("kubectl exec shard-0 -- /shard probe", "a cluster of Kubernetes"),
    ("kubectl -n clarion-local delete pod shard-0", "a cluster of Kubernetes"),
];

#[test]
fn every_block_is_executed_or_needs_another_machine() {
    let mut unknown = Vec::new();
    for (page, block) in
        PAGES.iter().flat_map(|page| blocks(page).into_iter().map(move |b| (page, b)))
    {
        let words = EXECUTED.into_iter().chain(ELSEWHERE.into_iter().map(|(words, _)| words));
        if words.filter(|words| block.contains(words)).count() != 1 {
            unknown.push(format!("{page}: {block}"));
        }
    }
    assert!(unknown.is_empty(), "in none or several of the lists: {unknown:#?}");
}

#[tokio::test]
async fn the_first_command() {
    let run = Places::new().block("cargo run --release\n");
    let home = tempfile::tempdir().expect("a folder");
    let told = by_hand(&run, None, home.path()).await;
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success() && out.contains("PASSED"), "{out}\n{err}");
}

/// Writes a file of the manual; a comment in its first line has the file's name.
fn write(places: &Places, dir: &Path, name: &str) {
    fs::write(dir.join(name), places.block(&format!("# {FOLDER}/{name}"))).expect("written");
}

#[tokio::test]
async fn the_cluster_by_hand_and_the_first_alert() {
    // Tells whether there is Python with venv, and a registry of packages.
    or_skip!(Python::installed().await);
    let dir = tempfile::tempdir().expect("a folder");
    let claimed = ports::claim(PORTS.len()).expect("ports");
    let places = PORTS.into_iter().zip(&claimed);
    let places = places.fold(Places::new(), |all, (theirs, ours)| all.with(theirs, &ours.number()));
    let places = places.with(FOLDER, &dir.path().display());
    let device_key = dir.path().join("clarion-data/device.key");
    let places = places.with("clarion-data/device.key", &device_key.display());
    // The names of blocks are those of the manual, so the files are read before places change.
    for name in ["gateway.toml", "coordinator.toml"] {
        write(&places, dir.path(), name);
    }
    fs::write(dir.path().join("first.py"), places.block("import grpc")).expect("written");

    let mut script = places.block("loadgen keys --directory target/hand");
    assert!(script.starts_with("cargo build --release\n"), "it begins with the build: {script}");
    script += &places.block("target/hand/first.py");
    let node = Node::installed().await;
    match &node {
        Ok(_) => script += &places.block("AlertService/CancelAlert"),
        Err(why) => foreign::skip(why),
    }
    script += &places.block("coordinator backup --from");
    script += &places.block("loadgen stats 127.0.0.1:2190");
    script += "wait\n";
    let programs = node.ok().map(|node| node.binary_path(""));
    let told = by_hand(&script, programs.as_deref(), dir.path()).await;
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{out}\n{err}");

    assert!(out.contains("SERVING") && out.contains("written 200 []"), "{out}\n{err}");
    assert!(out.contains("STATE_RESOLVED accepted: 200"), "{out}\n{err}");
    assert!(out.contains("is whole: ") && out.contains("restored backup "), "{out}\n{err}");
    let stats = out.lines().rev().find(|line| line.starts_with('{')).expect("the emulator's count");
    let stats: Value = serde_json::from_str(stats).expect("JSON");
    assert!(stats["accepted"].as_u64().is_some_and(|n| n >= 200), "{stats}");
}

#[tokio::test]
async fn the_gateways_of_the_providers_are_well_configured() {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = output(
        Command::new(env!("CARGO_BIN_EXE_loadgen")).args(["keys", "--directory"]).arg(dir.path()),
    )
    .await;
    assert!(keys.status.success());
    let mut text = Places::new().block("endpoint = \"fcm.googleapis.com:443\"");
    // Keys of the right kinds, in place of those that only their owners have.
    for (theirs, ours) in [
        ("AuthKey_ABC123DEFG.p8", "provider-key.p8"),
        ("service-account.json", "service-account.json"),
    ] {
        assert!(text.contains(theirs));
        text = text.replace(theirs, &dir.path().join(ours).display().to_string());
    }
    let path = dir.path().join("coordinator.toml");
    fs::write(&path, text).expect("written");
    let args = [OsString::from("coordinator"), "--config".into(), path.into()];
    let config = Config::load(Args::parse_from(args)).expect("the coordinator takes it");
    assert_eq!((config.dispatch.gateways.len(), config.dispatch.credentials.len()), (2, 2));
}
