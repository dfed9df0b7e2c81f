//! One load: a task reads chunks and pushes them in messages, each with a deadline.

use std::time::Duration;

use bytes::Bytes;
use clarion_proto::wire::shard_v1::LoadSnapshotResponse;
use clarion_runtime::{drain::Drain, peers::turns::Turn};
use futures_util::stream::{self, BoxStream};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::Status;
use tracing::Instrument as _;

use super::{super::status, refused};
use crate::archive::{Loading, gather::PIECE_BYTES_MAX};

/// Deadline for the node to take a message.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

type Messages = BoxStream<'static, Result<LoadSnapshotResponse, Status>>;

/// Streams a snapshot until its end; the turn is held until then.
pub(super) fn serve(drain: &Drain, loading: Loading, turn: Turn) -> Messages {
    // One message waits for the transport while the next chunk is read.
    let (messages, taken) = mpsc::channel(1);
    let (last, end) = oneshot::channel();
    let stop = drain.token();
    let task = async move {
        let _turn = turn;
        let status = tokio::select! {
            biased;
            () = stop.cancelled() => Some(status::draining()),
            () = messages.closed() => None,
            status = push_all(loading, &messages) => status,
        };
        // Fails if the node has closed the stream.
        let _ = last.send(status);
    };
    drain.spawn(task.in_current_span());
    Box::pin(stream::unfold((taken, Some(end)), |(mut taken, mut end)| async move {
        if let Some(data) = taken.recv().await {
            return Some((Ok(LoadSnapshotResponse { data }), (taken, end)));
        }
        // Without a word from the task the snapshot is not complete.
        let status = end.take()?.await.unwrap_or_else(|_| Some(status::draining()))?;
        Some((Err(status), (taken, end)))
    }))
}

/// The status that ends the stream; `None`: it is complete.
async fn push_all(mut loading: Loading, messages: &mpsc::Sender<Bytes>) -> Option<Status> {
    loop {
        let mut chunk: Bytes = match loading.next().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return None,
            Err(error) => return Some(refused(error)),
        };
        while !chunk.is_empty() {
            let data = chunk.split_to(chunk.len().min(PIECE_BYTES_MAX));
            match timeout(TAKEN_WITHIN, messages.send(data)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => {
                    let seconds = TAKEN_WITHIN.as_secs();
                    let words = format!("a message was not read within {seconds} s");
                    return Some(status::late("LOAD_NOT_READ", words));
                }
            }
        }
    }
}
