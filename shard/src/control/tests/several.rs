//! Several coordinators with sessions at the same time: who directs what, and what each is told.

use clarion_proto::wire::shard_v1::session_request::Message as Say;
use roaring::RoaringBitmap;

use super::{
    support::{count, ownership, wave},
    *,
};
use crate::lane::health::LaneHealth;

/// [`running`], and a second coordinator of the same log whose start has been read.
fn two() -> Bench {
    let mut bench = running();
    bench.open_as(2);
    bench.messages_to(2);
    bench.outputs();
    bench
}

fn told(messages: &[Wire], is: impl Fn(&Wire) -> bool) -> usize {
    messages.iter().filter(|message| is(message)).count()
}

fn ask_of(bench: &mut Bench, coordinator: u8) -> Option<wire::LeaseRequest> {
    bench.messages_to(coordinator).into_iter().find_map(|message| match message {
        Wire::LeaseRequest(ask) => Some(ask),
        _ => None,
    })
}

fn reports_to(bench: &mut Bench, coordinator: u8) -> Vec<wire::Report> {
    let reports = bench.messages_to(coordinator).into_iter().filter_map(|message| match message {
        Wire::Report(report) => Some(report),
        _ => None,
    });
    reports.collect()
}

fn handed(wave: u64, all: bool, ordinal: u32) -> Event {
    let handed = vec![(PartitionId(0), RoaringBitmap::from_iter([ordinal]))];
    Event::Report(Box::new(CoreReport { wave: WaveId(wave), all, handed, ..CoreReport::default() }))
}

fn grant_of(nonce: u64, wave: u64, epoch: u64) -> Say {
    let waves = vec![wire::WaveGrant { wave, rate_millis_per_second: 0, epoch }];
    Say::Grant(wire::Grant { nonce, lease_ms: 5_000, waves })
}

#[test]
fn each_coordinator_directs_its_own_waves() {
    let mut bench = two();
    bench.say(wave(1, 1, 1, &[0]));
    bench.say_as(2, wave(2, 1, 1, &[0]));
    bench.outputs();
    let (first, second) = (ask_of(&mut bench, 1).unwrap(), ask_of(&mut bench, 2).unwrap());
    assert_eq!((first.waves, second.waves), (vec![1], vec![2]));
    assert!(first.nonce != second.nonce);
    // The second one has the higher lanes epoch.
    assert_eq!((first.lanes, second.lanes), (vec![], vec![1]));

    // Each answers for its own wave only, and only its own question.
    bench.say(grant_of(first.nonce, 2, 1));
    assert!(bench.commands().is_empty());
    let refusals = bench.refusals();
    let expected = (2, 1, wire::RefusalCause::Superseded);
    assert_eq!((refusals[0].wave, refusals[0].epoch, refusals[0].cause()), expected);
    bench.say(grant_of(second.nonce, 1, 1));
    assert!(bench.commands().is_empty(), "the other session's nonce");
    bench.say(grant_of(first.nonce, 1, 1));
    assert!(matches!(bench.commands()[..], [(0, Command::Grant { wave: WaveId(1), .. })]));

    bench.control.event(0, handed(1, false, 7));
    bench.control.event(0, handed(2, false, 8));
    bench.now = bench.now + 20 * MS;
    let waves = |reports: Vec<wire::Report>| reports.iter().map(|r| r.wave).collect::<Vec<_>>();
    assert_eq!(waves(reports_to(&mut bench, 1)), [1]);
    assert_eq!(waves(reports_to(&mut bench, 2)), [2]);
}

#[test]
fn an_epoch_belongs_to_the_coordinator_that_used_it_first() {
    let mut bench = two();
    bench.say(wave(1, 3, 1, &[0]));
    bench.outputs();
    for (message, part) in [
        (wave(1, 3, 1, &[0]), "wave.epoch: is 3, which coordinator 01010101"),
        (wave(1, 2, 1, &[0]), "wave.epoch: is 2, but epoch 3 is obeyed"),
        (end(1, 3), "end.epoch: is 3, which coordinator 01010101"),
        (end(1, 2), "end.epoch: is 2, but epoch 3 is obeyed"),
    ] {
        bench.say_as(2, message);
        let refusals = bench.refusals_to(2);
        assert!(refusals[0].reason.contains(part), "{}", refusals[0].reason);
        let expected = (1, 3, wire::RefusalCause::Superseded);
        assert_eq!((refusals[0].wave, refusals[0].epoch, refusals[0].cause()), expected);
        assert!(bench.outputs().is_empty());
    }
    assert!(bench.refusals().is_empty(), "the first one hears nothing of it");
}

#[test]
fn a_higher_epoch_takes_a_wave_over_and_the_former_director_is_told() {
    let mut bench = two();
    bench.say(wave(1, 1, 1, &[0]));
    let late = ask_of(&mut bench, 1).unwrap();
    bench.control.event(0, handed(1, false, 7));
    bench.outputs();

    bench.say_as(2, wave(1, 2, 1, &[0]));
    bench.outputs();
    let refusals = bench.refusals();
    let expected = (1, 2, wire::RefusalCause::Superseded);
    assert_eq!((refusals[0].wave, refusals[0].epoch, refusals[0].cause()), expected);
    // Messages of the former director that were on their way.
    for message in [grant_of(late.nonce, 1, 1), end(1, 1), wave(1, 1, 1, &[0])] {
        bench.say(message);
        assert_eq!(bench.refusals().len(), 1);
        assert!(bench.commands().is_empty());
    }
    bench.now = bench.now + SECOND;
    assert!(ask_of(&mut bench, 1).is_none(), "it is asked for nothing any more");
    assert_eq!(ask_of(&mut bench, 2).unwrap().waves, [1]);

    // The new director's first report is complete, and the former one gets none.
    bench.control.event(0, handed(1, false, 8));
    bench.now = bench.now + SECOND;
    assert_eq!(reports_to(&mut bench, 2), [], "until the core has said everything");
    let mut all = handed(1, true, 7);
    if let Event::Report(report) = &mut all {
        report.handed[0].1.insert(8);
    }
    bench.control.event(0, all);
    bench.now = bench.now + SECOND;
    let reports = reports_to(&mut bench, 2);
    assert_eq!((reports.len(), reports[0].epoch), (1, 2));
    let set = RoaringBitmap::deserialize_from(&reports[0].handed[0].ordinals[..]).unwrap();
    assert_eq!(set.iter().collect::<Vec<_>>(), [7, 8]);
    assert_eq!(reports_to(&mut bench, 1), []);
}

#[test]
fn a_wave_waits_for_its_director_or_for_a_higher_epoch() {
    let mut bench = two();
    bench.say(wave(1, 1, 1, &[0]));
    bench.messages();
    bench.outputs();
    bench.close_of(1);
    bench.now = bench.now + SECOND;
    assert_eq!(ask_of(&mut bench, 2).unwrap().waves, [0; 0], "the other one does not direct it");
    // What is handed meanwhile is told by the complete report.
    bench.control.event(0, handed(1, false, 7));
    bench.open();
    let all = bench.commands();
    assert_eq!(all.iter().filter(|(_, c)| matches!(c, Command::ReportAll)).count(), 2);
    assert_eq!(ask_of(&mut bench, 1).unwrap().waves, [1], "it is back, and directs its wave");
}

#[test]
fn a_cancel_is_obeyed_under_any_epoch_and_confirmed_to_both() {
    let mut bench = two();
    bench.say(wave(1, 5, 1, &[0]));
    bench.outputs();
    bench.messages();
    bench.say_as(2, cancel(1, 2));
    let cancelled = |c: &Command| matches!(c, Command::Cancel { epoch: Epoch(5), .. });
    let commands = bench.commands();
    assert!(commands.len() == 1 && cancelled(&commands[0].1), "{commands:?}");
    let stopped = Event::Stopped { wave: WaveId(1), last_write: None, written_after: 0 };
    bench.control.event(0, stopped);
    let is_stopped = |m: &Wire| matches!(m, Wire::Stopped(_));
    for coordinator in [1, 2] {
        assert_eq!(told(&bench.messages_to(coordinator), is_stopped), 1, "{coordinator}");
    }
    // Nobody starts it again.
    bench.say_as(2, wave(1, 9, 1, &[0]));
    assert!(bench.commands().is_empty());
    assert_eq!(told(&bench.messages_to(2), is_stopped), 1, "it may not know of the cancel");
    bench.say(cancel(77, 1));
    bench.messages();
    bench.say_as(2, wave(77, 9, 1, &[0]));
    assert_eq!(told(&bench.messages_to(2), is_stopped), 1, "of a wave that never was here, too");
    // The confirmation goes to whoever cancels again.
    bench.say(cancel(1, 5));
    assert_eq!(told(&bench.messages_to(2), is_stopped), 0);
    assert_eq!(told(&bench.messages_to(1), is_stopped), 1);
}

#[test]
fn an_answer_to_a_count_goes_to_the_session_that_asked() {
    let mut bench = two();
    bench.say(count(6, &["demo"]));
    bench.say_as(2, count(6, &["demo"]));
    let specs = bench.commands().into_iter().filter_map(|(core, command)| match command {
        Command::Count(spec) => Some((core, spec.id)),
        _ => None,
    });
    let specs: Vec<_> = specs.collect();
    assert_eq!(specs.len(), 4);
    let second = specs[2].1;
    assert!(specs[0].1 != second, "the cores can tell them apart");
    for core in [0, 1] {
        let devices = vec![vec![1, 0, 0]];
        bench.control.event(core, Event::Counted { id: second, devices, left_out_for_age: 0 });
    }
    let counted = |m: &Wire| matches!(m, Wire::Counted(counted) if counted.id == 6);
    assert_eq!(told(&bench.messages_to(1), counted), 0);
    assert_eq!(told(&bench.messages_to(2), counted), 1);
}

#[test]
fn lanes_follow_the_highest_epoch_and_the_next_coordinator_is_asked_to_state_them_again() {
    let mut bench = two();
    let connections = |connections| Say::Connections(wire::Connections { lane: 1, connections });
    let token = || {
        Say::ProviderToken(wire::ProviderToken {
            lane: 1,
            authorization: "bearer x".to_owned(),
            signer: 1,
        })
    };
    bench.now = bench.now + SECOND;
    let nonce = ask_of(&mut bench, 2).unwrap().nonce;
    let slice = |nonce| {
        let lane = 1;
        Say::Slice(wire::Slice { nonce, lease_ms: 5_000, lane, ..wire::Slice::default() })
    };
    for message in [connections(8), token(), slice(nonce), lane(1)] {
        bench.say(message);
    }
    assert!(bench.commands().is_empty(), "the first coordinator does not direct the lanes");
    // It may describe a lane that the node does not know: its waves may need it.
    bench.say(lane(2));
    assert!(matches!(bench.commands()[..], [(0, Command::Lane(_)), (1, Command::Lane(_)), ..]));
    assert!(bench.refusals().is_empty());
    for message in [connections(8), token(), slice(nonce)] {
        bench.say_as(2, message);
        assert_eq!(bench.commands().len(), 2);
    }
    let wanted = |m: &Wire| matches!(m, Wire::LanesWanted(_));
    bench.close_of(2);
    let messages = bench.messages();
    assert_eq!(told(&messages, wanted), 1);
    let ask = messages.iter().find_map(|m| match m {
        Wire::LeaseRequest(ask) => Some(ask.clone()),
        _ => None,
    });
    let ask = ask.expect("at once");
    assert_eq!(ask.lanes, [1, 2]);
    for message in [connections(4), token(), slice(ask.nonce)] {
        bench.say(message);
        assert_eq!(bench.commands().len(), 2);
    }
    // A session with a lower epoch changes nothing.
    bench.close_of(1);
    bench.open_as(3);
    bench.open_as(1);
    bench.outputs();
    bench.say(connections(2));
    assert!(bench.commands().is_empty());
}

#[test]
fn every_session_is_told_of_lanes_and_registry_at_its_own_pace() {
    let mut bench = two();
    let health = |health| Event::LaneState {
        lane: LaneId(1),
        at: Time(0),
        health,
        detail: String::new(),
        since: None,
        next_probe: None,
    };
    let states = |messages: Vec<Wire>| {
        let states = messages.into_iter().filter_map(|m| match m {
            Wire::LaneState(state) => Some(state.health()),
            _ => None,
        });
        states.collect::<Vec<_>>()
    };
    bench.control.event(0, health(LaneHealth::Ready));
    assert_eq!(states(bench.messages()), [wire::LaneHealth::Ready]);
    bench.control.event(0, health(LaneHealth::Throttled));
    bench.control.event(0, Event::Held(HeldStats { owns: 1, devices: 3, ..HeldStats::default() }));
    bench.now = bench.now + SECOND;
    let registry = |m: &Wire| matches!(m, Wire::RegistryState(state) if state.devices == 3);
    let messages = bench.messages();
    assert_eq!(told(&messages, registry), 1);
    assert_eq!(states(messages), [wire::LaneHealth::Throttled]);
    // The second one has read nothing meanwhile: it gets the newest state, once.
    let messages = bench.messages_to(2);
    assert_eq!(told(&messages, registry), 1);
    assert_eq!(states(messages), [wire::LaneHealth::Throttled]);
    // A third one begins with everything.
    bench.open_as(3);
    let messages = bench.messages_to(3);
    assert_eq!(told(&messages, registry), 1);
    assert_eq!(states(messages), [wire::LaneHealth::Throttled]);
}

#[test]
fn the_same_ownership_from_two_coordinators_is_one() {
    let mut bench = two();
    bench.say_as(2, ownership(1, &[0, 1, 2, 3]));
    assert!(bench.outputs().is_empty() && bench.refusals_to(2).is_empty());
    bench.say_as(2, ownership(1, &[0]));
    assert!(bench.outputs().is_empty());
    let reason = &bench.refusals_to(2)[0].reason;
    for part in ["coordinator 01010101", "coordinator 02020202", "4 partitions with 1"] {
        assert!(reason.contains(part), "{reason}");
    }
}

#[test]
fn a_session_that_does_not_read_delays_no_other_and_stays_small() {
    let mut bench = two();
    bench.say(wave(1, 1, 1, &[0]));
    for n in 0..10 * u64::try_from(REFUSALS_MAX).unwrap() {
        bench.say(wave(90, 1, 2, &[0]));
        bench.say(cancel(1_000 + n, 1));
    }
    bench.say_as(2, wave(2, 1, 1, &[0]));
    bench.outputs();
    for n in 0..100 {
        bench.control.event(0, handed(1, false, n));
        bench.control.event(0, handed(2, false, n));
        bench.now = bench.now + 20 * MS;
        assert_eq!(reports_to(&mut bench, 2).len(), 1, "every 20 ms");
    }
    let messages = bench.messages();
    assert!(messages.len() <= 2 * REFUSALS_MAX + 8, "{} messages", messages.len());
    assert_eq!(told(&messages, |m| matches!(m, Wire::Report(_))), 1, "merged");
}

#[test]
fn a_node_leaves_when_every_session_has_confirmed() {
    let mut bench = two();
    bench.control.drain();
    bench.control.leave();
    let leaving = |m: &Wire| matches!(m, Wire::Leaving(_));
    bench.now = bench.now + SECOND;
    for coordinator in [1, 2] {
        assert!(!bench.control.has_left());
        assert_eq!(told(&bench.messages_to(coordinator), leaving), 1);
        bench.say_as(coordinator, Say::Left(wire::Left {}));
    }
    assert!(bench.control.has_left());
}

#[test]
fn a_message_of_a_closed_session_is_not_taken() {
    let mut bench = two();
    bench.close_of(2);
    bench.say_as(2, wave(2, 1, 1, &[0]));
    bench.say_as(2, cancel(1, 1));
    assert!(bench.outputs().is_empty());
    assert!(bench.messages_to(2).is_empty());
}

#[test]
fn a_cancel_under_a_higher_epoch_takes_the_reports_and_the_end_along() {
    let mut bench = two();
    bench.say(wave(1, 1, 1, &[0]));
    bench.control.event(0, handed(1, false, 7));
    bench.now = bench.now + SECOND;
    bench.messages();
    bench.outputs();
    // The second one took the alert over when the cancel was recorded: it never offers the wave.
    bench.say_as(2, cancel(1, 2));
    let commands = bench.commands();
    assert!(commands.iter().any(|(_, c)| matches!(c, Command::Cancel { epoch: Epoch(2), .. })));
    assert!(commands.iter().any(|(_, c)| matches!(c, Command::ReportAll)), "{commands:?}");
    let refusals = bench.refusals();
    let expected = (1, 2, wire::RefusalCause::Superseded);
    assert_eq!((refusals[0].wave, refusals[0].epoch, refusals[0].cause()), expected);
    bench.control.event(0, handed(1, true, 7));
    bench.now = bench.now + SECOND;
    let reports = reports_to(&mut bench, 2);
    assert_eq!((reports.len(), reports[0].epoch, reports[0].handed.len()), (1, 2, 1));
    assert_eq!(reports_to(&mut bench, 1), []);
    bench.say(end(1, 1));
    assert!(bench.commands().is_empty(), "the former director ends nothing");
    bench.say_as(2, end(1, 2));
    assert!(bench.refusals_to(2).is_empty());
    assert!(matches!(bench.commands()[..], [(0, Command::End(WaveId(1)))]));
}

#[test]
fn a_plan_of_a_lower_epoch_than_the_end_comes_too_late() {
    let mut bench = two();
    bench.say(wave(1, 1, 1, &[0]));
    // A third coordinator, which took both waves over from the second one, ends them; the node
    // knows neither its epoch nor wave 2.
    bench.open_as(3);
    bench.say_as(3, end(1, 3));
    bench.say_as(3, end(2, 3));
    bench.outputs();
    bench.now = bench.now + SECOND;
    bench.messages_to(2);
    for late in [1, 2] {
        bench.say_as(2, wave(late, 2, 1, &[0]));
        assert!(bench.commands().is_empty(), "wave {late}");
        let refusals = bench.refusals_to(2);
        let expected = (late, 3, wire::RefusalCause::Superseded);
        assert_eq!((refusals[0].wave, refusals[0].epoch, refusals[0].cause()), expected);
    }
}

#[test]
fn a_cancelled_wave_stays_cancelled_whatever_else_is_cancelled_meanwhile() {
    let mut bench = two();
    bench.say(wave(1, 1, 1, &[0]));
    bench.say(cancel(1, 1));
    (0..1_100).for_each(|n| bench.say(cancel(1_000 + n, 1)));
    bench.outputs();
    bench.messages_to(2);
    bench.say_as(2, wave(1, 2, 1, &[0]));
    assert!(bench.commands().is_empty());
    assert_eq!(bench.refusals_to(2)[0].cause(), wire::RefusalCause::Superseded);
}

#[test]
fn all_sessions_together_ask_for_no_more_counts_than_a_core_keeps() {
    use crate::{command::COUNTS_MAX, control::fence::SESSIONS_MAX};

    let mut bench = running();
    let mut asked = 0;
    for coordinator in 1..=u8::try_from(SESSIONS_MAX).unwrap() {
        bench.open_as(coordinator);
        (1..=16).for_each(|id| bench.say_as(coordinator, count(id, &["demo"])));
        asked += bench.commands().iter().filter(|(_, c)| matches!(c, Command::Count(_))).count();
    }
    assert_eq!(asked, 2 * COUNTS_MAX, "on two cores");
    let refused = &bench.refusals_to(8)[0];
    assert_eq!(refused.cause(), wire::RefusalCause::Room);
    assert!(refused.reason.contains("64 counts of all sessions"), "{}", refused.reason);
    // The cores still count what a session that has ended has asked for.
    bench.close_of(1);
    bench.say_as(8, count(99, &["demo"]));
    assert!(bench.commands().is_empty());
    bench.messages_to(8);
    bench.now = bench.now + counts::ANSWER_WITHIN;
    bench.control.expire(bench.now);
    bench.say_as(8, count(99, &["demo"]));
    assert_eq!(bench.commands().len(), 2);
}
