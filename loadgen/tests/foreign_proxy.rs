//! A cluster behind real HTTP proxies, tinyproxy and squid, and without key files of Google. What
//! is judged is the program's own verdict; the proxies' logs show that the traffic went through
//! them.
//!
//! A machine without these programs says so in one loud line and passes.

#![allow(clippy::disallowed_methods, reason = "proxies are processes with clocks of their own")]

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Time limit for the start of a proxy.
const PATIENCE: Duration = Duration::from_secs(30);
const USER: &str = "clarion";
const PASSWORD: &str = "open-sesame";

/// A running proxy, which is killed when it is dropped.
struct Proxy {
    child: Child,
    port: u16,
    log: PathBuf,
    dir: TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts tinyproxy, which demands a user and a password.
    fn tinyproxy() -> Option<Self> {
        Self::start("tinyproxy", |dir, port| {
            let log = dir.join("log");
            let config = format!(
                "Port {port}\nListen 127.0.0.1\nTimeout 600\nLogFile \"{}\"\nLogLevel Connect\n\
                 MaxClients 100\nAllow 127.0.0.1\nBasicAuth {USER} {PASSWORD}\n",
                log.display()
            );
            fs::write(dir.join("conf"), config).expect("written");
            let mut command = Command::new("tinyproxy");
            command.args(["-d", "-c"]).arg(dir.join("conf"));
            (command, log)
        })
    }

    /// Starts squid, with or without a rule that allows tunnels.
    fn squid(allows: bool) -> Option<Self> {
        Self::start("squid", |dir, port| {
            let log = dir.join("access.log");
            let rule = if allows { "http_access allow localhost\n" } else { "" };
            let shown = dir.display();
            let config = format!(
                "http_port 127.0.0.1:{port}\n{rule}http_access deny all\ncache deny all\n\
                 pid_filename {shown}/pid\naccess_log stdio:{shown}/access.log\n\
                 cache_log {shown}/cache.log\ncoredump_dir {shown}\nshutdown_lifetime 0 seconds\n\
                 buffered_logs off\npinger_enable off\nnetdb_filename none\n"
            );
            fs::write(dir.join("conf"), config).expect("written");
            // Started by root, squid becomes another user, who writes the logs.
            fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o777))
                .expect("its own folder");
            let mut command = Command::new("squid");
            command.args(["-N", "-f"]).arg(dir.join("conf"));
            (command, log)
        })
    }

    fn start(name: &str, prepare: impl FnOnce(&Path, u16) -> (Command, PathBuf)) -> Option<Self> {
        let found = Command::new(name).arg("-v").output();
        if !found.is_ok_and(|output| output.status.success()) {
            skip(&format!("{name} is not installed: no cluster behind it was tried"));
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let (mut command, log) = prepare(dir.path(), port);
        let output = fs::File::create(dir.path().join("output")).expect("a file");
        let errors = output.try_clone().expect("a handle");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let mut proxy = Self { child: child.expect("it starts"), port, log, dir };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = proxy.child.try_wait().expect("its state");
            let output = || fs::read_to_string(proxy.dir.path().join("output")).unwrap_or_default();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{name}: {}", output());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(proxy)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Prints that a test is skipped, past the capture of the test harness.
fn skip(what: &str) {
    let line = format!("!!! SKIPPED: {what}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).expect("standard error is there");
}

/// A run of `city`, and its folder.
fn city(more: &[&str]) -> (Output, TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["run", "city", "--devices", "5000", "--nodes", "2"])
        .args(more)
        .arg("--report")
        .arg(dir.path())
        .output()
        .expect("loadgen starts");
    (output, dir)
}

/// Runs `city`, which must pass; the gateways have accepted every push.
fn passes(more: &[&str]) -> TempDir {
    let (output, dir) = city(more);
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    let log = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    let logs = [log("coordinator.log"), log("shard-1.log"), log("shard-0.log")].concat();
    assert_eq!(output.status.code(), Some(0), "{text}\n{logs}");
    assert!(!logs.contains(PASSWORD) && !text.contains(PASSWORD), "a log shows the password");
    let report = fs::read_to_string(dir.path().join("report.json")).expect("a report");
    assert!(!report.contains(PASSWORD), "the report shows the password");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    for platform in ["apns", "fcm"] {
        assert!(report["platforms"][platform]["accepted"].as_u64() > Some(0), "{report}");
    }
    dir
}

#[test]
fn city_through_tinyproxy_with_a_password() {
    let Some(proxy) = Proxy::tinyproxy() else { return };
    let url = format!("http://{USER}:{PASSWORD}@127.0.0.1:{}", proxy.port);
    passes(&["--proxy", &url]);
    // Each of two nodes to each of two gateways, and the coordinator to the token endpoint.
    let log = proxy.log();
    assert!(log.matches("CONNECT 127.0.0.1:").count() >= 5, "{log}");
}

#[test]
fn city_through_squid_with_workload_identity() {
    let Some(proxy) = Proxy::squid(true) else { return };
    let url = format!("http://127.0.0.1:{}", proxy.port);
    passes(&["--proxy", &url, "--credentials", "workload-identity"]);
    // Squid writes the line of a tunnel when the tunnel ends. The exchange and the impersonation
    // have a tunnel each.
    let log = proxy.log();
    assert!(log.matches("TCP_TUNNEL/200").count() >= 6, "{log}");
}

#[test]
fn city_with_the_metadata_server() {
    passes(&["--credentials", "metadata"]);
}

#[test]
fn a_proxy_that_refuses_is_a_trouble_that_names_it() {
    let Some(proxy) = Proxy::squid(false) else { return };
    let url = format!("http://127.0.0.1:{}", proxy.port);
    refuses(&url, &format!("proxy 127.0.0.1:{} answered 403 Forbidden", proxy.port));
    let Some(proxy) = Proxy::tinyproxy() else { return };
    let url = format!("http://{USER}:wrong@127.0.0.1:{}", proxy.port);
    let words = "the proxy refuses the credentials; check user and password";
    refuses(&url, words);
}

/// A run must end with an error, and the logs of nodes and coordinator have these words.
fn refuses(proxy: &str, words: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["run", "city", "--devices", "2000", "--nodes", "1", "--proxy", proxy, "--report"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("loadgen starts");
    let begun = Instant::now();
    loop {
        let log = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        let (node, coordinator) = (log("shard-0.log"), log("coordinator.log"));
        if node.contains(words) && coordinator.contains(words) {
            break;
        }
        let wrong = begun.elapsed() > 2 * PATIENCE;
        assert!(!wrong, "{words:?} was never logged:\n{node}\n{coordinator}");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Its children end with it.
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
