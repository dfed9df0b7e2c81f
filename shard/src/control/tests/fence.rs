//! Who may direct the node, what it does with another log, whether it says that it is ready, and
//! how it leaves.

use clarion_proto::{
    ids::{ClusterName, LogId, LogIdentity, PartitionId, Position, WaveId},
    wire::shard_v1::{self as wire, session_response::Message as Wire},
};

use super::{
    super::{fence::Fenced, readiness::NotReady, *},
    MS, SECOND, running,
    support::{Bench, LOG, opened, ownership, wave},
};
use crate::command::{CoreReport, HeldStats};

const OTHER: LogIdentity = LogIdentity([2; 16]);

fn readiness(bench: &Bench) -> Result<(), NotReady> {
    bench.control.readiness(bench.now)
}

fn ready() -> Bench {
    let mut bench = running();
    bench.control.feed(FeedNote::CaughtUp);
    assert_eq!(readiness(&bench), Ok(()));
    bench
}

fn ownership_of(
    log: LogIdentity,
    number: u64,
    partitions: &[u32],
) -> wire::session_request::Message {
    let wire::session_request::Message::Ownership(owned) = ownership(number, partitions) else {
        panic!()
    };
    wire::session_request::Message::Ownership(wire::Ownership {
        log_identity: log.to_wire(),
        ..owned
    })
}

#[test]
fn a_coordinator_of_another_log_changes_nothing() {
    let mut bench = ready();
    let refused = bench.control.open(&opened(2, OTHER), bench.now).unwrap_err();
    assert!(matches!(refused, Fenced::OtherLog { .. }), "{refused}");
    assert!(bench.outputs().is_empty());
    assert_eq!(readiness(&bench), Ok(()));
    bench.say(wave(1, 1, 1, &[0]));
    assert!(bench.refusals().is_empty(), "the first one's session goes on");
}

#[test]
fn another_log_means_that_everything_of_the_former_goes() {
    let mut bench = ready();
    bench.say(wave(1, 1, 1, &[0, 1]));
    let stats = HeldStats {
        owns: 1,
        positions: vec![(PartitionId(0), Position(500))],
        devices: 9,
        ..HeldStats::default()
    };
    bench.control.event(0, Event::Held(stats.clone()));
    bench.outputs();
    bench.close_of(1);
    assert!(matches!(
        bench.control.open(&opened(2, OTHER), bench.now),
        Err(Fenced::FormerLog { .. })
    ));
    assert_eq!(readiness(&bench), Ok(()), "it may still be the former coordinator that comes back");

    bench.now = bench.now + 10 * SECOND;
    assert_eq!(readiness(&bench), Err(NotReady::NotDirected));
    bench.control.open(&opened(2, OTHER), bench.now).unwrap();
    assert_eq!(readiness(&bench), Err(NotReady::NoPartitions));
    let outputs = bench.outputs();
    let ends = |o: &Output| matches!(o, Output::Command { command: Command::End(WaveId(1)), .. });
    let owns_nothing = |o: &Output| match o {
        Output::Command { command: Command::Own(owns), .. } => owns.partitions.is_empty(),
        _ => false,
    };
    assert_eq!(
        outputs.iter().filter(|o| ends(o)).count(),
        2,
        "the wave of the former log ends: {outputs:?}"
    );
    assert_eq!(
        outputs.iter().filter(|o| owns_nothing(o)).count(),
        2,
        "the cores let go of all: {outputs:?}"
    );
    assert!(outputs.iter().any(|o| matches!(o, Output::Unfollow)));

    let Some(Wire::Hello(hello)) = bench.message_to(2) else { panic!() };
    assert!(hello.positions.is_empty() && hello.log_identity.is_empty(), "{hello:?}");
    // A core's word of before, which was on its way.
    bench.control.event(0, Event::Held(stats));
    // A lower number than the former log's, and another count.
    bench.say_as(2, ownership_of(OTHER, 1, &[0, 1]));
    assert!(bench.refusals_to(2).is_empty());
    let outputs = bench.outputs();
    let Some(Output::Follow { assignment, followed, .. }) = outputs.last() else {
        panic!("{outputs:?}")
    };
    assert_eq!((assignment.owned().log, followed.len()), (OTHER, 0));
    bench.list_nothing();
    bench.now = bench.now + SECOND;
    let states = bench.messages_to(2).into_iter().filter_map(|m| match m {
        Wire::RegistryState(state) => Some(state),
        _ => None,
    });
    for state in states {
        assert!(state.devices == 0 && state.positions.iter().all(|p| p.position == 0), "{state:?}");
    }
    assert_eq!(readiness(&bench), Err(NotReady::Loading));
    bench.control.feed(FeedNote::CaughtUp);
    assert_eq!(readiness(&bench), Ok(()));
}

#[test]
fn an_ownership_of_another_log_than_the_sessions_is_refused() {
    let mut bench = ready();
    bench.say(ownership_of(OTHER, 9, &[0]));
    assert!(bench.refusals()[0].reason.starts_with("ownership.log_identity: "));
    assert_eq!(readiness(&bench), Err(NotReady::OwnershipRefused));
    bench.say(ownership(1, &[0, 1, 2, 3]));
    assert_eq!(readiness(&bench), Ok(()), "what it holds is wanted again");
}

#[test]
fn what_keeps_an_alert_from_its_devices_is_not_ready() {
    let mut bench = Bench::new(1);
    assert_eq!(readiness(&bench), Err(NotReady::NoPartitions));
    let other = Opened { cluster: ClusterName::new("other").unwrap(), ..opened(1, LOG) };
    assert!(bench.control.open(&other, bench.now).is_err());
    assert_eq!(readiness(&bench), Err(NotReady::OtherCluster));
    bench.open();
    assert_eq!(readiness(&bench), Err(NotReady::NoPartitions));
    bench.say(ownership(1, &[]));
    bench.control.feed(FeedNote::CaughtUp);
    assert_eq!(readiness(&bench), Err(NotReady::NoPartitions), "an owner of nothing");
    bench.say(ownership(2, &[0]));
    bench.control.feed(FeedNote::CaughtUp);
    assert_eq!(readiness(&bench), Err(NotReady::Loading), "its content is still to come");
    bench.list_nothing();
    bench.control.feed(FeedNote::Lost);
    assert_eq!(readiness(&bench), Err(NotReady::Loading));
    for (note, expected) in [
        (FeedNote::CaughtUp, Ok(())),
        (FeedNote::Lost, Err(NotReady::LogLost)),
        (FeedNote::Refused, Err(NotReady::LogRefused)),
        (FeedNote::CaughtUp, Ok(())),
    ] {
        bench.control.feed(note);
        assert_eq!(readiness(&bench), expected);
    }
    bench.control.feed(FeedNote::Trimmed { log: LogId(0), first: Position(9) });
    assert_eq!(readiness(&bench), Err(NotReady::Loading));
    bench.list_nothing();
    bench.control.feed(FeedNote::CaughtUp);
    let damaged = NotReady::PartitionDamaged(PartitionId(0));
    assert_eq!(readiness(&bench), Err(damaged), "no snapshot, and no beginning of the log");
    assert_eq!(
        damaged.to_string(),
        "partition 0 is lost: its log was trimmed and no snapshot can be read"
    );
    bench.control.feed(FeedNote::OtherLog);
    bench.say(ownership(3, &[1]));
    bench.list_nothing();
    bench.control.feed(FeedNote::CaughtUp);
    assert_eq!(readiness(&bench), Ok(()), "the lost one is not this node's any more");
    bench.say(ownership(1, &[0]));
    assert_eq!(readiness(&bench), Err(NotReady::OwnershipRefused));
    bench.say(ownership(3, &[1]));
    assert!(bench.control.open(&other, bench.now).is_err());
    assert_eq!(readiness(&bench), Ok(()), "what it holds is its own cluster's");
    bench.control.drain();
    assert_eq!(readiness(&bench), Err(NotReady::Draining));
}

#[test]
fn a_node_that_drains_leaves_after_its_last_report_and_waits_for_the_answer() {
    let mut bench = ready();
    bench.say(wave(1, 1, 1, &[0]));
    bench.messages();
    bench.control.drain();
    let handed = vec![(PartitionId(0), roaring::RoaringBitmap::from_iter([1, 2]))];
    let last = CoreReport { wave: WaveId(1), handed, ..CoreReport::default() };
    bench.control.event(0, Event::Report(Box::new(last)));
    bench.control.leave();
    bench.say(wire::session_request::Message::Left(wire::Left {}));
    assert!(!bench.control.has_left(), "an answer to nothing");
    bench.now = bench.now + 200 * MS;
    let messages = bench.messages();
    let at = |is: fn(&Wire) -> bool| messages.iter().position(is).unwrap();
    let (report, leaving) =
        (at(|m| matches!(m, Wire::Report(_))), at(|m| matches!(m, Wire::Leaving(_))));
    assert!(report < leaving && leaving == messages.len() - 1, "{messages:?}");
    assert!(!bench.control.has_left());
    bench.say(wire::session_request::Message::Left(wire::Left {}));
    assert!(bench.control.has_left());
    assert_eq!(bench.messages(), [], "it says nothing more");
}
