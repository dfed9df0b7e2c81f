//! A token that a gateway calls bad is pruned only where the gateway accepts others of the same
//! app; else there is an alarm.

mod dispatch_support;

use std::time::Duration;

use clarion_coordinator::{
    dispatch::Dispatch as _,
    snapshot::{PruningAlarm, State},
    store::ChangeLog,
};
use clarion_proto::{ids::LogId, wire::shard_v1 as wire};
use dispatch_support::*;

/// What is pruned so far.
async fn pruned(coordinator: &Coordinator) -> u64 {
    let heads = coordinator.log.heads().await.expect("heads");
    let until: Vec<_> = (0..).map(LogId).zip(heads).collect();
    coordinator.log.records_until(&until).await.expect("counts").into_iter().sum()
}

/// Device `n`, called dead.
fn dead(lane: u32, n: u64, needs_evidence: bool) -> wire::DeadToken {
    let mut device = vec![0; 8];
    device.extend_from_slice(&n.to_be_bytes());
    let app = "apps/demo".to_owned();
    wire::DeadToken { lane, device, token_hash: n, gateway_time_ms: 0, app, needs_evidence }
}

/// Totals of a wave: so many accepted, and all up to the last of these called bad, which are named.
fn answers(
    wave: &wire::Wave,
    sequence: u64,
    accepted: u64,
    bad: std::ops::Range<u64>,
) -> wire::Report {
    let lane = wave.apps[0].lane;
    let so_far = bad.end;
    let mut report = report(wave, sequence, accepted + so_far, accepted);
    report.bands[0].dead = so_far;
    report.dead = bad.map(|n| dead(lane, n, true)).collect();
    report.lanes.push(wire::LaneAnswers {
        lane,
        answers: accepted + so_far,
        dead: so_far,
        app: "apps/demo".to_owned(),
        accepted,
        bad_device_tokens: so_far,
    });
    report
}

#[tokio::test]
async fn a_small_registry_on_the_wrong_environment_prunes_nobody_and_raises_an_alarm() {
    let mut a = ScriptedNode::tcp().await;
    let coordinator = Coordinator::over_tcp(&[&a]);
    let mut peer = a.hello("a", BOOT_1).await;
    let mut progress = coordinator.start(&coordinator.alert("one", 60)).await;
    let wave = peer.wave().await;
    let before = coordinator.clock.wall();
    peer.report(answers(&wave, 1, 0, 0..900)).await;
    let told = when(&mut progress, |s| !s.pruning_alarms.is_empty()).await;
    let [PruningAlarm { app, lane, since, withheld, accepted_any }] = &told.pruning_alarms[..]
    else {
        panic!("one app: {:?}", told.pruning_alarms)
    };
    assert_eq!(
        (app.name().as_str(), lane.gateway.as_str(), lane.credential.as_str()),
        ("apps/demo", "g", "c")
    );
    assert_eq!((*withheld, *accepted_any), (900, false));
    assert!((before..=coordinator.clock.wall()).contains(since));
    assert_eq!(coordinator.dispatcher.registry().pruning_alarms, told.pruning_alarms);

    // 410 and UNREGISTERED mean one token: believed, alarm or not. Once it is in the log, what came
    // before it is judged.
    let mut gone = answers(&wave, 2, 0, 900..900);
    gone.dead = vec![dead(wave.apps[0].lane, 5_000, false)];
    let mut grown = coordinator.log.grown();
    peer.report(gone).await;
    tokio::time::timeout(PATIENCE, grown.changed()).await.expect("a record").unwrap();
    assert_eq!(pruned(&coordinator).await, 1, "of all, the one that is unregistered");

    // The last progress of the alert tells the alarm, too.
    peer.report(wire::Report { bands: vec![], ..ended(&wave, 3, 0, 0) }).await;
    let last = when(&mut progress, |s| s.settled).await;
    assert_eq!((last.state, last.pruning_alarms.len()), (State::Resolved, 1));
}

#[tokio::test(start_paused = true)]
async fn few_bad_tokens_wait_for_the_first_acceptance() {
    let pipes = Pipes::default();
    let mut a = ScriptedNode::on_pipes(&pipes, "10.0.0.1:7600".parse().unwrap());
    let coordinator = Coordinator::over_pipes(&[a.address], &pipes);
    let mut peer = a.hello("a", BOOT_1).await;
    let mut progress = coordinator.start(&coordinator.alert("one", 3_600)).await;
    let wave = peer.wave().await;
    peer.report(answers(&wave, 1, 0, 0..5)).await;
    when(&mut progress, |s| s.totals.handed == 5).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(
        (pruned(&coordinator).await, coordinator.dispatcher.registry().pruning_alarms.len()),
        (0, 0)
    );
    peer.report(answers(&wave, 2, 1, 5..5)).await;
    when(&mut progress, |s| s.totals.handed == 6).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(pruned(&coordinator).await, 5);
}
