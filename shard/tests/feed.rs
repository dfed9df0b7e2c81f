//! The feed, as a coordinator serves it.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]
#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod support;

use std::time::Duration;

use clarion_proto::wire::shard_v1::{self as wire, shard_service_server::SERVICE_NAME};
use clarion_shard::command::Command;
use support::{Bench, batch, channel, ownership, within};
use tonic::{Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

#[tokio::test]
async fn batches_reach_their_cores_in_order() {
    let mut bench = Bench::start(2).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3, 7])).await;
    let call = bench.feed.call().await;
    assert_eq!((call.request.node.as_str(), &call.request.partitions[..]), ("node-1", &[3, 7][..]));
    assert_eq!(call.positions(), [(3, 0), (7, 0)]);
    call.send(batch(3, 1, 3, &[10, 11])).await;
    call.send(batch(7, 1, 7, &[20])).await;
    call.send(batch(3, 2, 3, &[])).await;
    assert_eq!(bench.cores[0].batch().await, (3, 1, vec![10, 11]));
    assert_eq!(bench.cores[0].batch().await, (3, 2, vec![]));
    assert_eq!(bench.cores[1].batch().await, (7, 1, vec![20]));
}

#[tokio::test]
async fn a_gap_or_a_repetition_is_asked_for_again_from_the_last_position() {
    let mut bench = Bench::start(1).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3])).await;
    let call = bench.feed.call().await;
    call.send(batch(3, 1, 3, &[10])).await;
    call.send(batch(3, 3, 3, &[30])).await;
    let call = bench.feed.call().await;
    assert_eq!(call.positions(), [(3, 1)]);
    call.send(batch(3, 2, 3, &[20])).await;
    call.send(batch(3, 2, 3, &[20])).await;
    let call = bench.feed.call().await;
    assert_eq!(call.positions(), [(3, 2)]);
    call.send(batch(3, 3, 3, &[30])).await;
    for expected in [(3, 1, vec![10]), (3, 2, vec![20]), (3, 3, vec![30])] {
        assert_eq!(bench.cores[0].batch().await, expected);
    }
}

#[tokio::test]
async fn a_feed_that_breaks_goes_on_from_where_the_cores_are() {
    let mut bench = Bench::start(1).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3])).await;
    let call = bench.feed.call().await;
    call.send(batch(3, 1, 3, &[10])).await;
    call.fail(Status::unavailable("restarting")).await;
    let call = bench.feed.call().await;
    assert_eq!(call.positions(), [(3, 1)]);
}

#[tokio::test]
async fn another_log_means_starting_from_nothing() {
    let mut bench = Bench::start(1).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3])).await;
    let call = bench.feed.call().await;
    call.send(batch(3, 1, 3, &[10])).await;
    assert_eq!(bench.cores[0].batch().await, (3, 1, vec![10]));
    call.fail(Status::out_of_range("the log ends at 0")).await;
    let call = bench.feed.call().await;
    assert_eq!(call.positions(), [(3, 0)]);
    call.send(batch(3, 1, 3, &[99])).await;
    assert_eq!(bench.cores[0].batch().await, (3, 1, vec![99]));
}

#[tokio::test]
async fn a_change_of_ownership_asks_anew_and_keeps_what_stays() {
    let mut bench = Bench::start(1).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3, 5])).await;
    let call = bench.feed.call().await;
    call.send(batch(3, 1, 3, &[10])).await;
    call.send(batch(5, 1, 5, &[50])).await;
    bench.cores[0].batch().await;
    bench.cores[0].batch().await;
    session.say(ownership(2, &[5, 9])).await;
    // What stays is followed at once, and what is new as soon as its snapshots are known.
    let call = bench.feed.call().await;
    assert_eq!((&call.request.partitions[..], call.positions()), (&[5][..], vec![(5, 1)]));
    let call = bench.feed.call().await;
    assert_eq!(call.request.partitions, [5, 9]);
    assert_eq!(call.positions(), [(5, 1), (9, 0)]);
}

/// The node's readiness as it changes.
struct Readiness(Streaming<HealthCheckResponse>);

impl Readiness {
    /// The node is not ready at first.
    async fn of(bench: &Bench) -> Self {
        let mut health = HealthClient::new(channel(bench.health).await);
        let request = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
        let watch = within("health", health.watch(request)).await.unwrap().into_inner();
        let mut readiness = Self(watch);
        assert_eq!(readiness.next().await, ServingStatus::NotServing);
        readiness
    }

    async fn next(&mut self) -> ServingStatus {
        within("readiness", self.0.message()).await.unwrap().unwrap().status()
    }

    /// Nothing changes for a while.
    async fn stays(&mut self) {
        let change = tokio::time::timeout(Duration::from_millis(300), self.0.message()).await;
        assert!(change.is_err(), "{change:?}");
    }
}

#[tokio::test]
async fn ready_at_once_with_an_empty_log() {
    let mut bench = Bench::start(1).await;
    let mut health = HealthClient::new(channel(bench.health).await);
    let request = HealthCheckRequest { service: String::new() };
    let mut alive = within("health", health.watch(request)).await.unwrap().into_inner();
    let alive = within("health", alive.message()).await.unwrap().unwrap();
    assert_eq!(alive.status(), ServingStatus::Serving);
    let mut ready = Readiness::of(&bench).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3])).await;
    let call = bench.feed.asked().await;
    ready.stays().await;
    call.start(&[(3, 0)]).await;
    assert_eq!(ready.next().await, ServingStatus::Serving);
}

#[tokio::test]
async fn not_ready_with_a_silent_log_that_is_not_read_to_its_head() {
    let mut bench = Bench::start(2).await;
    let mut ready = Readiness::of(&bench).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3, 5])).await;
    let call = bench.feed.asked().await;
    call.start(&[(3, 1), (5, 2)]).await;
    call.send(batch(3, 1, 3, &[10])).await;
    call.send(batch(5, 1, 5, &[20])).await;
    // However long nothing comes.
    ready.stays().await;
    call.send(batch(5, 2, 5, &[])).await;
    assert_eq!(ready.next().await, ServingStatus::Serving);
}

#[tokio::test]
async fn ready_with_a_log_that_is_never_silent() {
    let mut bench = Bench::start(1).await;
    let mut ready = Readiness::of(&bench).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3])).await;
    let call = bench.feed.asked().await;
    call.start(&[(3, 20)]).await;
    let busy = tokio::spawn(async move {
        for position in 1.. {
            call.send(batch(3, position, 3, &[position])).await;
        }
    });
    let mut core = bench.cores.remove(0);
    tokio::spawn(async move { while core.commands.recv().await.is_some() {} });
    assert_eq!(ready.next().await, ServingStatus::Serving);
    busy.abort();
}

#[tokio::test]
async fn a_log_that_was_trimmed_is_neither_rebuilt_nor_asked_for_again_at_once() {
    let mut bench = Bench::start(1).await;
    let mut ready = Readiness::of(&bench).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3])).await;
    let call = bench.feed.call().await;
    assert_eq!(ready.next().await, ServingStatus::Serving);
    call.send(batch(3, 1, 3, &[10])).await;
    assert_eq!(bench.cores[0].batch().await, (3, 1, vec![10]));
    call.trimmed(3, 7).await;
    assert_eq!(ready.next().await, ServingStatus::NotServing);
    let again = tokio::time::timeout(Duration::from_secs(2), bench.feed.asked()).await;
    assert!(again.is_err(), "the next try is 30 s away");
    while let Ok(command) = bench.cores[0].commands.try_recv() {
        let anew = matches!(command, Command::Own(_) | Command::Rebuild(_));
        assert!(!anew, "nothing is built anew");
    }
}

#[tokio::test]
async fn a_stream_of_another_log_is_refused_and_another_one_is_tried() {
    let mut bench = Bench::start(1).await;
    let mut ready = Readiness::of(&bench).await;
    let session = bench.session().await;
    session.say(ownership(1, &[3])).await;
    let call = bench.feed.asked().await;
    let start = wire::FeedStart {
        log_identity: vec![9; 16],
        heads: vec![wire::LogPosition { log: 3, position: 0 }],
    };
    call.send(wire::FeedResponse { start: Some(start), ..wire::FeedResponse::default() }).await;
    let call = bench.feed.asked().await;
    ready.stays().await;
    call.start(&[(3, 0)]).await;
    assert_eq!(ready.next().await, ServingStatus::Serving);
}
