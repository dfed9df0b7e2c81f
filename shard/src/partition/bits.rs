//! A bit set with one bit for each ordinal of a partition.

use clarion_proto::ids::Ordinal;
use roaring::RoaringBitmap;

/// A bitmap by ordinal that grows as needed. Walks test the bit of every device that they reach, so
/// a test is one load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    ones: u64,
}

impl Bits {
    /// Reports whether the bit of an ordinal is set.
    #[must_use]
    #[inline]
    pub fn contains(&self, ordinal: Ordinal) -> bool {
        let (word, bit) = place(ordinal);
        self.words.get(word).is_some_and(|w| w & bit != 0)
    }

    /// Sets the bit of an ordinal. Returns true if the bit was clear.
    #[inline]
    pub fn insert(&mut self, ordinal: Ordinal) -> bool {
        let (word, bit) = place(ordinal);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.ones += u64::from(new);
        new
    }

    /// Clears the bit of an ordinal. Returns true if the bit was set.
    pub fn remove(&mut self, ordinal: Ordinal) -> bool {
        let (word, bit) = place(ordinal);
        let was = self.contains(ordinal);
        if was {
            self.words[word] &= !bit;
            self.ones -= 1;
        }
        was
    }

    /// Returns the number of set bits.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ones
    }

    /// Reports whether no bit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// Returns the ordinals whose bit is set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Ordinal> + '_ {
        (0u32..).zip(&self.words).flat_map(|(n, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < u64::BITS).then_some(Ordinal(n * u64::BITS + bit))
            })
        })
    }

    /// Returns the set as a roaring bitmap, the form of reports.
    #[must_use]
    pub fn to_roaring(&self) -> RoaringBitmap {
        self.iter().map(|o| o.0).collect()
    }
}

impl From<&RoaringBitmap> for Bits {
    fn from(set: &RoaringBitmap) -> Self {
        let mut bits = Self::default();
        for ordinal in set {
            bits.insert(Ordinal(ordinal));
        }
        bits
    }
}

fn place(ordinal: Ordinal) -> (usize, u64) {
    ((ordinal.0 / u64::BITS) as usize, 1 << (ordinal.0 % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Compares the bits with a set of ordinals under random changes.
        #[test]
        fn bits_are_a_set(changes in prop::collection::vec((0u32..200, any::<bool>()), 0..200)) {
            let (mut bits, mut model) = (Bits::default(), RoaringBitmap::new());
            for (n, add) in changes {
                if add {
                    prop_assert_eq!(bits.insert(Ordinal(n)), model.insert(n));
                } else {
                    prop_assert_eq!(bits.remove(Ordinal(n)), model.remove(n));
                }
                prop_assert_eq!(bits.contains(Ordinal(n)), add);
            }
            prop_assert_eq!((bits.len(), bits.is_empty()), (model.len(), model.is_empty()));
            prop_assert_eq!(Bits::from(&model).to_roaring(), bits.to_roaring());
            prop_assert_eq!(bits.to_roaring(), model);
            prop_assert!(!bits.contains(Ordinal(u32::MAX)));
        }
    }
}
