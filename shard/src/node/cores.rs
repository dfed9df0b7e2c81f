//! The cores as the control plane sees them: a bounded queue of commands to each, a bounded queue
//! of events from each.
//!
//! What runs behind the queues is the thread driver in a node, and a script in a test.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    command::{Closed, Command, CommandSink, Event},
    control::INPUT_COMMANDS_MAX,
};

/// One core, seen from here.
pub struct CorePort {
    /// Where commands go.
    pub commands: Arc<dyn CommandSink>,
    /// Where events come from; its end is the end of the core.
    pub events: mpsc::Receiver<Event>,
}

/// Commands that wait for one core. The queue takes memory only for commands that wait in it.
const OUTBOX: usize = 2 * INPUT_COMMANDS_MAX;
/// Free places in the outbox of every core before the node task reads an input.
const OUTBOX_FREE_MIN: usize = INPUT_COMMANDS_MAX;
/// A core that takes no command for this long hangs, and the process has to be replaced. A core
/// takes commands in every turn, and a turn does a bounded amount of work. Batches of the feed have
/// a longer limit of their own (`feed`).
const COMMAND_TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// Takes commands without waiting and brings them to one core in order, so that a core that is
/// behind holds up neither the other cores nor what comes from them.
#[derive(Debug)]
pub(super) struct Outbox {
    errands: mpsc::Sender<Errand>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Errand {
    Command(Command),
    Reached(oneshot::Sender<()>),
}

impl Outbox {
    /// `failed` hears of it when the core takes no more.
    pub(super) fn new(
        core: usize,
        sink: Arc<dyn CommandSink>,
        failed: mpsc::Sender<CoreFailure>,
    ) -> Self {
        let (errands, mut queue) = mpsc::channel(OUTBOX);
        let task = tokio::spawn(async move {
            while let Some(errand) = queue.recv().await {
                let command = match errand {
                    Errand::Command(command) => command,
                    Errand::Reached(reached) => {
                        let _ = reached.send(());
                        continue;
                    }
                };
                let problem = match timeout(COMMAND_TAKEN_WITHIN, sink.send(command)).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(Closed)) => CoreFailure::Ended(core),
                    Err(_) => CoreFailure::Hangs(core),
                };
                let _ = failed.try_send(problem);
                return;
            }
        });
        Self { errands, task }
    }

    /// Whether the commands of one more input have room; for a core that has ended there is nothing
    /// to wait for.
    pub(super) fn has_room(&self) -> bool {
        self.errands.is_closed() || self.errands.capacity() >= OUTBOX_FREE_MIN
    }

    /// Waits until [`Outbox::has_room`].
    pub(super) async fn room(&self) {
        let _ = self.errands.reserve_many(OUTBOX_FREE_MIN).await;
    }

    /// Hands a command over. A core that has ended is told nothing any more: its failure is on its
    /// way.
    pub(super) fn push(&self, command: Command) -> Result<(), Overrun> {
        match self.errands.try_send(Errand::Command(command)) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Overrun),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Resolves when everything pushed before has reached the core's queue.
    pub(super) fn reached(&self) -> Result<oneshot::Receiver<()>, Overrun> {
        let (tell, reached) = oneshot::channel();
        match self.errands.try_send(Errand::Reached(tell)) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Overrun),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(reached),
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// More commands from one input than [`OUTBOX_FREE_MIN`]: a defect here.
#[derive(Debug)]
pub(super) struct Overrun;

/// A core that is no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CoreFailure {
    Ended(usize),
    Hangs(usize),
}

/// The events of all cores, each in its order, none before the others for long.
pub(super) struct Events {
    receivers: Vec<Option<mpsc::Receiver<Event>>>,
    turn: usize,
}

impl Events {
    pub(super) fn new(receivers: impl IntoIterator<Item = mpsc::Receiver<Event>>) -> Self {
        Self { receivers: receivers.into_iter().map(Some).collect(), turn: 0 }
    }

    /// The next event of any core; `None`: that core has ended. Never resolves once all have.
    pub(super) async fn recv(&mut self) -> (usize, Option<Event>) {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    pub(super) fn all_ended(&self) -> bool {
        self.receivers.iter().all(Option::is_none)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(usize, Option<Event>)> {
        let cores = self.receivers.len();
        for core in (0..cores).map(|i| (self.turn + i) % cores) {
            let Some(receiver) = &mut self.receivers[core] else { continue };
            if let Poll::Ready(event) = receiver.poll_recv(context) {
                if event.is_none() {
                    self.receivers[core] = None;
                }
                self.turn = core + 1;
                return Poll::Ready((core, event));
            }
        }
        Poll::Pending
    }
}

/// One scripted core: what a thread would hold.
#[derive(Debug)]
pub struct ScriptedCore {
    /// What the core is told.
    pub commands: mpsc::Receiver<Command>,
    /// What the core tells; its end is the end of the core.
    pub events: mpsc::Sender<Event>,
}

/// Ports for a node, and behind them what a test or a simulator plays.
#[must_use]
pub fn scripted(cores: usize) -> (Vec<CorePort>, Vec<ScriptedCore>) {
    let pair = |_| {
        let (commands, taken) = mpsc::channel(64);
        let (tell, events) = mpsc::channel(64);
        (
            CorePort { commands: Arc::new(commands), events },
            ScriptedCore { commands: taken, events: tell },
        )
    };
    (0..cores).map(pair).unzip()
}
