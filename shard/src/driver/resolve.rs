//! Names to addresses, off the core's thread: `getaddrinfo` may take many seconds.
//!
//! Asked anew for every connection, as gateways move and spread by name (Apple asks for it). Every answer is one address of
//! those returned, another each time, so that connections spread.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
};

use mio::Waker;

use crate::core::ConnectionId;

/// Questions waiting; more are answered with an error, and asked again after the core's backoff.
const QUESTIONS_MAX: usize = 64;

/// Asks in a thread of its own, started with the first name that is not an address already.
#[derive(Debug)]
pub(super) struct Resolver {
    waker: Arc<Waker>,
    thread: Option<Thread>,
    asked: usize,
}

#[derive(Debug)]
struct Thread {
    questions: SyncSender<Question>,
    answers: Receiver<(ConnectionId, io::Result<SocketAddr>)>,
}

#[derive(Debug)]
struct Question {
    id: ConnectionId,
    endpoint: String,
    /// Which of the addresses.
    turn: usize,
}

impl Resolver {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { waker, thread: None, asked: 0 }
    }

    /// `Some`: the endpoint is an address, or cannot be asked for. Otherwise the answer comes by [`Resolver::answer`].
    pub(super) fn ask(&mut self, id: ConnectionId, endpoint: &str) -> Option<io::Result<SocketAddr>> {
        if let Ok(address) = endpoint.parse() {
            return Some(Ok(address));
        }
        self.asked = self.asked.wrapping_add(1);
        let question = Question { id, endpoint: endpoint.to_owned(), turn: self.asked };
        let thread = match &self.thread {
            Some(thread) => thread,
            None => match start(Arc::clone(&self.waker)) {
                Ok(thread) => self.thread.insert(thread),
                Err(error) => return Some(Err(error)),
            },
        };
        match thread.questions.try_send(question) {
            Ok(()) => None,
            Err(_) => Some(Err(io::Error::new(io::ErrorKind::WouldBlock, "too many names to resolve"))),
        }
    }

    /// The next answer.
    pub(super) fn answer(&mut self) -> Option<(ConnectionId, io::Result<SocketAddr>)> {
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

fn start(waker: Arc<Waker>) -> io::Result<Thread> {
    let (questions, asked) = sync_channel::<Question>(QUESTIONS_MAX);
    // Room for the answer to every question that may wait and the one in hand: the thread never waits for the core.
    let (answer, answers) = sync_channel(QUESTIONS_MAX + 1);
    std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        // Ends when the core's end of the questions is gone.
        while let Ok(Question { id, endpoint, turn }) = asked.recv() {
            if answer.send((id, resolve(&endpoint, turn))).is_err() {
                return;
            }
            let _ = waker.wake();
        }
    })?;
    Ok(Thread { questions, answers })
}

fn resolve(endpoint: &str, turn: usize) -> io::Result<SocketAddr> {
    let addresses: Vec<_> = endpoint.to_socket_addrs()?.collect();
    let nothing = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    (!addresses.is_empty()).then(|| addresses[turn % addresses.len()]).ok_or_else(nothing)
}
