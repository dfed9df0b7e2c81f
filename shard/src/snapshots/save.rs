//! One snapshot on its way from a core to a coordinator.

use std::time::Duration;

use clarion_proto::{ids::Position, wire::shard_v1 as wire};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};
use wire::save_snapshot_request::Part;
use xxhash_rust::xxh3::Xxh3;

use super::call::{ANSWER_WITHIN, CallError, Carrier};
use crate::{
    command::{Command, SnapshotPart},
    control::snapshot::{Save, SnapshotNote},
};

/// Parts between core and call: the core writes the next section while one is sent.
const PARTS: usize = 2;
/// Deadline for each part of the core, which writes less often while waves are under way and not
/// at all while their batches wait.
const PART_WITHIN: Duration = Duration::from_secs(30);
/// Deadline for the answer after the last part: the coordinator makes the snapshot durable first.
const STORED_WITHIN: Duration = Duration::from_secs(60);
/// Longest data of a message, bytes.
const DATA_BYTES_MAX: usize = 1 << 20;

/// Why a save failed.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the core ended the snapshot")]
    Core,
    #[error("the coordinator took nothing within {limit} s", limit = ANSWER_WITHIN.as_secs())]
    Stalled,
    #[error("the core wrote nothing within {limit} s", limit = PART_WITHIN.as_secs())]
    CoreSilent,
}

/// How the parts of one attempt ended.
enum Sent {
    /// All were sent.
    All,
    /// The core began again, at this position: too many rows changed meanwhile.
    Again(Position),
}

/// Saves a snapshot, and says how that ended.
pub(super) async fn run(carrier: Carrier, save: Save) {
    let number = save.number;
    let note = match store(&carrier, &save).await {
        Ok(position) => SnapshotNote::Saved { save: number, position },
        Err(error) => SnapshotNote::NotSaved { save: number, problem: error.to_string() },
    };
    carrier.note(note).await;
}

async fn store(carrier: &Carrier, save: &Save) -> Result<Position, SaveError> {
    let (sink, mut parts) = mpsc::channel(PARTS);
    let command = Command::Save { partition: save.partition, sink };
    let core = &carrier.cores[save.core];
    let given = timeout(PART_WITHIN, core.send(command)).await;
    given.map_err(|_| SaveError::CoreSilent)?.map_err(|_| SaveError::Core)?;
    let SnapshotPart::Begin(mut position) = next(&mut parts).await? else {
        return Err(SaveError::Core);
    };
    loop {
        let (address, mut client) = carrier.client().await?;
        let (messages, stream) = mpsc::channel(1);
        let start = wire::SaveSnapshotStart {
            caller: Some(carrier.caller(save.log)),
            partition: save.partition.0.into(),
            position: position.0,
            ownership: save.ownership,
        };
        let sending = send(messages, start, &mut parts);
        let answer = client.save_snapshot(ReceiverStream::new(stream));
        tokio::pin!(sending, answer);
        let sent = tokio::select! {
            // An early answer is a refusal: the rest need not be sent.
            biased;
            answer = &mut answer => {
                return stored(answer, position).map_err(|s| CallError::Refused(address, s).into());
            }
            sent = &mut sending => sent?,
        };
        match sent {
            // The stream ends without its end: the coordinator stores nothing.
            Sent::Again(from) => position = from,
            Sent::All => {
                let answer = timeout(STORED_WITHIN, answer).await;
                let answer = answer.map_err(|_| CallError::Silent(address))?;
                let stored = stored(answer, position);
                carrier.stay().await;
                return stored.map_err(|status| CallError::Refused(address, status).into());
            }
        }
    }
}

/// The position that the coordinators have now.
fn stored(
    answer: Result<Response<wire::SaveSnapshotResponse>, Status>,
    position: Position,
) -> Result<Position, Status> {
    match answer {
        Ok(_) => Ok(position),
        // Another node was faster, with a snapshot of the same or a later position.
        Err(status) if status.code() == Code::Aborted => Ok(position),
        Err(status) => Err(status),
    }
}

async fn next(parts: &mut mpsc::Receiver<SnapshotPart>) -> Result<SnapshotPart, SaveError> {
    let part = timeout(PART_WITHIN, parts.recv()).await.map_err(|_| SaveError::CoreSilent)?;
    part.ok_or(SaveError::Core)
}

/// Sends all parts of one snapshot; the stream ends with the return.
async fn send(
    messages: mpsc::Sender<wire::SaveSnapshotRequest>,
    start: wire::SaveSnapshotStart,
    parts: &mut mpsc::Receiver<SnapshotPart>,
) -> Result<Sent, SaveError> {
    let (mut bytes, mut hash) = (0, Xxh3::new());
    message(&messages, Part::Start(start)).await?;
    loop {
        match next(parts).await? {
            SnapshotPart::Begin(position) => return Ok(Sent::Again(position)),
            SnapshotPart::Data(mut data) => {
                hash.update(&data);
                bytes += data.len() as u64;
                while !data.is_empty() {
                    let some = data.split_to(data.len().min(DATA_BYTES_MAX));
                    message(&messages, Part::Data(some)).await?;
                }
            }
            SnapshotPart::End => {
                let end = wire::SaveSnapshotEnd { bytes, hash: hash.digest() };
                message(&messages, Part::End(end)).await?;
                return Ok(Sent::All);
            }
        }
    }
}

async fn message(
    messages: &mpsc::Sender<wire::SaveSnapshotRequest>,
    part: Part,
) -> Result<(), SaveError> {
    let request = wire::SaveSnapshotRequest { part: Some(part) };
    // A stream that has ended says why in the answer, which comes at once.
    match timeout(ANSWER_WITHIN, messages.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => Err(SaveError::Stalled),
    }
}
