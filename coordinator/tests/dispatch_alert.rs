//! Alerts from start to resolution over loopback, with two nodes that do as they are told.

mod dispatch_support;

use clarion_coordinator::{
    dispatch::{CountError, Dispatch as _, StartError},
    planned::CountPlan,
    snapshot::State,
    store::ChangeLog,
};
use clarion_proto::{
    ids::{AppName, DeviceId, LogId, LogIdentity, Position, UnixMillis, log_of, partition_of},
    outcome::Outcome,
    wire::shard_v1::{self as wire, session_request::Message, session_response::Message as Said},
};
use dispatch_support::*;
use tokio::time::timeout;

#[tokio::test]
async fn an_alert_is_carried_out_by_two_nodes_and_resolves_with_exact_totals() {
    let (mut a, mut b) = (ScriptedNode::tcp().await, ScriptedNode::tcp().await);
    let coordinator = Coordinator::over_tcp(&[&a, &b]);
    let (mut peer_a, mut peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    coordinator.log.append_all(vec![(LogId(3), Default::default())]).await.unwrap();
    let alert = coordinator.alert("one", 60);
    let mut progress = coordinator.start(&alert).await;
    let again = coordinator.dispatcher.start(start_of(&alert).0);
    assert!(matches!(again, Err(StartError::Twice(_))), "it runs");

    let (wave_a, wave_b) = (peer_a.wave().await, peer_b.wave().await);
    let mut partitions: Vec<_> =
        wave_a.shards.iter().chain(&wave_b.shards).map(|s| s.partition).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, (0..u32::from(PARTITIONS)).collect::<Vec<_>>(), "each once");
    let heads: u64 = wave_a.shards.iter().chain(&wave_b.shards).map(|s| s.start_position).sum();
    assert_eq!(heads, 1, "what was acknowledged before is seen: log 3 stands at 1");
    let grants = (peer_a.lease(1, &wave_a).await, peer_b.lease(2, &wave_b).await);
    let rate = |grant: &wire::Grant| grant.waves[0].rate_millis_per_second;
    assert_eq!(
        (grants.0.nonce, grants.1.nonce, rate(&grants.0) + rate(&grants.1)),
        (1, 2, 1_000_000)
    );

    peer_a.report(report(&wave_a, 1, 60, 40)).await;
    peer_b.report(complete(&wave_b, 1, 30, 30)).await;
    let half = when(&mut progress, |s| s.totals.handed == 90).await;
    assert_eq!((half.state, half.totals.open(), half.nodes_walked), (State::Active, 20, 1));
    peer_a.report(complete(&wave_a, 2, 70, 70)).await;

    assert_eq!((peer_a.end().await.wave, peer_b.end().await.wave), (wave_a.id, wave_b.id));
    peer_a.report(ended(&wave_a, 3, 70, 70)).await;
    peer_b.report(ended(&wave_b, 2, 31, 31)).await;
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!((last.state, last.nodes_walked, last.nodes), (State::Resolved, 2, 2));
    assert_eq!(
        (last.totals.handed, last.totals.of(Outcome::Accepted), last.totals.open()),
        (101, 101, 0)
    );
    assert!(last.bands.iter().all(|band| band.walked));
    assert!(
        last.first_accepted_after.is_some()
            && last.first_accepted_after <= last.last_accepted_after
    );
    coordinator.dispatcher.shutdown().await;
    assert!(peer_a.is_ended().await);
}

#[tokio::test]
async fn an_alert_for_nobody_resolves() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    let mut progress = coordinator.start(&coordinator.alert("nobody", 60)).await;
    let wave = peer.wave().await;
    peer.report(complete(&wave, 1, 0, 0)).await;
    peer.end().await;
    peer.report(ended(&wave, 2, 0, 0)).await;
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!((last.state, last.totals.handed), (State::Resolved, 0));
}

#[tokio::test]
async fn without_nodes_nothing_starts() {
    let a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let (start, watch) = start_of(&coordinator.alert("none", 60));
    let error = coordinator.dispatcher.start(start).unwrap_err();
    assert!(matches!(error, StartError::NoNodes { .. }), "{error}");
    let error = coordinator.dispatcher.check_start(&[]).unwrap_err();
    assert!(matches!(error, StartError::NoNodes { .. }), "{error}");
    assert_eq!(watch.borrow().version, 0, "nothing was published");
}

#[tokio::test]
async fn a_lane_that_is_not_configured_starts_nothing() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    coordinator.start(&coordinator.alert("good", 60)).await;
    peer.wave().await;
    let mut alert = std::sync::Arc::into_inner(coordinator.alert("bad", 60)).unwrap();
    alert.apps[0].lane.gateway = "elsewhere".to_owned();
    let alert = std::sync::Arc::new(alert);
    for error in [
        coordinator.dispatcher.check_start(&[&alert.apps[0].lane]).unwrap_err(),
        coordinator.dispatcher.start(start_of(&alert).0).unwrap_err(),
    ] {
        assert!(matches!(&error, StartError::Lane(lane) if lane.gateway == "elsewhere"), "{error}");
    }
}

#[tokio::test]
async fn an_alert_over_another_log_starts_nothing() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    coordinator.start(&coordinator.alert("good", 60)).await;
    peer.wave().await;
    let mut alert = std::sync::Arc::into_inner(coordinator.alert("old", 60)).unwrap();
    alert.log = LogIdentity([9; 16]);
    let error = coordinator.dispatcher.start(start_of(&alert.into()).0).unwrap_err();
    assert!(matches!(error, StartError::OtherLog { .. }), "its positions mean nothing: {error}");
}

#[tokio::test]
async fn a_count_adds_up_what_all_nodes_say() {
    let (mut a, mut b) = (ScriptedNode::tcp().await, ScriptedNode::tcp().await);
    let coordinator = Coordinator::over_tcp(&[&a, &b]);
    let (mut peer_a, mut peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    let alert = coordinator.alert("one", 60);
    coordinator.start(&alert).await;
    let plan = || CountPlan {
        bands: alert.bands.clone(),
        apps: vec![AppName::from_id("demo").unwrap(), AppName::from_id("other").unwrap()],
        segments: Vec::new(),
        place_seen_after: UnixMillis(5),
    };
    let question = |m| if let Message::Count(count) = m { Some(count) } else { None };
    let answers = |id: u64, devices: [[u64; 2]; 2]| {
        let apps = devices.map(|devices| wire::AppCounted { devices: devices.to_vec() }).to_vec();
        Said::Counted(wire::Counted { id, apps, left_out_for_age: devices[0][0] })
    };
    let nodes = async {
        let (asked_a, asked_b) = (peer_a.until(question).await, peer_b.until(question).await);
        assert_eq!(asked_a, asked_b);
        assert_eq!((asked_a.bands.len(), asked_a.apps.len()), (2, 2));
        assert_eq!(asked_a.place_seen_after_ms, 5);
        peer_a.say(answers(asked_a.id, [[1, 2], [3, 4]])).await;
        peer_b.say(answers(asked_b.id, [[10, 20], [30, 40]])).await;
    };
    let (counts, ()) = tokio::join!(coordinator.dispatcher.count(plan()), nodes);
    let counts = counts.unwrap();
    assert_eq!(counts.devices, [[11, 22], [33, 44]]);
    assert_eq!(counts.left_out_for_age, 11);
    drop(peer_b);
    drop(b);
    let away = async {
        while coordinator.dispatcher.nodes().iter().all(|n| n.address.is_some()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, away).await.expect("b is noticed to be away");
    let error = coordinator.dispatcher.count(plan()).await.unwrap_err();
    assert!(matches!(&error, CountError::Absent { nodes } if nodes == &["b"]), "{error}");
}

#[tokio::test]
async fn an_audience_is_large_enough_as_soon_as_some_nodes_say_so() {
    let (mut a, mut b) = (ScriptedNode::tcp().await, ScriptedNode::tcp().await);
    let coordinator = Coordinator::over_tcp(&[&a, &b]);
    let (mut peer_a, mut peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    let alert = coordinator.alert("one", 60);
    coordinator.start(&alert).await;
    let plan = || CountPlan {
        bands: alert.bands.clone(),
        apps: vec![AppName::from_id("demo").unwrap()],
        segments: vec![],
        place_seen_after: UnixMillis(0),
    };
    let question = |m| if let Message::Count(count) = m { Some(count) } else { None };
    let says = |id: u64, devices: u64| {
        Said::Counted(wire::Counted {
            id,
            apps: vec![wire::AppCounted { devices: vec![devices, 1] }],
            left_out_for_age: 0,
        })
    };
    // b never answers the first question, and is not waited for.
    let nodes = async {
        let asked = peer_a.until(question).await;
        peer_a.say(says(asked.id, 99)).await;
    };
    let (enough, ()) = tokio::join!(coordinator.dispatcher.reaches(plan(), 100), nodes);
    assert!(enough.unwrap());
    peer_b.until(question).await;
    let nodes = async {
        let asked = peer_a.until(question).await;
        assert_eq!(peer_b.until(question).await, asked);
        peer_a.say(says(asked.id, 40)).await;
        peer_b.say(says(asked.id, 50)).await;
    };
    let (enough, ()) = tokio::join!(coordinator.dispatcher.reaches(plan(), 100), nodes);
    assert!(!enough.unwrap(), "92 in all");
    drop((peer_b, b));
    let away = async {
        while coordinator.dispatcher.nodes().iter().all(|n| n.address.is_some()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, away).await.expect("b is noticed to be away");
    for (devices, enough) in [(99, true), (98, false)] {
        let nodes = async {
            let asked = peer_a.until(question).await;
            peer_a.say(says(asked.id, devices)).await;
        };
        match tokio::join!(coordinator.dispatcher.reaches(plan(), 100), nodes).0 {
            Ok(told) => assert!(told && enough),
            Err(CountError::Absent { nodes }) => {
                assert!(!enough && nodes == ["b"], "nobody knows what b has");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn dead_tokens_come_into_the_log_of_their_partition() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    coordinator.start(&coordinator.alert("one", 60)).await;
    let mut lane = 0;
    let wave = peer
        .until(|m| match m {
            Message::Lane(l) => {
                lane = l.id;
                None
            }
            Message::Wave(wave) => Some(wave),
            _ => None,
        })
        .await;
    let device = [7; 16];
    let dead = wire::DeadToken {
        lane,
        device: device.to_vec(),
        token_hash: 99,
        gateway_time_ms: 5,
        ..Default::default()
    };
    let mut dead_report = report(&wave, 1, 10, 9);
    dead_report.bands[0].dead = 1;
    dead_report.dead.push(dead);
    dead_report.lanes.push(wire::LaneAnswers { lane, answers: 10, dead: 1, ..Default::default() });
    let mut grown = coordinator.log.grown();
    peer.report(dead_report).await;
    timeout(PATIENCE, grown.changed()).await.expect("a record").unwrap();
    let log = log_of(partition_of(DeviceId(device), PARTITIONS), PARTITIONS);
    let read = coordinator.log.read_many(&[(log, Position(0))], 1 << 20).await.unwrap();
    let batches = &read[0].1;
    assert_eq!(batches.len(), 1);
    let mut fed: wire::FeedResponse = prost::Message::decode(batches[0].records.clone()).unwrap();
    let record = fed.records.remove(0);
    assert_eq!(record.device, device);
    let feedback = wire::FeedbackRecord { token_hash: 99, gateway_time_ms: 5 };
    assert_eq!(record.change, Some(wire::record::Change::Feedback(feedback)));
}

#[tokio::test]
async fn what_nodes_hold_adds_up() {
    let (mut a, mut b) = (ScriptedNode::tcp().await, ScriptedNode::tcp().await);
    let coordinator = Coordinator::over_tcp(&[&a, &b]);
    let (peer_a, peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    coordinator.start(&coordinator.alert("one", 60)).await;
    let log = || coordinator.log.identity().to_wire();
    for (peer, devices) in [(&peer_a, 10), (&peer_b, 5)] {
        let positions = (0..u32::from(PARTITIONS))
            .map(|log| wire::LogPosition { log, position: devices })
            .collect();
        let apps = vec![wire::AppDevices { app: "demo".to_owned(), devices }];
        let state = wire::RegistryState {
            positions,
            devices,
            placed: devices,
            muted: 1,
            apps,
            rss_bytes: 100,
            log_identity: log(),
        };
        peer.say(Said::RegistryState(state)).await;
    }
    let told = async {
        while coordinator.dispatcher.registry().devices < 15 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, told).await.expect("both have told");
    let totals = coordinator.dispatcher.registry();
    assert_eq!((totals.placed, totals.muted, totals.rss_bytes), (15, 2, 200));
    assert_eq!(totals.applied.len(), usize::from(PARTITIONS));
    // A log's partition has one owner, who alone says how far it is.
    let positions: Vec<_> = totals.applied.values().map(|p| p.0).collect();
    assert!(positions.contains(&10) && positions.contains(&5), "{positions:?}");
}
