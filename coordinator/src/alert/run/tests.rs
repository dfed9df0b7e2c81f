//! Alerts from start to end, with time moved by hand.

use clarion_proto::ids::{Epoch, UnixMillis};

use super::*;
use crate::fixtures::*;

struct Case {
    run: Run,
    sequence: u64,
}

fn run(alert: &PlannedAlert) -> Run {
    Run::new(alert, [node("a"), node("b")], Duration::from_secs(10), BEGUN)
}

fn case() -> Case {
    let mut case = Case { run: run(&alert()), sequence: 0 };
    case.say("a", BOOT_1, WaveNote::Joined, 1);
    case.say("b", BOOT_1, WaveNote::Joined, 1);
    case
}

impl Case {
    fn say(&mut self, name: &str, boot: BootId, note: WaveNote, at: u64) {
        self.run.note(&node(name), boot, note, seconds(at));
    }

    fn report(
        &mut self,
        name: &str,
        boot: BootId,
        accepted: u64,
        handed: u64,
        flags: &str,
        at: u64,
    ) {
        self.sequence += 1;
        let report = wire::Report {
            wave: WAVE.0,
            sequence: self.sequence,
            bands_walked: if flags.contains("complete") { 2 } else { 0 },
            complete: flags.contains("complete"),
            ended: flags.contains("ended"),
            bands: vec![wire::BandReport {
                band: 0,
                handed,
                accepted,
                ..wire::BandReport::default()
            }],
            ..wire::Report::default()
        };
        self.say(name, boot, WaveNote::Report(Box::new(report)), at);
    }

    fn stopped(&mut self, name: &str, at: u64) {
        self.say(name, BOOT_1, WaveNote::Stopped(wire::Stopped::default()), at);
    }

    fn unconfirmed(&self, at: u64) -> (usize, usize) {
        let (here, away) = self.run.unconfirmed(seconds(at));
        (here.len(), away.len())
    }
}

#[test]
fn resolves_when_all_are_complete_and_have_said_their_last() {
    let mut case = case();
    case.report("a", BOOT_1, 10, 10, "complete", 2);
    assert_eq!(case.run.standing(), Some(standing::Phase::Running));
    case.report("b", BOOT_1, 5, 5, "complete", 3);
    assert_eq!(
        (case.run.state(), case.run.standing()),
        (State::Resolved, Some(standing::Phase::Closed)),
        "no node may forget what it handed over before the store has the end"
    );
    assert_eq!(case.run.deadline(seconds(3)), None, "however long the store is away");
    case.run.step(seconds(200));
    assert_eq!(case.run.standing(), Some(standing::Phase::Closed));
    case.run.recorded(seconds(200));
    assert_eq!(case.run.standing(), Some(standing::Phase::Ended));
    case.report("a", BOOT_1, 10, 10, "complete ended", 200);
    case.report("b", BOOT_1, 6, 6, "complete ended", 200);
    assert_eq!((case.run.state(), case.run.standing()), (State::Resolved, None));
    let snapshot = case.run.snapshot();
    assert!(snapshot.settled && snapshot.ended == Some(UnixMillis(3_000)));
    assert_eq!((snapshot.totals.handed, snapshot.totals.open(), snapshot.nodes_walked), (16, 0, 2));
}

#[test]
fn a_node_that_has_more_to_do_again_is_waited_for() {
    let mut case = case();
    case.report("a", BOOT_1, 10, 10, "complete", 2);
    case.report("a", BOOT_1, 10, 11, "", 3); // a device moved into the region
    case.report("b", BOOT_1, 5, 5, "complete", 4);
    assert_eq!(case.run.standing(), Some(standing::Phase::Running));
    case.report("a", BOOT_1, 11, 11, "complete", 5);
    assert_eq!(case.run.standing(), Some(standing::Phase::Closed));
}

#[test]
fn last_reports_that_never_come_do_not_hold_an_alert_up() {
    let mut case = case();
    case.report("a", BOOT_1, 10, 10, "complete", 2);
    case.report("b", BOOT_1, 5, 5, "complete", 3);
    case.run.recorded(seconds(3));
    assert_eq!(case.run.deadline(seconds(3)), Some(seconds(5)));
    case.run.step(seconds(5));
    assert!(case.run.is_settled() && case.run.state() == State::Resolved);
}

#[test]
fn an_old_report_does_not_complete_a_node() {
    let mut case = case();
    case.sequence = 10;
    case.report("a", BOOT_1, 10, 11, "", 2);
    case.sequence = 5;
    case.report("a", BOOT_1, 10, 10, "complete", 3);
    case.sequence = 20;
    case.report("b", BOOT_1, 5, 5, "complete", 4);
    assert_eq!(case.run.standing(), Some(standing::Phase::Running));
}

#[test]
fn a_new_process_has_to_complete_anew() {
    let mut case = case();
    case.report("a", BOOT_1, 10, 10, "complete", 2);
    case.say("a", BOOT_1, WaveNote::Gone, 3);
    case.say("a", BOOT_2, WaveNote::Joined, 4);
    case.report("b", BOOT_1, 5, 5, "complete", 5);
    assert_eq!(case.run.standing(), Some(standing::Phase::Running));
    case.sequence = 0;
    case.report("a", BOOT_2, 0, 0, "complete", 6);
    assert_eq!(case.run.standing(), Some(standing::Phase::Closed));
}

#[test]
fn a_node_that_is_away_is_waited_for_until_the_time_is_over() {
    let mut case = case();
    case.say("b", BOOT_1, WaveNote::Granted, 2);
    case.report("a", BOOT_1, 10, 10, "complete", 2);
    case.report("b", BOOT_1, 3, 5, "", 2);
    case.say("b", BOOT_1, WaveNote::Gone, 3);
    assert_eq!(case.run.deadline(seconds(3)), Some(seconds(100)));
    case.run.step(seconds(99));
    assert_eq!(case.run.state(), State::Active);
    case.run.step(seconds(100));
    assert_eq!(
        (case.run.state(), case.run.standing()),
        (State::Expired, Some(standing::Phase::Closed))
    );
    assert!(!case.run.is_settled(), "it may come back with what it knows");
    assert_eq!(case.run.snapshot().totals.open(), 2);
    // Five seconds for the disconnected node; node a never had a grant and has nothing to add.
    let later = case.run.deadline(seconds(100)).unwrap();
    assert_eq!(later, seconds(100) + GRANT);
    case.run.step(later);
    let snapshot = case.run.snapshot();
    assert!(snapshot.settled && snapshot.state == State::Expired);
    assert_eq!((snapshot.totals.handed, snapshot.totals.open()), (15, 0));
    assert_eq!(
        snapshot.totals.of(clarion_proto::outcome::Outcome::Unknown),
        2,
        "sent, and nobody can answer"
    );
}

#[test]
fn an_expired_alert_settles_with_the_last_reports() {
    let mut case = case();
    for name in ["a", "b"] {
        case.say(name, BOOT_1, WaveNote::Granted, 2);
    }
    case.run.step(seconds(100));
    case.report("a", BOOT_1, 10, 10, "ended", 101);
    assert!(!case.run.is_settled());
    case.report("b", BOOT_1, 10, 10, "ended", 102);
    assert!(case.run.is_settled());
    assert_eq!(case.run.snapshot().ended, Some(UnixMillis(100_000)));
}

#[test]
fn a_cancel_is_done_when_all_have_stopped_and_settles_with_the_last_answers() {
    let mut case = case();
    for name in ["a", "b"] {
        case.say(name, BOOT_1, WaveNote::Granted, 2);
    }
    case.run.cancel(seconds(3));
    assert_eq!(
        (case.run.state(), case.run.standing()),
        (State::Cancelling, Some(standing::Phase::Cancelled))
    );
    assert_eq!(case.unconfirmed(3), (2, 0));
    case.stopped("a", 3);
    assert_eq!(case.unconfirmed(3), (1, 0));
    case.stopped("b", 4);
    assert_eq!((case.run.state(), case.unconfirmed(4)), (State::Cancelled, (0, 0)));
    assert!(!case.run.is_settled());
    case.report("a", BOOT_1, 7, 7, "ended", 5);
    case.report("b", BOOT_1, 7, 7, "ended", 6);
    let snapshot = case.run.snapshot();
    assert!(snapshot.settled && snapshot.state == State::Cancelled);
    assert_eq!((snapshot.ended, snapshot.totals.handed), (Some(UnixMillis(4_000)), 14));
}

#[test]
fn a_silent_node_is_stopped_by_the_end_of_its_grant() {
    let mut case = case();
    for name in ["a", "b"] {
        case.say(name, BOOT_1, WaveNote::Granted, 2);
    }
    case.run.cancel(seconds(4));
    case.stopped("a", 4);
    // A last grant may have been in transit at the cancel.
    let surely = seconds(4) + GRANT;
    assert_eq!(case.run.deadline(seconds(4)), Some(surely));
    case.run.step(surely - Duration::from_micros(1));
    assert_eq!(case.run.state(), State::Cancelling);
    case.run.step(surely);
    assert_eq!(case.run.state(), State::Cancelled);
}

#[test]
fn a_node_cut_off_before_the_cancel_stops_with_its_last_grant() {
    let mut case = case();
    case.say("b", BOOT_1, WaveNote::Granted, 2);
    case.say("b", BOOT_1, WaveNote::Gone, 3);
    case.run.cancel(seconds(4));
    case.stopped("a", 4);
    assert_eq!(case.unconfirmed(4), (0, 1), "nobody who can be reached is left");
    case.run.step(seconds(2) + GRANT);
    assert_eq!(case.run.state(), State::Cancelled);
}

#[test]
fn a_node_that_never_had_a_grant_holds_nothing_up() {
    let mut case = case();
    case.say("b", BOOT_1, WaveNote::Gone, 2);
    case.run.cancel(seconds(4));
    case.stopped("a", 4);
    assert_eq!(case.run.state(), State::Cancelled);
}

#[test]
fn a_cancel_of_what_has_ended_changes_nothing() {
    let mut case = case();
    case.report("a", BOOT_1, 10, 10, "complete", 2);
    case.report("b", BOOT_1, 5, 5, "complete", 3);
    case.run.cancel(seconds(3));
    assert_eq!(case.run.standing(), Some(standing::Phase::Closed));
    case.run.recorded(seconds(3));
    case.run.step(seconds(5));
    case.run.cancel(seconds(6));
    assert_eq!(case.run.state(), State::Resolved);
}

#[test]
fn after_a_take_over_every_node_counts_as_granted() {
    let mut run = run(&PlannedAlert { epoch: Epoch(2), ..alert() });
    for name in ["a", "b"] {
        run.away(&node(name));
    }
    run.cancel(seconds(1));
    assert_eq!(run.state(), State::Cancelling, "a node may send under the former holder's grant");
    run.step(seconds(1) + GRANT);
    assert_eq!(run.state(), State::Cancelled);
}

#[test]
fn an_alert_whose_time_is_over_before_it_runs_expires_at_once() {
    let late = Moment { at: seconds(7), wall: UnixMillis(500_000) };
    let mut run = Run::new(&alert(), [node("a")], Duration::from_secs(10), late);
    assert_eq!(run.expires(), seconds(7));
    run.step(seconds(7));
    assert_eq!((run.state(), run.snapshot().ended), (State::Expired, Some(UnixMillis(500_000))));
}

#[test]
fn an_alert_for_nobody_resolves() {
    let mut case = case();
    case.report("a", BOOT_1, 0, 0, "complete ended", 2);
    case.report("b", BOOT_1, 0, 0, "complete ended", 2);
    case.run.recorded(seconds(2));
    let snapshot = case.run.snapshot();
    assert!(snapshot.settled);
    assert_eq!(
        (snapshot.state, snapshot.totals.handed, snapshot.first_accepted_after),
        (State::Resolved, 0, None)
    );
}

#[test]
fn a_cancel_that_another_coordinator_sent_is_heard_from_all_nodes_and_not_from_one() {
    let mut case = case();
    case.stopped("a", 2);
    assert_eq!(case.run.standing(), Some(standing::Phase::Running));
    case.report("b", BOOT_1, 5, 5, "complete", 3);
    // What is complete needs no stop, and what is stopped will not be complete.
    assert_eq!(
        (case.run.state(), case.run.standing()),
        (State::Cancelling, Some(standing::Phase::Cancelled)),
        "every node is told"
    );
    case.stopped("b", 4);
    assert_eq!(case.run.state(), State::Cancelled);
}
