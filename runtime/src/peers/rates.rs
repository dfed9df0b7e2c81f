//! Rate limits for each peer: a burst at once, then a number per hour.
//!
//! Each peer has a token bucket, stored as one time: when the bucket will be full again. Full
//! buckets are dropped. If more than [`PEERS_MAX`] peers have a bucket that is not full, the
//! fullest is dropped: that peer gains a token or two, and no other peer loses.

use std::{collections::BTreeMap, time::Duration};

use super::PeerKey;

/// Peers that are remembered by one limit.
pub const PEERS_MAX: usize = 4_096;

/// Rate limit of each peer. Pure: the caller passes the time, which never goes back.
#[derive(Debug)]
pub struct Rates {
    burst: u32,
    every: Duration,
    peers_max: usize,
    /// When a peer's bucket is full again.
    full_at: BTreeMap<PeerKey, Duration>,
}

impl Rates {
    /// `burst` at once, then one `every` so long.
    #[must_use]
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, peers_max: PEERS_MAX, full_at: BTreeMap::new() }
    }

    /// Remembers fewer peers: for a limit of which there are many instances.
    #[must_use]
    pub fn of_peers(self, peers_max: usize) -> Self {
        Self { peers_max, ..self }
    }

    /// Whether [`Rates::take`] would grant a token now.
    ///
    /// # Errors
    /// How long until a token is available.
    pub fn check(&self, peer: PeerKey, now: Duration) -> Result<(), Duration> {
        let full_at = self.full_at.get(&peer).map_or(now, |at| (*at).max(now));
        // One token is there as long as the bucket lacks at most all but one.
        let wait = (full_at + self.every).saturating_sub(now + self.every * self.burst);
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Takes one token from a peer's bucket.
    ///
    /// # Errors
    /// How long until a token is available.
    pub fn take(&mut self, peer: PeerKey, now: Duration) -> Result<(), Duration> {
        self.check(peer, now)?;
        let full_at = self.full_at.get(&peer).map_or(now, |at| (*at).max(now));
        self.full_at.insert(peer, full_at + self.every);
        if self.full_at.len() > self.peers_max {
            self.full_at.retain(|_, at| *at > now);
        }
        if self.full_at.len() > self.peers_max
            && let Some(fullest) =
                self.full_at.iter().filter(|(of, _)| **of != peer).min_by_key(|(_, at)| **at)
        {
            let fullest = *fullest.0;
            self.full_at.remove(&fullest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::peer;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_and_then_one_after_another() {
        let mut rates = Rates::new(3, 10 * S);
        let taken = |rates: &mut Rates, n, at: u32| {
            (0..9).take_while(|_| rates.take(peer(n), at * S).is_ok()).count()
        };
        assert_eq!(taken(&mut rates, 1, 100), 3);
        assert_eq!(rates.take(peer(1), 100 * S), Err(10 * S));
        assert_eq!(rates.check(peer(1), 109 * S), Err(S));
        assert_eq!(taken(&mut rates, 2, 100), 3, "another peer has its own");
        assert_eq!(
            (taken(&mut rates, 1, 109), taken(&mut rates, 1, 110), taken(&mut rates, 1, 135)),
            (0, 1, 2)
        );
        assert_eq!(taken(&mut rates, 1, 1_000), 3, "no more than the burst, however long ago");
    }

    #[test]
    fn many_peers_take_a_bounded_memory_and_push_nobody_out_of_a_limit() {
        let mut rates = Rates::new(10, S).of_peers(8);
        (0..10).for_each(|_| rates.take(peer(0), 100 * S).expect("its burst"));
        for n in 1..200 {
            rates.take(peer(n), 100 * S).expect("its first");
            assert!(rates.full_at.len() <= 8);
        }
        assert!(
            rates.check(peer(0), 100 * S).is_err(),
            "whoever has used up the most is remembered longest"
        );
    }
}
