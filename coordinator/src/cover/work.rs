//! Counter of the work that a cover has cost, so that the descent stops at its budget.

use std::cell::Cell;

/// Work done so far, in tests of a disc against an edge of a polygon (some 3 ns) or a circle (some
/// 50 ns).
#[derive(Debug, Default)]
pub(super) struct Work(Cell<u64>);

impl Work {
    pub(super) fn add(&self, tests: u64) {
        self.0.set(self.0.get() + tests);
    }

    pub(super) fn done(&self) -> u64 {
        self.0.get()
    }
}
