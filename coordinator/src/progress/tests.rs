//! The arithmetic of boots by example, and that order, repeats and losses do not matter by
//! property.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{BEGUN, BOOT_1, BOOT_2, alert, node, seconds};

mod reasons;

const CELL: u64 = 0x8641_1ab4_ffff_ffff;

fn fold() -> Fold {
    let alert = alert();
    let timeline = Timeline::new(alert.created, BEGUN);
    Fold::new(alert.name, timeline, &alert.bands, &alert.apps, [node("a"), node("b")])
}

/// One band and one cell at once.
fn report(sequence: u64, band: u32, handed: u64, accepted: u64) -> wire::Report {
    wire::Report {
        sequence,
        bands: vec![wire::BandReport { band, handed, accepted, ..wire::BandReport::default() }],
        cells: vec![wire::CellReport { cell: CELL, handed, accepted, failed: 0 }],
        ..wire::Report::default()
    }
}

fn totals(fold: &mut Fold) -> (u64, u64, u64) {
    let snapshot = fold.snapshot(State::Active, None);
    (snapshot.totals.handed, snapshot.totals.of(Outcome::Accepted), snapshot.totals.open())
}

#[test]
fn nodes_and_bands_add_up() {
    let mut fold = fold();
    fold.report(&node("a"), BOOT_1, &report(1, 0, 10, 4), seconds(2));
    fold.report(&node("a"), BOOT_1, &report(2, 1, 5, 5), seconds(3));
    fold.report(&node("b"), BOOT_1, &report(1, 0, 7, 7), seconds(4));
    let snapshot = fold.snapshot(State::Active, None);
    assert_eq!(snapshot.bands.iter().map(|b| b.counts.handed).collect::<Vec<_>>(), [17, 5]);
    assert_eq!(
        (snapshot.totals.handed, snapshot.totals.of(Outcome::Accepted), snapshot.totals.open()),
        (22, 16, 6)
    );
    assert_eq!(snapshot.first_accepted_after, Some(Duration::from_secs(1)));
    assert_eq!(snapshot.last_accepted_after, Some(Duration::from_secs(3)));
}

#[test]
fn a_repeated_or_old_report_changes_nothing() {
    let mut fold = fold();
    fold.report(&node("a"), BOOT_1, &report(1, 0, 10, 4), seconds(2));
    fold.report(&node("a"), BOOT_1, &report(2, 0, 12, 9), seconds(3));
    let before = totals(&mut fold);
    assert_eq!(fold.report(&node("a"), BOOT_1, &report(1, 0, 10, 4), seconds(9)), Added::default());
    fold.report(&node("a"), BOOT_1, &report(2, 0, 12, 9), seconds(9));
    assert_eq!(totals(&mut fold), before);
    assert_eq!(
        fold.snapshot(State::Active, None).last_accepted_after,
        Some(Duration::from_secs(2))
    );
}

#[test]
fn answers_are_told_app_by_app_once() {
    let mut fold = fold();
    let mut added = |boot, answers: &[(u32, &str, u64, u64)]| {
        let lanes =
            answers.iter().map(|&(lane, app, accepted, bad_device_tokens)| wire::LaneAnswers {
                lane,
                app: app.to_owned(),
                accepted,
                bad_device_tokens,
                ..Default::default()
            });
        let report = wire::Report { lanes: lanes.collect(), ..wire::Report::default() };
        let added = fold.report(&node("a"), boot, &report, seconds(2)).answers;
        added
            .into_iter()
            .map(|((app, lane), new)| (lane.0, app.name(), new.accepted, new.bad))
            .collect::<Vec<_>>()
    };
    let (x, y) = ("apps/x", "apps/y");
    let told = |lane, app: &str, accepted, bad| (lane, app.to_owned(), accepted, bad);
    assert_eq!(
        added(BOOT_1, &[(1, x, 97, 3), (1, y, 0, 10), (2, "", 5, 5)]),
        [told(1, x, 97, 3), told(1, y, 0, 10)],
        "nobody knows whose the last ones are"
    );
    assert_eq!(added(BOOT_1, &[(1, x, 97, 3), (1, y, 1, 12)]), [told(1, y, 1, 2)]);
    assert_eq!(added(BOOT_1, &[(1, x, 90, 1)]), [], "an old one");
    assert_eq!(
        added(BOOT_2, &[(1, x, 4, 1)]),
        [told(1, x, 4, 1)],
        "another process counts from nothing"
    );
    assert_eq!(added(BOOT_1, &[(1, x, 500, 0)]), [], "a former one is not listened to");
}

#[test]
fn what_was_open_at_a_restart_is_counted_once_when_it_is_handed_again() {
    let mut fold = fold();
    fold.report(&node("a"), BOOT_1, &report(1, 0, 100, 90), seconds(2));
    assert_eq!(totals(&mut fold), (100, 90, 10));
    // The new process has 10 to hand again, and 20 more.
    fold.report(&node("a"), BOOT_2, &report(1, 0, 4, 0), seconds(3));
    assert_eq!(totals(&mut fold), (100, 90, 10), "still waiting for another try");
    fold.report(&node("a"), BOOT_2, &report(2, 0, 30, 30), seconds(4));
    assert_eq!(totals(&mut fold), (120, 120, 0));
    let cell = fold.snapshot(State::Active, None).cells[0];
    assert_eq!((cell.handed, cell.accepted), (120, 120));
}

#[test]
fn a_former_process_has_nothing_more_to_say() {
    let mut fold = fold();
    fold.report(&node("a"), BOOT_1, &report(1, 0, 10, 10), seconds(2));
    fold.report(&node("a"), BOOT_2, &report(1, 0, 1, 1), seconds(3));
    fold.report(&node("a"), BOOT_1, &report(2, 0, 50, 50), seconds(4));
    assert_eq!(totals(&mut fold), (11, 11, 0));
}

#[test]
fn at_the_end_nothing_is_open() {
    let mut fold = fold();
    fold.report(&node("a"), BOOT_1, &report(1, 0, 10, 7), seconds(2));
    fold.settle();
    fold.settle();
    fold.report(&node("a"), BOOT_1, &report(2, 0, 10, 10), seconds(3));
    let snapshot = fold.snapshot(State::Cancelled, Some(seconds(2)));
    assert_eq!((snapshot.totals.handed, snapshot.totals.open()), (10, 0));
    assert_eq!(snapshot.totals.of(Outcome::Unknown), 3, "sent, never answered");
    assert_eq!((snapshot.cells[0].accepted, snapshot.cells[0].failed), (7, 3));
}

#[test]
fn nodes_without_a_part_and_bands_that_are_none_are_left_out() {
    let mut fold = fold();
    fold.report(&node("c"), BOOT_1, &report(1, 0, 10, 7), seconds(2));
    fold.report(
        &node("a"),
        BOOT_1,
        &wire::Report { cells: Vec::new(), ..report(1, 9, 10, 7) },
        seconds(2),
    );
    assert_eq!(totals(&mut fold), (0, 0, 0));
}

#[test]
fn a_band_is_walked_when_every_node_has_walked_it() {
    let mut fold = fold();
    let walked = |bands_walked| wire::Report { bands_walked, ..wire::Report::default() };
    fold.report(&node("a"), BOOT_1, &walked(2), seconds(2));
    fold.report(&node("b"), BOOT_1, &walked(1), seconds(2));
    let snapshot = fold.snapshot(State::Active, None);
    assert_eq!(snapshot.bands.iter().map(|b| b.walked).collect::<Vec<_>>(), [true, false]);
    assert_eq!((snapshot.nodes_walked, snapshot.nodes), (1, 2));
}

#[test]
fn a_cell_knows_the_snapshot_that_changed_it() {
    let mut fold = fold();
    fold.report(&node("a"), BOOT_1, &report(1, 0, 1, 1), seconds(2));
    let first = fold.snapshot(State::Active, None);
    assert_eq!(first.cells[0].version, first.version);
    fold.report(
        &node("a"),
        BOOT_1,
        &wire::Report { cells: Vec::new(), ..report(2, 0, 2, 2) },
        seconds(3),
    );
    let second = fold.snapshot(State::Active, None);
    assert!(second.version > first.version && second.cells[0].version == first.version);
    fold.report(&node("b"), BOOT_1, &report(1, 0, 1, 1), seconds(4));
    let third = fold.snapshot(State::Active, None);
    assert_eq!((third.cells[0].version, third.cells[0].accepted), (third.version, 2));
}

#[test]
fn cells_have_a_limit() {
    let mut fold = fold();
    let cell = |cell| wire::CellReport { cell, handed: 1, accepted: 1, failed: 0 };
    let cells = (0..CELLS_MAX as u64 + 5).map(cell).collect();
    fold.report(&node("a"), BOOT_1, &wire::Report { cells, ..wire::Report::default() }, seconds(2));
    assert_eq!(fold.snapshot(State::Active, None).cells.len(), CELLS_MAX);
}

/// What a process does between two reports, for one of the two bands.
#[derive(Debug, Clone)]
struct Doing {
    band: usize,
    handed: u64,
    /// Shares of what is open then: accepted, refused.
    answered: (u64, u64),
}

fn doing() -> impl Strategy<Value = Doing> {
    (0usize..2, 0u64..20, (0u64..20, 0u64..3)).prop_map(|(band, handed, answered)| Doing {
        band,
        handed,
        answered,
    })
}

/// All reports of one process, each with the bands that changed, and a last one with everything.
fn reports(doings: &[Doing]) -> Vec<wire::Report> {
    let mut bands =
        [wire::BandReport::default(), wire::BandReport { band: 1, ..wire::BandReport::default() }];
    let mut reports = Vec::new();
    let report = |sequence: usize, bands: Vec<wire::BandReport>| {
        let cells = bands.iter().map(|b| wire::CellReport {
            cell: u64::from(b.band),
            handed: b.handed,
            accepted: b.accepted,
            failed: b.refused,
        });
        wire::Report {
            sequence: sequence as u64,
            cells: cells.collect(),
            bands,
            ..wire::Report::default()
        }
    };
    for (i, doing) in doings.iter().enumerate() {
        let band = &mut bands[doing.band];
        band.handed += doing.handed;
        let open = band.handed - band.accepted - band.refused;
        let accepted = doing.answered.0.min(open);
        band.accepted += accepted;
        band.refused += doing.answered.1.min(open - accepted);
        reports.push(report(i + 1, vec![*band]));
    }
    reports.push(report(doings.len() + 1, bands.to_vec()));
    reports
}

/// Reports of one process as they might arrive: any order, some twice, some never, and the last one
/// at last.
fn arrivals() -> impl Strategy<Value = Vec<wire::Report>> {
    (proptest::collection::vec(doing(), 0..12), any::<u64>()).prop_flat_map(|(doings, _)| {
        let all = reports(&doings);
        let last = all.last().cloned().unwrap();
        proptest::collection::vec(0..all.len(), 0..2 * all.len()).prop_map(move |order| {
            order.iter().map(|i| all[*i].clone()).chain([last.clone()]).collect()
        })
    })
}

proptest! {
    #[test]
    fn progress_only_grows_and_ends_where_the_last_reports_say(
        a in proptest::collection::vec(arrivals(), 1..4),
        b in proptest::collection::vec(arrivals(), 1..3),
        turns in proptest::collection::vec(any::<bool>(), 80),
    ) {
        let with_boot = |boots: &[Vec<wire::Report>]| -> Vec<(BootId, wire::Report)> {
            let of_boot = |(i, reports): (usize, &Vec<wire::Report>)| {
                let boot = BootId([u8::try_from(i).unwrap(); 16]);
                reports.iter().map(move |r| (boot, r.clone())).collect::<Vec<_>>()
            };
            boots.iter().enumerate().flat_map(of_boot).collect()
        };
        let mut queues = [("a", with_boot(&a)), ("b", with_boot(&b))].map(|(name, q)| (node(name), q.into_iter()));
        let mut fold = fold();
        let mut before = fold.snapshot(State::Active, None);
        for turn in turns.into_iter().chain([true, false].into_iter().cycle().take(200)) {
            let (name, queue) = &mut queues[usize::from(turn)];
            let Some((boot, report)) = queue.next() else { continue };
            fold.report(name, boot, &report, seconds(2));
            let now = fold.snapshot(State::Active, None);
            for (b, n) in before.bands.iter().zip(&now.bands) {
                prop_assert!(n.counts.handed >= b.counts.handed, "handed fell");
                prop_assert!(n.counts.outcomes.iter().zip(b.counts.outcomes).all(|(n, b)| *n >= b), "outcomes fell");
            }
            for cell in &before.cells {
                let next = now.cells.iter().find(|c| c.cell == cell.cell).unwrap();
                prop_assert!(next.handed >= cell.handed && next.accepted >= cell.accepted && next.failed >= cell.failed);
            }
            before = now;
        }
        // The last report of each process is its truth: outcomes of all, handed of the last one and
        // never less than seen.
        let lasts = |boots: &[Vec<wire::Report>]| boots.iter().map(|r| r.last().unwrap().clone()).collect::<Vec<_>>();
        for band in 0..2usize {
            let (mut accepted, mut refused, mut handed) = (0, 0, 0);
            for boots in [lasts(&a), lasts(&b)] {
                let (mut done, mut peak) = (0, 0);
                for last in boots {
                    let report = last.bands[band];
                    peak = peak.max(done + report.handed);
                    done += report.accepted + report.refused;
                    accepted += report.accepted;
                    refused += report.refused;
                }
                handed += peak;
            }
            let counts = before.bands[band].counts;
            prop_assert_eq!((counts.of(Outcome::Accepted), counts.of(Outcome::Refused)), (accepted, refused));
            prop_assert_eq!(counts.handed, handed);
            let cell = before.cells.iter().find(|c| c.cell == band as u64);
            prop_assert_eq!(cell.map_or(0, |c| c.handed), handed, "one cell a band in this test");
        }
        fold.settle();
        let end = fold.snapshot(State::Resolved, None);
        prop_assert_eq!(end.totals.open(), 0);
        prop_assert_eq!(end.totals.handed, before.totals.handed);
    }
}
