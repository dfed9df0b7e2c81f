//! Hostile input, generated: arbitrary bytes and arbitrary well-formed messages as a coordinator's
//! session, to the program itself. A node has no identities to ask for yet, so whoever reaches its
//! port is a coordinator.
//!
//! The program lives until it is asked to end, no thread of it panics, its memory does not grow,
//! and after all of it a session greets, refuses and counts as before.

mod support;

// The generator and the codec of the coordinator's own test of this kind.
#[path = "../../coordinator/tests/api_server/hostile/arbitrary.rs"]
mod arbitrary;
#[path = "../../coordinator/tests/api_server/hostile/raw.rs"]
mod raw;

use std::process::Stdio;

use bytes::Bytes;
use clarion_proto::wire::{
    DESCRIPTORS,
    shard_v1::{self as wire, session_request::Message as Say, session_response::Message as Told},
};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use raw::Raw;
use support::{LOG, Session, channel, lane, open, ownership, wave, within};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};
use tonic::{Request, client::Grpc, transport::Channel};

/// Sessions, and messages in each: some 10 s in a debug build.
const SESSIONS: usize = 120;
const MESSAGES: usize = 30;
/// Before memory is taken for steady.
const WARM_UP: usize = 30;
/// 2,700 messages that left 12 kB each would show.
const GROWTH_BYTES_MAX: u64 = 32 << 20;

/// The program on ports of the system's choice; its coordinator is nobody.
async fn start() -> (Child, std::net::SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shard"));
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--health-listen",
        "127.0.0.1:0",
        "--announce",
        "--cores",
        "2",
    ]);
    command
        .args(["--coordinators", "127.0.0.1:9"])
        .env_remove("CLARION_SHARD_CONFIG")
        .env("CLARION_LOG", "error");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a live child");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a live child"));
    within("its addresses", stdout.read_line(&mut line)).await.expect("a live child");
    let listen = line
        .strip_prefix("{\"listen\":\"")
        .and_then(|rest| rest.split('"').next())
        .expect("a live child");
    (child, listen.parse().expect("a live child"))
}

/// What goes before: something to hit. Each good message makes others of a session meaningful.
fn good() -> Vec<Bytes> {
    let held = [open(1, LOG), ownership(1, &[0, 1, 2]), lane(1), Say::Wave(wave(5, 1, 1, &[0, 1]))];
    held.map(|message| wire::SessionRequest { message: Some(message) }.encode_to_vec().into())
        .into()
}

/// One session of the messages; gives when the node has ended it.
async fn session(channel: &Channel, messages: Vec<Bytes>) {
    let mut grpc = Grpc::new(channel.clone());
    within("the connection", grpc.ready()).await.expect("a live child");
    let path = http::uri::PathAndQuery::from_static("/clarion.shard.v1.ShardService/Session");
    let exchange = async {
        let said = Request::new(tokio_stream::iter(messages));
        let Ok(answers) = grpc.streaming(said, path, Raw).await else { return };
        let mut answers = answers.into_inner();
        while let Ok(Some(_)) = answers.message().await {}
    };
    within("the end of a session whose coordinator has said all", exchange).await;
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live child");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a live child");
    kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a live child") * 1_024
}

#[tokio::test]
async fn nothing_that_a_session_is_told_breaks_the_node() {
    let (mut node, address) = start().await;
    let channel = channel(address).await;
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let request = pool.get_message_by_name("clarion.shard.v1.SessionRequest").unwrap();
    let message = prop_oneof![
        // What is no message ends its session: seldom, or all sessions would be short.
        1 => proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from),
        60 => arbitrary::message(&request),
        1 => (arbitrary::message(&request), any::<prop::sample::Index>())
            .prop_map(|(bytes, at)| bytes.slice(..at.index(bytes.len() + 1))),
    ];
    let mut runner = TestRunner::deterministic();
    let mut steady = 0;
    for n in 0..SESSIONS {
        if n == WARM_UP {
            steady = resident_bytes(node.id().unwrap());
        }
        let arbitrary = (0..MESSAGES).map(|_| message.new_tree(&mut runner).unwrap().current());
        session(&channel, good().into_iter().chain(arbitrary).collect()).await;
    }
    let growth = resident_bytes(node.id().unwrap()).saturating_sub(steady);
    assert!(growth <= GROWTH_BYTES_MAX, "{growth} bytes over {} sessions", SESSIONS - WARM_UP);

    let mut after = Session::open(address).await;
    assert!(matches!(after.next().await, Ok(Some(Told::Hello(_)))));
    after.say_raw(wire::SessionRequest { message: None }).await;
    assert_eq!(after.refusal().await.reason, "message: is required");
    let bands = wave(1, 1, 1, &[]).bands;
    after
        .say(Say::Count(wire::Count {
            id: 77,
            bands,
            apps: vec!["demo".to_owned()],
            ..wire::Count::default()
        }))
        .await;
    let counted = after.until("a count by the cores", |m| match m {
        Told::Counted(counted) if counted.id == 77 => Some(counted),
        _ => None,
    });
    assert_eq!(counted.await.apps.len(), 1);
    drop((after, channel));

    let pid = node.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().await.unwrap().success());
    let mut log = String::new();
    let mut stderr = node.stderr.take().unwrap();
    let ended = async { tokio::join!(node.wait(), stderr.read_to_string(&mut log)) };
    let (status, _) = within("its end", ended).await;
    assert!(status.unwrap().success(), "it lived until it was asked to end: {log}");
    assert!(!log.contains("panicked"), "{log}");
}
