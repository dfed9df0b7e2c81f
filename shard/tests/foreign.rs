//! Waves through servers that nobody here wrote, over TCP and TLS: none is missed, none is sent
//! twice. What each is here for: nginx closes a connection every 1,000 requests and guards against
//! rapid opening; nghttpd answers with bodies and padding; node's http2 changes its stream limit in
//! flight and refuses what is above it; python's h2 is strict.
//!
//! CI runs some thousands through each; with `CLARION_SOAK=1` (`just soak`) it is a million through
//! nginx and nghttpd.

use std::{collections::BTreeSet, fs};

use clarion_proto::outcome::Outcome;
use clarion_runtime::world::World;
use clarion_shard::driver;

mod foreign_support;
mod wave_support;

use foreign_support::{Answered, Foreign, Kind};
use wave_support::{Gateway, certificate, complete, prepare, shut_down};

/// How many in CI, and how many by `just soak`.
fn devices(ci: u32, soak: u32) -> u32 {
    if std::env::var_os("CLARION_SOAK").is_some() { soak } else { ci }
}

/// Sends the wave; what the server answered, if it is installed.
async fn wave_through(kind: Kind, devices: u32, connections: usize) -> Option<Vec<Answered>> {
    let dir = tempfile::tempdir().expect("a directory");
    let (made, roots) = certificate();
    fs::write(dir.path().join("cert.pem"), made.cert.pem()).expect("written");
    fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
    let server = Foreign::start(kind, dir.path())?;
    let gateway = Gateway { address: server.address, roots, connections, hosts: usize::MAX };
    let world = World::system();
    let clock = world.clock();
    let mut cores = driver::spawn(1, &world).expect("a thread");
    prepare(&cores, &gateway, devices, None).await;
    let begun = clock.now();
    let total = complete(&mut cores).await;
    let seconds = clock.now().since(begun).as_secs_f64();
    eprintln!(
        "{devices} pushes through {kind:?} in {seconds:.1} s: {:.0}/s",
        f64::from(devices) / seconds
    );
    assert_eq!(total.handed, u64::from(devices));
    assert_eq!(total.outcomes[Outcome::Accepted as usize], u64::from(devices));
    shut_down(cores).await;
    Some(server.stop())
}

/// Each of so many paths was answered once, with 200; the connections that it took.
fn all_once(answers: &[Answered], devices: u32) -> usize {
    let (mut once, mut connections) = (BTreeSet::new(), BTreeSet::new());
    for answer in answers {
        assert_eq!(answer.status, 200);
        assert!(once.insert(&answer.path), "twice: {}", answer.path);
        connections.insert(answer.connection);
    }
    assert_eq!(once.len(), devices as usize, "missed");
    connections.len()
}

#[tokio::test]
async fn nginx() {
    let devices = devices(100_000, 1_000_000);
    let Some(answers) = wave_through(Kind::Nginx { requests: 1_000 }, devices, 4).await else {
        return;
    };
    let connections = all_once(&answers, devices);
    assert!(connections >= devices as usize / 1_000, "nginx closes each after 1,000 requests");
}

#[tokio::test]
async fn nghttpd() {
    let devices = devices(50_000, 1_000_000);
    let Some(answers) = wave_through(Kind::Nghttpd, devices, 4).await else { return };
    all_once(&answers, devices);
}

#[tokio::test]
async fn node_that_shrinks_its_stream_limit() {
    let devices = devices(20_000, 100_000);
    let Some(answers) = wave_through(Kind::Node { shrink: true }, devices, 4).await else { return };
    all_once(&answers, devices);
}

#[tokio::test]
async fn python() {
    let devices = devices(5_000, 20_000);
    let Some(answers) = wave_through(Kind::Python, devices, 2).await else { return };
    all_once(&answers, devices);
}
