//! Pruning needs evidence: by example, and by property that a storm prunes nobody and that waiting
//! is bounded.

use proptest::prelude::*;

use clarion_proto::ids::{AppName, LaneId};

use super::*;

const LANE: LaneId = LaneId(3);

fn of(app: &str) -> AppLane {
    (AppName::from_id(app).unwrap(), LANE)
}

fn at(millis: u64) -> Moment {
    Moment { at: Time(millis * 1_000), wall: UnixMillis(1_000_000 + millis) }
}

fn token(n: u64) -> BadToken {
    let mut device = [0; 16];
    device[..8].copy_from_slice(&n.to_be_bytes());
    BadToken { device: DeviceId(device), token_hash: n, heard: UnixMillis(n) }
}

/// A report: so many accepted, and these called bad.
fn report(
    evidence: &mut Evidence,
    app: &str,
    accepted: u64,
    bad: std::ops::Range<u64>,
    now: Moment,
) -> Vec<BadToken> {
    let answers = BTreeMap::from([(of(app), Answers { accepted, bad: bad.end - bad.start })]);
    evidence.hear(&answers, bad.map(|n| (of(app), token(n))), now)
}

fn hashes(tokens: Vec<BadToken>) -> Vec<u64> {
    let mut hashes: Vec<_> = tokens.into_iter().map(|t| t.token_hash).collect();
    hashes.sort_unstable();
    hashes
}

/// Lets all waiting time pass; gives what was pruned.
fn settle(evidence: &mut Evidence, millis: u64) -> Vec<u64> {
    let mut pruned = Vec::new();
    for step in 0..4 {
        pruned.extend(evidence.expire(at(millis + step * 1_000)));
    }
    assert_eq!(evidence.deadline(), None);
    hashes(pruned)
}

#[test]
fn a_small_registry_on_the_wrong_environment_loses_nobody_and_there_is_an_alarm() {
    let mut evidence = Evidence::default();
    assert!(report(&mut evidence, "demo", 0, 0..19, at(0)).is_empty());
    assert_eq!(evidence.alarms().count(), 0, "19 of anything are too few");
    assert!(report(&mut evidence, "demo", 0, 19..900, at(20)).is_empty());
    assert_eq!(settle(&mut evidence, 3_600_000), [0; 0], "however long they wait");
    let alarms: Vec<_> = evidence.alarms().collect();
    let alarm =
        Alarm { of: of("demo"), since: UnixMillis(1_000_020), withheld: 900, accepted_any: false };
    assert_eq!(alarms, [alarm]);
}

#[test]
fn few_tokens_wait_for_the_first_acceptance() {
    let mut evidence = Evidence::default();
    assert!(report(&mut evidence, "demo", 0, 0..10, at(0)).is_empty());
    assert_eq!(settle(&mut evidence, 60_000), [0; 0]);
    assert!(report(&mut evidence, "demo", 1, 0..0, at(70_000)).is_empty());
    assert!(evidence.expire(at(70_999)).is_empty());
    assert_eq!(settle(&mut evidence, 71_000), (0..10).collect::<Vec<_>>());
    assert_eq!(evidence.alarms().count(), 0);
}

#[test]
fn many_tokens_that_waited_need_more_than_one_acceptance() {
    for (accepted, pruned) in [(1, 0), (399, 0), (400, 100)] {
        let mut evidence = Evidence::default();
        report(&mut evidence, "demo", 0, 0..100, at(0));
        report(&mut evidence, "demo", 1, 0..0, at(100));
        report(&mut evidence, "demo", accepted - 1, 0..0, at(200));
        assert_eq!(settle(&mut evidence, 1_100).len(), pruned, "{accepted} accepted");
    }
}

#[test]
fn the_usual_share_is_pruned_within_two_seconds() {
    let mut evidence = Evidence::default();
    let mut pruned = Vec::new();
    for i in 0..100 {
        pruned.extend(report(&mut evidence, "demo", 90, i * 10..(i + 1) * 10, at(i * 20)));
        pruned.extend(evidence.expire(at(i * 20)));
    }
    let rest = settle(&mut evidence, 4_000);
    assert_eq!(pruned.len() + rest.len(), 1_000);
    assert_eq!(evidence.alarms().count(), 0);
}

#[test]
fn a_fifth_is_usual_and_more_is_not() {
    for (bad, alarms) in [(80, 0), (81, 1)] {
        let mut evidence = Evidence::default();
        report(&mut evidence, "demo", 1, 0..0, at(0));
        settle(&mut evidence, 1_000);
        report(&mut evidence, "demo", 399 - bad, 0..bad, at(2_000));
        assert_eq!(evidence.alarms().count(), alarms, "{bad}");
        assert_eq!(settle(&mut evidence, 3_000).len() as u64, if alarms == 0 { bad } else { 0 });
    }
}

#[test]
fn a_gateway_that_begins_to_call_everything_bad_prunes_nobody() {
    let mut evidence = Evidence::default();
    for i in 0..100 {
        assert!(report(&mut evidence, "demo", 20, 0..0, at(i * 20)).is_empty());
        assert!(evidence.expire(at(i * 20)).is_empty());
    }
    // The change falls into the middle of a report.
    let mut pruned = report(&mut evidence, "demo", 10, 0..10, at(2_000));
    for i in 1..1_500 {
        pruned.extend(evidence.expire(at(2_000 + i * 20)));
        pruned.extend(report(&mut evidence, "demo", 0, i * 20..(i + 1) * 20, at(2_000 + i * 20)));
    }
    assert_eq!(hashes(pruned), [0; 0]);
    let alarm = evidence.alarms().next().expect("an alarm");
    assert!(alarm.accepted_any && alarm.withheld > 29_000, "{alarm:?}");
    // It is over: the alarm ends, and who was called bad meanwhile is not pruned for that.
    for i in 0..30 {
        assert!(report(&mut evidence, "demo", 20, 0..0, at(40_000 + i * 20)).is_empty());
    }
    assert_eq!((evidence.alarms().count(), settle(&mut evidence, 50_000)), (0, vec![]));
    assert!(report(&mut evidence, "demo", 20, 7..8, at(60_000)).is_empty());
    assert_eq!(settle(&mut evidence, 61_000), [7]);
}

#[test]
fn one_app_does_not_stop_another_nor_hide_it() {
    let mut evidence = Evidence::default();
    report(&mut evidence, "large", 100_000, 0..100, at(0));
    report(&mut evidence, "small", 0, 0..900, at(0));
    assert_eq!(evidence.alarms().map(|a| a.of).collect::<Vec<_>>(), [of("small")]);
    assert_eq!(settle(&mut evidence, 1_000).len(), 100);
}

/// A device that registers again while its token waits is not removed with what was said before.
#[test]
fn a_token_is_pruned_as_of_when_it_was_called_bad() {
    let mut evidence = Evidence::default();
    assert!(report(&mut evidence, "demo", 100, 7..8, at(0)).is_empty());
    let pruned: Vec<_> = (1..4).flat_map(|second| evidence.expire(at(second * 1_000))).collect();
    assert_eq!(pruned, [token(7)], "with the time that came with it");
}

#[test]
fn no_more_than_ten_thousand_wait() {
    let mut evidence = Evidence::default();
    report(&mut evidence, "wrong", 0, 0..50_000, at(0));
    let waiting: usize = evidence.apps.values().map(App::waiting).sum();
    assert_eq!((waiting, evidence.waiting), (WAITING_MAX, WAITING_MAX));
    assert_eq!(evidence.alarms().next().map(|a| a.withheld), Some(50_000));
    // Another app that is well goes on, without the pause.
    report(&mut evidence, "well", 1_000, 0..0, at(0));
    evidence.expire(at(1_000));
    assert_eq!(hashes(report(&mut evidence, "well", 1_000, 5..6, at(1_000))), [5]);
    // The same devices again take no more room.
    report(&mut evidence, "wrong", 0, 0..10_000, at(2_000));
    assert_eq!(evidence.waiting, WAITING_MAX);
}

#[test]
fn changes_tell_when_alarms_are_others() {
    let mut evidence = Evidence::default();
    report(&mut evidence, "demo", 0, 0..19, at(0));
    assert_eq!(evidence.changes(), 0);
    report(&mut evidence, "demo", 0, 19..20, at(0));
    let started = evidence.changes();
    assert!(started > 0);
    report(&mut evidence, "demo", 0, 20..21, at(0));
    assert!(evidence.changes() > started, "another number is withheld");
}

proptest! {
    /// Whatever comes: nobody is pruned of an app without acceptances, waiting is bounded and
    /// counted, an alarm is told of 20 at least, and each token is pruned once for each time that
    /// it was called bad.
    #[test]
    fn evidence_rules(
        steps in proptest::collection::vec((0u64..3, 0u64..50, 0u64..60, 0u64..1_500), 1..80),
    ) {
        let mut evidence = Evidence::default();
        let (mut now, mut next) = (0, 0);
        let mut accepted = [0; 3];
        let mut pruned = std::collections::BTreeSet::new();
        for (app, good, bad, pause) in steps {
            // The last app is never accepted.
            let good = if app == 2 { 0 } else { good };
            let name = format!("app{app}");
            accepted[usize::try_from(app).unwrap()] += good;
            let mut out = report(&mut evidence, &name, good, next..next + bad, at(now));
            next += bad;
            now += pause;
            out.extend(evidence.expire(at(now)));
            for token in out {
                prop_assert!(pruned.insert(token.token_hash), "pruned twice");
            }
            let waiting: usize = evidence.apps.values().map(App::waiting).sum();
            prop_assert_eq!(waiting, evidence.waiting);
            prop_assert!(evidence.alarms().all(|alarm| alarm.withheld >= TOLD_MIN));
        }
        let unaccepted = evidence.apps.get(&of("app2")).map_or(0, App::waiting);
        prop_assert!(unaccepted as u64 + pruned.len() as u64 <= next);
        for (app, accepted) in accepted.iter().enumerate().filter(|(_, accepted)| **accepted == 0) {
            let never = evidence.apps.get(&of(&format!("app{app}")));
            prop_assert!(never.is_none_or(|app| app.turn.is_none()), "{} accepted", accepted);
        }
    }
}
