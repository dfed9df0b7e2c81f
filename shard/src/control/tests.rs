//! The control plane with hand-driven time: what is said to it stands first, what it does and
//! answers below.

mod fence;
mod lanes;
mod outbox;
mod owned;
mod platforms;
mod replan;
mod several;
mod take_over;
mod support;

use std::time::Duration;

use clarion_proto::{
    ids::{Epoch, LaneId, PartitionId, Position, WaveId},
    wire::shard_v1::{self as wire, session_response::Message as Wire},
};
use roaring::RoaringBitmap;
use support::{Bench, id, lane, ownership, wave};

use super::{outbound::never_written, *};
use crate::{
    command::{CoreReport, HeldStats},
    lane::rate::Rate,
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Two cores, partitions 0 to 3 (0 and 2 on core 0), lane 1, and an open session whose start has
/// been read.
fn running() -> Bench {
    let mut bench = Bench::new(2);
    bench.open();
    bench.say(ownership(1, &[0, 1, 2, 3]));
    bench.say(lane(1));
    bench.list_nothing();
    bench.outputs();
    bench.messages();
    bench
}

/// A grant for a wave under epoch 1.
fn grant(nonce: u64, wave: u64, rate_millis_per_second: u64) -> wire::session_request::Message {
    let waves = vec![wire::WaveGrant { wave, rate_millis_per_second, epoch: 1 }];
    wire::session_request::Message::Grant(wire::Grant { nonce, lease_ms: 5_000, waves })
}

fn cancel(wave: u64, epoch: u64) -> wire::session_request::Message {
    wire::session_request::Message::Cancel(wire::Cancel { wave, epoch })
}

fn end(wave: u64, epoch: u64) -> wire::session_request::Message {
    wire::session_request::Message::End(wire::End { wave, epoch })
}

fn report(wave: u64, bands_walked: u32) -> Event {
    let bands_walked = vec![(LaneId(1), bands_walked)];
    Event::Report(Box::new(CoreReport {
        wave: WaveId(wave),
        bands_walked,
        ..CoreReport::default()
    }))
}

#[test]
fn a_session_starts_with_hello_and_goes_on_with_everything() {
    let mut bench = Bench::new(2);
    bench.open();
    let Some(Wire::Hello(hello)) = bench.message() else { panic!() };
    assert_eq!((hello.node.as_str(), hello.cores, hello.boot_id.len()), ("node-1", 2, 16));
    assert!(hello.positions.is_empty());
    assert!(matches!(bench.message(), Some(Wire::RegistryState(_))));
    assert_eq!(bench.message(), None, "nothing to ask leave for");
    assert!(matches!(bench.commands()[..], [(0, Command::ReportAll), (1, Command::ReportAll)]));

    bench.say(ownership(7, &[3, 1, 2, 0]));
    let outputs = bench.outputs();
    assert!(matches!(outputs.first(), Some(Output::Unfollow)));
    let Some(Output::Follow { assignment, followed, .. }) = outputs.last() else {
        panic!("{outputs:?}")
    };
    let ownership = assignment.owned();
    assert_eq!((ownership.number, ownership.partitions.len(), followed.len()), (7, 4, 0));
    let listed = outputs.iter().find_map(|o| match o {
        Output::List(list) => Some(list.partitions.clone()),
        _ => None,
    });
    assert_eq!(listed, Some([0, 1, 2, 3].map(PartitionId).to_vec()));
    let owned = |core: usize| {
        let mut of_core = outputs.iter().filter_map(move |o| match o {
            Output::Command { core: c, command: Command::Own(owns) } if *c == core => {
                Some(owns.partitions.clone())
            }
            _ => None,
        });
        of_core.next_back().unwrap()
    };
    assert_eq!(owned(0), [PartitionId(0), PartitionId(2)]);
    assert_eq!(owned(1), [PartitionId(1), PartitionId(3)]);

    // The next session is told how far the logs are applied on every core that follows them.
    let held = |partitions: &[u16]| HeldStats {
        owns: 1,
        positions: partitions
            .iter()
            .map(|p| (PartitionId(*p), Position(u64::from(*p) + 10)))
            .collect(),
        ..HeldStats::default()
    };
    bench.control.event(0, Event::Held(held(&[0, 2])));
    bench.control.event(1, Event::Held(held(&[1, 3])));
    bench.open();
    let Some(Wire::Hello(hello)) = bench.message() else { panic!() };
    let positions: Vec<_> = hello.positions.iter().map(|p| (p.log, p.position)).collect();
    assert_eq!(positions, [(0, 10), (1, 11), (2, 12), (3, 13)]);
}

#[test]
fn what_a_new_session_repeats_is_taken_without_effect() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0, 1]));
    bench.outputs();
    bench.open();
    bench.say(ownership(1, &[0, 1, 2, 3]));
    bench.say(lane(1));
    bench.say(wave(1, 1, 1, &[0, 1]));
    assert!(
        bench.commands().iter().all(|(_, c)| matches!(c, Command::ReportAll)),
        "no walk and no connection begins again"
    );
    assert!(bench.refusals().is_empty());
}

#[test]
fn a_wave_becomes_one_part_for_each_core_that_has_partitions_of_it() {
    let mut bench = running();
    bench.say(wave(9, 4, 1, &[0, 1, 2]));
    let commands = bench.commands();
    let [(0, Command::Wave(first)), (1, Command::Wave(second))] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(first.shards.iter().map(|s| s.partition.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(second.shards.iter().map(|s| s.partition.0).collect::<Vec<_>>(), [1]);
    assert_eq!(first.shards[1].start, Position(12));
    assert_eq!(first.shards[1].handed, RoaringBitmap::from_iter([2]));
    assert!(std::sync::Arc::ptr_eq(&first.cover, &second.cover));
    assert_eq!((first.epoch, first.expires), (Epoch(4), bench.now + 60 * SECOND));
}

#[test]
fn a_wave_that_cannot_be_taken_is_refused_and_the_session_goes_on() {
    let mut bench = running();
    bench.say(wave(9, 4, 1, &[0]));
    bench.outputs();
    for (message, part) in [
        (wave(9, 3, 1, &[0]), "wave.epoch: is 3, but epoch 4 is obeyed"),
        (wave(8, 1, 2, &[0]), "wave.ownership: is 2, this node holds 1"),
        (wave(8, 1, 1, &[7]), "wave.shards: name partition 7"),
        (support::wave_through(8, 77), "wave.apps[0].lane: no lane 77"),
        (support::wave_without_messages(8), "wave.apps[0].messages: must be 1 to 64; got 0"),
        (end(9, 3), "end.epoch: is 3, but epoch 4 is obeyed"),
    ] {
        bench.say(message);
        let refusals = bench.refusals();
        assert_eq!(refusals.len(), 1, "{part}");
        assert!(refusals[0].reason.contains(part), "{}", refusals[0].reason);
        assert!([8, 9].contains(&refusals[0].wave));
        assert!(bench.outputs().is_empty(), "a refused message changes nothing");
    }
    bench.say(wave(8, 1, 1, &[0]));
    assert!(matches!(bench.commands()[..], [(0, Command::Wave(_)), ..]));
}

#[test]
fn refusals_are_bounded_and_the_rest_is_counted() {
    let mut bench = running();
    for _ in 0..REFUSALS_MAX + 3 {
        bench.say(wave(8, 1, 2, &[0]));
    }
    let refusals = bench.refusals();
    assert_eq!(refusals.len(), REFUSALS_MAX);
    assert!(refusals.last().unwrap().reason.ends_with("(and 3 more that were not kept)"));
}

#[test]
fn leave_runs_from_the_asking_and_is_divided() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0, 1]));
    bench.outputs();
    let asked = bench.now;
    let Some(Wire::LeaseRequest(ask)) = bench.message() else {
        panic!("a new wave is asked for at once")
    };
    assert_eq!((ask.waves, ask.lanes), (vec![1], vec![1]));

    bench.now = asked + 3 * SECOND;
    bench.say(grant(ask.nonce, 1, 100_000));
    let rate = Some(Rate { per_second: 50.0, burst: 5.0 });
    for (_, command) in bench.commands() {
        let Command::Grant { wave, until, rate: r } = command else { panic!() };
        assert_eq!((wave, until, r), (WaveId(1), asked + 5 * SECOND, rate));
    }
    // The same answer again, after its lease has run out: worth nothing.
    bench.now = asked + 5 * SECOND;
    bench.say(grant(ask.nonce, 1, 0));
    assert!(bench.commands().is_empty());
    assert!(bench.refusals().is_empty(), "a late answer is nobody's mistake");
}

#[test]
fn without_a_session_nobody_asks_and_leave_runs_out() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0]));
    let Some(Wire::LeaseRequest(ask)) = bench.message() else { panic!() };
    bench.outputs();
    bench.close_of(1);
    assert_eq!(bench.control.message_due(id(1), bench.now), None);
    // An answer that was on its way still names a nonce of the session that is gone.
    bench.open();
    bench.outputs();
    bench.say(grant(ask.nonce, 1, 0));
    assert!(bench.commands().is_empty());
    // The new session asks again, under another nonce.
    let asks = bench.messages().into_iter().filter_map(|m| match m {
        Wire::LeaseRequest(ask) => Some(ask),
        _ => None,
    });
    let asks: Vec<_> = asks.collect();
    assert_eq!(asks.len(), 1);
    assert!(asks[0].nonce > ask.nonce);
    assert_eq!(asks[0].waves, [1]);
}

#[test]
fn asking_goes_on_every_half_second() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0]));
    let mut asks = 0;
    for _ in 0..100 {
        asks += bench.messages().iter().filter(|m| matches!(m, Wire::LeaseRequest(_))).count();
        bench.now = bench.now + 50 * MS;
    }
    assert_eq!(asks, 10, "once at the start and then in 5 s");
}

#[test]
fn no_core_begins_a_band_before_all_have_walked_the_former() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0, 1]));
    bench.outputs();
    let opened = |bench: &mut Bench| {
        let opened = bench.commands().into_iter().map(|(core, c)| match c {
            Command::OpenBands { bands, .. } => (core, bands),
            other => panic!("{other:?}"),
        });
        opened.collect::<Vec<_>>()
    };
    bench.control.event(0, report(1, 1));
    assert_eq!(opened(&mut bench), []);
    bench.control.event(1, report(1, 1));
    assert_eq!(opened(&mut bench), [(0, 2), (1, 2)]);
    bench.control.event(1, report(1, 2));
    bench.control.event(0, report(1, 2));
    assert_eq!(opened(&mut bench), [(0, 3), (1, 3)]);
    // All three bands are open: nothing is left to open.
    bench.control.event(0, report(1, 3));
    bench.control.event(1, report(1, 3));
    assert_eq!(opened(&mut bench), []);
}

#[test]
fn a_cancel_is_confirmed_when_all_cores_have_stopped() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0, 1]));
    bench.messages();
    bench.outputs();
    bench.say(cancel(1, 2));
    let commands = bench.commands();
    assert!(matches!(
        commands[..],
        [(0, Command::Cancel { epoch: Epoch(2), .. }), (1, Command::Cancel { .. })]
    ));
    let stopped =
        |last_write, written_after| Event::Stopped { wave: WaveId(1), last_write, written_after };
    bench.control.event(0, stopped(Some(bench.now - 30 * MS), 2));
    assert!(!bench.messages().iter().any(|m| matches!(m, Wire::Stopped(_))));
    bench.control.event(1, stopped(Some(bench.now - 40 * MS), 3));
    bench.now = bench.now + 5 * MS;
    let expected =
        wire::Stopped { wave: 1, last_write_ago_us: Some(35_000), written_after_cancel: 5 };
    assert_eq!(bench.message(), Some(Wire::Stopped(expected)));

    // No leave for it any more, neither asked nor passed on.
    bench.now = bench.now + SECOND;
    let asks = bench.messages().into_iter().filter_map(|m| match m {
        Wire::LeaseRequest(ask) => Some(ask),
        _ => None,
    });
    let asks: Vec<_> = asks.collect();
    assert!(asks.last().unwrap().waves.is_empty());
    bench.say(grant(asks.last().unwrap().nonce, 1, 0));
    // Nor can the superseded coordinator bring it back.
    bench.say(wave(1, 1, 1, &[0, 1]));
    assert!(bench.commands().is_empty());
    assert!(bench.refusals()[0].reason.contains("epoch 2 has ended the wave"));
    // Asked again, answered again.
    bench.say(cancel(1, 2));
    assert!(
        bench
            .messages()
            .iter()
            .any(|m| matches!(m, Wire::Stopped(s) if s.written_after_cancel == 5))
    );
}

#[test]
fn a_cancel_of_an_unknown_wave_is_confirmed_and_remembered() {
    let mut bench = running();
    bench.say(cancel(5, 3));
    let expected = wire::Stopped { wave: 5, last_write_ago_us: None, written_after_cancel: 0 };
    assert_eq!(bench.message(), Some(Wire::Stopped(expected)));
    bench.say(wave(5, 3, 1, &[0]));
    assert_eq!(bench.refusals()[0].wave, 5);
    bench.say(wave(5, 4, 1, &[0]));
    assert!(bench.commands().is_empty(), "a cancel is final under any epoch");
    assert!(bench.refusals()[0].reason.contains("a cancel under epoch 3 has ended the wave"));
}

#[test]
fn the_newest_cancels_are_remembered_whatever_their_ids() {
    let mut bench = running();
    // Ids are random; these come in falling order, and more of them than are kept.
    for id in (1..=2_000).rev() {
        bench.say(cancel(id, 3));
        bench.messages();
    }
    bench.say(wave(1, 3, 1, &[0]));
    assert_eq!(bench.refusals()[0].wave, 1, "the newest");
    bench.say(wave(2_000, 3, 1, &[0]));
    assert!(matches!(bench.commands()[..], [(0, Command::Wave(_)), ..]), "the oldest is forgotten");
}

#[test]
fn reports_come_every_20_ms_and_merge_while_nobody_reads() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0]));
    bench.messages();
    let handed = |ordinal: u32, total| {
        let counts = crate::command::Counts { handed: total, ..Default::default() };
        let handed = vec![(PartitionId(0), RoaringBitmap::from_iter([ordinal]))];
        let report = CoreReport {
            wave: WaveId(1),
            bands: vec![(0, counts)],
            handed,
            ..CoreReport::default()
        };
        Event::Report(Box::new(report))
    };
    let start = bench.now;
    for i in 0..100_u32 {
        bench.control.event(0, handed(i, u64::from(i) + 1));
    }
    assert_eq!(bench.control.message_due(id(1), bench.now), Some(start + 20 * MS));
    bench.now = start + 20 * MS;
    let reports = bench.messages().into_iter().filter_map(|m| match m {
        Wire::Report(r) => Some(r),
        _ => None,
    });
    let reports: Vec<_> = reports.collect();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].bands[0].handed, 100);
    let set = RoaringBitmap::deserialize_from(reports[0].handed[0].ordinals.as_ref()).unwrap();
    assert_eq!(set, RoaringBitmap::from_iter(0..100));
}

#[test]
fn a_wave_is_let_go_of_after_its_last_report() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0]));
    bench.outputs();
    bench.say(end(1, 1));
    assert!(matches!(bench.commands()[..], [(0, Command::End(WaveId(1)))]));
    let ended = CoreReport {
        wave: WaveId(1),
        ended: true,
        complete: true,
        bands_walked: vec![(LaneId(1), 3)],
        ..CoreReport::default()
    };
    bench.control.event(0, Event::Report(Box::new(ended)));
    bench.control.expire(bench.now);
    bench.now = bench.now + 20 * MS;
    assert!(bench.messages().iter().any(|m| matches!(m, Wire::Report(r) if r.ended)));
    bench.control.expire(bench.now);
    bench.say(cancel(1, 1));
    let answer = bench.messages().into_iter().find(|m| matches!(m, Wire::Stopped(_)));
    assert_eq!(answer, Some(Wire::Stopped(never_written(WaveId(1)))), "it is unknown by now");
}

#[test]
fn counts_are_summed_over_cores() {
    let mut bench = running();
    bench.say(support::count(6, &["demo", "other"]));
    let commands = bench.commands();
    let [(0, Command::Count(spec)), (1, Command::Count(_))] = &commands[..] else {
        panic!("{commands:?}")
    };
    let id = spec.id;
    let counted = |devices, left_out_for_age| Event::Counted { id, devices, left_out_for_age };
    bench.control.event(0, counted(vec![vec![1, 2, 3], vec![4, 5, 6]], 7));
    bench.control.event(0, counted(vec![vec![9, 9, 9], vec![9, 9, 9]], 9));
    assert!(!bench.messages().iter().any(|m| matches!(m, Wire::Counted(_))));
    bench.control.event(1, counted(vec![vec![10, 0, 0], vec![0, 0, 10]], 30));
    let apps = vec![
        wire::AppCounted { devices: vec![11, 2, 3] },
        wire::AppCounted { devices: vec![4, 5, 16] },
    ];
    let counted = wire::Counted { id: 6, apps, left_out_for_age: 37 };
    assert_eq!(bench.message(), Some(Wire::Counted(counted)));
}

#[test]
fn a_node_that_goes_down_takes_no_wave_and_asks_for_nothing() {
    let mut bench = running();
    bench.control.drain();
    let outputs = bench.outputs();
    assert!(matches!(outputs[0], Output::Unfollow));
    assert_eq!(
        outputs
            .iter()
            .filter(|o| matches!(o, Output::Command { command: Command::Shutdown, .. }))
            .count(),
        2
    );
    bench.say(wave(1, 1, 1, &[0]));
    assert!(bench.refusals()[0].reason.contains("before the node shuts down"));
    bench.now = bench.now + 10 * SECOND;
    assert!(!bench.messages().iter().any(|m| matches!(m, Wire::LeaseRequest(_))));
}
