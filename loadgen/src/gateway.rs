//! An emulator of the Apple Push Notification service, and the judge of what was sent to it.
//!
//! Clarion's claims rest on what a gateway received, so the gateway here is no stub. It must convince clients that know
//! nothing of it: TLS with ALPN, HTTP/2 down to Apple's particular SETTINGS and GOAWAY texts, provider tokens whose signature
//! and age are checked, every documented status and reason. It must misbehave on demand in each way that providers are known
//! to. It must keep a record, push by push, that no part of the system under test has touched. And it must be far cheaper
//! than what it measures: a core answers several hundred thousand pushes a second.
//!
//! From the socket upwards: [`worker`] (a thread) serves [`socket`]s, each with its [`tls`] session and HTTP/2
//! [`connection`]; that reads [`frame`]s, and header blocks through [`hpack`] and [`head`]; [`policy`] and [`auth`] say what is
//! wrong with a request, [`script`] and [`faults`] what is answered nevertheless, [`answer`] how; [`record`] keeps it.
//! All from `connection` upwards is free of I/O and clocks. None of it shares code with the lane.
//!
//! Not here: certificate authentication, broadcast channels, FCM, HMS.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use mio::{Poll, Waker};
use parking_lot::Mutex;

pub mod answer;
pub mod auth;
pub mod clock;
pub mod config;
pub mod connection;
pub mod faults;
pub mod frame;
pub mod head;
pub mod hpack;
pub mod identity;
pub mod platform;
pub mod policy;
mod process;
pub mod record;
pub mod script;
pub mod socket;
pub mod tls;
pub mod worker;

pub use self::{
    config::{GatewayConfig, KeyConfig, ProjectConfig, ServiceAccountConfig},
    faults::Faults,
    platform::Platform,
    process::{Arguments, main, run},
    record::{Record, Stats},
};

use self::{
    connection::Pace,
    faults::Plan,
    identity::Identity,
    record::Log,
    script::Attempts,
    worker::{Command, Inbox, Shared, Worker},
};

/// How long a worker may take to heed a command; longer means that it is gone.
const HEED: Duration = Duration::from_secs(10);

/// The emulator; see [`Gateway::start`].
pub struct Gateway;

/// A running gateway. Dropping it stops it.
pub struct GatewayHandle {
    address: SocketAddr,
    token_uri: Option<String>,
    ca_pem: String,
    started: clock::Now,
    generation: AtomicU64,
    inboxes: Vec<Inbox>,
    logs: Vec<Arc<Mutex<Log>>>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Gateway {
    /// Binds, makes certificates and starts the threads.
    ///
    /// # Errors
    /// If the configuration is wrong (`InvalidInput`), a key cannot be read, or the address cannot be bound.
    pub fn start(config: GatewayConfig) -> io::Result<GatewayHandle> {
        let policy = config.policy()?;
        let identity = match &config.tls {
            Some(files) => Identity::load(files)?,
            None => Identity::generate(&config.server_names)?,
        };
        let (tls, ca_pem) = (identity.server_config()?, identity.ca_pem);
        let listener = TcpListener::bind(config.listen)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {}: {e}", config.listen)))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let started = clock::now();
        let plan = Arc::new(Plan::new(config.faults, started.at, 0));
        let shared = Arc::new(Shared {
            policy,
            tls,
            pace: Pace::default(),
            attempts: Attempts::default(),
            numbers: AtomicU32::new(0),
            open: AtomicUsize::new(0),
            connections_max: config.connections_max,
        });
        let mut inboxes = Vec::new();
        let mut parts = Vec::new();
        for _ in 0..config.threads {
            let poll = Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), Worker::waker())?);
            let (commands, inbox) = sync_channel(worker::INBOX);
            inboxes.push(Inbox { commands, waker });
            parts.push((poll, inbox));
        }
        let mut handle = GatewayHandle {
            address,
            token_uri: None,
            ca_pem,
            started,
            generation: AtomicU64::new(0),
            inboxes,
            logs: Vec::new(),
            shared,
            threads: Vec::new(),
        };
        let mut accepting = Some((mio::net::TcpListener::from_std(listener), handle.inboxes.clone()));
        for (i, (poll, inbox)) in parts.into_iter().enumerate() {
            let log = Arc::new(Mutex::new(Log::default()));
            let (shared, plan) = (Arc::clone(&handle.shared), Arc::clone(&plan));
            let worker = Worker::new(poll, inbox, accepting.take(), shared, Arc::clone(&log), plan)?;
            handle.logs.push(log);
            handle.threads.push(Builder::new().name(format!("gateway-{i}")).spawn(move || worker.run())?);
        }
        Ok(handle)
    }
}

impl GatewayHandle {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Where access tokens are asked for, as in the `token_uri` of a service account's key file; none of APNs.
    #[must_use]
    pub fn token_uri(&self) -> Option<&str> {
        self.token_uri.as_deref()
    }

    /// The CA that clients must trust, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Sets all conditions anew and takes the actions. When this returns, they hold.
    ///
    /// # Errors
    /// If a worker thread is gone.
    pub fn set_faults(&self, faults: Faults) -> io::Result<()> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.pace.clear();
        let plan = Arc::new(Plan::new(faults, clock::monotonic(), generation));
        let (acknowledge, acknowledged) = sync_channel(1);
        for inbox in &self.inboxes {
            inbox.tell(Command::Faults(Arc::clone(&plan), acknowledge.clone()))?;
        }
        drop(acknowledge);
        // Nothing is ever sent: that every worker has dropped its sender is the acknowledgement.
        match acknowledged.recv_timeout(HEED) {
            Err(RecvTimeoutError::Disconnected) | Ok(()) => Ok(()),
            Err(RecvTimeoutError::Timeout) => Err(io::Error::new(io::ErrorKind::TimedOut, "a gateway thread is stuck")),
        }
    }

    /// Totals at this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut total = Stats::default();
        for log in &self.logs {
            total.add(&log.lock().stats());
        }
        total
    }

    /// Writes the record of all requests until now to a file; see [`Record::load`]. Returns how many entries it has.
    ///
    /// # Errors
    /// Of the file system.
    pub fn export(&self, path: &Path) -> io::Result<u64> {
        let logs: Vec<_> = self.logs.iter().map(|l| &**l).collect();
        record::export(&logs, self.started.at.0, self.started.wall.0, path)
    }

    /// Forgets record, totals and counted attempts; connections stay, and go on counting their bytes.
    pub fn reset(&self) {
        for log in &self.logs {
            log.lock().reset();
        }
        self.shared.attempts.clear();
    }

    /// Ends all connections and threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        for inbox in &self.inboxes {
            // A worker that cannot be told is gone already.
            let _ = inbox.tell(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for GatewayHandle {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inbox {
    fn tell(&self, command: Command) -> io::Result<()> {
        self.commands
            .send(command)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "a gateway thread is gone"))?;
        self.waker.wake()
    }
}
