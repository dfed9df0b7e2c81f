//! Quantiles of a sequence, found without keeping or sorting it.

/// Finder of the values at some shares of an ascending sequence whose length is known.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    /// Ranks from 1, ascending, each with its value once it is known.
    ranks: Vec<(u64, f64)>,
    next: usize,
    seen: u64,
}

impl Shares {
    /// Creates a finder for a sequence of this length.
    // A rank is below the length, so its casts are exact.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub(super) fn new(count: u64, shares: &[f64]) -> Self {
        let rank =
            |share: &f64| (((count as f64 * share).ceil() as u64).clamp(1, count.max(1)), f64::NAN);
        Self { ranks: shares.iter().map(rank).collect(), next: 0, seen: 0 }
    }

    /// Returns the value at each share, in their order; NaN before it is known.
    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.ranks.iter().map(|(_, value)| *value)
    }

    /// Returns the value at the first share; NaN before it is known.
    pub(super) fn first(&self) -> f64 {
        self.values().next().unwrap_or(f64::NAN)
    }

    /// Takes the next value.
    pub(super) fn push(&mut self, value: f64) {
        self.seen += 1;
        while let Some((rank, at)) = self.ranks.get_mut(self.next)
            && *rank == self.seen
        {
            *at = value;
            self.next += 1;
        }
    }
}
