//! Hashes of the rows that were read lately, so that a pass does not write them again. Bounded: a
//! row that is forgotten is written again, which changes nothing.

use std::collections::BTreeSet;

/// Hashes of each generation: some 12 MB.
const GENERATION_MAX: usize = 500_000;

/// The newest hashes, and those before them.
#[derive(Debug, Default)]
pub(super) struct Seen {
    newest: BTreeSet<u64>,
    before: BTreeSet<u64>,
}

impl Seen {
    /// Adds a hash; false: it was there.
    pub(super) fn insert(&mut self, hash: u64) -> bool {
        if self.newest.contains(&hash) {
            return false;
        }
        let is_new = !self.before.contains(&hash);
        if self.newest.len() == GENERATION_MAX {
            self.before = std::mem::take(&mut self.newest);
        }
        self.newest.insert(hash);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_known_until_many_others_came() {
        let mut seen = Seen::default();
        let others = GENERATION_MAX as u64;
        assert!(seen.insert(0) && !seen.insert(0));
        (1..others).for_each(|hash| assert!(seen.insert(hash)));
        assert!(!seen.insert(0), "of the generation before");
        (others..4 * others).for_each(|hash| assert!(seen.insert(hash)));
        assert!(seen.insert(0), "forgotten");
        assert!(seen.newest.len() + seen.before.len() <= 2 * GENERATION_MAX);
    }
}
