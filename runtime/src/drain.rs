//! Graceful shutdown: a signal cancels a token that all tasks hold, and the shutdown has a
//! deadline.

use std::{future::Future, io, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The signals that end a process in order: SIGTERM (from Kubernetes) and SIGINT (Ctrl-C).
///
/// Made early, before anything is bound, so that no signal falls into a gap.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system refuses to install a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the first signal and returns its name.
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Resolves at SIGTERM or SIGINT with the signal's name; listening begins with the call, not with the first poll.
///
/// # Errors
/// The system refuses to install a handler.
pub fn signalled() -> io::Result<impl Future<Output = &'static str>> {
    let mut signals = Signals::listen()?;
    Ok(async move { signals.recv().await })
}

/// A stop in order: cancel the token, wait for the tracked tasks, but not for ever.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    /// A drain without tracked tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the drain begins.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs a task that the drain waits for; it is to watch [`Drain::token`].
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Cancels the token and waits for the tasks. Tells how many were still running at the deadline.
    ///
    /// # Errors
    /// The number of tasks left behind.
    pub async fn finish(&self, deadline: Duration) -> Result<(), usize> {
        self.token.cancel();
        self.tasks.close();
        tokio::time::timeout(deadline, self.tasks.wait()).await.map_err(|_| self.tasks.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_tasks_and_counts_those_left_behind() {
        let drain = Drain::new();
        let token = drain.token();
        drain.spawn(async move { token.cancelled().await });
        assert_eq!(drain.finish(Duration::from_secs(1)).await, Ok(()));

        let drain = Drain::new();
        drain.spawn(std::future::pending::<()>());
        assert_eq!(drain.finish(Duration::from_secs(1)).await, Err(1));
    }
}
