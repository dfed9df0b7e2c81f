//! Letters between the cores of a node: each core has one bounded queue, written by all others.

use std::sync::Arc;

use clarion_proto::time::Time;
use mio::Waker;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use crate::core::{Core, Letter};

/// Longest queue of letters for one core. Every turn of a core reads them, and one turn writes a
/// few to each other core; if the queue is full, further letters wait in the core that wrote them.
const LETTERS_MAX: usize = 256;
/// Letters read in one turn.
const LETTERS_PER_TURN: usize = 64;

/// The way into a core's letter box, and what wakes that core.
type Slot = (Sender<(usize, Letter)>, Arc<Waker>);

/// The queue of one core, and the senders to the others.
pub(super) struct Mail {
    me: usize,
    inbox: Receiver<(usize, Letter)>,
    /// Queues by core, this one included.
    others: Vec<Slot>,
    /// By core: something was put there since it was woken.
    wake: Vec<bool>,
}

/// Between as many cores as there are wakers.
pub(super) fn between(wakers: impl Iterator<Item = Arc<Waker>>) -> Vec<Mail> {
    let (boxes, inboxes): (Vec<_>, Vec<_>) = wakers
        .map(|waker| {
            let (letters, inbox) = channel(LETTERS_MAX);
            ((letters, waker), inbox)
        })
        .unzip();
    let wake = vec![false; boxes.len()];
    let mail = |(me, inbox)| Mail { me, inbox, others: boxes.clone(), wake: wake.clone() };
    inboxes.into_iter().enumerate().map(mail).collect()
}

impl Mail {
    /// Hands letters that came to the core. True: there are more.
    pub(super) fn receive(&mut self, core: &mut Core, now: Time) -> bool {
        for _ in 0..LETTERS_PER_TURN {
            let Ok((from, letter)) = self.inbox.try_recv() else { return false };
            core.letter(from, letter, now);
        }
        !self.inbox.is_empty()
    }

    /// Sends off what the core has written. False: a box is full; the rest waits in the core.
    pub(super) fn send(&mut self, core: &mut Core) -> bool {
        let mut all = true;
        while let Some((to, letter)) = core.poll_letter() {
            match self.others[to].0.try_send((self.me, letter)) {
                Ok(()) => self.wake[to] = true,
                Err(TrySendError::Full((_, letter))) => {
                    core.put_letter_back(to, letter);
                    all = false;
                    break;
                }
                // That core has shut down, and so will this one.
                Err(TrySendError::Closed(_)) => {}
            }
        }
        for (to, wake) in self.wake.iter_mut().enumerate() {
            if std::mem::take(wake) {
                // A thread that has gone cannot be woken and need not be.
                let _ = self.others[to].1.wake();
            }
        }
        all
    }
}
