//! Counts of outcomes by the answers of gateways.

use clarion_proto::outcome::Outcome;

/// Final answers of gateways about devices, as totals that only grow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Answers {
    /// Number of devices by [`Outcome`], in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 5],
    /// Number of dead tokens whose answer may also mean the wrong environment.
    pub bad_device_tokens: u64,
}

impl Answers {
    /// Counts one outcome.
    pub fn count(&mut self, outcome: Outcome) {
        self.outcomes[outcome as usize] += 1;
    }

    /// Returns the number of devices with this outcome.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Returns the number of devices whose outcome a gateway decided.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.of(Outcome::Accepted) + self.of(Outcome::Dead) + self.of(Outcome::Refused)
    }

    /// Adds the totals of another message or core.
    pub fn add(&mut self, other: &Self) {
        self.outcomes.iter_mut().zip(other.outcomes).for_each(|(mine, theirs)| *mine += theirs);
        self.bad_device_tokens += other.bad_device_tokens;
    }
}
