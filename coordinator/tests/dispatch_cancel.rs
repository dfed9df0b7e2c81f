//! Cancelling: confirmed by all, or by the end of the grants. Time is paused where it has to pass.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]

mod dispatch_support;

use std::{net::SocketAddr, time::Duration};

use clarion_coordinator::{
    dispatch::{CancelState, Dispatch as _},
    snapshot::State,
};
use clarion_proto::outcome::Outcome;
use dispatch_support::*;

const A: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
const B: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

fn at(state: State, unconfirmed: &[&str]) -> CancelState {
    CancelState::At { state, unconfirmed: unconfirmed.iter().map(ToString::to_string).collect() }
}

#[tokio::test]
async fn a_cancel_is_answered_when_both_nodes_have_stopped() {
    let (mut a, mut b) = (ScriptedNode::tcp().await, ScriptedNode::tcp().await);
    let coordinator = Coordinator::over_tcp(&[&a, &b]);
    let (mut peer_a, mut peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    let alert = coordinator.alert("one", 60);
    let mut progress = coordinator.start(&alert).await;
    let (wave_a, wave_b) = (peer_a.wave().await, peer_b.wave().await);
    for (peer, wave) in [(&mut peer_a, &wave_a), (&mut peer_b, &wave_b)] {
        assert_eq!(peer.lease(1, wave).await.waves.len(), 1);
        peer.report(report(wave, 1, 10, 4)).await;
    }
    let nodes = async {
        assert_eq!(
            (peer_a.cancel().await.wave, peer_b.cancel().await.wave),
            (wave_a.id, wave_b.id)
        );
        assert_eq!(peer_a.lease(2, &wave_a).await.waves, [], "no leave to send any more");
        assert_eq!(progress.borrow_and_update().state, State::Cancelling);
        peer_a.stopped(&wave_a).await;
        peer_b.stopped(&wave_b).await;
    };
    let (answer, ()) = tokio::join!(coordinator.dispatcher.cancel(&alert.name), nodes);
    assert_eq!(answer, at(State::Cancelled, &[]));
    assert!(!progress.borrow_and_update().settled, "what is under way is still answered");
    peer_a.report(ended(&wave_a, 2, 10, 9)).await;
    peer_b.report(ended(&wave_b, 2, 10, 10)).await;
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!(
        (last.state, last.totals.of(Outcome::Accepted), last.totals.open()),
        (State::Cancelled, 19, 0)
    );
    assert_eq!((peer_a.end().await.wave, peer_b.end().await.wave), (wave_a.id, wave_b.id));
    assert_eq!(
        coordinator.dispatcher.cancel(&alert.name).await,
        CancelState::Unknown,
        "again: it is settled, and its last snapshot says how"
    );
}

#[tokio::test]
async fn what_was_never_started_cannot_be_cancelled() {
    let a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let alert = coordinator.alert("one", 60);
    assert_eq!(coordinator.dispatcher.cancel(&alert.name).await, CancelState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_cancelled_by_the_end_of_its_grant() {
    let pipes = Pipes::default();
    let (mut a, mut b) = (ScriptedNode::on_pipes(&pipes, A), ScriptedNode::on_pipes(&pipes, B));
    let coordinator = Coordinator::over_pipes(&[A, B], &pipes);
    let (mut peer_a, mut peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    let alert = coordinator.alert("one", 600);
    let mut progress = coordinator.start(&alert).await;
    let (wave_a, wave_b) = (peer_a.wave().await, peer_b.wave().await);
    peer_b.lease(1, &wave_b).await;
    peer_b.report(report(&wave_b, 1, 10, 4)).await;
    when(&mut progress, |s| s.totals.handed == 10).await;

    let began = tokio::time::Instant::now();
    let node = async {
        peer_a.cancel().await;
        peer_a.stopped(&wave_a).await;
    };
    let (answer, ()) = tokio::join!(coordinator.dispatcher.cancel(&alert.name), node);
    assert_eq!(answer, at(State::Cancelling, &["b"]));
    assert_eq!(began.elapsed().as_secs(), 2, "on paused time: that long a caller waits");

    let cancelled = when(&mut progress, |s| s.state == State::Cancelled).await;
    let after = Duration::from_millis(cancelled.ended.unwrap().0 - alert.created.0);
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(6)).contains(&after),
        "5 s from the grant: {after:?}"
    );
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!((last.totals.of(Outcome::Accepted), last.totals.of(Outcome::Unknown)), (4, 6));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_away_does_not_keep_the_caller_waiting() {
    let pipes = Pipes::default();
    let (mut a, mut b) = (ScriptedNode::on_pipes(&pipes, A), ScriptedNode::on_pipes(&pipes, B));
    let coordinator = Coordinator::over_pipes(&[A, B], &pipes);
    let (mut peer_a, mut peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    let alert = coordinator.alert("one", 600);
    let mut progress = coordinator.start(&alert).await;
    let (wave_a, wave_b) = (peer_a.wave().await, peer_b.wave().await);
    peer_b.lease(1, &wave_b).await;
    drop((peer_b, b)); // nobody listens there any more
    while coordinator.dispatcher.nodes().iter().all(|n| n.address.is_some()) {
        tokio::time::sleep(Duration::from_millis(1)).await; // paused: moves the clock when all is quiet
    }
    let began = tokio::time::Instant::now();
    let node = async {
        peer_a.cancel().await;
        peer_a.stopped(&wave_a).await;
    };
    let (answer, ()) = tokio::join!(coordinator.dispatcher.cancel(&alert.name), node);
    assert_eq!(answer, at(State::Cancelling, &["b"]));
    assert!(began.elapsed() < Duration::from_secs(1), "all that can be reached have confirmed");
    assert_eq!(when(&mut progress, |s| s.state.is_final()).await.state, State::Cancelled);
}
