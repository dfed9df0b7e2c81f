//! Provider tokens over restarts of a coordinator with a store of SQLite, as a node gets them.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod dispatch_support;

use std::{path::Path, sync::Arc, time::Duration};

use clarion_coordinator::{
    dispatch::{Dispatch as _, Dispatcher},
    lane::LaneKey,
    lane_owner::Credential,
    seal::{Generation, Seals},
    store::{
        Store,
        sql::{MadeFor, SqlStore},
        sqlite::SqliteEngine,
    },
};
use clarion_proto::{ids::UnixMillis, wire::shard_v1::session_request::Message};
use clarion_runtime::world::{Clock, Tcp, World};
use dispatch_support::*;

/// The beginning of one of APNs' slots of 24 minutes.
const SLOT_BEGINS: u64 = 1_800_000_000_000;
const MINUTE: u64 = 60_000;

/// A coordinator process whose wall clock begins at a given time.
struct Process {
    dispatcher: Dispatcher,
    store: Arc<dyn Store>,
}

impl Process {
    async fn start(file: &Path, node: &ScriptedNode, credential: &Credential, wall: u64) -> Self {
        let world = World::new(Clock::start_at(UnixMillis(wall)), wall, Arc::new(Tcp));
        let engine = SqliteEngine::open(file, world.clock()).await.unwrap();
        let made_for = MadeFor {
            cluster: "clarion".to_owned(),
            partitions: PARTITIONS,
            logs: PARTITIONS,
            device_key: None,
        };
        let seals = Arc::new(Seals::new(Generation(1), &[1; 32]));
        let store = SqlStore::open(engine, &made_for, 1 << 30, 1 << 20, seals, &world);
        let store = store.await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let config = config(&[node.address], credential.clone());
        let dispatcher = Dispatcher::spawn(config, Arc::clone(&store), world);
        let lane = LaneKey { gateway: "g".to_owned(), credential: "c".to_owned() };
        dispatcher.ensure_lane(&lane).unwrap();
        Self { dispatcher, store }
    }

    async fn end(self) {
        self.dispatcher.shutdown().await;
        self.store.close().await;
    }
}

/// The token that a node gets from a process that starts at a wall time.
async fn token(file: &Path, node: &mut ScriptedNode, credential: &Credential, wall: u64) -> String {
    let process = Process::start(file, node, credential, wall).await;
    let mut peer = node.hello("a", BOOT_1).await;
    let token = peer.until(|message| match message {
        Message::ProviderToken(token) => Some(token.authorization),
        _ => None,
    });
    let token = token.await;
    let records = process.store.all_numbered("mint/").await.unwrap();
    assert_eq!(records.len(), 1, "recorded before a node has it");
    process.end().await;
    token
}

#[tokio::test]
async fn a_key_has_one_token_over_restarts_within_20_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.sqlite");
    let mut node = ScriptedNode::tcp().await;
    let credential = credential();
    let mut at = async |wall| token(&file, &mut node, &credential, wall).await;
    let first = at(SLOT_BEGINS - 10_000).await;
    for minutes in [0, 1, 4, 19] {
        let again = at(SLOT_BEGINS + minutes * MINUTE).await;
        assert_eq!(again, first, "{minutes} minutes into the next slot");
    }
    assert_ne!(at(SLOT_BEGINS + 24 * MINUTE).await, first, "the spacing is over");
}

/// The store stops answering after the process has opened it.
#[tokio::test]
async fn a_first_token_does_not_wait_long_for_a_store_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = ScriptedNode::tcp().await;
    let file = folder.path().join("store.sqlite");
    let credential = credential();
    let lane = LaneKey { gateway: "g".to_owned(), credential: "c".to_owned() };
    let process = Process::start(&file, &node, &credential, SLOT_BEGINS).await;
    let mut peer = node.hello("a", BOOT_1).await;
    peer.until(|message| matches!(message, Message::ProviderToken(_)).then_some(())).await;
    // Another key, whose record cannot be written any more.
    process.store.close().await;
    process.dispatcher.replace_credentials(vec![self::credential()]).unwrap();
    process.dispatcher.ensure_lane(&lane).unwrap();
    let token = peer.until(|message| matches!(message, Message::ProviderToken(_)).then_some(()));
    tokio::time::timeout(Duration::from_secs(5), token).await.expect("two seconds later");
    process.dispatcher.shutdown().await;
}
