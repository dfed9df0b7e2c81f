//! The feed, as a coordinator serves it.

mod support;

use clarion_proto::wire::shard_v1::shard_service_server::SERVICE_NAME;
use support::{Bench, batch, channel, ownership, within};
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
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
    let call = bench.feed.call().await;
    assert_eq!(call.request.partitions, [5, 9]);
    assert_eq!(call.positions(), [(5, 1), (9, 0)]);
}

#[tokio::test]
async fn ready_when_it_has_caught_up_with_its_logs() {
    let mut bench = Bench::start(1).await;
    let mut health = HealthClient::new(channel(bench.health).await);
    let mut watch = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        within("health", health.watch(request)).await.unwrap().into_inner()
    };
    let mut alive = watch("").await;
    assert_eq!(
        within("health", alive.message()).await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    let mut ready = watch(SERVICE_NAME).await;
    assert_eq!(
        within("health", ready.message()).await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    let session = bench.session().await;
    session.say(ownership(1, &[3])).await;
    let call = bench.feed.call().await;
    call.send(batch(3, 1, 3, &[10])).await;
    assert_eq!(
        within("readiness", ready.message()).await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
}
