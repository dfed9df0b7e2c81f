//! Reasons add up over nodes and boots, whatever becomes of reports, and are bounded.

use super::*;
use crate::snapshot::{AnswerOutcome as Followed, ReasonCount};

fn reason(
    outcome: wire::AnswerOutcome,
    status: u32,
    reason: &str,
    count: u64,
) -> wire::ReasonCount {
    let (app, reason) = ("apps/demo".to_owned(), reason.to_owned());
    wire::ReasonCount { app, lane: 3, outcome: outcome.into(), status, reason, count }
}

fn telling(reasons: Vec<wire::ReasonCount>) -> wire::Report {
    wire::Report { reasons, ..wire::Report::default() }
}

/// Outcome, status, reason and count of what is told, and of the rest the count.
fn told(fold: &mut Fold) -> (Vec<(Followed, u32, String, u64)>, u64) {
    let snapshot = fold.snapshot(State::Active, None);
    let told = snapshot.reasons.into_iter().map(|r| (r.outcome, r.status, r.reason, r.count));
    (told.collect(), snapshot.other_reasons)
}

#[test]
fn reasons_add_up_over_nodes_and_boots_and_the_highest_come_first() {
    use wire::AnswerOutcome::{Dead, Refused, Retried};
    let mut fold = fold();
    let bad = |count| reason(Dead, 400, "BadDeviceToken", count);
    let page = |count| reason(Retried, 404, "", count);
    fold.report(&node("a"), BOOT_1, &telling(vec![bad(7), page(1)]), seconds(2));
    fold.report(
        &node("b"),
        BOOT_1,
        &telling(vec![bad(5), reason(Refused, 400, "DeviceTokenNotForTopic", 3)]),
        seconds(2),
    );
    // An old report, and one twice.
    fold.report(&node("a"), BOOT_1, &telling(vec![bad(2)]), seconds(3));
    fold.report(&node("b"), BOOT_1, &telling(vec![bad(5)]), seconds(3));
    // Another process counts from nothing; what the former one said stays.
    fold.report(&node("a"), BOOT_2, &telling(vec![page(4)]), seconds(4));
    fold.report(&node("a"), BOOT_1, &telling(vec![bad(900)]), seconds(5));
    let all = [
        (Followed::Dead, 400, "BadDeviceToken".to_owned(), 12),
        (Followed::Retried, 404, String::new(), 5),
        (Followed::Refused, 400, "DeviceTokenNotForTopic".to_owned(), 3),
    ];
    assert_eq!(told(&mut fold), (all.to_vec(), 0));
    let ReasonCount { of: Some((app, lane)), .. } =
        fold.snapshot(State::Active, None).reasons.remove(0)
    else {
        panic!("an app")
    };
    assert_eq!(
        (app.name().as_str(), lane.gateway.as_str(), lane.credential.as_str()),
        ("apps/demo", "g", "c")
    );
}

#[test]
fn what_a_node_counted_together_has_no_app_and_foreign_apps_are_left_out() {
    let mut fold = fold();
    let of = |app: &str, count| wire::ReasonCount {
        app: app.to_owned(),
        ..reason(wire::AnswerOutcome::Retried, 0, "other", count)
    };
    fold.report(
        &node("a"),
        BOOT_1,
        &telling(vec![of("", 9), of("apps/foreign", 5), of("no name", 5)]),
        seconds(2),
    );
    let snapshot = fold.snapshot(State::Active, None);
    assert_eq!(snapshot.reasons.len(), 1);
    assert_eq!((snapshot.reasons[0].of.clone(), snapshot.reasons[0].count), (None, 9));
}

#[test]
fn thirty_two_reasons_are_told_and_the_rest_is_counted() {
    let mut fold = fold();
    let many = |boot: u64| {
        (0..300)
            .map(move |i| reason(wire::AnswerOutcome::Retried, 400, &format!("r{boot}-{i}"), i + 1))
    };
    fold.report(&node("a"), BOOT_1, &telling(many(1).collect()), seconds(2));
    let (top, others) = told(&mut fold);
    assert_eq!((top.len(), top[0].3, top[31].3), (32, 256, 225), "of one node 256 are kept");
    assert_eq!(top.iter().map(|r| r.3).sum::<u64>() + others, (1..=256).sum::<u64>());
    // Over many boots, too, and nothing that was counted is lost.
    fold.report(&node("a"), BOOT_2, &telling(many(2).collect()), seconds(3));
    fold.report(&node("a"), BootId([3; 16]), &telling(vec![]), seconds(4));
    let (top, others) = told(&mut fold);
    assert_eq!((top[0].0, top[0].2.as_str()), (Followed::Retried, "other"));
    assert_eq!(top.iter().map(|r| r.3).sum::<u64>() + others, 2 * (1..=256).sum::<u64>());
}

proptest! {
    /// Of each node and boot the greatest of each count, in whatever order reports come, and
    /// however often.
    #[test]
    fn order_repeats_and_losses_change_nothing(
        counts in proptest::collection::vec((0usize..2, 0u64..5, 1u64..20), 1..40),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..80),
    ) {
        // Reports of each node in its order, with totals that only grow.
        let mut totals = [[0u64; 5]; 2];
        let mut reports = Vec::new();
        for (at, kind, more) in counts {
            totals[at][usize::try_from(kind).unwrap()] += more;
            let all = totals[at].iter().enumerate().filter(|(_, count)| **count > 0);
            let all = all.map(|(kind, count)| reason(wire::AnswerOutcome::Dead, 410, &format!("r{kind}"), *count));
            reports.push((["a", "b"][at], telling(all.collect())));
        }
        let mut fold = fold();
        let mut before = 0;
        // Any of them, in any order, some never and some twice; at last the last of each node.
        let last = |name: &str| reports.iter().rfind(|(of, _)| *of == name).cloned();
        let arrivals = order.iter().map(|index| index.get(&reports).clone()).chain(last("a")).chain(last("b"));
        for (name, report) in arrivals.collect::<Vec<_>>() {
            fold.report(&node(name), BOOT_1, &report, seconds(2));
            let sum: u64 = told(&mut fold).0.iter().map(|r| r.3).sum();
            prop_assert!(sum >= before, "a count fell");
            before = sum;
        }
        for (kind, (a, b)) in totals[0].iter().zip(totals[1]).enumerate() {
            let expected = a + b;
            let found = told(&mut fold).0.iter().find(|r| r.2 == format!("r{kind}")).map_or(0, |r| r.3);
            prop_assert_eq!(found, expected);
        }
    }
}
