//! A coordinator is dropped in the middle of a wave and built anew over the same store: the alert
//! goes on with what its nodes report.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod dispatch_support;

use std::{sync::Arc, time::Duration};

use clarion_coordinator::{
    admission::{Admission, AdmissionConfig, Rules},
    alert::Event,
    bands::{BandEdges, Bands, plan_bands},
    cover::{CellBudget, cover},
    dispatch::{CancelState, Dispatch},
    reconcile::Reconciler,
    snapshot::State,
    store::{
        AlertRecord, AlertStore, AppRecord, ChangeLog as _, ClusterStore as _, Created, RequestId,
        SendPlan, memory::MemoryStore,
    },
};
use clarion_proto::{
    app::{App, Environment, Identity, LaneKind, Platform},
    datum::Datum,
    ids::{AppName, Epoch, UnixMillis},
    outcome::Outcome,
    region::{LatLng, Region},
    wire::{
        shard_v1::{self as wire, session_request::Message},
        v1,
    },
};
use clarion_runtime::{drain::Drain, world::World};
use dispatch_support::*;
use roaring::RoaringBitmap;
use tokio::time::timeout;

/// One process of a coordinator; the store outlives it.
struct Process {
    coordinator: Coordinator,
    reconciler: Reconciler,
    drain: Drain,
}

impl Process {
    async fn over(nodes: &[&ScriptedNode], store: &Arc<MemoryStore>) -> Self {
        let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
        let world = World::system();
        let coordinator = Coordinator::over_store(&addresses, Arc::clone(store), &world);
        let (inside_max, questions_max, rules) = (8, 8, Rules::default());
        let admission = Admission::new(AdmissionConfig { inside_max, questions_max, rules });
        let drain = Drain::new();
        let reconciler = Reconciler::spawn(
            Arc::clone(store) as _,
            Arc::new(coordinator.dispatcher.clone()),
            Arc::new(admission),
            world.clock(),
            drain.clone(),
        );
        reconciler.listed().await;
        Self { coordinator, reconciler, drain }
    }

    /// Everything goes but the store.
    async fn end(self) {
        assert_eq!(self.drain.finish(PATIENCE).await, Ok(()));
        self.coordinator.dispatcher.shutdown().await;
    }

    /// Waits until partitions are assigned and a node is there.
    async fn ready(&self) {
        let mut sessions = self.coordinator.dispatcher.sessions();
        let ready = sessions.wait_for(|_| self.coordinator.dispatcher.is_ready());
        timeout(PATIENCE, ready).await.expect("ready").unwrap();
    }
}

async fn store() -> Arc<MemoryStore> {
    let store = MemoryStore::new(PARTITIONS, 1 << 20, &World::system());
    let app = App {
        name: AppName::from_id("demo").unwrap(),
        display_name: String::new(),
        platform: Platform::Apns,
        gateway: "g".into(),
        credential: "c".into(),
        topic: "t".into(),
        project: String::new(),
        environment: Environment::Sandbox,
        lane_kind: LaneKind::Test,
        identity: Identity::Device,
    };
    store.create_app(AppRecord { app, created: UnixMillis(1), revision: 1 }).await.unwrap();
    Arc::new(store)
}

/// What CreateAlert writes, and the bands that it hands over: 3 km around a place.
fn alert(coordinator: &Coordinator) -> (AlertRecord, Bands) {
    let plan = coordinator.alert("one", 60);
    let center = v1::LatLng { latitude: 22.54, longitude: 114.06 };
    let circle = v1::Circle { center: Some(center), radius_meters: 3_000.0 };
    let shape = Some(v1::region::Shape::Circle(circle));
    let region = v1::Region { shape, exclusions: vec![], datum: 0 };
    let cells = cover(&Region::from_wire(region.clone()).unwrap(), CellBudget::default()).unwrap();
    let (edges, here) = (BandEdges::default(), LatLng::from_wire(center, Datum::Wgs84).unwrap());
    let bands = plan_bands(&cells, here, &edges, usize::MAX).unwrap();
    let submitted = v1::Alert { region: Some(region), ..v1::Alert::default() };
    let finest = cells.finest();
    let send = SendPlan { edges, finest, segments: Vec::new(), apps: plan.apps.clone() };
    let record = AlertRecord {
        name: plan.name.clone(),
        request_id: RequestId(uuid::Uuid::from_u128(1)),
        submitted: Arc::new(submitted),
        apps: vec![AppName::from_id("demo").unwrap()],
        plan: Some(Arc::new(send)),
        overshoot_m: cells.overshoot_m(),
        band_step_m: 10_000.0,
        wave: plan.wave,
        epoch: Epoch(1),
        log: plan.log,
        positions: Vec::new(),
        created: plan.created,
        place_seen_after: plan.place_seen_after,
        expires: plan.expires,
        revision: 1,
        state: State::Active,
        ended: None,
        cancel_reason: None,
        settled: None,
    };
    (record, bands.into())
}

/// Records an alert and hands it over, as CreateAlert does.
async fn create(process: &Process, store: &MemoryStore) -> Arc<AlertRecord> {
    process.ready().await;
    let (record, bands) = alert(&process.coordinator);
    let Ok(Created::New(record)) = store.create_alert(record, 9).await else { panic!("new") };
    process.reconciler.hand_over(Arc::clone(&record), bands);
    record
}

/// The record, as soon as it is in a state.
async fn recorded(store: &MemoryStore, alert: &AlertRecord, state: State) -> Arc<AlertRecord> {
    let reached = async {
        loop {
            let record = store.alert(&alert.name).await.unwrap().unwrap();
            if record.state == state {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("the record changes")
}

/// Sets of a wave message that its node must not hand again.
fn handed(wave: &wire::Wave) -> Vec<(u32, Vec<u32>)> {
    let sets = wave.shards.iter().filter(|s| !s.handed.is_empty());
    sets.map(|s| {
        (s.partition, RoaringBitmap::deserialize_from(&s.handed[..]).unwrap().iter().collect())
    })
    .collect()
}

#[tokio::test]
async fn an_alert_goes_on_with_what_its_node_reports() {
    let mut a = ScriptedNode::tcp().await;
    let store = store().await;
    let former = Process::over(&[&a], &store).await;
    let mut peer = a.hello("a", BOOT_1).await;
    store.append_all(vec![(clarion_proto::ids::LogId(3), Default::default())]).await.unwrap();
    let alert = create(&former, &store).await;
    let first = peer.wave().await;
    assert_eq!(peer.lease(1, &first).await.waves.len(), 1);
    let told = wire::Report {
        handed: vec![ordinals(2, &[1, 2, 3, 4])],
        open: vec![ordinals(2, &[3])],
        ..report(&first, 1, 4, 3)
    };
    peer.report(told.clone()).await;
    let mut progress = former.reconciler.watch(&alert.name).unwrap();
    when(&mut progress, |s| s.totals.handed == 4).await;
    former.end().await;
    assert!(peer.is_ended().await);
    // Acknowledged after the alert was recorded: its audience does not wait for it.
    store.append_all(vec![(clarion_proto::ids::LogId(3), Default::default())]).await.unwrap();

    let next = Process::over(&[&a], &store).await;
    let mut peer = a.hello("a", BOOT_1).await;
    let owned =
        peer.until(|m| if let Message::Ownership(owned) = m { Some(owned) } else { None }).await;
    assert_eq!(owned.number, 1, "the ownership of the store");
    assert_eq!(store.ownership().await.unwrap().unwrap().number, 1);
    let second = peer.wave().await;
    assert_eq!((first.epoch, second.epoch), (1, 2));
    let positions =
        |wave: &wire::Wave| -> u64 { wave.shards.iter().map(|shard| shard.start_position).sum() };
    assert_eq!((positions(&first), positions(&second)), (1, 1), "as when it was recorded");
    assert_eq!((&first.bands, &first.apps), (&second.bands, &second.apps));
    assert_eq!((&first.segments, handed(&second)), (&second.segments, vec![]));
    assert_eq!(peer.lease(2, &second).await.waves.len(), 1);
    // The first report of a session says everything again.
    peer.report(wire::Report { sequence: 2, epoch: 2, ..told }).await;
    let mut progress = next.reconciler.watch(&alert.name).unwrap();
    let resumed = when(&mut progress, |s| s.totals.handed == 4).await;
    assert_eq!((resumed.totals.of(Outcome::Accepted), resumed.totals.open()), (3, 1));
    drop(peer);

    // Another process of the node is given what the former one told this coordinator.
    let mut peer = a.hello("a", BOOT_2).await;
    let third = peer.wave().await;
    assert_eq!((third.epoch, handed(&third)), (2, vec![(2, vec![1, 2, 4])]));
    peer.report(complete(&third, 1, 2, 2)).await;
    let record = recorded(&store, &alert, State::Resolved).await;
    assert_eq!((record.epoch, &record.plan), (Epoch(2), &None));
    peer.end().await;
    peer.report(ended(&third, 2, 2, 2)).await;
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!(
        (last.state, last.totals.handed, last.totals.of(Outcome::Accepted)),
        (State::Resolved, 5, 5)
    );
    next.end().await;
}

#[tokio::test]
async fn a_report_that_comes_before_the_new_plan_is_not_counted_twice() {
    let mut a = ScriptedNode::tcp().await;
    let store = store().await;
    let former = Process::over(&[&a], &store).await;
    let mut peer = a.hello("a", BOOT_1).await;
    let alert = create(&former, &store).await;
    let wave = peer.wave().await;
    former.end().await;

    let next = Process::over(&[&a], &store).await;
    let mut peer = a.hello("a", BOOT_1).await;
    // At once, with the epoch that the node knows; and again as an answer to the new plan.
    peer.report(report(&wave, 2, 10, 7)).await;
    let again = peer.wave().await;
    peer.report(report(&again, 3, 10, 7)).await;
    peer.report(complete(&again, 4, 11, 11)).await;
    peer.end().await;
    peer.report(ended(&again, 5, 11, 11)).await;
    let record = recorded(&store, &alert, State::Resolved).await;
    assert_eq!(record.epoch, Epoch(2));
    let mut progress = next.reconciler.watch(&alert.name).unwrap();
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!((last.totals.handed, last.totals.of(Outcome::Accepted)), (11, 11));
}

#[tokio::test]
async fn a_cancel_that_was_only_recorded_reaches_the_node_under_the_new_epoch() {
    let mut a = ScriptedNode::tcp().await;
    let store = store().await;
    let former = Process::over(&[&a], &store).await;
    let mut peer = a.hello("a", BOOT_1).await;
    let alert = create(&former, &store).await;
    let wave = peer.wave().await;
    assert_eq!(peer.lease(1, &wave).await.waves.len(), 1);
    // The process dies between the record and the first word to a node.
    let cancel = Event::Cancel { reason: "found".to_owned() };
    former.reconciler.record(&alert.name, cancel).await.unwrap();
    former.end().await;

    let next = Process::over(&[&a], &store).await;
    let mut peer = a.hello("a", BOOT_1).await;
    let cancel = peer
        .until(|m| match m {
            Message::Cancel(cancel) => Some(cancel),
            Message::Wave(wave) => panic!("a cancelled wave is offered: {wave:?}"),
            _ => None,
        })
        .await;
    assert_eq!((cancel.wave, cancel.epoch), (wave.id, 2));
    assert_eq!(peer.lease(2, &wave).await.waves, [], "no leave to send");
    peer.stopped(&wave).await;
    let record = recorded(&store, &alert, State::Cancelled).await;
    assert_eq!((record.cancel_reason.as_deref(), record.epoch), (Some("found"), Epoch(2)));
    let told = next.reconciler.cancel(&alert.name).await;
    assert_eq!(told, CancelState::At { state: State::Cancelled, unconfirmed: Vec::new() });
    peer.report(ended(&wave, 2, 10, 10)).await;
    peer.end().await;
    let mut progress = next.reconciler.watch(&alert.name).unwrap();
    assert_eq!(when(&mut progress, |s| s.settled).await.totals.handed, 10);
}

#[tokio::test]
async fn an_owner_that_is_away_at_the_start_is_waited_for() {
    let (mut a, mut b) = (ScriptedNode::tcp().await, ScriptedNode::tcp().await);
    let store = store().await;
    let former = Process::over(&[&a, &b], &store).await;
    let (_peer_a, _peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    let alert = create(&former, &store).await;
    former.end().await;

    let next = Process::over(&[&a, &b], &store).await;
    let error = next.coordinator.dispatcher.check_start(&[]).unwrap_err();
    assert!(error.to_string().contains("no shard node is connected"), "{error}");
    let mut progress = next.reconciler.watch(&alert.name).unwrap();
    when(&mut progress, |s| s.nodes == 2).await;
    let mut peer_a = a.hello("a", BOOT_1).await;
    let wave_a = peer_a.wave().await;
    peer_a.report(complete(&wave_a, 1, 3, 3)).await;
    when(&mut progress, |s| s.totals.handed == 3).await;
    assert_eq!(progress.borrow().state, State::Active, "b has its part");
    let mut peer_b = b.hello("b", BOOT_1).await;
    let wave_b = peer_b.wave().await;
    peer_b.report(complete(&wave_b, 1, 4, 4)).await;
    recorded(&store, &alert, State::Resolved).await;
    peer_a.end().await;
    peer_b.end().await;
}
