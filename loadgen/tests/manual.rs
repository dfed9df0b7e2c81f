//! The manual, done literally: "A cluster by hand" with its files and its commands, from `cargo
//! build` on, then the programs of "Your first alert", as somebody who copies them would.
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

/// The manual's folder for files of one's own.
const FOLDER: &str = "target/hand";
/// The manual's folder of the programs that its build line makes.
const PROGRAMS: &str = "target/release";
/// The build, the packages for Python and Node, the cluster and its alert: on a busy machine with
/// two processors, where nothing was built or installed before.
const DEADLINE: Duration = Duration::from_secs(1_800);
/// The manual's ports: of the API, of the coordinator's health and feeds, of the node and its
/// health, of the emulator and its orders.
const PORTS: [&str; 7] = ["7400", "7401", "7402", "7500", "7501", "2197", "2190"];
/// What reads the emulator's own count. The manual has `nc` for it, which not every machine has.
const STATS: &str = "exec 3<>/dev/tcp/127.0.0.1/2190; echo '{\"stats\":true}' >&3; head -n 1 <&3";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// The target directory of this test's cargo: programs are in a folder for each profile there.
fn target() -> &'static Path {
    let profile = Path::new(env!("CARGO_BIN_EXE_loadgen")).parent();
    profile.and_then(Path::parent).expect("the target directory")
}

/// The manual's text with places of this test's own.
struct Manual {
    text: String,
    dir: TempDir,
    replaced: Vec<(&'static str, String)>,
    /// Claimed for as long as this is.
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

    /// The one block of code with these words, in this test's places.
    fn block(&self, words: &str) -> String {
        let mut blocks =
            self.text.split("```").skip(1).step_by(2).filter(|block| block.contains(words));
        let block = blocks.next().unwrap_or_else(|| panic!("no block with {words}"));
        assert!(blocks.next().is_none(), "one block has {words}");
        // The first line is the language.
        self.here(block.split_once('\n').expect("lines").1)
    }

    /// A file that the manual tells to write; its first line says which.
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

/// Runs lines of the manual in a shell. Whatever they started ends with this test, even if that is
/// killed.
async fn by_hand(lines: &str) -> Output {
    // The other end of standard input is this test's: it closes with it.
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

/// The two calls by `buf curl`: the name that the first answers stands in the second where the
/// manual has none.
fn buf(manual: &Manual, node: &Node) -> String {
    let calls = manual.block("AlertService/CancelAlert").replace("alerts/…", "'$name'");
    let cancel = calls.rfind("buf curl").expect("two calls");
    let (create, cancel) = calls.split_at(cancel);
    let buf = node.binary_path("buf");
    let home = manual.dir.path().display();
    // It keeps a cache in the home folder.
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
    // Keys of the right kinds, instead of those that only their owner has.
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
