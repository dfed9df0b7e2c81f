//! What checking one region may take: regions, points, and work.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{POINTS_MAX, REGIONS_MAX};
use crate::error::InvalidField;

/// Maximum work to check and to cut one region, about a nanosecond each.
const WORK_MAX: u64 = 80_000_000;

/// Remaining limits of one region, shared by all of its parts.
pub(super) struct Budget {
    regions: usize,
    points: usize,
    pub(super) work: Work,
}

impl Budget {
    pub(super) fn new(stop: Arc<AtomicBool>) -> Self {
        let work = Work { left: Cell::new(WORK_MAX), stop };
        Self { regions: REGIONS_MAX, points: POINTS_MAX, work }
    }

    pub(super) fn take_region(&mut self) -> Result<(), InvalidField> {
        let more = self.regions.checked_sub(1);
        self.regions = more.ok_or_else(|| {
            InvalidField::new(
                "",
                format_args!("must have at most {REGIONS_MAX} regions in all; got more"),
            )
        })?;
        Ok(())
    }

    pub(super) fn take_points(&mut self, points: usize) -> Result<(), InvalidField> {
        let more = self.points.checked_sub(points);
        self.points = more.ok_or_else(|| {
            InvalidField::new(
                "points",
                format_args!(
                    "must have at most {POINTS_MAX} points in all rings together; got more"
                ),
            )
        })?;
        Ok(())
    }
}

/// Work that is left to check and to cut polygons, in units of about one nanosecond of a core.
///
/// Nothing is left once the caller is gone: the check then ends with an error that nobody reads.
pub(super) struct Work {
    left: Cell<u64>,
    stop: Arc<AtomicBool>,
}

impl Work {
    pub(super) fn take(&self, units: u64) {
        let is_stopped = self.stop.load(Ordering::Relaxed);
        self.left.set(if is_stopped { 0 } else { self.left.get().saturating_sub(units) });
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.left.get() == 0
    }
}
