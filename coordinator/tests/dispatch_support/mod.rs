//! Shard nodes that say what a test tells them to, over real gRPC: on loopback TCP, or on pipes
//! where time is paused (real sockets and paused time do not mix: the clock would jump while a
//! packet is on its way).

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]
// Each test file uses a part of it; what fails here fails the test.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_coordinator::{
    bands::Band,
    dispatch::{Dispatch as _, DispatchConfig, Dispatcher, NodesConfig, Start},
    lane::{ConnectionLimits, Gateway, LaneKey},
    lane_owner::{ApnsKey, Credential},
    planned::{ApnsRequest, AppPlan, LocaleMessage, PlannedAlert, PushRequest},
    snapshot::{Snapshot, State},
    store::{ChangeLog as _, memory::MemoryStore},
};
use clarion_proto::{
    app::Platform,
    ids::{AlertName, AppName, ClusterName, Epoch, UnixMillis, WaveId},
    wire::shard_v1::{
        self as wire, SessionRequest, SessionResponse,
        session_request::Message,
        session_response::Message as Said,
        shard_service_server::{ShardService, ShardServiceServer},
    },
};
pub use clarion_runtime::world::Pipes;
use clarion_runtime::world::{Clock, Listener, World};
use futures_util::FutureExt as _;
use h3o::{LatLng, Resolution};
use roaring::RoaringBitmap;
use secrecy::SecretString;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// For everything that must happen; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const PARTITIONS: u16 = 8;
pub const BOOT_1: [u8; 16] = [1; 16];
pub const BOOT_2: [u8; 16] = [2; 16];

/// A node's side of the service; each session is handed to the test.
struct Script(mpsc::Sender<Peer>);

#[tonic::async_trait]
impl ShardService for Script {
    type SessionStream = ReceiverStream<Result<SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (says, said) = mpsc::channel(64);
        let peer = Peer { hears: request.into_inner(), says };
        self.0.send(peer).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(said)))
    }
}

/// A process that a test plays; what listens ends with it.
pub struct ScriptedNode {
    pub address: SocketAddr,
    sessions: mpsc::Receiver<Peer>,
    server: JoinHandle<()>,
}

impl Drop for ScriptedNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ScriptedNode {
    /// On a port that the system chooses.
    pub async fn tcp() -> Self {
        Self::on(World::system().listen(([127, 0, 0, 1], 0).into()).await.unwrap())
    }

    /// On an address of a network without sockets, reachable from now on.
    pub fn on_pipes(pipes: &Pipes, address: SocketAddr) -> Self {
        Self::on(pipes.open(address))
    }

    fn on(listener: Listener) -> Self {
        let address = listener.address();
        let (sender, sessions) = mpsc::channel(4);
        let incoming = futures_util::stream::unfold(listener, async |mut listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let serve = Server::builder()
            .add_service(
                ShardServiceServer::new(Script(sender)).max_decoding_message_size(64 << 20),
            )
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move { serve.await.unwrap() });
        Self { address, sessions, server }
    }

    /// The next session.
    pub async fn session(&mut self) -> Peer {
        timeout(PATIENCE, self.sessions.recv()).await.expect("a session").unwrap()
    }

    /// The next session, said hello in.
    pub async fn hello(&mut self, name: &str, boot: [u8; 16]) -> Peer {
        let mut peer = self.session().await;
        peer.open().await;
        peer.say(Said::Hello(hello(name, boot))).await;
        peer
    }
}

/// What a process that holds nothing says.
pub fn hello(node: &str, boot: [u8; 16]) -> wire::Hello {
    wire::Hello {
        node: node.to_owned(),
        boot_id: boot.to_vec(),
        version: "scripted".to_owned(),
        cores: 1,
        positions: Vec::new(),
        cluster: ClusterName::DEFAULT.to_owned(),
        log_identity: Vec::new(),
    }
}

/// One session, from the node's side.
pub struct Peer {
    hears: Streaming<SessionRequest>,
    says: mpsc::Sender<Result<SessionResponse, Status>>,
}

impl Peer {
    pub async fn say(&self, message: Said) {
        let response = SessionResponse { message: Some(message) };
        timeout(PATIENCE, self.says.send(Ok(response)))
            .await
            .expect("room")
            .expect("the coordinator listens");
    }

    /// Ends the session from the node's side.
    pub async fn fail(&self, status: Status) {
        timeout(PATIENCE, self.says.send(Err(status)))
            .await
            .expect("room")
            .expect("the coordinator listens");
    }

    /// What the coordinator says next; `None`: it ended the session.
    pub async fn next(&mut self) -> Option<Message> {
        match timeout(PATIENCE, self.hears.message()).await.expect("a message") {
            Ok(message) => message.map(|m| m.message.expect("a message of some kind")),
            Err(_) => None, // reset: it is gone as well
        }
    }

    /// The coordinator's first message.
    pub async fn open(&mut self) -> wire::Open {
        match self.next().await {
            Some(Message::Open(open)) => open,
            other => panic!("the coordinator speaks first: {other:?}"),
        }
    }

    /// The next message of the kind that `pick` takes, past all others.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(Message) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await.expect("the session goes on")) {
                return found;
            }
        }
    }

    pub async fn wave(&mut self) -> wire::Wave {
        self.until(|m| if let Message::Wave(wave) = m { Some(wave) } else { None }).await
    }

    pub async fn end(&mut self) -> wire::End {
        self.until(|m| if let Message::End(end) = m { Some(end) } else { None }).await
    }

    pub async fn cancel(&mut self) -> wire::Cancel {
        self.until(|m| if let Message::Cancel(cancel) = m { Some(cancel) } else { None }).await
    }

    /// Asks for leave for a wave, and what came of it.
    pub async fn lease(&mut self, nonce: u64, wave: &wire::Wave) -> wire::Grant {
        self.say(Said::LeaseRequest(wire::LeaseRequest {
            nonce,
            waves: vec![wave.id],
            lanes: Vec::new(),
        }))
        .await;
        self.until(|m| if let Message::Grant(grant) = m { Some(grant) } else { None }).await
    }

    pub async fn report(&self, report: wire::Report) {
        self.say(Said::Report(report)).await;
    }

    pub async fn stopped(&self, wave: &wire::Wave) {
        let stopped =
            wire::Stopped { wave: wave.id, last_write_ago_us: Some(10), written_after_cancel: 0 };
        self.say(Said::Stopped(stopped)).await;
    }

    /// True once the coordinator has ended the session.
    pub async fn is_ended(&mut self) -> bool {
        self.next().await.is_none()
    }
}

/// A report of the first band.
pub fn report(wave: &wire::Wave, sequence: u64, handed: u64, accepted: u64) -> wire::Report {
    wire::Report {
        wave: wave.id,
        epoch: wave.epoch,
        sequence,
        bands: vec![wire::BandReport { band: 0, handed, accepted, ..wire::BandReport::default() }],
        ..wire::Report::default()
    }
}

/// The same, saying that all is done.
pub fn complete(wave: &wire::Wave, sequence: u64, handed: u64, accepted: u64) -> wire::Report {
    wire::Report { bands_walked: 2, complete: true, ..report(wave, sequence, handed, accepted) }
}

/// The same, saying that nothing will change any more.
pub fn ended(wave: &wire::Wave, sequence: u64, handed: u64, accepted: u64) -> wire::Report {
    wire::Report { ended: true, ..complete(wave, sequence, handed, accepted) }
}

pub fn ordinals(partition: u32, ordinals: &[u32]) -> wire::OrdinalSet {
    let mut bytes = Vec::new();
    ordinals.iter().copied().collect::<RoaringBitmap>().serialize_into(&mut bytes).unwrap();
    wire::OrdinalSet { partition, ordinals: bytes.into() }
}

/// A dispatcher with one gateway and one credential, and its log.
pub struct Coordinator {
    pub dispatcher: Dispatcher,
    pub log: Arc<MemoryStore>,
    pub clock: Clock,
}

impl Coordinator {
    pub fn over_tcp(nodes: &[&ScriptedNode]) -> Self {
        let addresses: Vec<_> = nodes.iter().map(|n| n.address).collect();
        Self::new(&addresses, &World::system())
    }

    pub fn over_pipes(addresses: &[SocketAddr], pipes: &Pipes) -> Self {
        Self::new(addresses, &World::new(Clock::start(), 1, Arc::new(pipes.clone())))
    }

    fn new(addresses: &[SocketAddr], world: &World) -> Self {
        let log = Arc::new(MemoryStore::new(PARTITIONS, 1 << 20, world));
        Self::over_store(addresses, log, world)
    }

    /// Over a store that may hold the work of a former coordinator.
    pub fn over_store(addresses: &[SocketAddr], log: Arc<MemoryStore>, world: &World) -> Self {
        let config = config(addresses, credential());
        let dispatcher = Dispatcher::spawn(config, log.clone() as _, world.clone());
        Self { dispatcher, log, clock: world.clock() }
    }

    /// An alert that is over `seconds` from now.
    pub fn alert(&self, id: &str, seconds: u64) -> Arc<PlannedAlert> {
        let cell = LatLng::new(22.54, 114.06).unwrap().to_cell(Resolution::Nine);
        let band = |from_m, to_m| Band { from_m, to_m, cells: vec![cell] };
        let (now, positions) = (self.clock.wall(), self.log.heads());
        Arc::new(PlannedAlert {
            name: AlertName::from_id(id).unwrap(),
            wave: WaveId(11),
            epoch: Epoch(1),
            bands: vec![band(0.0, 1_000.0), band(1_000.0, 2_000.0)].into(),
            apps: vec![AppPlan {
                app: AppName::from_id("demo").unwrap(),
                lane: LaneKey { gateway: "g".to_owned(), credential: "c".to_owned() },
                request: PushRequest::Apns(ApnsRequest {
                    topic: "org.example.demo".to_owned(),
                    push_type: "alert".to_owned(),
                    priority: 10,
                    expiration: 1_800_000_000,
                    collapse_id: id.to_owned(),
                }),
                messages: vec![LocaleMessage {
                    locale: "en".to_owned(),
                    body: Bytes::from_static(b"{\"aps\":{}}"),
                    body_after_token: Bytes::new(),
                }],
            }],
            segments: Vec::new(),
            place_seen_after: UnixMillis(0),
            log: self.log.identity(),
            positions: positions.now_or_never().expect("memory does not wait").unwrap(),
            created: now,
            expires: UnixMillis(now.0 + 1_000 * seconds),
            max_rate_per_second: 1_000,
        })
    }

    /// Starts an alert as soon as partitions are shared out, and gives its progress.
    pub async fn start(&self, alert: &Arc<PlannedAlert>) -> watch::Receiver<Arc<Snapshot>> {
        let shared_out = async {
            while self.dispatcher.nodes().iter().map(|n| n.partitions).sum::<u16>() < PARTITIONS {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, shared_out).await.expect("partitions are shared out");
        let (start, watch) = start_of(alert);
        self.dispatcher.start(start).unwrap();
        let (dispatcher, name, mut newest) =
            (self.dispatcher.clone(), alert.name.clone(), watch.clone());
        tokio::spawn(async move {
            if newest.wait_for(|s| s.state.is_final()).await.is_ok() {
                dispatcher.recorded(&name).await;
            }
        });
        watch
    }
}

/// Dispatch with these nodes, one gateway and one credential.
pub fn config(addresses: &[SocketAddr], credential: Credential) -> DispatchConfig {
    DispatchConfig {
        cluster: ClusterName::default(),
        nodes: NodesConfig {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            min: 1,
        },
        partitions: PARTITIONS,
        logs: PARTITIONS,
        gateways: vec![gateway()],
        credentials: vec![credential],
    }
}

/// What dispatch is asked, and where the progress will be.
pub fn start_of(alert: &Arc<PlannedAlert>) -> (Start, watch::Receiver<Arc<Snapshot>>) {
    let snapshot = Snapshot::empty(alert.name.clone(), State::Active);
    let (snapshots, watch) = watch::channel(Arc::new(snapshot));
    let superseded = CancellationToken::new();
    (Start { plan: alert.clone(), cancelled: false, snapshots, superseded }, watch)
}

/// The first snapshot for which `is` holds.
pub async fn when(
    watch: &mut watch::Receiver<Arc<Snapshot>>,
    is: impl FnMut(&Arc<Snapshot>) -> bool,
) -> Arc<Snapshot> {
    timeout(PATIENCE, watch.wait_for(is)).await.expect("progress").unwrap().clone()
}

fn gateway() -> Gateway {
    Gateway {
        name: "g".to_owned(),
        platform: Platform::Apns,
        endpoint: "localhost:443".to_owned(),
        server_name: "localhost".to_owned(),
        ca_pem: String::new(),
        live: false,
        route: clarion_runtime::proxy::Route::Direct,
        connections: ConnectionLimits { floor: 2, ceiling: 32 },
        streams_per_connection: 1_000,
        request_deadline: Duration::from_secs(10),
        connect_deadline: Duration::from_secs(5),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(30),
        hpack_authorization_indexed: true,
        evidence_answers: 32,
        quota: None,
    }
}

/// A new key of APNs.
pub fn credential() -> Credential {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    Credential::Apns(ApnsKey {
        name: "c".to_owned(),
        key_id: "ABCDE12345".to_owned(),
        team_id: "TEAM123456".to_owned(),
        key_pem: SecretString::from(key.serialize_pem()),
    })
}
