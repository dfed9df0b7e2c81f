//! The data of the maps: one map for each platform, its tiles, and the time at which half of the
//! devices in each tile were reached.
//!
//! Lanes do not wait for each other. If a quota delays one platform and not the other, the median
//! over both depends on which platform has one phone more in a cell: such a map shows noise. A map
//! of one platform shows its own wave.

use std::collections::BTreeMap;

use clarion_emulator::Platform;
use h3o::{CellIndex, Resolution};

use super::{
    case::{Case, PLATFORMS},
    projection::middle,
    shares::Shares,
    tiles::{self, Tile},
};
use crate::{
    place::Place,
    scenario::RegionSpec,
    verdict::{counts::SpotCount, geometry::Region, sample::Spot},
};

/// The tiles of one platform.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) platform: Platform,
    pub(super) resolution: Resolution,
    /// Coloured tiles, and the time at which half of the devices in each were reached.
    pub(super) tiles: Vec<(Tile, Option<f64>)>,
}

impl Map {
    /// Returns the number of drawn cells.
    pub(super) fn cells(&self) -> usize {
        self.tiles.iter().map(|(tile, _)| tile.cells.len()).sum()
    }

    /// Reports whether a tile has too few devices to show its figures.
    pub(super) fn has_few(&self) -> bool {
        self.tiles.iter().any(|(tile, _)| !tile.is_shown())
    }

    /// Reports whether a device was missed.
    pub(super) fn has_missed(&self) -> bool {
        self.tiles.iter().any(|(tile, _)| tile.count.missed > 0)
    }

    /// Reports whether a device got a push without an answer.
    pub(super) fn has_unknown(&self) -> bool {
        self.tiles.iter().any(|(tile, _)| tile.count.unknown > 0)
    }

    /// Returns the ends of the colour scale: the medians of the first and the last tile.
    pub(super) fn colour_range(&self) -> Option<(f64, f64)> {
        let medians =
            self.tiles.iter().filter(|(tile, _)| tile.is_shown()).filter_map(|(_, median)| *median);
        medians.fold(None, |range, m| {
            Some(range.map_or((m, m), |(low, high): (f64, f64)| (low.min(m), high.max(m))))
        })
    }
}

/// Tiles of all maps before the times are known.
pub(super) struct Layout {
    maps: Vec<(Platform, Vec<Tile>)>,
    /// Number of each spot's tile; tiles are numbered over all maps.
    tile_of: BTreeMap<Spot, usize>,
}

impl Layout {
    pub(super) fn new(case: &Case<'_>) -> Self {
        let mut by_platform: BTreeMap<Platform, BTreeMap<CellIndex, SpotCount>> = BTreeMap::new();
        for (spot, count) in case.spots {
            let cells = by_platform.entry(spot.platform()).or_default();
            cells.entry(spot.cell(case.resolution)).or_default().add(*count);
        }
        // A region without devices has a map, too.
        if by_platform.is_empty() {
            by_platform.insert(PLATFORMS[0], BTreeMap::new());
        }
        let (mut maps, mut tile_of, mut numbered) = (Vec::new(), BTreeMap::new(), 0);
        for (platform, counts) in by_platform {
            let tiles = tiles_of(case, &counts);
            for (n, tile) in tiles.iter().enumerate() {
                tile_of.extend(
                    tile.cells.iter().map(|cell| (Spot::new(*cell, platform), numbered + n)),
                );
            }
            numbered += tiles.len();
            maps.push((platform, tiles));
        }
        Self { maps, tile_of }
    }

    /// Returns the number of tiles on all maps.
    pub(super) fn len(&self) -> usize {
        self.maps.iter().map(|(_, tiles)| tiles.len()).sum()
    }

    /// Returns the number of the tile of a spot.
    ///
    /// # Panics
    /// If no device was counted there.
    pub(super) fn tile_at(&self, spot: Spot) -> usize {
        *self.tile_of.get(&spot).expect("who was accepted was counted where it is")
    }

    /// Completes the maps with the median of each tile.
    pub(super) fn finish(self, resolution: Resolution, medians: &[Shares]) -> Vec<Map> {
        let mut medians =
            medians.iter().map(|m| Some(m.first()).filter(|seconds| seconds.is_finite()));
        let mut map = |(platform, tiles): (Platform, Vec<Tile>)| {
            let tiles = tiles.into_iter().map(|tile| (tile, medians.next().flatten())).collect();
            Map { platform, resolution, tiles }
        };
        self.maps.into_iter().map(&mut map).collect()
    }
}

fn tiles_of(case: &Case<'_>, counts: &BTreeMap<CellIndex, SpotCount>) -> Vec<Tile> {
    let corners: Vec<Place> = match case.region {
        RegionSpec::Circle { .. } => Vec::new(),
        RegionSpec::Polygon { outer, .. } => outer.clone(),
    };
    let corners = corners.into_iter().chain([middle(case.region)]);
    let cover =
        tiles::cover(&Region::new(case.region), corners, counts.keys().copied(), case.resolution);
    tiles::tiles(&cover, counts)
}
