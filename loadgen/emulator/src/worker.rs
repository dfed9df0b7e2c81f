//! The thread that serves connections: it waits for sockets and timers, and serves each connection
//! in turn.
//!
//! The first worker also accepts connections and distributes them in turn. Commands arrive in a
//! bounded inbox and are acknowledged, so that the caller knows when a fault is in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError},
    },
    time::Duration,
};

use clarion_proto::time::Time;
use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, TcpStream},
};
use parking_lot::Mutex;
use rustls::ServerConfig;

use super::{
    clock,
    connection::{Context, End, Pace},
    faults::{Action, Plan, Silence},
    policy::Policy,
    record::Log,
    script::Attempts,
    socket::{Scratch, Socket},
};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
const EVENTS: usize = 1_024;
/// Most commands in the inbox of a worker.
pub const INBOX: usize = 1_024;
/// Pause after a failed accept, such as one without a free file descriptor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// State that all workers share.
pub struct Shared {
    /// Policy of the gateway.
    pub policy: Policy,
    /// TLS configuration with the gateway's certificate.
    pub tls: Arc<ServerConfig>,
    /// TLS configuration with an expired certificate, for a fault; none if no CA key can sign one.
    pub expired: Option<Arc<ServerConfig>>,
    /// Common pace of all connections of a slow gateway.
    pub pace: Pace,
    /// Number of attempts so far of each token with a scripted answer.
    pub attempts: Attempts,
    /// Number of connections accepted since the gateway started.
    pub numbers: AtomicU32,
    /// Number of connections open now.
    pub open: AtomicUsize,
    /// Highest number of open connections.
    pub connections_max: usize,
}

/// A command to a worker.
pub enum Command {
    /// Serves a further connection.
    Serve(TcpStream),
    /// Puts faults in force. The worker acknowledges by dropping the sender.
    Faults(Arc<Plan>, SyncSender<()>),
    /// Ends all connections and the thread.
    Stop,
}

/// Sender of commands to one worker.
#[derive(Clone)]
pub struct Inbox {
    /// Sends commands to the worker.
    pub commands: SyncSender<Command>,
    /// Wakes the worker so that it reads its commands.
    pub waker: Arc<Waker>,
}

/// State of one worker thread.
pub struct Worker {
    poll: Poll,
    inbox: Receiver<Command>,
    /// In the accepting worker: the listener, the inboxes of all workers, and the index of the next
    /// worker.
    listener: Option<(TcpListener, Vec<Inbox>, usize)>,
    accept_again: Option<Time>,
    shared: Arc<Shared>,
    log: Arc<Mutex<Log>>,
    plan: Arc<Plan>,
    /// Policy for new connections, as changed by [`Action::StreamsMax`].
    policy: Policy,
    sockets: BTreeMap<usize, Socket>,
    /// Timers of all sockets in order of time; see [`Socket::due`].
    dues: BTreeSet<(Time, usize)>,
    next: usize,
    /// Connections that have work.
    ready: Vec<usize>,
    /// Time up to which changes and turns of the plan were handled.
    handled_until: Time,
    scratch: Scratch,
}

impl Worker {
    /// Creates a worker, which [`Self::run`] starts.
    ///
    /// # Errors
    /// If the listener cannot be registered with the poller.
    pub fn new(
        poll: Poll,
        inbox: Receiver<Command>,
        listener: Option<(TcpListener, Vec<Inbox>)>,
        shared: Arc<Shared>,
        log: Arc<Mutex<Log>>,
        plan: Arc<Plan>,
    ) -> io::Result<Self> {
        let listener = match listener {
            Some((mut listener, inboxes)) => {
                poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
                Some((listener, inboxes, 0))
            }
            None => None,
        };
        let policy = shared.policy.clone();
        Ok(Self {
            poll,
            inbox,
            listener,
            accept_again: None,
            shared,
            log,
            plan,
            policy,
            sockets: BTreeMap::new(),
            dues: BTreeSet::new(),
            next: 0,
            ready: Vec::new(),
            handled_until: clock::monotonic(),
            scratch: Scratch::new(),
        })
    }

    /// Returns the token of the waker at the poller.
    #[must_use]
    pub fn waker() -> Token {
        WAKER
    }

    /// Serves until a command stops the worker.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let timeout = self.timeout(clock::monotonic());
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // epoll fails only because of a defect of this program.
                Err(error) => panic!("epoll failed: {error}"),
            }
            let mut accept = self.accept_again.take_if(|due| *due <= clock::monotonic()).is_some();
            for event in &events {
                match event.token() {
                    LISTENER => accept = true,
                    WAKER => {}
                    Token(id) => {
                        if let Some(socket) = self.sockets.get_mut(&id) {
                            socket.ready(
                                event.is_readable(),
                                event.is_writable(),
                                event.is_read_closed() || event.is_error(),
                            );
                            self.ready.push(id);
                        }
                    }
                }
            }
            if accept {
                self.accept();
            }
            if !self.execute() {
                return self.stop();
            }
            self.serve();
        }
    }

    /// Returns the time until the next work. Microseconds are rounded up to the poller's
    /// milliseconds, which also collects answers.
    fn timeout(&self, now: Time) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let plan = &*self.plan;
        let first = self.dues.first().map(|(due, _)| *due);
        let dues = first
            .into_iter()
            .chain(plan.next_change(now))
            .chain(plan.next_turn(now))
            .chain(self.accept_again);
        Some(dues.min()?.since(now))
    }

    fn accept(&mut self) {
        let Some((listener, inboxes, turn)) = &mut self.listener else { return };
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    if self.shared.open.load(Ordering::Relaxed) >= self.shared.connections_max {
                        continue;
                    }
                    *turn = (*turn + 1) % inboxes.len();
                    let inbox = &inboxes[*turn];
                    // If the inbox is full, the connection is closed, as by an overloaded gateway.
                    if inbox.commands.try_send(Command::Serve(stream)).is_ok() {
                        self.shared.open.fetch_add(1, Ordering::Relaxed);
                        let _ = inbox.waker.wake();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // No file descriptor is left, or the connection ended before it was accepted.
                    self.accept_again = Some(clock::monotonic() + ACCEPT_AGAIN);
                    return;
                }
            }
        }
    }

    /// Carries out the commands in the inbox. Returns false if the worker must stop.
    fn execute(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Serve(stream)) => self.add(stream),
                Ok(Command::Faults(plan, acknowledge)) => {
                    self.set(plan);
                    drop(acknowledge);
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn add(&mut self, mut stream: TcpStream) {
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let id = self.next;
        let _ = stream.set_nodelay(true);
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = self.poll.registry().register(&mut stream, Token(id), both);
        let now = clock::monotonic();
        let fault = self.plan.handshake(number, now);
        let tls = self
            .shared
            .expired
            .as_ref()
            .filter(|_| fault.expired_certificate)
            .unwrap_or(&self.shared.tls);
        let socket = Socket::new(stream, number, Arc::clone(tls), &self.policy, now);
        let (Ok(()), Ok(mut socket)) = (registered, socket) else {
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        socket.begin_at(now + Duration::from_millis(fault.delay_ms));
        self.next += 1;
        let mut log = self.log.lock();
        log.totals.connections_opened += 1;
        log.connection(socket.row);
        drop(log);
        self.sockets.insert(id, socket);
        if fault.reset {
            return self.end(id, End::Reset);
        }
        self.ready.push(id);
    }

    /// Puts new faults in force: conditions from now on, actions at once.
    fn set(&mut self, plan: Arc<Plan>) {
        self.plan = plan;
        self.handled_until = self.plan.since;
        let plan = Arc::clone(&self.plan);
        for action in &plan.faults.once {
            self.act(action);
        }
        self.ready.extend(self.sockets.keys());
    }

    /// Carries out an action on the open connections.
    fn act(&mut self, action: &Action) {
        let many = match action {
            Action::Goaway { connections, .. } | Action::Reset { connections } => {
                connections.unwrap_or(usize::MAX)
            }
            Action::StreamsMax { streams } => {
                self.policy.streams_max = *streams;
                usize::MAX
            }
            Action::Settings { .. } => usize::MAX,
        };
        let ids: Vec<_> = self.sockets.keys().copied().take(many).collect();
        for id in ids {
            if let Action::Reset { .. } = action {
                self.end(id, End::Reset);
            } else if let Some(socket) = self.sockets.get_mut(&id) {
                let mut log = self.log.lock();
                let mut context = context(&self.shared, &self.plan, &mut log);
                socket.http.act(action, &mut context);
                self.ready.push(id);
            }
        }
    }

    /// Serves every connection that has work.
    fn serve(&mut self) {
        let now = clock::monotonic();
        let plan = Arc::clone(&self.plan);
        for action in plan.turns(self.handled_until, now) {
            self.act(action);
        }
        if plan.changed_since(self.handled_until, now) {
            // A silence or slowness has ended, so the waiting answers of every connection are
            // checked again.
            self.ready.extend(self.sockets.keys());
        }
        self.handled_until = now;
        self.ready.extend(self.dues.iter().take_while(|(due, _)| *due <= now).map(|(_, id)| *id));
        self.ready.sort_unstable();
        self.ready.dedup();
        let mut again = Vec::new();
        for id in std::mem::take(&mut self.ready) {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            if plan.silent(socket.row.number, now) == Some(Silence::StopReading) {
                // No event is lost: the socket keeps its readiness and is served when the silence
                // ends.
                if let Some(due) = socket.due.take() {
                    self.dues.remove(&(due, id));
                }
                continue;
            }
            let mut log = self.log.lock();
            let mut context = context(&self.shared, &plan, &mut log);
            let end = socket.serve(&mut self.scratch, &mut context);
            socket.row.requests = socket.http.requests();
            log.connection(socket.row);
            drop(log);
            match end {
                Some(end) => self.end(id, end),
                None => {
                    if socket.is_hungry() {
                        again.push(id);
                    }
                    let due = socket
                        .http
                        .deadline(&self.policy, &plan, now)
                        .into_iter()
                        .chain(socket.deadline())
                        .min();
                    if due != socket.due {
                        if let Some(was) = std::mem::replace(&mut socket.due, due) {
                            self.dues.remove(&(was, id));
                        }
                        self.dues.extend(due.map(|due| (due, id)));
                    }
                }
            }
        }
        self.ready = again;
    }

    fn end(&mut self, id: usize, end: End) {
        let Some(mut socket) = self.sockets.remove(&id) else { return };
        if let Some(due) = socket.due {
            self.dues.remove(&(due, id));
        }
        let now = clock::monotonic();
        let mut log = self.log.lock();
        match end {
            End::Reset => socket.reset(),
            End::Client
            | End::Protocol
            | End::Drained
            | End::Handshake
            | End::Socket
            | End::Stopped
            | End::Cut => {
                socket.close();
            }
        }
        socket.http.lost(now, &mut log);
        log.totals.connections_closed += 1;
        log.totals.protocol_errors += u64::from(end == End::Protocol);
        log.totals.handshakes_failed += u64::from(end == End::Handshake);
        socket.row.closed_us = now.0;
        socket.row.end = end as u32;
        log.connection(socket.row);
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        let _ = self.poll.registry().deregister(&mut socket.stream);
    }

    fn stop(mut self) {
        let ids: Vec<_> = self.sockets.keys().copied().collect();
        for id in ids {
            self.end(id, End::Stopped);
        }
    }
}

fn context<'a>(shared: &'a Shared, plan: &'a Plan, log: &'a mut Log) -> Context<'a> {
    Context {
        policy: &shared.policy,
        plan,
        pace: &shared.pace,
        attempts: &shared.attempts,
        log,
        now: clock::now(),
    }
}
