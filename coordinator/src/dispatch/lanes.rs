//! The shell of the lane owner: all tasks share it under a lock, and one task carries its exchanges
//! with token endpoints and its operations of the store.

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
        health::LaneStatus,
        oauth,
        records::{PREFIXES, StoreOp, StoreResult},
    },
    owners::NodeName,
    snapshot::LaneTrouble,
    store::ClusterStore,
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
        self.feed(now.at, |owner| owner.ensure(key))
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

    /// Keeps provider tokens fresh and the lanes' records stored; runs until it is dropped.
    /// Exchanges with token endpoints and operations of the store run concurrently.
    pub(crate) async fn keep_fresh(&self, world: &World, store: &dyn ClusterStore) {
        let (clock, mut random) = (world.clock(), world.random());
        let (mut exchanges, mut operations) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut ramps = self.board.watch();
        loop {
            let standing = ramps.borrow_and_update().clone();
            let (due, deadline) = {
                let (mut owner, now) = (self.owner.lock(), clock.moment());
                owner.follow_ramps(&standing, now);
                owner.expire(now);
                (self.carry_out(&mut owner, now.at), owner.deadline())
            };
            drop(standing);
            exchanges.extend(due.exchanges.into_iter().map(async |credential| {
                let Credential::Fcm(account) = &*credential else {
                    unreachable!("only accounts of FCM exchange")
                };
                let exchanged = oauth::exchange(account, world, clock.wall()).await;
                (credential, exchanged)
            }));
            operations.extend(due.operations.into_iter().map(|op| carry_out(op, store)));
            tokio::select! {
                biased;
                // At most one exchange for each credential: answers cannot starve the rest.
                Some((credential, exchanged)) = exchanges.next() => {
                    let now = clock.now();
                    self.feed(now, |owner| {
                        owner.exchanged(&credential, exchanged, now, &mut random);
                    });
                }
                // At most one operation for each record.
                Some(result) = operations.next() => {
                    let now = clock.moment();
                    self.feed(now.at, |owner| owner.stored(result, now));
                }
                () = self.changed.notified() => {}
                // A ramp may have turned. The board lives as long as this.
                _ = ramps.changed() => {}
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
        debug_assert!(
            due.exchanges.is_empty() && due.operations.is_empty(),
            "only the passage of time begins an exchange or an operation"
        );
        let changed = owner.deadline() != deadline;
        drop(owner);
        if changed {
            self.changed.notify_one();
        }
        result
    }

    /// Carries out all outputs but exchanges and operations of the store, which it returns. The
    /// caller holds the lock, so that the newest budget and token reach the board last.
    fn carry_out(&self, owner: &mut LaneOwner, now: Time) -> Due {
        let mut due = Due::default();
        while let Some(output) = owner.poll() {
            match output {
                Output::Board(change) => drop(self.board.apply(change, now)),
                Output::Exchange(credential) => due.exchanges.push(credential),
                Output::Store(op) => due.operations.push(op),
                Output::HealthChanged => self.healths.send_modify(|changes| *changes += 1),
                Output::Log(log) => log.write(),
            }
        }
        due
    }
}

/// Outputs of the lane owner that take time.
#[derive(Debug, Default)]
struct Due {
    exchanges: Vec<Arc<Credential>>,
    operations: Vec<StoreOp>,
}

async fn carry_out(op: StoreOp, store: &dyn ClusterStore) -> StoreResult {
    match op {
        StoreOp::Read => {
            let mut all = Vec::new();
            for prefix in PREFIXES {
                match store.all_numbered(prefix).await {
                    Ok(records) => all.extend(records),
                    Err(error) => return StoreResult::Read(Err(error)),
                }
            }
            StoreResult::Read(Ok(all))
        }
        StoreOp::Write(record) => {
            let result = store.replace_numbered(record.clone()).await;
            StoreResult::Written(record, result)
        }
        StoreOp::Delete(record) => {
            let result = store.delete_numbered(&record.key, record.number).await;
            StoreResult::Deleted(record, result)
        }
    }
}

#[cfg(test)]
mod tests {
    use clarion_proto::ids::UnixMillis;
    use clarion_runtime::world::Pipes;

    use super::*;
    use crate::{
        lane_owner::fixtures::{authorization, credential, key, owner, with_key_id},
        store::memory::MemoryStore,
    };

    /// The beginning of one of APNs' slots of 24 minutes.
    const SLOT_BEGINS: u64 = 1_800_000_000_000;

    fn lanes(owner: LaneOwner, wall: u64) -> (Lanes, Arc<Board>, World) {
        let board = Arc::new(Board::new());
        let clock = Clock::start_at(UnixMillis(wall));
        (Lanes::new(owner, board.clone()), board, World::new(clock, 1, Arc::new(Pipes::default())))
    }

    fn store(world: &World) -> MemoryStore {
        MemoryStore::new(1, 1 << 20, world)
    }

    /// Runs the task for so many seconds.
    async fn run(lanes: &Lanes, world: &World, store: &MemoryStore, seconds: u64) {
        let wait = Duration::from_secs(seconds);
        let ended = tokio::time::timeout(wait, lanes.keep_fresh(world, store)).await;
        assert!(ended.is_err(), "runs on");
    }

    #[tokio::test(start_paused = true)]
    async fn another_key_makes_its_token_at_once() {
        let (lanes, board, world) = lanes(owner(), SLOT_BEGINS);
        let store = store(&world);
        let lane = lanes.ensure(&key("g", "c"), &world.clock()).unwrap();
        run(&lanes, &world, &store, 60).await;
        let first = authorization(&board.read(), &lane);
        let credentials = vec![with_key_id(&credential("c"), "ZZZZZ99999"), credential("d")];
        lanes.replace(credentials, world.clock().now()).unwrap();
        run(&lanes, &world, &store, 1).await;
        let second = authorization(&board.read(), &lane);
        assert_ne!(second, first, "within the 20 minutes that one key has to keep");
        assert_eq!(store.all_numbered("mint/").await.unwrap().len(), 2, "a record for each key");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_leave_the_task_at_work() {
        let (lanes, board, world) = lanes(owner(), SLOT_BEGINS);
        let store = store(&world);
        let lane = lanes.ensure(&key("g", "c"), &world.clock()).unwrap();
        run(&lanes, &world, &store, 1).await;
        let before = authorization(&board.read(), &lane);
        lanes.replace(vec![credential("c")], world.clock().now()).unwrap_err();
        run(&lanes, &world, &store, 60).await;
        assert_eq!(authorization(&board.read(), &lane), before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_across_the_end_of_a_slot_keeps_the_token() {
        let credentials = vec![credential("c")];
        let gateways = vec![crate::fixtures::gateway(None)];
        let start = |wall| lanes(LaneOwner::new(gateways.clone(), credentials.clone()), wall);
        let (former, board, world) = start(SLOT_BEGINS - 10_000);
        let store = store(&world);
        let lane = former.ensure(&key("g", "c"), &world.clock()).unwrap();
        run(&former, &world, &store, 5).await;
        let first = authorization(&board.read(), &lane);
        let (next, board, world) = start(SLOT_BEGINS + 10_000);
        let lane = next.ensure(&key("g", "c"), &world.clock()).unwrap();
        run(&next, &world, &store, 5).await;
        assert_eq!(authorization(&board.read(), &lane), first);
        run(&next, &world, &store, 60 * 20).await;
        assert_eq!(authorization(&board.read(), &lane), first, "too late in the slot");
        run(&next, &world, &store, 60 * 5).await;
        assert_ne!(authorization(&board.read(), &lane), first, "replaced when the slot ends");
    }
}
