//! Counts of devices that were handed to a lane, by outcome.

use clarion_proto::outcome::Outcome;

/// Devices handed and their outcomes; totals that only grow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Devices handed to a lane.
    pub handed: u64,
    /// Devices by [`Outcome`], in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 5],
}

impl Counts {
    /// Counts one outcome.
    pub fn count(&mut self, outcome: Outcome) {
        self.outcomes[outcome as usize] += 1;
    }

    /// Adds another core's counts.
    pub fn add(&mut self, other: &Self) {
        self.handed += other.handed;
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
    }

    /// Devices that were handed over and have no outcome yet.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.handed - self.outcomes.iter().sum::<u64>()
    }
}
