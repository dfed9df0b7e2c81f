//! The control plane's interface to the cores: a bounded queue of commands to each core, a bounded
//! queue of events from each core.
//!
//! In a node the thread driver serves the queues; in a test a script serves them.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use crate::{
    command::{Closed, Command, CommandSink, Event},
    control::INPUT_COMMANDS_MAX,
};

/// The control plane's ends of one core's queues.
pub struct CorePort {
    /// Queue of commands to the core.
    pub commands: Arc<dyn CommandSink>,
    /// Queue of events from the core; its end is the end of the core.
    pub events: mpsc::Receiver<Event>,
}

/// Maximum number of commands that wait for one core. The queue takes memory only for the commands
/// that wait in it.
const OUTBOX: usize = 2 * INPUT_COMMANDS_MAX;
/// Minimum number of free places in every core's outbox before the node task reads an input.
const OUTBOX_FREE_MIN: usize = INPUT_COMMANDS_MAX;
/// Time after which a core that accepts no command counts as hung, so that the process must be
/// replaced. A core accepts commands in every turn, and a turn does a bounded amount of work.
/// Batches of the feed have a longer limit (`feed`).
const COMMAND_TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// A queue that accepts commands without waiting and delivers them to one core in order, so that a
/// slow core delays neither the commands nor the events of the remaining cores.
#[derive(Debug)]
pub(super) struct Outbox {
    errands: mpsc::Sender<Errand>,
    /// The one task of the outbox, which ends with the outbox.
    _task: JoinSet<()>,
}

#[derive(Debug)]
enum Errand {
    Command(Command),
    Reached(oneshot::Sender<()>),
}

impl Outbox {
    /// Starts the outbox of a core; `failed` gets the failure when the core accepts no command.
    pub(super) fn new(
        core: usize,
        sink: Arc<dyn CommandSink>,
        failed: mpsc::Sender<CoreFailure>,
    ) -> Self {
        let (errands, mut queue) = mpsc::channel(OUTBOX);
        let mut task = JoinSet::new();
        task.spawn(async move {
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
        Self { errands, _task: task }
    }

    /// Whether the commands of one more input have room; true for a core that has ended, because
    /// waiting for its outbox is pointless.
    pub(super) fn has_room(&self) -> bool {
        self.errands.is_closed() || self.errands.capacity() >= OUTBOX_FREE_MIN
    }

    /// Waits until [`Outbox::has_room`].
    pub(super) async fn room(&self) {
        let _ = self.errands.reserve_many(OUTBOX_FREE_MIN).await;
    }

    /// Queues a command. A command to an ended core is dropped: the core's failure is already
    /// queued.
    pub(super) fn push(&self, command: Command) -> Result<(), Overrun> {
        match self.errands.try_send(Errand::Command(command)) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Overrun),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Returns a receiver that resolves when all earlier commands have reached the core's queue.
    pub(super) fn reached(&self) -> Result<oneshot::Receiver<()>, Overrun> {
        let (tell, reached) = oneshot::channel();
        match self.errands.try_send(Errand::Reached(tell)) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Overrun),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(reached),
        }
    }
}

/// The error of an input with more commands than [`OUTBOX_FREE_MIN`]: a defect of the node.
#[derive(Debug)]
pub(super) struct Overrun;

/// The failure of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CoreFailure {
    Ended(usize),
    Hangs(usize),
}

/// The events of all cores: in order for each core, and fair between cores.
pub(super) struct Events {
    receivers: Vec<Option<mpsc::Receiver<Event>>>,
    turn: usize,
}

impl Events {
    pub(super) fn new(receivers: impl IntoIterator<Item = mpsc::Receiver<Event>>) -> Self {
        Self { receivers: receivers.into_iter().map(Some).collect(), turn: 0 }
    }

    pub(super) fn all_ended(&self) -> bool {
        self.receivers.iter().all(Option::is_none)
    }

    /// The next event of any core; `None`: the core has ended. Never resolves once all cores have
    /// ended.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<(usize, Option<Event>)> {
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

/// One scripted core: the ends of the queues that a core's thread would hold.
#[derive(Debug)]
pub struct ScriptedCore {
    /// Queue of commands to the core.
    pub commands: mpsc::Receiver<Command>,
    /// Queue of events from the core; dropping it is the end of the core.
    pub events: mpsc::Sender<Event>,
}

/// Queues for a node, and the scripted cores that a test or a simulator plays.
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
