//! A server to talk to, nodes that do as the test says, and requests that are valid until a test
//! spoils them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clarion_coordinator::{
    admission::Admission,
    api::{self, Context, ports},
    archive::Archive,
    config::{Args, Config},
    dispatch::{CancelState, CountError, Dispatch, Start, StartError},
    lane::LaneKey,
    lane_owner::LaneError,
    members::registry::RegistryTotals,
    planned::{CountPlan, CountedDevices, PlannedAlert},
    reconcile::Reconciler,
    snapshot::{self, Snapshot, State},
    state::Kept,
    store::{Store, memory::MemoryStore},
};
use clarion_proto::{
    ids::AlertName,
    wire::v1::{
        self as wire, alert_service_client::AlertServiceClient,
        app_service_client::AppServiceClient, registry_service_client::RegistryServiceClient,
    },
};
use clarion_runtime::{
    drain::Drain,
    listener::{Limits, Port},
    world::World,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

/// Longer than anything here takes on a loaded machine: the largest cover takes 15 s of CPU without
/// optimization.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Bounds a wait.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// Nodes as the test scripts them.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) started: Mutex<Vec<Arc<PlannedAlert>>>,
    pub(crate) lanes: Mutex<Vec<LaneKey>>,
    snapshots: Mutex<BTreeMap<AlertName, watch::Sender<Arc<Snapshot>>>>,
    /// Alerts whose end the store has.
    pub(crate) recorded: Mutex<Vec<AlertName>>,
    /// True: no node is there.
    pub(crate) away: Mutex<bool>,
    /// Lanes that cannot exist.
    pub(crate) broken: Mutex<Vec<LaneKey>>,
    changes: watch::Sender<u64>,
    /// True: cancels are not confirmed.
    pub(crate) deaf: Mutex<bool>,
    pub(crate) totals: Mutex<RegistryTotals>,
    /// How many the nodes say an audience has when an alert asks; `None`: enough.
    pub(crate) audience: Mutex<Option<u64>>,
    /// How many devices the first app has in each band, if a test says so; see [`Nodes::count`].
    pub(crate) counted: Mutex<Option<Vec<u64>>>,
    /// Bands of each question whether an audience is large enough.
    pub(crate) questions: Mutex<Vec<usize>>,
    /// A question whether an audience is large enough waits for a permit while this is set.
    pub(crate) gate: Mutex<Option<Arc<tokio::sync::Semaphore>>>,
}

impl Nodes {
    /// Publishes a change of an alert's state, as reports would.
    pub(crate) fn publish(&self, name: &AlertName, change: impl FnOnce(&mut Snapshot)) {
        let snapshots = self.snapshots.lock();
        snapshots[name].send_modify(|snapshot| {
            let next = Arc::make_mut(snapshot);
            next.version += 1;
            change(next);
        });
    }

    /// Forgets an alert, as dispatch does some time after its end.
    pub(crate) fn forget(&self, name: &AlertName) {
        self.snapshots.lock().remove(name);
    }
}

#[tonic::async_trait]
impl Dispatch for Nodes {
    fn ensure_lane(&self, key: &LaneKey) -> Result<(), LaneError> {
        self.lanes.lock().push(key.clone());
        Ok(())
    }

    fn check_start(&self, lanes: &[&LaneKey]) -> Result<(), StartError> {
        if *self.away.lock() {
            return Err(StartError::NoNodes { configured: 1 });
        }
        match lanes.iter().find(|lane| self.broken.lock().contains(*lane)) {
            None => Ok(()),
            Some(lane) => Err(StartError::Lane(LaneError {
                gateway: lane.gateway.clone(),
                credential: lane.credential.clone(),
                problem: "the key makes no token".to_owned(),
            })),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn recorded(&self, alert: &AlertName) {
        self.recorded.lock().push(alert.clone());
    }

    fn start(&self, start: Start) -> Result<(), StartError> {
        let Start { plan: alert, cancelled, snapshots, .. } = start;
        self.check_start(&[])?;
        let bands = alert.bands.iter().map(|band| snapshot::BandCounts {
            from_m: band.from_m,
            to_m: band.to_m,
            walked: false,
            counts: snapshot::Counts::default(),
        });
        let state = if cancelled { State::Cancelling } else { State::Active };
        let snapshot = Snapshot {
            version: 1,
            nodes: 2,
            bands: bands.collect(),
            ..Snapshot::empty(alert.name.clone(), state)
        };
        snapshots.send_replace(Arc::new(snapshot));
        self.snapshots.lock().insert(alert.name.clone(), snapshots);
        self.started.lock().push(alert);
        Ok(())
    }

    async fn cancel(&self, alert: &AlertName) -> CancelState {
        if !self.snapshots.lock().contains_key(alert) {
            return CancelState::Unknown;
        }
        let deaf = *self.deaf.lock();
        let state = if deaf { State::Cancelling } else { State::Cancelled };
        self.publish(alert, |snapshot| snapshot.state = state);
        CancelState::At {
            state,
            unconfirmed: if deaf { vec!["node-1".to_owned()] } else { vec![] },
        }
    }

    async fn count(&self, plan: CountPlan) -> Result<CountedDevices, CountError> {
        if *self.away.lock() {
            return Err(CountError::NoNodes { configured: 1 });
        }
        if let Some(counted) = &*self.counted.lock() {
            let devices = vec![counted[..plan.bands.len()].to_vec()];
            return Ok(CountedDevices { devices, left_out_for_age: 0 });
        }
        // App i has (i + 1) × 30 devices in every band.
        let devices = (1..=plan.apps.len() as u64).map(|app| vec![app * 30; plan.bands.len()]);
        let left_out_for_age = if plan.place_seen_after.0 == 0 { 0 } else { 250 };
        Ok(CountedDevices { devices: devices.collect(), left_out_for_age })
    }

    async fn reaches(&self, plan: CountPlan, least: u64) -> Result<bool, CountError> {
        self.questions.lock().push(plan.bands.len());
        let gate = self.gate.lock().clone();
        if let Some(gate) = gate {
            gate.acquire().await.expect("open").forget();
        }
        if *self.away.lock() {
            return Err(CountError::NoNodes { configured: 1 });
        }
        Ok(self.audience.lock().is_none_or(|audience| audience >= least))
    }

    fn registry(&self) -> RegistryTotals {
        self.totals.lock().clone()
    }

    fn has_session(&self, node: &str) -> bool {
        node.starts_with("node-")
    }
}

/// A running server and a channel to it. It ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) context: Arc<Context>,
    /// What the coordinator stands on.
    pub(crate) kept: Kept,
    pub(crate) channel: Channel,
    pub(crate) address: SocketAddr,
    pub(crate) feed_address: SocketAddr,
}

async fn any_port(world: &World, limits: Limits) -> Port {
    Port::bind(world, ([127, 0, 0, 1], 0).into(), limits).await.expect("a port")
}

/// The gateways `apns` (test) and `apns-live` with the credential `team`, `fcm` (test) with
/// `google`.
const LANES: &str = r#"
[[gateways]]
name = "apns"
platform = "apns"
endpoint = "127.0.0.1:2197"
environment = "sandbox"
lane_kind = "test"

[[gateways]]
name = "apns-live"
platform = "apns"
endpoint = "127.0.0.1:2198"
environment = "production"
lane_kind = "live"

[[credentials]]
name = "team"
kind = "apns"
key_file = "team.p8"
key_id = "KEY1234567"
team_id = "TEAM123456"

[[gateways]]
name = "fcm"
platform = "fcm"
endpoint = "127.0.0.1:2199"
environment = "sandbox"
lane_kind = "test"

[[credentials]]
name = "google"
kind = "fcm"
service_account_file = "google.json"
"#;

/// A configuration over a fresh key.
pub(crate) fn config(args: Args) -> Config {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (config, store) = (Some(config_file(directory.path())), "memory".parse().ok());
    Config::load(Args { config, store, ..args }).expect("valid")
}

/// The same as a file, its key beside it.
pub(crate) fn config_file(directory: &Path) -> PathBuf {
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &ring::rand::SystemRandom::new(),
    );
    let base64 = data_encoding::BASE64.encode(key.expect("randomness").as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n");
    std::fs::write(directory.join("team.p8"), pem).expect("written");
    let account = serde_json::json!({
        "type": "service_account",
        "project_id": "demo-project",
        "private_key": include_str!("../keys/rsa-2048.pem"),
        "client_email": "clarion@demo-project.iam.gserviceaccount.com",
        "token_uri": "https://127.0.0.1:2200/token",
    });
    std::fs::write(directory.join("google.json"), account.to_string()).expect("written");
    let path = directory.join("clarion.toml");
    std::fs::write(&path, LANES).expect("written");
    path
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(Args::default()).await
    }

    pub(crate) async fn start_with(args: Args) -> Self {
        let (config, world) = (config(args), World::system());
        let store = MemoryStore::new(config.dispatch.logs, config.store.bytes_max, &world);
        let store: Arc<dyn Store> = Arc::new(store);
        Self::start_over(config, store.into(), world).await
    }

    /// Over a store and objects that may have content.
    pub(crate) async fn start_over(config: Config, kept: Kept, world: World) -> Self {
        let Kept { store, objects, seals, .. } = kept.clone();
        let nodes = Arc::new(Nodes::default());
        let archive =
            Archive::new(config.archive, Arc::clone(&store), objects, seals, world.clone());
        let drain = Drain::new();
        let admission = Arc::new(Admission::new(config.admission));
        let dispatch: Arc<dyn Dispatch> = Arc::clone(&nodes) as _;
        let reconciler = Reconciler::spawn(
            Arc::clone(&store) as _,
            Arc::clone(&dispatch),
            Arc::clone(&admission),
            world.clock(),
            drain.clone(),
        );
        let context = Arc::new(Context {
            admission,
            dispatch,
            reconciler,
            drain,
            world: world.clone(),
            log: Arc::clone(&store) as _,
            store,
            archive: Arc::new(archive),
            config: config.api,
            observed: Arc::default(),
        });
        context.reconciler.listed().await;
        let callers = any_port(&world, ports::api(&context.config)).await;
        let feeds = any_port(&world, ports::feed()).await;
        let (address, feed_address) = (callers.address(), feeds.address());
        let routes = api::routes(&context).expect("descriptors");
        let (of_callers, of_feeds) = (Arc::clone(&context), Arc::clone(&context));
        tokio::spawn(async move {
            ports::serve_api(callers, &of_callers, routes, std::future::pending()).await;
        });
        tokio::spawn(async move {
            ports::serve_feed(feeds, &of_feeds, std::future::pending()).await;
        });
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect().await.expect("the server listens");
        Self { nodes, context, kept, channel, address, feed_address }
    }

    /// With the app `apps/demo` on the test lane.
    pub(crate) async fn with_demo() -> Self {
        Self::with_demo_and(Args::default()).await
    }

    pub(crate) async fn with_demo_and(args: Args) -> Self {
        let server = Self::start_with(args).await;
        soon(server.apps().create_app(demo_app())).await.expect("created");
        server
    }

    /// A connection from another address: another peer. All of 127.0.0.0/8 is this machine.
    pub(crate) async fn from(&self, host: u8) -> Channel {
        let endpoint =
            Channel::from_shared(format!("http://{}", self.address)).expect("an address");
        let local = std::net::Ipv4Addr::new(127, 0, 0, host);
        soon(endpoint.local_address(Some(local.into())).connect()).await.expect("listens")
    }

    pub(crate) fn apps(&self) -> AppServiceClient<Channel> {
        AppServiceClient::new(self.channel.clone())
    }

    pub(crate) fn alerts(&self) -> AlertServiceClient<Channel> {
        AlertServiceClient::new(self.channel.clone())
    }

    pub(crate) fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel.clone())
    }

    /// A node's channel to the feeds.
    pub(crate) async fn feeds(&self) -> Channel {
        let endpoint =
            Channel::from_shared(format!("http://{}", self.feed_address)).expect("an address");
        soon(endpoint.connect()).await.expect("the server listens")
    }

    /// Creates the alert of [`demo_alert`] under a request id.
    pub(crate) async fn created(&self, request: u128) -> wire::Alert {
        soon(self.alerts().create_alert(create(request, demo_alert())))
            .await
            .expect("created")
            .into_inner()
    }
}

pub(crate) fn app(id: &str) -> wire::CreateAppRequest {
    let app = wire::App {
        platform: wire::Platform::Apns.into(),
        gateway: "apns".into(),
        credential: "team".into(),
        topic: "org.example.demo".into(),
        environment: wire::Environment::Sandbox.into(),
        lane_kind: wire::LaneKind::Test.into(),
        ..Default::default()
    };
    wire::CreateAppRequest { app_id: id.into(), app: Some(app) }
}

/// An app whose devices are their tokens.
pub(crate) fn token_app(id: &str) -> wire::CreateAppRequest {
    let mut request = app(id);
    request.app.as_mut().expect("set").identity = wire::Identity::Token.into();
    request
}

/// On the lane `fcm/google`.
pub(crate) fn fcm_app(id: &str) -> wire::CreateAppRequest {
    let mut request = app(id);
    let app = request.app.as_mut().expect("set");
    app.platform = wire::Platform::Fcm.into();
    (app.gateway, app.credential) = ("fcm".into(), "google".into());
    (app.topic, app.project) = (String::new(), "demo-project".into());
    request
}

/// On the lane `apns-live/team`, with real people behind it.
pub(crate) fn live_app(id: &str) -> wire::CreateAppRequest {
    let mut request = app(id);
    let app = request.app.as_mut().expect("set");
    app.gateway = "apns-live".into();
    app.environment = wire::Environment::Production.into();
    app.lane_kind = wire::LaneKind::Live.into();
    request
}

pub(crate) fn demo_app() -> wire::CreateAppRequest {
    app("demo")
}

/// 12 km around a place in Shenzhen, for ten minutes from now.
pub(crate) fn demo_alert() -> wire::Alert {
    let message =
        wire::Message { title: "Missing child".into(), body: "Last seen at the station.".into() };
    let circle = wire::Circle {
        center: Some(wire::LatLng { latitude: 22.54, longitude: 114.06 }),
        radius_meters: 12_000.0,
    };
    wire::Alert {
        case: Some(wire::Case {
            messages: [("en".to_owned(), message)].into(),
            fallback_locale: "en".into(),
            ..Default::default()
        }),
        severity: wire::Severity::Urgent.into(),
        region: Some(wire::Region {
            shape: Some(wire::region::Shape::Circle(circle)),
            exclusions: vec![],
            datum: 0,
        }),
        audience: Some(wire::Audience { apps: vec!["apps/demo".into()], ..Default::default() }),
        active_until: Some(from_now(600)),
        mode: wire::Mode::Test.into(),
        ..Default::default()
    }
}

pub(crate) fn create(request: u128, alert: wire::Alert) -> wire::CreateAlertRequest {
    let request_id = uuid::Uuid::from_u128(request).to_string();
    wire::CreateAlertRequest { alert: Some(alert), request_id, validate_only: false }
}

/// Seconds from now on the wall clock; negative: ago.
pub(crate) fn from_now(seconds: i64) -> prost_types::Timestamp {
    let now: prost_types::Timestamp = std::time::SystemTime::now().into();
    prost_types::Timestamp { seconds: now.seconds + seconds, nanos: 0 }
}

pub(crate) fn name(alert: &wire::Alert) -> AlertName {
    AlertName::from_name(&alert.name).expect("a name")
}

/// The one field that a refusal names.
pub(crate) fn field(status: &Status) -> String {
    violation(status).0
}

/// The one field that a refusal names, and what it says of it.
pub(crate) fn violation(status: &Status) -> (String, String) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violations = status.get_details_bad_request().expect("BadRequest").field_violations;
    let [violation] = &violations[..] else { panic!("one field: {violations:?}") };
    (violation.field.clone(), violation.description.clone())
}

/// Code and reason of a refusal that says when to try again.
pub(crate) fn busy(status: &Status) -> (Code, String) {
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert!(retry.is_some_and(|delay| !delay.is_zero()), "RetryInfo: {status:?}");
    reason(status)
}

/// Code and ErrorInfo's reason.
pub(crate) fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().expect("ErrorInfo").reason)
}
