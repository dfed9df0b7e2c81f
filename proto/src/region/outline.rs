//! Edges of many rings, indexed: how often the rings wind around a point, and which edges meet.

use super::{
    budget::Work,
    grid::{Edge, GridPoint, box_holds, side},
    hierarchy::{Bounds, Hierarchy},
};

/// Edges of closed rings, in the order of the rings.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outline {
    edges: Vec<Edge>,
    runs: Hierarchy<Run>,
}

/// Box around a run of edges, with the ends of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Run {
    west: i64,
    east: i64,
    south: i64,
    north: i64,
    first: GridPoint,
    last: GridPoint,
    /// Whether each edge of the run begins where the edge before it ends.
    chained: bool,
}

impl Run {
    fn of(edge: Edge) -> Self {
        let (first, last) = edge;
        Self {
            west: first.lng.min(last.lng),
            east: first.lng.max(last.lng),
            south: first.lat.min(last.lat),
            north: first.lat.max(last.lat),
            first,
            last,
            chained: true,
        }
    }

    fn meets(&self, other: &Self) -> bool {
        self.west <= other.east
            && other.west <= self.east
            && self.south <= other.north
            && other.south <= self.north
    }
}

impl Bounds for Run {
    fn joined(self, next: Self) -> Self {
        Self {
            west: self.west.min(next.west),
            east: self.east.max(next.east),
            south: self.south.min(next.south),
            north: self.north.max(next.north),
            first: self.first,
            last: next.last,
            chained: self.chained && next.chained && self.last == next.first,
        }
    }
}

/// More work than is allowed: the search stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted;

impl Outline {
    /// Indexes the edges of rings; each ring is closed without a repeated point.
    pub(super) fn new<'a>(rings: impl Iterator<Item = &'a [GridPoint]>) -> Self {
        let edges: Vec<Edge> = rings.flat_map(edges_of).collect();
        let boxes: Vec<Run> = edges.iter().map(|&edge| Run::of(edge)).collect();
        Self { runs: Hierarchy::new(&boxes), edges }
    }

    pub(super) fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Number of counterclockwise turns of the rings around a point; `None`: the point lies on an
    /// edge. `work` grows by about one for each nanosecond.
    ///
    /// Counts the edges that pass the half-line east of the point, upwards minus downwards. A
    /// chained run that lies wholly east of the point counts by its two ends alone.
    pub(super) fn winding(&self, point: GridPoint, work: &mut u64) -> Option<i64> {
        let above = |p: GridPoint| i64::from(p.lat > point.lat);
        let (mut turns, mut steps) = (0, 0);
        let mut on_edge = false;
        let mut of_edges = 0;
        self.runs.search(
            |run| {
                steps += 2;
                if point.lat < run.south || point.lat > run.north || point.lng > run.east {
                    return false;
                }
                if point.lng < run.west && run.chained {
                    turns += above(run.last) - above(run.first);
                    return false;
                }
                true
            },
            |range| {
                for &edge in &self.edges[range] {
                    let step = above(edge.1) - above(edge.0);
                    if step == 0 && !box_holds(edge, point) {
                        continue;
                    }
                    let side = side(edge, point);
                    if side == 0 && box_holds(edge, point) {
                        on_edge = true;
                        return true;
                    }
                    // East of the point: left of an edge upwards, right of an edge downwards.
                    if (step > 0 && side > 0) || (step < 0 && side < 0) {
                        of_edges += step;
                    }
                }
                false
            },
        );
        *work += steps + 30;
        (!on_edge).then_some(turns + of_edges)
    }

    /// Whether `meet` returns true for an edge whose box meets the box of the given edge. `work` is
    /// the rest of a budget.
    pub(super) fn meets(
        &self,
        edge: Edge,
        work: &Work,
        mut meet: impl FnMut(Edge) -> bool,
    ) -> bool {
        let bounds = Run::of(edge);
        let mut steps = 0;
        let found = self.runs.search(
            |run| {
                steps += 2;
                run.meets(&bounds)
            },
            |range| self.edges[range].iter().any(|&other| meet(other)),
        );
        work.take(steps);
        found
    }

    /// Calls `meet` for each two edges whose boxes meet, until `meet` returns true.
    ///
    /// # Errors
    /// The search would take more than `work`, some nanoseconds each.
    pub(super) fn pairs(
        &self,
        work: &Work,
        mut meet: impl FnMut(usize, usize) -> bool,
    ) -> Result<bool, Exhausted> {
        let mut exhausted = false;
        for (mine, bounds) in self.runs.runs() {
            let take = |units| {
                work.take(units);
                work.is_used_up()
            };
            let found = self.runs.search(
                |run| {
                    take(1);
                    run.meets(&bounds)
                },
                |theirs| {
                    if theirs.start < mine.start {
                        return false;
                    }
                    if take(32) {
                        exhausted = true;
                        return true;
                    }
                    for i in mine.clone() {
                        let of_mine = Run::of(self.edges[i]);
                        for j in theirs.start.max(i + 1)..theirs.end {
                            if of_mine.meets(&Run::of(self.edges[j])) {
                                take(10);
                                if meet(i, j) {
                                    return true;
                                }
                            }
                        }
                    }
                    false
                },
            );
            if exhausted {
                return Err(Exhausted);
            }
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Edges of a ring, the closing edge included.
pub(super) fn edges_of(ring: &[GridPoint]) -> impl Iterator<Item = Edge> + '_ {
    let next = ring.iter().copied().cycle().skip(1);
    ring.iter().copied().zip(next)
}
