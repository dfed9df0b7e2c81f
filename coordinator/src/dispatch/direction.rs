//! Takes over the direction of the cluster's lanes when a coordinator starts.

use std::time::Duration;

use clarion_proto::{
    ids::{CoordinatorId, Epoch},
    time::Time,
};
use clarion_runtime::{repeated::Repeated, world::Clock};

use crate::store::{ClusterStore, LaneDirector, StoreError};

/// Pause between retries while the store is down.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Records this coordinator as the director of the lanes, with retries while the store is down or
/// another coordinator is faster. Returns the number of the record.
pub(super) async fn direct_lanes(
    store: &dyn ClusterStore,
    coordinator: CoordinatorId,
    clock: Clock,
) -> Epoch {
    let mut away = Repeated::default();
    loop {
        match take_over(store, coordinator).await {
            Ok(epoch) => {
                tracing::info!(epoch = epoch.0, "coordinator directs the cluster's lanes");
                return epoch;
            }
            Err(StoreError::Conflict(_)) => {}
            Err(error) => {
                let (reason, now) = (error.to_string(), clock.now().since(Time(0)));
                if let Some(times) = away.note(&reason, now) {
                    tracing::warn!(reason, times, "lane direction not recorded; retrying");
                }
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    }
}

async fn take_over(
    store: &dyn ClusterStore,
    coordinator: CoordinatorId,
) -> Result<Epoch, StoreError> {
    let next = LaneDirector::after(store.lane_director().await?, coordinator);
    store.replace_lane_director(next).await?;
    Ok(next.epoch)
}

#[cfg(test)]
mod tests {
    use clarion_runtime::world::World;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn every_coordinator_that_starts_gets_a_higher_number() {
        let world = World::system();
        let (clock, store) = (world.clock(), MemoryStore::new(1, 1 << 20, &world));
        for n in 1..=3 {
            let coordinator = CoordinatorId([n; 16]);
            let epoch = direct_lanes(&store, coordinator, clock).await;
            assert_eq!(epoch, Epoch(u64::from(n)));
            let stored = store.lane_director().await.expect("memory");
            assert_eq!(stored, Some(LaneDirector { epoch, coordinator }));
        }
    }
}
