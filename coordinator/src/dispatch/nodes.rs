//! Node discovery: configured addresses, names resolved again every 5 s, one session task for each
//! address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use clarion_runtime::world::World;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{cluster::Cluster, node::keep_session};

/// Interval between two resolutions of a name.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// Deadline for the resolution of one name.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(3);
/// Largest number of sessions; further addresses are ignored and logged.
const ADDRESSES_MAX: usize = 1_024;

/// Configuration of node discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodesConfig {
    /// host:port of each, or one name that resolves to all of them; names are asked again every 5
    /// s.
    pub addresses: Vec<String>,
    /// Minimum number of connected nodes before partitions are assigned.
    pub min: usize,
}

/// Keeps one session task for each address until `stop`; then ends the tasks.
pub(crate) async fn keep_sessions(
    config: NodesConfig,
    cluster: Arc<Cluster>,
    world: World,
    stop: CancellationToken,
) {
    let mut names: BTreeMap<String, Found> =
        config.addresses.into_iter().map(|name| (name, Found::default())).collect();
    let mut tasks: BTreeMap<SocketAddr, Task> = BTreeMap::new();
    let mut running = JoinSet::new();
    loop {
        for (name, found) in &mut names {
            found.resolve(name, &world).await;
        }
        let wanted = wanted(&names);
        cluster.roster.set_addresses(wanted.len());
        tasks.retain(|address, task| {
            if !wanted.contains(address) {
                // The session under way goes on: a draining node disappears from the name first,
                // and its session still carries the rest of its work.
                task.leave.cancel();
            }
            !task.handle.is_finished()
        });
        for address in &wanted {
            tasks.entry(*address).or_insert_with(|| {
                let leave = stop.child_token();
                let session = keep_session(
                    *address,
                    cluster.clone(),
                    world.clone(),
                    leave.clone(),
                    stop.clone(),
                );
                Task { leave, handle: running.spawn(session) }
            });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(RESOLVE_EVERY) => {}
        }
        while running.try_join_next().is_some() {}
    }
    // Each task ends at once when `stop` is cancelled; a panic was logged by its own task.
    while running.join_next().await.is_some() {}
}

struct Task {
    /// Cancelled when the address is no longer configured or resolved: no reconnect.
    leave: CancellationToken,
    handle: AbortHandle,
}

/// Addresses that a name resolved to.
#[derive(Default)]
struct Found {
    addresses: BTreeSet<SocketAddr>,
    failing: bool,
}

impl Found {
    /// Resolves the name. If the name server fails, the addresses of the last success stay valid.
    async fn resolve(&mut self, name: &str, world: &World) {
        let found = match tokio::time::timeout(RESOLVE_DEADLINE, world.resolve(name)).await {
            Ok(Ok(found)) => Ok(found.into_iter().collect::<BTreeSet<_>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", RESOLVE_DEADLINE.as_secs())),
        };
        match found {
            Ok(found) if !found.is_empty() => (self.addresses, self.failing) = (found, false),
            problem => {
                if !std::mem::replace(&mut self.failing, true) {
                    let problem = problem.err().unwrap_or_else(|| "no address".to_owned());
                    tracing::warn!(
                        name,
                        problem,
                        kept = self.addresses.len(),
                        "node name not resolved"
                    );
                }
            }
        }
    }
}

fn wanted(names: &BTreeMap<String, Found>) -> BTreeSet<SocketAddr> {
    let all: BTreeSet<_> =
        names.values().flat_map(|found| found.addresses.iter().copied()).collect();
    if all.len() > ADDRESSES_MAX {
        tracing::warn!(
            found = all.len(),
            kept = ADDRESSES_MAX,
            "node addresses ignored beyond session limit"
        );
    }
    all.into_iter().take(ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_fails_keeps_what_it_had() {
        let mut found = Found::default();
        found.resolve("127.0.0.1:7500", &World::system()).await;
        assert_eq!(found.addresses.len(), 1);
        found.resolve("not an address", &World::system()).await;
        assert!(found.failing);
        assert_eq!(found.addresses.len(), 1);
    }

    #[tokio::test]
    async fn addresses_named_twice_are_one() {
        let mut names = BTreeMap::from([("127.0.0.1:7500".to_owned(), Found::default())]);
        names.insert("127.0.0.1:07500".to_owned(), Found::default());
        for (name, found) in &mut names {
            found.resolve(name, &World::system()).await;
        }
        assert_eq!(wanted(&names).len(), 1);
    }
}
