//! The order of a wave: how well acceptances follow the distance from the place last seen.
//!
//! Within a band no order is promised, and a band is kilometres wide, so distances alone would call
//! a perfect wave disorderly. Three figures measure different things:
//! - *disorder*: of all pairs of pushes in different bands, the share in which the farther band
//!   came first. 0 is perfect, 0.5 is no order at all. It counts the transitions between bands:
//!   several cores and nodes do not make them at the same instant, and retries come late.
//! - *behind*: for a push, how much nearer it is than the farthest phone already alerted, less the
//!   width of that phone's band; the 99th percentile, metres.
//! - *rank correlation* (Spearman) of time and distance: 1 is a perfectly sorted wave.

use serde::Serialize;

use super::sample::Sample;

/// Figures of the order of one wave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Order {
    /// Share of pairs of different bands in the wrong order.
    pub disorder: f64,
    /// 99th percentile of the distance by which pushes were behind the frontier, metres.
    pub behind_p99_meters: f64,
    /// Spearman's rank correlation of time and distance.
    pub rank_correlation: f64,
}

/// Returns the edges of bands that a coordinator uses by default, metres: 1, 2, 5, 10, 20, then
/// every 10 km.
#[must_use]
pub fn default_edges(upto_meters: f64) -> Vec<f64> {
    let mut edges = vec![1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0];
    let mut next = 30_000.0;
    while next <= upto_meters {
        edges.push(next);
        next += 10_000.0;
    }
    edges
}

/// Returns the band of a distance, counted from 0; `edges` are the outer limits of the bands,
/// ascending.
#[must_use]
pub fn band_of(edges: &[f64], meters: f32) -> usize {
    edges.partition_point(|edge| *edge <= f64::from(meters))
}

/// Sorts samples by time.
pub fn sort(samples: &mut [Sample]) {
    samples.sort_unstable_by(|a, b| a.at_ns.cmp(&b.at_ns).then(a.meters.total_cmp(&b.meters)));
}

/// Measures a wave in order of time; `edges` are the outer limits of the bands, ascending.
#[must_use]
#[allow(clippy::cast_precision_loss)] // pairs of 100 million pushes are 5e15, exact in an f64
pub fn measure(samples: &[Sample], edges: &[f64]) -> Order {
    if samples.len() < 2 {
        return Order { rank_correlation: 1.0, ..Order::default() };
    }

    let mut earlier = vec![0u64; edges.len() + 1];
    let (mut wrong, mut farthest) = (0u64, 0usize);
    let mut behind: Vec<f32> = Vec::with_capacity(samples.len());
    for Sample { meters, .. } in samples {
        let band = band_of(edges, *meters);
        wrong += earlier[band + 1..].iter().sum::<u64>();
        earlier[band] += 1;
        farthest = farthest.max(band);
        // The inner edge of the farthest band that has begun: a nearer push is behind.
        #[allow(clippy::cast_possible_truncation)] // metres in an f32 are good to a metre
        let frontier = if farthest == 0 { 0.0 } else { edges[farthest - 1] as f32 };
        behind.push((frontier - meters).max(0.0));
    }
    let all = samples.len() as f64;
    let same: f64 = earlier.iter().map(|n| *n as f64 * (*n as f64 - 1.0) / 2.0).sum();
    let different = all * (all - 1.0) / 2.0 - same;
    let p99 = (behind.len() * 99).div_ceil(100) - 1;
    let behind_p99 = *behind.select_nth_unstable_by(p99, f32::total_cmp).1;
    Order {
        disorder: if different > 0.0 { wrong as f64 / different } else { 0.0 },
        behind_p99_meters: f64::from(behind_p99),
        rank_correlation: spearman(samples),
    }
}

/// Returns the rank correlation of samples in order of time. The position is the rank in time; ties
/// in distance are rare and keep their order.
#[allow(clippy::cast_precision_loss)]
fn spearman(samples: &[Sample]) -> f64 {
    let mut by_distance: Vec<usize> = (0..samples.len()).collect();
    by_distance.sort_by(|a, b| samples[*a].meters.total_cmp(&samples[*b].meters));
    let n = samples.len() as f64;
    let squares: f64 =
        by_distance.iter().enumerate().map(|(rank, at)| (rank as f64 - *at as f64).powi(2)).sum();
    1.0 - 6.0 * squares / (n * (n * n - 1.0))
}

#[cfg(test)]
mod tests {
    use clarion_emulator::Platform;
    use h3o::Resolution;

    use super::*;
    use crate::{place::Place, verdict::sample::Spot};

    #[allow(clippy::cast_precision_loss)]
    fn wave(distances: impl IntoIterator<Item = u32>) -> Order {
        let spot = Spot::of(Place::new(0.0, 0.0), Platform::Apns, Resolution::Six);
        let sample = |(t, d): (usize, u32)| Sample { at_ns: t as u64, meters: d as f32, spot };
        let mut samples: Vec<Sample> = distances.into_iter().enumerate().map(sample).collect();
        sort(&mut samples);
        measure(&samples, &default_edges(100_000.0))
    }

    #[test]
    fn a_sorted_wave_is_perfect_and_a_reversed_one_is_not() {
        let sorted = wave((0..1_000).map(|i| i * 100));
        assert_eq!(
            (sorted.disorder, sorted.behind_p99_meters, sorted.rank_correlation),
            (0.0, 0.0, 1.0)
        );
        let reversed = wave((0..1_000).rev().map(|i| i * 100));
        assert_eq!((reversed.disorder, reversed.rank_correlation), (1.0, -1.0));
        assert!(reversed.behind_p99_meters > 80_000.0);
    }

    #[test]
    fn order_within_a_band_does_not_matter() {
        let mixed = wave([900, 100, 500, 1_900, 1_100, 1_500]);
        assert_eq!((mixed.disorder, mixed.behind_p99_meters), (0.0, 0.0));
    }

    #[test]
    fn one_late_phone_is_one_wrong_pair_for_each_that_overtook_it() {
        // Bands 0 (2 phones) and 1 (2 phones): 4 pairs of different bands, one of them wrong.
        let late = wave([100, 1_500, 200, 1_600]);
        assert_eq!(late.disorder, 0.25);
        assert_eq!(late.behind_p99_meters, 800.0);
    }

    #[test]
    fn edges_are_those_of_the_plan() {
        assert_eq!(
            default_edges(45_000.0),
            [1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0]
        );
    }
}
