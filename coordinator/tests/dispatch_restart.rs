//! Nodes that come back: the same process, another one, one under a name that is taken.

mod dispatch_support;

use std::net::SocketAddr;

use clarion_coordinator::{dispatch::Dispatch as _, snapshot::State, store::ChangeLog};
use clarion_proto::{
    outcome::Outcome,
    wire::shard_v1::{self as wire, session_request::Message, session_response::Message as Said},
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
    peer.say(clarion_proto::wire::shard_v1::session_response::Message::LeaseRequest(
        wire::LeaseRequest { nonce: 1, waves: vec![wave.id], lanes: Vec::new() },
    ))
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
    assert!(
        kinds.iter().any(|m| matches!(m, Message::Ownership(_))),
        "a session starts complete: {kinds:?}"
    );
    assert!(!kinds.iter().any(|m| matches!(m, Message::Wave(_))), "but it has the wave");
    assert_eq!(grant.waves.len(), 1);

    // The first report of a session repeats everything.
    peer.report(report(&wave, 2, 60, 40)).await;
    peer.report(complete(&wave, 3, 61, 61)).await;
    peer.end().await;
    peer.report(ended(&wave, 4, 61, 61)).await;
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!(
        (last.state, last.totals.handed, last.totals.of(Outcome::Accepted)),
        (State::Resolved, 61, 61)
    );
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
        .map(|s| {
            (s.partition, RoaringBitmap::deserialize_from(&s.handed[..]).unwrap().iter().collect())
        })
        .collect();
    assert_eq!(done, [(2, vec![1, 2, 4]), (5, vec![9])]);
    let resumed = progress.borrow_and_update().clone();
    assert_eq!(
        (resumed.totals.handed, resumed.totals.of(Outcome::Accepted), resumed.totals.open()),
        (6, 4, 2)
    );

    // It hands those two again, and one that its predecessor never came to.
    peer.report(complete(&again, 1, 3, 3)).await;
    peer.end().await;
    peer.report(ended(&again, 2, 3, 3)).await;
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!(
        (last.state, last.totals.handed, last.totals.of(Outcome::Accepted)),
        (State::Resolved, 7, 7)
    );
}

#[tokio::test(start_paused = true)]
async fn a_second_node_of_the_same_name_is_refused_until_the_first_is_gone() {
    let pipes = Pipes::default();
    let (mut a, mut b) = (ScriptedNode::on_pipes(&pipes, A), ScriptedNode::on_pipes(&pipes, B));
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

#[tokio::test]
async fn the_coordinator_speaks_first_and_a_node_of_another_cluster_gets_nothing() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.session().await;
    let open = peer.open().await;
    assert_eq!((open.cluster.as_str(), open.coordinator.len()), ("clarion", 16));
    assert_eq!(open.log_identity, coordinator.log.identity().to_wire());
    peer.say(Said::Hello(wire::Hello { cluster: "other".to_owned(), ..hello("a", BOOT_1) })).await;
    assert!(peer.is_ended().await, "it is told nothing");
    assert!(coordinator.dispatcher.nodes().is_empty() && !coordinator.dispatcher.is_ready());

    let again = a.session().await;
    again.say(Said::Hello(hello("a", BOOT_1))).await;
    let mut sessions = coordinator.dispatcher.sessions();
    tokio::time::timeout(PATIENCE, sessions.wait_for(|_| coordinator.dispatcher.is_ready()))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn what_a_node_holds_of_another_log_counts_for_nothing() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let positions = (0..u32::from(PARTITIONS))
        .map(|log| wire::LogPosition { log, position: 500 })
        .collect::<Vec<_>>();
    let mut peer = a.session().await;
    peer.open().await;
    let other = vec![7; 16];
    let of_other = wire::Hello {
        positions: positions.clone(),
        log_identity: other.clone(),
        ..hello("a", BOOT_1)
    };
    peer.say(Said::Hello(of_other)).await;
    let owned =
        peer.until(|m| if let Message::Ownership(owned) = m { Some(owned) } else { None }).await;
    assert_eq!(owned.log_identity, coordinator.log.identity().to_wire());
    assert_eq!(owned.number, 1, "the first of this log: nodes compare numbers within one log only");
    let state = wire::RegistryState {
        positions,
        devices: 9,
        log_identity: other,
        ..wire::RegistryState::default()
    };
    peer.say(Said::RegistryState(state.clone())).await;
    // The answer to a lease request comes after what was said before it was heard.
    let ask = wire::LeaseRequest { nonce: 1, waves: vec![1], lanes: Vec::new() };
    peer.say(Said::LeaseRequest(ask)).await;
    peer.until(|m| matches!(m, Message::Grant(_)).then_some(())).await;
    let totals = coordinator.dispatcher.registry();
    assert!(totals.devices == 0 && totals.applied.values().all(|p| p.0 == 0), "{totals:?}");
}

#[tokio::test]
async fn a_node_that_drains_is_answered_and_its_next_process_is_given_its_last_report() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    let mut progress = coordinator.start(&coordinator.alert("one", 60)).await;
    let wave = peer.wave().await;
    let last = wire::Report {
        handed: vec![ordinals(2, &[1, 2])],
        open: vec![ordinals(2, &[2])],
        ..report(&wave, 1, 2, 1)
    };
    peer.report(last).await;
    peer.say(Said::Leaving(wire::Leaving {})).await;
    peer.until(|m| matches!(m, Message::Left(_)).then_some(())).await;
    drop(peer); // in this moment the process ends

    let mut peer = a.hello("a", BOOT_2).await;
    let again = peer.wave().await;
    let done = again.shards.iter().find(|s| s.partition == 2).unwrap();
    let done: Vec<u32> =
        RoaringBitmap::deserialize_from(&done.handed[..]).unwrap().iter().collect();
    assert_eq!(done, [1], "what was answered, and not what was open");
    peer.report(complete(&again, 1, 1, 1)).await;
    peer.end().await;
    peer.report(ended(&again, 2, 1, 1)).await;
    when(&mut progress, |s| s.settled).await;
}
