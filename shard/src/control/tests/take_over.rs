//! A wave that another coordinator, or another ownership, plans anew.

use clarion_proto::{
    ids::{PartitionId, WaveId},
    wire::shard_v1::session_response::Message as Wire,
};
use roaring::RoaringBitmap;

use super::{super::*, MS, running, support::wave};
use crate::command::CoreReport;

fn core_report(all: bool, handed: &[u32]) -> Event {
    let handed = vec![(PartitionId(0), RoaringBitmap::from_iter(handed.iter().copied()))];
    Event::Report(Box::new(CoreReport { wave: WaveId(1), all, handed, ..CoreReport::default() }))
}

#[test]
fn a_wave_that_is_planned_anew_is_reported_from_the_beginning() {
    let mut bench = running();
    bench.say(wave(1, 1, 1, &[0, 1]));
    bench.control.event(0, core_report(false, &[1, 2]));
    let reports = |bench: &mut super::support::Bench| {
        bench.now = bench.now + 100 * MS;
        let reports = bench.messages().into_iter().filter_map(|m| match m {
            Wire::Report(report) => Some(report),
            _ => None,
        });
        reports.collect::<Vec<_>>()
    };
    // Whoever heard this did not know the wave.
    let first = reports(&mut bench);
    assert_eq!((first.len(), first[0].epoch, first[0].handed.len()), (1, 1, 1));
    bench.outputs();

    bench.say(wave(1, 2, 1, &[0, 1]));
    let commands = bench.commands();
    let planned = |c: &Command| matches!(c, Command::Wave(_));
    assert!(commands[..2].iter().all(|(_, c)| planned(c)), "{commands:?}");
    let asked = |(_, c): &(usize, Command)| matches!(c, Command::ReportAll);
    assert!(commands.len() == 4 && commands[2..].iter().all(asked), "{commands:?}");
    bench.control.event(0, core_report(true, &[1, 2, 3]));
    assert_eq!(reports(&mut bench), [], "until every core has said everything");
    bench.control.event(1, core_report(true, &[]));
    let second = reports(&mut bench);
    assert_eq!((second.len(), second[0].epoch), (1, 2));
    let handed = RoaringBitmap::deserialize_from(&second[0].handed[0].ordinals[..]).unwrap();
    assert_eq!(handed.iter().collect::<Vec<_>>(), [1, 2, 3]);
    // The same plan again changes nothing.
    bench.say(wave(1, 2, 1, &[0, 1]));
    assert!(bench.commands().is_empty());
}
