//! Regions of any width through the real processes: none stops the cluster. Meanwhile an alert of
//! ordinary size runs and reaches every device.

use std::{path::Path, sync::Arc, time::Duration};

use clarion_emulator::clock;
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan, emulator::GatewayPlan, network::NetworkPlan},
    drive, names,
    population::Population,
    scenario::{Scenario, StoreKind},
};
use clarion_proto::wire::v1::{
    self as wire, alert_service_client::AlertServiceClient, region::Shape,
};
use tonic::{Status, transport::Channel};

const DEVICES: u64 = 3_000;
/// For the ordinary alert, beside all others: some 2,600 devices in 13 s, and what the others take
/// of the machine.
const RATE: u32 = 200;
/// Covers of many cells are planned, sent and put together by programs without optimisation.
const PATIENCE: Duration = Duration::from_secs(240);

fn circle(radius_meters: f64) -> wire::Region {
    let center = Some(wire::LatLng { latitude: 22.543, longitude: 114.058 });
    region(Shape::Circle(wire::Circle { center, radius_meters }))
}

fn region(shape: Shape) -> wire::Region {
    wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 }
}

/// Circles of 300 km all over the world, one of them around the city.
fn union(count: u32) -> wire::Region {
    let mut regions = vec![circle(300_000.0)];
    for n in 0..count - 1 {
        let (row, column) = (f64::from(n / 9), f64::from(n % 9));
        let center =
            Some(wire::LatLng { latitude: -60.0 + 20.0 * row, longitude: -170.0 + 40.0 * column });
        regions.push(region(Shape::Circle(wire::Circle { center, radius_meters: 300_000.0 })));
    }
    region(Shape::Union(wire::RegionUnion { regions }))
}

/// All of the world but its poles.
fn world() -> wire::Region {
    let longitudes = [-179.0, -90.0, 0.0, 90.0, 179.0];
    let south =
        longitudes.iter().map(|longitude| wire::LatLng { latitude: -89.0, longitude: *longitude });
    let north = longitudes
        .iter()
        .rev()
        .map(|longitude| wire::LatLng { latitude: 89.0, longitude: *longitude });
    let first = wire::LatLng { latitude: -89.0, longitude: -179.0 };
    let points = south.chain(north).chain([first]).collect();
    region(Shape::Polygon(wire::Polygon { outer: Some(wire::Ring { points }), holes: Vec::new() }))
}

async fn create(channel: &Channel, number: u32, alert: wire::Alert) -> Result<String, Status> {
    let request_id = format!("5b2f8e4e-0f6e-4a0e-9f61-7a0f3c1f{number:04}");
    let request = wire::CreateAlertRequest { alert: Some(alert), request_id, validate_only: false };
    let answer = AlertServiceClient::new(channel.clone()).create_alert(request).await?;
    Ok(answer.into_inner().name)
}

async fn ends(channel: &Channel, name: &str) -> wire::AlertProgress {
    drive::alert::watch(channel.clone(), name, None, PATIENCE, |_| {})
        .await
        .expect("it ends")
        .progress
}

fn plan(dir: &Path, scenario: &Scenario, population: &Population) -> ClusterPlan {
    ClusterPlan {
        program: env!("CARGO_BIN_EXE_loadgen").into(),
        dir: dir.to_owned(),
        nodes: 2,
        nodes_later: Vec::new(),
        nodes_told: None,
        store: StoreKind::Sqlite,
        cores_per_node: 1,
        gateway: GatewayPlan {
            platforms: population.platforms(),
            dead_share: 0.0,
            latency_us: 0,
            distance: scenario.gateway.distance,
            seed: scenario.seed,
            topics: population.apps().iter().map(|app| names::topic(&app.name)).collect(),
            fcm_quota_per_minute: 60_000_000,
        },
        fcm: scenario.gateway.fcm,
        request_deadline_ms: None,
        authorization_literal: false,
        snapshot_every_seconds: None,
        network: NetworkPlan::default(),
        start_deadline: PATIENCE,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_region_stops_the_cluster() {
    let mut scenario = Scenario::find("city").expect("it is there");
    scenario.alert.active_s = 3_600;
    let population = Arc::new(
        Population::new(&scenario.population, scenario.seed, DEVICES).expect("a population"),
    );
    let dir = tempfile::tempdir().expect("a folder");
    let mut cluster =
        Cluster::start(&plan(dir.path(), &scenario, &population)).await.expect("a cluster");
    let channel = Channel::from_shared(cluster.coordinator.clone())
        .expect("an address")
        .connect()
        .await
        .expect("it listens");
    let test = async {
        drive::alert::create_apps(channel.clone(), &population).await.expect("apps");
        drive::load::load(channel.clone(), population.clone(), clock::wall().0, |_| {})
            .await
            .expect("devices");
        drive::visible(channel.clone(), DEVICES, PATIENCE).await.expect("visible");
        let ordinary = drive::alert::alert(&scenario, &population);
        let of = |region| wire::Alert { region: Some(region), ..ordinary.clone() };
        let city =
            drive::alert::preview(channel.clone(), ordinary.clone()).await.expect("a preview");
        let paced = wire::Alert { max_rate_per_second: RATE, ..ordinary.clone() };
        let name = create(&channel, 1, paced).await.expect("an ordinary alert");
        let ordinary_ends = ends(&channel, &name);
        let others = async {
            for (number, region) in [
                (2, circle(10_000_000.0)),
                (3, world()),
                (4, circle(2_800_000.0)),
                (5, union(8)),
                (6, union(64)),
            ] {
                let wide = of(region);
                let expected = drive::alert::preview(channel.clone(), wide.clone())
                    .await
                    .expect("a wide preview");
                let name = create(&channel, number, wide).await.expect("a wide alert");
                let last = ends(&channel, &name).await;
                assert_eq!((last.state(), last.isolation), (wire::State::Resolved, None));
                assert_eq!(
                    last.progress.and_then(|p| p.outcomes).map(|o| o.accepted),
                    Some(expected)
                );
            }
        };
        let (last, ()) = tokio::join!(ordinary_ends, others);
        assert_eq!((last.state(), last.isolation), (wire::State::Resolved, None));
        assert_eq!(last.progress.and_then(|p| p.outcomes).map(|o| o.accepted), Some(city));
    };
    tokio::select! {
        () = test => {}
        death = cluster.watch() => panic!("{death}"),
    }
    let log = std::fs::read_to_string(dir.path().join("coordinator.log")).expect("a log");
    assert_eq!(log.matches("session failed").count(), 0, "{log}");
    assert!(cluster.stop(PATIENCE).await.is_empty());
}
