//! Boxes around runs of neighbouring items, and boxes around runs of such boxes.
//!
//! The edges of an outline are near each other in the order of the ring, so a run of them has a
//! small box. A search skips each run whose box is out of reach and takes about log n steps.

use std::ops::Range;

/// Number of items, or of boxes of the finer level, in one run.
const RUN: usize = 8;

/// A box that can grow around the next box.
pub trait Bounds: Copy {
    /// The box around this box and the box that follows it in the order of the items.
    #[must_use]
    fn joined(self, next: Self) -> Self;
}

/// Levels of boxes, the finest first; the coarsest has at most eight.
#[derive(Debug, Clone, PartialEq)]
pub struct Hierarchy<B> {
    items: usize,
    levels: Vec<Vec<B>>,
}

impl<B: Bounds> Hierarchy<B> {
    /// Builds the levels above the boxes of the items.
    #[must_use]
    pub fn new(boxes: &[B]) -> Self {
        let runs = |boxes: &[B]| -> Vec<B> {
            let joined = |run: &[B]| run[1..].iter().fold(run[0], |all, next| all.joined(*next));
            boxes.chunks(RUN).map(joined).collect()
        };
        let mut levels = vec![runs(boxes)];
        while let Some(finer) = levels.last().filter(|level| level.len() > RUN) {
            levels.push(runs(finer));
        }
        Self { items: boxes.len(), levels }
    }

    /// Visits the runs of items whose boxes, and the boxes around them, all satisfy `enter`, in
    /// order, until `found` returns true for a run. Returns whether it did.
    pub fn search(
        &self,
        mut enter: impl FnMut(&B) -> bool,
        mut found: impl FnMut(Range<usize>) -> bool,
    ) -> bool {
        let top = self.levels.len() - 1;
        let all = 0..self.levels[top].len();
        self.visit(top, all, &mut enter, &mut found)
    }

    /// Numbers of the runs of items, with their boxes.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Range<usize>, B)> + '_ {
        self.levels[0].iter().enumerate().map(|(run, bounds)| (self.items_of(run), *bounds))
    }

    fn items_of(&self, run: usize) -> Range<usize> {
        run * RUN..((run + 1) * RUN).min(self.items)
    }

    fn visit(
        &self,
        level: usize,
        boxes: Range<usize>,
        enter: &mut impl FnMut(&B) -> bool,
        found: &mut impl FnMut(Range<usize>) -> bool,
    ) -> bool {
        for i in boxes {
            if !enter(&self.levels[level][i]) {
                continue;
            }
            let stop = match level.checked_sub(1) {
                None => found(self.items_of(i)),
                Some(finer) => {
                    let below = i * RUN..((i + 1) * RUN).min(self.levels[finer].len());
                    self.visit(finer, below, enter, found)
                }
            };
            if stop {
                return true;
            }
        }
        false
    }
}
