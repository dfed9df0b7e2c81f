//! Waves that are planned anew for a newer ownership, and partitions that come and go meanwhile.

use super::*;

/// A core's complete report of a plan, as asked for when the wave is planned anew: everything
/// walked.
fn complete(wave: u64, plan: u64) -> CoreReport {
    CoreReport {
        wave: WaveId(wave),
        plan,
        all: true,
        bands_walked: vec![(LaneId(1), 3)],
        complete: true,
        ..CoreReport::default()
    }
}

fn tell(bench: &mut Bench, core: usize, report: CoreReport) {
    bench.control.event(core, Event::Report(Box::new(report)));
}

/// The newest report of the wave, if there was any: whether it is complete there.
fn is_complete(bench: &mut Bench) -> Option<bool> {
    bench.now = bench.now + 20 * MS;
    let reports = bench.messages().into_iter().filter_map(|m| match m {
        Wire::Report(report) => Some(report.complete),
        _ => None,
    });
    reports.last()
}

/// What cores are told of waves: core, plan, partitions.
fn plans(bench: &mut Bench) -> Vec<(usize, u64, Vec<u16>)> {
    let commands = bench.commands().into_iter().filter_map(|(core, command)| match command {
        Command::Wave(spec) => {
            let shards = spec.shards.iter().map(|shard| shard.partition.0).collect();
            Some((core, spec.plan, shards))
        }
        Command::Shard { plan, shard, .. } => Some((core, plan, vec![shard.partition.0])),
        _ => None,
    });
    commands.collect()
}

#[test]
fn a_wave_whose_partition_is_dropped_is_not_complete() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0, 1]));
    tell(&mut bench, 0, complete(1, 0));
    tell(&mut bench, 1, complete(1, 0));
    assert_eq!(is_complete(&mut bench), Some(true));
    bench.say(ownership(2, &[0, 2, 3]));
    assert_eq!(is_complete(&mut bench), Some(false));
    // Whatever the core said of it before.
    tell(&mut bench, 1, complete(1, 0));
    assert_eq!(is_complete(&mut bench), Some(false));
}

#[test]
fn the_same_epoch_with_a_newer_ownership_plans_the_wave_anew() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0, 1]));
    bench.outputs();
    // 1 goes and 4 comes, to the same core.
    bench.say(ownership(2, &[0, 2, 3, 4]));
    bench.outputs();
    bench.say(wave(1, 1, 2, &[0, 4]));
    assert_eq!(plans(&mut bench), [(0, 1, vec![0]), (1, 1, vec![4])]);
    assert!(bench.refusals().is_empty());
    // What was said of the former plan completes nothing.
    tell(&mut bench, 0, complete(1, 0));
    tell(&mut bench, 1, complete(1, 0));
    assert_eq!(is_complete(&mut bench), Some(false));
    tell(&mut bench, 0, complete(1, 1));
    tell(&mut bench, 1, complete(1, 1));
    assert_eq!(is_complete(&mut bench), Some(true));
    // The same again has no effect.
    bench.say(wave(1, 1, 2, &[0, 4]));
    assert_eq!(plans(&mut bench), []);
}

#[test]
fn a_core_without_partitions_of_the_new_plan_hears_of_it_and_of_the_end() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0, 1]));
    bench.say(ownership(2, &[0, 2, 3]));
    bench.outputs();
    bench.say(wave(1, 1, 2, &[0]));
    assert_eq!(plans(&mut bench), [(0, 1, vec![0]), (1, 1, vec![])]);
    tell(&mut bench, 0, complete(1, 1));
    assert_eq!(is_complete(&mut bench), Some(true), "the other core has no part");
    bench.outputs();
    bench.say(end(1, 1));
    assert!(matches!(bench.commands()[..], [(0, Command::End(_)), (1, Command::End(_))]));
}

#[test]
fn what_one_core_has_handed_another_core_that_gets_the_partition_is_told() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0, 1, 2, 3]));
    // 1 leaves core 1 and comes back to core 0, which has lost two meanwhile.
    bench.say(ownership(2, &[3]));
    bench.say(ownership(3, &[1, 3]));
    bench.outputs();
    bench.say(wave(1, 1, 3, &[1, 3]));
    assert_eq!(plans(&mut bench), [(0, 1, vec![]), (1, 1, vec![3])]);
    tell(&mut bench, 0, complete(1, 1));
    tell(&mut bench, 1, complete(1, 1));
    assert_eq!(is_complete(&mut bench), Some(false), "partition 1 waits");

    let let_go = vec![(PartitionId(1), RoaringBitmap::from_iter([5, 6]))];
    tell(&mut bench, 1, CoreReport { let_go, ..complete(1, 1) });
    let commands = bench.commands();
    let told = commands.iter().find_map(|(core, command)| match command {
        Command::Shard { plan, shard, .. } => Some((*core, *plan, shard.clone())),
        _ => None,
    });
    let (core, plan, shard) = told.expect("the farewell sets it off");
    assert_eq!((core, plan, shard.partition), (0, 2, PartitionId(1)));
    assert_eq!(shard.handed, RoaringBitmap::from_iter([1, 5, 6]), "with what the offer says");
    // Complete was said of the plan without it.
    tell(&mut bench, 0, complete(1, 1));
    assert_eq!(is_complete(&mut bench), Some(false));
    tell(&mut bench, 0, complete(1, 2));
    assert_eq!(is_complete(&mut bench), Some(true));
}
