//! What keeps an alert from getting on is told to those who watch it.

mod dispatch_support;

use std::sync::Arc;

use clarion_coordinator::{
    planned::PlannedAlert,
    snapshot::{AnswerOutcome, State, Trouble},
};
use clarion_proto::{
    ids::WaveId,
    wire::shard_v1::{
        self as wire, LaneHealth, session_request::Message, session_response::Message as Said,
    },
};
use dispatch_support::*;

#[tokio::test]
async fn a_sick_lane_is_told_while_it_is_sick() {
    let (mut a, mut b) = (ScriptedNode::tcp().await, ScriptedNode::tcp().await);
    let coordinator = Coordinator::over_tcp(&[&a, &b]);
    let (mut peer_a, mut peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    let mut progress = coordinator.start(&coordinator.alert("one", 60)).await;
    let lane =
        peer_a.until(|m| if let Message::Lane(lane) = m { Some(lane.id) } else { None }).await;
    peer_b.wave().await;
    let say = |health: LaneHealth, detail: &str| {
        Said::LaneState(wire::LaneState {
            lane,
            health: health.into(),
            detail: detail.to_owned(),
            ..Default::default()
        })
    };
    peer_a.say(say(LaneHealth::Throttled, "ServiceUnavailable")).await;
    peer_b.say(say(LaneHealth::Throttled, "ServiceUnavailable")).await;
    let both = when(&mut progress, |s| s.lane_troubles.iter().any(|t| t.nodes == 2)).await;
    let [trouble] = &both.lane_troubles[..] else {
        panic!("one lane, one reason: {:?}", both.lane_troubles)
    };
    assert_eq!((trouble.gateway.as_str(), trouble.credential.as_str()), ("g", "c"));
    assert_eq!((trouble.kind, trouble.detail.as_str()), (Trouble::Throttled, "ServiceUnavailable"));

    peer_a.say(say(LaneHealth::Credential, "InvalidProviderToken")).await;
    let two = when(&mut progress, |s| s.lane_troubles.len() == 2).await;
    let kinds: Vec<_> = two.lane_troubles.iter().map(|t| (t.kind, t.nodes)).collect();
    assert_eq!(kinds, [(Trouble::Throttled, 1), (Trouble::Credential, 1)]);

    peer_a.say(say(LaneHealth::Ready, "")).await;
    peer_b.say(say(LaneHealth::Ready, "")).await;
    let well = when(&mut progress, |s| s.lane_troubles.is_empty() && s.version > two.version).await;
    assert_eq!(well.state, State::Active);
}

#[tokio::test]
async fn a_refused_message_is_told_once_however_many_nodes_say_it() {
    let (mut a, mut b) = (ScriptedNode::tcp().await, ScriptedNode::tcp().await);
    let coordinator = Coordinator::over_tcp(&[&a, &b]);
    let (mut peer_a, mut peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    let mut progress = coordinator.start(&coordinator.alert("one", 60)).await;
    let (wave_a, wave_b) = (peer_a.wave().await, peer_b.wave().await);
    let refused = |app: &str, detail: &str| wire::RefusedMessage {
        app: app.to_owned(),
        detail: detail.to_owned(),
    };
    let messages =
        vec![refused("apps/demo", "400 BadTopic"), refused("no name of an app", "400 BadTopic")];
    peer_a
        .report(wire::Report { refused_messages: messages.clone(), ..report(&wave_a, 1, 5, 0) })
        .await;
    peer_b.report(wire::Report { refused_messages: messages, ..report(&wave_b, 1, 5, 0) }).await;
    let told = when(&mut progress, |s| s.totals.handed == 10).await;
    let told: Vec<_> =
        told.refused_messages.iter().map(|r| (r.app.name(), r.detail.as_str())).collect();
    assert_eq!(told, [("apps/demo".to_owned(), "400 BadTopic")]);
}

#[tokio::test]
async fn a_trouble_from_before_the_alert_says_since_when_and_ends_with_its_node() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    let mut first = coordinator.start(&coordinator.alert("one", 60)).await;
    let lane = peer.until(|m| if let Message::Lane(lane) = m { Some(lane.id) } else { None }).await;
    let wave = peer.wave().await;
    peer.say(Said::LaneState(wire::LaneState {
        lane,
        health: LaneHealth::Unsigned.into(),
        detail: "404, not signed by the provider".to_owned(),
        troubled_for_ms: 90_000,
        next_probe_in_ms: Some(2_000),
    }))
    .await;
    when(&mut first, |s| !s.lane_troubles.is_empty()).await;
    peer.report(ended(&wave, 1, 0, 0)).await;
    when(&mut first, |s| s.settled).await;

    // Another alert, begun while the lane is paused: its first watcher is told.
    let second =
        PlannedAlert { wave: WaveId(12), ..Arc::into_inner(coordinator.alert("two", 60)).unwrap() };
    let mut second = coordinator.start(&Arc::new(second)).await;
    let told = when(&mut second, |s| !s.lane_troubles.is_empty()).await;
    let trouble = &told.lane_troubles[0];
    assert_eq!((trouble.kind, trouble.nodes), (Trouble::Intermediary, 1));
    assert_eq!(trouble.detail, "404, not signed by the provider");
    let now = coordinator.clock.wall();
    assert!(
        (now.0 - 90_000 - 20_000..=now.0 - 90_000).contains(&trouble.since.0),
        "{trouble:?} at {now:?}"
    );
    assert_eq!(trouble.next_probe.map(|at| at.0), Some(trouble.since.0 + 92_000));

    // A node that is gone keeps no lane.
    drop(peer);
    when(&mut second, |s| s.lane_troubles.is_empty() && s.version > told.version).await;
}

#[tokio::test]
async fn callers_see_why_devices_were_not_accepted() {
    let (mut a, mut b) = (ScriptedNode::tcp().await, ScriptedNode::tcp().await);
    let coordinator = Coordinator::over_tcp(&[&a, &b]);
    let (mut peer_a, mut peer_b) = (a.hello("a", BOOT_1).await, b.hello("b", BOOT_1).await);
    let mut progress = coordinator.start(&coordinator.alert("one", 60)).await;
    let (wave_a, wave_b) = (peer_a.wave().await, peer_b.wave().await);
    let reason = |outcome: wire::AnswerOutcome, status, reason: &str, count| wire::ReasonCount {
        app: "apps/demo".to_owned(),
        lane: wave_a.apps[0].lane,
        outcome: outcome.into(),
        status,
        reason: reason.to_owned(),
        count,
    };
    let refused =
        |count| reason(wire::AnswerOutcome::Refused, 400, "DeviceTokenNotForTopic", count);
    let page = reason(wire::AnswerOutcome::Retried, 404, "", 1);
    peer_a.report(wire::Report { reasons: vec![refused(150)], ..report(&wave_a, 1, 150, 0) }).await;
    peer_b
        .report(wire::Report { reasons: vec![refused(150), page], ..report(&wave_b, 1, 151, 0) })
        .await;
    let told = when(&mut progress, |s| s.totals.handed == 301).await;
    let told: Vec<_> =
        told.reasons.iter().map(|r| (r.outcome, r.status, r.reason.as_str(), r.count)).collect();
    let expected = [
        (AnswerOutcome::Refused, 400, "DeviceTokenNotForTopic", 300),
        (AnswerOutcome::Retried, 404, "", 1),
    ];
    assert_eq!(told, expected);
}
