//! Rate limits of counts, by peer and by region. Pure: the caller passes the time.
//!
//! One count says nothing about one person ([`super::Told`]); the difference of two counts may. If
//! two circles differ by one house, their counts differ by the devices in the house. So:
//!
//! - **Nearly equal regions are one region.** If any peer previewed a nearly equal region in the
//!   last hour, a preview returns the count of *that* region ([`Sketch::is_near`]: the regions
//!   share 95 %, or differ by at most 1 km²). An operator who drags a circle sees the count of the
//!   first place until the circle has moved by a twentieth.
//! - **A peer may count the same region [`REGION_BURST`] times at once**, then once every
//!   [`REGION_EVERY`]: the difference of two moments shows who came or left.
//! - **A peer may count [`PEER_BURST`] times at once**, then once every [`PEER_EVERY`].
//!
//! The check whether an audience is large enough is a count, too. These limits never delay an alert
//! that is sent: its record is visible to every caller. An alert that is only validated counts as a
//! preview. An alert that is refused as too small counts against further alerts to nearly the same
//! region.
//!
//! An operator on a bad day (a dozen circles, two audiences each, sent twice) stays far below the
//! limits. [`super`] lists the gaps that remain.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_runtime::peers::{PeerKey, rates::Rates};

use super::sketch::Sketch;

/// Maximum number of previews and validations that one peer may start at once.
pub const PEER_BURST: u32 = 60;
/// Interval at which a peer gets one further preview or validation.
pub const PEER_EVERY: Duration = Duration::from_secs(5);
/// Maximum number of counts of one region that one peer may start at once; previews, validations
/// and refusals are counted separately.
pub const REGION_BURST: u32 = 24;
/// Interval at which a peer gets one further count of a region.
pub const REGION_EVERY: Duration = Duration::from_secs(30);
/// Time for which a region is remembered after its last count.
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);
/// Largest number of regions remembered, over all peers.
const REGIONS_MAX: usize = 1_024;
/// Maximum number of cells of all remembered plans, 16 MB. A plan of 120 km has some 2,000, the
/// largest plan 200,000.
const CELLS_MAX: usize = 2_000_000;
/// Maximum number of peers whose counts a region remembers.
const PEERS_OF_REGION_MAX: usize = 64;

/// A region that a caller wants to count; `P` is the plan by which it is counted.
#[derive(Debug)]
pub struct Asked<P> {
    /// Sketch of the region's cover.
    pub sketch: Sketch,
    /// Plan by which the region is counted.
    pub plan: Arc<P>,
    /// Number of cells of the plan.
    pub cells: usize,
}

/// Reason for a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Preview,
    Validate,
    Refused,
}

/// The counts of the last hour, by region and by peer.
#[derive(Debug)]
pub struct Curiosity<P> {
    peers: Rates,
    regions: Vec<Region<P>>,
}

#[derive(Debug)]
struct Region<P> {
    asked: Asked<P>,
    /// The first peer that counted the region; the region uses this peer's share of the memory.
    of: PeerKey,
    last: Duration,
    rates: [Rates; 3],
}

impl<P> Default for Curiosity<P> {
    fn default() -> Self {
        Self { peers: Rates::new(PEER_BURST, PEER_EVERY), regions: Vec::new() }
    }
}

impl<P> Curiosity<P> {
    /// Admits a preview. Returns the plan that is to be counted, and whether it is the plan of a
    /// nearly equal region that was counted earlier.
    ///
    /// # Errors
    /// A rate is exceeded; the error is the time until the next try.
    pub fn preview(
        &mut self,
        peer: PeerKey,
        asked: Asked<P>,
        now: Duration,
    ) -> Result<(Arc<P>, bool), Duration>
    where
        P: PartialEq,
    {
        let own = Arc::clone(&asked.plan);
        let region = self.ask(peer, asked, Why::Preview, now)?;
        let earlier = region.asked.plan != own;
        Ok((Arc::clone(&region.asked.plan), earlier))
    }

    /// Admits an alert that is only validated.
    ///
    /// # Errors
    /// A rate is exceeded; the error is the time until the next try.
    pub fn validate(
        &mut self,
        peer: PeerKey,
        asked: Asked<P>,
        now: Duration,
    ) -> Result<(), Duration> {
        self.ask(peer, asked, Why::Validate, now).map(drop)
    }

    /// Checks whether the peer may try an alert after refused alerts to nearly the same region.
    ///
    /// # Errors
    /// Too many alerts were refused; the error is the time until the next try.
    pub fn may_create(
        &self,
        peer: PeerKey,
        sketch: &Sketch,
        now: Duration,
    ) -> Result<(), Duration> {
        match self.regions.iter().find(|region| region.is_near(sketch, now)) {
            Some(region) => region.rates[Why::Refused as usize].check(peer, now),
            None => Ok(()),
        }
    }

    /// Records that an alert was refused because its audience is too small.
    pub fn refused(&mut self, peer: PeerKey, asked: Asked<P>, now: Duration) {
        let at = self.remember(peer, asked, now);
        // The rate was checked before the count; if another alert was refused meanwhile, this
        // refusal exceeds the rate by one.
        let _ = self.regions[at].rates[Why::Refused as usize].take(peer, now);
    }

    fn ask(
        &mut self,
        peer: PeerKey,
        asked: Asked<P>,
        why: Why,
        now: Duration,
    ) -> Result<&Region<P>, Duration> {
        self.peers.check(peer, now)?;
        let at = self.remember(peer, asked, now);
        self.regions[at].rates[why as usize].take(peer, now)?;
        self.peers.take(peer, now)?;
        Ok(&self.regions[at])
    }

    /// Index of the remembered region that is nearly equal, or of the new region.
    fn remember(&mut self, peer: PeerKey, asked: Asked<P>, now: Duration) -> usize {
        self.regions.retain(|region| now.saturating_sub(region.last) < REMEMBERED_FOR);
        if let Some(at) = self.regions.iter().position(|region| region.is_near(&asked.sketch, now))
        {
            self.regions[at].last = now;
            return at;
        }
        let rate = || Rates::new(REGION_BURST, REGION_EVERY).of_peers(PEERS_OF_REGION_MAX);
        self.regions.push(Region { asked, of: peer, last: now, rates: [rate(), rate(), rate()] });
        while self.regions.len() > 1
            && (self.regions.len() > REGIONS_MAX || self.cells() > CELLS_MAX)
        {
            self.forget_one();
        }
        self.regions.len() - 1
    }

    fn cells(&self) -> usize {
        self.regions.iter().map(|region| region.asked.cells).sum()
    }

    /// Removes the least recently counted region of the peer that uses the most memory, but never
    /// the newest region.
    fn forget_one(&mut self) {
        let mut taken: BTreeMap<PeerKey, usize> = BTreeMap::new();
        for region in &self.regions {
            // A region with few cells takes memory, too.
            *taken.entry(region.of).or_default() += region.asked.cells + CELLS_MAX / REGIONS_MAX;
        }
        let old = &self.regions[..self.regions.len() - 1];
        let most = |region: &&Region<P>| taken[&region.of];
        let Some(most) = old.iter().max_by_key(most).map(|region| region.of) else { return };
        let oldest = old
            .iter()
            .enumerate()
            .filter(|(_, region)| region.of == most)
            .min_by_key(|(_, region)| region.last);
        if let Some((at, _)) = oldest {
            self.regions.remove(at);
        }
    }
}

impl<P> Region<P> {
    fn is_near(&self, sketch: &Sketch, now: Duration) -> bool {
        now.saturating_sub(self.last) < REMEMBERED_FOR && self.asked.sketch.is_near(sketch)
    }
}

#[cfg(test)]
mod tests;
