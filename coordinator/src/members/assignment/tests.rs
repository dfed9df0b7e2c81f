//! When partitions are assigned, and what the store's answers lead to.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{PARTITIONS, node, seconds};

/// An assignment whose store has no ownership, so that it waits for nodes.
fn gathering(nodes_min: usize) -> Assignment {
    let mut assignment = Assignment::new(nodes_min, PARTITIONS, 4);
    assert!(matches!(assignment.poll(), Some(Output::Store(StoreOp::ReadOwnership))));
    assignment.stored(StoreResult::Read(Ok(None)), seconds(0));
    assignment
}

/// The time until which the assignment waits, or the nodes that it assigns partitions to.
fn gathered(assignment: &mut Assignment, now: u64) -> Result<Vec<NodeName>, Option<Time>> {
    assignment.expire(seconds(now));
    match assignment.poll() {
        Some(Output::Store(StoreOp::WriteOwnership(ownership))) => Ok(ownership.nodes().to_vec()),
        None => Err(assignment.deadline()),
        other => panic!("{other:?}"),
    }
}

fn ownership(number: u64, nodes: &[&str]) -> Arc<Ownership> {
    let nodes: Vec<_> = nodes.iter().map(|name| node(name)).collect();
    Arc::new(Ownership::assign(number, PARTITIONS, &nodes))
}

fn away() -> StoreError {
    StoreError::Away("down".to_owned())
}

fn conflict() -> StoreError {
    StoreError::Conflict("ownership".to_owned())
}

/// Outputs so far, each as a word.
fn outputs(assignment: &mut Assignment) -> Vec<String> {
    std::iter::from_fn(|| assignment.poll())
        .map(|output| match output {
            Output::Store(StoreOp::ReadOwnership) => "read".to_owned(),
            Output::Store(StoreOp::WriteOwnership(next)) => format!("write {}", next.number),
            Output::Publish(owned) => format!("publish {}", owned.ownership.number),
            Output::Log(Log::StoreFailed { times, .. }) => format!("log failure {times}"),
            Output::Log(Log::PartitionCount { .. }) => "log count".to_owned(),
            Output::Log(Log::Assigned { .. }) => "log assigned".to_owned(),
        })
        .collect()
}

#[test]
fn partitions_are_shared_out_when_as_many_are_there_as_there_are_addresses() {
    let mut assignment = gathering(1);
    assignment.set_addresses(2);
    assert_eq!(gathered(&mut assignment, 0), Err(None));
    assignment.joined(&node("a"), seconds(3));
    assert_eq!(gathered(&mut assignment, 3), Err(Some(seconds(8))));
    assignment.joined(&node("b"), seconds(4));
    assert_eq!(gathered(&mut assignment, 4), Ok(vec![node("a"), node("b")]));
}

#[test]
fn but_not_before_as_many_as_were_asked_for() {
    let mut assignment = gathering(2);
    assignment.set_addresses(1); // the second node has no address yet
    assignment.joined(&node("a"), seconds(3));
    assert_eq!(gathered(&mut assignment, 3), Err(None));
    assert_eq!(gathered(&mut assignment, 3_600), Err(None));
    assignment.joined(&node("b"), seconds(3_601));
    assert_eq!(gathered(&mut assignment, 3_601), Ok(vec![node("a"), node("b")]));
}

#[test]
fn or_with_those_that_are_there_some_seconds_after_the_first() {
    let mut assignment = gathering(1);
    assignment.set_addresses(3);
    assignment.joined(&node("a"), seconds(3));
    assignment.joined(&node("b"), seconds(4));
    assignment.left(&node("b"));
    assert_eq!(gathered(&mut assignment, 7), Err(Some(seconds(8))));
    let only = Ok(vec![node("a")]);
    assert_eq!(gathered(&mut assignment, 8), only, "the one that left again owns nothing");
}

#[test]
fn a_node_that_says_that_it_will_come_is_waited_for() {
    let mut assignment = gathering(1);
    assignment.set_addresses(2);
    // A new node, while the second node still keeps to the former coordinator.
    assignment.joined(&node("a"), seconds(3));
    for now in 3..12 {
        assignment.coming(seconds(now));
        let until = seconds((now + 4).max(8));
        assert_eq!(gathered(&mut assignment, now), Err(Some(until)));
    }
    assignment.joined(&node("b"), seconds(13));
    assert_eq!(gathered(&mut assignment, 13), Ok(vec![node("a"), node("b")]));
}

#[test]
fn but_not_for_ever() {
    let mut assignment = gathering(1);
    assignment.set_addresses(2);
    assignment.joined(&node("a"), seconds(3));
    assignment.coming(seconds(17));
    assert_eq!(gathered(&mut assignment, 17), Err(Some(seconds(18))));
    assert_eq!(gathered(&mut assignment, 18), Ok(vec![node("a")]));
}

#[test]
fn nobody_is_given_partitions_while_nobody_is_there() {
    let mut assignment = gathering(1);
    assignment.set_addresses(2);
    assignment.joined(&node("a"), seconds(3));
    assignment.left(&node("a"));
    assert_eq!(gathered(&mut assignment, 9), Err(None));
}

/// The table at the top of the module: answers of the store, and what follows from them.
#[test]
fn each_answer_of_the_store_has_its_next_step() {
    let read = |ownership| StoreResult::Read(Ok(ownership));
    let written = StoreResult::Written(Ok(ownership(1, &["a"])));
    let other_count = Arc::new(Ownership::assign(3, PARTITIONS + 1, &[node("a")]));
    let reading: &[(StoreResult, &[&str], bool)] = &[
        (read(Some(ownership(3, &["b"]))), &["publish 3", "log assigned"], true),
        (read(Some(other_count)), &["log count"], true),
        (read(None), &["write 1"], false),
        (StoreResult::Read(Err(conflict())), &["read"], false),
        (StoreResult::Read(Err(away())), &["log failure 1"], false),
        (written.clone(), &[], false),
    ];
    for (answer, expected, is_decided) in reading {
        let mut assignment = Assignment::new(1, PARTITIONS, 4);
        assignment.set_addresses(1);
        assignment.joined(&node("a"), seconds(1));
        assert_eq!(outputs(&mut assignment), ["read"]);
        assignment.stored(answer.clone(), seconds(1));
        assert_eq!(outputs(&mut assignment), *expected, "{answer:?}");
        assert_eq!(assignment.is_decided(), *is_decided, "{answer:?}");
    }
    let writing: &[(StoreResult, &[&str], bool)] = &[
        (written, &["publish 1", "log assigned"], true),
        (StoreResult::Written(Err(conflict())), &["read"], false),
        (StoreResult::Written(Err(away())), &["log failure 1"], false),
        (read(None), &[], false),
    ];
    for (answer, expected, is_decided) in writing {
        let mut assignment = gathering(1);
        assignment.set_addresses(1);
        assignment.joined(&node("a"), seconds(1));
        gathered(&mut assignment, 1).expect("all are there");
        assignment.stored(answer.clone(), seconds(1));
        assert_eq!(outputs(&mut assignment), *expected, "{answer:?}");
        assert_eq!(assignment.is_decided(), *is_decided, "{answer:?}");
    }
}

#[test]
fn a_store_that_is_away_is_asked_again_every_half_second_and_logged_once() {
    let mut assignment = Assignment::new(1, PARTITIONS, 4);
    assert_eq!(outputs(&mut assignment), ["read"]);
    for half in 0..4 {
        let now = seconds(10) + STORE_PAUSE * half;
        assignment.stored(StoreResult::Read(Err(away())), now);
        assert_eq!(assignment.deadline(), Some(now + STORE_PAUSE));
        assignment.expire(now + STORE_PAUSE - Duration::from_micros(1));
        let logged: &[&str] = if half == 0 { &["log failure 1"] } else { &[] };
        assert_eq!(outputs(&mut assignment), logged);
        assignment.expire(now + STORE_PAUSE);
        assert_eq!(outputs(&mut assignment), ["read"]);
    }
}

/// One input of an assignment.
#[derive(Debug, Clone)]
enum Input {
    Joined(u8),
    Left(u8),
    Addresses(usize),
    Coming,
    Pass(u64),
    /// The store carries out the operation, or fails before or after it.
    Store(Fate),
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Done,
    NotDone,
    AnswerLost,
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let fate = prop_oneof![Just(Fate::Done), Just(Fate::NotDone), Just(Fate::AnswerLost)];
    let input = prop_oneof![
        (0u8..4).prop_map(Input::Joined),
        (0u8..4).prop_map(Input::Left),
        (0usize..4).prop_map(Input::Addresses),
        Just(Input::Coming),
        (0u64..6_000).prop_map(Input::Pass),
        fate.prop_map(Input::Store),
    ];
    proptest::collection::vec(input, 0..60)
}

proptest! {
    /// Whatever the order of inputs: one ownership at most, over nodes that were connected then,
    /// and the published one is the stored one.
    #[test]
    fn any_order_of_inputs_assigns_once_and_over_connected_nodes_only(
        inputs in inputs(), nodes_min in 0usize..3,
    ) {
        let mut assignment = Assignment::new(nodes_min, PARTITIONS, 4);
        let (mut connected, mut now) = (BTreeSet::new(), seconds(1));
        let (mut stored, mut asked): (Option<Arc<Ownership>>, Option<StoreOp>) = (None, None);
        let mut published = Vec::new();
        for input in inputs {
            match input {
                Input::Joined(n) => {
                    connected.insert(node(&n.to_string()));
                    assignment.joined(&node(&n.to_string()), now);
                }
                Input::Left(n) => {
                    connected.remove(&node(&n.to_string()));
                    assignment.left(&node(&n.to_string()));
                }
                Input::Addresses(addresses) => assignment.set_addresses(addresses),
                Input::Coming => assignment.coming(now),
                Input::Pass(ms) => now = now + Duration::from_millis(ms),
                Input::Store(fate) => {
                    let Some(op) = asked.take() else { continue };
                    let done = !matches!(fate, Fate::NotDone);
                    let lost = !matches!(fate, Fate::Done);
                    assignment.stored(match op {
                        _ if lost && matches!(op, StoreOp::ReadOwnership) => {
                            StoreResult::Read(Err(away()))
                        }
                        StoreOp::ReadOwnership => StoreResult::Read(Ok(stored.clone())),
                        StoreOp::WriteOwnership(_) if done && stored.is_some() => {
                            StoreResult::Written(Err(conflict()))
                        }
                        StoreOp::WriteOwnership(next) => {
                            let next = Arc::new(next);
                            stored = stored.or_else(|| done.then(|| next.clone()));
                            StoreResult::Written(if lost { Err(away()) } else { Ok(next) })
                        }
                    }, now);
                }
            }
            assignment.expire(now);
            while let Some(output) = assignment.poll() {
                match output {
                    Output::Store(op) => {
                        prop_assert!(asked.is_none(), "one operation at a time");
                        if let StoreOp::WriteOwnership(next) = &op {
                            prop_assert!(!next.nodes().is_empty() && next.number == 1);
                            prop_assert!(next.nodes().iter().all(|node| connected.contains(node)));
                            prop_assert!(next.nodes().len() >= nodes_min);
                        }
                        asked = Some(op);
                    }
                    Output::Publish(owned) => published.push(owned),
                    Output::Log(_) => {}
                }
            }
        }
        prop_assert!(published.len() <= 1);
        for owned in published {
            prop_assert_eq!(Some(&owned.ownership), stored.as_deref());
        }
    }
}
