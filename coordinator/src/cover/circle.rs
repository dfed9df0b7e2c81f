//! Tests of discs against a circle: compares a distance with a radius.

use super::{
    disc::Disc,
    geodesic::{Origin, Point},
    space::{Vector, distance2, place},
    work::{CIRCLE, EXACT, Work},
};

#[derive(Debug, Clone)]
pub(super) struct Circle {
    origin: Origin,
    place: Vector,
    radius_m: f64,
}

impl Circle {
    pub(super) fn new(center: Point, radius_m: f64) -> Self {
        Self { origin: Origin::new(center), place: place(center), radius_m }
    }

    /// Whether the disc is surely far from the circle: a quick test for one circle of many.
    pub(super) fn is_far(&self, disc: &Disc, work: &Work) -> bool {
        work.add(6);
        let reach_m = self.radius_m + disc.radius_bounds_m().1;
        distance2(disc.place(), (self.place, self.place)) > reach_m * reach_m
    }

    /// Whether the disc has a point in common with the circle.
    pub(super) fn touches(&self, disc: &Disc, work: &Work) -> bool {
        work.add(CIRCLE);
        let (near, far) = self.origin.bounds_m(disc.center);
        let (small, large) = disc.radius_bounds_m();
        if near > self.radius_m + large {
            return false;
        }
        if far <= self.radius_m + small {
            return true;
        }
        work.add(exact_work(disc));
        self.origin.exact_m(disc.center) <= self.radius_m + disc.radius_m()
    }

    /// Whether the whole disc lies in the circle.
    pub(super) fn contains(&self, disc: &Disc, work: &Work) -> bool {
        work.add(CIRCLE);
        let (near, far) = self.origin.bounds_m(disc.center);
        let (small, large) = disc.radius_bounds_m();
        if near + small > self.radius_m {
            return false;
        }
        if far + large <= self.radius_m {
            return true;
        }
        work.add(exact_work(disc));
        self.origin.exact_m(disc.center) + disc.radius_m() <= self.radius_m
    }
}

/// Work of an exact comparison: a geodesic, and at resolution 9 the radius of the cell.
fn exact_work(disc: &Disc) -> u64 {
    if disc.is_leaf() { 2 * EXACT } else { EXACT }
}
