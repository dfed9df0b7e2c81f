//! Who may ask how often how many there are, and about which region. Pure: time is handed in.
//!
//! One answer says nothing of one person ([`super::Told`]); the difference of two may. Of two
//! circles that differ by one house, the counts differ by who is in it. So:
//!
//! - **Nearly equal regions are one region.** A preview of a region that is nearly the same as one
//!   that was previewed in the last hour, by whomever, is answered for *that* region
//!   ([`Sketch::is_near`]: they share 95 %, or differ by at most 1 km²). An operator who drags a
//!   circle sees the count of where it was first, until it has moved by a twentieth.
//! - **The same region is asked [`REGION_BURST`] times at once**, then once every [`REGION_EVERY`]
//!   by each peer: the difference of two moments is who came or left.
//! - **A peer asks [`PEER_BURST`] times at once**, then once every [`PEER_EVERY`].
//!
//! Whether an audience is large enough is a question, too. An alert that is sent is never held up
//! by these limits: it is on record for everybody. One that is only validated counts as a preview
//! does; one that is refused as too small counts against further alerts to nearly the same region.
//!
//! What an operator does on a bad day (a dozen circles, two audiences each, sent twice) stays far
//! below. What remains open to whoever has time is in [`super`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_runtime::peers::{PeerKey, rates::Rates};

use super::sketch::Sketch;

/// Previews and validations of one peer at once.
pub const PEER_BURST: u32 = 60;
/// Then one every so long.
pub const PEER_EVERY: Duration = Duration::from_secs(5);
/// Of one region by one peer at once; previews, validations and refusals are counted for
/// themselves.
pub const REGION_BURST: u32 = 24;
/// Then one every so long.
pub const REGION_EVERY: Duration = Duration::from_secs(30);
/// How long a region that nobody asks for is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);
/// Largest number of regions remembered, over all peers.
const REGIONS_MAX: usize = 1_024;
/// Cells of all their plans together: 16 MB. A plan of 120 km has some 2,000.
const CELLS_MAX: usize = 2_000_000;
/// Larger regions are not remembered, and none is nearly equal to them: of 200,000 km² and more at
/// the least, and 4 MB.
pub const REGION_CELLS_MAX: usize = 500_000;
/// Peers that a region remembers.
const PEERS_OF_REGION_MAX: usize = 64;

/// A region that is asked about; `P` is what answers for it.
#[derive(Debug)]
pub struct Asked<P> {
    /// Of its cover.
    pub sketch: Sketch,
    /// Its plan.
    pub plan: Arc<P>,
    /// Cells of the plan.
    pub cells: usize,
}

/// Why a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Preview,
    Validate,
    Refused,
}

/// What has been asked.
#[derive(Debug)]
pub struct Curiosity<P> {
    peers: Rates,
    regions: Vec<Region<P>>,
}

#[derive(Debug)]
struct Region<P> {
    asked: Asked<P>,
    /// Whoever asked first: whose share of the memory it takes.
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
    /// A preview: the plan of the region that is to be counted, and whether it is another one,
    /// which was asked for earlier.
    ///
    /// # Errors
    /// How long to wait.
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

    /// A question about a region that is too large to be remembered.
    ///
    /// # Errors
    /// How long to wait.
    pub fn at_rate(&mut self, peer: PeerKey, now: Duration) -> Result<(), Duration> {
        self.peers.take(peer, now)
    }

    /// An alert that is only to be validated.
    ///
    /// # Errors
    /// How long to wait.
    pub fn validate(
        &mut self,
        peer: PeerKey,
        asked: Asked<P>,
        now: Duration,
    ) -> Result<(), Duration> {
        self.ask(peer, asked, Why::Validate, now).map(drop)
    }

    /// Whether so few alerts of this peer to nearly this region were refused that another one may
    /// be tried.
    ///
    /// # Errors
    /// How long to wait.
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

    /// An alert was refused because its audience is too small.
    pub fn refused(&mut self, peer: PeerKey, asked: Asked<P>, now: Duration) {
        let at = self.remember(peer, asked, now);
        // It was checked before the question; if another was refused meanwhile, this one goes
        // beyond by one.
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

    /// The region that stands for this one: one that is nearly the same, or itself.
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

    /// Of the peer that takes the most memory, the region that was asked for least recently, but
    /// not the newest of all.
    fn forget_one(&mut self) {
        let mut taken: BTreeMap<PeerKey, usize> = BTreeMap::new();
        for region in &self.regions {
            // A region takes some room however few cells it has.
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
