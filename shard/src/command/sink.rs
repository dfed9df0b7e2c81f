//! A bounded queue for the commands of one core, independent of its implementation.

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::Command;

/// The core has shut down: the receiving end of its queue is closed. Retrying does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the core has shut down")]
pub struct Closed;

/// The sending end of one core's bounded queue.
pub trait CommandSink: Send + Sync + 'static {
    /// Waits for room, then hands the command over; given up before that, nothing was handed over.
    fn send(&self, command: Command) -> BoxFuture<'_, Result<(), Closed>>;
    /// Waits until the core has taken every batch of the feed, or has ended. A script has one queue
    /// for everything, in order: there is nothing to wait for.
    fn drained(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl CommandSink for mpsc::Sender<Command> {
    fn send(&self, command: Command) -> BoxFuture<'_, Result<(), Closed>> {
        Box::pin(async move { mpsc::Sender::send(self, command).await.map_err(|_| Closed) })
    }
}
