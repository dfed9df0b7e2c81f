//! Counter of the work that a cover and its bands cost, so that the computation stops in time.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Work of one disc: its cell's centre, and the decisions about the disc.
pub(super) const DISC: u64 = 300;
/// Work of one test of a disc against a circle.
pub(super) const CIRCLE: u64 = 80;
/// Work of one test of a disc against a set of cells.
pub(super) const CELLS: u64 = 60;
/// Work of the readings of one disc in GCJ-02.
pub(super) const READINGS: u64 = 400;
/// Work of one exact radius of a cell, or of one exact geodesic.
pub(super) const EXACT: u64 = 1_000;
/// Work of one cell that is placed into its band.
pub(crate) const PLACED: u64 = 350;

/// Work done so far, in units of about one nanosecond of a core, and the end of the work.
///
/// The units follow the time that the steps take, so that the limit is a time, whatever the shape
/// of the region and its place on the globe.
#[derive(Debug)]
pub(crate) struct Work {
    done: Cell<u64>,
    max: u64,
    patience: u64,
    stop: Arc<AtomicBool>,
}

/// Reason why the work stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The limit of the work is reached: the result must do with what was found.
    Exhausted,
    /// Nobody waits for the result any more, or the work is larger than this try may take.
    Abandoned,
}

impl Work {
    /// Counts up to a limit, without an end from outside.
    pub(crate) fn of(max: u64) -> Self {
        Self::patient(max, u64::MAX, Arc::default())
    }

    /// Counts up to a limit, and abandons the work if it takes more than `patience` or once `stop`
    /// is true.
    pub(crate) fn patient(max: u64, patience: u64, stop: Arc<AtomicBool>) -> Self {
        Self { done: Cell::new(0), max, patience, stop }
    }

    pub(crate) fn add(&self, units: u64) {
        self.done.set(self.done.get().saturating_add(units));
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.get()
    }

    /// Whether `expected` further units, of which half may be enough, would exceed the patience
    /// for certain: such work is abandoned at its beginning.
    pub(crate) fn is_hopeless(&self, expected: f64) -> bool {
        self.patience != u64::MAX && self.done.get() as f64 + expected / 2.0 > self.patience as f64
    }

    /// Whether the work may go on.
    pub(crate) fn check(&self) -> Result<(), Stopped> {
        if self.stop.load(Ordering::Relaxed) || self.done.get() > self.patience {
            Err(Stopped::Abandoned)
        } else if self.done.get() > self.max {
            Err(Stopped::Exhausted)
        } else {
            Ok(())
        }
    }
}
