//! The whole shard process beside `h2load`: `loadgen run` and `h2load` in turn, in one session,
//! against emulators with the same settings. The result is the median of the ratios of each pair.
//!
//! A run's CPU of the shard is user and system time of its processes over the wave, per accepted
//! push, including the control plane, the walk and the reports. `h2load` pushes to APNs in all
//! three cases: it is the reference, not a client of FCM.

use std::{fs, io, path::Path, path::PathBuf, process::Command, time::Duration};

use clap::Args;
use clarion_benches::case::Case;

use crate::{
    client::Kind,
    servers::{Ask, Server},
    table::{Block, Row, median, one_run},
};

/// Arguments of the pairs.
#[derive(Debug, Args)]
pub(crate) struct Pairs {
    /// The program `loadgen`, built for release [default: where cargo puts it]
    #[arg(long)]
    loadgen: Option<PathBuf>,
    /// Pairs of each case
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Devices of a run, all of them in the region
    #[arg(long, default_value_t = 300_000)]
    devices: u64,
    #[arg(long = "case", value_delimiter = ',', default_value = "apns-indexed,apns-literal,fcm")]
    cases: Vec<Case>,
    /// Number of `h2load`'s connections
    #[arg(long, default_value_t = 4)]
    connections: usize,
}

/// Result of one run of the cluster.
struct Run {
    shard_us: f64,
    rate: f64,
}

/// Runs all pairs and prints the table.
pub(crate) fn run(pairs: &Pairs) -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    println!("| case | shard, CPU us/push | h2load, CPU us/push | ratio | pushes/s |");
    println!("|---|---:|---:|---:|---:|");
    for &case in &pairs.cases {
        let (mut shards, mut yards, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..pairs.runs {
            let at = directory.path().join(format!("{}-{n}", case.name()));
            fs::create_dir_all(&at)?;
            let run = cluster(pairs, case, &at)?;
            let yard = yardstick(pairs, &at)?;
            shards.push(run.shard_us);
            yards.push(yard);
            rates.push(run.rate);
        }
        let ratio = median(shards.iter().zip(&yards).map(|(shard, yard)| shard / yard));
        println!(
            "| {} | {:.2} | {:.2} | {ratio:.3} (1/{:.1}) | {:.0} |",
            case.name(),
            median(shards.into_iter()),
            median(yards.into_iter()),
            1.0 / ratio,
            median(rates.into_iter()),
        );
    }
    Ok(())
}

/// Runs a scenario of one platform in one place with loadgen, in processes of its own.
fn cluster(pairs: &Pairs, case: Case, directory: &Path) -> io::Result<Run> {
    let platform = if case == Case::Fcm { "fcm" } else { "apns" };
    let scenario = directory.join("pair.toml");
    fs::write(&scenario, text(pairs, case, platform))?;
    let log = fs::File::create(directory.join("loadgen.log"))?;
    // This benchmark is in `target/release/deps`.
    let built = std::env::current_exe()?
        .parent()
        .and_then(Path::parent)
        .map(|release| release.join("loadgen"));
    let loadgen = pairs.loadgen.clone().or(built).unwrap_or_else(|| "loadgen".into());
    let status = Command::new(&loadgen)
        .arg("run")
        .arg(&scenario)
        .arg(format!("--report={}", directory.display()))
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", loadgen.display())))?;
    if !status.success() {
        let said = fs::read_to_string(directory.join("loadgen.log"))?;
        return Err(io::Error::other(format!("loadgen ended with {status}:\n{said}")));
    }
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.join("report.json"))?)?;
    let number = |value: &serde_json::Value| {
        value.as_f64().ok_or_else(|| io::Error::other("not in report.json"))
    };
    Ok(Run {
        shard_us: number(&report["cpu_us_per_push"]["shard"])?,
        rate: number(&report["rate_per_second"])?,
    })
}

fn text(pairs: &Pairs, case: Case, platform: &str) -> String {
    let place = "{ latitude = 22.543, longitude = 114.058 }";
    format!(
        r#"name = "pair"
description = "Everybody within 100 km has one kind of phone."
seed = 20151015
devices = {devices}
nodes = 1
[population]
apps = [{{ name = "guardian", platform = "{platform}" }}]
[[population.areas]]
kind = "disc"
share = 1.0
center = {place}
radius_meters = 100_000
[alert.region]
kind = "circle"
center = {place}
radius_meters = 120_000
[gateway]
authorization_literal = {literal}
[expect]
missed = 0
outside = 0
duplicates = 0
unknown = 0
state = "RESOLVED"
"#,
        devices = pairs.devices,
        literal = case == Case::ApnsLiteral,
    )
}

/// Measures `h2load`'s cost of one push to the emulator of APNs.
fn yardstick(pairs: &Pairs, directory: &Path) -> io::Result<f64> {
    let ask = Ask { server: Server::Emulator, tls: true, streams: 1_000, delay: Duration::ZERO };
    let block = Block { ask, connections: pairs.connections, body_bytes: 250 };
    let row = Row { kind: Kind::H2load, literal: false };
    one_run(None, &block, row, &directory.join("h2load")).map(|cost| cost.cpu_us)
}
