//! Changes of ownership and of the log: what is kept, what is loaded, what begins anew.

use clarion_proto::ids::{PartitionId, Position};

use super::{
    super::{readiness::NotReady, *},
    running,
    support::ownership,
};
use crate::command::Owns;

#[test]
fn an_older_ownership_is_refused_with_ours() {
    let mut bench = running();
    bench.say(ownership(3, &[0, 1]));
    bench.outputs();
    bench.say(ownership(2, &[0, 1, 2, 3]));
    bench.say(ownership(3, &[0]));
    assert!(bench.outputs().is_empty());
    let refusals = bench.refusals();
    assert_eq!(refusals.iter().map(|r| r.ownership).collect::<Vec<_>>(), [3, 3]);
    assert!(
        refusals[0].reason.contains("must be at least 3, which this node holds; got 2"),
        "{}",
        refusals[0].reason
    );
}

#[test]
fn what_stays_keeps_its_core_and_is_followed_while_what_is_new_is_loaded() {
    let mut bench = running();
    // 0 goes, 4 comes to its core.
    bench.say(ownership(2, &[1, 2, 3, 4]));
    let outputs = bench.outputs();
    let owns = outputs.iter().filter_map(|o| match o {
        Output::Command { core, command: Command::Own(owns) } => Some((*core, owns.clone())),
        _ => None,
    });
    let own = |list: [u16; 2], awaited: &[u16]| Owns {
        partitions: list.map(PartitionId).to_vec(),
        awaited: awaited.iter().copied().map(PartitionId).collect(),
        log_count: 16,
    };
    assert_eq!(owns.collect::<Vec<_>>(), [(0, own([2, 4], &[4])), (1, own([1, 3], &[]))]);
    let followed = |outputs: &[Output]| match outputs.last() {
        Some(Output::Follow { followed, begin, .. }) => (followed.clone(), begin.clone()),
        _ => panic!("{outputs:?}"),
    };
    assert_eq!(followed(&outputs), ([1, 2, 3].map(PartitionId).into(), BTreeMap::new()));
    bench.list_nothing();
    let outputs = bench.outputs();
    assert!(
        matches!(
            &outputs[0],
            Output::Command { core: 0, command: Command::Rebuild(list) }
                if *list == [PartitionId(4)]
        ),
        "{outputs:?}"
    );
    let begin = [(PartitionId(4), Position(0))].into();
    assert_eq!(followed(&outputs), ([1, 2, 3, 4].map(PartitionId).into(), begin));
}

#[test]
fn a_log_that_has_lost_something_means_starting_from_nothing() {
    let mut bench = running();
    bench.control.feed(FeedNote::CaughtUp);
    assert_eq!(bench.control.readiness(bench.now), Ok(()));
    bench.control.feed(FeedNote::OtherLog);
    assert_eq!(bench.control.readiness(bench.now), Err(NotReady::Loading));
    let outputs = bench.outputs();
    let rebuilt = outputs.iter().filter_map(|o| match o {
        Output::Command { command: Command::Rebuild(partitions), .. } => Some(partitions.clone()),
        _ => None,
    });
    let all = |list: [u16; 2]| list.map(PartitionId).to_vec();
    assert_eq!(rebuilt.collect::<Vec<_>>(), [all([0, 2]), all([1, 3])]);
    let from_nothing = |begin: &BTreeMap<PartitionId, Position>| {
        begin.len() == 4 && begin.values().all(|position| position.0 == 0)
    };
    assert!(matches!(outputs.last(), Some(Output::Follow { begin, .. }) if from_nothing(begin)));
}
