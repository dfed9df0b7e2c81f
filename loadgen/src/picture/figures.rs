//! The numbers of a picture, gathered in two passes over the samples of the verdict.
//!
//! Samples are in order of time, and the first pass counts the samples of each group. So the median
//! of a cell, or any other share of any group, is the value at which the group's count reaches that
//! share. No list is sorted or kept, and fourteen million devices need no more room than their
//! cells and bands.

use clarion_emulator::Platform;

use super::{
    case::{Case, PLATFORMS, number},
    maps::{Layout, Map},
    scale::round_up,
    shares::Shares,
    tiles::SHOWN_MIN,
};
use crate::verdict::{order, sample::Sample};

/// Approximate number of intervals of the rate over time.
const INTERVALS: f64 = 120.0;
/// Most rows of distance; if there are more bands, a row shows several.
const ROWS_MAX: usize = 24;
/// Number of points on the latency curve for each factor of ten in the remaining share.
const POINTS_PER_DECADE: u32 = 16;

/// Data of all drawings; times in seconds from the acknowledgement.
#[derive(Debug)]
pub struct Figures {
    /// Maps of the wave, one for each platform.
    pub(super) maps: Vec<Map>,
    /// Platforms with an acceptance.
    pub(super) platforms: Vec<Platform>,
    /// Acceptances over time.
    pub(super) rate: Rate,
    /// Latency of each platform.
    pub(super) latency: Vec<Latency>,
    /// Rows of distance, from the nearest outwards.
    pub(super) rows: Vec<Row>,
    /// Events that are marked on the charts, such as faults.
    pub marks: Vec<Mark>,
}

/// An event during the wave.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Start, seconds from the acknowledgement.
    pub from: f64,
    /// End, seconds from the acknowledgement; equal to the start for a moment.
    pub until: f64,
    /// Short description of the event.
    pub label: String,
}

/// Acceptances over time by platform.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Length of each interval, seconds.
    pub(super) interval: f64,
    /// Acceptances by platform of [`PLATFORMS`], from time 0.
    pub(super) counts: Vec<[u64; PLATFORMS.len()]>,
}

/// Latency of one platform.
#[derive(Debug)]
pub(super) struct Latency {
    pub(super) platform: Platform,
    pub(super) count: u64,
    /// Points (share, seconds) in ascending order, denser towards 1; the last one is the last
    /// acceptance.
    pub(super) curve: Vec<(f64, f64)>,
}

/// Shares of a row's devices whose times are shown.
pub(super) const ROW_SHARES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// Row of one band, or of several adjacent ones.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) from_meters: f64,
    /// Outer limit, metres; infinite for the row beyond the last band.
    pub(super) to_meters: f64,
    /// For each platform of [`PLATFORMS`], the number of devices and the times at which
    /// [`ROW_SHARES`] of them were reached.
    pub(super) platforms: [Option<(u64, [f64; ROW_SHARES.len()])>; PLATFORMS.len()],
}

impl Figures {
    /// Gathers the figures from samples in order of time.
    #[must_use]
    pub fn gather(samples: &[Sample], case: &Case<'_>) -> Self {
        let mut counts = [0u64; PLATFORMS.len()];
        let mut by_band = vec![[0u64; PLATFORMS.len()]; case.edges.len() + 1];
        let layout = Layout::new(case);
        let mut accepted = vec![0u64; layout.len()];
        for sample in samples {
            let platform = number(sample.spot.platform());
            counts[platform] += 1;
            by_band[order::band_of(case.edges, sample.meters)][platform] += 1;
            accepted[layout.tile_at(sample.spot)] += 1;
        }

        let (mut rows, row_of) = rows(case.edges, &by_band);
        let after = |at_ns: u64| seconds(case.acknowledged_ns, at_ns);
        let last = samples.last().map_or(0.0, |s| after(s.at_ns)).max(0.0);
        let mut rate = Rate::upto(last);
        let shares: Vec<Vec<f64>> = counts.iter().map(|n| curve_shares(*n)).collect();
        let mut curves: Vec<Shares> =
            counts.iter().zip(&shares).map(|(n, shares)| Shares::new(*n, shares)).collect();
        let mut medians: Vec<Shares> = accepted.iter().map(|n| Shares::new(*n, &[0.5])).collect();
        let mut in_row: Vec<[Shares; PLATFORMS.len()]> = rows
            .iter()
            .map(|row| row.platforms.map(|p| Shares::new(p.map_or(0, |(n, _)| n), &ROW_SHARES)))
            .collect();
        for sample in samples {
            let (at, platform) = (after(sample.at_ns), number(sample.spot.platform()));
            rate.add(at, platform);
            curves[platform].push(at);
            medians[layout.tile_at(sample.spot)].push(at);
            in_row[row_of[order::band_of(case.edges, sample.meters)]][platform].push(at);
        }

        for (row, found) in rows.iter_mut().zip(&in_row) {
            for (platform, found) in row.platforms.iter_mut().zip(found) {
                if let Some((_, times)) = platform {
                    times.iter_mut().zip(found.values()).for_each(|(time, value)| *time = value);
                }
            }
        }
        let curve = |n: usize| Latency {
            platform: PLATFORMS[n],
            count: counts[n],
            curve: shares[n].iter().copied().zip(curves[n].values()).collect(),
        };
        let present = |n: &usize| counts[*n] > 0;
        Self {
            maps: layout.finish(case.resolution, &medians),
            platforms: (0..PLATFORMS.len()).filter(present).map(|n| PLATFORMS[n]).collect(),
            latency: (0..PLATFORMS.len()).filter(present).map(curve).collect(),
            rate,
            rows,
            marks: Vec::new(),
        }
    }
}

impl Rate {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // some INTERVALS
    fn upto(last: f64) -> Self {
        let interval = round_up(last.max(0.01) / INTERVALS);
        Self { interval, counts: vec![[0; PLATFORMS.len()]; (last / interval) as usize + 1] }
    }

    /// Counts one acceptance. One before the acknowledgement of the alert counts as at time 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // some INTERVALS
    fn add(&mut self, at: f64, platform: usize) {
        let last = self.counts.len() - 1;
        self.counts[((at / self.interval).max(0.0) as usize).min(last)][platform] += 1;
    }
}

/// Returns rows of at least [`SHOWN_MIN`] devices, and the row of each band.
fn rows(edges: &[f64], by_band: &[[u64; PLATFORMS.len()]]) -> (Vec<Row>, Vec<usize>) {
    let present = PLATFORMS.map(|p| by_band.iter().any(|n| n[number(p)] > 0));
    let used = by_band.iter().rposition(|n| n.iter().any(|n| *n > 0)).map_or(0, |last| last + 1);
    let together = used.div_ceil(ROWS_MAX).max(1);
    let (mut rows, mut row_of) = (Vec::<Row>::new(), Vec::with_capacity(by_band.len()));
    let mut bands_in_row = 0;
    for (band, counts) in by_band.iter().enumerate() {
        let inner = if band == 0 { 0.0 } else { edges[band - 1] };
        let outer = edges.get(band).copied().unwrap_or(f64::INFINITY);
        let full =
            bands_in_row >= together && rows.last().is_some_and(|row| row.is_enough(present));
        if band < used && (rows.is_empty() || full) {
            rows.push(Row {
                from_meters: inner,
                to_meters: outer,
                platforms: [None; PLATFORMS.len()],
            });
            bands_in_row = 0;
        }
        if let Some(row) = rows.last_mut().filter(|_| band < used) {
            row.add(outer, *counts);
            bands_in_row += 1;
        }
        row_of.push(rows.len().saturating_sub(1));
    }
    // A last row with too few devices is joined with the one before.
    if rows.len() > 1
        && let Some(rest) = rows.pop_if(|row| !row.is_enough(present))
    {
        let at = rows.len() - 1;
        rows[at].add(rest.to_meters, rest.platforms.map(|p| p.map_or(0, |(n, _)| n)));
        row_of.iter_mut().for_each(|row| *row = (*row).min(at));
    }
    (rows, row_of)
}

impl Row {
    fn add(&mut self, to_meters: f64, counts: [u64; PLATFORMS.len()]) {
        self.to_meters = to_meters;
        for (platform, more) in self.platforms.iter_mut().zip(counts) {
            if more > 0 {
                let (count, times) = platform.unwrap_or((0, [f64::NAN; ROW_SHARES.len()]));
                *platform = Some((count + more, times));
            }
        }
    }

    /// Reports whether the row has enough devices of each present platform to be shown.
    fn is_enough(&self, present: [bool; PLATFORMS.len()]) -> bool {
        let enough = |(p, there): (&Option<(u64, _)>, bool)| {
            !there || p.is_some_and(|(n, _)| n >= SHOWN_MIN)
        };
        self.platforms.iter().zip(present).all(enough)
    }
}

/// Returns shares from 0 to 1, evenly spaced on a logarithmic scale of the remaining share; the
/// last is 1.
// A count has a few decades, so the casts are exact.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn curve_shares(count: u64) -> Vec<f64> {
    let points = ((count.max(1) as f64).log10() * f64::from(POINTS_PER_DECADE)).floor() as u32;
    let share = |point: u32| 1.0 - 10f64.powf(-f64::from(point) / f64::from(POINTS_PER_DECADE));
    (0..=points).map(share).chain([1.0]).collect()
}

/// Returns the time between two moments, seconds; negative if `to_ns` is earlier.
#[allow(clippy::cast_precision_loss)] // nanoseconds of a run
pub fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    let magnitude = from_ns.abs_diff(to_ns) as f64 / 1e9;
    if to_ns < from_ns { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use h3o::Resolution;

    use super::*;
    use crate::{
        place::Place,
        scenario::RegionSpec,
        verdict::{counts::SpotCount, sample::Spot},
    };

    const CENTER: Place = Place { latitude: 22.5, longitude: 114.0 };

    fn region() -> RegionSpec {
        RegionSpec::Circle { center: CENTER, radius_meters: 40_000.0 }
    }

    /// Creates a wave of a thousand devices outwards along one ray, one per millisecond, every
    /// fourth of them FCM.
    fn wave() -> (Vec<Sample>, BTreeMap<Spot, SpotCount>) {
        let (mut samples, mut spots) = (Vec::new(), BTreeMap::<Spot, SpotCount>::new());
        for n in 0..1_000u16 {
            let platform = if n % 4 == 0 { Platform::Fcm } else { Platform::Apns };
            let meters = f64::from(n) * 40.0;
            let spot = Spot::of(CENTER.toward(1.0, meters), platform, Resolution::Six);
            spots.entry(spot).or_default().devices += 1;
            #[allow(clippy::cast_possible_truncation)]
            samples.push(Sample {
                at_ns: 5_000_000_000 + u64::from(n) * 1_000_000,
                meters: meters as f32,
                spot,
            });
        }
        (samples, spots)
    }

    fn gathered() -> Figures {
        let (samples, spots) = wave();
        let case = Case {
            region: &region(),
            resolution: Resolution::Six,
            spots: &spots,
            edges: &order::default_edges(40_000.0),
            acknowledged_ns: 5_000_000_000,
        };
        Figures::gather(&samples, &case)
    }

    #[test]
    fn everybody_is_counted_once_everywhere() {
        let figures = gathered();
        assert_eq!(figures.platforms, PLATFORMS);
        let by_platform = |n: usize| figures.rate.counts.iter().map(|c| c[n]).sum::<u64>();
        assert_eq!((by_platform(0), by_platform(1)), (750, 250));
        assert_eq!(figures.maps.len(), 2);
        let tiles = figures.maps.iter().flat_map(|m| &m.tiles);
        assert_eq!(tiles.map(|(tile, _)| tile.count.devices).sum::<u64>(), 1_000);
        let in_rows: u64 =
            figures.rows.iter().flat_map(|r| r.platforms).flatten().map(|(n, _)| n).sum();
        assert_eq!(in_rows, 1_000);
        assert!(figures.rows.iter().all(|r| r.is_enough([true, true])));
    }

    #[test]
    fn shares_are_those_of_sorted_lists() {
        let figures = gathered();
        // Every fourth millisecond from 0: the last of FCM is number 996, and half of them are
        // reached with number 496.
        let fcm = &figures.latency[1];
        assert_eq!((fcm.count, fcm.curve.last()), (250, Some(&(1.0, 0.996))));
        assert_eq!(fcm.curve[0], (0.0, 0.0));
        assert!(fcm.curve.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
        // 0 to 2 km are samples 0 to 49, of which 13 are FCM; with those up to 5 km they are 32,
        // which is enough.
        let row = &figures.rows[0];
        assert_eq!((row.from_meters, row.to_meters), (0.0, 5_000.0));
        let (count, times) = row.platforms[1].unwrap();
        assert_eq!((count, times[2]), (32, 0.060));
        let (low, high) = figures.maps[0].colour_range().unwrap();
        assert!(0.0 < low && low < 0.2 && 0.8 < high && high < 1.0, "{low} to {high}");
    }

    #[test]
    fn many_bands_share_rows_and_few_devices_are_not_alone() {
        let edges: Vec<f64> = (1..=100).map(|e| f64::from(e) * 1_000.0).collect();
        let mut by_band = vec![[10, 15]; 101];
        by_band[100] = [3, 0];
        let (rows, row_of) = rows(&edges, &by_band);
        assert!(rows.len() <= ROWS_MAX && rows.iter().all(|r| r.is_enough([true, true])));
        assert_eq!(row_of.len(), 101);
        assert!(
            row_of.windows(2).all(|w| w[0] <= w[1]) && *row_of.last().unwrap() == rows.len() - 1
        );
        assert_eq!(
            rows.iter().flat_map(|r| r.platforms).flatten().map(|(n, _)| n).sum::<u64>(),
            2_503
        );
        assert!(rows.last().unwrap().to_meters.is_infinite());
    }

    #[test]
    fn nobody_reached_is_a_picture_too() {
        let spots = BTreeMap::new();
        let case = Case {
            region: &region(),
            resolution: Resolution::Six,
            spots: &spots,
            edges: &[1_000.0],
            acknowledged_ns: 1,
        };
        let figures = Figures::gather(&[], &case);
        assert!(figures.platforms.is_empty() && figures.rows.is_empty());
        assert!(figures.maps[0].colour_range().is_none());
        assert_eq!(figures.maps[0].tiles.len(), 1, "all of the region, and nobody in it");
    }
}
