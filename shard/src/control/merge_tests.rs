use clarion_proto::{
    ids::{AppName, DeviceId, LaneId},
    outcome::Outcome,
};
use proptest::prelude::*;

use super::*;

const BANDS: u32 = 4;

fn merge_of(cores: impl IntoIterator<Item = usize>) -> Merge {
    let mut merge = Merge::default();
    merge.set_cores(cores, 0);
    merge
}

/// What one core did between two of its reports.
#[derive(Debug, Clone)]
struct Step {
    core: usize,
    handed: Vec<(u32, u32)>,
    outcomes: Vec<(u32, usize)>,
    open: Vec<u32>,
    dead: bool,
    send: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        0..3_usize,
        prop::collection::vec((0..BANDS, 0..500_u32), 0..8),
        prop::collection::vec((0..BANDS, 0..5_usize), 0..8),
        prop::collection::vec(0..500_u32, 0..3),
        any::<bool>(),
        any::<bool>(),
    );
    let step = step.prop_map(|(core, handed, outcomes, open, dead, send)| Step {
        core,
        handed,
        outcomes,
        open,
        dead,
        send,
    });
    prop::collection::vec(step, 1..40)
}

fn partition(core: usize) -> PartitionId {
    PartitionId(u16::try_from(core).unwrap())
}

fn set(ordinals: &wire::OrdinalSet) -> (u32, RoaringBitmap) {
    (ordinals.partition, RoaringBitmap::deserialize_from(ordinals.ordinals.as_ref()).unwrap())
}

fn app() -> AppName {
    AppName::from_id("demo").unwrap()
}

fn token_called_dead(token_hash: u64) -> DeadToken {
    DeadToken {
        app: app(),
        needs_evidence: false,
        lane: LaneId(1),
        device: DeviceId([0; 16]),
        token_hash,
        gateway_time: None,
    }
}

proptest! {
    /// Whenever a coordinator reads, and however many core reports were folded into one: the last
    /// totals are the sums of what the cores counted, the union of the sets is what they handed
    /// over, the last open list is what they hold.
    #[test]
    fn however_it_is_folded_the_reader_sees_the_sum(steps in steps()) {
        let mut merge = merge_of(0..3);
        let mut totals = vec![BTreeMap::<u32, Counts>::new(); 3];
        let mut handed = BTreeMap::<u32, RoaringBitmap>::new();
        let mut open = handed.clone();
        let mut dead = 0;
        let mut read: Vec<wire::Report> = Vec::new();
        for step in &steps {
            let mut report = CoreReport { wave: WaveId(1), ..CoreReport::default() };
            let counts = &mut totals[step.core];
            let set = RoaringBitmap::from_iter(step.handed.iter().map(|(_, o)| *o));
            for (band, _) in &step.handed {
                counts.entry(*band).or_default().handed += 1;
            }
            for (band, outcome) in &step.outcomes {
                counts.entry(*band).or_default().count(Outcome::ALL[*outcome]);
            }
            let changed = step.handed.iter().map(|(b, _)| *b);
            let changed = changed.chain(step.outcomes.iter().map(|(b, _)| *b));
            let changed = changed.collect::<BTreeSet<_>>().into_iter();
            report.bands = changed.map(|b| (b, counts[&b])).collect();
            report.cells = report.bands.iter().map(|(b, c)| (u64::from(*b), *c)).collect();
            let number = u32::try_from(step.core).unwrap();
            *handed.entry(number).or_default() |= &set;
            report.handed = vec![(partition(step.core), set)];
            let now_open = RoaringBitmap::from_iter(step.open.iter().copied());
            open.insert(number, now_open.clone());
            report.open = vec![(partition(step.core), now_open)];
            if step.dead {
                dead += 1;
                report.dead = vec![token_called_dead(dead)];
            }
            merge.add(step.core, report);
            if step.send {
                read.push(merge.take(WaveId(1), Epoch(1), BANDS, true));
            }
        }
        read.push(merge.take(WaveId(1), Epoch(1), BANDS, true));

        let (mut bands, mut cells) = (BTreeMap::new(), BTreeMap::new());
        let mut seen = BTreeMap::<u32, RoaringBitmap>::new();
        let (mut seen_open, mut seen_dead) = (BTreeMap::new(), Vec::new());
        for (i, report) in read.iter().enumerate() {
            prop_assert_eq!(report.sequence, i as u64 + 1);
            bands.extend(report.bands.iter().map(|b| (b.band, *b)));
            cells.extend(report.cells.iter().map(|c| (c.cell, *c)));
            for (partition, ordinals) in report.handed.iter().map(set) {
                *seen.entry(partition).or_default() |= ordinals;
            }
            seen_open.extend(report.open.iter().map(set));
            seen_dead.extend(report.dead.iter().map(|d| d.token_hash));
        }
        for b in 0..BANDS {
            let mut sum = Counts::default();
            totals.iter().filter_map(|t| t.get(&b)).for_each(|c| sum.add(c));
            if sum != Counts::default() {
                prop_assert_eq!(&bands[&b], &band(b, &sum));
                prop_assert_eq!(&cells[&u64::from(b)], &cell(u64::from(b), &sum));
            }
        }
        seen_open.retain(|_, set: &mut RoaringBitmap| !set.is_empty());
        open.retain(|_, set| !set.is_empty());
        seen.retain(|_, set| !set.is_empty());
        handed.retain(|_, set| !set.is_empty());
        prop_assert_eq!(seen_open, open);
        prop_assert_eq!(seen, handed);
        prop_assert_eq!(seen_dead, (1..=dead).collect::<Vec<_>>());
    }
}

#[test]
fn a_node_is_as_far_as_its_last_core() {
    let mut merge = merge_of([0, 2]);
    let report = |bands, complete, ended| {
        let bands_walked = vec![(LaneId(1), bands), (LaneId(2), 4)];
        CoreReport { bands_walked, complete, ended, ..CoreReport::default() }
    };
    merge.add(0, report(3, true, true));
    assert_eq!(
        (merge.bands_walked(BANDS), merge.is_complete(), merge.is_ended()),
        (0, false, false)
    );
    merge.add(2, report(2, true, false));
    assert_eq!(
        (merge.bands_walked(BANDS), merge.is_complete(), merge.is_ended()),
        (2, true, false)
    );
    merge.add(2, report(4, true, true));
    assert_eq!((merge.bands_walked(BANDS), merge.is_complete(), merge.is_ended()), (3, true, true));
    assert_eq!([1, 2, 3].map(|lane| merge.lane_bands_walked(LaneId(lane), BANDS)), [3, 4, 0]);
}

#[test]
fn a_new_session_is_told_nothing_before_all_cores_have_said_everything() {
    let mut merge = merge_of([0, 1]);
    let report = |all, ordinal: u32| CoreReport {
        all,
        bands: vec![(0, Counts { handed: 1, ..Counts::default() })],
        handed: vec![(PartitionId(0), RoaringBitmap::from_iter([ordinal]))],
        ..CoreReport::default()
    };
    merge.add(0, report(false, 1));
    assert!(merge.is_due());
    merge.take(WaveId(1), Epoch(1), BANDS, true);

    merge.start_over();
    // On its way before the core heard of the new session.
    merge.add(0, report(false, 2));
    merge.add(1, report(true, 3));
    assert!(!merge.is_due());
    merge.add(0, report(true, 1));
    assert!(merge.is_due());
    let first = merge.take(WaveId(1), Epoch(1), BANDS, true);
    assert_eq!((first.sequence, first.bands.len(), first.bands[0].handed), (2, 1, 2));
    assert_eq!(set(&first.handed[0]), (0, RoaringBitmap::from_iter([1, 2, 3])));
}

#[test]
fn an_open_list_that_empties_is_told_once() {
    let mut merge = merge_of([0]);
    let open = |ordinals: &[u32]| CoreReport {
        open: vec![(PartitionId(7), RoaringBitmap::from_iter(ordinals.iter().copied()))],
        ..CoreReport::default()
    };
    merge.add(0, open(&[5]));
    assert_eq!(merge.take(WaveId(1), Epoch(1), BANDS, true).open.len(), 1);
    merge.add(0, CoreReport::default());
    assert_eq!(
        merge.take(WaveId(1), Epoch(1), BANDS, true).open.len(),
        1,
        "still open, though its core had nothing new"
    );
    merge.add(0, open(&[]));
    assert_eq!(
        merge.take(WaveId(1), Epoch(1), BANDS, true).open.iter().map(set).collect::<Vec<_>>(),
        [(7, RoaringBitmap::new())]
    );
    merge.add(0, CoreReport::default());
    assert!(merge.take(WaveId(1), Epoch(1), BANDS, true).open.is_empty());
}

#[test]
fn dead_tokens_wait_within_a_bound_and_go_out_in_portions() {
    let mut merge = merge_of([0]);
    let token = token_called_dead(0);
    merge.add(0, CoreReport { dead: vec![token; DEAD_MAX + 5], ..CoreReport::default() });
    assert_eq!(merge.take_dead_dropped(), 5);
    let mut told = 0;
    while merge.is_due() {
        let portion = merge.take(WaveId(1), Epoch(1), BANDS, true).dead.len();
        assert!(portion <= DEAD_PER_REPORT);
        told += portion;
    }
    assert_eq!(told, DEAD_MAX);
}

#[test]
fn what_lanes_were_answered_is_summed_over_cores_and_not_over_reports() {
    let mut merge = merge_of([0, 1]);
    let report = |lane, all, dead| {
        let outcomes = [all - dead, dead, 0, 0, 0];
        let answers = Answers { outcomes, bad_device_tokens: dead };
        let answers = vec![(LaneId(lane), app(), answers), (LaneId(9), app(), Answers::default())];
        CoreReport { wave: WaveId(1), answers, ..CoreReport::default() }
    };
    merge.add(0, report(1, 10, 1));
    merge.add(0, report(1, 12, 2));
    merge.add(0, report(2, 5, 5));
    merge.add(1, report(1, 100, 0));
    let lanes = merge.take(WaveId(1), Epoch(1), 1, true).lanes;
    assert!(lanes.iter().all(|l| l.app == "apps/demo"
        && l.answers == l.accepted + l.dead
        && l.bad_device_tokens == l.dead));
    let lanes: Vec<_> = lanes.iter().map(|l| (l.lane, l.answers, l.dead)).collect();
    assert_eq!(lanes, [(1, 112, 2), (2, 5, 5)], "a lane without an answer is not named");
}

#[test]
fn reasons_are_summed_over_cores_told_when_they_change_and_bounded() {
    let mut merge = merge_of([0, 1]);
    let kind = |status| ReasonKind {
        then: Consequence::Retried,
        app: Some((app(), LaneId(1))),
        status,
        reason: String::new(),
    };
    let report = |counts: &[(u16, u64)]| CoreReport {
        wave: WaveId(1),
        reasons: counts
            .iter()
            .map(|(status, count)| ReasonCount { kind: kind(*status), count: *count })
            .collect(),
        ..CoreReport::default()
    };
    let told = |merge: &mut Merge| {
        let told = merge.take(WaveId(1), Epoch(1), 1, true).reasons;
        told.into_iter().map(|r| (r.status, r.reason, r.count)).collect::<Vec<_>>()
    };
    merge.add(0, report(&[(404, 3)]));
    merge.add(1, report(&[(302, 1), (404, 2)]));
    assert_eq!(told(&mut merge), [(302, String::new(), 1), (404, String::new(), 5)]);
    merge.add(0, CoreReport::default());
    assert_eq!(told(&mut merge), [], "nothing new");
    merge.start_over();
    assert_eq!(told(&mut merge).len(), 2, "a new session is told all");
    let many: Vec<_> = (300..400).map(|status| (status, u64::from(status))).collect();
    merge.add(0, report(&many));
    let told = told(&mut merge);
    assert_eq!(
        (told.len(), told.iter().map(|(.., count)| count).sum::<u64>()),
        (62, (300..400).sum::<u64>() + 3)
    );
    assert!(
        told.iter().any(|(status, reason, _)| *status == 0 && reason == "other"),
        "the rarest are folded"
    );
}
