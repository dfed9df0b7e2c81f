//! Tests of discs against a circle: compares a distance with a radius.

use super::{
    disc::Disc,
    geodesic::{Origin, Point},
};

#[derive(Debug, Clone)]
pub(super) struct Circle {
    origin: Origin,
    radius_m: f64,
}

impl Circle {
    pub(super) fn new(center: Point, radius_m: f64) -> Self {
        Self { origin: Origin::new(center), radius_m }
    }

    /// Whether the disc has a point in common with the circle.
    pub(super) fn touches(&self, disc: &Disc) -> bool {
        let (near, far) = self.origin.bounds_m(disc.center);
        let (small, large) = disc.radius_bounds_m();
        if near > self.radius_m + large {
            return false;
        }
        if far <= self.radius_m + small {
            return true;
        }
        self.origin.exact_m(disc.center) <= self.radius_m + disc.radius_m()
    }

    /// Whether the whole disc lies in the circle.
    pub(super) fn contains(&self, disc: &Disc) -> bool {
        let (near, far) = self.origin.bounds_m(disc.center);
        let (small, large) = disc.radius_bounds_m();
        if near + small > self.radius_m {
            return false;
        }
        if far + large <= self.radius_m {
            return true;
        }
        self.origin.exact_m(disc.center) + disc.radius_m() <= self.radius_m
    }
}
