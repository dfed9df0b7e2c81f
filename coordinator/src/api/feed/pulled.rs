//! The shell of a follower: a stream that the transport pulls. No task, no queue.

use std::sync::Arc;

use clarion_proto::{ids::ClusterName, wire::shard_v1::FeedRequest};
use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{super::status, Place};
use crate::{
    feed::{Fed, FeedError, Follower, Opening, Served, Step},
    store::{ChangeLog, StoreError},
};

/// A follower and the log that it reads.
#[derive(Debug)]
pub(super) struct Pulled {
    follower: Follower,
    log: Arc<dyn ChangeLog>,
    grown: watch::Receiver<u64>,
}

/// Checks a node's request against the cluster and the logs, and opens its feed.
///
/// # Errors
/// See [`FeedError`].
pub(super) async fn open(
    log: Arc<dyn ChangeLog>,
    (cluster, partitions): (&ClusterName, u16),
    request: &FeedRequest,
) -> Result<Pulled, FeedError> {
    let served = Served { cluster, identity: log.identity(), partitions, logs: log.logs() };
    let opening = Opening::check(&served, request)?;
    let grown = log.grown();
    let follower = opening.follow(&log.heads().await?)?;
    Ok(Pulled { follower, log, grown })
}

impl Pulled {
    /// The stream of all messages, until the follower ends, the process drains, or a newer feed
    /// takes the place.
    pub(super) fn stream(
        self,
        place: Place,
        stop: CancellationToken,
    ) -> BoxStream<'static, Result<Fed, Status>> {
        let feed = futures_util::stream::unfold(Some((self, place)), move |feed| {
            let stop = stop.clone();
            async move {
                let (mut pulled, place) = feed?;
                let next = tokio::select! {
                    // The ends come first: a busy log must not delay them.
                    biased;
                    () = stop.cancelled() => Some(Err(status::draining())),
                    () = place.superseded.cancelled() => Some(Err(superseded())),
                    next = pulled.next() => next.map(|next| next.map_err(status::store)),
                };
                match next {
                    Some(Ok(fed)) => Some((Ok(fed), Some((pulled, place)))),
                    Some(Err(status)) => Some((Err(status), None)),
                    None => None,
                }
            }
        });
        feed.boxed()
    }

    /// The next message; waits for a batch. Dropping the future loses nothing. `None`: the stream
    /// has ended.
    async fn next(&mut self) -> Option<Result<Fed, StoreError>> {
        loop {
            match self.follower.poll() {
                Step::Send(fed) => return Some(Ok(fed)),
                Step::Read { after, bytes_max } => {
                    // Marked as seen before the logs are read: a later append wakes this future
                    // again.
                    self.grown.borrow_and_update();
                    let found = self.log.read_many(&after, bytes_max).await;
                    if let Err(error @ StoreError::Damaged { .. }) = &found {
                        tracing::error!(%error, "feed leaves damaged log out");
                    }
                    self.follower.read(found);
                }
                Step::Wait => match self.grown.changed().await {
                    Ok(()) => self.follower.grown(),
                    Err(_) => {
                        let closed = StoreError::Away("the log was closed".to_owned());
                        return Some(Err(closed));
                    }
                },
                Step::End(error) => return error.map(Err),
            }
        }
    }
}

fn superseded() -> Status {
    Status::aborted("a newer feed of this node's name has begun")
}
