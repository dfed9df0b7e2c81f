//! Cost of an answer of the emulator: CPU of its worker thread per answer, over TLS, with a near
//! client at its best.
//!
//! The emulator serves from one thread of this process, exactly as it does in its own. The client,
//! on the other core, sends requests that were encoded beforehand and only counts the answers. The
//! CPU time is that of the worker thread alone, including the kernel's part, as the scheduler
//! counts it in nanoseconds (`/proc/self/task/…/schedstat`). Every acceptance is in the record; the
//! totals are compared at the end of each run.
//!
//! ```text
//! cargo bench -p clarion-benches --bench emulator [-- apns|fcm]
//! ```

#![allow(clippy::disallowed_methods, reason = "a bench has clocks and sockets of its own")]

mod client;
mod credentials;

use std::{
    fs, io,
    time::{Duration, Instant},
};

use clarion_emulator::{Faults, Gateway, GatewayConfig, GatewayHandle, Platform, faults::Latency};

use self::client::{Client, Requests};

/// Number of answers of one run; the first tenth is a warm-up that does not count.
const ANSWERS: u64 = 1_000_000;
/// Number of runs of each case, of which the median and the spread are printed.
const RUNS: usize = 5;

struct Case {
    platform: Platform,
    connections: usize,
    /// Requests in flight on each connection.
    streams: usize,
    /// Latency of a distant gateway, as in the scenarios, so that answers wait in line.
    latency: Latency,
}

fn main() -> io::Result<()> {
    let asked: Vec<_> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let near = Latency::default();
    let far = Latency { p50_us: 10_000, p99_us: 20_000 };
    let case =
        |platform, connections, streams, latency| Case { platform, connections, streams, latency };
    let cases = [
        case(Platform::Apns, 1, 1_000, near),
        case(Platform::Apns, 4, 1_000, near),
        case(Platform::Apns, 4, 10_000, far),
        case(Platform::Fcm, 1, 1_000, near),
        case(Platform::Fcm, 10, 100, near),
        case(Platform::Fcm, 4, 10_000, far),
    ];
    println!(
        "| gateway | connections × streams | latency | CPU µs per answer (spread) | answers/s/core | answers/s |"
    );
    println!("|---|---|---|---|---|---|");
    for case in
        cases.iter().filter(|c| asked.is_empty() || asked.iter().any(|a| a == c.platform.as_str()))
    {
        let mut runs = (0..RUNS).map(|_| case.run()).collect::<io::Result<Vec<_>>>()?;
        runs.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
        let middle = &runs[RUNS / 2];
        println!(
            "| {} | {} × {} | {} ms | {:.3} ({:.3} to {:.3}) | {:.0} | {:.0} |",
            case.platform.as_str(),
            case.connections,
            case.streams,
            case.latency.p50_us / 1_000,
            middle.cpu_us,
            runs[0].cpu_us,
            runs[RUNS - 1].cpu_us,
            1e6 / middle.cpu_us,
            middle.per_second,
        );
    }
    Ok(())
}

struct Run {
    cpu_us: f64,
    per_second: f64,
}

impl Case {
    #[allow(clippy::cast_precision_loss, reason = "counts of a million")]
    fn run(&self) -> io::Result<Run> {
        let (config, credential) = credentials::configuration(self.platform);
        let streams_max = u32::try_from(self.streams).ok();
        let config = GatewayConfig {
            threads: 1,
            streams_max,
            // More than all requests in flight: 10,000 with 250 bytes of body.
            connection_window: 16 << 20,
            faults: Faults { latency: self.latency, ..Faults::default() },
            ..config
        };
        let gateway = Gateway::start(config)?;
        let authorization = credential.obtain(&gateway)?;
        let requests = Requests::encode(self.platform, &authorization);
        let mut clients = (0..self.connections)
            .map(|_| Client::connect(gateway.addr(), gateway.ca_pem(), &requests))
            .collect::<io::Result<Vec<_>>>()?;
        let thread = worker_thread()?;
        let mut answered = 0;
        let mut begun: Option<(Instant, Duration, u64)> = None;
        while answered < ANSWERS {
            if begun.is_none() && answered >= ANSWERS / 10 {
                begun = Some((Instant::now(), cpu(&thread)?, answered));
            }
            for client in &mut clients {
                client.send(self.streams)?;
            }
            for client in &mut clients {
                answered += client.receive()?;
            }
        }
        let (since, used, before) = begun.expect("a tenth comes before the end");
        let (wall, used) = (since.elapsed(), cpu(&thread)?.saturating_sub(used));
        let counted = (answered - before) as f64;
        for client in &mut clients {
            answered += client.drain()?;
        }
        check(&gateway, answered + self.connections as u64)?;
        Ok(Run {
            cpu_us: used.as_secs_f64() * 1e6 / counted,
            per_second: counted / wall.as_secs_f64(),
        })
    }
}

/// Checks that every answer was an acceptance and is in the record.
fn check(gateway: &GatewayHandle, expected: u64) -> io::Result<()> {
    let stats = gateway.stats();
    if (stats.accepted, stats.dropped) == (expected, 0) {
        return Ok(());
    }
    Err(io::Error::other(format!("{expected} answers, and the gateway says: {stats:?}")))
}

/// Returns the directory of the emulator's worker in `/proc`.
fn worker_thread() -> io::Result<std::path::PathBuf> {
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        // The threads of a run have ended when the next one begins, because dropping a gateway
        // joins them.
        if fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "gateway-0") {
            return Ok(path);
        }
    }
    Err(io::Error::other("no thread is called gateway-0"))
}

fn cpu(thread: &std::path::Path) -> io::Result<Duration> {
    let text = fs::read_to_string(thread.join("schedstat"))?;
    let first = text.split_whitespace().next().and_then(|n| n.parse().ok());
    first.map(Duration::from_nanos).ok_or_else(|| io::Error::other("schedstat has no number"))
}
