//! A line for work that waits for its turn: peers are served one after another.
//!
//! A queue in order of arrival is dominated by the peer that fills it. Here each peer has its own
//! queue, and the ring of waiting peers goes round: a peer with one batch waits for at most one
//! batch of each other peer, however many those have. The next peer in the ring is served when the
//! cost of its work fits; until then no other passes it, or large work would never have its turn.
//! Only a peer that already holds its share is passed over: it waits for its own work to end, not
//! for the work of others.
//!
//! [`Ring`] decides and is pure; [`Turns`] lets tasks wait. The number of waiting tasks is bounded
//! by the callers: each of them holds a place that is counted elsewhere ([`super::shares`]), and
//! leaves the ring when it is dropped.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::PeerKey;

/// Number of one piece of work, waiting or in progress; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// State of the line: waiting work, work in progress, and the order of peers.
#[derive(Debug)]
pub struct Ring {
    capacity: u64,
    share: u64,
    used: u64,
    last: u64,
    /// Peers with something waiting or under way.
    peers: BTreeMap<PeerKey, OfPeer>,
    /// Peers with something waiting; the next one first.
    next: VecDeque<PeerKey>,
    work: BTreeMap<Ticket, Work>,
}

#[derive(Debug, Default)]
struct OfPeer {
    used: u64,
    waiting: VecDeque<Ticket>,
}

#[derive(Debug, Clone, Copy)]
struct Work {
    peer: PeerKey,
    cost: u64,
    under_way: bool,
}

impl Ring {
    /// Work under way may cost `capacity` together, and `share` for one peer.
    #[must_use]
    pub fn new(capacity: u64, share: u64) -> Self {
        let (peers, work) = (BTreeMap::new(), BTreeMap::new());
        Self {
            capacity,
            share: share.min(capacity),
            used: 0,
            last: 0,
            peers,
            next: VecDeque::new(),
            work,
        }
    }

    /// Queues work. What costs more than a share counts as a whole share: it has its turn when its
    /// peer has nothing else.
    pub fn ask(&mut self, peer: PeerKey, cost: u64) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.work.insert(ticket, Work { peer, cost: cost.min(self.share), under_way: false });
        let of_peer = self.peers.entry(peer).or_default();
        if of_peer.waiting.is_empty() {
            self.next.push_back(peer);
        }
        of_peer.waiting.push_back(ticket);
        ticket
    }

    /// The next work that may begin; `None` if nothing may for now. It is under way until
    /// [`Ring::leave`].
    pub fn begin(&mut self) -> Option<Ticket> {
        let free = self.capacity - self.used;
        let (at, ticket, cost) = self.next.iter().enumerate().find_map(|(at, peer)| {
            let of_peer = &self.peers[peer];
            let ticket = *of_peer.waiting.front()?;
            let cost = self.work[&ticket].cost;
            (of_peer.used + cost <= self.share).then_some((at, ticket, cost))
        })?;
        if cost > free {
            return None;
        }
        let peer = self.next.remove(at).expect("just found");
        let of_peer = self.peers.get_mut(&peer).expect("it waits");
        of_peer.waiting.pop_front();
        of_peer.used += cost;
        self.used += cost;
        if !of_peer.waiting.is_empty() {
            self.next.push_back(peer);
        }
        self.work.get_mut(&ticket).expect("it waited").under_way = true;
        Some(ticket)
    }

    /// Work has ended, or is not wanted any more.
    pub fn leave(&mut self, ticket: Ticket) {
        let Some(Work { peer, cost, under_way }) = self.work.remove(&ticket) else { return };
        let of_peer = self.peers.get_mut(&peer).expect("it has work");
        if under_way {
            of_peer.used -= cost;
            self.used -= cost;
        } else {
            of_peer.waiting.retain(|waiting| *waiting != ticket);
            if of_peer.waiting.is_empty() {
                self.next.retain(|next| *next != peer);
            }
        }
        if of_peer.waiting.is_empty() && of_peer.used == 0 {
            self.peers.remove(&peer);
        }
    }

    /// Total cost of the work in progress.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }
}

/// A ring whose turns tasks can await.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Mutex<Waiting>>);

#[derive(Debug)]
struct Waiting {
    ring: Ring,
    wake: BTreeMap<Ticket, oneshot::Sender<()>>,
}

impl Waiting {
    fn serve(&mut self) {
        while let Some(ticket) = self.ring.begin() {
            if let Some(wake) = self.wake.remove(&ticket) {
                // Whoever is gone by now gives its turn back when its guard is dropped.
                let _ = wake.send(());
            }
        }
    }
}

impl Turns {
    /// An empty line for work of `capacity` in total: see [`Ring::new`].
    #[must_use]
    pub fn new(capacity: u64, share: u64) -> Self {
        Self(Arc::new(Mutex::new(Waiting {
            ring: Ring::new(capacity, share),
            wake: BTreeMap::new(),
        })))
    }

    /// Waits for a turn, which ends when the guard is dropped. Dropping the future gives up its
    /// place.
    pub async fn enter(&self, peer: PeerKey, cost: u64) -> Turn {
        let (wake, woken) = oneshot::channel();
        let turn = {
            let mut waiting = self.0.lock();
            let ticket = waiting.ring.ask(peer, cost);
            waiting.wake.insert(ticket, wake);
            waiting.serve();
            Turn { turns: Arc::clone(&self.0), ticket }
        };
        woken.await.expect("kept until the turn begins or its guard is dropped");
        turn
    }

    /// A turn that begins at once; `None` if it would have to wait.
    #[must_use]
    pub fn try_enter(&self, peer: PeerKey, cost: u64) -> Option<Turn> {
        let (wake, mut woken) = oneshot::channel();
        let mut waiting = self.0.lock();
        let ticket = waiting.ring.ask(peer, cost);
        waiting.wake.insert(ticket, wake);
        waiting.serve();
        if woken.try_recv().is_err() {
            waiting.wake.remove(&ticket);
            waiting.ring.leave(ticket);
            return None;
        }
        drop(waiting);
        Some(Turn { turns: Arc::clone(&self.0), ticket })
    }

    /// Total cost of the work in progress.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.lock().ring.used()
    }
}

/// Guard of one piece of work, waiting or in progress.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Mutex<Waiting>>,
    ticket: Ticket,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = self.turns.lock();
        waiting.wake.remove(&self.ticket);
        waiting.ring.leave(self.ticket);
        waiting.serve();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::peers::tests::peer;

    #[test]
    fn peers_take_turns_however_much_one_asks_for() {
        let mut ring = Ring::new(1, 1);
        let many: Vec<_> = (0..10).map(|_| ring.ask(peer(1), 1)).collect();
        let (second, third) = (ring.ask(peer(2), 1), ring.ask(peer(3), 1));
        let mut served = Vec::new();
        while let Some(ticket) = ring.begin() {
            assert_eq!(ring.begin(), None, "one at a time");
            served.push(ticket);
            ring.leave(ticket);
        }
        assert_eq!(served[..4], [many[0], second, third, many[1]]);
        assert_eq!(served.len(), 12);
        assert!(ring.peers.is_empty() && ring.next.is_empty() && ring.work.is_empty());
    }

    #[test]
    fn who_holds_its_share_is_passed_over_and_large_work_is_not() {
        let mut ring = Ring::new(8, 4);
        let held = ring.ask(peer(1), 4);
        assert_eq!(ring.begin(), Some(held));
        let more = ring.ask(peer(1), 1);
        let small = ring.ask(peer(2), 2);
        assert_eq!((ring.begin(), ring.begin()), (Some(small), None));
        // 2 are free: the large one waits, and the small one behind it too.
        let (large, tiny) = (ring.ask(peer(3), 9), ring.ask(peer(4), 1));
        assert_eq!(ring.begin(), None);
        ring.leave(held);
        assert_eq!(
            (ring.begin(), ring.begin()),
            (Some(more), Some(large)),
            "as large as a share at most"
        );
        assert_eq!((ring.begin(), ring.used()), (Some(tiny), 8));
    }

    #[test]
    fn who_gives_up_is_forgotten() {
        let mut ring = Ring::new(1, 1);
        let (first, second, third) =
            (ring.ask(peer(1), 1), ring.ask(peer(1), 1), ring.ask(peer(2), 1));
        assert_eq!(ring.begin(), Some(first));
        ring.leave(second);
        ring.leave(second);
        ring.leave(first);
        assert_eq!(ring.begin(), Some(third));
        ring.leave(third);
        assert!(ring.peers.is_empty() && ring.next.is_empty() && ring.work.is_empty());
    }

    #[tokio::test]
    async fn turns_wake_whoever_is_next_and_survive_those_who_leave() {
        let turns = Turns::new(1, 1);
        let first = turns.enter(peer(1), 1).await;
        let mut second = Box::pin(turns.enter(peer(1), 1));
        let mut other = Box::pin(turns.enter(peer(2), 1));
        assert!((&mut second).now_or_never().is_none() && (&mut other).now_or_never().is_none());
        drop(first);
        // Granted to the second while it is not looked at, and dropped before it looks.
        drop(second);
        let other = other.now_or_never().expect("its turn");
        assert!(turns.try_enter(peer(3), 1).is_none(), "it would have to wait");
        drop(other);
        drop(turns.try_enter(peer(3), 1).expect("free"));
        assert_eq!(turns.used(), 0);
        assert!(turns.0.lock().wake.is_empty());
    }

    proptest! {
        /// Costs stay within capacity and shares, and whoever waits is served before a second turn
        /// of any other peer begins that asked later.
        #[test]
        fn nobody_is_starved(steps in proptest::collection::vec((0_u8..5, 1_u64..6, any::<bool>()), 1..200)) {
            let (capacity, share) = (8, 4);
            let mut ring = Ring::new(capacity, share);
            let mut under_way: VecDeque<Ticket> = VecDeque::new();
            // For each waiting first of a peer: how often each other peer was served since it
            // became first.
            let mut waited: BTreeMap<PeerKey, u64> = BTreeMap::new();
            for (n, cost, end) in steps {
                if end {
                    if let Some(ticket) = under_way.pop_front() {
                        ring.leave(ticket);
                    }
                } else {
                    ring.ask(peer(n), cost);
                    waited.entry(peer(n)).or_default();
                }
                while let Some(ticket) = ring.begin() {
                    let served = ring.work[&ticket].peer;
                    under_way.push_back(ticket);
                    for (peer, count) in &mut waited {
                        // A peer that holds its share waits for itself.
                        let first = ring.peers.get(peer).and_then(|of| of.waiting.front().map(|t| (of.used, ring.work[t].cost)));
                        let own = first.is_some_and(|(used, cost)| used + cost > share);
                        *count = if *peer == served || own { 0 } else { *count + 1 };
                        prop_assert!(*count <= 2 * 5, "{peer} was passed over {count} times");
                    }
                    waited.retain(|peer, _| ring.peers.get(peer).is_some_and(|of| !of.waiting.is_empty()));
                }
                prop_assert!(ring.used() <= capacity);
                prop_assert!(ring.peers.values().all(|of| of.used <= share));
                prop_assert_eq!(ring.used(), ring.peers.values().map(|of| of.used).sum::<u64>());
            }
            while let Some(ticket) = under_way.pop_front() {
                ring.leave(ticket);
                under_way.extend(std::iter::from_fn(|| ring.begin()));
            }
            prop_assert!(ring.peers.is_empty() && ring.next.is_empty() && ring.work.is_empty(), "all had its turn");
        }
    }
}
