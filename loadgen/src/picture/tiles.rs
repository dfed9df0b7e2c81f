//! Tiles of a map: cells of a region, none of which shows fewer than [`SHOWN_MIN`] devices.
//!
//! Reports are passed on, and a cell of a few square kilometres with three phones in it identifies
//! three people. So a cell with too few devices is joined with its siblings that also have too few,
//! as one patch with one figure. If that patch still has too few, it is joined with a sibling that
//! is shown; if there is none, one resolution coarser, and so on. Empty cells are joined the same
//! way, because a patch without them would outline exactly the few devices. The rest is shown as
//! "few", without a number.

use std::collections::{BTreeMap, BTreeSet};

use h3o::{CellIndex, Resolution};

use super::projection::{Projection, middle};
use crate::{
    place::Place,
    scenario::RegionSpec,
    verdict::{cells, counts::SpotCount, geometry::Region, sample::FINEST},
};

/// Smallest number of devices for which figures are shown.
pub(super) const SHOWN_MIN: u64 = 20;
/// Most cells of a map; a larger map is coarser. Eyes do not distinguish more, and a page should
/// not exceed a megabyte.
const CELLS_MAX: f64 = 3_000.0;

/// Cells that are drawn as one patch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tile {
    /// Cells of the tile, one or several.
    pub(super) cells: Vec<CellIndex>,
    /// Counts of the devices addressed in the tile.
    pub(super) count: SpotCount,
}

impl Tile {
    /// Reports whether the figures of the tile may be shown.
    pub(super) fn is_shown(&self) -> bool {
        self.count.devices >= SHOWN_MIN
    }

    fn join(mut self, other: Self) -> Self {
        self.cells.extend(other.cells);
        self.count.add(other.count);
        self
    }
}

/// Returns the resolution at which a region is shown.
#[must_use]
pub fn resolution(region: &RegionSpec) -> Resolution {
    let radius_km = radius_meters(region) / 1_000.0;
    let area_km2 = std::f64::consts::PI * radius_km * radius_km;
    Resolution::range(Resolution::Zero, FINEST)
        .take_while(|r| area_km2 / r.area_km2() <= CELLS_MAX)
        .last()
        .unwrap_or(Resolution::Zero)
}

/// Returns the radius of the smallest circle around the middle that contains the region, metres.
fn radius_meters(region: &RegionSpec) -> f64 {
    match region {
        RegionSpec::Circle { radius_meters, .. } => *radius_meters,
        RegionSpec::Polygon { outer, .. } => {
            let projection = Projection::around(middle(region));
            outer
                .iter()
                .map(|p| projection.project(*p))
                .map(|(x, y)| x.hypot(y))
                .fold(0.0, f64::max)
        }
    }
}

/// Returns every cell of the region, and every cell with an addressed device.
pub(super) fn cover(
    region: &Region,
    corners: impl Iterator<Item = Place>,
    occupied: impl Iterator<Item = CellIndex>,
    resolution: Resolution,
) -> BTreeSet<CellIndex> {
    let mut found: BTreeSet<CellIndex> = occupied.collect();
    let corner = |place: Place| {
        h3o::LatLng::new(place.latitude, place.longitude).ok().map(|l| l.to_cell(resolution))
    };
    found.extend(corners.filter_map(corner));
    // From cell to neighbour, because a region is connected.
    let mut open: Vec<CellIndex> = found.iter().copied().collect();
    while let Some(cell) = open.pop() {
        for neighbour in cell.grid_disk::<Vec<_>>(1) {
            if !found.contains(&neighbour) && cells::in_cover(region, neighbour) {
                found.insert(neighbour);
                open.push(neighbour);
            }
        }
    }
    found
}

/// Joins cells into tiles, small ones together.
pub(super) fn tiles(
    cover: &BTreeSet<CellIndex>,
    counts: &BTreeMap<CellIndex, SpotCount>,
) -> Vec<Tile> {
    let count = |cell: &CellIndex| counts.get(cell).copied().unwrap_or_default();
    let single = |cell: &CellIndex| Tile { cells: vec![*cell], count: count(cell) };
    let mut tiles: Vec<Tile> = cover.iter().map(single).collect();
    let finest = cover.first().map_or(0, |c| u8::from(c.resolution()));
    for coarser in (0..finest).rev() {
        let resolution = Resolution::try_from(coarser).expect("coarser than a cell that is there");
        let mut families: BTreeMap<Option<CellIndex>, Vec<Tile>> = BTreeMap::new();
        for tile in tiles.drain(..) {
            families.entry(tile.cells[0].parent(resolution)).or_default().push(tile);
        }
        tiles.extend(families.into_values().flat_map(together));
    }
    let (mut shown, few): (Vec<Tile>, Vec<Tile>) = tiles.into_iter().partition(Tile::is_shown);
    let rest = few.into_iter().fold(nobody(), Tile::join);
    shown.extend((!rest.cells.is_empty()).then_some(rest));
    shown
}

/// Returns the tiles of one parent, with the small ones joined until they are not small, if
/// possible.
fn together(family: Vec<Tile>) -> Vec<Tile> {
    let (mut shown, few): (Vec<Tile>, Vec<Tile>) = family.into_iter().partition(Tile::is_shown);
    if few.is_empty() {
        return shown;
    }
    let patch = few.into_iter().fold(nobody(), Tile::join);
    let smallest = shown.iter().enumerate().min_by_key(|(_, t)| t.count.devices).map(|(n, _)| n);
    match smallest.filter(|_| !patch.is_shown()) {
        Some(n) => shown[n] = std::mem::replace(&mut shown[n], nobody()).join(patch),
        None => shown.push(patch),
    }
    shown
}

fn nobody() -> Tile {
    Tile { cells: Vec::new(), count: SpotCount::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circle(latitude: f64, longitude: f64, radius_meters: f64) -> RegionSpec {
        RegionSpec::Circle { center: Place::new(latitude, longitude), radius_meters }
    }

    fn cells_of(spec: &RegionSpec, resolution: Resolution) -> BTreeSet<CellIndex> {
        cover(&Region::new(spec), spec.center().into_iter(), std::iter::empty(), resolution)
    }

    #[test]
    fn a_city_is_shown_at_resolution_six() {
        assert_eq!(resolution(&circle(22.5, 114.0, 120_000.0)), Resolution::Six);
        assert_eq!(resolution(&circle(22.5, 114.0, 1_500.0)), FINEST);
        assert!(resolution(&circle(0.0, 0.0, 10_000_000.0)) <= Resolution::Two);
    }

    #[test]
    fn the_cover_has_the_area_of_the_region_anywhere() {
        for (lat, lng) in [(22.5, 114.0), (-16.8, 179.9), (89.5, 45.0), (90.0, 0.0)] {
            let cells = cells_of(&circle(lat, lng, 60_000.0), Resolution::Six);
            let area: f64 = cells.iter().map(|c| c.area_km2()).sum();
            // π·60² is 11,310 km²; the rim adds some half a cell's width all around.
            assert!((11_310.0..14_500.0).contains(&area), "{area} km² at {lat}, {lng}");
        }
    }

    #[test]
    fn no_tile_tells_of_few_and_all_are_counted() {
        let cells = cells_of(&circle(22.5, 114.0, 60_000.0), Resolution::Six);
        let mut counts = BTreeMap::new();
        for (n, cell) in cells.iter().enumerate() {
            let devices = [0, 3, 500, 19, 20][n % 5];
            counts.insert(*cell, SpotCount { devices, missed: devices / 3, unknown: 0 });
        }
        let tiles = tiles(&cells, &counts);
        let drawn: Vec<CellIndex> = tiles.iter().flat_map(|t| t.cells.iter().copied()).collect();
        assert_eq!(drawn.len(), cells.len(), "each cell once");
        assert_eq!(drawn.into_iter().collect::<BTreeSet<_>>(), cells);
        let sum = |f: fn(&SpotCount) -> u64| {
            (tiles.iter().map(|t| f(&t.count)).sum::<u64>(), counts.values().map(f).sum::<u64>())
        };
        assert_eq!(sum(|c| c.devices).0, sum(|c| c.devices).1);
        assert_eq!(sum(|c| c.missed).0, sum(|c| c.missed).1);
        assert!(tiles.iter().filter(|t| !t.is_shown()).count() <= 1);
        for tile in tiles.iter().filter(|t| t.cells.len() == 1) {
            assert!(tile.count.devices >= SHOWN_MIN);
        }
    }

    #[test]
    fn a_small_cell_among_big_ones_stays_near() {
        let cells = cells_of(&circle(22.5, 114.0, 60_000.0), Resolution::Six);
        let few = *cells.iter().nth(cells.len() / 2).unwrap();
        let devices = |cell: &CellIndex| if *cell == few { 3 } else { 100 };
        let counts = cells
            .iter()
            .map(|c| (*c, SpotCount { devices: devices(c), ..SpotCount::default() }))
            .collect();
        let tiles = tiles(&cells, &counts);
        let patch = tiles.iter().find(|t| t.cells.contains(&few)).unwrap();
        assert_eq!((patch.cells.len(), patch.count.devices), (2, 103));
        let parent = |c: &CellIndex| c.parent(Resolution::Five);
        assert_eq!(parent(&patch.cells[0]), parent(&patch.cells[1]));
    }

    #[test]
    fn a_handful_in_all_is_said_to_be_few() {
        let cells = cells_of(&circle(22.5, 114.0, 20_000.0), Resolution::Six);
        let counts = cells
            .iter()
            .take(1)
            .map(|c| (*c, SpotCount { devices: 19, ..SpotCount::default() }))
            .collect();
        let tiles = tiles(&cells, &counts);
        assert_eq!(
            (tiles.len(), tiles[0].cells.len(), tiles[0].is_shown()),
            (1, cells.len(), false)
        );
    }
}
