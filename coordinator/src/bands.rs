//! Splits a cover into bands, nearest first: the order in which devices are pushed to.
//!
//! A band is the cells of a cover in one interval of distance from the place last seen. When a
//! provider's quota limits the rate, minutes pass between the first device and the last, and the
//! order matters more than the speed. Within a band, devices follow the order of the registry's
//! pages, which makes the walk cheap; so the width of a band is the accuracy of the order.
//!
//! With the partitions of a node, bands are the node's geo-shards: one band of one partition is the
//! unit of dispatch, of order and of progress. Pure: the same input makes the same plan.

use std::{ops::Deref, sync::Arc};

use clarion_proto::{error::InvalidField, limits::BANDS_MAX, region::LatLng};
use clarion_runtime::peers::shares::Place;
use h3o::{CellIndex, Resolution};

use crate::cover::{CIRCUMRADIUS_M_MAX, MARGIN, Origin, PLACED, Point, Stopped, Work, center_of};

/// Distances at which bands begin and end, metres from the place last seen.
#[derive(Debug, Clone, PartialEq)]
pub struct BandEdges {
    edges_m: Vec<f64>,
    step_m: f64,
}

/// Outer edges of the first bands, metres; the default of `band_edges_meters`.
pub const EDGES_M: [f64; 5] = [1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0];
/// Width of all further bands, metres; the default of `band_step_meters`.
pub const STEP_M: f64 = 10_000.0;
/// Largest distance of two places on earth, metres: half a meridian, rounded up.
const FURTHEST_M: f64 = 20_100_000.0;

impl BandEdges {
    /// Checks ascending edges; a further edge follows every `step_m`.
    ///
    /// # Errors
    /// The edges do not ascend from above 0, the step is not above 0, or there are more than
    /// [`BANDS_MAX`] bands.
    pub fn new(edges_m: Vec<f64>, step_m: f64) -> Result<Self, InvalidField> {
        if !(step_m.is_finite() && step_m > 0.0) {
            return Err(InvalidField::new(
                "band_step_meters",
                format_args!("must be greater than 0; got {step_m}"),
            ));
        }
        let mut previous = 0.0;
        for (i, &edge) in edges_m.iter().enumerate() {
            if !(edge.is_finite() && edge > previous) {
                let problem = format!("must be greater than {previous}; got {edge}");
                return Err(InvalidField::new(format!("band_edges_meters[{i}]"), problem));
            }
            previous = edge;
        }
        let bands = edges_m.len() as f64 + (FURTHEST_M - previous).max(0.0) / step_m;
        if bands > BANDS_MAX as f64 {
            let problem =
                format!("must make at most {BANDS_MAX} bands over half the globe; got {bands:.0}");
            return Err(InvalidField::new("band_step_meters", problem));
        }
        Ok(Self { edges_m, step_m })
    }

    /// Outer edges of the first bands, metres, ascending.
    #[must_use]
    pub fn first_m(&self) -> &[f64] {
        &self.edges_m
    }

    /// Width of all bands beyond the first ones, metres.
    #[must_use]
    pub fn step_m(&self) -> f64 {
        self.step_m
    }

    /// Edges of wider bands: twice the step, and only those first bands that are narrower.
    fn widened(&self) -> Self {
        let step_m = 2.0 * self.step_m;
        let first = self.edges_m.iter().copied().take_while(|&edge| edge <= step_m);
        Self { edges_m: first.collect(), step_m }
    }

    /// Index of the band of a distance, from 0.
    #[must_use]
    pub fn band_of(&self, distance_m: f64) -> usize {
        let last = self.edges_m.last().copied().unwrap_or(0.0);
        if distance_m < last {
            return self.edges_m.partition_point(|&edge| edge <= distance_m);
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most BANDS_MAX
        let beyond = ((distance_m - last) / self.step_m) as usize;
        self.edges_m.len() + beyond
    }

    /// Inner and outer edge of a band, metres.
    #[must_use]
    pub fn interval_m(&self, band: usize) -> (f64, f64) {
        let edge = |i: usize| match i.checked_sub(1) {
            None => 0.0,
            Some(i) if i < self.edges_m.len() => self.edges_m[i],
            Some(i) => {
                self.edges_m.last().copied().unwrap_or(0.0)
                    + (i + 1 - self.edges_m.len()) as f64 * self.step_m
            }
        };
        (edge(band), edge(band + 1))
    }
}

impl Default for BandEdges {
    /// The edges [`EDGES_M`], then one edge every [`STEP_M`].
    fn default() -> Self {
        Self { edges_m: EDGES_M.to_vec(), step_m: STEP_M }
    }
}

/// The bands of one cover, with their share of the limit on the cells of all covers together.
/// Clones share the bands.
#[derive(Debug, Clone)]
pub struct Bands(Arc<Held>);

#[derive(Debug)]
struct Held {
    bands: Vec<Band>,
    /// Share of the limit; released with the last clone.
    _room: Option<Place>,
}

impl Bands {
    /// Makes bands that hold their share of the limit until the last clone is dropped.
    #[must_use]
    pub fn holding(bands: Vec<Band>, room: Place) -> Self {
        Self(Arc::new(Held { bands, _room: Some(room) }))
    }
}

impl From<Vec<Band>> for Bands {
    /// Makes bands that hold no share of the limit, such as the nearest bands of a counted cover.
    fn from(bands: Vec<Band>) -> Self {
        Self(Arc::new(Held { bands, _room: None }))
    }
}

impl PartialEq for Bands {
    fn eq(&self, other: &Self) -> bool {
        self.0.bands == other.0.bands
    }
}

impl Deref for Bands {
    type Target = [Band];

    fn deref(&self) -> &[Band] {
        &self.0.bands
    }
}

/// The cells of a cover in one interval of distance; at least one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    /// Inner edge: distance from the place last seen, metres.
    pub from_m: f64,
    /// Outer edge: distance from the place last seen, metres.
    pub to_m: f64,
    /// Cells of resolution 0 to 9, disjoint over all bands.
    pub cells: Vec<CellIndex>,
}

/// Largest width of a cell that lies across an edge of its band, as a part of the band's width.
///
/// Such a cell goes to the band of its centre; a wider cell is split. A third means resolution 7 in
/// a band of 10 km. A sixth would keep the order more exactly, and make the plan for 120 km three
/// times as long.
const STRADDLE_PART: f64 = 0.35;

/// Reason why a cover is not cut into bands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BandsError {
    /// The cover would have too many cells after the cut.
    #[error("its cover, cut into bands, would need more than {cells_max} cells")]
    TooManyCells {
        /// The limit that [`plan_bands`] was given.
        cells_max: usize,
    },
    /// The cut takes too much work.
    #[error("the cut of its cover into bands takes too much work")]
    Work,
    /// Nobody waits for the cut any more.
    #[error("the request was abandoned")]
    Abandoned,
}

impl From<Stopped> for BandsError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Exhausted => Self::Work,
            Stopped::Abandoned => Self::Abandoned,
        }
    }
}

/// Splits a cover into bands of the given edges, or of wider ones until at most `cells_max` cells
/// are needed. Returns the bands with their edges; [`cut`] with these gives the same bands. Pure.
pub(crate) fn fit_bands(
    cells: &[CellIndex],
    last_seen: LatLng,
    edges: BandEdges,
    cells_max: usize,
    work: &Work,
) -> Result<(Vec<Band>, BandEdges), BandsError> {
    let mut edges = edges;
    // A try costs up to `cells_max` cells of work, so hopeless ones are skipped.
    while cells_expected(cells, &edges) > cells_max as f64 && edges.step_m < FURTHEST_M {
        edges = edges.widened();
    }
    loop {
        match cut(cells, last_seen, &edges, cells_max, work) {
            Ok(bands) => return Ok((bands, edges)),
            // One band around everything cuts nothing: wider bands would not help.
            Err(BandsError::TooManyCells { .. }) if edges.step_m < 2.0 * FURTHEST_M => {
                edges = edges.widened();
            }
            Err(error) => return Err(error),
        }
    }
}

/// Splits a cover into bands, nearest first; omits bands without cells.
///
/// A large cell that lies in several bands is cut into smaller cells, so a few cells may become
/// millions. The work stops at `cells_max` cells.
///
/// # Errors
/// [`BandsError::TooManyCells`]: the bands need more than `cells_max` cells.
pub fn plan_bands(
    cells: &[CellIndex],
    last_seen: LatLng,
    edges: &BandEdges,
    cells_max: usize,
) -> Result<Vec<Band>, BandsError> {
    cut(cells, last_seen, edges, cells_max, &Work::of(u64::MAX))
}

/// Splits a cover as [`plan_bands`] does; `work` counts and ends the work.
pub(crate) fn cut(
    cells: &[CellIndex],
    last_seen: LatLng,
    edges: &BandEdges,
    cells_max: usize,
    work: &Work,
) -> Result<Vec<Band>, BandsError> {
    work.check()?;
    if cells_at_least(cells, edges) > cells_max as u64 {
        return Err(BandsError::TooManyCells { cells_max });
    }
    let origin = Origin::new(Point { lat_deg: last_seen.lat_deg(), lng_deg: last_seen.lng_deg() });
    let mut planner = Planner { origin, edges, cells: Vec::new(), room: cells_max, work };
    for &cell in cells {
        planner.place(cell).ok_or(BandsError::TooManyCells { cells_max })?;
        work.check()?;
    }
    Ok(planner
        .cells
        .into_iter()
        .enumerate()
        .filter(|(_, cells)| !cells.is_empty())
        .map(|(band, cells)| {
            let (from_m, to_m) = edges.interval_m(band);
            Band { from_m, to_m, cells }
        })
        .collect())
}

/// Lower bound of the number of cells after the split, so that a continent is refused at once: no
/// cell is wider than the widest band.
fn cells_at_least(cells: &[CellIndex], edges: &BandEdges) -> u64 {
    let widths = edges.edges_m.windows(2).map(|pair| pair[1] - pair[0]);
    let widest = widths.chain(edges.edges_m.first().copied()).fold(edges.step_m, f64::max);
    let fits =
        |r: &Resolution| 2.0 * MARGIN * CIRCUMRADIUS_M_MAX[usize::from(u8::from(*r))] <= widest;
    let coarsest = Resolution::range(Resolution::Zero, Resolution::Nine)
        .find(fits)
        .unwrap_or(Resolution::Nine);
    cells.iter().map(|cell| cell.children_count(coarsest.max(cell.resolution()))).sum()
}

/// Approximate number of cells after the split into bands of the width of `edges.step_m`.
///
/// A cell of width d lies in one band of width w with a probability of 1 - d / w. The others are
/// split, down to the resolution at which cells may lie across an edge.
fn cells_expected(cells: &[CellIndex], edges: &BandEdges) -> f64 {
    // Number of cells of resolution 0 that have the area of the cover.
    let part = |cell: &CellIndex| 7_f64.powi(-i32::from(u8::from(cell.resolution())));
    let area: f64 = cells.iter().map(part).sum();
    let (mut expected, mut unplaced) = (0.0, 1.0);
    for resolution in Resolution::range(Resolution::Zero, Resolution::Nine) {
        let level = u8::from(resolution);
        let width_m = 2.0 * MARGIN * CIRCUMRADIUS_M_MAX[usize::from(level)];
        let placed = if width_m <= STRADDLE_PART * edges.step_m {
            1.0
        } else {
            (1.0 - width_m / edges.step_m).max(0.0)
        };
        expected += unplaced * placed * area * 7_f64.powi(i32::from(level));
        unplaced *= 1.0 - placed;
    }
    expected
}

struct Planner<'a> {
    origin: Origin,
    edges: &'a BandEdges,
    cells: Vec<Vec<CellIndex>>,
    /// Number of cells that the planner may still make.
    room: usize,
    work: &'a Work,
}

impl Planner<'_> {
    /// Places a cell, or its descendants, into bands; `None`: no cells are left in `room`.
    fn place(&mut self, cell: CellIndex) -> Option<()> {
        self.work.add(PLACED);
        let center = center_of(cell);
        let radius = MARGIN * CIRCUMRADIUS_M_MAX[usize::from(u8::from(cell.resolution()))];
        let (low, high) = self.origin.bounds_m(center);
        let nearest = self.edges.band_of((low - radius).max(0.0));
        let furthest = self.edges.band_of(high + radius);
        let (from_m, to_m) = self.edges.interval_m(nearest);
        let fine_enough = 2.0 * radius <= STRADDLE_PART * (to_m - from_m);
        match cell.resolution().succ().filter(|&finer| finer <= Resolution::Nine) {
            Some(finer) if nearest != furthest && !fine_enough => {
                for child in cell.children(finer) {
                    self.place(child)?;
                }
            }
            _ => {
                let mut band = self.edges.band_of(low);
                if band != self.edges.band_of(high) {
                    band = self.edges.band_of(self.origin.exact_m(center));
                }
                if self.cells.len() <= band {
                    self.cells.resize_with(band + 1, Vec::new);
                }
                self.room = self.room.checked_sub(1)?;
                self.cells[band].push(cell);
            }
        }
        Some(())
    }
}

/// The middle of a cover, for an alert without a place last seen: the mean direction of its cells,
/// weighted by area.
///
/// # Panics
/// If the cover has no cell.
#[must_use]
pub fn middle(cells: &[CellIndex]) -> LatLng {
    assert!(!cells.is_empty(), "a cover has cells");
    let mut sum = [0.0f64; 3];
    for &cell in cells {
        let center = center_of(cell);
        let weight = 7f64.powi(9 - i32::from(u8::from(cell.resolution())));
        let (sin_lat, cos_lat) = center.lat_deg.to_radians().sin_cos();
        let (sin_lng, cos_lng) = center.lng_deg.to_radians().sin_cos();
        for (total, part) in sum.iter_mut().zip([cos_lat * cos_lng, cos_lat * sin_lng, sin_lat]) {
            *total += weight * part;
        }
    }
    let [x, y, z] = sum;
    let lat_deg = z.atan2(x.hypot(y)).to_degrees();
    let lng_deg = y.atan2(x).to_degrees();
    LatLng::new(lat_deg, lng_deg).expect("atan2 keeps latitude and longitude within their limits")
}

#[cfg(test)]
mod tests {
    use clarion_proto::region::Region;
    use proptest::prelude::*;

    use super::*;
    use crate::cover::{CellBudget, cover, distance_m};

    #[test]
    fn edges_are_checked_and_numbered() {
        let edges = BandEdges::default();
        for (distance, band, interval) in [
            (0.0, 0, (0.0, 1_000.0)),
            (999.9, 0, (0.0, 1_000.0)),
            (1_000.0, 1, (1_000.0, 2_000.0)),
            (19_999.0, 4, (10_000.0, 20_000.0)),
            (20_000.0, 5, (20_000.0, 30_000.0)),
            (119_999.0, 14, (110_000.0, 120_000.0)),
        ] {
            assert_eq!((edges.band_of(distance), edges.interval_m(band)), (band, interval));
        }
        assert_eq!(
            BandEdges::new(vec![5.0, 5.0], 1_000.0).unwrap_err().field,
            "band_edges_meters[1]"
        );
        assert_eq!(BandEdges::new(vec![], 0.0).unwrap_err().field, "band_step_meters");
        assert_eq!(BandEdges::new(vec![], 1.0).unwrap_err().field, "band_step_meters");
    }

    #[test]
    fn a_cover_of_too_many_cells_is_refused_and_the_work_ends_there() {
        let here = LatLng::new(22.54, 114.06).unwrap();
        let cells = cover(&Region::circle(here, 60_000.0).unwrap(), CellBudget::default()).unwrap();
        let edges = BandEdges::default();
        let needed = plan_bands(&cells, here, &edges, usize::MAX)
            .unwrap()
            .iter()
            .map(|b| b.cells.len())
            .sum();
        assert!(plan_bands(&cells, here, &edges, needed).is_ok());
        let refused = BandsError::TooManyCells { cells_max: needed - 1 };
        assert_eq!(plan_bands(&cells, here, &edges, needed - 1), Err(refused));
        let world: Vec<_> = CellIndex::base_cells().collect();
        assert_eq!(cells_at_least(&world, &edges), Resolution::Six.cell_count());
        assert!(plan_bands(&world, here, &edges, clarion_proto::limits::COVER_CELLS_MAX).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn bands_are_the_cover_split_and_in_order(lat in -89.0..89.0f64, lng in -180.0..180.0f64, radius_m in 100.0..60_000.0f64, off in 0.0..0.3f64) {
            let center = LatLng::new(lat, lng).unwrap();
            let last_seen = LatLng::new((lat + off).min(90.0), lng).unwrap();
            let cells = cover(&Region::circle(center, radius_m).unwrap(), CellBudget::default()).unwrap();
            let edges = BandEdges::default();
            let bands = plan_bands(&cells, last_seen, &edges, usize::MAX).unwrap();
            let count = |cells: &[CellIndex]| cells.iter().map(|c| c.children_count(Resolution::Nine)).sum::<u64>();
            prop_assert!(cells_at_least(&cells, &edges) <= bands.iter().map(|b| b.cells.len() as u64).sum::<u64>());
            prop_assert_eq!(bands.iter().map(|b| count(&b.cells)).sum::<u64>(), count(&cells));
            prop_assert!(bands.windows(2).all(|w| w[0].to_m <= w[1].from_m));
            for band in &bands {
                for &cell in &band.cells {
                    let c = center_of(cell);
                    let distance = distance_m(last_seen.lat_deg(), last_seen.lng_deg(), c.lat_deg, c.lng_deg);
                    prop_assert!(band.from_m <= distance && distance < band.to_m);
                    let width = 2.0 * MARGIN * CIRCUMRADIUS_M_MAX[usize::from(u8::from(cell.resolution()))];
                    let whole = distance - width / 2.0 >= band.from_m && distance + width / 2.0 <= band.to_m;
                    prop_assert!(whole || cell.resolution() == Resolution::Nine || width <= 0.35 * 10_000.0 + 1.0);
                }
            }
        }

        #[test]
        fn the_middle_of_a_circle_is_its_centre(lat in -85.0..85.0f64, lng in -179.9..179.9f64, radius_m in 3_000.0..100_000.0f64) {
            let center = LatLng::new(lat, lng).unwrap();
            let cells = cover(&Region::circle(center, radius_m).unwrap(), CellBudget::default()).unwrap();
            let middle = middle(&cells);
            prop_assert!(distance_m(lat, lng, middle.lat_deg(), middle.lng_deg()) < 0.02 * radius_m + 100.0);
        }
    }
}
