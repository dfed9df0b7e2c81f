//! `WatchAlert`: a stream of the newest state without a queue of old states; each message is
//! encoded once for all watchers.
//!
//! The transport pulls the stream. A slow reader gets the newest state at its next read; a message
//! has the cells that changed since *this* stream's last message, so skipping states loses nothing.
//!
//! A thousand watchers may watch one alert and must not slow its wave down. All watchers get the
//! same message, so it is encoded once: [`View`] keeps the newest state as bytes, one message
//! without cells and one for each version from which a watcher asks for cells. All watchers read at
//! the same moments, so there is mostly one message of each kind. The generated server would encode
//! the message for each watcher; therefore this method has a hand-written server, like the feed
//! ([`mod@super::server`]).
//!
//! A watcher costs its stream and at most one message in the transport's buffer, besides the bytes
//! that its flow-control window allows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{ids::AlertName, time::Time};
use clarion_runtime::{
    peers::{PeerKey, shares::Shares},
    world::Clock,
};
use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{answer, status};
use crate::{
    privacy,
    snapshot::{CellCounts, Snapshot},
    store::AlertRecord,
};

/// Shortest time between two messages to one watcher.
const PACE: Duration = Duration::from_millis(100);
/// Number of watchers that are served at that pace: 2,000 messages a second. A message costs the
/// server and the kernel some 25 µs, so that is a twentieth of a core. With more watchers, each is
/// served less often: of a thousand watchers of one peer, each twice a second.
const AT_FULL_PACE: u64 = 200;
/// Number of encoded messages kept for one state.
const KEPT_MAX: usize = 16;
/// Retry delay that a refused watcher is given.
const RETRY: Duration = Duration::from_secs(5);

/// All watchers and the messages that they share.
#[derive(Debug)]
pub(super) struct Watchers {
    per_alert_max: usize,
    present: Mutex<Present>,
    /// Clock of the common schedule: all watchers read at the same moments, multiples of their
    /// pace, so that they share one message and the transport writes many messages at once.
    clock: Clock,
}

#[derive(Debug)]
struct Present {
    total: Shares,
    views: BTreeMap<AlertName, (Shares, Arc<View>)>,
}

impl Watchers {
    pub(super) fn new(total_max: usize, per_alert_max: usize, clock: Clock) -> Arc<Self> {
        let present = Present { total: Shares::new(total_max as u64), views: BTreeMap::new() };
        Arc::new(Self { per_alert_max, present: Mutex::new(present), clock })
    }

    /// Time at which a watcher that has just been served is served next. Peers have equal shares of
    /// the pace: a peer with thousands of watchers slows down only its own watchers, not the single
    /// watcher of another peer.
    fn next(&self, peer: PeerKey) -> Time {
        let watchers = {
            let total = &self.present.lock().total;
            total.held(peer) * total.peers()
        };
        let pace = PACE * u32::try_from(watchers.div_ceil(AT_FULL_PACE).max(1)).unwrap_or(u32::MAX);
        let now = self.clock.now().since(Time(0));
        let rounds = now.as_nanos() / pace.as_nanos() + 1;
        Time(0) + pace.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
    }

    /// Takes a watcher's place.
    pub(super) fn enter(
        self: &Arc<Self>,
        alert: &AlertName,
        peer: PeerKey,
    ) -> Result<Seat, Status> {
        let mut present = self.present.lock();
        let Present { total, views } = &mut *present;
        let refused = |full, what: &str| status::share("WATCHERS_MAX", what, peer, full, RETRY);
        total.take(peer, 1).map_err(|full| refused(full, "watchers of alerts"))?;
        let of_alert = || (Shares::new(self.per_alert_max as u64), Arc::default());
        let (watching, view) = views.entry(alert.clone()).or_insert_with(of_alert);
        if let Err(full) = watching.take(peer, 1) {
            total.give_back(peer, 1);
            return Err(refused(full, &format!("watchers of {alert}")));
        }
        Ok(Seat { watchers: Arc::clone(self), alert: alert.clone(), peer, view: Arc::clone(view) })
    }
}

/// One watcher's place; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Seat {
    watchers: Arc<Watchers>,
    alert: AlertName,
    peer: PeerKey,
    view: Arc<View>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut present = self.watchers.present.lock();
        present.total.give_back(self.peer, 1);
        if let Some((watching, _)) = present.views.get_mut(&self.alert) {
            watching.give_back(self.peer, 1);
            if watching.taken() == 0 {
                present.views.remove(&self.alert);
            }
        }
    }
}

/// The newest state of one alert, encoded for its watchers.
#[derive(Debug, Default)]
struct View(Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    version: u64,
    /// Cells that may be disclosed; computed when the first watcher asks for cells.
    cells: Option<Vec<CellCounts>>,
    /// Messages by the version from which cells are requested; `None`: no cells.
    encoded: BTreeMap<Option<u64>, Bytes>,
}

impl View {
    /// The message of a state; `cells_since` as in [`answer::watched`].
    fn message(&self, snapshot: &Snapshot, cells_since: Option<u64>) -> Bytes {
        let mut newest = self.0.lock();
        if snapshot.version < newest.version {
            // Another watcher has already set a newer state. The reader of `snapshot` has an even
            // older state, so `snapshot` is still news.
            let cells = privacy::cells(&snapshot.cells);
            return answer::watched(snapshot, &cells, cells_since).encode_to_vec().into();
        }
        if snapshot.version > newest.version {
            *newest = Newest { version: snapshot.version, ..Newest::default() };
        }
        if let Some(encoded) = newest.encoded.get(&cells_since) {
            return encoded.clone();
        }
        let Newest { cells, encoded, .. } = &mut *newest;
        let told: &[CellCounts] = match cells_since {
            Some(_) => cells.get_or_insert_with(|| privacy::cells(&snapshot.cells)),
            None => &[],
        };
        let bytes: Bytes = answer::watched(snapshot, told, cells_since).encode_to_vec().into();
        if encoded.len() < KEPT_MAX {
            encoded.insert(cells_since, bytes.clone());
        }
        bytes
    }
}

struct Watch {
    newest: watch::Receiver<Arc<Snapshot>>,
    /// The version of the last message; `None` before the first.
    sent: Option<u64>,
    cells: bool,
    not_before: Time,
    stop: CancellationToken,
    seat: Seat,
}

/// Stream of encoded states: the present state at once, then every change, up to the final state.
pub(super) fn stream(
    seat: Seat,
    alert: &AlertRecord,
    newest: Option<watch::Receiver<Arc<Snapshot>>>,
    cells: bool,
    stop: CancellationToken,
) -> BoxStream<'static, Result<Bytes, Status>> {
    let Some(newest) = newest else {
        // The alert ended long ago: its record holds the final state.
        let last = match &alert.settled {
            Some(snapshot) => seat.view.message(snapshot, cells.then_some(0)),
            None => answer::recorded(alert).encode_to_vec().into(),
        };
        return Box::pin(stream::iter([Ok(last)]));
    };
    let watch = Watch { newest, sent: None, cells, not_before: Time(0), stop, seat };
    Box::pin(stream::unfold(Some(watch), |watch| async move {
        match watch?.next().await {
            Some((Ok(message), watch)) => Some((Ok(message), watch)),
            Some((Err(status), _)) => Some((Err(status), None)),
            None => None,
        }
    }))
}

impl Watch {
    /// The next message, and the stream after the message (`None` after the last message).
    async fn next(mut self) -> Option<(Result<Bytes, Status>, Option<Self>)> {
        loop {
            let clock = self.seat.watchers.clock;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.at_stop(),
                () = clock.sleep_until(Some(self.not_before)) => {}
            }
            let snapshot = Arc::clone(&self.newest.borrow_and_update());
            if self.sent.is_none_or(|sent| snapshot.version > sent) {
                self.not_before = self.seat.watchers.next(self.seat.peer);
                return Some(self.send(&snapshot));
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.at_stop(),
                // The sender is gone before a settled state: another coordinator has taken over.
                changed = self.newest.changed() => if changed.is_err() {
                    return Some((Err(status::elsewhere(&self.seat.alert)), None));
                },
            }
        }
    }

    fn send(mut self, snapshot: &Snapshot) -> (Result<Bytes, Status>, Option<Self>) {
        let message =
            self.seat.view.message(snapshot, self.cells.then_some(self.sent.unwrap_or(0)));
        self.sent = Some(snapshot.version);
        (Ok(message), (!snapshot.settled).then_some(self))
    }

    /// Ends the stream at shutdown. If no message has had the alert's end yet, a last message has
    /// it: shutdown may have waited for this end.
    fn at_stop(mut self) -> Option<(Result<Bytes, Status>, Option<Self>)> {
        let snapshot = Arc::clone(&self.newest.borrow_and_update());
        if snapshot.state.is_final() && self.sent.is_none_or(|sent| snapshot.version > sent) {
            return Some(self.send(&snapshot));
        }
        Some((Err(status::draining()), None))
    }
}

#[cfg(test)]
mod tests {
    use clarion_proto::wire::v1 as wire;

    use super::*;
    use crate::snapshot::{Counts, State};

    fn snapshot(version: u64) -> Snapshot {
        let cell =
            |cell, version| CellCounts { cell, handed: 30, accepted: 30, failed: 0, version };
        Snapshot {
            version,
            totals: Counts { handed: 60, outcomes: [60, 0, 0, 0, 0] },
            nodes: 1,
            cells: vec![cell(0x86411ca07ffffff, 3), cell(0x86411ca0fffffff, 7)],
            ..Snapshot::empty(AlertName::from_id("a1").expect("a name"), State::Active)
        }
    }

    #[test]
    fn a_state_is_encoded_once_for_all_who_want_the_same() {
        let view = View::default();
        let (first, second) = (view.message(&snapshot(7), None), view.message(&snapshot(7), None));
        assert_eq!(first.as_ptr(), second.as_ptr(), "the same bytes");
        let told = |since| {
            let bytes = view.message(&snapshot(7), Some(since));
            assert_eq!(bytes.as_ptr(), view.message(&snapshot(7), Some(since)).as_ptr());
            wire::AlertProgress::decode(bytes).expect("a message").cells.len()
        };
        assert_eq!((told(0), told(3), told(7)), (2, 1, 0));
        let newer = view.message(&snapshot(8), None);
        assert_ne!(newer.as_ptr(), first.as_ptr());
        // Who comes late with an older state neither gets the newer one nor throws it away.
        assert_eq!(view.message(&snapshot(7), None), first);
        assert_eq!(view.message(&snapshot(8), None).as_ptr(), newer.as_ptr());
        assert!(view.0.lock().encoded.len() <= KEPT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn the_more_watch_the_less_often_each_is_served() {
        let watchers = Watchers::new(10_000, 10_000, Clock::start());
        let alert = AlertName::from_id("a1").expect("a name");
        let pace = |watchers: &Watchers| watchers.next(PeerKey::NONE).since(Time(0));
        assert_eq!(pace(&watchers), PACE);
        let seats: Vec<_> =
            (0..1_000).map(|_| watchers.enter(&alert, PeerKey::NONE).expect("room")).collect();
        assert_eq!(pace(&watchers), 5 * PACE);
        let other = PeerKey::of([10, 0, 0, 1].into());
        let seat = watchers.enter(&alert, other).expect("room");
        assert_eq!(
            (watchers.next(other).since(Time(0)), pace(&watchers)),
            (PACE, 10 * PACE),
            "who has one waits for one"
        );
        drop(seat);
        tokio::time::advance(PACE * 5).await;
        assert_eq!(pace(&watchers), 10 * PACE, "at the same moments for all");
        drop(seats);
        assert!(watchers.present.lock().views.is_empty());
    }
}
