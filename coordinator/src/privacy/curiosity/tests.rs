use std::net::Ipv4Addr;

use clarion_proto::region::{LatLng, Region as Shape};
use proptest::prelude::*;

use super::*;
use crate::cover::{CellBudget, cover};

const S: Duration = Duration::from_secs(1);

fn peer(n: u32) -> PeerKey {
    PeerKey::of(Ipv4Addr::from_bits(0x0a00_0000 + n).into())
}

/// A circle some kilometres north of a place; its plan is that distance, for the tests to know it
/// again.
fn circle(north_m: u32, radius_m: f64) -> Asked<u32> {
    let center = LatLng::new(22.5 + f64::from(north_m) / 111_000.0, 114.0).expect("on the globe");
    let cells = cover(&Shape::circle(center, radius_m).expect("valid"), CellBudget::default())
        .expect("within budget");
    Asked { sketch: Sketch::of(&cells), plan: Arc::new(north_m), cells: cells.len() }
}

#[test]
fn a_house_is_not_the_difference_of_two_circles() {
    let mut curiosity = Curiosity::default();
    let mut counted = |n, north_m, at: u32| {
        curiosity
            .preview(peer(n), circle(north_m, 3_000.0), at * S)
            .map(|(plan, earlier)| (*plan, earlier))
    };
    assert_eq!(counted(1, 0, 0), Ok((0, false)));
    assert_eq!(counted(1, 40, 1), Ok((0, true)), "40 m north is the same region");
    assert_eq!(counted(2, 60, 2), Ok((0, true)), "whoever asks");
    assert_eq!(counted(1, 0, 2), Ok((0, false)), "the region itself again");
    assert_eq!(counted(1, 3_000, 3), Ok((3_000, false)));
    assert_eq!(counted(1, 40, 3_500), Ok((0, true)), "remembered as long as somebody asks");
    assert_eq!(counted(1, 40, 7_200), Ok((40, false)));
}

#[test]
fn an_operator_on_a_bad_day_meets_no_limit() {
    let mut curiosity = Curiosity::default();
    // Within two minutes: a dozen circles dragged about, each previewed for two audiences,
    // validated, refused once and sent.
    for step in 0..12 {
        let (north_m, now) = (step * 130, step * 10 * S);
        for _ in 0..2 {
            curiosity.preview(peer(1), circle(north_m, 2_000.0), now).expect("previewed");
        }
        curiosity.validate(peer(1), circle(north_m, 2_000.0), now).expect("validated");
        curiosity.may_create(peer(1), &circle(north_m, 2_000.0).sketch, now).expect("tried");
        curiosity.refused(peer(1), circle(north_m, 2_000.0), now);
    }
}

#[test]
fn one_region_is_asked_so_often_and_a_peer_so_much() {
    let mut curiosity = Curiosity::default();
    let mut asked =
        |n: u32, at: u32, north_m: u32| curiosity.preview(peer(n), circle(north_m, 600.0), at * S);
    for _ in 0..REGION_BURST {
        asked(1, 0, 0).expect("in the burst");
    }
    assert_eq!(asked(1, 0, 0).expect_err("too often"), REGION_EVERY);
    assert_eq!(asked(1, 10, 20).expect_err("nearly the same"), REGION_EVERY - 10 * S);
    asked(2, 10, 20).expect("another peer");
    asked(1, 30, 0).expect("again");
    for n in 0..PEER_BURST - REGION_BURST + 30 / 5 - 1 {
        asked(1, 30, 5_000 * (n + 1)).expect("other regions");
    }
    assert_eq!(asked(1, 30, 900_000).expect_err("too many"), PEER_EVERY);
    asked(2, 30, 900_000).expect("another peer has its own");
}

#[test]
fn an_alert_is_held_up_by_refusals_of_nearly_the_same_only() {
    let mut curiosity = Curiosity::default();
    for _ in 0..REGION_BURST {
        curiosity.preview(peer(1), circle(0, 600.0), S).expect("in the burst");
        curiosity.validate(peer(1), circle(0, 600.0), S).expect("in the burst");
    }
    let may = |curiosity: &Curiosity<u32>, n, north_m| {
        curiosity.may_create(peer(n), &circle(north_m, 600.0).sketch, S)
    };
    may(&curiosity, 1, 0).expect("previews do not count");
    for _ in 0..REGION_BURST {
        may(&curiosity, 1, 20).expect("not yet");
        curiosity.refused(peer(1), circle(20, 600.0), S);
    }
    assert_eq!(may(&curiosity, 1, 0), Err(REGION_EVERY));
    may(&curiosity, 2, 0).expect("another peer");
    may(&curiosity, 1, 5_000).expect("another region");
}

#[test]
fn memory_is_bounded_and_one_peer_pushes_out_its_own() {
    let mut curiosity = Curiosity::default();
    curiosity.preview(peer(1), circle(0, 3_000.0), S).expect("first");
    let large = |n: u32| Asked { cells: 100_000, ..circle(20_000 + n * 5_000, 600.0) };
    for n in 0..60 {
        curiosity.preview(peer(2), large(n), S).expect("in the burst");
        assert!(curiosity.cells() <= CELLS_MAX && curiosity.regions.len() <= REGIONS_MAX);
    }
    let again =
        curiosity.preview(peer(1), circle(40, 3_000.0), S).map(|(plan, earlier)| (*plan, earlier));
    assert_eq!(again, Ok((0, true)), "the first one's is still remembered");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Whatever is asked in which order within the hour, two plans that were counted are never
    /// nearly the same.
    #[test]
    fn no_two_regions_that_are_counted_are_nearly_the_same(steps in proptest::collection::vec((0_u32..4, 0_u32..3_000, 600.0..3_000.0_f64), 1..40)) {
        let mut curiosity = Curiosity::default();
        let mut counted: Vec<(Arc<u32>, Sketch)> = Vec::new();
        for (i, (n, north_m, radius_m)) in (0..).zip(steps) {
            let asked = Asked { plan: Arc::new(i), ..circle(north_m, radius_m) };
            let sketch = asked.sketch.clone();
            if let Ok((plan, false)) = curiosity.preview(peer(n), asked, S) {
                prop_assert!(counted.iter().all(|(_, other)| !other.is_near(&sketch)));
                counted.push((plan, sketch));
            }
        }
    }
}
