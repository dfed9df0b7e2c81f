//! Whether rows that can be read may still be lost.
//!
//! A server with a synchronous standby shows rows that no standby has: after its own restart, and
//! after somebody cancelled the wait for the standby. They are lost in a failover. A coordinator
//! that lost an answer asks whether the write is there, and must not take such a row for an answer.
//! The log of the server is one sequence: once a later commit has waited for the standby,
//! everything before it is there, too.
//!
//! ```text
//! answer lost, warning, connection lost ──▶ in doubt ──a later commit without a warning──▶ certain
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

/// Doubts raised and settled; a new process begins in doubt.
#[derive(Debug)]
pub(super) struct Doubt {
    raised: AtomicU64,
    settled: AtomicU64,
}

impl Doubt {
    pub(super) fn new() -> Self {
        Self { raised: AtomicU64::new(1), settled: AtomicU64::new(0) }
    }

    /// A statement's outcome is unknown.
    pub(super) fn raise(&self) {
        self.raised.fetch_add(1, Ordering::SeqCst);
    }

    /// The doubt that a commit has to settle before anything is read.
    pub(super) fn open(&self) -> Option<u64> {
        let raised = self.raised.load(Ordering::SeqCst);
        (self.settled.load(Ordering::SeqCst) < raised).then_some(raised)
    }

    /// A commit that began after [`Doubt::open`] returned a number has succeeded.
    pub(super) fn settle(&self, number: u64) {
        self.settled.fetch_max(number, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_settles_what_was_raised_before_it_began() {
        let doubt = Doubt::new();
        let first = doubt.open().expect("a new process");
        doubt.raise();
        doubt.settle(first);
        let second = doubt.open().expect("raised meanwhile");
        doubt.settle(second);
        assert_eq!(doubt.open(), None);
        doubt.settle(first);
        assert_eq!(doubt.open(), None);
    }
}
