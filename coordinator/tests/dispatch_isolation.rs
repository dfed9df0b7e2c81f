//! One alert that a node cannot take: it is isolated after three deliveries, and all others go on.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod dispatch_support;

use std::sync::Arc;

use clarion_coordinator::{
    bands::Band,
    dispatch::{CancelState, CountError, Dispatch as _},
    planned::{CountPlan, PlannedAlert},
    snapshot::State,
};
use clarion_proto::{
    ids::{AppName, UnixMillis, WaveId},
    wire::shard_v1::{
        self as wire, RefusalCause, session_request::Message, session_response::Message as Said,
    },
};
use dispatch_support::*;
use h3o::{CellIndex, LatLng, Resolution};
use tonic::Status;

const POISON: u64 = 21;
const GOOD: u64 = 22;

fn cells(count: usize) -> Vec<CellIndex> {
    let parent = LatLng::new(22.54, 114.06).unwrap().to_cell(Resolution::Two);
    parent.children(Resolution::Eight).take(count).collect()
}

/// An alert with a wave of its own, of so many cells.
fn alert(coordinator: &Coordinator, name: &str, wave: u64, count: usize) -> Arc<PlannedAlert> {
    let plan = Arc::into_inner(coordinator.alert(name, 60)).unwrap();
    let bands = vec![Band { from_m: 0.0, to_m: 1_000.0, cells: cells(count) }];
    Arc::new(PlannedAlert { wave: WaveId(wave), bands: bands.into(), ..plan })
}

/// Lists what the node has, which says that it took it.
async fn asks(peer: &Peer, waves: &[u64]) {
    let ask = wire::LeaseRequest { nonce: 1, waves: waves.to_vec(), lanes: Vec::new() };
    peer.say(Said::LeaseRequest(ask)).await;
}

/// Plays a node that takes all waves but the poison, for which it does something else; until the
/// good one was completed.
async fn play(node: &mut ScriptedNode, mut poison: impl AsyncFnMut(&Peer) -> bool) -> usize {
    let (mut poisoned, mut boot) = (0, 0_u8);
    let mut completed = false;
    loop {
        boot += 1;
        let mut peer = node.hello("a", [boot; 16]).await;
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
        let mut known = Vec::new();
        loop {
            let message = tokio::select! {
                message = peer.next() => message,
                _ = ticks.tick() => {
                    asks(&peer, &known).await;
                    continue;
                }
            };
            match message {
                Some(Message::Wave(wave)) if wave.id == POISON => {
                    poisoned += 1;
                    if !poison(&peer).await {
                        break; // as a process dies
                    }
                }
                Some(Message::Wave(wave)) => {
                    known.push(wave.id);
                    asks(&peer, &known).await;
                    if poisoned == 3 {
                        peer.report(complete(&wave, 1, 5, 5)).await;
                        completed = true;
                    }
                }
                Some(Message::End(_)) => {
                    let wave = wire::Wave { id: GOOD, epoch: 1, ..wire::Wave::default() };
                    peer.report(ended(&wave, 2, 5, 5)).await;
                    return poisoned;
                }
                Some(_) => {}
                None => break,
            }
            if poisoned == 3 && known.contains(&GOOD) && !completed {
                let wave = wire::Wave { id: GOOD, epoch: 1, ..wire::Wave::default() };
                peer.report(complete(&wave, 1, 5, 5)).await;
                completed = true;
            }
        }
    }
}

async fn isolated_and_the_other_resolves(poison: impl AsyncFnMut(&Peer) -> bool, reason: &str) {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let (bad, good) = (alert(&coordinator, "bad", POISON, 3), alert(&coordinator, "good", GOOD, 3));
    let callers = async {
        let mut bad_progress = coordinator.start(&bad).await;
        let mut good_progress = coordinator.start(&good).await;
        let told = when(&mut bad_progress, |s| !s.isolated.is_empty()).await;
        let [(node, why)] = &told.isolated[..] else { panic!("one node: {:?}", told.isolated) };
        assert_eq!((node.to_string().as_str(), told.state), ("a", State::Active));
        assert!(why.contains(reason), "{why}");
        let last = when(&mut good_progress, |s| s.settled).await;
        assert_eq!((last.state, last.totals.handed), (State::Resolved, 5));
        assert!(last.isolated.is_empty());
        bad_progress
    };
    let (mut bad_progress, poisoned) = tokio::join!(callers, play(&mut a, poison));
    assert_eq!(poisoned, 3, "never a fourth time");
    // It is not resolved as if everybody had been told; a cancel ends it.
    assert_eq!(bad_progress.borrow_and_update().state, State::Active);
    drop(a);
    let CancelState::At { state, .. } = coordinator.dispatcher.cancel(&bad.name).await else {
        panic!()
    };
    assert!(matches!(state, State::Cancelling | State::Cancelled), "{state:?}");
    let last = when(&mut bad_progress, |s| s.settled).await;
    assert_eq!((last.state, last.isolated.len()), (State::Cancelled, 1));
}

#[tokio::test]
async fn a_node_that_always_refuses_an_alert() {
    let refuse = async |peer: &Peer| {
        let (ownership, reason) = (1, "wave.bands: no".to_owned());
        let cause = RefusalCause::Message.into();
        peer.say(Said::Refusal(wire::Refusal {
            ownership,
            wave: POISON,
            reason,
            cause,
            ..wire::Refusal::default()
        }))
        .await;
        true
    };
    isolated_and_the_other_resolves(refuse, "wave.bands: no").await;
}

#[tokio::test]
async fn a_node_that_dies_of_an_alert() {
    isolated_and_the_other_resolves(async |_: &Peer| false, "ended the stream").await;
}

#[tokio::test]
async fn a_node_whose_limit_an_alert_exceeds() {
    let exceed = async |peer: &Peer| {
        peer.fail(Status::out_of_range("message length too large: found 37000000 bytes")).await;
        false
    };
    isolated_and_the_other_resolves(exceed, "37000000").await;
}

#[tokio::test]
async fn a_wide_alert_comes_in_parts_beside_others() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    let wide = alert(&coordinator, "wide", POISON, 110_000);
    coordinator.start(&wide).await;
    let head = peer.wave().await;
    assert_eq!((head.id, head.cover_cells), (POISON, 110_000));
    let part = |m| if let Message::CoverPart(part) = m { Some(part) } else { None };
    let first = peer.until(part).await;
    let mut came = first.bands.iter().map(|band| band.cells.len()).sum::<usize>();
    coordinator.start(&alert(&coordinator, "good", GOOD, 3)).await;
    asks(&peer, &[]).await;
    let (mut last, mut good) = (first.last, false);
    while !(last && good) {
        match peer.next().await.expect("the session goes on") {
            Message::Wave(wave) => {
                good = true;
                assert_eq!((wave.id, wave.delivery), (GOOD, 0));
            }
            Message::CoverPart(part) => {
                came += part.bands.iter().map(|band| band.cells.len()).sum::<usize>();
                last = part.last;
            }
            _ => {}
        }
    }
    assert_eq!(came, 110_000);
}

#[tokio::test]
async fn a_preview_that_a_node_refuses_is_an_error_and_not_a_wait() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    let good = alert(&coordinator, "good", GOOD, 3);
    coordinator.start(&good).await;
    let plan = CountPlan {
        bands: good.bands.clone(),
        apps: vec![AppName::from_id("demo").unwrap()],
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
    };
    let node = async {
        let count =
            peer.until(|m| if let Message::Count(count) = m { Some(count) } else { None }).await;
        let refusal = wire::Refusal {
            ownership: 1,
            wave: 0,
            reason: "count.cover_cells: at most 10".to_owned(),
            count: count.id,
            cause: RefusalCause::Message.into(),
            ..wire::Refusal::default()
        };
        peer.say(Said::Refusal(refusal)).await;
    };
    let (counted, ()) = tokio::join!(coordinator.dispatcher.count(plan), node);
    let error = counted.unwrap_err();
    assert!(matches!(&error, CountError::Refused { again: false, .. }), "{error:?}");
    assert_eq!(error.to_string(), "node a cannot count it: count.cover_cells: at most 10");
}
