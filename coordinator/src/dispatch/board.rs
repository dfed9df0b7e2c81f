//! The board: the desired state of all nodes behind a `watch`, which every session follows.

use std::sync::Arc;

use clarion_proto::time::Time;
use tokio::sync::watch;

use crate::standing::{Change, Standing};

/// The newest desired state, and the channel on which sessions follow it.
#[derive(Debug)]
pub(crate) struct Board(watch::Sender<Arc<Standing>>);

impl Board {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Standing>> {
        self.0.subscribe()
    }

    pub(crate) fn read(&self) -> Arc<Standing> {
        self.0.borrow().clone()
    }

    /// Applies a change for all sessions; false if it has no effect.
    pub(crate) fn apply(&self, change: Change, now: Time) -> bool {
        self.0.send_if_modified(|standing| Arc::make_mut(standing).apply(change, now))
    }
}
