//! Nodes that come back: the same process, another one, one under a name that is taken.

mod dispatch_support;

use std::net::SocketAddr;

use clarion_coordinator::progress::State;
use clarion_proto::{
    outcome::Outcome,
    wire::shard_v1::{self as wire, session_request::Message},
};
use dispatch_support::*;
use roaring::RoaringBitmap;

const A: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
const B: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

#[tokio::test]
async fn the_same_process_is_not_sent_its_wave_again_and_nothing_is_counted_twice() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    let mut progress = coordinator.start(&coordinator.alert("one", 60)).await;
    let wave = peer.wave().await;
    peer.report(report(&wave, 1, 60, 40)).await;
    when(&mut progress, |s| s.totals.handed == 60).await;
    drop(peer); // the stream breaks

    let mut peer = a.hello("a", BOOT_1).await;
    // The answer to a lease request comes after all that the session starts with.
    peer.say(clarion_proto::wire::shard_v1::session_response::Message::LeaseRequest(wire::LeaseRequest {
        nonce: 1,
        waves: vec![wave.id],
        lanes: Vec::new(),
    }))
    .await;
    let mut kinds = Vec::new();
    let grant = peer
        .until(|m| match m {
            Message::Grant(grant) => Some(grant),
            other => {
                kinds.push(other);
                None
            }
        })
        .await;
    assert!(kinds.iter().any(|m| matches!(m, Message::Ownership(_))), "a session starts complete: {kinds:?}");
    assert!(!kinds.iter().any(|m| matches!(m, Message::Wave(_))), "but it has the wave");
    assert_eq!(grant.waves.len(), 1);

    // The first report of a session repeats everything.
    peer.report(report(&wave, 2, 60, 40)).await;
    peer.report(complete(&wave, 3, 61, 61)).await;
    peer.end().await;
    peer.report(ended(&wave, 4, 61, 61)).await;
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!((last.state, last.totals.handed, last.totals.of(Outcome::Accepted)), (State::Resolved, 61, 61));
}

#[tokio::test]
async fn another_process_is_given_what_was_handed_and_had_an_answer() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    let mut progress = coordinator.start(&coordinator.alert("one", 60)).await;
    let wave = peer.wave().await;
    let first = wire::Report {
        handed: vec![ordinals(2, &[1, 2, 3, 4]), ordinals(5, &[9])],
        open: vec![ordinals(2, &[3]), ordinals(5, &[9])],
        ..report(&wave, 1, 5, 3)
    };
    peer.report(first).await;
    let second = wire::Report {
        handed: vec![ordinals(5, &[8])],
        open: vec![ordinals(2, &[3]), ordinals(5, &[8])],
        ..report(&wave, 2, 6, 4)
    };
    peer.report(second).await;
    when(&mut progress, |s| s.totals.handed == 6).await;
    drop(peer); // the process dies: 3 of partition 2 and 8 of partition 5 have no answer

    let mut peer = a.hello("a", BOOT_2).await;
    let again = peer.wave().await;
    assert_eq!((again.id, again.epoch), (wave.id, wave.epoch));
    let done: Vec<(u32, Vec<u32>)> = again
        .shards
        .iter()
        .filter(|s| !s.handed.is_empty())
        .map(|s| (s.partition, RoaringBitmap::deserialize_from(&s.handed[..]).unwrap().iter().collect()))
        .collect();
    assert_eq!(done, [(2, vec![1, 2, 4]), (5, vec![9])]);
    let resumed = progress.borrow_and_update().clone();
    assert_eq!((resumed.totals.handed, resumed.totals.of(Outcome::Accepted), resumed.totals.open()), (6, 4, 2));

    // It hands those two again, and one that its predecessor never came to.
    peer.report(complete(&again, 1, 3, 3)).await;
    peer.end().await;
    peer.report(ended(&again, 2, 3, 3)).await;
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!((last.state, last.totals.handed, last.totals.of(Outcome::Accepted)), (State::Resolved, 7, 7));
}

#[tokio::test(start_paused = true)]
async fn a_second_node_of_the_same_name_is_refused_until_the_first_is_gone() {
    let pipes = Pipes::default();
    let (mut a, mut b) = (pipes.node(A), pipes.node(B));
    let coordinator = Coordinator::over_pipes(&[A, B], &pipes);
    let at = || coordinator.dispatcher.nodes().first().and_then(|node| node.address);
    let mut first = a.hello("same", BOOT_1).await;
    while at().is_none() {
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        let mut second = b.hello("same", BOOT_2).await;
        assert!(second.is_ended().await, "it is told nothing");
    }
    assert!(matches!(first.next().await, Some(Message::Ownership(_))), "the first goes on");
    assert_eq!((at(), coordinator.dispatcher.nodes().len()), (Some(A), 1));
    drop((first, a));
    loop {
        let mut second = b.hello("same", BOOT_2).await;
        if let Some(message) = second.next().await {
            assert!(matches!(message, Message::Ownership(_)), "the name is free: {message:?}");
            break;
        }
    }
    assert_eq!(at(), Some(B));
}
