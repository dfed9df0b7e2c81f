//! What watchers, callers and feedback get, with time moved by hand.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{BEGUN, BOOT_1, LANE, WAVE, alert, node, seconds};

const MS: Duration = Duration::from_millis(1);

/// An alert that runs on nodes `a` and `b`, which have joined at 1 s.
fn running() -> Director {
    let nodes = [node("a"), node("b")];
    let mut director = Director::new(&alert(), nodes, Duration::from_secs(10), BEGUN);
    assert_eq!(director.begin([], false, BEGUN.at), Phase::Running);
    for name in ["a", "b"] {
        director.note(&node(name), BOOT_1, WaveNote::Joined, BEGUN.at);
    }
    assert_eq!(outputs(&mut director), [""; 0]);
    director
}

/// Outputs so far, each as a word.
fn outputs(director: &mut Director) -> Vec<String> {
    std::iter::from_fn(|| director.poll())
        .map(|output| match output {
            Output::Feedback { answers, dead } => {
                format!("feedback {} {}", answers.len(), dead.len())
            }
            Output::Phase(phase) => format!("phase {phase:?}"),
            Output::Publish { snapshot, with_troubles: true } => {
                format!("publish {:?}", snapshot.state)
            }
            Output::Publish { snapshot, with_troubles: false } => {
                format!("publish {:?} at last", snapshot.state)
            }
            Output::Answer { caller, state, unconfirmed } => {
                format!("answer {caller} {state:?} {}", unconfirmed.join("+"))
            }
            Output::Log(Log::StateChanged(state)) => format!("log {state:?}"),
            Output::Log(Log::CancelReceived) => "log cancel".to_owned(),
            Output::Log(Log::Stopped { node, .. }) => format!("log stopped {node}"),
            Output::Log(Log::Isolated { node, reason }) => format!("log isolated {node} {reason}"),
            Output::Log(Log::ObeysAnother { node, epoch }) => {
                format!("log {node} obeys {}", epoch.0)
            }
            Output::Log(Log::Superseded) => "log superseded".to_owned(),
            Output::Abandon { callers } => format!("abandon {callers:?}"),
            Output::Over => "over".to_owned(),
        })
        .collect()
}

fn report(sequence: u64, is_complete: bool) -> WaveNote {
    let bands = vec![wire::BandReport { band: 0, handed: 1, accepted: 1, ..Default::default() }];
    WaveNote::Report(Box::new(wire::Report {
        wave: WAVE.0,
        sequence,
        bands_walked: if is_complete { 2 } else { 0 },
        complete: is_complete,
        ended: is_complete,
        bands,
        ..Default::default()
    }))
}

fn stopped() -> WaveNote {
    WaveNote::Stopped(wire::Stopped::default())
}

#[test]
fn reports_are_published_together_within_50_ms() {
    let mut director = running();
    let first = seconds(2);
    for (sequence, after) in [(1, 0), (2, 20), (3, 40)] {
        director.note(&node("a"), BOOT_1, report(sequence, false), first + MS * after);
        assert_eq!(outputs(&mut director), [""; 0]);
    }
    assert_eq!(director.deadline(first + MS * 40), Some(first + PUBLISH));
    director.expire(first + PUBLISH);
    assert_eq!(outputs(&mut director), ["publish Active"]);
    assert_eq!(director.deadline(first + PUBLISH), Some(director.expires()), "nothing has changed");
}

#[test]
fn a_report_gives_its_dead_tokens_to_feedback_before_it_is_published() {
    let mut director = running();
    let WaveNote::Report(mut report) = report(1, false) else { unreachable!("made so") };
    report.dead = vec![wire::DeadToken { lane: LANE.0, ..Default::default() }];
    director.note(&node("a"), BOOT_1, WaveNote::Report(report), seconds(2));
    assert_eq!(outputs(&mut director), ["feedback 0 1"]);
}

/// The table at the top of the module: inputs of a running alert without a cancel.
#[test]
fn troubles_and_isolations_are_published_soon_and_confirmations_are_logged() {
    let mut director = running();
    director.note(&node("a"), BOOT_1, WaveNote::Granted, seconds(2));
    assert_eq!(outputs(&mut director), [""; 0]);
    director.troubles_changed(seconds(3));
    assert_eq!(director.deadline(seconds(3)), Some(seconds(3) + PUBLISH));
    director.expire(seconds(3) + PUBLISH);
    assert_eq!(outputs(&mut director), ["publish Active"]);
    director.note(&node("b"), BOOT_1, WaveNote::Isolated("too large".to_owned()), seconds(4));
    director.expire(seconds(4) + PUBLISH);
    assert_eq!(outputs(&mut director), ["log isolated b too large", "publish Active"]);
    director.note(&node("a"), BOOT_1, stopped(), seconds(5));
    assert_eq!(outputs(&mut director), ["log stopped a"]);
    director.begins_in_trouble(seconds(6));
    assert_eq!(outputs(&mut director), ["publish Active"], "at once");
}

#[test]
fn an_alert_is_over_after_its_last_snapshot() {
    let mut director = running();
    director.note(&node("a"), BOOT_1, report(1, true), seconds(2));
    director.note(&node("b"), BOOT_1, report(1, true), seconds(2));
    let resolved = ["phase Some(Closed)", "log Resolved", "publish Resolved"];
    assert_eq!(outputs(&mut director), resolved, "at once");
    assert_eq!(director.deadline(seconds(2)), None, "until the store has the end");
    director.recorded(seconds(3));
    assert_eq!(outputs(&mut director), ["phase None", "publish Resolved at last", "over"]);
    director.troubles_changed(seconds(4));
    director.cancel(1, seconds(4));
    director.expire(seconds(99));
    assert_eq!(outputs(&mut director), [""; 0], "nothing follows");
    assert_eq!(director.deadline(seconds(99)), None);
}

#[test]
fn a_cancel_is_answered_when_every_connected_node_has_confirmed() {
    let mut director = running();
    for name in ["a", "b"] {
        director.note(&node(name), BOOT_1, WaveNote::Granted, seconds(2));
    }
    director.cancel(1, seconds(3));
    let begun = ["log cancel", "phase Some(Cancelled)", "log Cancelling", "publish Cancelling"];
    assert_eq!(outputs(&mut director), begun);
    director.note(&node("a"), BOOT_1, stopped(), seconds(4));
    assert_eq!(outputs(&mut director), ["log stopped a"]);
    director.note(&node("b"), BOOT_1, WaveNote::Gone, seconds(4));
    assert_eq!(outputs(&mut director), ["answer 1 Cancelling b"], "b stops with its grant");
    director.cancel(2, seconds(4));
    assert_eq!(outputs(&mut director), ["log cancel", "answer 2 Cancelling b"], "at once");
}

#[test]
fn a_caller_waits_two_seconds_at_most_and_64_callers_at_once() {
    let mut director = running();
    director.note(&node("a"), BOOT_1, WaveNote::Granted, seconds(2));
    let callers = CallerId::try_from(WAITING_MAX).unwrap();
    (0..callers).for_each(|caller| director.cancel(caller, seconds(3)));
    assert!(!outputs(&mut director).iter().any(|output| output.starts_with("answer")));
    director.cancel(callers, seconds(3));
    let beyond = format!("answer {callers} Cancelling a+b");
    assert_eq!(outputs(&mut director), ["log cancel".to_owned(), beyond]);
    director.expire(seconds(5) - Duration::from_micros(1));
    assert_eq!(outputs(&mut director), [""; 0]);
    director.expire(seconds(5));
    assert_eq!(outputs(&mut director).len(), WAITING_MAX);
}

#[test]
fn an_alert_that_begins_cancelled_and_ended_is_over_at_its_first_input() {
    let nodes = [node("a")];
    let mut director = Director::new(&alert(), nodes, Duration::from_secs(10), BEGUN);
    assert_eq!(director.begin(&[node("a")], true, BEGUN.at), Phase::Closed, "a never had it");
    director.expire(BEGUN.at);
    let over = ["phase None", "publish Cancelled at last", "over"];
    assert_eq!(outputs(&mut director), over);
}

/// One input of a director.
#[derive(Debug, Clone)]
enum Input {
    Note(bool, u8),
    Cancel,
    Recorded,
    Troubles,
    Pass(u64),
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let input = prop_oneof![
        (any::<bool>(), 0u8..6).prop_map(|(first, kind)| Input::Note(first, kind)),
        Just(Input::Cancel),
        Just(Input::Recorded),
        Just(Input::Troubles),
        (0u64..30_000).prop_map(Input::Pass),
    ];
    proptest::collection::vec(input, 0..60)
}

#[test]
fn an_alert_that_another_coordinator_directs_ends_here_without_an_end() {
    let mut director = running();
    director.cancel(1, seconds(2));
    director.cancel(2, seconds(2));
    outputs(&mut director);
    director.note(&node("a"), BOOT_1, WaveNote::Superseded(Epoch(3)), seconds(2));
    let told = ["log a obeys 3", "log superseded", "abandon [1, 2]", "over"];
    assert_eq!(outputs(&mut director), told);
    director.superseded();
    director.cancel(3, seconds(3));
    director.expire(seconds(90_000));
    assert_eq!((outputs(&mut director), director.deadline(seconds(3))), (vec![], None));

    let mut director = running();
    director.superseded();
    assert_eq!(outputs(&mut director), ["log superseded", "abandon []", "over"]);
}

proptest! {
    /// Whatever the order of inputs: each caller gets one answer, the last snapshot is the last
    /// output but for answers, and the machine always knows when it is to be woken.
    #[test]
    fn every_caller_is_answered_once_and_nothing_follows_the_end(inputs in inputs()) {
        let (mut director, mut now) = (running(), seconds(1));
        let (mut callers, mut sequence, mut seen) = (0, 0, Vec::new());
        for input in inputs {
            match input {
                Input::Note(first, kind) => {
                    sequence += 1;
                    let note = match kind {
                        0 => WaveNote::Joined,
                        1 => report(sequence, sequence % 2 == 0),
                        2 => stopped(),
                        3 => WaveNote::Granted,
                        4 => WaveNote::Isolated("no".to_owned()),
                        _ => WaveNote::Gone,
                    };
                    director.note(&node(if first { "a" } else { "b" }), BOOT_1, note, now);
                }
                Input::Cancel => {
                    callers += u64::from(!director.is_over);
                    director.cancel(callers, now);
                }
                Input::Recorded => director.recorded(now),
                Input::Troubles => director.troubles_changed(now),
                Input::Pass(ms) => {
                    now = now + MS * u32::try_from(ms).unwrap();
                    director.expire(now);
                }
            }
            prop_assert!(director.publish_at.is_none_or(|at| at > now));
            prop_assert!(director.waiting.iter().all(|(until, _)| *until > now));
            seen.extend(outputs(&mut director));
        }
        // After a cancel or the record of its end, every alert ends by itself.
        if !director.is_over {
            callers += 1;
            director.cancel(callers, now);
            director.recorded(now);
            for _ in 0..20 {
                if let Some(at) = director.deadline(now) {
                    now = now.max(at);
                }
                director.expire(now);
            }
            seen.extend(outputs(&mut director));
        }
        prop_assert!(director.is_over && director.is_settled());
        prop_assert_eq!(director.deadline(now), None);
        let of = |word: &str| seen.iter().filter(|output| output.starts_with(word)).count();
        prop_assert_eq!(of("over"), 1);
        prop_assert_eq!(u64::try_from(of("answer")).unwrap(), callers);
        prop_assert_eq!(seen.last().map(String::as_str), Some("over"));
    }
}
