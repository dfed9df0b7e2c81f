//! Random operations on the memory engine and on a database give equal answers, also when the
//! database is closed and opened between them. Each engine runs this in its tests.

use std::sync::Arc;

use clarion_proto::{
    alert::Mode,
    app::Identity,
    device::{Change, Record},
    ids::{
        AlertName, AppName, CoordinatorId, DeviceId, Epoch, LogId, LogIdentity, Position,
        UnixMillis,
    },
    wire::v1 as wire,
};
use clarion_runtime::world::World;
use proptest::{prelude::*, sample::select};

use super::{Engine, SqlStore};
use crate::{
    owners::{NodeName, Ownership},
    snapshot::State,
    store::{
        AlertCursor, AlertFilter, AlertRecord, AlertStore, AppRecord, ChangeLog, Checkpoint,
        ClusterStore, Created, LaneDirector, RecordBatch, RequestId, fixtures::record,
        memory::MemoryStore, suite::app,
    },
};

/// Maximum number of active alerts in the model.
const ACTIVE_MAX: usize = 3;

/// One step: an operation, or a restart of the process.
#[derive(Debug, Clone)]
pub(in crate::store) enum Step {
    Reopen,
    CreateApp { app: u8, identity: Identity },
    ReplaceApp { app: u8, revision: u64 },
    DeleteApp { app: u8 },
    CreateAlert { alert: u8, request: u8, apps: Vec<u8>, created: u64, external: String },
    ReplaceAlert { alert: u8, epoch: u64, revision: u64, state: State },
    PutCheckpoint { alert: u8, epoch: u64, number: u64 },
    ReplaceOwnership { number: u64 },
    ReplaceDirector { epoch: u64 },
    Append { logs: Vec<u16>, device: u8 },
    Trim { log: u16, before: u64 },
    List { external: Option<String>, states: Vec<State>, from: Option<u64>, limit: usize },
}

/// Strategy that draws one step.
pub(in crate::store) fn step() -> impl Strategy<Value = Step> {
    let states =
        [State::Active, State::Cancelling, State::Cancelled, State::Resolved, State::Expired];
    let state = select(states.to_vec());
    let named = vec!["case-1".to_owned(), "nul \0 and ü".to_owned()];
    let external = select([vec![String::new()], named.clone()].concat());
    let identity = select(vec![Identity::Device, Identity::Token]);
    let app = 0..3u8;
    prop_oneof![
        1 => Just(Step::Reopen),
        3 => (app.clone(), identity).prop_map(|(app, identity)| Step::CreateApp { app, identity }),
        1 => (app.clone(), 1..5u64).prop_map(|(app, revision)| Step::ReplaceApp { app, revision }),
        2 => app.clone().prop_map(|app| Step::DeleteApp { app }),
        5 => (0..6u8, 0..6u8, prop::collection::vec(app, 1..3), 0..5u64, external).prop_map(
            |(alert, request, apps, created, external)| {
                Step::CreateAlert { alert, request, apps, created, external }
            }
        ),
        6 => (0..6u8, 1..4u64, 1..5u64, state.clone()).prop_map(
            |(alert, epoch, revision, state)| Step::ReplaceAlert { alert, epoch, revision, state }
        ),
        3 => (0..6u8, 1..4u64, 1..4u64)
            .prop_map(|(alert, epoch, number)| Step::PutCheckpoint { alert, epoch, number }),
        1 => (1..5u64).prop_map(|number| Step::ReplaceOwnership { number }),
        1 => (1..5u64).prop_map(|epoch| Step::ReplaceDirector { epoch }),
        5 => (select(vec![vec![0], vec![1], vec![2, 0], vec![3, 1, 0], vec![4, 1]]), any::<u8>())
            .prop_map(|(logs, device)| Step::Append { logs, device }),
        2 => (0..4u16, 0..9u64).prop_map(|(log, before)| Step::Trim { log, before }),
        2 => (
            // A list without the condition has none: it never asks for an empty identifier.
            prop::option::of(select(named)),
            prop::collection::vec(state, 0..2),
            prop::option::of(0..5u64),
            1..4usize
        )
            .prop_map(|(external, states, from, limit)| {
                Step::List { external, states, from, limit }
            }),
    ]
}

fn app_name(app: u8) -> AppName {
    AppName::from_id(["demo", "de", "demo-2"][usize::from(app)]).expect("valid")
}

fn alert_name(alert: u8) -> AlertName {
    AlertName::from_id(&format!("a{alert}")).expect("valid")
}

fn shown_alert(alert: &AlertRecord) -> String {
    format!("{:?}", AlertRecord { log: LogIdentity([0; 16]), ..alert.clone() })
}

fn shown_alerts(alerts: &[Arc<AlertRecord>]) -> Vec<String> {
    alerts.iter().map(|alert| shown_alert(alert)).collect()
}

fn created<T>(created: Created<T>, shown: impl Fn(&T) -> String) -> String {
    match created {
        Created::New(record) => format!("new {}", shown(&record)),
        Created::Existing(record) => format!("existing {}", shown(&record)),
    }
}

/// Performs a step and shows its result.
async fn perform(store: &(impl AlertStore + ClusterStore + ChangeLog), step: &Step) -> String {
    match step.clone() {
        Step::Reopen => String::new(),
        Step::CreateApp { app: name, identity } => {
            let mut app = app(app_name(name).id());
            app.app.identity = identity;
            format!(
                "{:?}",
                store
                    .create_app(app)
                    .await
                    .map(|made| created(made, |app: &AppRecord| format!("{app:?}")))
            )
        }
        Step::ReplaceApp { app: name, revision } => {
            let replaced = AppRecord { revision, ..app(app_name(name).id()) };
            format!("{:?}", store.replace_app(replaced).await)
        }
        Step::DeleteApp { app } => format!("{:?}", store.delete_app(&app_name(app)).await),
        Step::CreateAlert { alert, request, apps, created: at, external } => {
            let mode = wire::Mode::Live.into();
            let submitted = wire::Alert { external_id: external, mode, ..Default::default() };
            let alert = AlertRecord {
                name: alert_name(alert),
                request_id: RequestId(uuid::Uuid::from_u128(request.into())),
                apps: apps.into_iter().map(app_name).collect(),
                submitted: Arc::new(submitted),
                ..record("a", at)
            };
            let made = store.create_alert(alert, ACTIVE_MAX).await;
            format!("{:?}", made.map(|made| created(made, shown_alert)))
        }
        Step::ReplaceAlert { alert, epoch, revision, state } => {
            let name = alert_name(alert);
            let Some(stored) = store.alert(&name).await.expect("up") else {
                let unknown = AlertRecord { name, ..record("a", 1) };
                return format!(
                    "{:?}",
                    store.replace_alert(unknown).await.map(|a| shown_alert(&a))
                );
            };
            // Half of the revisions are right.
            let revision = if revision < 3 { stored.revision + 1 } else { revision };
            let plan = if state.is_final() { None } else { stored.plan.clone() };
            let next =
                AlertRecord { epoch: Epoch(epoch), revision, state, plan, ..(*stored).clone() };
            format!("{:?}", store.replace_alert(next).await.map(|a| shown_alert(&a)))
        }
        Step::PutCheckpoint { alert, epoch, number } => {
            let (alert, bytes) = (alert_name(alert), bytes::Bytes::from_static(b"0\0"));
            let checkpoint = Checkpoint { alert, epoch: Epoch(epoch), number, bytes };
            format!("{:?}", store.put_checkpoint(checkpoint).await)
        }
        Step::ReplaceOwnership { number } => {
            let nodes = [NodeName::new("n").expect("valid")];
            format!("{:?}", store.replace_ownership(Ownership::assign(number, 8, &nodes)).await)
        }
        Step::ReplaceDirector { epoch } => {
            let next = LaneDirector { epoch: Epoch(epoch), coordinator: CoordinatorId([7; 16]) };
            format!("{:?}", store.replace_lane_director(next).await)
        }
        Step::Append { logs, device } => {
            let batches = logs.into_iter().map(|log| (LogId(log), batch(device)));
            format!("{:?}", store.append_all(batches.collect()).await)
        }
        Step::Trim { log, before } => {
            format!("{:?}", store.trim(LogId(log), Position(before)).await)
        }
        Step::List { external, states, from, limit } => {
            let filter = AlertFilter {
                states,
                modes: vec![Mode::Live],
                external_id: external,
                created_from: from.map(UnixMillis),
                ..AlertFilter::default()
            };
            let first = store.alerts(&filter, None, limit).await.expect("up");
            let cursor = first
                .last()
                .map(|alert| AlertCursor { created: alert.created, name: alert.name.clone() });
            let next = store.alerts(&filter, cursor.as_ref(), limit).await.expect("up");
            format!("{:?} {:?}", shown_alerts(&first), shown_alerts(&next))
        }
    }
}

/// Everything that can be read.
async fn all(store: &(impl AlertStore + ClusterStore + ChangeLog)) -> Vec<String> {
    let mut all = vec![
        format!("{:?}", store.heads().await),
        format!("{:?}", store.apps(None, 99).await),
        format!("{:?}", shown_alerts(&store.active_alerts().await.expect("up"))),
        format!("{:?} {:?}", store.ownership().await, store.lane_director().await),
    ];
    for app in 0..3 {
        let (record, deleted) =
            (store.app(&app_name(app)).await, store.deleted_identity(&app_name(app)).await);
        all.push(format!("{record:?} {deleted:?}"));
    }
    for alert in 0..6 {
        let checkpoint = store.checkpoint(&alert_name(alert)).await;
        let request = RequestId(uuid::Uuid::from_u128(alert.into()));
        let of_request = store.alert_by_request(request).await.expect("up");
        all.push(format!("{checkpoint:?} {:?}", of_request.map(|alert| shown_alert(&alert))));
    }
    for log in 0..4 {
        for after in 0..6 {
            // No limit: a database counts sealed bytes.
            let read = store.read_many(&[(LogId(log), Position(after))], 1 << 20).await;
            let batches = read.map(|read| {
                let batches = read.into_iter().flat_map(|(_, batches)| batches);
                batches.map(|batch| (batch.position, batch.records)).collect::<Vec<_>>()
            });
            let until = store.records_until(&[(LogId(log), Position(after))]).await;
            all.push(format!("{log} {after}: {batches:?} {until:?}"));
        }
    }
    all
}

/// Performs steps on an empty store of four logs and on the model; `open` opens the same database
/// each time.
pub(in crate::store) async fn compare<E: Engine>(
    steps: &[Step],
    open: impl AsyncFn() -> SqlStore<E>,
) {
    let model = MemoryStore::new(4, 1 << 30, &World::system());
    let mut store = open().await;
    for step in steps {
        if matches!(step, Step::Reopen) {
            store.close().await;
            store = open().await;
        }
        assert_eq!(perform(&store, step).await, perform(&model, step).await, "{step:?}");
        for app in (0..3).map(app_name) {
            assert_eq!(store.app(&app).await, model.app(&app).await, "{app} after {step:?}");
        }
    }
    let before = all(&store).await;
    assert_eq!(before, all(&model).await);
    store.close().await;
    let store = open().await;
    assert_eq!(all(&store).await, before, "opened again");
    store.close().await;
}

/// A batch of one record, whose device has `byte` sixteen times.
pub(in crate::store) fn batch(byte: u8) -> RecordBatch {
    let device = DeviceId([byte; 16]);
    RecordBatch::from_records(&[Record {
        device,
        observed: UnixMillis(1),
        change: Change::Removal,
    }])
}
