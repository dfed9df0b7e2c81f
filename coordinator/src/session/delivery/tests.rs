//! Who is blamed for a session that breaks, and who is not.

use proptest::prelude::*;

use super::*;

const A: Subject = Subject::Wave(WaveId(1));
const B: Subject = Subject::Wave(WaveId(2));
const C: Subject = Subject::Count(3);
const EDITION: Edition = Edition { epoch: Epoch(1), ownership: 5 };

fn at(seconds: u64) -> Time {
    Time(seconds * 1_000_000)
}

/// Sent whole, if it may be.
fn send(deliveries: &mut Deliveries, subject: Subject, proven: bool) -> Leave {
    let leave = deliveries.queue(subject, EDITION, proven);
    if let Leave::Send(_) = leave {
        deliveries.sent(subject);
        deliveries.sent_whole(subject, at(1));
    }
    leave
}

#[test]
fn three_refusals_and_never_again() {
    let mut deliveries = Deliveries::default();
    for number in 1..=3 {
        assert_eq!(send(&mut deliveries, A, true), Leave::Send(number));
        let isolated = deliveries.failed(A, "too large");
        assert_eq!(isolated.is_some(), number == 3, "{isolated:?}");
    }
    assert_eq!(send(&mut deliveries, A, true), Leave::Isolated);
    assert_eq!(deliveries.failed(A, "a late word"), None, "told once");
    assert_eq!(
        deliveries.isolated().collect::<Vec<_>>(),
        [Isolated { subject: A, reason: "too large".to_owned() }]
    );
    assert_eq!(send(&mut deliveries, B, false), Leave::Send(1), "others go on");
}

#[test]
fn all_that_was_in_flight_is_suspected_and_cleared_one_by_one() {
    let mut deliveries = Deliveries::default();
    for subject in [A, B, C] {
        assert_eq!(send(&mut deliveries, subject, false), Leave::Send(1));
    }
    assert_eq!(deliveries.session_ended(Some("reset")), []);
    assert_eq!(send(&mut deliveries, A, false), Leave::Wait, "a new session proves itself first");
    assert_eq!(send(&mut deliveries, A, true), Leave::Send(2));
    assert_eq!(send(&mut deliveries, B, true), Leave::Wait, "alone");
    assert!(deliveries.taken(A), "news: it was suspected");
    assert_eq!(deliveries.failures(A, EDITION), 0);
    assert_eq!(send(&mut deliveries, B, true), Leave::Send(2));
    assert_eq!(deliveries.session_ended(Some("reset")), []);
    assert_eq!(send(&mut deliveries, A, false), Leave::Send(1), "as if nothing had happened");
    assert!(deliveries.taken(A));
    assert_eq!(send(&mut deliveries, B, true), Leave::Send(3));
    let isolated = deliveries.session_ended(Some("reset"));
    assert_eq!(isolated, [Isolated { subject: B, reason: "reset".to_owned() }]);
    assert_eq!(
        deliveries.failures(C, EDITION),
        1,
        "it was not sent again, and is not blamed again"
    );
}

#[test]
fn what_was_not_sent_or_ended_as_wanted_is_no_failure() {
    let mut deliveries = Deliveries::default();
    assert_eq!(deliveries.queue(A, EDITION, false), Leave::Send(1));
    assert_eq!(deliveries.session_ended(Some("reset")), []);
    assert_eq!(deliveries.failures(A, EDITION), 0, "it waited for the stream");
    send(&mut deliveries, A, false);
    assert_eq!(deliveries.session_ended(None), []);
    assert_eq!(deliveries.failures(A, EDITION), 0, "a graceful end");
    send(&mut deliveries, A, false);
    deliveries.withdraw(A);
    deliveries.session_ended(Some("reset"));
    assert_eq!(deliveries.failures(A, EDITION), 0, "cancelled before");
    send(&mut deliveries, A, false);
    deliveries.taken(A);
    deliveries.session_ended(Some("reset"));
    assert_eq!(deliveries.failures(A, EDITION), 0, "the node has it");
}

#[test]
fn a_success_clears_and_another_edition_begins_anew() {
    let mut deliveries = Deliveries::default();
    for _ in 0..3 {
        send(&mut deliveries, A, true);
        deliveries.failed(A, "no");
    }
    let next = Edition { ownership: 6, ..EDITION };
    assert_eq!(deliveries.queue(A, next, false), Leave::Send(1));
    assert!(deliveries.failed(A, "no").is_none());
    assert!(deliveries.taken(A), "a report after all");
    assert_eq!(deliveries.failures(A, next), 0);
}

#[test]
fn a_sign_that_does_not_come_is_waited_for_from_the_last_part_on() {
    let mut deliveries = Deliveries::default();
    deliveries.queue(A, EDITION, false);
    deliveries.sent(A);
    assert_eq!(deliveries.deadline(), None, "parts are on their way");
    deliveries.sent_whole(A, at(10));
    assert_eq!(deliveries.deadline(), Some(at(40)));
    assert_eq!(deliveries.overdue(at(39)), []);
    assert_eq!(deliveries.overdue(at(40)), [A]);
    deliveries.taken(A);
    assert_eq!((deliveries.deadline(), deliveries.overdue(at(50))), (None, vec![]));
}

#[test]
fn what_is_over_is_forgotten() {
    let mut deliveries = Deliveries::default();
    send(&mut deliveries, A, false);
    deliveries.retain(|subject| subject != A);
    assert_eq!(deliveries.session_ended(Some("reset")), []);
    assert_eq!(deliveries.isolated().count(), 0);
}

proptest! {
    /// A node that takes everything but the `poisons`, which break its session when they arrive;
    /// and that is also restarted at any time. No poison is sent a fourth time, every poison is
    /// isolated, all others are taken, none is isolated.
    #[test]
    fn only_what_breaks_the_node_is_isolated(
        poisons in prop::collection::btree_set(0..6_u64, 0..3),
        restarts in prop::collection::vec(0..8_usize, 0..6),
        count in 6..7_u64,
    ) {
        let mut deliveries = Deliveries::default();
        let mut sends: BTreeMap<u64, u32> = BTreeMap::new();
        let mut restarts = restarts.into_iter();
        let subject = |wave: u64| Subject::Wave(WaveId(wave));
        for _ in 0..40 {
            let mut taken = std::collections::BTreeSet::new();
            let mut alive = true;
            let restart_at = restarts.next();
            let mut steps = 0;
            for proven in [false, true] {
                loop {
                    // What was never suspected is sent together; of the others, the one that failed
                    // least often, alone.
                    let open = |w: &u64| !taken.contains(w);
                    let fresh: Vec<u64> = (0..count).filter(open).filter(|w| deliveries.failures(subject(*w), EDITION) == 0).collect();
                    let batch = if fresh.is_empty() {
                        let suspects = (0..count).filter(open).filter(|w| deliveries.failures(subject(*w), EDITION) < FAILURES_MAX);
                        suspects.min_by_key(|w| deliveries.failures(subject(*w), EDITION)).into_iter().collect()
                    } else {
                        fresh
                    };
                    let mut sent = Vec::new();
                    for wave in batch {
                        if let Leave::Send(_) = send(&mut deliveries, subject(wave), proven) {
                            *sends.entry(wave).or_default() += 1;
                            sent.push(wave);
                        }
                    }
                    if sent.is_empty() {
                        break;
                    }
                    if sent.iter().any(|w| poisons.contains(w)) {
                        alive = false;
                        break;
                    }
                    for wave in sent {
                        deliveries.taken(subject(wave));
                        sends.remove(&wave);
                        taken.insert(wave);
                    }
                    steps += 1;
                    if restart_at == Some(steps) {
                        alive = false; // between a sign and the next delivery
                        break;
                    }
                }
                if !alive {
                    break;
                }
            }
            deliveries.session_ended((!alive).then_some("reset"));
        }
        let isolated: Vec<Subject> = deliveries.isolated().map(|i| i.subject).collect();
        prop_assert_eq!(isolated, poisons.iter().map(|w| subject(*w)).collect::<Vec<_>>());
        prop_assert!(sends.values().all(|n| *n <= FAILURES_MAX), "{:?}", sends);
    }
}
