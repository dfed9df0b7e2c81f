//! The table of changes: which have an effect, and on what.

use std::time::Duration;

use clarion_proto::ids::UnixMillis;

use super::*;
use crate::{
    fixtures::{LANE, WAVE, node, seconds, standing, token, wave},
    lane::Quota,
    owners::Ownership,
};

fn ramped() -> Standing {
    standing(Some(Quota { per_minute: 60, burst: None, ramp: Duration::from_secs(60) }))
}

fn count(id: u64, limit: usize) -> Change {
    let plan = CountPlan {
        bands: Vec::new().into(),
        apps: Vec::new(),
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
    };
    Change::BeginCount { id, plan: Arc::new(plan), limit }
}

#[test]
fn each_change_has_its_effect_once() {
    let mut holds = ramped();
    let lane = holds.lanes[&LANE].clone();
    let owned = Ownership::assign(6, 8, &[node("c")]);
    let running = || Change::Begin(StandingWave::clone(&wave(Phase::Running)));
    let unknown = WaveId(WAVE.0 + 1);
    for (change, has_effect) in [
        (Change::Owned(Arc::new(Owned::new(owned, 8, 8))), true),
        (Change::Lane(lane.clone(), None), true),
        (Change::Token(vec![LANE], token("bearer two")), true),
        (Change::Token(Vec::new(), token("bearer two")), false),
        (Change::Budget(LANE, 3), true),
        (Change::Budget(LANE, 3), false),
        (Change::Budget(LANE, 4), true),
        (Change::Phase(WAVE, Some(Phase::Cancelled)), false),
        (running(), true),
        (Change::Phase(WAVE, Some(Phase::Running)), false),
        (Change::Phase(WAVE, Some(Phase::Closed)), true),
        (Change::Phase(unknown, Some(Phase::Closed)), false),
        (Change::Phase(unknown, None), false),
        (Change::Phase(WAVE, None), true),
        (Change::Phase(WAVE, None), false),
        (count(1, 1), true),
        (count(2, 1), false),
        (Change::EndCount(2), false),
        (Change::EndCount(1), true),
        (count(2, 1), true),
    ] {
        let words = format!("{change:?}");
        assert_eq!(holds.apply(change, seconds(1)), has_effect, "{words}");
    }
    assert_eq!(holds.owned.unwrap().ownership.number, 6);
    assert_eq!(holds.connections[&LANE], 4);
    assert!(holds.waves.is_empty());
    assert_eq!(holds.counts.keys().collect::<Vec<_>>(), [&2]);
}

#[test]
fn a_lane_without_a_token_keeps_the_one_that_it_has() {
    let mut holds = ramped();
    let (lane, before) = (holds.lanes[&LANE].clone(), holds.tokens[&LANE].clone());
    holds.apply(Change::Lane(lane.clone(), None), seconds(1));
    assert!(Arc::ptr_eq(&holds.tokens[&LANE], &before));
    let after = token("bearer two");
    holds.apply(Change::Lane(lane, Some(after.clone())), seconds(1));
    assert!(Arc::ptr_eq(&holds.tokens[&LANE], &after));
}

#[test]
fn a_lane_is_busy_while_one_of_its_waves_runs() {
    let mut holds = ramped();
    let minute = Duration::from_secs(60);
    let share = |holds: &Standing, now| holds.ramps[&LANE].share(minute, seconds(now));
    holds.apply(Change::Begin(StandingWave::clone(&wave(Phase::Running))), seconds(0));
    assert_eq!([0, 60].map(|now| share(&holds, now)), [50, 1_000]);
    holds.apply(Change::Phase(WAVE, Some(Phase::Closed)), seconds(60));
    assert_eq!([60, 90, 120].map(|now| share(&holds, now)), [1_000, 525, 50], "it cools");
}

#[test]
fn a_lane_that_nodes_use_for_another_coordinators_wave_warms_up() {
    let mut holds = ramped();
    let minute = Duration::from_secs(60);
    let share = |holds: &Standing, now| holds.ramps[&LANE].share(minute, seconds(now));
    assert!(holds.apply(Change::Used(LANE, true), seconds(100)));
    assert!(!holds.apply(Change::Used(LANE, true), seconds(110)));
    assert_eq!([100, 160].map(|now| share(&holds, now)), [50, 1_000]);
    assert!(holds.apply(Change::Used(LANE, false), seconds(200)));
    assert_eq!(share(&holds, 260), 50);
}

#[test]
fn an_abandoned_wave_gets_no_end_until_it_begins_again() {
    let mut holds = ramped();
    holds.apply(Change::Begin(StandingWave::clone(&wave(Phase::Running))), seconds(0));
    assert!(holds.apply(Change::Abandon(WAVE), seconds(1)));
    assert!(holds.waves.is_empty() && holds.abandoned.contains(&WAVE));
    holds.apply(Change::Begin(StandingWave::clone(&wave(Phase::Running))), seconds(2));
    assert!(holds.waves.contains_key(&WAVE) && holds.abandoned.is_empty());
}

#[test]
fn the_newest_abandoned_waves_are_kept_and_not_the_oldest() {
    let mut holds = ramped();
    let newest = WaveId(u64::try_from(WAVES_MAX).unwrap());
    for wave in 0..=newest.0 {
        holds.apply(Change::Abandon(WaveId(wave)), seconds(1));
    }
    assert!(holds.abandoned.contains(&newest) && !holds.abandoned.contains(&WaveId(0)));
    assert_eq!(holds.abandoned.len(), WAVES_MAX);
    holds.apply(Change::Abandon(WaveId(1)), seconds(1));
    assert_eq!(holds.abandoned.len(), WAVES_MAX, "each wave once");
}

#[test]
fn a_recorded_warmth_warms_a_lane_up_and_never_cools_it() {
    let mut holds = ramped();
    let minute = Duration::from_secs(60);
    let share = |holds: &Standing, now| holds.ramps[&LANE].share(minute, seconds(now));
    assert!(holds.apply(Change::Warm(LANE, Duration::from_secs(30)), seconds(100)));
    assert_eq!([100, 130].map(|now| share(&holds, now)), [525, 50], "it cools");
    holds.apply(Change::Used(LANE, true), seconds(100));
    assert_eq!([100, 130].map(|now| share(&holds, now)), [525, 1_000]);
    holds.apply(Change::Warm(LANE, Duration::from_secs(10)), seconds(115));
    assert_eq!([115, 130].map(|now| share(&holds, now)), [762, 1_000]);
}
