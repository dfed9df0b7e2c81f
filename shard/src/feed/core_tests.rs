//! A core that takes no batches, although its queue is open.

use clarion_proto::ids::{LogIdentity, PartitionId};

use super::*;
use crate::control::ownership::{Ownership, change};

#[tokio::test(start_paused = true)]
async fn a_core_that_takes_no_batch_is_a_failure_of_its_own() {
    let log = LogIdentity([1; 16]);
    let partitions = vec![PartitionId(0)];
    let owned = Ownership { log, number: 1, partition_count: 1, log_count: 1, partitions };
    let splitter =
        Splitter::new(&change(None, owned, 1).assignment, &[(PartitionId(0), Position(0))].into());
    // Room for one batch, and nobody takes it.
    let (core, taken) = mpsc::channel(1);
    let (notes, _told) = mpsc::channel(1);
    let (node, cluster) = ("node-1".to_owned(), ClusterName::default());
    let config = FeedConfig { node, cluster, coordinators: Vec::new() };
    let world = World::system();
    let coordinators = Coordinators::new(Vec::new(), world.clone());
    let feed = Feed { config, cores: vec![Arc::new(core)], notes, world };
    let mut follower = Follower { coordinators, splitter, feed };
    follower.splitter.request("node-1", &ClusterName::default());
    let head = wire::LogPosition { log: 0, position: 2 };
    let start = wire::FeedStart { log_identity: log.to_wire(), heads: vec![head] };
    follower.splitter.start(&start).expect("the log of the ownership");
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let batch = |position| wire::FeedResponse { position, ..wire::FeedResponse::default() };
    follower.deliver(batch(1), address).await.expect("there is room");
    let clock = follower.feed.world.clock();
    let begun = clock.now();
    let failed = follower.deliver(batch(2), address).await;
    assert!(matches!(failed, Err(FeedError::CoreHangs(0))), "{failed:?}");
    assert_eq!(clock.now().since(begun), BATCH_TAKEN_WITHIN);
    // A core that has ended is another matter: its events say so.
    drop(taken);
    let failed = follower.deliver(batch(2), address).await;
    assert!(failed.is_err() && !matches!(failed, Err(FeedError::CoreHangs(_))), "{failed:?}");
}
