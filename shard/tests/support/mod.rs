//! Both neighbours of a node's control plane, scripted: a coordinator over real gRPC on loopback,
//! and cores that are two queues each. A test is a conversation; every wait is bounded by
//! [`within`].

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several tests, each of which uses its part of it"
)]
#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

pub mod archive;

use std::{future::Future, net::SocketAddr, time::Duration};

use archive::Archive;
use clarion_proto::{
    device::{Change, Record},
    ids::{ClusterName, DeviceId, PartitionId, UnixMillis, partition_of},
    wire::shard_v1::{
        self as wire,
        feed_service_server::{FeedService, FeedServiceServer},
        session_request::Message as Say,
        session_response::Message as Told,
        shard_service_client::ShardServiceClient,
        snapshot_service_server::SnapshotServiceServer,
    },
};
use clarion_runtime::world::World;
use clarion_shard::{
    command::{Command, Event},
    node::{Node, NodeConfig, NodeError, cores},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, server::TcpIncoming},
};

pub const PARTITIONS: u16 = 16;

/// Long enough for a machine under load; a test that waits so long has failed.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// A node whose cores are played by the test.
pub struct Bench {
    pub address: SocketAddr,
    pub health: SocketAddr,
    pub cores: Vec<ScriptedCore>,
    pub feed: ScriptedFeed,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), NodeError>>,
}

pub struct ScriptedCore {
    pub commands: mpsc::Receiver<Command>,
    pub events: mpsc::Sender<Event>,
}

impl Bench {
    pub async fn start(cores: usize) -> Self {
        Self::start_draining_within(cores, Duration::from_secs(10)).await
    }

    pub async fn start_draining_within(cores: usize, drain_within: Duration) -> Self {
        let feed = ScriptedFeed::start().await;
        let config = NodeConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            health_listen: ([127, 0, 0, 1], 0).into(),
            cluster: ClusterName::default(),
            name: "node-1".to_owned(),
            coordinators: vec![feed.address.to_string()],
            cores,
        };
        let node = Node::bind(config, &World::system()).await.unwrap();
        let (address, health) = (node.address(), node.health_address());
        let (ports, scripted): (_, Vec<_>) = cores::scripted(cores);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let running = tokio::spawn(node.run(ports, stopped, drain_within));
        let cores = scripted
            .into_iter()
            .map(|c| ScriptedCore { commands: c.commands, events: c.events })
            .collect();
        Self { address, health, cores, feed, stop: Some(stop), running }
    }

    pub async fn session(&self) -> Session {
        Session::open(self.address).await
    }

    /// As SIGTERM does.
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub async fn ended(self) -> Result<(), NodeError> {
        within("the node's end", self.running).await.unwrap()
    }
}

impl ScriptedCore {
    /// The next command that the test is about; `ReportAll` comes with every session and is passed
    /// over.
    pub async fn next(&mut self) -> Command {
        loop {
            match within("a command", self.commands.recv()).await.expect("the node holds the queue")
            {
                Command::ReportAll => {}
                command => return command,
            }
        }
    }

    /// Passes over everything until a command fits.
    pub async fn until<T>(&mut self, what: &str, fits: impl Fn(Command) -> Option<T>) -> T {
        within(what, async {
            loop {
                if let Some(found) =
                    fits(self.commands.recv().await.expect("the node holds the queue"))
                {
                    return found;
                }
            }
        })
        .await
    }

    /// The next batch: log, position, observation times of its records.
    pub async fn batch(&mut self) -> (u16, u64, Vec<u64>) {
        self.until("a batch", |command| match command {
            Command::Apply { log, position, records, .. } if position.0 > 0 => {
                Some((log.0, position.0, records.iter().map(|(_, r)| r.observed.0).collect()))
            }
            _ => None,
        })
        .await
    }

    pub async fn tell(&self, event: Event) {
        within("room for an event", self.events.send(event)).await.unwrap();
    }
}

pub async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    within("a connection", endpoint.connect()).await.unwrap()
}

/// The coordinator's end of one session.
pub struct Session {
    say: mpsc::Sender<wire::SessionRequest>,
    told: Streaming<wire::SessionResponse>,
}

impl Session {
    pub async fn open(address: SocketAddr) -> Self {
        Self::open_as(address, open(1, LOG)).await.unwrap()
    }

    /// With another first message.
    pub async fn open_as(address: SocketAddr, first: Say) -> Result<Self, Status> {
        let mut client = ShardServiceClient::new(channel(address).await);
        let (say, said) = mpsc::channel(16);
        say.send(wire::SessionRequest { message: Some(first) }).await.unwrap();
        let told =
            within("a session", client.session(ReceiverStream::new(said))).await?.into_inner();
        Ok(Self { say, told })
    }

    pub async fn say(&self, message: Say) {
        self.say_raw(wire::SessionRequest { message: Some(message) }).await;
    }

    pub async fn say_raw(&self, request: wire::SessionRequest) {
        within("room for a message", self.say.send(request)).await.unwrap();
    }

    pub async fn next(&mut self) -> Result<Option<Told>, Status> {
        let message = within("a message", self.told.message()).await?;
        Ok(message.and_then(|m| m.message))
    }

    /// Passes over everything until a message fits.
    pub async fn until<T>(&mut self, what: &str, fits: impl Fn(Told) -> Option<T>) -> T {
        within(what, async {
            loop {
                let message = self.told.message().await.unwrap().expect("the session goes on");
                if let Some(found) = message.message.and_then(&fits) {
                    return found;
                }
            }
        })
        .await
    }

    pub async fn refusal(&mut self) -> wire::Refusal {
        let refusal = |m| match m {
            Told::Refusal(r) => Some(r),
            _ => None,
        };
        self.until("a refusal", refusal).await
    }

    /// The status with which the node ends the session; `None`: it ended well.
    pub async fn end(&mut self) -> Option<Status> {
        within("the end of the session", async {
            loop {
                match self.told.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        })
        .await
    }
}

/// The coordinator's feed: each call of a node comes out of `calls` and is answered by the test.
pub struct ScriptedFeed {
    pub address: SocketAddr,
    /// The snapshots that the coordinator keeps: none at first.
    pub archive: Archive,
    calls: mpsc::Receiver<Call>,
}

pub struct Call {
    pub request: wire::FeedRequest,
    batches: mpsc::Sender<Result<wire::FeedResponse, Status>>,
}

struct FeedScript(mpsc::Sender<Call>);

#[tonic::async_trait]
impl FeedService for FeedScript {
    type FeedStream = ReceiverStream<Result<wire::FeedResponse, Status>>;

    async fn feed(
        &self,
        request: Request<wire::FeedRequest>,
    ) -> Result<Response<Self::FeedStream>, Status> {
        let (batches, stream) = mpsc::channel(1);
        let call = Call { request: request.into_inner(), batches };
        self.0.send(call).await.map_err(|_| Status::unavailable("the script is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl ScriptedFeed {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (script, calls) = mpsc::channel(4);
        let archive = Archive::default();
        let server = tonic::transport::Server::builder()
            .add_service(FeedServiceServer::new(FeedScript(script)))
            .add_service(SnapshotServiceServer::new(archive.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Self { address, archive, calls }
    }

    /// The next call, whose stream has not begun.
    pub async fn asked(&mut self) -> Call {
        within("a call of the feed", self.calls.recv()).await.unwrap()
    }

    /// The next call, and logs that hold no more than what the node has applied.
    pub async fn call(&mut self) -> Call {
        let call = self.asked().await;
        call.start(&call.positions()).await;
        call
    }
}

impl Call {
    /// From where each log is asked for.
    pub fn positions(&self) -> Vec<(u32, u64)> {
        self.request.positions.iter().map(|p| (p.log, p.position)).collect()
    }

    /// Begins the stream: the log of the request, and the head of each log.
    pub async fn start(&self, heads: &[(u32, u64)]) {
        let head =
            |(log, position): &(u32, u64)| wire::LogPosition { log: *log, position: *position };
        let heads = heads.iter().map(head).collect();
        let start = wire::FeedStart { log_identity: self.request.log_identity.clone(), heads };
        self.send(wire::FeedResponse { start: Some(start), ..wire::FeedResponse::default() }).await;
    }

    pub async fn send(&self, batch: wire::FeedResponse) {
        within("room on the feed", self.batches.send(Ok(batch))).await.unwrap();
    }

    /// Ends the stream: the log begins at this position.
    pub async fn trimmed(&self, log: u32, first: u64) {
        let trimmed = Some(wire::FeedTrimmed { log, first });
        self.send(wire::FeedResponse { trimmed, ..wire::FeedResponse::default() }).await;
    }

    pub async fn fail(&self, status: Status) {
        within("room on the feed", self.batches.send(Err(status))).await.unwrap();
    }
}

/// A batch of one log with a record for each observation time, of devices of one partition.
pub fn batch(log: u32, position: u64, partition: u16, observed: &[u64]) -> wire::FeedResponse {
    let device = (0_u64..).map(|i| DeviceId(u128::from(i).to_le_bytes()));
    let device = device
        .into_iter()
        .find(|d| partition_of(*d, PARTITIONS) == PartitionId(partition))
        .unwrap();
    let record =
        |t: &u64| Record { device, observed: UnixMillis(*t), change: Change::Removal }.to_wire();
    wire::FeedResponse {
        log,
        position,
        append_time_ms: 1,
        records: observed.iter().map(record).collect(),
        ..wire::FeedResponse::default()
    }
}

/// As many logs as partitions.
pub fn ownership(number: u64, partitions: &[u32]) -> Say {
    let count = u32::from(PARTITIONS);
    Say::Ownership(wire::Ownership {
        number,
        partition_count: count,
        log_count: count,
        partitions: partitions.to_vec(),
        log_identity: LOG.to_vec(),
    })
}

/// The log of every session and ownership that does not say otherwise.
pub const LOG: [u8; 16] = [1; 16];

/// The first message of a coordinator.
pub fn open(coordinator: u8, log: [u8; 16]) -> Say {
    Say::Open(wire::Open {
        cluster: ClusterName::DEFAULT.to_owned(),
        coordinator: vec![coordinator; 16],
        log_identity: log.to_vec(),
        version: "1.2.3".to_owned(),
        lanes_epoch: u64::from(coordinator),
    })
}

pub fn lane(id: u32) -> Say {
    Say::Lane(wire::Lane {
        id,
        name: "gateway/key".to_owned(),
        platform: wire::LanePlatform::Apns.into(),
        endpoint: "127.0.0.1:2197".to_owned(),
        server_name: "gateway.test".to_owned(),
        ca_pem: String::new(),
        live: false,
        limits: Some(wire::LaneLimits {
            streams_per_connection: 1_000,
            request_deadline_ms: 10_000,
            connect_deadline_ms: 5_000,
            backoff_min_ms: 100,
            backoff_max_ms: 30_000,
            hpack_authorization_indexed: true,
            evidence_answers: 32,
        }),
        proxy: None,
    })
}

/// One cell in one band.
pub fn wave(id: u64, epoch: u64, ownership: u64, partitions: &[u32]) -> wire::Wave {
    let cell = h3o::LatLng::new(22.54, 114.06).unwrap().to_cell(h3o::Resolution::Nine);
    let shard = |p: &u32| wire::ShardWork { partition: *p, start_position: 0, handed: Vec::new() };
    wire::Wave {
        id,
        alert: "alerts/child".to_owned(),
        epoch,
        ownership,
        bands: vec![wire::Band { from_meters: 0.0, to_meters: 1_000.0, cells: vec![cell.into()] }],
        shards: partitions.iter().map(shard).collect(),
        apps: vec![wire::AppMessages {
            app: "demo".to_owned(),
            lane: 1,
            request: Some(wire::app_messages::Request::Apns(wire::ApnsRequest {
                topic: "org.example.demo".to_owned(),
                push_type: "alert".to_owned(),
                priority: 10,
                expiration: 1_800_000_000,
                collapse_id: "child".to_owned(),
            })),
            messages: vec![wire::LocaleMessage {
                locale: "en".to_owned(),
                body: bytes::Bytes::from_static(b"{}"),
                ..Default::default()
            }],
        }],
        segments: Vec::new(),
        expires_in_ms: 60_000,
        ..wire::Wave::default()
    }
}
