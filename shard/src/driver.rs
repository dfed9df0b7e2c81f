//! The driver: one thread for each core, with its sockets, TLS and timers. Only here does the
//! sending side of a node read the world's clock.
//!
//! A thread owns its core, its sockets and its poller; cores share no data while they send.
//! Commands come in and events go out over bounded queues. Batches of the feed and pieces of
//! snapshots have a queue of their own: a batch of ten thousand records takes some milliseconds to
//! apply, and a cancel must not wait behind it.
//!
//! A thread that panics ends the process: half a node that continues to send is worse than none.

mod addresses;
mod mail;
mod resolve;
mod socket;
mod thread;
mod tls;

use std::{io, panic, sync::Arc, thread::JoinHandle};

use clarion_runtime::world::World;
use futures_util::future::BoxFuture;
use mio::{Poll, Waker};
use tokio::sync::mpsc;

use crate::{
    command::{Closed, Command, CommandSink, Event},
    core::{Core, CoreConfig},
};
use addresses::Addresses;
use mail::Mail;
use resolve::Resolver;
use thread::{CoreThread, WAKE};

/// Longest queue of commands for one core, batches of the feed excluded.
const COMMANDS_MAX: usize = 256;
/// Longest queue of batches of the feed for one core.
const BATCHES_MAX: usize = 4;
/// Events waiting for the control plane, from one core.
const EVENTS_MAX: usize = 64;

/// Handle of a core's thread.
#[derive(Debug)]
pub struct CoreHandle {
    /// Sender of commands to the core.
    pub commands: CommandSender,
    /// From the core. Dropped or full, the core goes on; its reports merge meanwhile.
    pub events: mpsc::Receiver<Event>,
    /// Ends after [`Command::Shutdown`].
    pub join: JoinHandle<()>,
}

/// Sends commands to one core and wakes it.
#[derive(Debug, Clone)]
pub struct CommandSender {
    control: mpsc::Sender<Command>,
    feed: mpsc::Sender<Command>,
    waker: Arc<Waker>,
}

/// Why a command was not sent.
#[derive(Debug, thiserror::Error)]
pub enum TrySendError {
    /// The queue is full: wait, or try again. Here is the command.
    #[error("the core's command queue is full; retry")]
    Full(Box<Command>),
    /// The core's thread has ended: see [`Closed`].
    #[error(transparent)]
    Gone(#[from] Closed),
}

impl CommandSender {
    /// Waits for room in the queue. Commands keep their order, but [`Command::Apply`] and
    /// [`Command::Restore`] only among themselves.
    ///
    /// # Errors
    /// The core has shut down.
    pub async fn send(&self, command: Command) -> Result<(), Closed> {
        self.queue(&command).send(command).await.map_err(|_| Closed)?;
        self.wake();
        Ok(())
    }

    /// Waits until the core has taken every [`Command::Apply`] that was sent; one may still be
    /// under way in it. Resolves at once if the core has shut down.
    pub async fn feed_taken(&self) {
        let _ = self.feed.reserve_many(BATCHES_MAX).await;
    }

    /// Does not wait.
    ///
    /// # Errors
    /// See [`TrySendError`].
    pub fn try_send(&self, command: Command) -> Result<(), TrySendError> {
        self.queue(&command).try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(command) => TrySendError::Full(Box::new(command)),
            mpsc::error::TrySendError::Closed(_) => TrySendError::Gone(Closed),
        })?;
        self.wake();
        Ok(())
    }

    fn queue(&self, command: &Command) -> &mpsc::Sender<Command> {
        match command {
            Command::Apply { .. } | Command::Restore { .. } => &self.feed,
            _ => &self.control,
        }
    }

    fn wake(&self) {
        // A thread that has gone cannot be woken and need not be.
        let _ = self.waker.wake();
    }
}

impl CommandSink for CommandSender {
    fn send(&self, command: Command) -> BoxFuture<'_, Result<(), Closed>> {
        Box::pin(CommandSender::send(self, command))
    }

    fn drained(&self) -> BoxFuture<'_, ()> {
        Box::pin(CommandSender::feed_taken(self))
    }
}

/// Starts a thread for each core, on the clock and with the names and seeds of the world.
///
/// # Errors
/// The system has no more file descriptors or threads.
pub fn spawn(cores: usize, world: &World) -> io::Result<Vec<CoreHandle>> {
    let mut polls = Vec::with_capacity(cores);
    for _ in 0..cores {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        polls.push((poll, waker));
    }
    let mail = mail::between(polls.iter().map(|(_, waker)| Arc::clone(waker)));
    let cores_of = polls.into_iter().zip(mail).enumerate();
    // One seed for the process: a partition may move to another core.
    let hash_seed = world.seed();
    cores_of
        .map(|(n, (poll, mail))| {
            // The jitter must differ between nodes, or nodes that fail together reconnect together.
            let config = CoreConfig { single: cores == 1, cores, seed: world.seed(), hash_seed };
            spawn_core(n, Core::new(config), world, poll, mail)
        })
        .collect()
}

fn spawn_core(
    n: usize,
    core: Core,
    world: &World,
    (poll, waker): (Poll, Arc<Waker>),
    mail: Mail,
) -> io::Result<CoreHandle> {
    let (control, control_queue) = mpsc::channel(COMMANDS_MAX);
    let (feed, feed_queue) = mpsc::channel(BATCHES_MAX);
    let (event_queue, events) = mpsc::channel(EVENTS_MAX);
    let thread = CoreThread::new(
        core,
        world,
        poll,
        (Resolver::new(world.clone(), Arc::clone(&waker)), Addresses::new(n)),
        mail,
        (control_queue, feed_queue),
        event_queue,
    );
    let join = std::thread::Builder::new().name(format!("core-{n}")).spawn(move || {
        if panic::catch_unwind(panic::AssertUnwindSafe(|| thread.run())).is_err() {
            // The panic's message has been printed; nothing that this process holds can be trusted
            // now.
            std::process::abort();
        }
    })?;
    Ok(CoreHandle { commands: CommandSender { control, feed, waker }, events, join })
}
