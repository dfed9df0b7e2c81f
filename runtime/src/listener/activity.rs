//! Activity of a connection: open streams, their age, and responses that the peer has not read yet.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use clarion_proto::time::Time;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::{peers::turns::Turn, world::Clock};

/// Activity of one connection, shared by its task, its streams, and the listener that decides which
/// connection closes.
#[derive(Debug)]
pub(super) struct Activity {
    clock: Clock,
    open: AtomicUsize,
    /// Streams that have received a complete message.
    working: AtomicUsize,
    /// When a stream was opened or closed last, ms on the clock.
    changed_ms: AtomicU64,
    gone: AtomicBool,
    next: AtomicU64,
    /// Answers that have begun and must be taken, by their number: since when.
    answers: Mutex<BTreeMap<u64, Time>>,
}

impl Activity {
    /// Activity of a connection that was accepted just now.
    pub(super) fn new(clock: Clock) -> Self {
        let activity = Self {
            clock,
            open: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            changed_ms: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            next: AtomicU64::new(1),
            answers: Mutex::new(BTreeMap::new()),
        };
        activity.touch();
        activity
    }

    fn touch(&self) {
        self.changed_ms.store(self.clock.now().0 / 1_000, Ordering::Relaxed);
    }

    /// When a stream was opened or closed last, on the clock.
    pub(super) fn changed(&self) -> Duration {
        Duration::from_millis(self.changed_ms.load(Ordering::Relaxed))
    }

    /// For how long no stream has been open; zero while one is.
    pub(super) fn idle(&self) -> Duration {
        match self.open.load(Ordering::Relaxed) {
            0 => self.clock.now().since(Time(0)).saturating_sub(self.changed()),
            _ => Duration::ZERO,
        }
    }

    /// Whether a stream has received a complete message. A stream without one holds no work that
    /// could be lost.
    pub(super) fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed) > 0
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Records that the connection is closed.
    pub(super) fn end(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Since when the oldest answer waits to be taken.
    pub(super) fn oldest_answer(&self) -> Option<Time> {
        self.answers.lock().values().min().copied()
    }

    #[cfg(test)]
    pub(super) fn set(&self, working: usize, changed: Duration) {
        self.working.store(working, Ordering::Relaxed);
        self.changed_ms.store(u64::try_from(changed.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Records a new stream.
    pub(super) fn open(self: &Arc<Self>) -> Arc<Stream> {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.touch();
        let (working, answer) = (AtomicBool::new(false), AtomicU64::new(0));
        let charges = Mutex::default();
        Arc::new(Stream { activity: Arc::clone(self), working, answer, charges })
    }
}

/// Form of a message that is charged to a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// As received, compressed or not.
    Received,
    /// As decompressed by the listener.
    Inflated,
}

/// An open stream, shared by the body of its request, the body of its response and the task that
/// produces the response. It closes when all of them are dropped.
#[derive(Debug)]
pub(super) struct Stream {
    activity: Arc<Activity>,
    working: AtomicBool,
    /// Number of its response; 0: the response has not begun, or has no deadline.
    answer: AtomicU64,
    /// Parts of the byte budgets that the stream holds, by [`Stage`].
    charges: Mutex<[Option<Turn>; 2]>,
}

impl Stream {
    /// Records that a message is complete.
    pub(super) fn works(&self) {
        if !self.working.swap(true, Ordering::Relaxed) {
            self.activity.working.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Its answer has begun and must be taken in time.
    pub(super) fn answered(&self) {
        let number = self.activity.next.fetch_add(1, Ordering::Relaxed);
        self.answer.store(number, Ordering::Relaxed);
        self.activity.answers.lock().insert(number, self.activity.clock.now());
    }

    /// Records the charge of an admitted message.
    pub(super) fn charge(&self, stage: Stage, turn: Turn) {
        // The former one is dropped after the lock is.
        let former = self.charges.lock()[stage as usize].replace(turn);
        drop(former);
    }

    /// Releases the charge of a stage: the message has been processed.
    pub(super) fn release(&self, stage: Stage) {
        let charge = self.charges.lock()[stage as usize].take();
        drop(charge);
    }

    /// Releases all charges: the request has been processed.
    pub(super) fn release_all(&self) {
        let charges = std::mem::take(&mut *self.charges.lock());
        drop(charges);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let answer = *self.answer.get_mut();
        if answer > 0 {
            self.activity.answers.lock().remove(&answer);
        }
        if *self.working.get_mut() {
            self.activity.working.fetch_sub(1, Ordering::Relaxed);
        }
        self.activity.open.fetch_sub(1, Ordering::Relaxed);
        self.activity.touch();
    }
}

/// Body of a response; its stream is open until the transport has taken all of it.
#[derive(Debug)]
pub(super) struct Counted<B> {
    body: B,
    _stream: Arc<Stream>,
}

impl<B> Counted<B> {
    pub(super) fn new(body: B, stream: Arc<Stream>) -> Self {
        Self { body, _stream: stream }
    }
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
