//! One save: takes the messages of a stream, each with a deadline, and deletes what it has written
//! if the stream does not reach its end.
//!
//! ```text
//! start ──▶ data … data ──▶ end ──▶ answer
//!   └─ any other order, a break, a deadline, the drain ──▶ objects deleted, status
//! ```

use std::time::Duration;

use clarion_proto::{
    error::InvalidField,
    ids::{PartitionId, Position},
    wire::shard_v1::{
        SaveSnapshotEnd, SaveSnapshotRequest, SaveSnapshotStart, save_snapshot_request::Part,
    },
};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{super::status, Context, refused, required};
use crate::archive::{Saving, record::StoredSnapshot};

/// Deadline for the next message.
const NEXT_WITHIN: Duration = Duration::from_secs(10);
/// Time that the coordinator waits for messages without counting bytes.
const WAIT_FREE: Duration = Duration::from_secs(60);
/// Bytes that the node sends for each further second of waiting: a node of 4 GiB would take 9 h, so
/// this ends those who hold a place for nothing.
const BYTES_PER_SECOND: u64 = 128 << 10;

/// Takes a stream to its end and stores the snapshot.
pub(super) async fn save(
    api: &Context,
    messages: Streaming<SaveSnapshotRequest>,
) -> Result<(PartitionId, StoredSnapshot), Status> {
    let mut incoming = Incoming { api, messages, pace: Pace::default() };
    let start = match incoming.next(0).await? {
        Part::Start(start) => start,
        Part::Data(_) | Part::End(_) => return Err(required("start")),
    };
    let archive = &api.archive;
    let node = archive.check(start.caller.as_ref()).map_err(refused)?;
    let SaveSnapshotStart { partition, position, ownership, .. } = start;
    let partition = archive.partition(partition, "start.partition").map_err(status::invalid)?;
    let saving = archive.save(node, partition, Position(position), ownership).await;
    let mut saving = saving.map_err(refused)?;
    match take(&mut incoming, &mut saving).await {
        Ok(SaveSnapshotEnd { bytes, hash }) => {
            let stored = saving.finish(bytes, hash).await.map_err(refused)?;
            Ok((partition, stored))
        }
        Err(status) => {
            let (bytes, code) = (saving.bytes(), status.code());
            tracing::info!(%partition, bytes, ?code, reason = status.message(), "save ended early");
            saving.abandon().await;
            Err(status)
        }
    }
}

/// Takes all pieces; returns the end.
async fn take(incoming: &mut Incoming<'_>, saving: &mut Saving) -> Result<SaveSnapshotEnd, Status> {
    loop {
        match incoming.next(saving.bytes()).await? {
            Part::Data(piece) => saving.push(&piece).await.map_err(refused)?,
            Part::End(end) => return Ok(end),
            Part::Start(_) => {
                let problem = "must be the first message only";
                return Err(status::invalid(InvalidField::new("start", problem)));
            }
        }
    }
}

/// The messages of a stream, with their deadlines.
struct Incoming<'a> {
    api: &'a Context,
    messages: Streaming<SaveSnapshotRequest>,
    pace: Pace,
}

impl Incoming<'_> {
    /// The next part, after this number of bytes.
    async fn next(&mut self, bytes: u64) -> Result<Part, Status> {
        let (clock, stop) = (self.api.world.clock(), self.api.drain.token());
        let (began, within) = (clock.now(), self.pace.wait(bytes));
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(status::draining()),
            message = timeout(within, self.messages.message()) => message,
        };
        self.pace.waited(clock.now().since(began));
        match message {
            Err(_) => {
                let words = format!("no message arrived within {within:?}");
                Err(status::late("SAVE_SLOW", words))
            }
            Ok(Ok(Some(message))) => message.part.ok_or_else(|| required("part")),
            Ok(Ok(None)) => Err(required("end")),
            Ok(Err(status)) => Err(status::unreadable(&status).unwrap_or(status)),
        }
    }
}

/// Time that a stream may still make the coordinator wait.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
}

impl Pace {
    /// Longest wait for the next message, after this number of bytes.
    fn wait(&self, bytes: u64) -> Duration {
        let allowed = WAIT_FREE + Duration::from_secs(bytes / BYTES_PER_SECOND);
        NEXT_WITHIN.min(allowed.saturating_sub(self.waited))
    }

    fn waited(&mut self, time: Duration) {
        self.waited += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_brings_little_ends_after_a_minute_and_one_that_brings_much_goes_on() {
        let mut slow = Pace::default();
        for bytes in 1..=60 {
            assert!(slow.wait(bytes) > Duration::ZERO, "{bytes}");
            slow.waited(Duration::from_secs(1));
        }
        assert_eq!(slow.wait(61), Duration::ZERO);
        assert_eq!(slow.wait(61 * BYTES_PER_SECOND), NEXT_WITHIN);
    }
}
