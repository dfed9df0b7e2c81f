//! Decides which connection closes when a listener is full. Pure: no socket, no clock.
//!
//! A new connection is more likely honest than one that has held a place without using it, and a
//! refused probe means a restart. So a full listener closes an old connection rather than refuse
//! the new one:
//!
//! ```text
//! place free, share of the peer free   → the newcomer gets it
//! share of the peer used up            → one of the peer's own connections leaves
//! all places taken                     → one of all connections leaves
//!
//! who leaves: who has no stream with a whole message before who has one (those only where WhenBusy::Leaves),
//!             then of the peer with the most connections, then who has begun or ended no request for the longest
//! nobody can leave                     → the newcomer is refused
//! ```
//!
//! An idle connection that is closed costs its client one reconnect. A stream that is closed is
//! lost, so only health streams are closed: a watcher of health reconnects, but a session or an
//! upload would lose its work.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, sync::Arc};

use super::activity::Activity;
use crate::peers::PeerKey;

/// Treatment of busy connections (a stream has received a complete message) when all places are
/// taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    /// Busy connections stay; the new connection is refused.
    Stays,
    /// The connection whose last request is the oldest closes.
    Leaves,
}

/// Decision about a new connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<T> {
    /// A place is free.
    Free,
    /// There is one when this connection has left.
    InsteadOf(T),
    /// No place is free, for this reason.
    Refused(&'static str),
}

/// The connections of one listener; dropping or aborting `T` closes one.
#[derive(Debug)]
pub struct Places<T> {
    connections_max: usize,
    per_peer_max: usize,
    when_busy: WhenBusy,
    held: Vec<Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    peer: PeerKey,
    activity: Arc<Activity>,
    end: T,
}

impl<T> Places<T> {
    /// A listener without connections.
    #[must_use]
    pub fn new(connections_max: usize, per_peer_max: usize, when_busy: WhenBusy) -> Self {
        Self { connections_max, per_peer_max, when_busy, held: Vec::new() }
    }

    /// Decides about a new connection; a connection that must close is removed at once.
    pub fn admit(&mut self, peer: IpAddr) -> Admission<T> {
        self.held.retain(|held| !held.activity.is_gone());
        let peer = PeerKey::of(peer);
        let own = self.held.iter().filter(|held| held.peer == peer).count();
        let share_used = own >= self.per_peer_max;
        if !share_used && self.held.len() < self.connections_max {
            return Admission::Free;
        }
        match self.leaving(share_used.then_some(peer)) {
            Some(index) => Admission::InsteadOf(self.held.swap_remove(index).end),
            None if share_used => Admission::Refused("all connections of this peer are in use"),
            None => Admission::Refused("all connections are in use"),
        }
    }

    /// Adds an admitted connection.
    pub(super) fn insert(&mut self, peer: IpAddr, activity: Arc<Activity>, end: T) {
        self.held.push(Held { peer: PeerKey::of(peer), activity, end });
    }

    fn leaving(&self, of: Option<PeerKey>) -> Option<usize> {
        let mut counts: BTreeMap<PeerKey, usize> = BTreeMap::new();
        for held in &self.held {
            *counts.entry(held.peer).or_default() += 1;
        }
        let may_leave = |held: &Held<T>| {
            of.is_none_or(|peer| held.peer == peer)
                && (self.when_busy == WhenBusy::Leaves || !held.activity.is_working())
        };
        let order = |held: &Held<T>| {
            (held.activity.is_working(), Reverse(counts[&held.peer]), held.activity.changed())
        };
        let candidates = self.held.iter().enumerate().filter(|(_, held)| may_leave(held));
        candidates.min_by_key(|(_, held)| order(held)).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::world::Clock;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// `(peer, working streams, last change in ms)` each.
    fn crowd(places: &mut Places<usize>, of: &[(u8, usize, u64)]) -> Vec<Arc<Activity>> {
        let mut all = Vec::new();
        for (index, &(peer, working, changed)) in of.iter().enumerate() {
            let activity = Arc::new(Activity::new(Clock::start()));
            activity.set(working, Duration::from_millis(changed));
            places.insert(ip(peer), Arc::clone(&activity), index);
            all.push(activity);
        }
        all
    }

    #[tokio::test]
    async fn the_longest_idle_makes_room_and_busy_connections_stay() {
        let mut places = Places::new(3, 3, WhenBusy::Stays);
        let _all = crowd(&mut places, &[(1, 1, 0), (2, 0, 20), (3, 0, 10)]);
        assert_eq!(places.admit(ip(4)), Admission::InsteadOf(2));
        assert_eq!(places.admit(ip(4)), Admission::Free, "who left is forgotten");
    }

    #[tokio::test]
    async fn where_all_are_busy_the_newcomer_is_refused_or_the_oldest_request_leaves() {
        let busy = [(1, 1, 30), (2, 2, 10), (3, 1, 20)];
        let mut stays = Places::new(3, 3, WhenBusy::Stays);
        let _all = crowd(&mut stays, &busy);
        assert_eq!(stays.admit(ip(4)), Admission::Refused("all connections are in use"));
        let mut leaves = Places::new(3, 3, WhenBusy::Leaves);
        let _all = crowd(&mut leaves, &busy);
        assert_eq!(leaves.admit(ip(4)), Admission::InsteadOf(1));
    }

    #[tokio::test]
    async fn a_peer_over_its_share_pays_itself_and_a_crowd_before_a_single_connection() {
        let mut places = Places::new(8, 2, WhenBusy::Stays);
        let _all = crowd(&mut places, &[(1, 0, 10), (1, 0, 20), (2, 0, 0)]);
        assert_eq!(places.admit(ip(1)), Admission::InsteadOf(0));
        let mut places = Places::new(3, 3, WhenBusy::Stays);
        let _all = crowd(&mut places, &[(1, 0, 0), (2, 0, 10), (2, 0, 20)]);
        assert_eq!(places.admit(ip(3)), Admission::InsteadOf(1), "of the peer with two");
        let mut places = Places::new(8, 1, WhenBusy::Stays);
        let _all = crowd(&mut places, &[(1, 1, 0)]);
        assert_eq!(
            places.admit(ip(1)),
            Admission::Refused("all connections of this peer are in use")
        );
    }

    #[tokio::test]
    async fn places_of_ended_connections_are_free() {
        let mut places = Places::new(1, 1, WhenBusy::Stays);
        let all = crowd(&mut places, &[(1, 1, 0)]);
        all[0].end();
        assert_eq!(places.admit(ip(1)), Admission::Free);
    }
}
