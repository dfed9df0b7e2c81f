//! One snapshot on its way from a coordinator into a core.

use std::sync::Arc;

use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;

use clarion_proto::wire::shard_v1 as wire;

use super::call::{ANSWER_WITHIN, CallError, Carrier, Failures};
use crate::{
    command::{Closed, Command, RestorePiece},
    control::snapshot::{Load, SnapshotNote},
    feed::BATCH_TAKEN_WITHIN,
};

/// Attempts that may fail after the first bytes have come. More would not help: a coordinator that
/// breaks a stream again and again cannot read the snapshot, whatever it says.
const BEGUN_MAX: u32 = 5;

/// Why an attempt failed.
enum LoadError {
    Call(CallError),
    /// Events of the core tell the node task.
    CoreEnded,
    CoreHangs,
}

impl From<CallError> for LoadError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Loads a snapshot. Its core says whether it can be read; if it does not come at all, a note does.
/// Each attempt takes a place of its own: an object that cannot be read now keeps no other
/// partition from its content.
pub(super) async fn run(carrier: Carrier, load: Load, places: Arc<Semaphore>) {
    let (mut failures, mut begun) = (Failures::default(), 0);
    loop {
        let mut messages = 0;
        // The places are never closed.
        let Ok(place) = places.acquire().await else { return };
        let attempted = attempt(&carrier, &load, &mut messages).await;
        drop(place);
        let error = match attempted {
            Ok(()) | Err(LoadError::CoreEnded) => return,
            Err(LoadError::CoreHangs) => {
                return carrier.note(SnapshotNote::CoreHangs(load.core)).await;
            }
            Err(LoadError::Call(error)) => error,
        };
        begun += u32::from(messages > 0);
        let logged = failures.note(&carrier.world, &error);
        if error.is_final() || begun >= BEGUN_MAX {
            // A core that takes nothing any more is found by the next piece of another load, or by
            // the feed.
            let _ = piece(&carrier, &load, RestorePiece::Abandon).await;
            let (load, problem) = (load.number, error.to_string());
            return carrier.note(SnapshotNote::NotLoaded { load, problem }).await;
        }
        if let Some(times) = logged {
            let partition = load.snapshot.partition;
            warn!(%partition, %error, times, "loading a snapshot failed; retrying");
        }
        failures.pause(&carrier.world).await;
    }
}

async fn attempt(carrier: &Carrier, load: &Load, messages: &mut u64) -> Result<(), LoadError> {
    let (address, mut client) = carrier.client().await?;
    let request = wire::LoadSnapshotRequest {
        caller: Some(carrier.caller(load.log)),
        partition: load.snapshot.partition.0.into(),
        id: load.snapshot.id.to_vec(),
    };
    let silent = |_| CallError::Silent(address);
    let refused = |status| CallError::Refused(address, status);
    let answer = timeout(ANSWER_WITHIN, client.load_snapshot(request)).await.map_err(silent)?;
    let mut stream = answer.map_err(refused)?.into_inner();
    piece(carrier, load, RestorePiece::Begin).await?;
    let mut bytes = 0;
    loop {
        let message = timeout(ANSWER_WITHIN, stream.message()).await.map_err(silent)?;
        let Some(message) = message.map_err(refused)? else { break };
        *messages += 1;
        bytes += message.data.len() as u64;
        if bytes > load.snapshot.bytes {
            return Err(CallError::Contract(address, "a snapshot must be as long as listed").into());
        }
        piece(carrier, load, RestorePiece::Data(message.data)).await?;
    }
    piece(carrier, load, RestorePiece::End).await?;
    carrier.stay().await;
    Ok(())
}

async fn piece(carrier: &Carrier, load: &Load, piece: RestorePiece) -> Result<(), LoadError> {
    let partition = load.snapshot.partition;
    let command = Command::Restore { partition, load: load.number, piece };
    match timeout(BATCH_TAKEN_WITHIN, carrier.cores[load.core].send(command)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Closed)) => Err(LoadError::CoreEnded),
        Err(_) => Err(LoadError::CoreHangs),
    }
}
