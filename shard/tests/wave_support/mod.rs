//! A wave on real cores, as a control plane would order it.
#![allow(dead_code)] // each test program uses a part

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{
    device::{Cell, Change, Record, Registration, Token},
    ids::{
        AppName, DeviceId, Epoch, LaneId, LogId, PartitionId, Position, UnixMillis, WaveId,
        partition_of,
    },
    time::Time,
};
use clarion_runtime::offload::offload;
use clarion_shard::{
    command::{AppSpec, Command, Counts, Event, MessageSpec, ShardSpec, WaveSpec},
    driver::CoreHandle,
    lane::{
        health::LaneHealth,
        provider::{
            authorization::Authorization,
            request::{ApnsHeaders, Request},
        },
        rate::Rate,
        spec::LaneSpec,
    },
    outcome::Platform,
    wave::Cover,
};
use h3o::{LatLng, Resolution};
use roaring::RoaringBitmap;
use rustls::RootCertStore;
use tokio::time::timeout;

pub(crate) const PARTITIONS: u16 = 4;
pub(crate) const LANE: LaneId = LaneId(1);
pub(crate) const WAVE: WaveId = WaveId(1);
/// Far more than any step needs; a step that does not come ends the test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the pushes go.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) roots: Arc<RootCertStore>,
    /// Of each core that has some.
    pub(crate) connections: usize,
    /// How many cores have some; the others are guests of the first.
    pub(crate) hosts: usize,
}

/// A certificate for `localhost`, and the roots that trust it.
pub(crate) fn certificate() -> (rcgen::CertifiedKey<rcgen::KeyPair>, Arc<RootCertStore>) {
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    (made, Arc::new(roots))
}

/// Runs the wave to its end, opening bands as a control plane does; the counts of all cores.
pub(crate) async fn complete(cores: &mut [CoreHandle]) -> Counts {
    complete_through(cores, |health| assert_eq!(health, LaneHealth::Ready)).await
}

/// As [`complete`], whatever happens to the lane meanwhile.
pub(crate) async fn complete_through(
    cores: &mut [CoreHandle],
    mut health_is: impl FnMut(LaneHealth),
) -> Counts {
    let mut bands: Vec<BTreeMap<u32, Counts>> = vec![BTreeMap::new(); cores.len()];
    let (mut walked, mut complete) = (vec![0; cores.len()], vec![false; cores.len()]);
    while !complete.iter().all(|c| *c) {
        let (core, event) = next(cores).await;
        match event {
            Event::Report(report) => {
                bands[core].extend(report.bands);
                walked[core] =
                    report.bands_walked.iter().map(|(_, bands)| *bands).min().expect("a lane");
                complete[core] = report.complete;
                let open = *walked.iter().min().expect("cores") + 1;
                tell_all(cores, || Command::OpenBands { wave: WAVE, lane: LANE, bands: open })
                    .await;
            }
            Event::LaneState { health, .. } => health_is(health),
            Event::Held(_) | Event::LaneLoad { .. } => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    let mut total = Counts::default();
    bands.iter().flat_map(BTreeMap::values).for_each(|counts| total.add(counts));
    total
}

pub(crate) const BODY: &[u8] = b"{\"aps\":{\"alert\":\"missing child\"}}";

/// Everything that a control plane says before a wave runs.
pub(crate) async fn prepare(
    cores: &[CoreHandle],
    gateway: &Gateway,
    devices: u32,
    rate: Option<Rate>,
) {
    let spec = |core: usize| {
        lane_spec(LANE, gateway, if core < gateway.hosts { gateway.connections } else { 0 })
    };
    let authorization =
        Authorization(Arc::new(secrecy::SecretString::from("bearer token".to_owned())));
    let cover = Arc::new(cover());
    let mine = |core: usize| {
        (0..PARTITIONS).filter(move |p| usize::from(*p) % cores.len() == core).map(PartitionId)
    };
    for (core, handle) in cores.iter().enumerate() {
        let say = async |command| handle.commands.send(command).await.expect("the core lives");
        say(Command::Own(mine(core).collect::<Vec<_>>().into())).await;
        let (spec, host) = (spec(core), (core >= gateway.hosts).then_some(0));
        let connections = spec.connections;
        say(Command::Lane(Arc::new(spec))).await;
        say(Command::Connections { lane: LANE, connections, host }).await;
        say(Command::ProviderToken { lane: LANE, authorization: authorization.clone(), signer: 0 })
            .await;
        say(Command::Slice { lane: LANE, until: Time::NEVER, rate: None }).await;
        let disk = disk();
        let records = (0..devices).map(|n| record(n, disk[n as usize % disk.len()]));
        let records = records.map(|r| (partition_of(r.device, PARTITIONS), r));
        let records = records
            .filter(|(partition, _)| usize::from(partition.0) % cores.len() == core)
            .collect();
        say(Command::Apply {
            log: LogId(0),
            position: Position(1),
            appended: UnixMillis(1),
            partitions: mine(core).collect(),
            records,
        })
        .await;
        let shard =
            |partition| ShardSpec { partition, start: Position(1), handed: RoaringBitmap::new() };
        say(Command::Wave(Arc::new(WaveSpec {
            id: WAVE,
            alert: "alerts/test".to_owned(),
            epoch: Epoch(1),
            plan: 0,
            cover: Arc::clone(&cover),
            shards: mine(core).map(shard).collect(),
            apps: vec![app()],
            segments: Vec::new(),
            place_seen_after: UnixMillis(0),
            expires: Time::NEVER,
        })))
        .await;
        say(Command::Grant { wave: WAVE, until: Time::NEVER, rate }).await;
    }
}

/// A lane to a gateway.
pub(crate) fn lane_spec(id: LaneId, gateway: &Gateway, connections: usize) -> LaneSpec {
    LaneSpec {
        id,
        platform: Platform::Apns,
        name: if id == LANE { "test/demo" } else { "test/other" }.to_owned(),
        endpoint: format!("localhost:{}", gateway.address.port()),
        server_name: "localhost".to_owned(),
        roots: Arc::clone(&gateway.roots),
        live: false,
        route: clarion_runtime::proxy::Route::Direct,
        connections,
        streams_per_connection: 1_000,
        request_deadline: Duration::from_secs(30),
        connect_deadline: Duration::from_secs(30),
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(100),
        authorization_indexed: true,
        evidence: 32,
    }
}

pub(crate) fn app() -> AppSpec {
    let headers = ApnsHeaders {
        topic: "org.example.demo".to_owned(),
        push_type: "alert".to_owned(),
        priority: 10,
        expiration: 1_800_000_000,
        collapse_id: "test".to_owned(),
    };
    let (body, body_after_token) = (Bytes::from_static(BODY), Bytes::new());
    let messages = vec![MessageSpec { locale: "en".to_owned(), body, body_after_token }];
    AppSpec {
        app: AppName::from_id("demo").expect("a name"),
        lane: LANE,
        request: Request::Apns(headers),
        messages,
    }
}

/// Two bands: a disk and the ring around it.
pub(crate) fn cover() -> Cover {
    let cells = |from, to| {
        let mut cells: Vec<u64> =
            (from..=to).flat_map(|k| center().grid_ring::<Vec<_>>(k)).map(u64::from).collect();
        cells.sort_unstable();
        cells
    };
    Cover::new(&[(0.0, 1_000.0, cells(0, 3)), (1_000.0, 2_000.0, cells(4, 8))]).expect("a cover")
}

/// Which core owns a device's partition.
pub(crate) fn core_of(device: u32, cores: usize) -> usize {
    usize::from(partition_of(record(device, center()).device, PARTITIONS).0) % cores
}

/// In which band each device lives.
pub(crate) fn band_of() -> impl Fn(u32) -> u32 {
    let (cover, disk) = (cover(), disk());
    move |device| cover.band_of(Cell::from(disk[device as usize % disk.len()])).expect("inside")
}

/// Where devices live, each in the next cell.
fn disk() -> Vec<h3o::CellIndex> {
    (0..=8).flat_map(|k| center().grid_ring::<Vec<_>>(k)).collect()
}

fn center() -> h3o::CellIndex {
    LatLng::new(22.54, 114.06).expect("a place").to_cell(Resolution::Nine)
}

fn record(n: u32, cell: h3o::CellIndex) -> Record {
    let mut id = [1; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    let mut token = n.to_be_bytes().to_vec();
    token.resize(32, 0xcd);
    let registration = Registration {
        app: AppName::from_id("demo").expect("a name"),
        token: Token::new(Bytes::from(token)).expect("a token"),
        locale: String::new(),
        segments: Vec::new(),
        person: String::new(),
    };
    Record {
        device: DeviceId(id),
        observed: UnixMillis(1),
        change: Change::Arrival(registration, Cell::from(cell)),
    }
}

pub(crate) async fn tell_all(cores: &[CoreHandle], command: impl Fn() -> Command) {
    for core in cores {
        core.commands.send(command()).await.expect("the core lives");
    }
}

/// The next event of any core.
pub(crate) async fn next(cores: &mut [CoreHandle]) -> (usize, Event) {
    let events = cores.iter_mut().enumerate().map(|(n, core)| {
        Box::pin(async move { (n, core.events.recv().await.expect("the core lives")) })
    });
    timeout(PATIENCE, futures_util::future::select_all(events)).await.expect("an event").0
}

pub(crate) async fn shut_down(cores: Vec<CoreHandle>) {
    tell_all(&cores, || Command::Shutdown).await;
    let joined = offload(move || {
        cores.into_iter().for_each(|c| c.join.join().expect("no panic"));
    });
    timeout(PATIENCE, joined).await.expect("threads end").expect("joined");
}
