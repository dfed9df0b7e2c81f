//! Snapshots of partitions on a whole node: loaded, saved, damaged, and too late.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]
#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod support;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use clarion_proto::{
    device::{Cell, Change, Record, Registration, Token},
    ids::{AppName, ClusterName, DeviceId, UnixMillis, partition_of},
    wire::shard_v1::{
        self as wire, session_response::Message as Told, shard_service_server::SERVICE_NAME,
    },
};
use clarion_runtime::world::World;
use clarion_shard::{
    driver,
    node::{Node, NodeConfig, cores::CorePort},
};
use support::{
    Call, PARTITIONS, ScriptedFeed, Session,
    archive::{Archive, How, Kept, snapshot_of},
    channel, ownership, within,
};
use tokio::sync::oneshot;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// A node with real cores, and its coordinator.
struct Bench {
    feed: ScriptedFeed,
    session: Session,
    health: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Bench {
    async fn start() -> Self {
        let feed = ScriptedFeed::start().await;
        let config = NodeConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            health_listen: ([127, 0, 0, 1], 0).into(),
            cluster: ClusterName::default(),
            name: "node-1".to_owned(),
            coordinators: vec![feed.address.to_string()],
            cores: 2,
        };
        let world = World::system();
        let node = Node::bind(config, &world).await.unwrap();
        let (address, health) = (node.address(), node.health_address());
        let port = |core: driver::CoreHandle| CorePort {
            commands: Arc::new(core.commands),
            events: core.events,
        };
        let ports = driver::spawn(2, &world).unwrap().into_iter().map(port).collect();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        tokio::spawn(node.run(ports, stopped, Duration::from_secs(10)));
        let session = Session::open(address).await;
        Self { feed, session, health, _stop: stop }
    }

    fn archive(&self) -> &Archive {
        &self.feed.archive
    }

    /// The feed for exactly these partitions, whose logs have these heads.
    async fn followed(&mut self, partitions: &[u32], heads: &[(u32, u64)]) -> Call {
        loop {
            let call = self.feed.asked().await;
            call.start(heads).await;
            if call.request.partitions == partitions {
                return call;
            }
        }
    }

    async fn status(&self) -> ServingStatus {
        let mut health = HealthClient::new(channel(self.health).await);
        let request = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
        within("health", health.check(request)).await.unwrap().into_inner().status()
    }

    async fn ready(&self) {
        within("readiness", async {
            while self.status().await != ServingStatus::Serving {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// The node says that it has applied a log up to a position; the number of its devices then.
    async fn applied(&mut self, log: u32, position: u64) -> u64 {
        let told = |message| match message {
            Told::RegistryState(state) => {
                let there = |p: &wire::LogPosition| p.log == log && p.position == position;
                state.positions.iter().any(there).then_some(state.devices)
            }
            _ => None,
        };
        self.session.until("a position", told).await
    }
}

/// Arrivals of the first devices of a partition, from number to number.
fn arrivals(partition: u32, devices: std::ops::Range<usize>) -> Vec<wire::Record> {
    let cell = h3o::LatLng::new(22.54, 114.06).unwrap().to_cell(h3o::Resolution::Nine);
    let ids = (0_u32..).map(|n| {
        let mut id = [1; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        DeviceId(id)
    });
    let mine = ids.filter(|id| u32::from(partition_of(*id, PARTITIONS).0) == partition);
    let record = |device: DeviceId| {
        let registration = Registration {
            app: AppName::from_id("demo").unwrap(),
            token: Token::new(vec![device.0[3]; 32].into()).unwrap(),
            locale: String::new(),
            segments: Vec::new(),
            person: String::new(),
        };
        let change = Change::Arrival(registration, Cell::from(cell));
        Record { device, observed: UnixMillis(1), change }.to_wire()
    };
    mine.skip(devices.start).take(devices.len()).map(record).collect()
}

fn batch(log: u32, position: u64, records: Vec<wire::Record>) -> wire::FeedResponse {
    wire::FeedResponse { log, position, append_time_ms: 1, records, ..Default::default() }
}

async fn until(what: &str, happened: impl Fn() -> bool) {
    within(what, async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_loads_the_newest_snapshot_and_follows_the_log_from_there() {
    let mut bench = Bench::start().await;
    let batches: Vec<_> = (0..4).map(|n| arrivals(3, n * 500..(n + 1) * 500)).collect();
    bench.archive().keep(snapshot_of(3, &batches[..1]));
    bench.archive().keep(snapshot_of(3, &batches[..3]));
    bench.session.say(ownership(1, &[3, 5])).await;
    let call = bench.followed(&[3, 5], &[(3, 4), (5, 0)]).await;
    assert_eq!(call.positions(), [(3, 3), (5, 0)]);
    assert_eq!(bench.archive().loads(), [(3, 3)]);
    call.send(batch(3, 4, batches[3].clone())).await;
    assert_eq!(bench.applied(3, 4).await, 2_000);
    bench.ready().await;
}

#[tokio::test]
async fn a_node_built_from_a_snapshot_is_the_same_as_one_that_read_the_whole_log() {
    let batches: Vec<_> = (0..4).map(|n| arrivals(3, n * 300..(n + 1) * 300)).collect();
    let mut saved = Vec::new();
    for from in [0, 1, 3] {
        let mut bench = Bench::start().await;
        if from > 0 {
            bench.archive().keep(snapshot_of(3, &batches[..from]));
        }
        bench.session.say(ownership(1, &[3])).await;
        let call = bench.followed(&[3], &[(3, 4)]).await;
        assert_eq!(call.positions(), [(3, from as u64)]);
        for (n, records) in batches.iter().enumerate().skip(from) {
            call.send(batch(3, n as u64 + 1, records.clone())).await;
        }
        bench.applied(3, 4).await;
        bench.archive().want_every(500);
        // The next list brings the policy: a gained partition asks for one.
        bench.session.say(ownership(2, &[3, 5])).await;
        let _call = bench.followed(&[3, 5], &[(3, 4), (5, 0)]).await;
        let archive = bench.archive().clone();
        until("a save", || archive.kept().iter().any(|kept| kept.position == 4)).await;
        let kept = archive.kept().pop().unwrap();
        assert_eq!((kept.partition, kept.position), (3, 4));
        saved.push(kept.bytes);
    }
    assert!(saved.iter().all(|bytes| *bytes == saved[0]));
    assert_eq!(saved[0], snapshot_of(3, &batches).bytes);
}

#[tokio::test]
async fn an_older_snapshot_is_loaded_if_the_newest_is_damaged() {
    let mut bench = Bench::start().await;
    let [first, second] = [0, 1].map(|n| arrivals(3, n * 500..(n + 1) * 500));
    let older = || snapshot_of(3, std::slice::from_ref(&first));
    bench.archive().keep(older());
    let Kept { bytes, .. } = snapshot_of(3, &[first.clone(), second]);
    let mut flipped = bytes.to_vec();
    flipped[bytes.len() / 2] ^= 1;
    bench.archive().keep(Kept { position: 2, bytes: flipped.into(), ..older() });
    bench.archive().keep(Kept { position: 3, bytes, how: How::DataLoss, ..older() });
    bench.session.say(ownership(1, &[3])).await;
    let call = bench.followed(&[3], &[(3, 1)]).await;
    assert_eq!(call.positions(), [(3, 1)]);
    assert_eq!(bench.archive().loads(), [(3, 3), (3, 2), (3, 1)]);
    assert_eq!(bench.applied(3, 1).await, 500);
    bench.ready().await;
}

#[tokio::test]
async fn a_lost_partition_leaves_the_others_alone_and_is_a_reason() {
    let mut bench = Bench::start().await;
    let lost = snapshot_of(3, &[arrivals(3, 0..10), Vec::new(), Vec::new()]);
    bench.archive().keep(Kept { how: How::DataLoss, ..lost });
    bench.session.say(ownership(1, &[3, 5])).await;
    let call = bench.followed(&[3, 5], &[(3, 9), (5, 1)]).await;
    assert_eq!(call.positions(), [(3, 0), (5, 0)], "nobody knows that the log was trimmed");
    call.trimmed(3, 4).await;
    let call = bench.followed(&[5], &[(5, 1)]).await;
    call.send(batch(5, 1, arrivals(5, 0..10))).await;
    assert_eq!(bench.applied(5, 1).await, 10);
    assert_eq!(bench.status().await, ServingStatus::NotServing);
    // Without the lost one, the node is ready.
    bench.session.say(ownership(2, &[5])).await;
    let _call = bench.followed(&[5], &[(5, 1)]).await;
    bench.ready().await;
}

#[tokio::test]
async fn a_coordinator_that_hangs_in_the_middle_is_asked_again() {
    let mut bench = Bench::start().await;
    let whole = snapshot_of(3, &[arrivals(3, 0..5_000)]);
    bench.archive().keep(Kept { how: How::HangsOnce, ..whole });
    let begun = Instant::now();
    bench.session.say(ownership(1, &[3, 5])).await;
    // The other one is not kept waiting for it.
    let _call = bench.followed(&[5], &[(5, 0)]).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let call = bench.followed(&[3, 5], &[(3, 1), (5, 0)]).await;
    assert_eq!(call.positions(), [(3, 1), (5, 0)]);
    assert_eq!(bench.archive().loads(), [(3, 1), (3, 1)]);
    assert_eq!(bench.applied(3, 1).await, 5_000);
    bench.ready().await;
}

#[tokio::test]
async fn a_log_that_was_trimmed_while_the_node_was_away_is_loaded_and_followed() {
    let mut bench = Bench::start().await;
    let batches: Vec<_> = (0..6).map(|n| arrivals(3, n * 100..(n + 1) * 100)).collect();
    bench.session.say(ownership(1, &[3])).await;
    let call = bench.followed(&[3], &[(3, 1)]).await;
    call.send(batch(3, 1, batches[0].clone())).await;
    assert_eq!(bench.applied(3, 1).await, 100);
    bench.archive().keep(snapshot_of(3, &batches[..2]));
    bench.archive().keep(snapshot_of(3, &batches[..5]));
    call.trimmed(3, 4).await;
    let call = bench.followed(&[3], &[(3, 6)]).await;
    assert_eq!(call.positions(), [(3, 5)]);
    call.send(batch(3, 6, batches[5].clone())).await;
    assert_eq!(bench.applied(3, 6).await, 600);
    bench.ready().await;
}

#[tokio::test]
async fn a_change_of_ownership_ends_loads_and_saves_of_what_leaves() {
    let mut bench = Bench::start().await;
    let whole = snapshot_of(3, &[arrivals(3, 0..5_000)]);
    bench.archive().keep(Kept { how: How::Hangs, ..whole });
    bench.session.say(ownership(1, &[3, 5])).await;
    let archive = bench.archive().clone();
    until("a load", || archive.loads() == [(3, 1)]).await;
    // In the middle of the load.
    bench.session.say(ownership(2, &[5])).await;
    let call = bench.followed(&[5], &[(5, 1)]).await;
    call.send(batch(5, 1, arrivals(5, 0..4_000))).await;
    assert_eq!(bench.applied(5, 1).await, 4_000);
    bench.ready().await;

    archive.want_every(300);
    archive.let_saves_hang();
    bench.session.say(ownership(3, &[5, 7])).await;
    let _call = bench.followed(&[5, 7], &[(5, 1), (7, 0)]).await;
    until("a save", || archive.saves() == (1, 0)).await;
    // In the middle of the save.
    bench.session.say(ownership(4, &[7])).await;
    until("the end of the save", || archive.saves() == (1, 1)).await;
    let call = bench.followed(&[7], &[(7, 1)]).await;
    call.send(batch(7, 1, arrivals(7, 0..10))).await;
    assert_eq!(bench.applied(7, 1).await, 10);
    bench.ready().await;
}
