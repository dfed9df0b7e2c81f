//! Links between places: the delays of messages, and the cuts.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::time::Time;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

/// Where an actor runs. Actors of one place are one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u16);

/// Bounds of a delay; a delay is drawn uniformly between the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// Shortest delay of a delivery.
    pub min: Duration,
    /// Longest delay of a delivery.
    pub max: Duration,
}

impl Delay {
    /// A delay between two numbers of microseconds.
    #[must_use]
    pub const fn micros(min: u64, max: u64) -> Self {
        Self { min: Duration::from_micros(min), max: Duration::from_micros(max) }
    }

    fn draw(self, random: &mut Pcg64Mcg) -> Duration {
        random.random_range(self.min..=self.max)
    }
}

/// A cut: a link that carries no messages for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The two places that cannot reach each other.
    pub between: (Place, Place),
    /// Begin of the cut.
    pub from: Time,
    /// End of the cut.
    pub until: Time,
}

/// Delays of all links between places.
#[derive(Debug, Clone)]
pub struct Links {
    within: Delay,
    otherwise: Delay,
    between: BTreeMap<(Place, Place), Delay>,
    cuts: Vec<Cut>,
}

impl Links {
    /// `within`: delay between actors of one process; `otherwise`: between two places.
    #[must_use]
    pub fn new(within: Delay, otherwise: Delay) -> Self {
        Self { within, otherwise, between: BTreeMap::new(), cuts: Vec::new() }
    }

    /// Sets the delay between two places, in both directions.
    pub fn set(&mut self, a: Place, b: Place, delay: Delay) {
        self.between.insert((a.min(b), a.max(b)), delay);
    }

    pub(crate) fn within(&self, random: &mut Pcg64Mcg) -> Duration {
        self.within.draw(random)
    }

    pub(crate) fn delay(&self, a: Place, b: Place, random: &mut Pcg64Mcg) -> Duration {
        self.between.get(&(a.min(b), a.max(b))).unwrap_or(&self.otherwise).draw(random)
    }

    /// Adds a cut and returns its number.
    pub(crate) fn cut(&mut self, cut: Cut) -> usize {
        self.cuts.push(cut);
        self.cuts.len() - 1
    }

    pub(crate) fn is_cut(&self, a: Place, b: Place, now: Time) -> bool {
        let cuts = self.cuts.iter().enumerate();
        cuts.filter(|(_, cut)| cut.from <= now && now < cut.until).any(|(n, _)| self.is_of(n, a, b))
    }

    /// Whether a cut is between two places.
    pub(crate) fn is_of(&self, number: usize, a: Place, b: Place) -> bool {
        let (one, other) = self.cuts[number].between;
        (a, b) == (one, other) || (b, a) == (one, other)
    }
}
