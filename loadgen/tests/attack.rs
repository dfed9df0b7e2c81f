//! An attacker that reaches a port does not harm other clients: real processes, every port, every
//! attack that HTTP/2 and TCP allow ([`nuisance`]), while a lane sends at the pace of its quota.
//!
//! Asserted: each process grows by at most 32 MiB while one of its ports is attacked, the lane
//! keeps its pace, a node that is restarted in the middle of it finds its way back, and whoever
//! asks for health is answered. Printed, not asserted: how long other callers wait (target: p99
//! within 200 ms), because the attackers share this machine's processors with them.
//!
//! The second test is about file descriptors: 80 idle connections at a limit of 64 stop no lane.

#[path = "attack/nuisance.rs"]
mod nuisance;
#[path = "attack/stage.rs"]
mod stage;

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use nuisance::Target;
use stage::{PATIENCE, Stage, rss};

/// Most memory by which an attack on one port may grow its process, bytes.
const GROWTH_BYTES_MAX: u64 = 32 << 20;
/// Quota of the FCM project, messages in any minute.
const QUOTA: u32 = 24_000;
/// Least share of its own pace that the lane keeps.
const PACE_KEPT: f64 = 0.9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_port_bears_every_nuisance_while_a_lane_keeps_its_pace() {
    nuisance::allow_many_sockets();
    let mut stage = Stage::set(2, 24_000, Some(QUOTA), None).await;
    let alert = stage.alert().await;
    stage.until_accepted(&alert, 400).await;
    let others = stage::Others::begin(stage.address("coordinator", "listen"));

    let mut grown = 0;
    let (begun, before) = (Instant::now(), stage.accepted(&alert).await);
    let mut report = Vec::new();
    for (process, port, target) in [
        ("coordinator", "listen", Target::API),
        ("coordinator", "feed", Target::FEED),
        ("coordinator", "health", Target::HEALTH),
        ("shard-0", "listen", Target::SESSION),
        ("shard-0", "health", Target::HEALTH),
    ] {
        let (address, pid) = (stage.address(process, port), stage.pid(process));
        let growth = stage::Growth::of(pid);
        let done = nuisance::attack(address, target, pid).await;
        let growth = growth.end().await;
        report.push(format!(
            "{process} {port}: +{:.1} MiB, {done}",
            growth as f64 / f64::from(1 << 20)
        ));
        println!("{}", report.last().expect("pushed"));
        grown = grown.max(growth);
        if port == "health" {
            stage::probe(address).await;
        }
    }
    let (took, sent) = (begun.elapsed(), stage.accepted(&alert).await - before);
    let pace = f64::from(QUOTA) / 60.0 * took.as_secs_f64();
    println!("lane: {sent} pushes in {took:.1?}, {:.1} % of its quota", 100.0 * sent as f64 / pace);
    println!("others: {}", others.end().await);
    assert!(grown <= GROWTH_BYTES_MAX, "{report:#?}");
    // A thirtieth of the quota is its margin.
    assert!(
        sent as f64 >= PACE_KEPT * pace * 29.0 / 30.0,
        "{sent} pushes in {took:?}, {report:#?}"
    );

    // All places that can be held are held; a node still comes back.
    let held = [
        nuisance::hold(stage.address("coordinator", "listen"), Target::API, 1_100).await,
        nuisance::hold(stage.address("coordinator", "feed"), Target::FEED, 1_200).await,
        nuisance::hold(stage.address("shard-0", "listen"), Target::SESSION, 200).await,
    ];
    let restarted = Instant::now();
    stage.restart("shard-1").await;
    stage.until_ready("shard-1").await;
    println!("node: ready {:.1?} after it was killed, beside {held:?} held", restarted.elapsed());
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_at_a_low_limit_of_descriptors_stop_no_lane() {
    nuisance::allow_many_sockets();
    let stage = Stage::set(1, 1_500, None, Some(64)).await;
    let mut held = Vec::new();
    for port in ["listen", "health"] {
        let address: SocketAddr = stage.address("shard-0", port);
        for _ in 0..80 {
            held.push(tokio::net::TcpStream::connect(address).await.expect("the system accepts"));
        }
    }
    let alert = stage.alert().await;
    stage.until_resolved(&alert).await;
    assert!(stage.accepted(&alert).await > 1_000);
    stage::probe(stage.address("shard-0", "health")).await;
    drop(held);
    stage.end();
}

/// Attacks the emulator's control port, which reads lines and not frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_port_of_an_emulator_bears_it_too() {
    nuisance::allow_many_sockets();
    let (emulator, address) = stage::emulator().await;
    let pid = emulator.id().expect("it runs");
    let before = rss(pid);
    let deadline = Instant::now() + Duration::from_secs(3);
    let lines = nuisance::lines(address, deadline).await;
    let growth = rss(pid).saturating_sub(before);
    println!(
        "emulator control: +{:.1} MiB, {lines} bytes of nonsense",
        growth as f64 / f64::from(1 << 20)
    );
    assert!(growth <= GROWTH_BYTES_MAX, "{growth}");
    let answer =
        tokio::time::timeout(PATIENCE, nuisance::order(address, r#"{"clock":true}"#)).await;
    assert!(answer.expect("in time").contains("monotonic_us"));
}
