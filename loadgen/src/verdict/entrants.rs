//! Entrants: devices that enter behind the frontier and must be alerted soon if they stay.
//!
//! The verdict does not ask the cluster for the frontier. By the gateways' record, the frontier has
//! certainly passed a band when the last unchanged device of this band and of the next one has been
//! alerted. The next band counts because the distance of a cell decides on its band, and a device
//! may be nearer or farther than its cell by a few hundred metres.
//!
//! The time from the acknowledgement of the entering change to the acceptance of the push includes
//! every step that makes the device visible: the log, the feed, the node's turn, the late queue,
//! the pace. So these times are an upper bound of the time until the change is visible to the walk.

use std::{collections::BTreeMap, ops::Range};

use clarion_emulator::Platform;

use super::{Case, Life, geometry, history::Stretch, order};

/// Time at which the frontier passed each band.
#[derive(Debug, Default)]
pub struct Frontier {
    /// Time at which the last device of each band was alerted, by platform, nanoseconds of
    /// `CLOCK_MONOTONIC`; 0 for a band without devices.
    alerted_ns: BTreeMap<Platform, Vec<u64>>,
}

impl Frontier {
    /// Computes the frontier over a range of devices.
    pub(super) fn of(case: &Case<'_>, range: Range<u64>) -> Self {
        let mut frontier = Self::default();
        if case.history.changes() == 0 {
            return frontier; // nobody comes in
        }
        for index in range {
            let device = case.population.device(index);
            let life = Life::of(case, &device);
            let Some(at_ns) = super::Tally::of(&life.pushes).first_accepted_ns else { continue };
            let through =
                |s: &&Stretch| s.acknowledged_ns <= case.begun_ns && s.lasted_ns() >= at_ns;
            let Some(standing) = life.stretches.iter().find(through).and_then(|s| s.standing)
            else {
                continue;
            };
            if case.region.outside_meters(standing.place) == 0.0 {
                let bands = frontier
                    .alerted_ns
                    .entry(device.platform)
                    .or_insert_with(|| vec![0; case.edges.len() + 1]);
                let band = band_of(case, standing.place);
                bands[band] = bands[band].max(at_ns);
            }
        }
        frontier
    }

    /// Joins the frontiers of all ranges.
    pub(super) fn merge(parts: Vec<Self>) -> Self {
        let mut whole = Self::default();
        for (platform, bands) in parts.into_iter().flat_map(|part| part.alerted_ns) {
            let all = whole.alerted_ns.entry(platform).or_insert_with(|| vec![0; bands.len()]);
            all.iter_mut().zip(bands).for_each(|(all, at)| *all = at.max(*all));
        }
        whole
    }

    /// Returns the time from which the frontier had certainly passed a band; `None` if it is
    /// unknown.
    fn passed_ns(&self, platform: Platform, band: usize) -> Option<u64> {
        let bands = self.alerted_ns.get(&platform)?;
        // The outermost band has no next one that would show it.
        let next = *bands.get(band + 1)?;
        (next > 0).then(|| bands[..=band + 1].iter().copied().max().unwrap_or(next))
    }
}

/// Result for a device that may have entered behind the frontier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// The device did not enter, had been alerted before, or left too soon.
    None,
    /// The device entered, stayed for the settling time, and was alerted.
    Alerted {
        /// Time from the acknowledgement to the acceptance, nanoseconds.
        after_ns: u64,
    },
    /// The device entered, stayed, and was never alerted.
    NeverAlerted,
}

/// Returns the result of the first time that a device entered behind the frontier and stayed.
pub(super) fn arrivals(
    case: &Case<'_>,
    frontier: &Frontier,
    platform: Platform,
    stretches: &[Stretch],
    alerted_ns: Option<u64>,
) -> Arrivals {
    let is_behind = |s: &Stretch| {
        let Some(standing) = s.standing.filter(|_| s.moved && s.sent_ns > case.begun_ns) else {
            return false;
        };
        case.region.outside_meters(standing.place) == 0.0
            && frontier
                .passed_ns(platform, band_of(case, standing.place))
                .is_some_and(|passed| passed < s.sent_ns)
    };
    // (acknowledged, until) of the present stay.
    let mut came: Option<(u64, u64)> = None;
    for stretch in stretches {
        if !is_behind(stretch) {
            came = None;
            continue;
        }
        if alerted_ns.is_some_and(|at| at < stretch.sent_ns) && came.is_none() {
            return Arrivals::None;
        }
        let since = came.map_or(stretch.acknowledged_ns, |(since, _)| since);
        came = Some((since, stretch.lasted_ns()));
        if stretch.lasted_ns().min(case.end_ns) >= since + case.settle_ns {
            // The push was accepted before the acknowledgement arrived, so the time is 0.
            return alerted_ns.map_or(Arrivals::NeverAlerted, |at| Arrivals::Alerted {
                after_ns: at.saturating_sub(since),
            });
        }
    }
    Arrivals::None
}

fn band_of(case: &Case<'_>, place: crate::place::Place) -> usize {
    #[allow(clippy::cast_possible_truncation)] // metres in an f32 are good to a metre
    order::band_of(case.edges, geometry::distance_meters(case.last_seen, place) as f32)
}
