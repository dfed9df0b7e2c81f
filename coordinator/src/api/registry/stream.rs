//! One stream of `WriteDevices`: takes batches and answers them in order, each with a deadline.
//!
//! The stream is a task that pushes its answers: if the transport pulled them, a caller who does
//! not read its answers could hold the stream's place for ever. A batch that was begun is finished
//! and answered; the stream stops between batches.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{error::InvalidField, wire::v1 as wire};
use clarion_runtime::peers::{PeerKey, shares::Place, turns::Turns};
use futures_util::stream::{self, BoxStream};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::{
    Context,
    batch::{RawBatch, Registrar},
    status,
};

/// Deadline for the next whole batch after an answer. A stream holds a place that other callers may
/// need: a caller without changes opens another stream later.
pub const NEXT_BATCH_WITHIN: Duration = Duration::from_secs(60);
/// Deadline for the caller to read an answer.
pub const ANSWER_TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Resources of one stream.
pub(super) struct Writer {
    pub(super) api: Arc<Context>,
    pub(super) peer: PeerKey,
    pub(super) unwritten: Turns,
    pub(super) work: Turns,
    /// Place of the stream, released at its end.
    pub(super) _place: Place,
}

type Answers = BoxStream<'static, Result<wire::WriteDevicesResponse, Status>>;

/// Serves a stream until either side ends it.
pub(super) fn serve(writer: Writer, batches: Streaming<Bytes>) -> Answers {
    // One answer may wait for the transport while the next batch is read.
    let (answers, told) = mpsc::channel(1);
    let (last, end) = oneshot::channel();
    let drain = writer.api.drain.clone();
    let task = async move {
        if let Some(status) = writer.write_all(batches, &answers).await {
            tracing::debug!(peer = %writer.peer, code = ?status.code(), reason = status.message(), "write stream ended");
            // Fails if the caller has closed the stream.
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
        let mut historic = None;
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
                Ok(Ok(Some(bytes))) => match self.write(bytes, &mut historic).await {
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

    /// Writes a batch. The first batch of the stream decides whether the stream is `historic`.
    async fn write(
        &self,
        bytes: Bytes,
        historic: &mut Option<bool>,
    ) -> Result<wire::WriteDevicesResponse, Status> {
        let batch = RawBatch::new(bytes)?;
        let of_stream = *historic.get_or_insert(batch.is_historic());
        if of_stream != batch.is_historic() {
            let problem = format!(
                "must be {of_stream} in every batch of this stream, as in the first one; got {}; \
                 open another stream",
                batch.is_historic()
            );
            return Err(status::invalid(InvalidField::new("historic", problem)));
        }
        let _place = self.unwritten.enter(self.peer, batch.bytes().max(1)).await;
        let api = &self.api;
        let registrar = Registrar {
            apps: &*api.store,
            log: &*api.log,
            device_key: &api.config.device_key,
            partitions: api.config.partitions,
            observed: &api.observed,
            now: api.world.clock().wall(),
            turns: Some((&self.work, self.peer)),
        };
        batch.write(registrar).await
    }
}

fn idle() -> Status {
    let seconds = NEXT_BATCH_WITHIN.as_secs();
    let words = format!(
        "no batch arrived within {seconds} s of the last answer; open a new stream for the next \
         batch"
    );
    status::late("WRITE_STREAM_IDLE", words)
}

fn unread() -> Status {
    let seconds = ANSWER_TAKEN_WITHIN.as_secs();
    status::late("ANSWERS_NOT_READ", format!("an answer was not read within {seconds} s"))
}
