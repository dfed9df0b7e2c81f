//! Places that are granted or refused at once, with a share for each peer.
//!
//! **The rule**: a peer may hold at most as many places as it leaves free, or one more. With a
//! fixed share of a quarter, four peers would exhaust the total. By this rule the first peer takes
//! 1/2, the next 1/4, then 1/8: a new peer finds a place until the last one is taken. A single peer
//! has half of the total, and totals are chosen accordingly.
//!
//! [`Shares`] decides and is pure; [`Places`] hands out guards that release what they hold.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::PeerKey;

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Places of all peers together.
    pub total: u64,
    /// Places that this peer holds.
    pub held: u64,
}

/// Number of places that each peer holds; peers without places are not stored.
#[derive(Debug)]
pub struct Shares {
    total: u64,
    /// Places that a peer may hold, as a multiple of the free ones.
    times: u64,
    taken: u64,
    held: BTreeMap<PeerKey, u64>,
}

impl Shares {
    /// A set of places of which every one is free.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self { total, times: 1, taken: 0, held: BTreeMap::new() }
    }

    /// Changes the rule: a peer leaves one part in `parts` of the free places, instead of one in
    /// two.
    #[must_use]
    pub fn leaving_one_in(self, parts: u64) -> Self {
        Self { times: parts.saturating_sub(1).max(1), ..self }
    }

    /// Takes some places for a peer.
    ///
    /// # Errors
    /// They are not free, or more than the peer's share.
    pub fn take(&mut self, peer: PeerKey, places: u64) -> Result<(), Full> {
        let held = self.held(peer);
        let free = self.total - self.taken;
        // One more than it leaves: the last place of all is for whoever holds none.
        if places > free
            || held.saturating_add(places) > (free - places).saturating_mul(self.times) + 1
        {
            return Err(Full { total: self.total, held });
        }
        if places > 0 {
            self.taken += places;
            *self.held.entry(peer).or_default() += places;
        }
        Ok(())
    }

    /// Returns places that [`Shares::take`] granted.
    pub fn give_back(&mut self, peer: PeerKey, places: u64) {
        let left = self.held(peer).saturating_sub(places);
        self.taken -= self.held(peer) - left;
        if left == 0 {
            self.held.remove(&peer);
        } else {
            self.held.insert(peer, left);
        }
    }

    /// Places that a peer holds.
    #[must_use]
    pub fn held(&self, peer: PeerKey) -> u64 {
        self.held.get(&peer).copied().unwrap_or_default()
    }

    /// Places that all peers hold.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Number of peers that hold places.
    #[must_use]
    pub fn peers(&self) -> u64 {
        self.held.len() as u64
    }
}

/// Places of one kind, shared by all code that grants them.
#[derive(Debug, Clone)]
pub struct Places(Arc<Mutex<Shares>>);

impl Places {
    /// A set of places of which every one is free.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(total as u64))))
    }

    /// A set of free places of which one in `parts` stays free for new peers: see
    /// [`Shares::leaving_one_in`].
    #[must_use]
    pub fn leaving_one_in(total: usize, parts: u64) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(total as u64).leaving_one_in(parts))))
    }

    /// One place, given back when it is dropped.
    ///
    /// # Errors
    /// As [`Shares::take`].
    pub fn enter(&self, peer: PeerKey) -> Result<Place, Full> {
        let mut place = self.empty(peer);
        place.grow(1)?;
        Ok(place)
    }

    /// A guard that holds nothing yet.
    #[must_use]
    pub fn empty(&self, peer: PeerKey) -> Place {
        Place { shares: Arc::clone(&self.0), peer, places: 0 }
    }

    /// Places that all peers hold.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.0.lock().taken()
    }
}

/// What one peer holds by one guard.
#[derive(Debug)]
pub struct Place {
    shares: Arc<Mutex<Shares>>,
    peer: PeerKey,
    places: u64,
}

impl Place {
    /// Takes some more; holds what it held if they are refused.
    ///
    /// # Errors
    /// As [`Shares::take`].
    pub fn grow(&mut self, places: u64) -> Result<(), Full> {
        self.shares.lock().take(self.peer, places)?;
        self.places += places;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shares.lock().give_back(self.peer, self.places);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peers::tests::peer;

    /// Takes single places until refused.
    fn all_it_gets(shares: &mut Shares, n: u8) -> u64 {
        (0..).take_while(|_| shares.take(peer(n), 1).is_ok()).count() as u64
    }

    #[test]
    fn a_peer_leaves_as_many_as_it_holds() {
        let mut shares = Shares::new(64);
        assert_eq!([1, 2, 3, 4].map(|n| all_it_gets(&mut shares, n)), [32, 16, 8, 4]);
        assert_eq!(shares.take(peer(1), 1), Err(Full { total: 64, held: 32 }));
        shares.give_back(peer(1), 32);
        assert_eq!(all_it_gets(&mut shares, 2), 10, "26 held, 26 left");
    }

    #[test]
    fn a_peer_may_leave_less() {
        let mut shares = Shares::new(64).leaving_one_in(16);
        assert_eq!([1, 2].map(|n| all_it_gets(&mut shares, n)), [60, 3]);
        assert_eq!(all_it_gets(&mut shares, 3), 1);
    }

    #[test]
    fn a_single_place_can_be_had() {
        let mut shares = Shares::new(1);
        assert_eq!(all_it_gets(&mut shares, 1), 1);
        assert!(shares.take(peer(2), 1).is_err());
        shares.give_back(peer(1), 1);
        assert_eq!(all_it_gets(&mut shares, 2), 1);
        assert!(Shares::new(0).take(peer(1), 1).is_err());
    }

    #[test]
    fn guards_give_back_what_they_hold() {
        let places = Places::new(8);
        let mut place = places.enter(peer(1)).expect("free");
        place.grow(2).expect("free");
        assert!(place.grow(2).is_err());
        assert_eq!(places.taken(), 3);
        drop(place);
        assert_eq!(places.taken(), 0);
    }

    proptest! {
        /// Whatever others do, a peer that holds nothing finds a place as long as one is free, and
        /// sums agree.
        #[test]
        fn a_newcomer_finds_a_place(total in 1_u64..200, steps in proptest::collection::vec((0_u8..6, 0_u64..9, any::<bool>()), 0..200)) {
            let mut shares = Shares::new(total);
            let mut held = [0_u64; 6];
            for (n, places, give) in steps {
                let mine = &mut held[usize::from(n)];
                if give {
                    let back = places.min(*mine);
                    shares.give_back(peer(n), back);
                    *mine -= back;
                } else if shares.take(peer(n), places).is_ok() {
                    *mine += places;
                    let left = total - held.iter().sum::<u64>();
                    prop_assert!(places == 0 || held[usize::from(n)] <= left + 1);
                }
                prop_assert_eq!(shares.taken(), held.iter().sum::<u64>());
                prop_assert!(shares.taken() <= total);
                let free = total - shares.taken();
                prop_assert_eq!(shares.take(peer(99), 1).is_ok(), free > 0);
                shares.give_back(peer(99), 1);
            }
        }
    }
}
