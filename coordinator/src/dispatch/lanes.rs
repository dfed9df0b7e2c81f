//! The shell of the lane owner: all tasks share it under a lock, and one task carries its exchanges
//! with token endpoints.

use std::{sync::Arc, time::Duration};

use clarion_proto::{ids::LaneId, time::Time, wire::shard_v1 as wire};
use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::board::Board;
use crate::{
    lane::{LaneKey, LaneSpec},
    lane_owner::{
        Credential, CredentialStatus, LaneError, LaneOwner, Output, ReplaceError,
        health::LaneStatus, oauth,
    },
    owners::NodeName,
    snapshot::LaneTrouble,
};
use clarion_runtime::world::{Clock, Moment, World};

/// Longest time until a wall clock that was set is noticed: timers do not follow it.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The lane owner, shared by all tasks of dispatch.
#[derive(Debug)]
pub(crate) struct Lanes {
    owner: Mutex<LaneOwner>,
    board: Arc<Board>,
    /// Wakes [`Lanes::keep_fresh`], because a token is due at another time.
    changed: Notify,
    /// Number of changes of lane ends' health so far.
    healths: watch::Sender<u64>,
}

impl Lanes {
    pub(crate) fn new(owner: LaneOwner, board: Arc<Board>) -> Self {
        let (changed, healths) = (Notify::new(), watch::Sender::new(0));
        Self { owner: Mutex::new(owner), board, changed, healths }
    }

    /// Returns the lane of that name, see [`LaneOwner::ensure`]. Never waits.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub(crate) fn ensure(&self, key: &LaneKey, clock: &Clock) -> Result<Arc<LaneSpec>, LaneError> {
        let now = clock.moment();
        self.feed(now.at, |owner| owner.ensure(key, now))
    }

    /// Records the health of a lane end, as its node reports it.
    pub(crate) fn health_changed(&self, node: &NodeName, state: &wire::LaneState, now: Moment) {
        self.feed(now.at, |owner| owner.health_changed(node, state, now));
    }

    /// Marks the lane ends of a node as unknown, because the node has no session.
    pub(crate) fn node_gone(&self, node: &NodeName, now: Time) {
        self.feed(now, |owner| owner.node_gone(node));
    }

    /// Creates the lane with this number, see [`LaneOwner::ensure_id`].
    pub(crate) fn ensure_id(&self, lane: LaneId, now: Moment) {
        self.feed(now.at, |owner| owner.ensure_id(lane, now));
    }

    /// Records the load of a node's connections of a lane.
    pub(crate) fn loaded(&self, node: &NodeName, load: wire::LaneLoad, now: Time) {
        let standing = self.board.read();
        self.feed(now, |owner| owner.loaded(node, load, &standing, now));
    }

    /// Replaces the credentials, see [`LaneOwner::replace`].
    ///
    /// # Errors
    /// See [`ReplaceError`].
    pub(crate) fn replace(
        &self,
        credentials: Vec<Credential>,
        now: Time,
    ) -> Result<(), ReplaceError> {
        self.feed(now, |owner| owner.replace(credentials))
    }

    /// Receiver that is marked as changed with each change of a lane end's health.
    pub(crate) fn health_changes(&self) -> watch::Receiver<u64> {
        self.healths.subscribe()
    }

    /// Troubles that keep these lanes from sending now.
    pub(crate) fn troubles(&self, lanes: &[Arc<LaneSpec>]) -> Vec<LaneTrouble> {
        self.owner.lock().troubles(lanes)
    }

    /// Health of all lane ends.
    pub(crate) fn status(&self) -> Vec<LaneStatus> {
        self.owner.lock().status()
    }

    /// States of all credentials that a lane uses.
    pub(crate) fn credentials(&self) -> Vec<CredentialStatus> {
        self.owner.lock().credentials()
    }

    /// Longest request deadline of all gateways.
    pub(crate) fn request_deadline_max(&self) -> Duration {
        self.owner.lock().request_deadline_max()
    }

    /// Keeps provider tokens fresh; runs until it is dropped. Exchanges with token endpoints run
    /// concurrently.
    pub(crate) async fn keep_fresh(&self, world: &World) {
        let (clock, mut random) = (world.clock(), world.random());
        let mut exchanges = FuturesUnordered::new();
        loop {
            let (due, deadline) = {
                let (mut owner, now) = (self.owner.lock(), clock.moment());
                owner.expire(now);
                (self.carry_out(&mut owner, now.at), owner.deadline())
            };
            for credential in due {
                exchanges.push(async move {
                    let Credential::Fcm(account) = &*credential else {
                        unreachable!("only accounts of FCM exchange")
                    };
                    let exchanged = oauth::exchange(account, world, clock.wall()).await;
                    (credential, exchanged)
                });
            }
            tokio::select! {
                biased;
                // At most one exchange for each credential: answers cannot starve the rest.
                Some((credential, exchanged)) = exchanges.next() => {
                    let now = clock.now();
                    self.feed(now, |owner| {
                        owner.exchanged(&credential, exchanged, now, &mut random);
                    });
                }
                () = self.changed.notified() => {}
                () = clock.sleep_until(Some(
                    deadline.unwrap_or(Time::NEVER).min(clock.now() + LOOK_EVERY),
                )) => {}
            }
        }
    }

    /// Feeds one input to the machine and carries out what follows.
    fn feed<R>(&self, now: Time, input: impl FnOnce(&mut LaneOwner) -> R) -> R {
        let mut owner = self.owner.lock();
        let deadline = owner.deadline();
        let result = input(&mut owner);
        let due = self.carry_out(&mut owner, now);
        debug_assert!(due.is_empty(), "only the passage of time begins an exchange");
        let changed = owner.deadline() != deadline;
        drop(owner);
        if changed {
            self.changed.notify_one();
        }
        result
    }

    /// Carries out all outputs but the exchanges, which it returns. The caller holds the lock, so
    /// that the newest budget and token reach the board last.
    fn carry_out(&self, owner: &mut LaneOwner, now: Time) -> Vec<Arc<Credential>> {
        let mut exchanges = Vec::new();
        while let Some(output) = owner.poll() {
            match output {
                Output::Board(change) => drop(self.board.apply(change, now)),
                Output::Exchange(credential) => exchanges.push(credential),
                Output::HealthChanged => self.healths.send_modify(|changes| *changes += 1),
                Output::Log(log) => log.write(),
            }
        }
        exchanges
    }
}

#[cfg(test)]
mod tests {
    use clarion_runtime::world::Pipes;

    use super::*;
    use crate::lane_owner::fixtures::{authorization, credential, key, owner, with_key_id};

    fn lanes() -> (Lanes, Arc<Board>, World) {
        let board = Arc::new(Board::new());
        (
            Lanes::new(owner(), board.clone()),
            board,
            World::new(Clock::start(), 1, Arc::new(Pipes::default())),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn another_key_makes_its_token_at_once() {
        let (lanes, board, world) = lanes();
        let lane = lanes.ensure(&key("g", "c"), &world.clock()).unwrap();
        let first = authorization(&board.read(), &lane);
        let replaced = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let credentials = vec![with_key_id(&credential("c"), "ZZZZZ99999"), credential("d")];
            lanes.replace(credentials, world.clock().now()).unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        tokio::select! {
            () = lanes.keep_fresh(&world) => {}
            () = replaced => {}
        }
        let second = authorization(&board.read(), &lane);
        assert_ne!(second, first, "within the 20 minutes that one key has to keep");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_leave_the_task_at_work() {
        let (lanes, board, world) = lanes();
        let lane = lanes.ensure(&key("g", "c"), &world.clock()).unwrap();
        let before = authorization(&board.read(), &lane);
        lanes.replace(vec![credential("c")], world.clock().now()).unwrap_err();
        let wait = tokio::time::timeout(Duration::from_secs(60), lanes.keep_fresh(&world));
        assert!(wait.await.is_err(), "runs on");
        assert_eq!(authorization(&board.read(), &lane), before);
    }
}
