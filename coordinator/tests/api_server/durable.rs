//! The program with a data folder: what is there after a kill, and what it refuses to start with.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use clarion_proto::wire::v1::{self as wire, app_service_client::AppServiceClient};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tonic::transport::Channel;

use crate::support::{config_file, demo_app, soon};

/// A folder with a configuration, and a data folder that does not exist yet.
struct Stage {
    _directory: tempfile::TempDir,
    config: PathBuf,
    data: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (config, data) = (config_file(directory.path()), directory.path().join("data"));
        Self { _directory: directory, config, data }
    }

    fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        for port in ["--listen", "--health-listen", "--feed-listen"] {
            command.args([port, "127.0.0.1:0"]);
        }
        command.args(["--announce", "--nodes", "127.0.0.1:9"]);
        command.arg("--config").arg(&self.config).args(args);
        command.env_clear().env("CLARION_DATA_DIR", &self.data);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn start(&self) -> (Child, Channel) {
        let mut running = self.program(&[]).spawn().expect("started");
        let mut lines = BufReader::new(running.stdout.take().expect("piped")).lines();
        let line = soon(lines.next_line()).await.expect("readable").expect("announced");
        let announced: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let address = format!("http://{}", announced["listen"].as_str().expect("an address"));
        let endpoint = Channel::from_shared(address).expect("an address");
        (running, soon(endpoint.connect()).await.expect("it listens"))
    }

    /// The only line of a start that fails.
    async fn refused(&self, args: &[&str]) -> String {
        let mut program = self.program(args);
        let output = soon(program.output()).await.expect("ended");
        let said = String::from_utf8(output.stderr).expect("text");
        let last = said.lines().last().unwrap_or_default().to_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
        last
    }
}

async fn apps(channel: Channel) -> Vec<String> {
    let request = wire::ListAppsRequest::default();
    let listed = soon(AppServiceClient::new(channel).list_apps(request)).await.expect("listed");
    listed.into_inner().apps.into_iter().map(|app| app.name).collect()
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").permissions().mode() & 0o777
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_kill() {
    let stage = Stage::new();
    let (mut running, channel) = stage.start().await;
    soon(AppServiceClient::new(channel).create_app(demo_app())).await.expect("created");
    let key = std::fs::read(stage.data.join("device.key")).expect("made");
    assert_eq!((mode(&stage.data), mode(&stage.data.join("device.key"))), (0o700, 0o600));
    assert_eq!(mode(&stage.data.join("store.sqlite")) & 0o077, 0);
    running.kill().await.expect("killed");

    let (mut running, channel) = stage.start().await;
    assert_eq!(apps(channel).await, ["apps/demo"]);
    assert_eq!(std::fs::read(stage.data.join("device.key")).expect("kept"), key);
    running.kill().await.expect("killed");
}

#[tokio::test]
async fn a_second_process_is_refused_and_the_first_goes_on() {
    let stage = Stage::new();
    let (running, channel) = stage.start().await;
    soon(AppServiceClient::new(channel.clone()).create_app(demo_app())).await.expect("created");
    let (data, id) = (stage.data.display(), running.id().expect("it runs"));
    let words = format!(
        "error: data_dir: {data}: is used by process {id}; end that process, or name another \
         folder with --data-dir"
    );
    assert_eq!(stage.refused(&[]).await, words);
    // The same file under another data folder: the store itself is held.
    let (store, other) = (format!("sqlite:{data}/store.sqlite"), stage.data.with_extension("2"));
    let args = ["--store", store.as_str(), "--data-dir", other.to_str().expect("UTF-8")];
    let said = stage.refused(&args).await;
    assert!(said.starts_with("error: store: ") && said.contains("store.sqlite"), "{said}");
    assert_eq!(apps(channel).await, ["apps/demo"]);
}

#[tokio::test]
async fn a_store_that_was_made_for_something_else_is_refused_with_both_values() {
    let stage = Stage::new();
    let (mut running, _) = stage.start().await;
    running.kill().await.expect("killed");
    for (option, value, words) in [
        ("--partitions", "32", "partitions: the store was made for 64; got 32. "),
        ("--logs", "8", "logs: the store was made for 64; got 8. "),
        ("--cluster", "other", "cluster: the store was made for clarion; got other. "),
    ] {
        let said = stage.refused(&[option, value]).await;
        assert!(said.starts_with(&format!("error: store: {words}")), "{said}");
    }
    let key = stage.data.with_file_name("other.key");
    std::fs::write(&key, [7; 32]).expect("written");
    let said = stage.refused(&["--device-key-file", key.to_str().expect("UTF-8")]).await;
    assert!(said.starts_with("error: store: device_key: the store was made for "), "{said}");
    let (_running, channel) = stage.start().await;
    assert_eq!(apps(channel).await, [""; 0], "it is as it was");
}
