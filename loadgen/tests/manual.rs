//! The manual, followed literally: "A cluster by hand" with its files and its commands, from `cargo
//! build` on, then the programs of "Your first alert", as a reader would copy them.
//!
//! Only places differ, so that tests run side by side: the ports, the folder for files, and the
//! target directory, which is the one that this test was built in. The build line is executed as it
//! stands: a release build takes minutes the first time, and whoever runs a scenario needs the same
//! one.

#[macro_use]
mod foreign;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use clap::Parser as _;
use clarion_coordinator::config::{Args, Config};
use clarion_loadgen::cluster::ports::{self, Port};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use foreign::{Node, Python, output};

/// The manual's folder for the reader's files.
const FOLDER: &str = "target/hand";
/// The manual's folder of built programs.
const PROGRAMS: &str = "target/release";
/// Time limit for the build, the packages for Python and Node, the cluster and its alert, on a busy
/// machine with two processors where nothing was built or installed before.
const DEADLINE: Duration = Duration::from_secs(1_800);
/// The manual's ports: API, coordinator's health and feeds, node and its health, emulator and its
/// control port.
const PORTS: [&str; 7] = ["7400", "7401", "7402", "7500", "7501", "2197", "2190"];
/// Shell command that reads the emulator's counts. The manual uses `nc`, which not every machine
/// has.
const STATS: &str = "exec 3<>/dev/tcp/127.0.0.1/2190; echo '{\"stats\":true}' >&3; head -n 1 <&3";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// Returns the target directory of this test's cargo, in which each profile has a folder of
/// programs.
fn target() -> &'static Path {
    let profile = Path::new(env!("CARGO_BIN_EXE_loadgen")).parent();
    profile.and_then(Path::parent).expect("the target directory")
}

/// The manual's text with the paths and ports of this test.
struct Manual {
    text: String,
    dir: TempDir,
    replaced: Vec<(&'static str, String)>,
    /// Ports that stay claimed during the test.
    _ports: Vec<Port>,
}

impl Manual {
    fn read() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let ports = ports::claim(PORTS.len()).expect("ports");
        let numbers = ports.iter().map(|port| port.number().to_string());
        let mut replaced: Vec<_> = PORTS.into_iter().zip(numbers).collect();
        replaced.push((FOLDER, dir.path().display().to_string()));
        replaced.push((PROGRAMS, target().join("release").display().to_string()));
        let text = fs::read_to_string(root().join("README.md")).expect("the manual");
        Self { text, dir, replaced, _ports: ports }
    }

    fn here(&self, text: &str) -> String {
        self.replaced
            .iter()
            .fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
    }

    /// Returns the only block of code with these words, with this test's paths and ports.
    fn block(&self, words: &str) -> String {
        let mut blocks =
            self.text.split("```").skip(1).step_by(2).filter(|block| block.contains(words));
        let block = blocks.next().unwrap_or_else(|| panic!("no block with {words}"));
        assert!(blocks.next().is_none(), "one block has {words}");
        // The first line is the language.
        self.here(block.split_once('\n').expect("lines").1)
    }

    /// Writes a file of the manual; its first line is the file's name.
    fn write(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, self.block(&format!("# {FOLDER}/{name}"))).expect("written");
        path
    }
}

#[tokio::test]
async fn the_cluster_by_hand_and_the_first_alert() {
    let python = or_skip!(Python::installed().await);
    let manual = Manual::read();
    manual.write("gateway.toml");
    manual.write("coordinator.toml");
    let first = manual.dir.path().join("first.py");
    fs::write(&first, manual.block("import grpc")).expect("written");

    let hand = manual.block("loadgen keys --directory");
    assert!(hand.starts_with("cargo build --release\n"), "it begins with the build: {hand}");
    let end = "kill %1 %2 %3";
    assert!(manual.text.contains(&format!("`{end}`")));

    let mut script = format!("{hand}\n'{}' '{}'\n", python.path().display(), first.display());
    match Node::installed().await {
        Ok(node) => script += &buf(&manual, &node),
        Err(why) => foreign::skip(&why),
    }
    script += &format!("{}\n{end}\nwait\n", manual.here(STATS));
    let told = by_hand(&script).await;
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{out}\n{err}");

    assert!(out.contains("SERVING") && out.contains("written 200 []"), "{out}\n{err}");
    assert!(out.contains("STATE_RESOLVED accepted: 200"), "{out}\n{err}");
    let stats = out
        .lines()
        .rev()
        .find(|line| line.starts_with("{\"stats\""))
        .expect("the emulator's count");
    let stats: Value = serde_json::from_str(stats).expect("JSON");
    assert!(stats["stats"]["accepted"].as_u64().is_some_and(|n| n >= 200), "{stats}");
}

/// Runs lines of the manual in a shell. All processes that they start end with this test, even if
/// it is killed.
async fn by_hand(lines: &str) -> Output {
    // The other end of standard input belongs to this test, and is closed with it.
    let script =
        format!("set -e\n(cat >/dev/null 2>&1; kill 0) >/dev/null 2>&1 <&0 &\ndisown\n{lines}");
    let mut child = Command::new("bash")
        .args(["-c", &script])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target())
        .env("CLARION_LOG", "warn")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("bash starts");
    let _until_the_end = child.stdin.take();
    timeout(DEADLINE, child.wait_with_output()).await.expect("it ends in time").expect("its output")
}

/// Returns the two calls by `buf curl`, with the name that the first one returns in the second,
/// where the manual has a placeholder.
fn buf(manual: &Manual, node: &Node) -> String {
    let calls = manual.block("AlertService/CancelAlert").replace("alerts/…", "'$name'");
    let cancel = calls.rfind("buf curl").expect("two calls");
    let (create, cancel) = calls.split_at(cancel);
    let buf = node.binary_path("buf");
    let home = manual.dir.path().display();
    // buf keeps a cache in the home folder.
    format!(
        "buf() {{ HOME='{home}' '{}' \"$@\"; }}\ncreated=$(\n{create})\n\
         name=$(grep -o 'alerts/[A-Za-z0-9_-]*' <<<\"$created\" | head -n 1)\n{cancel}\n",
        buf.display()
    )
}

#[tokio::test]
async fn the_gateways_of_the_providers_are_well_configured() {
    let manual = Manual::read();
    let keys = output(
        Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["keys", "--directory"])
            .arg(manual.dir.path()),
    )
    .await;
    assert!(keys.status.success());
    let mut text = manual.block("endpoint = \"fcm.googleapis.com:443\"");
    // Keys of the right kinds, in place of those that only their owners have.
    for (theirs, ours) in [
        ("AuthKey_ABC123DEFG.p8", "provider-key.p8"),
        ("service-account.json", "service-account.json"),
    ] {
        assert!(text.contains(theirs));
        text = text.replace(theirs, &manual.dir.path().join(ours).display().to_string());
    }
    let path = manual.dir.path().join("coordinator.toml");
    fs::write(&path, text).expect("written");
    let args = [OsString::from("coordinator"), "--config".into(), path.into()];
    let config = Config::load(Args::parse_from(args)).expect("the coordinator takes it");
    assert_eq!((config.dispatch.gateways.len(), config.dispatch.credentials.len()), (2, 2));
}
