//! One stream of `WriteDevices`: batches in, answers out, in order, each with a deadline.
//!
//! The stream is a task, not what the transport pulls: whoever does not read its answers would
//! otherwise hold its place for as long as it likes. What was begun is finished and answered;
//! between batches is the place to stop.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::wire::v1 as wire;
use clarion_runtime::peers::{PeerKey, shares::Place, turns::Turns};
use futures_util::stream::{self, BoxStream};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::{Context, batch::RawBatch, status};

/// From one answer until the next batch is whole. A stream holds a place that others may want:
/// whoever has nothing to write opens another one later.
pub const NEXT_BATCH_WITHIN: Duration = Duration::from_secs(60);
/// For the caller to make room for an answer.
pub const ANSWER_TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// What a stream works with.
pub(super) struct Writer {
    pub(super) api: Arc<Context>,
    pub(super) peer: PeerKey,
    pub(super) work: Turns,
    /// The stream's own; free again when it ends.
    pub(super) _place: Place,
}

type Answers = BoxStream<'static, Result<wire::WriteDevicesResponse, Status>>;

/// Serves a stream until either side ends it.
pub(super) fn serve(writer: Writer, batches: Streaming<Bytes>) -> Answers {
    // One answer waits for the transport while the next batch is read.
    let (answers, told) = mpsc::channel(1);
    let (last, end) = oneshot::channel();
    let drain = writer.api.drain.clone();
    let task = async move {
        if let Some(status) = writer.write_all(batches, &answers).await {
            tracing::debug!(peer = %writer.peer, code = ?status.code(), reason = status.message(), "write stream ended");
            // Fails if the caller has hung up.
            let _ = last.send(status);
        }
    };
    drain.spawn(task.in_current_span());
    Box::pin(stream::unfold((told, Some(end)), |(mut told, mut end)| async move {
        match told.recv().await {
            Some(answer) => Some((Ok(answer), (told, end))),
            None => end.take()?.await.ok().map(|status| (Err(status), (told, end))),
        }
    }))
}

impl Writer {
    /// The status that ends the stream; `None` if the caller ended it.
    async fn write_all(
        &self,
        mut batches: Streaming<Bytes>,
        answers: &mpsc::Sender<wire::WriteDevicesResponse>,
    ) -> Option<Status> {
        let stop = self.api.drain.token();
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Some(status::draining()),
                () = answers.closed() => return None,
                batch = timeout(NEXT_BATCH_WITHIN, batches.message()) => batch,
            };
            let answer = match batch {
                Err(_) => return Some(idle()),
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(bytes))) => match self.write(bytes).await {
                    Ok(answer) => answer,
                    Err(status) => return Some(status),
                },
                Ok(Err(status)) => return Some(status::unreadable(&status).unwrap_or(status)),
            };
            match timeout(ANSWER_TAKEN_WITHIN, answers.send(answer)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(unread()),
            }
        }
    }

    async fn write(&self, bytes: Bytes) -> Result<wire::WriteDevicesResponse, Status> {
        let batch = RawBatch::new(bytes)?;
        let _turn = self.work.enter(self.peer, 1).await;
        batch.write(&self.api).await
    }
}

fn idle() -> Status {
    let seconds = NEXT_BATCH_WITHIN.as_secs();
    let words = format!(
        "no batch came within {seconds} s of the last answer; open a new stream when there is one"
    );
    status::late("WRITE_STREAM_IDLE", words)
}

fn unread() -> Status {
    let seconds = ANSWER_TAKEN_WITHIN.as_secs();
    status::late("ANSWERS_NOT_READ", format!("an answer was not read within {seconds} s"))
}
