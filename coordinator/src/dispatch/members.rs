//! The shell of the roster: nodes' tasks share it under a lock, and one task carries its
//! operations of the store.

use std::net::SocketAddr;

use clarion_proto::{
    ids::{BootId, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::board::Board;
use crate::{
    members::{
        NodeStatus, Refused, Roster,
        assignment::{Output, StoreOp, StoreResult},
        registry::RegistryTotals,
    },
    owners::{NodeName, Owned},
    session::NodeMemory,
    standing::Change,
    store::ClusterStore,
};
use clarion_runtime::world::Clock;

/// The roster, shared by all tasks of dispatch.
#[derive(Debug)]
pub(crate) struct Members {
    roster: Mutex<Roster>,
    /// Wakes [`Members::assign`], because nodes may be gathered.
    changed: Notify,
    /// Changes with every session that begins or ends, and when partitions are assigned.
    sessions: watch::Sender<u64>,
}

impl Members {
    pub(crate) fn new(roster: Roster) -> Self {
        let roster = Mutex::new(roster);
        Self { roster, changed: Notify::new(), sessions: watch::Sender::new(0) }
    }

    /// Channel that changes with every session that begins or ends, and when partitions are
    /// assigned.
    pub(crate) fn sessions(&self) -> watch::Receiver<u64> {
        self.sessions.subscribe()
    }

    /// Claims a node for a session, see [`Roster::claim`].
    ///
    /// # Errors
    /// See [`Refused`].
    pub(crate) fn claim(
        &self,
        name: &NodeName,
        boot: BootId,
        address: SocketAddr,
        positions: &[wire::LogPosition],
        now: Time,
    ) -> Result<NodeMemory, Refused> {
        let memory = self.roster.lock().claim(name, boot, address, positions, now)?;
        self.changed.notify_one();
        self.sessions.send_modify(|changes| *changes += 1);
        Ok(memory)
    }

    /// Ends the session of a node and takes the node's memory back.
    pub(crate) fn release(&self, name: &NodeName, memory: NodeMemory) {
        self.roster.lock().release(name, memory);
        self.sessions.send_modify(|changes| *changes += 1);
    }

    /// Removes an ended wave from the memory of disconnected nodes.
    pub(crate) fn forget(&self, wave: WaveId) {
        self.roster.lock().forget(wave);
    }

    /// Reports a reachable node that accepts no session yet.
    pub(crate) fn coming(&self, now: Time) {
        self.roster.lock().coming(now);
    }

    /// Records a node's registry state; `None`: the node has no data of this coordinator's log.
    pub(crate) fn registry(&self, name: &NodeName, state: Option<&wire::RegistryState>) {
        self.roster.lock().registry(name, state);
    }

    /// Totals over all nodes. A disconnected node counts with its last report.
    pub(crate) fn totals(&self, owned: Option<&Owned>) -> RegistryTotals {
        self.roster.lock().totals(owned)
    }

    pub(crate) fn is_connected(&self, name: &NodeName) -> bool {
        self.roster.lock().is_connected(name)
    }

    pub(crate) fn addresses(&self) -> usize {
        self.roster.lock().addresses()
    }

    /// Sets the number of known addresses.
    pub(crate) fn set_addresses(&self, addresses: usize) {
        self.roster.lock().set_addresses(addresses);
        self.changed.notify_one();
    }

    pub(crate) fn status(&self, owned: Option<&Owned>) -> Vec<NodeStatus> {
        self.roster.lock().status(owned)
    }

    /// Carries the roster's operations of the store and publishes the ownership on the board; ends
    /// when ownership is decided.
    pub(crate) async fn assign(&self, board: &Board, store: &dyn ClusterStore, clock: Clock) {
        loop {
            let (output, is_decided, deadline) = {
                let mut roster = self.roster.lock();
                roster.expire(clock.now());
                (roster.poll(), roster.is_decided(), roster.deadline())
            };
            match output {
                Some(Output::Store(op)) => {
                    let result = carry_out(op, store).await;
                    self.roster.lock().stored(result, clock.now());
                }
                Some(Output::Publish(owned)) => {
                    board.apply(Change::Owned(owned), clock.now());
                    self.sessions.send_modify(|changes| *changes += 1);
                }
                Some(Output::Log(log)) => log.write(),
                None if is_decided => return,
                // Neither starves the other: each leads to the same look at the roster.
                None => tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    () = clock.sleep_until(deadline) => {}
                },
            }
        }
    }
}

async fn carry_out(op: StoreOp, store: &dyn ClusterStore) -> StoreResult {
    match op {
        StoreOp::ReadOwnership => StoreResult::Read(store.ownership().await),
        StoreOp::WriteOwnership(next) => StoreResult::Written(store.replace_ownership(next).await),
    }
}

#[cfg(test)]
mod tests {
    use clarion_runtime::world::World;

    use super::*;
    use crate::{
        fixtures::{BOOT_1, PARTITIONS, node, seconds},
        owners::Ownership,
        store::memory::MemoryStore,
    };

    fn members() -> Members {
        Members::new(Roster::new(1, PARTITIONS, 4))
    }

    #[tokio::test(start_paused = true)]
    async fn the_board_has_ownership_once_all_are_there() {
        let (members, board, clock) = (members(), Board::new(), Clock::start());
        members.set_addresses(2);
        let claim = |name, port| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            members.claim(&node(name), BOOT_1, address, &[], seconds(0)).unwrap()
        };
        let mut watch = board.watch();
        let wait = async {
            let _a = claim("a", 1);
            tokio::task::yield_now().await;
            assert!(board.read().owned.is_none());
            let _b = claim("b", 2);
            watch.changed().await.unwrap();
        };
        let store = MemoryStore::new(4, 1 << 20, &World::system());
        tokio::join!(members.assign(&board, &store, clock), wait);
        let owned = board.read().owned.clone().unwrap();
        assert_eq!(owned.ownership.number, 1, "the first in a new store");
        assert_eq!(store.ownership().await.unwrap().as_deref(), Some(&owned.ownership), "recorded");
        assert_eq!(owned.nodes().values().sum::<u16>(), PARTITIONS);
        assert_eq!(owned.nodes().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn ownership_of_the_store_is_on_the_board_before_any_node_is_there() {
        let (board, clock) = (Board::new(), Clock::start());
        let store = MemoryStore::new(4, 1 << 20, &World::system());
        let first = Ownership::assign(1, PARTITIONS, &[node("a")]);
        let second = Ownership::assign(2, PARTITIONS, &[node("a"), node("b")]);
        for ownership in [&first, &second] {
            store.replace_ownership(ownership.clone()).await.unwrap();
        }
        members().assign(&board, &store, clock).await;
        assert_eq!(board.read().owned.clone().unwrap().ownership, second);
    }
}
