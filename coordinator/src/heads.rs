//! Ends of the logs, kept beside the store: they show a store that went back.
//!
//! A database may lose batches that it acknowledged: a standby that lagged is promoted, or a file
//! is restored from a copy. While this process runs, its own memory shows that (positions or chains
//! do not follow), and it stops. These objects show it to the next process: it compares the ends
//! that a former process saw with what the store has now.
//!
//! ```text
//! every 5 s, if a log has grown; and at the end of the process, also when the store is broken:
//!     ends of all logs with their chains ──▶ a new object ──▶ the oldest of three is deleted
//! start:
//!     every object that is there ──▶ has the store each position, with that chain? ──▶ no: refused
//! ```
//!
//! Every object is compared, not only the newest: what a paused former process writes late was true
//! once, and stays true of a store that only grew. A position whose batch is trimmed cannot be
//! compared, but then the log is longer. Nodes compare what they have applied, so a loss within the
//! last 5 s of a process that was killed is found by them.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use clarion_proto::{
    ids::{LogId, Position},
    time::Time,
    wire::store::v1 as wire,
};
use clarion_runtime::{repeated::Repeated, world::World};
use data_encoding::HEXLOWER;
use futures_util::{StreamExt, TryStreamExt, stream};
use prost::Message;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    objects::{ObjectError, Objects},
    store::{ChainAt, ChangeLog, Link, StoreError},
};

/// Folder of the objects.
const FOLDER: &str = "heads";
/// Time between two objects of a process whose logs grow.
const EVERY: Duration = Duration::from_secs(5);
/// Number of objects that a process leaves.
const KEPT: usize = 2;
/// Number of positions that are asked for at once, so that 4,096 logs take a second, not four.
const ASKED_AT_ONCE: usize = 16;

/// Why the ends of the logs do not allow a start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadsError {
    /// The store has lost batches that were acknowledged. A retry does not help.
    #[error(
        "the store went back: log {log} {problem}. Changes of devices that were acknowledged are \
         lost: a standby that lagged was promoted, or the store is an older copy. Start with the \
         newer store; or, if it is gone for good, start once with --accept-lost-changes and \
         register again what changed since"
    )]
    WentBack {
        /// First log that lacks batches.
        log: LogId,
        /// What the log had, and what it has.
        problem: String,
    },
    /// The ends cannot be read. A retry may help.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The store cannot be compared. A retry may help.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Ends of the logs that former processes left, by the names of their objects; whether the operator
/// has accepted a loss.
#[derive(Debug, Default)]
pub(crate) struct Former(Vec<String>, pub(crate) bool);

/// Compares the store with the ends that former processes saw.
///
/// # Errors
/// See [`HeadsError`].
pub(crate) async fn check(
    log: &dyn ChangeLog,
    objects: &Objects,
    accept_lost: bool,
) -> Result<Former, HeadsError> {
    let mut former = Former::default();
    for listed in objects.list(FOLDER).await? {
        let bytes = match objects.get(&listed.name).await {
            Ok(bytes) => bytes,
            // Its writer has deleted it meanwhile.
            Err(ObjectError::Missing(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        former.0.push(listed.name.clone());
        let Some(links) = decode(&bytes) else {
            tracing::error!(object = listed.name, "ends of the logs not readable; left out");
            continue;
        };
        match compare(log, links).await {
            Err(lost @ HeadsError::WentBack { .. }) if accept_lost => {
                tracing::error!(error = %lost, "loss of changes accepted by the operator");
                former.1 = true;
            }
            other => other?,
        }
    }
    Ok(former)
}

/// Writes the ends of the logs until `stop`, and once more then.
pub(crate) async fn keep(
    log: &dyn ChangeLog,
    objects: &Objects,
    Former(mut former, _): Former,
    world: &World,
    stop: CancellationToken,
) {
    let (clock, mut failures) = (world.clock(), Repeated::default());
    let (mut written, mut names) = (Vec::new(), VecDeque::new());
    loop {
        let until = clock.now() + EVERY;
        let stopped = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            () = clock.sleep_until(Some(until)) => false,
        };
        let links = log.links();
        if links != written {
            let name = format!("{FOLDER}/{}", HEXLOWER.encode(&world.id()));
            match objects.put(&name, encode(&links, clock.wall().0)).await {
                Ok(()) => {
                    (written, failures) = (links, Repeated::default());
                    names.push_back(name);
                    // What former processes saw is compared, and newer ends are kept.
                    let surplus = names.len().saturating_sub(KEPT);
                    let old: Vec<_> = former.drain(..).chain(names.drain(..surplus)).collect();
                    for name in old {
                        if let Err(error) = objects.delete(&name).await {
                            tracing::debug!(%error, "old ends of the logs not deleted");
                            former.push(name);
                        }
                    }
                }
                Err(error) => {
                    let (reason, now) = (error.to_string(), clock.now().since(Time(0)));
                    if let Some(times) = failures.note(&reason, now) {
                        tracing::warn!(reason, times, "ends of the logs not written; retrying");
                    }
                }
            }
        }
        if stopped {
            return;
        }
    }
}

async fn compare(log: &dyn ChangeLog, links: Vec<Link>) -> Result<(), HeadsError> {
    let ask = |link: Link| async move {
        let held = match log.chain_at(link.log, link.position).await {
            // It stops the partitions of its log, not the cluster.
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, "end of a log not compared");
                return Ok(());
            }
            held => held?,
        };
        judge(&link, held).map_err(|problem| HeadsError::WentBack { log: link.log, problem })
    };
    stream::iter(links).map(ask).buffered(ASKED_AT_ONCE).try_collect().await
}

/// Whether a log that had `link` once may be as it is now.
fn judge(link: &Link, held: ChainAt) -> Result<(), String> {
    match held {
        ChainAt::Known(chain) if chain == link.chain => Ok(()),
        ChainAt::Trimmed => Ok(()),
        ChainAt::Known(_) => Err(format!(
            "had another batch at position {} or before than it has now",
            link.position
        )),
        ChainAt::Ahead => {
            Err(format!("ended at position {} or later, and ends before", link.position))
        }
    }
}

/// The ends as the bytes of an object: a hash and a message.
fn encode(links: &[Link], written_ms: u64) -> Bytes {
    let head = |link: &Link| wire::LogHead {
        log: link.log.0.into(),
        position: link.position.0,
        chain: link.chain.to_vec(),
    };
    let message = wire::LogHeads { heads: links.iter().map(head).collect(), written_ms };
    let message = message.encode_to_vec();
    [&xxh3_64(&message).to_le_bytes(), &message[..]].concat().into()
}

/// Reads what [`encode`] returned; `None`: the bytes are damaged, or a later version wrote them.
fn decode(bytes: &[u8]) -> Option<Vec<Link>> {
    let (hash, message) = bytes.split_first_chunk()?;
    if u64::from_le_bytes(*hash) != xxh3_64(message) {
        return None;
    }
    let heads = wire::LogHeads::decode(message).ok()?.heads;
    let link = |head: wire::LogHead| {
        let (log, chain) = (u16::try_from(head.log).ok()?, head.chain.try_into().ok()?);
        Some(Link { log: LogId(log), position: Position(head.position), chain })
    };
    heads.into_iter().map(link).collect()
}

#[cfg(test)]
mod tests;
