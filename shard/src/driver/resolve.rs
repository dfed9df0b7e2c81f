//! Name resolution, off the core's thread: `getaddrinfo` may take many seconds.
//!
//! Every connection resolves the name again, as gateways move and spread by name (Apple asks for
//! it). The result is all addresses of the name; [`super::addresses`] chooses.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
};

use clarion_runtime::world::World;
use mio::Waker;

use crate::core::ConnectionId;

/// Questions waiting; more are answered with an error, and asked again after the core's backoff.
const QUESTIONS_MAX: usize = 64;

/// Result of a resolution.
pub(super) type Resolved = io::Result<Vec<SocketAddr>>;

/// Resolves names in a thread of its own, started with the first name that is not an address.
pub(super) struct Resolver {
    world: World,
    waker: Arc<Waker>,
    thread: Option<Thread>,
}

struct Thread {
    questions: SyncSender<(ConnectionId, String)>,
    answers: Receiver<(ConnectionId, Resolved)>,
}

impl Resolver {
    pub(super) fn new(world: World, waker: Arc<Waker>) -> Self {
        Self { world, waker, thread: None }
    }

    /// `Some`: the endpoint is an address, or cannot be asked for. Otherwise the answer comes by
    /// [`Resolver::answer`].
    pub(super) fn ask(&mut self, id: ConnectionId, endpoint: &str) -> Option<Resolved> {
        if let Ok(address) = endpoint.parse() {
            return Some(Ok(vec![address]));
        }
        let thread = match &self.thread {
            Some(thread) => thread,
            None => match start(self.world.clone(), Arc::clone(&self.waker)) {
                Ok(thread) => self.thread.insert(thread),
                Err(error) => return Some(Err(error)),
            },
        };
        match thread.questions.try_send((id, endpoint.to_owned())) {
            Ok(()) => None,
            Err(_) => Some(Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "too many names are being resolved; the connection is retried",
            ))),
        }
    }

    /// The next result.
    pub(super) fn answer(&mut self) -> Option<(ConnectionId, Resolved)> {
        match self.thread.as_ref()?.answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.thread = None; // started again with the next question
                None
            }
        }
    }
}

fn start(world: World, waker: Arc<Waker>) -> io::Result<Thread> {
    let (questions, asked) = sync_channel::<(ConnectionId, String)>(QUESTIONS_MAX);
    // Room for the answer to every question that may wait and the one in hand: the thread never
    // waits for the core.
    let (answer, answers) = sync_channel(QUESTIONS_MAX + 1);
    std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        // Ends when the core's end of the questions is gone.
        while let Ok((id, endpoint)) = asked.recv() {
            if answer.send((id, world.lookup(&endpoint))).is_err() {
                return;
            }
            let _ = waker.wake();
        }
    })?;
    Ok(Thread { questions, answers })
}
