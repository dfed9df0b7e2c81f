//! Chooses the address of a gateway for a new connection: evenly over all addresses, except those
//! that failed recently.
//!
//! Gateways publish several addresses and move them (Apple asks senders to resolve again for each
//! connection and to spread). A resolver returns them in a different order each time, so taking the
//! first address, or each in turn, does not spread connections. Here a connection goes to the
//! address with the fewest connections of this core; among equals, to the next one after the
//! address taken last, where each core begins at a different one. An address that refused a
//! connection is passed over for [`PASSED_OVER`], unless all have failed: then the one that failed
//! first is tried again.
//!
//! **A name that moves.** Each connection resolves the name again, so new connections go where the
//! name points now, whatever it pointed to before; an address that is not in the answer is never
//! taken. Established connections stay where they are: an answer is often only a part of all
//! addresses, a different one each time, so a missing address proves nothing, and a gateway that
//! shuts down closes its connections itself. An address that does not accept connections delays no
//! push: the same attempt continues with the next address ([`Addresses::instead`]), up to
//! [`DIALS_MAX`].
//!
//! Pure: names and sockets are elsewhere.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use clarion_proto::time::Time;

/// Time for which a failed address is passed over: some attempts of the pool, whose own pauses are
/// up to half a minute.
const PASSED_OVER: Duration = Duration::from_mins(1);
/// Addresses that are remembered; beyond them those without connections and failures are forgotten
/// anyway.
const ADDRESSES_MAX: usize = 1_024;

/// Highest number of addresses in one attempt to connect: the next attempt, after its pause, uses
/// further ones.
pub(super) const DIALS_MAX: usize = 4;

/// State of the gateway addresses of one core.
#[derive(Debug)]
pub(super) struct Addresses {
    known: BTreeMap<SocketAddr, Known>,
    /// Where the next search among equals begins.
    turn: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Known {
    connections: usize,
    failed: Option<Time>,
}

impl Addresses {
    /// An empty state; `core` spreads the first choices of cores.
    pub(super) fn new(core: usize) -> Self {
        Self { known: BTreeMap::new(), turn: core }
    }

    /// Chooses one of the addresses of a name and counts a connection to it; `None`: the name has
    /// no address.
    pub(super) fn take(&mut self, mut of: Vec<SocketAddr>, now: Time) -> Option<SocketAddr> {
        of.sort_unstable();
        of.dedup();
        let count = of.len();
        let known = |address: &SocketAddr| self.known.get(address).copied().unwrap_or_default();
        let worth = |n: &usize| {
            let known = known(&of[*n]);
            let failed = known.failed.filter(|at| now.since(*at) < PASSED_OVER);
            // Those in their time first, then by connections, then in turn.
            (failed, known.connections, (n + count - self.turn % count.max(1)) % count.max(1))
        };
        let at = (0..count).min_by_key(worth)?;
        self.turn = at + 1;
        self.known.entry(of[at]).or_default().connections += 1;
        Some(of[at])
    }

    /// Chooses another address of the same answer, because the address chosen last did not accept;
    /// `None`: all others failed recently.
    pub(super) fn instead(&mut self, of: &[SocketAddr], now: Time) -> Option<SocketAddr> {
        let well = |address: &&SocketAddr| {
            let failed = self.known.get(*address).and_then(|known| known.failed);
            failed.is_none_or(|at| now.since(at) >= PASSED_OVER)
        };
        let of: Vec<_> = of.iter().filter(well).copied().collect();
        self.take(of, now)
    }

    /// A connection to it could not be made, or is gone.
    pub(super) fn closed(&mut self, address: SocketAddr, failed: bool, now: Time) {
        let known = self.known.entry(address).or_default();
        known.connections = known.connections.saturating_sub(1);
        if failed {
            known.failed = Some(now);
        }
        if self.known.len() > ADDRESSES_MAX {
            self.known.retain(|_, known| known.connections > 0);
        }
    }

    /// Records an established connection: earlier failures of the address are forgotten.
    pub(super) fn stands(&mut self, address: SocketAddr) {
        if let Some(known) = self.known.get_mut(&address) {
            known.failed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn address(n: u8) -> SocketAddr {
        ([127, 0, 0, n], 443).into()
    }

    fn three() -> Vec<SocketAddr> {
        vec![address(3), address(1), address(2)]
    }

    #[test]
    fn all_are_used_evenly_in_whatever_order_they_come() {
        let mut addresses = Addresses::new(0);
        for round in 1..=4 {
            let taken: BTreeSet<_> = (0..3)
                .map(|n| {
                    let mut of = three();
                    of.rotate_left((round * n) % 3);
                    addresses.take(of, Time(0)).unwrap()
                })
                .collect();
            assert_eq!(taken.len(), 3, "round {round}");
        }
        // The one that loses two gets the next two.
        (0..2).for_each(|_| addresses.closed(address(2), false, Time(0)));
        assert_eq!([0; 2].map(|_| addresses.take(three(), Time(0)).unwrap()), [address(2); 2]);
    }

    #[test]
    fn cores_begin_at_different_ones() {
        let first = |core| Addresses::new(core).take(three(), Time(0)).unwrap();
        assert_eq!([0, 1, 2, 3].map(first), [address(1), address(2), address(3), address(1)]);
    }

    #[test]
    fn one_that_failed_is_passed_over_for_a_while_and_all_that_failed_are_tried_in_turn() {
        let mut addresses = Addresses::new(0);
        let now = |s: u64| Time(s * 1_000_000);
        assert_eq!(addresses.take(three(), now(0)), Some(address(1)));
        addresses.closed(address(1), true, now(1));
        for n in 0..10 {
            assert_ne!(addresses.take(three(), now(2 + n)), Some(address(1)));
        }
        addresses.closed(address(2), true, now(20));
        addresses.closed(address(3), true, now(21));
        assert_eq!(addresses.take(three(), now(22)), Some(address(1)), "it failed first");
        addresses.closed(address(1), true, now(23));
        assert_eq!(addresses.take(three(), now(24)), Some(address(2)));
        assert_eq!(
            addresses.take(three(), now(83)),
            Some(address(1)),
            "its time is over, and it has the fewest"
        );
        addresses.stands(address(1));
        assert_eq!(addresses.take(vec![], now(84)), None);
    }

    #[test]
    fn where_nobody_listens_another_one_is_taken_at_once() {
        let mut addresses = Addresses::new(0);
        let first = addresses.take(three(), Time(0)).unwrap();
        addresses.closed(first, true, Time(1));
        let second = addresses.instead(&three(), Time(1)).unwrap();
        addresses.closed(second, true, Time(2));
        let third = addresses.instead(&three(), Time(2)).unwrap();
        assert_eq!(BTreeSet::from([first, second, third]).len(), 3);
        addresses.closed(third, true, Time(3));
        assert_eq!(addresses.instead(&three(), Time(3)), None, "the next attempt has its pause");
        assert_eq!(addresses.take(three(), Time(4)), Some(first));
    }

    proptest! {
        /// A name that moves, addresses that come and go, and connections that fail and end.
        #[test]
        fn only_what_the_name_stands_for_now_and_first_what_is_well(
            core in 0usize..4,
            steps in proptest::collection::vec(
                (proptest::collection::btree_set(1u8..9, 1..6), any::<u16>(), 0u64..30, any::<bool>()), 1..120),
        ) {
            let mut addresses = Addresses::new(core);
            let (mut now, mut failed, mut stand) = (Time(0), BTreeMap::new(), Vec::new());
            for (answer, down, seconds, one_ends) in steps {
                now = now + Duration::from_secs(seconds);
                if one_ends && !stand.is_empty() {
                    addresses.closed(stand.remove(0), false, now);
                }
                let of: Vec<_> = answer.iter().map(|n| address(*n)).collect();
                let lately = |a: &SocketAddr, failed: &BTreeMap<SocketAddr, Time>| {
                    failed.get(a).is_some_and(|at| now.since(*at) < PASSED_OVER)
                };
                let mut taken = addresses.take(of.clone(), now);
                for dial in 1..=DIALS_MAX {
                    let Some(address) = taken else { break };
                    prop_assert!(of.contains(&address), "the name has moved away from it");
                    let others_are_well = of.iter().any(|a| !lately(a, &failed));
                    prop_assert!(!(others_are_well && lately(&address, &failed)));
                    let SocketAddr::V4(v4) = address else { unreachable!("made so") };
                    if down & 1 << v4.ip().octets()[3] == 0 {
                        addresses.stands(address);
                        failed.remove(&address);
                        stand.push(address);
                        break;
                    }
                    addresses.closed(address, true, now);
                    failed.insert(address, now);
                    taken = if dial < DIALS_MAX { addresses.instead(&of, now) } else { None };
                }
                for (address, known) in &addresses.known {
                    let counted = stand.iter().filter(|a| *a == address).count();
                    prop_assert_eq!(known.connections, counted, "of {}", address);
                }
            }
        }

        #[test]
        fn nobody_has_two_more_than_another(count in 1u8..12, core in 0usize..9, takes in 1usize..200) {
            let of: Vec<_> = (1..=count).map(address).collect();
            let mut addresses = Addresses::new(core);
            let mut used = BTreeMap::new();
            for _ in 0..takes {
                *used.entry(addresses.take(of.clone(), Time(0)).unwrap()).or_insert(0) += 1;
            }
            let counts = of.iter().map(|a| used.get(a).copied().unwrap_or(0));
            let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
            prop_assert!(most - least <= 1, "{used:?}");
        }
    }
}
