//! Verdicts do not depend on how a ring is written, and agree with plain arithmetic.

use proptest::prelude::*;

use super::polygons::{holds, part, parts};

type Points = Vec<(i32, i32)>;

/// Rings on a coarse grid: of corners, or of points at random.
fn ring() -> impl Strategy<Value = Points> {
    prop_oneof![
        prop::collection::vec((0..8_i32, 0..8_i32), 3..8),
        (0..6_i32, 0..6_i32, 1..5_i32, 1..5_i32).prop_map(|(x, y, w, h)| vec![
            (x, y),
            (x + w, y),
            (x + w, y + h),
            (x, y + h)
        ]),
    ]
}

fn degrees(points: &[(i32, i32)], shift: f64) -> Vec<(f64, f64)> {
    points.iter().map(|&(x, y)| (f64::from(x) + shift, f64::from(y))).collect()
}

/// Winding number of a ring around a point that is on none of its edges, by plain arithmetic on
/// doubled coordinates.
fn winding(ring: &[(i32, i32)], (x, y): (i32, i32)) -> i32 {
    let doubled = |i: usize| (2 * ring[i % ring.len()].0, 2 * ring[i % ring.len()].1);
    (0..ring.len())
        .map(|i| {
            let (a, b) = (doubled(i), doubled(i + 1));
            let side = (b.0 - a.0) * (y - a.1) - (b.1 - a.1) * (x - a.0);
            if a.1 <= y && b.1 > y && side > 0 {
                1
            } else if b.1 <= y && a.1 > y && side < 0 {
                -1
            } else {
                0
            }
        })
        .sum()
}

fn on_an_edge(ring: &[(i32, i32)], (x, y): (i32, i32)) -> bool {
    (0..ring.len()).any(|i| {
        let (a, b) = (ring[i], ring[(i + 1) % ring.len()]);
        let (a, b) = ((2 * a.0, 2 * a.1), (2 * b.0, 2 * b.1));
        (b.0 - a.0) * (y - a.1) == (b.1 - a.1) * (x - a.0)
            && (a.0.min(b.0)..=a.0.max(b.0)).contains(&x)
            && (a.1.min(b.1)..=a.1.max(b.1)).contains(&y)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A part is each point around which its outer ring winds and no hole does; the region is all
    /// parts.
    #[test]
    fn inside_is_what_plain_arithmetic_says(
        given in prop::collection::vec((ring(), prop::collection::vec(ring(), 0..3)), 1..4),
        shift in prop_oneof![Just(0.0), Just(177.0), Just(-181.0), Just(-300.0)],
    ) {
        let polygons = given.iter().map(|(outer, holes)| {
            let holes: Vec<_> = holes.iter().map(|hole| degrees(hole, shift)).collect();
            let holes: Vec<&[(f64, f64)]> = holes.iter().map(Vec::as_slice).collect();
            part(&degrees(outer, shift), &holes)
        });
        let Ok(area) = parts(polygons.collect()) else { return Ok(()) };
        let rings = || given.iter().flat_map(|(outer, holes)| std::iter::once(outer).chain(holes));
        for x in -1..18 {
            for y in -1..18 {
                if rings().any(|ring| on_an_edge(ring, (x, y))) {
                    continue;
                }
                let expected = given.iter().any(|(outer, holes)| {
                    winding(outer, (x, y)) != 0
                        && holes.iter().all(|hole| winding(hole, (x, y)) == 0)
                });
                let lng = f64::from(x) / 2.0 + shift;
                let lng = (lng + 180.0).rem_euclid(360.0) - 180.0;
                prop_assert_eq!(holds(&area, lng, f64::from(y) / 2.0), expected, "{} {}", x, y);
            }
        }
    }

    /// The same ring from another start, in the other direction, with repeated points, closed, or a
    /// turn further has the same verdict and the same area.
    #[test]
    fn a_verdict_does_not_depend_on_the_writing(
        outer in ring(),
        start in 0..8_usize,
        repeated in prop::collection::vec(0..8_usize, 0..3),
        scale in prop_oneof![Just(1.0), 1e-6..1.0_f64],
        (lng, lat) in (-170.0..170.0_f64, -80.0..80.0_f64),
    ) {
        let placed = |points: &[(i32, i32)]| -> Vec<(f64, f64)> {
            let place = |&(x, y): &(i32, i32)| (lng + f64::from(x) * scale, lat + f64::from(y) * scale);
            points.iter().map(place).collect()
        };
        let verdict = |points: &[(f64, f64)]| parts(vec![part(points, &[])]).map_err(|e| e.problem);
        let plain = verdict(&placed(&outer));
        let mut other = outer.clone();
        other.rotate_left(start % outer.len());
        let rotated = verdict(&placed(&other));
        for at in repeated {
            let at = at % other.len();
            other.insert(at, other[at]);
        }
        other.push(other[0]);
        let repeated = verdict(&placed(&other));
        other.reverse();
        let reversed = verdict(&placed(&other));
        let turn = if lng > 0.0 { -360.0 } else { 360.0 };
        let turned: Vec<_> = placed(&outer).into_iter().map(|(x, y)| (x + turn, y)).collect();
        let is_in_range = turned.iter().all(|p| p.0.abs() <= 360.0);
        for written in [&rotated, &repeated, &reversed] {
            prop_assert_eq!(plain.is_ok(), written.is_ok(), "{:?} {:?}", plain, written);
        }
        if is_in_range {
            prop_assert_eq!(plain.is_ok(), verdict(&turned).is_ok());
        }
        if let Ok(plain) = plain {
            for x in 0..8 {
                for y in 0..8 {
                    let (x, y) = (f64::from(x) + 0.317, f64::from(y) + 0.271);
                    let at = (lng + x * scale, lat + y * scale);
                    for written in [&rotated, &repeated, &reversed] {
                        let written = written.as_ref().expect("the same verdict");
                        prop_assert!(
                            scale < 1e-3 || holds(&plain, at.0, at.1) == holds(written, at.0, at.1)
                        );
                    }
                }
            }
        }
    }
}
