use proptest::prelude::*;

use super::*;
use crate::snapshot::Counts;

fn band(handed: u64) -> BandCounts {
    BandCounts {
        from_m: 0.0,
        to_m: 1.0,
        walked: true,
        counts: Counts { handed, outcomes: [handed, 0, 0, 0, 0] },
    }
}

fn leaf(n: u64) -> u64 {
    // Descendants of one base cell in resolution 6, in order.
    let base = CellIndex::base_cells().nth(20).expect("122 of them");
    base.child_at(n, Resolution::Six).expect("117,649 of them").into()
}

fn cell(n: u64, handed: u64) -> CellCounts {
    CellCounts { cell: leaf(n), handed, accepted: handed, failed: 0, version: n + 1 }
}

#[test]
fn few_are_told_as_few_and_never_alone() {
    use Told::{Exact, Few, Withheld};
    assert_eq!(Told::parts(&[100, 200]), [Exact(100), Exact(200)]);
    assert_eq!(Told::parts(&[3]), [Few]);
    assert_eq!(Told::parts(&[3, 4, 0]), [Few, Few, Few], "their total is not told either");
    assert_eq!(
        Told::parts(&[3, 200, 100]),
        [Few, Exact(200), Withheld],
        "the smallest other goes with it"
    );
    assert_eq!(
        Told::parts(&[3, 21, 22, 500]),
        [Few, Withheld, Withheld, Withheld],
        "until it may be any of 0 to 19"
    );
    assert_eq!(Told::parts(&[19, 19]), [Withheld, Withheld], "38 in two below 20 is 19 twice");
    assert_eq!(Told::parts(&[3, 20]), [Withheld, Withheld]);
}

#[test]
fn bands_are_joined_until_they_hold_enough() {
    let told = |handed: &[u64]| {
        let given: Vec<_> = handed.iter().map(|n| band(*n)).collect();
        bands(&given).iter().map(|b| b.counts.handed).collect::<Vec<_>>()
    };
    assert_eq!(told(&[30, 40]), [30, 40]);
    assert_eq!(told(&[5, 40, 50]), [45, 50]);
    assert_eq!(told(&[30, 40, 5, 0]), [30, 45]);
    assert_eq!(told(&[3, 4]), [7], "together all, however few");
    let mut open = [band(5), band(30)];
    (open[1].walked, open[1].to_m) = (false, 9.0);
    let told = bands(&open);
    assert_eq!((told[0].from_m, told[0].to_m, told[0].walked), (0.0, 9.0, false));
}

#[test]
fn cells_are_told_with_those_around_them_until_they_are_enough() {
    // 0 to 6 are the children of one cell of resolution 5, 7 to 13 of the next.
    let told = |given: &[CellCounts]| {
        let told = cells(given);
        let name = |c: &CellCounts| {
            let cell = CellIndex::try_from(c.cell).expect("a cell");
            (u8::from(cell.resolution()), c.handed)
        };
        told.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(told(&[cell(0, 20), cell(1, 30)]), [(6, 20), (6, 30)]);
    assert_eq!(
        told(&[cell(0, 25), cell(1, 19), cell(2, 1)]),
        [(5, 45), (6, 25)],
        "all that is in it, 20 untold"
    );
    assert_eq!(told(&[cell(0, 25), cell(1, 3)]), [(6, 25)], "3 are told nowhere");
    assert_eq!(told(&[cell(0, 25), cell(1, 3), cell(7, 17)]), [(4, 45), (6, 25)]);
    assert_eq!(cells(&[cell(0, 10), cell(6, 10)])[0].version, 7, "the newest of its parts");
    assert!(cells(&[CellCounts { cell: 5, ..cell(0, 10) }]).is_empty(), "no cell");
}

/// Every vector of parts that whoever reads `told` and the total must think possible: does a part
/// take all of 0..20?
fn can_be(told: &[Told], total: u64, part: usize, value: u64) -> bool {
    let (mut least, mut most) = (value, value);
    for (i, one) in told.iter().enumerate().filter(|(i, _)| *i != part) {
        let _ = i;
        let (low, high) = match one {
            Told::Exact(n) => (*n, *n),
            Told::Few => (0, TOLD_MIN - 1),
            Told::Withheld => (TOLD_MIN, u64::MAX / 64),
        };
        (least, most) = (least + low, most + high);
    }
    (least..=most).contains(&total)
}

proptest! {
    #[test]
    fn a_part_told_as_few_may_be_any_of_0_to_19(
        parts in proptest::collection::vec(prop_oneof![0_u64..25, 0_u64..200], 1..8)
    ) {
        let told = Told::parts(&parts);
        let total: u64 = parts.iter().sum();
        for (i, (told_one, &count)) in told.iter().zip(&parts).enumerate() {
            match told_one {
                Told::Exact(n) => prop_assert!(*n == count && count >= TOLD_MIN),
                Told::Few => {
                    prop_assert!(count < TOLD_MIN);
                    if total >= TOLD_MIN {
                        prop_assert!((0..TOLD_MIN).all(|value| can_be(&told, total, i, value)), "{parts:?} {told:?}");
                    }
                }
                Told::Withheld => prop_assert!(told.iter().filter(|t| **t != Told::Few).count() >= 1),
            }
        }
        // Never exactly one part untold.
        let untold = told.iter().filter(|t| !matches!(t, Told::Exact(_))).count();
        prop_assert!(untold != 1 || parts.len() == 1 || total < TOLD_MIN);
    }

    /// As a wave goes on: what is told of a cell only grows, what is told of it beyond finer cells
    /// is never below 20, and a cell of resolution 6 with enough is always told.
    #[test]
    fn told_cells_only_grow_and_no_difference_is_small(
        steps in proptest::collection::vec((0_u64..60, 1_u64..15), 1..120)
    ) {
        let mut given = std::collections::BTreeMap::<u64, CellCounts>::new();
        let mut seen = std::collections::BTreeMap::<u64, u64>::new();
        for (n, more) in steps {
            let one = given.entry(leaf(n)).or_insert_with(|| cell(n, 0));
            one.handed += more;
            let given: Vec<_> = given.values().copied().collect();
            let told = cells(&given);
            prop_assert!(given.iter().filter(|c| c.handed >= TOLD_MIN).all(|c| told.contains(c)));
            for one in &told {
                prop_assert!(seen.insert(one.cell, one.handed).is_none_or(|before| before <= one.handed));
                let at = CellIndex::try_from(one.cell).expect("a cell");
                let within = |c: &&CellCounts| {
                    let c = CellIndex::try_from(c.cell).expect("a cell");
                    c.resolution() > at.resolution() && c.parent(at.resolution()) == Some(at)
                };
                // Of those told within, the outermost hold the others.
                let finer: Vec<_> = told.iter().filter(within).collect();
                let outermost = finer.iter().filter(|c| {
                    let c = CellIndex::try_from(c.cell).expect("a cell");
                    !finer.iter().any(|o| {
                        let o = CellIndex::try_from(o.cell).expect("a cell");
                        o.resolution() < c.resolution() && c.parent(o.resolution()) == Some(o)
                    })
                });
                prop_assert!(one.handed - outermost.map(|c| c.handed).sum::<u64>() >= TOLD_MIN);
            }
        }
    }
}

#[test]
fn the_nearest_part_is_whole_bands_and_not_much_more_than_a_thousand_cells() {
    let of = |n: usize| {
        let base = CellIndex::try_from(leaf(0)).expect("a cell");
        let cells = base.children(Resolution::Nine).take(n).collect();
        Band { from_m: 0.0, to_m: 1.0, cells }
    };
    let plan = [of(300), of(343), of(343), of(343), of(1)];
    assert_eq!(nearest(&plan).len(), 4);
    assert_eq!(nearest(&plan[..1]).len(), 1);
}
