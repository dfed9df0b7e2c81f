use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::wire::shard_v1::{BinaryOp, SegmentOp, segment_op::Op};

fn tree() -> impl Strategy<Value = Node> {
    let name = prop_oneof!["[a-d]", "[a-z0-9_-]{1,6}"].prop_map(|n| Node::Name(Segment(n)));
    name.prop_recursive(6, 24, 2, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|n| Node::Not(Box::new(n))),
            pair.clone().prop_map(|(a, b)| Node::And(Box::new(a), Box::new(b))),
            pair.prop_map(|(a, b)| Node::Or(Box::new(a), Box::new(b))),
        ]
    })
}

/// Evaluates prefix notation as a node does. Shares no code with `eval`, so it can check it.
fn eval_prefix(ops: &[SegmentOp], has: &BTreeSet<String>) -> bool {
    fn step<'a>(ops: &mut impl Iterator<Item = &'a SegmentOp>, has: &BTreeSet<String>) -> bool {
        match ops.next().and_then(|op| op.op.as_ref()).expect("complete") {
            Op::Segment(name) => has.contains(name),
            Op::Not(_) => !step(ops, has),
            Op::Binary(b) => {
                let (left, right) = (step(ops, has), step(ops, has));
                if *b == i32::from(BinaryOp::And) { left && right } else { left || right }
            }
        }
    }
    let mut ops = ops.iter().peekable();
    let mut all = true;
    while ops.peek().is_some() {
        all &= step(&mut ops, has);
    }
    all
}

proptest! {
    #[test]
    fn display_round_trips(node in tree()) {
        let expr = SegmentExpr(Some(node));
        let text = expr.to_string();
        prop_assume!(text.len() <= EXPRESSION_BYTES_MAX);
        prop_assert_eq!(SegmentExpr::parse(&text).expect("its own text"), expr);
    }

    #[test]
    fn prefix_form_means_the_same(
        node in tree(),
        has in proptest::collection::btree_set("[a-d]", 0..4),
    ) {
        let expr = SegmentExpr(Some(node));
        prop_assert_eq!(expr.eval(|name| has.contains(name)), eval_prefix(&expr.to_wire(), &has));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = SegmentExpr::parse(&text);
    }

    #[test]
    fn no_words_panic(
        words in proptest::collection::vec(
            prop_oneof!["AND", "OR", "NOT", "\\(", "\\)", "[a-z]"],
            0..120,
        ),
    ) {
        if let Ok(expr) = SegmentExpr::parse(&words.join(" ")) {
            prop_assert_eq!(SegmentExpr::parse(&expr.to_string()).expect("its own text"), expr);
        }
    }
}

#[test]
fn not_binds_tighter_than_and_tighter_than_or() {
    let expr = SegmentExpr::parse("a OR NOT b AND c").expect("valid");
    assert_eq!(expr, SegmentExpr::parse("a OR ((NOT b) AND c)").expect("valid"));
    assert_eq!(expr.to_string(), "a OR NOT b AND c");
    assert_ne!(expr, SegmentExpr::parse("(a OR NOT b) AND c").expect("valid"));
    assert_eq!(SegmentExpr::parse("a AND b AND c").expect("valid").to_string(), "a AND b AND c");
    assert_eq!(
        SegmentExpr::parse("a AND (b AND c)").expect("valid").to_string(),
        "a AND (b AND c)"
    );
    // Keywords are capitals: the small words are names.
    assert!(SegmentExpr::parse("and OR or OR not").expect("valid").eval(|name| name == "not"));
}

#[test]
fn says_what_was_expected_and_where() {
    for (text, words) in [
        ("a b", "expected AND, OR or the end at byte 2, found a name"),
        ("a AND", "expected a segment, NOT or '(' at byte 5, found the end"),
        ("(a OR b", "expected AND, OR or ')' at byte 7, found the end"),
        ("a)", "expected AND, OR or the end at byte 1, found ')'"),
        ("a & b", "unexpected character '&' at byte 2"),
        ("Staff", "the name at byte 0 must contain only a-z, 0-9, '_' and '-'; got 'S'"),
    ] {
        assert_eq!(SegmentExpr::parse(text).expect_err(text).problem, words);
    }
}

#[test]
fn length_names_and_depth_are_bounded() {
    let names = |n: usize| vec!["a"; n].join(" OR ");
    assert!(SegmentExpr::parse(&names(64)).is_ok());
    assert_eq!(
        SegmentExpr::parse(&names(65)).expect_err("many").problem,
        "must have at most 64 names; got more"
    );
    let nested = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
    assert!(SegmentExpr::parse(&nested(32)).is_ok());
    assert!(SegmentExpr::parse(&nested(33)).expect_err("deep").problem.contains("at most 32"));
    assert!(SegmentExpr::parse(&format!("{}a", "NOT ".repeat(33))).is_err());
    // Parentheses side by side are not nested.
    assert!(SegmentExpr::parse(&vec!["(a)"; 40].join(" AND ")).is_ok());
    assert_eq!(
        SegmentExpr::parse(&" ".repeat(1_025)).expect_err("long").problem,
        "must be at most 1024 bytes; got 1025 bytes"
    );
}

#[test]
fn an_added_segment_restricts() {
    let exercise = Segment::new("exercise").expect("valid");
    let all = SegmentExpr::everybody().and(exercise.clone());
    assert_eq!(all.to_string(), "exercise");
    let some = SegmentExpr::parse("a OR b").expect("valid").and(exercise);
    assert_eq!(some.to_string(), "exercise AND (a OR b)");
    assert!(!some.eval(|name| name == "a"));
    assert!(SegmentExpr::everybody().eval(|_| false));
    assert!(SegmentExpr::everybody().to_wire().is_empty());
}

#[test]
fn audience_names_the_field() {
    let audience = |apps: &[&str], segments: &str| {
        let apps = apps.iter().map(|a| (*a).to_owned()).collect();
        Audience::from_wire(&crate::wire::v1::Audience {
            apps,
            segments: segments.to_owned(),
            place_seen_within: None,
        })
    };
    assert_eq!(audience(&[], "").expect_err("none").field, "apps");
    assert_eq!(audience(&["apps/a", "demo"], "").expect_err("bare").field, "apps[1]");
    let twice = audience(&["apps/a", "apps/b", "apps/a"], "").expect_err("twice");
    assert_eq!(
        (twice.field.as_str(), twice.problem.as_str()),
        ("apps[2]", "must not repeat an app; got apps/a more than once")
    );
    assert_eq!(audience(&["apps/a"], "(").expect_err("open").field, "segments");
    assert_eq!(audience(&["apps/b", "apps/a"], "x").expect("valid").apps[0].id(), "b", "as given");
}

#[test]
fn an_age_of_places_is_an_hour_to_400_days() {
    let within = |seconds, nanos| {
        let audience = crate::wire::v1::Audience {
            apps: vec!["apps/a".to_owned()],
            segments: String::new(),
            place_seen_within: Some(prost_types::Duration { seconds, nanos }),
        };
        Audience::from_wire(&audience).map(|audience| audience.place_seen_within)
    };
    assert_eq!(within(3_600, 0), Ok(Some(PLACE_SEEN_WITHIN_MIN)));
    assert_eq!(within(34_560_000, 0), Ok(Some(PLACE_SEEN_WITHIN_MAX)));
    assert_eq!(within(7_200, 500_000_000), Ok(Some(Duration::from_millis(7_200_500))));
    let refused = [
        (0, 0),
        (-3_600, 0),
        (3_599, 999_999_999),
        (34_560_000, 1),
        (34_560_001, 0),
        (i64::MIN, i32::MIN),
        (i64::MAX, i32::MAX),
    ];
    for (seconds, nanos) in refused {
        let error = within(seconds, nanos).expect_err("out of range");
        let problem = format!(
            "must be 1 hour (3600 s) to 400 days (34560000 s); got {seconds} s and {nanos} ns"
        );
        assert_eq!((error.field.as_str(), error.problem), ("place_seen_within", problem));
    }
}

#[test]
fn the_largest_age_accepts_every_place() {
    let now = UnixMillis(1_780_000_000_000);
    let day = Duration::from_secs(86_400);
    assert_eq!(place_seen_after(30 * day, now), UnixMillis(now.0 - 30 * 86_400_000));
    assert_eq!(place_seen_after(PLACE_SEEN_WITHIN_MAX, now), UnixMillis(0));
    assert_eq!(place_seen_after(30 * day, UnixMillis(5)), UnixMillis(0));
}
