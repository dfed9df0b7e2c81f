//! Hostile input, generated: arbitrary bytes and arbitrary well-formed messages at every method behind the coordinator's
//! ports: the public API, and the feed, which is for nodes but open to whoever reaches its port.
//!
//! Two servers. In this process, with scripted nodes, where a message that slips through all checks would start
//! something: no thread of its runtime panics. And the program itself, whose memory can be measured and whose log read.
//! After both: every answer had a status that the contract knows, nothing grew, and a good call works.
//!
//! Messages are made from the contract's own descriptors ([`arbitrary`]), so that a field added tomorrow is attacked
//! without a change here.

mod arbitrary;
mod raw;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use clarion_proto::wire::v1::{
    self as wire, alert_service_client::AlertServiceClient, app_service_client,
};
use http::uri::PathAndQuery;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use prost_reflect::{DescriptorPool, ServiceDescriptor};
use tokio::io::{AsyncBufReadExt, BufReader};
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};

use self::{arbitrary::message, raw::Raw};
use crate::{
    process::program,
    support::{Server, app, create, demo_alert, demo_app, soon},
};

/// Calls to each of the two servers: some 10 s each in a debug build.
const CALLS: usize = 2_500;
/// Before memory is taken for steady: allocators and buffers have their size then.
const WARM_UP: usize = 500;
/// What the program may grow over the calls after that: 2,000 calls that left 16 kB each would show.
const GROWTH_BYTES_MAX: u64 = 32 << 20;
/// For the answers of a stream, which may stay open when it has none: a watch, changes.
const ANSWERS: Duration = Duration::from_millis(500);
/// The same for the feed, most of whose good requests have no answer here: what it refuses, it refuses at once.
const FEED_ANSWERS: Duration = Duration::from_millis(50);
const FEED: &str = "clarion.shard.v1.FeedService";

/// One method behind a port.
struct Method {
    path: PathAndQuery,
    /// How long a stream is listened to; a call that is none must be answered.
    streams: Option<Duration>,
    messages: BoxedStrategy<Bytes>,
}

fn methods() -> Vec<Method> {
    let pool = DescriptorPool::decode(clarion_proto::wire::DESCRIPTORS).expect("the contract");
    let here = |service: &ServiceDescriptor| {
        service.package_name() == "clarion.v1" || service.full_name() == FEED
    };
    let services = pool.services().filter(here);
    let mut methods = Vec::new();
    for service in services {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            methods.push(Method {
                path: path.parse().expect("a path"),
                streams: (method.is_client_streaming() || method.is_server_streaming())
                    .then_some(if service.full_name() == FEED { FEED_ANSWERS } else { ANSWERS }),
                messages: prop_oneof![
                    1 => proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from),
                    4 => message(&method.input()),
                    // Well-formed up to where it is cut.
                    1 => (message(&method.input()), any::<prop::sample::Index>())
                        .prop_map(|(bytes, at)| bytes.slice(..at.index(bytes.len() + 1))),
                ]
                .boxed(),
            });
        }
    }
    assert!(
        methods.len() >= 14,
        "all of AppService, AlertService, RegistryService and FeedService"
    );
    methods
}

/// The two ports.
struct Ports {
    api: Channel,
    feed: Channel,
}

impl Ports {
    fn of(&self, method: &Method) -> Channel {
        if method.path.path().contains(FEED) { self.feed.clone() } else { self.api.clone() }
    }
}

/// Sends one message and takes what comes back, two messages at most.
async fn call(ports: &Ports, method: &Method, bytes: Bytes) -> Result<(), Status> {
    let mut grpc = Grpc::new(ports.of(method));
    soon(grpc.ready()).await.map_err(|e| Status::unknown(e.to_string()))?;
    let one = Request::new(tokio_stream::once(bytes));
    let exchange = async {
        let mut answers = grpc.streaming(one, method.path.clone(), Raw).await?.into_inner();
        for _ in 0..2 {
            if answers.message().await?.is_none() {
                break;
            }
        }
        Ok(())
    };
    match method.streams {
        Some(patience) => tokio::time::timeout(patience, exchange).await.unwrap_or(Ok(())),
        None => soon(exchange).await,
    }
}

/// A status that the contract speaks of. INTERNAL and UNKNOWN are defects.
fn is_known(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unavailable
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

/// Throws so many messages, drawn anew each time, at all methods in turn; every answer is known.
async fn throw(ports: &Ports, methods: &[Method], runner: &mut TestRunner, calls: usize) {
    for method in methods.iter().cycle().take(calls) {
        let bytes = method.messages.new_tree(runner).expect("a message").current();
        if let Err(status) = call(ports, method, bytes.clone()).await {
            let shown: Vec<u8> = bytes.iter().take(200).copied().collect();
            assert!(
                is_known(&status),
                "{}: {status:?} to {} bytes: {shown:02x?}",
                method.path,
                bytes.len()
            );
            assert!(
                status.message().len() < 2_000,
                "an answer does not grow with its question: {}",
                method.path
            );
        }
    }
}

type Held = (usize, Vec<String>, u64);

/// The app `victim` may be changed and removed; that is what it is for.
fn not_more(now: &Held, before: &Held) {
    assert_eq!((now.0, now.2), (before.0, before.2), "alerts and changes");
    assert!(now.1.iter().all(|name| before.1.contains(name)), "{now:?}, before: {before:?}");
}

/// What must not grow: alerts, names of apps, changes recorded.
async fn held(channel: &Channel) -> Held {
    let list = wire::ListAlertsRequest { page_size: 1_000, ..Default::default() };
    let alerts = soon(AlertServiceClient::new(channel.clone()).list_alerts(list))
        .await
        .expect("up")
        .into_inner();
    let mut apps = app_service_client::AppServiceClient::new(channel.clone());
    let apps =
        soon(apps.list_apps(wire::ListAppsRequest::default())).await.expect("up").into_inner();
    let mut registry = wire::registry_service_client::RegistryServiceClient::new(channel.clone());
    let stats = soon(registry.get_registry_stats(wire::GetRegistryStatsRequest {}))
        .await
        .expect("up")
        .into_inner();
    (
        alerts.alerts.len(),
        apps.apps.into_iter().map(|app| app.name).collect(),
        stats.changes_written,
    )
}

static PANICS: AtomicUsize = AtomicUsize::new(0);
const THREAD: &str = "hostile-server";

#[test]
fn nothing_that_is_thrown_at_a_method_breaks_it() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() == Some(THREAD) {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        before(panic);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(THREAD)
        .enable_all()
        .build();
    runtime.expect("threads").block_on(async {
        let server = Server::with_demo().await;
        soon(server.apps().create_app(app("victim"))).await.expect("created");
        let held_before = held(&server.channel).await;
        let ports = Ports { api: server.channel.clone(), feed: server.feeds().await };
        throw(&ports, &methods(), &mut TestRunner::deterministic(), CALLS).await;
        not_more(&held(&server.channel).await, &held_before);
        assert!(server.nodes.started.lock().is_empty());
        server.created(1).await;
    });
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_program_bears_it_all_and_does_not_grow() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = crate::support::config_file(directory.path());
    let file = file.to_str().expect("UTF-8");
    let mut running =
        program(&["--listen", "127.0.0.1:0", "--config", file]).spawn().expect("started");
    let mut lines = BufReader::new(running.stdout.take().expect("piped")).lines();
    let line = soon(lines.next_line()).await.expect("readable").expect("announced");
    let announced: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    // Read on, so that it never blocks on a full pipe; kept, to be looked at.
    let stderr = running.stderr.take().expect("piped");
    let log = tokio::spawn(async move {
        let mut lines = BufReader::new(stderr).lines();
        let mut panics = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("panicked") {
                panics.push(line);
            }
        }
        panics
    });
    let connect = async |port: &str| {
        let address = announced[port].as_str().expect("an address");
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        soon(endpoint.connect()).await.expect("listens")
    };
    let (channel, feed) = (connect("listen").await, connect("feed").await);
    let ports = Ports { api: channel.clone(), feed };
    let mut apps = app_service_client::AppServiceClient::new(channel.clone());
    soon(apps.create_app(demo_app())).await.expect("created");
    soon(apps.create_app(app("victim"))).await.expect("created");

    let (methods, mut runner) = (methods(), TestRunner::deterministic());
    throw(&ports, &methods, &mut runner, WARM_UP).await;
    let (pid, held_before) = (running.id().expect("running"), held(&channel).await);
    let steady = resident_bytes(pid);
    throw(&ports, &methods, &mut runner, CALLS - WARM_UP).await;
    let growth = resident_bytes(pid).saturating_sub(steady);
    assert!(growth <= GROWTH_BYTES_MAX, "{growth} bytes over {} calls", CALLS - WARM_UP);
    not_more(&held(&channel).await, &held_before);
    // A good call goes as far as it can without a node.
    let good =
        soon(AlertServiceClient::new(channel.clone()).create_alert(create(1, demo_alert()))).await;
    assert_eq!(good.expect_err("no node").code(), Code::Unavailable);
    let status =
        tokio::process::Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status();
    assert!(soon(status).await.expect("sent").success());
    drop((channel, apps, ports));
    assert!(
        soon(running.wait()).await.expect("ended").success(),
        "it lived until it was asked to end"
    );
    assert_eq!(soon(log).await.expect("read"), Vec::<String>::new());
}

/// Resident memory of a process.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident");
    kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}
