//! What happens by the passing of time alone. Time is paused; the nodes are on pipes.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]

mod dispatch_support;

use std::{net::SocketAddr, time::Duration};

use clarion_coordinator::{
    dispatch::{Dispatch as _, StartError},
    snapshot::State,
};
use clarion_proto::{
    outcome::Outcome,
    wire::shard_v1::{session_request::Message, session_response::Message as Said},
};
use dispatch_support::*;

const A: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
const B: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

#[tokio::test(start_paused = true)]
async fn an_alert_expires_and_what_was_not_sent_is_counted() {
    let pipes = Pipes::default();
    let mut a = ScriptedNode::on_pipes(&pipes, A);
    let coordinator = Coordinator::over_pipes(&[A], &pipes);
    let mut peer = a.hello("a", BOOT_1).await;
    let alert = coordinator.alert("one", 30);
    let mut progress = coordinator.start(&alert).await;
    let wave = peer.wave().await;
    assert!((29_000..=30_000).contains(&wave.expires_in_ms), "{}", wave.expires_in_ms);
    assert_eq!(peer.lease(1, &wave).await.waves.len(), 1);
    peer.report(report(&wave, 1, 10, 4)).await;
    // Longer than the patience of the tests: the clock goes on by itself when nobody has anything
    // to do.
    let expired = progress.wait_for(|s| s.state == State::Expired).await.unwrap().clone();
    assert_eq!(
        (expired.ended, expired.settled, expired.totals.open()),
        (Some(alert.expires), false, 6)
    );
    assert_eq!(peer.lease(2, &wave).await.waves, [], "no leave after the end");
    let mut last = ended(&wave, 2, 10, 5);
    last.complete = false;
    (last.bands[0].unknown, last.bands[0].expired) = (2, 3);
    peer.report(last).await;
    let settled = when(&mut progress, |s| s.settled).await;
    let of = |outcome| settled.totals.of(outcome);
    assert_eq!((of(Outcome::Accepted), of(Outcome::Unknown), of(Outcome::Expired)), (5, 2, 3));
    assert_eq!((settled.state, settled.totals.open()), (State::Expired, 0));
    peer.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_late_owns_nothing_and_one_that_returns_does_its_part() {
    let pipes = Pipes::default();
    let mut a = ScriptedNode::on_pipes(&pipes, A);
    let coordinator = Coordinator::over_pipes(&[A, B], &pipes);
    let alert = coordinator.alert("one", 600);
    let mut peer = a.hello("a", BOOT_1).await;
    let early = coordinator.dispatcher.start(start_of(&alert).0).unwrap_err();
    assert!(
        matches!(early, StartError::NoNodes { configured: 2 }),
        "b may be about to come: {early}"
    );
    let Some(Message::Ownership(ownership)) = peer.next().await else {
        panic!("partitions are shared out without b")
    };
    assert_eq!(ownership.partitions.len(), usize::from(PARTITIONS));

    let mut b = ScriptedNode::on_pipes(&pipes, B);
    let mut late = b.hello("b", BOOT_1).await;
    let Some(Message::Ownership(ownership)) = late.next().await else { panic!("it is told, too") };
    assert!(ownership.partitions.is_empty());

    let mut progress = coordinator.start(&alert).await;
    let wave = peer.wave().await;
    assert_eq!(progress.borrow().nodes, 1);
    drop(peer);
    let mut back = a.hello("a", BOOT_2).await;
    let again = back.wave().await;
    assert_eq!(again.id, wave.id);
    back.report(complete(&again, 1, 3, 3)).await;
    back.end().await;
    back.report(ended(&again, 2, 3, 3)).await;
    assert_eq!(when(&mut progress, |s| s.settled).await.state, State::Resolved);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_nothing_is_given_up_and_tried_again() {
    let pipes = Pipes::default();
    let mut a = ScriptedNode::on_pipes(&pipes, A);
    let coordinator = Coordinator::over_pipes(&[A], &pipes);
    // A report before any Hello, then nobody at all, then a good one.
    let first = a.session().await;
    first.say(Said::Report(Default::default())).await;
    let silent = a.session().await;
    let began = tokio::time::Instant::now();
    let mut peer = a.hello("a", BOOT_1).await;
    assert!(began.elapsed() >= Duration::from_secs(5), "on paused time: the deadline of a Hello");
    drop(silent);
    coordinator.start(&coordinator.alert("one", 60)).await;
    peer.wave().await;
}
