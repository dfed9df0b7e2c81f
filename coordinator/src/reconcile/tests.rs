//! Alert tasks over a scripted dispatch and a store that can be down. Time is paused.

mod flaky;
mod superseded;

use std::sync::atomic::{AtomicBool, Ordering};

use clarion_proto::{
    ids::{Epoch, UnixMillis},
    wire::v1 as wire,
};
use clarion_runtime::world::{Pipes, World};

use self::flaky::Flaky;
use super::*;
use crate::{
    admission::{AdmissionConfig, Admitted, Rules},
    dispatch::{CountError, Start, StartError},
    lane::LaneKey,
    lane_owner::LaneError,
    members::registry::RegistryTotals,
    planned::{CountPlan, CountedDevices},
    snapshot::State,
    store::{Created, fixtures::record, memory::MemoryStore, suite::app as demo_app},
};

const WALL: UnixMillis = UnixMillis(1_000_000);
const SECOND: Duration = Duration::from_secs(1);

/// Scripted dispatch that starts every alert while the dispatch is ready.
#[derive(Debug, Default)]
struct Script {
    away: AtomicBool,
    started: Mutex<Vec<Start>>,
    recorded: Mutex<Vec<AlertName>>,
    changes: watch::Sender<u64>,
}

impl Script {
    fn comes(&self) {
        self.away.store(false, Ordering::SeqCst);
        self.changes.send_modify(|n| *n += 1);
    }

    /// Reports of nodes, as dispatch publishes them.
    fn publish(&self, at: usize, change: impl FnOnce(&mut Snapshot)) {
        self.started.lock()[at].snapshots.send_modify(|snapshot| {
            let next = Arc::make_mut(snapshot);
            next.version += 1;
            change(next);
        });
    }
}

#[async_trait::async_trait]
impl Dispatch for Script {
    fn ensure_lane(&self, _: &LaneKey) -> Result<(), LaneError> {
        Ok(())
    }

    fn check_start(&self, _: &[&LaneKey]) -> Result<(), StartError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StartError::NoNodes { configured: 1 }),
            false => Ok(()),
        }
    }

    fn start(&self, start: Start) -> Result<(), StartError> {
        self.check_start(&[])?;
        start.snapshots.send_modify(|snapshot| Arc::make_mut(snapshot).nodes = 1);
        self.started.lock().push(start);
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn recorded(&self, alert: &AlertName) {
        self.recorded.lock().push(alert.clone());
    }

    async fn cancel(&self, _: &AlertName) -> CancelState {
        CancelState::At { state: State::Cancelling, unconfirmed: vec!["a".to_owned()] }
    }

    async fn count(&self, _: CountPlan) -> Result<CountedDevices, CountError> {
        Err(CountError::NoNodes { configured: 1 })
    }

    async fn reaches(&self, _: CountPlan, _: u64) -> Result<bool, CountError> {
        Ok(true)
    }

    fn registry(&self) -> RegistryTotals {
        RegistryTotals::default()
    }

    fn has_session(&self, _: &str) -> bool {
        false
    }
}

/// One process: its reconciler, its dispatch; the store may be another process's, too.
struct Process {
    reconciler: Reconciler,
    dispatch: Arc<Script>,
    drain: Drain,
}

fn admission() -> Arc<Admission> {
    let (inside_max, questions_max, rules) = (8, 8, Rules::default());
    Arc::new(Admission::new(AdmissionConfig { inside_max, questions_max, rules }))
}

impl Process {
    fn over(store: &Arc<Flaky>, clock: Clock) -> Self {
        let (dispatch, drain) = (Arc::new(Script::default()), Drain::new());
        let (store, of_dispatch) = (Arc::clone(store) as _, Arc::clone(&dispatch) as _);
        let reconciler = Reconciler::spawn(store, of_dispatch, admission(), clock, drain.clone());
        Self { reconciler, dispatch, drain }
    }

    /// A process that has listed the active alerts; callers are served only afterwards.
    async fn serving(store: &Arc<Flaky>, clock: Clock) -> Self {
        let process = Self::over(store, clock);
        process.reconciler.listed().await;
        process
    }

    /// Waits until dispatch has got the start of an alert.
    async fn starts(&self) -> Start {
        loop {
            if let Some(start) = self.dispatch.started.lock().last() {
                return start.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A store with an app, on made-up wall time.
async fn store() -> (Arc<Flaky>, Clock) {
    let world = World::new(Clock::start_at(WALL), 1, Arc::new(Pipes::default()));
    let (store, clock) = (MemoryStore::new(4, 1 << 20, &world), world.clock());
    store.create_app(demo_app("demo")).await.expect("room");
    (Arc::new(Flaky { store, away: AtomicBool::new(false) }), clock)
}

/// An alert for 3 km around a place, for a minute.
fn alert() -> AlertRecord {
    let center = Some(wire::LatLng { latitude: 22.54, longitude: 114.06 });
    let circle = wire::Circle { center, radius_meters: 3_000.0 };
    let shape = Some(wire::region::Shape::Circle(circle));
    let region = wire::Region { shape, ..wire::Region::default() };
    let last_seen = Some(wire::LatLng { latitude: 22.55, longitude: 114.05 });
    let submitted = wire::Alert {
        region: Some(region),
        last_seen,
        max_rate_per_second: 7,
        ..wire::Alert::default()
    };
    let expires = UnixMillis(WALL.0 + 60_000);
    AlertRecord { submitted: Arc::new(submitted), expires, ..record("a", WALL.0) }
}

/// The bands that admission computes for an alert.
async fn bands(alert: &AlertRecord) -> Bands {
    let plan = alert.plan.as_ref().expect("active");
    let target = plan::target(alert, plan).expect("a region");
    admission().target(target, true, &mut Admitted::recorded()).await.expect("room").0.bands
}

async fn created(store: &Flaky) -> Arc<AlertRecord> {
    match store.create_alert(alert(), 9).await {
        Ok(Created::New(alert)) => alert,
        other => panic!("it is new: {other:?}"),
    }
}

async fn read(store: &Flaky) -> Arc<AlertRecord> {
    store.store.alert(&alert().name).await.expect("memory").expect("there")
}

/// The record, as soon as it is in a state.
async fn recorded(store: &Flaky, state: State) -> Arc<AlertRecord> {
    loop {
        let record = read(store).await;
        if record.state == state {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_created_alert_starts_at_once_and_its_end_is_recorded() {
    let (store, clock) = store().await;
    let process = Process::serving(&store, clock).await;
    let alert = created(&store).await;
    process.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    let start = process.dispatch.started.lock().last().cloned().expect("before it is answered");
    assert_eq!((start.plan.epoch, start.cancelled), (Epoch(1), false));
    assert_eq!((start.plan.max_rate_per_second, &start.plan.positions), (7, &alert.positions));
    assert_eq!(process.reconciler.under_way().len(), 1);

    let mut newest = process.reconciler.watch(&alert.name).expect("known");
    process.dispatch.publish(0, |s| (s.state, s.ended) = (State::Resolved, Some(WALL)));
    newest.wait_for(|s| s.state == State::Resolved).await.expect("progress");
    let record = recorded(&store, State::Resolved).await;
    assert_eq!((record.ended, &record.plan), (Some(WALL), &None));
    assert!(record.settled.is_none());
    assert_eq!(process.reconciler.under_way().len(), 1, "the last reports are about to come");
    process.dispatch.publish(0, |s| (s.settled, s.totals.handed) = (true, 3));
    process.reconciler.all_ended().await;
    let settled = read(&store).await.settled.clone().expect("recorded");
    assert!(settled.totals.handed == 3 && process.reconciler.under_way().is_empty());
    assert_eq!(process.dispatch.recorded.lock()[..], *std::slice::from_ref(&alert.name));
    assert!(process.reconciler.watch(&alert.name).is_some(), "for those who ask late");
    assert_eq!(process.drain.finish(SECOND).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_for_nodes_and_says_so_to_nobody_but_the_log() {
    let (store, clock) = store().await;
    let process = Process::serving(&store, clock).await;
    process.dispatch.away.store(true, Ordering::SeqCst);
    let alert = created(&store).await;
    process.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    let newest = process.reconciler.watch(&alert.name).expect("known while it waits");
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!((newest.borrow().state, newest.borrow().nodes), (State::Active, 0));
    assert!(process.dispatch.started.lock().is_empty());
    process.dispatch.comes();
    process.starts().await;
    assert_eq!(newest.borrow().nodes, 1, "the same channel goes on");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_before_the_first_node_ends_the_alert() {
    let (store, clock) = store().await;
    let process = Process::serving(&store, clock).await;
    process.dispatch.away.store(true, Ordering::SeqCst);
    let alert = created(&store).await;
    process.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    let reason = "found".to_owned();
    process.reconciler.record(&alert.name, Event::Cancel { reason }).await.expect("up");
    let begun = clock.now();
    let told = process.reconciler.cancel(&alert.name).await;
    assert_eq!(told, CancelState::At { state: State::Cancelled, unconfirmed: Vec::new() });
    assert!(clock.now().since(begun) < SECOND, "nobody is waited for");
    let record = recorded(&store, State::Cancelled).await;
    assert_eq!((record.ended.is_some(), &record.plan), (true, &None));
    process.dispatch.comes();
    tokio::time::sleep(5 * SECOND).await;
    assert!(process.dispatch.started.lock().is_empty(), "nothing is sent any more");
    let told = process.reconciler.cancel(&alert.name).await;
    assert_eq!(told, CancelState::At { state: State::Cancelled, unconfirmed: Vec::new() });
}

#[tokio::test(start_paused = true)]
async fn an_alert_that_waits_expires_with_its_own_time() {
    let (store, clock) = store().await;
    let process = Process::serving(&store, clock).await;
    process.dispatch.away.store(true, Ordering::SeqCst);
    let alert = created(&store).await;
    process.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    tokio::time::sleep(59 * SECOND).await;
    assert_eq!(read(&store).await.state, State::Active);
    let record = recorded(&store, State::Expired).await;
    assert_eq!(record.ended, Some(alert.expires));
    process.reconciler.all_ended().await;
    let newest = process.reconciler.watch(&alert.name).expect("kept");
    assert_eq!((newest.borrow().state, newest.borrow().settled), (State::Expired, true));
}

#[tokio::test(start_paused = true)]
async fn an_end_is_recorded_when_the_store_is_back() {
    let (store, clock) = store().await;
    let process = Process::serving(&store, clock).await;
    let alert = created(&store).await;
    process.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    store.away.store(true, Ordering::SeqCst);
    process.dispatch.publish(0, |s| (s.state, s.ended) = (State::Resolved, Some(WALL)));
    tokio::time::sleep(30 * SECOND).await;
    assert!(process.dispatch.recorded.lock().is_empty(), "no node may forget the alert yet");
    assert_eq!(process.reconciler.under_way().len(), 1, "a stop waits for it");
    assert_eq!(process.reconciler.under_way()[0].state, State::Resolved);
    store.away.store(false, Ordering::SeqCst);
    let record = recorded(&store, State::Resolved).await;
    assert_eq!(record.ended, Some(WALL), "when it ended, not when it was written");
    tokio::time::sleep(SECOND).await;
    assert_eq!(process.dispatch.recorded.lock()[..], *std::slice::from_ref(&alert.name));
    process.dispatch.publish(0, |s| s.settled = true);
    process.reconciler.all_ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_without_a_store_is_recorded_when_the_store_is_back() {
    let (store, clock) = store().await;
    let process = Process::serving(&store, clock).await;
    let alert = created(&store).await;
    process.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    store.away.store(true, Ordering::SeqCst);
    let reason = "found".to_owned();
    let refused = process.reconciler.record(&alert.name, Event::Cancel { reason }).await;
    assert!(refused.expect_err("away").may_pass());
    process.reconciler.cancel(&alert.name).await;
    process.dispatch.publish(0, |s| (s.state, s.ended) = (State::Cancelled, Some(WALL)));
    tokio::time::sleep(30 * SECOND).await;
    store.away.store(false, Ordering::SeqCst);
    let record = recorded(&store, State::Cancelled).await;
    assert_eq!((record.ended, &record.plan), (Some(WALL), &None));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_answers_to_what_was_cancelled() {
    let (store, clock) = store().await;
    let process = Process::serving(&store, clock).await;
    let alert = created(&store).await;
    process.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    process.dispatch.publish(0, |s| (s.state, s.ended) = (State::Expired, Some(WALL)));
    process.reconciler.all_ended().await;
    assert_eq!(read(&store).await.state, State::Expired);
}

#[tokio::test(start_paused = true)]
async fn bands_made_from_the_record_are_those_that_admission_computed() {
    let (store, clock) = store().await;
    let process = Process::serving(&store, clock).await;
    let alert = created(&store).await;
    let hint = bands(&alert).await;
    process.reconciler.hand_over(Arc::clone(&alert), hint.clone());
    let first = process.starts().await;
    let second = Process::over(&store, clock).starts().await;
    assert!(hint.len() > 2, "{} bands", hint.len());
    assert!(first.plan.bands == hint && second.plan.bands == hint);
    let same = |of: fn(&crate::planned::PlannedAlert) -> String| {
        assert_eq!(of(&first.plan), of(&second.plan));
    };
    same(|plan| format!("{:?} {:?} {:?}", plan.apps, plan.segments, plan.positions));
    same(|plan| format!("{:?} {:?} {:?}", plan.name, plan.wave, plan.log));
    same(|plan| format!("{:?} {:?}", (plan.created, plan.expires), plan.max_rate_per_second));
}

#[tokio::test(start_paused = true)]
async fn a_take_over_raises_the_epoch_before_anything_starts() {
    let (store, clock) = store().await;
    let former = Process::serving(&store, clock).await;
    let alert = created(&store).await;
    former.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    store.away.store(true, Ordering::SeqCst);
    let next = Process::over(&store, clock);
    tokio::time::sleep(5 * SECOND).await;
    assert!(next.dispatch.started.lock().is_empty(), "it cannot write its epoch");
    store.away.store(false, Ordering::SeqCst);
    let start = next.starts().await;
    next.reconciler.listed().await;
    assert_eq!((start.plan.epoch, read(&store).await.epoch), (Epoch(2), Epoch(2)));
    assert!(!start.cancelled && start.plan.is_taken_over());

    // The former coordinator records its end too late.
    former.dispatch.publish(0, |s| (s.state, s.ended) = (State::Expired, Some(WALL)));
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(read(&store).await.state, State::Active);
    assert!(former.dispatch.recorded.lock().is_empty());
    let superseded = former.dispatch.started.lock()[0].superseded.clone();
    assert!(superseded.is_cancelled(), "its run stops");
    assert!(former.reconciler.watch(&alert.name).is_none(), "watchers go to the other process");
    next.dispatch.publish(0, |s| (s.state, s.ended) = (State::Resolved, Some(WALL)));
    recorded(&store, State::Resolved).await;
}

#[tokio::test(start_paused = true)]
async fn an_alert_that_nodes_obey_another_process_for_is_left_without_an_end() {
    let (store, clock) = store().await;
    let process = Process::serving(&store, clock).await;
    let alert = created(&store).await;
    process.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    process.starts().await.superseded.cancel();
    process.reconciler.all_ended().await;
    assert!(process.reconciler.watch(&alert.name).is_none());
    assert_eq!(read(&store).await.state, State::Active);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_in_the_record_begins_the_run_cancelled() {
    let (store, clock) = store().await;
    let alert = created(&store).await;
    let former = Process::over(&store, clock);
    former.dispatch.away.store(true, Ordering::SeqCst);
    former.reconciler.listed().await;
    assert_eq!(former.drain.finish(SECOND).await, Ok(()));
    let cancel = Event::Cancel { reason: "found".to_owned() };
    former.reconciler.record(&alert.name, cancel).await.expect("up");

    let next = Process::over(&store, clock);
    next.dispatch.away.store(true, Ordering::SeqCst);
    next.reconciler.listed().await;
    let told = next.reconciler.cancel(&alert.name).await;
    // A node may have a grant of the former process, so it may still be sending.
    assert_eq!(told, CancelState::At { state: State::Cancelling, unconfirmed: Vec::new() });
    next.dispatch.comes();
    assert!(next.starts().await.cancelled);
    let told = next.reconciler.cancel(&alert.name).await;
    assert!(matches!(told, CancelState::At { unconfirmed, .. } if unconfirmed == ["a"]));
}

#[tokio::test(start_paused = true)]
async fn an_alert_whose_time_ran_out_while_nobody_ran_it_still_hears_its_nodes() {
    let (store, clock) = store().await;
    created(&store).await;
    tokio::time::sleep(70 * SECOND).await;
    let process = Process::serving(&store, clock).await;
    assert_eq!(process.starts().await.plan.epoch, Epoch(2));
    assert_eq!(read(&store).await.state, State::Active, "its run says how it ended");
    // An alert that cannot start ends nevertheless.
    assert_eq!(process.drain.finish(SECOND).await, Ok(()));
    let next = Process::over(&store, clock);
    next.dispatch.away.store(true, Ordering::SeqCst);
    recorded(&store, State::Expired).await;
}

#[tokio::test(start_paused = true)]
async fn an_alert_that_ended_meanwhile_is_not_taken_over() {
    let (store, clock) = store().await;
    let alert = created(&store).await;
    let process = Process::over(&store, clock);
    let end = Event::End(State::Resolved);
    events::apply(&*store, &alert.name, end, WALL, None).await.expect("before the list is read");
    process.reconciler.listed().await;
    tokio::time::sleep(SECOND).await;
    assert!(process.dispatch.started.lock().is_empty());
    assert_eq!(process.reconciler.cancel(&alert.name).await, CancelState::Unknown);
    assert_eq!(read(&store).await.epoch, Epoch(1));
}
