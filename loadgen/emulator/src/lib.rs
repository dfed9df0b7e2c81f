//! An emulator of the push gateways (APNs, FCM HTTP v1), which records every request for the
//! verdict.
//!
//! Clarion's claims rest on the requests that a gateway received, so this gateway is not a stub. It
//! must convince third-party clients: TLS with ALPN, HTTP/2 with each provider's own SETTINGS and
//! GOAWAY texts, credentials whose signature and age are checked, every documented status and
//! reason, with the provider's exact text where that is known. On demand, it must misbehave in each
//! way that is known of the providers. It must keep a record of every push that no part of the
//! system under test has touched. And it must be far cheaper than the system that it measures: a
//! core answers several hundred thousand pushes per second.
//!
//! From the socket upwards: [`worker`] (a thread) serves [`socket`]s, each with its [`tls`] session
//! and HTTP/2 [`connection`]; the connection reads [`frame`]s, and header blocks through [`hpack`],
//! [`fields`] and [`head`]. The modules of a provider, [`apns`] and [`fcm`], decide what is wrong
//! with a request. [`script`] and [`faults`] override the answer; [`record`] stores it. All modules
//! from `connection` upwards are free of I/O and clocks. [`oauth`] is the token endpoint that
//! clients of FCM call first. No module shares code with the lane.
//!
//! The modules are on floors, the highest first. A module imports from its own floor and from
//! floors below it, never from above; a test in `structure` enforces this:
//!
//! ```text
//! process config                                  the emulator as a process; its configuration
//! worker                                          a thread with its sockets
//! socket oauth                                    one connection's socket; the token endpoint
//! connection                                      HTTP/2, sans I/O
//! head record faults                              requests read, pushes recorded, answers spoilt
//! policy                                          what a request must have
//! apns fcm script                                 the providers' rules; scripted answers
//! answer                                          what is answered
//! frame fields hpack clock identity platform tls  bytes, time, certificates
//! ```
//!
//! One emulator emulates one [`platform`]; [`config`] selects it and sets everything else. Not
//! here: HMS, Web Push.

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
pub mod apns;
pub mod clock;
pub mod config;
pub mod connection;
pub mod faults;
pub mod fcm;
pub mod fields;
pub mod frame;
pub mod head;
pub mod hpack;
pub mod identity;
pub mod oauth;
pub mod platform;
pub mod policy;
mod process;
pub mod record;
pub mod script;
pub mod socket;
pub mod tls;
pub mod worker;

pub use self::{
    config::{
        GatewayConfig, KeyConfig, ProjectConfig, ServiceAccountConfig, WorkloadIdentityConfig,
    },
    faults::Faults,
    platform::Platform,
    process::{Arguments, main, run},
    record::{Record, Stats},
};

use self::{
    connection::Pace,
    faults::Plan,
    identity::Identity,
    oauth::{Endpoint, server::Running},
    record::Log,
    script::Attempts,
    worker::{Command, Inbox, Shared, Worker},
};

/// Time limit for a worker to carry out a command. A worker that takes longer has failed.
const COMMAND_WITHIN: Duration = Duration::from_secs(10);

/// Error for a fault that needs a certificate under the unknown CA of certificate files.
const NO_CA_KEY: &str = "faults.handshake.expired_certificate: must be false while tls names \
                         certificate files, because the key of their CA is unknown";

/// Starts gateways; see [`Gateway::start`].
pub struct Gateway;

/// A running gateway, which stops when the handle is dropped.
pub struct GatewayHandle {
    address: SocketAddr,
    platform: Platform,
    /// Token endpoint of FCM; `None` for APNs.
    oauth: Option<(Arc<Endpoint>, Running)>,
    ca_pem: String,
    started: clock::Now,
    generation: AtomicU64,
    inboxes: Vec<Inbox>,
    logs: Vec<Arc<Mutex<Log>>>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Gateway {
    /// Binds the addresses, loads or generates certificates and starts the threads.
    ///
    /// # Errors
    /// If the configuration is invalid (`InvalidInput`), a key cannot be read, or an address cannot
    /// be bound.
    pub fn start(config: GatewayConfig) -> io::Result<GatewayHandle> {
        let policy = config.policy()?;
        let identity = match &config.tls {
            Some(files) => Identity::load(files)?,
            None => Identity::generate(&config.server_names)?,
        };
        let (tls, expired, ca_pem) =
            (identity.server_config()?, identity.expired_config()?, identity.ca_pem);
        if config.faults.handshake.expired_certificate && expired.is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, NO_CA_KEY));
        }
        let listener = bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let started = clock::now();
        let plan = Arc::new(Plan::new(config.faults, started.at, 0));
        let oauth = match policy.fcm() {
            Some(policy) => {
                let listener = bind(config.oauth_listen)?;
                let uri = config.token_uri.map_or_else(
                    || Ok(format!("https://{}/token", listener.local_addr()?)),
                    io::Result::Ok,
                )?;
                let plan = Mutex::new(Arc::clone(&plan));
                let endpoint = Arc::new(Endpoint { policy: policy.clone(), token_uri: uri, plan });
                let metadata = endpoint
                    .policy
                    .machine_account
                    .is_some()
                    .then(|| bind(config.metadata_listen))
                    .transpose()?;
                let running = Running::start(listener, metadata, &tls, Arc::clone(&endpoint))?;
                Some((endpoint, running))
            }
            None => None,
        };
        let shared = Arc::new(Shared {
            policy,
            tls,
            expired,
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
            platform: config.platform,
            oauth,
            ca_pem,
            started,
            generation: AtomicU64::new(0),
            inboxes,
            logs: Vec::new(),
            shared,
            threads: Vec::new(),
        };
        let mut accepting =
            Some((mio::net::TcpListener::from_std(listener), handle.inboxes.clone()));
        for (i, (poll, inbox)) in parts.into_iter().enumerate() {
            let log = Arc::new(Mutex::new(Log::default()));
            let (shared, plan) = (Arc::clone(&handle.shared), Arc::clone(&plan));
            let worker =
                Worker::new(poll, inbox, accepting.take(), shared, Arc::clone(&log), plan)?;
            handle.logs.push(log);
            handle
                .threads
                .push(Builder::new().name(format!("gateway-{i}")).spawn(move || worker.run())?);
        }
        Ok(handle)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))
}

impl GatewayHandle {
    /// Returns the address of the gateway.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URI of FCM's token endpoint, as in the `token_uri` of a service account's key
    /// file; `None` for APNs.
    #[must_use]
    pub fn token_uri(&self) -> Option<&str> {
        self.oauth.as_ref().map(|(endpoint, _)| &*endpoint.token_uri)
    }

    /// Returns the address of the metadata server; `None`: the machine has no service account.
    #[must_use]
    pub fn metadata_host(&self) -> Option<SocketAddr> {
        self.oauth.as_ref()?.1.metadata()
    }

    /// Returns the certificate of the CA that clients must trust, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Replaces all conditions and carries out the actions. When the call returns, the faults are
    /// in force on every thread.
    ///
    /// # Errors
    /// `InvalidInput` if this gateway cannot emulate a fault, such as a reason of another platform;
    /// nothing has changed then. Another error if a worker thread has ended.
    pub fn set_faults(&self, faults: Faults) -> io::Result<()> {
        faults
            .check(self.platform)
            .map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))?;
        if faults.handshake.expired_certificate && self.shared.expired.is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, NO_CA_KEY));
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.pace.clear();
        let plan = Arc::new(Plan::new(faults, clock::monotonic(), generation));
        if let Some((endpoint, _)) = &self.oauth {
            *endpoint.plan.lock() = Arc::clone(&plan);
        }
        let (acknowledge, acknowledged) = sync_channel(1);
        for inbox in &self.inboxes {
            inbox.send(Command::Faults(Arc::clone(&plan), acknowledge.clone()))?;
        }
        drop(acknowledge);
        // No message is ever sent: every worker drops its sender, and the closed channel is the
        // acknowledgement.
        match acknowledged.recv_timeout(COMMAND_WITHIN) {
            Err(RecvTimeoutError::Disconnected) | Ok(()) => Ok(()),
            Err(RecvTimeoutError::Timeout) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "faults: a gateway thread did not acknowledge within 10 s",
            )),
        }
    }

    /// Returns the totals of all threads at this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut total = Stats::default();
        for log in &self.logs {
            total.add(&log.lock().stats());
        }
        for project in self.shared.policy.fcm().into_iter().flat_map(|p| &p.projects) {
            total.quota.insert(project.id.clone(), project.quota.lock().peak());
        }
        total
    }

    /// Writes the record of all requests so far to a file (see [`Record::load`]), and returns the
    /// number of its entries.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn export(&self, path: &Path) -> io::Result<u64> {
        let logs: Vec<_> = self.logs.iter().map(|l| &**l).collect();
        record::export(&logs, self.started, self.platform, path)
    }

    /// Moves entries that were decided before `before_us` (CLOCK_MONOTONIC, microseconds) into a
    /// file. Entries of an incomplete chunk stay. See [`record::take`].
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn take(&self, path: &Path, before_us: u64) -> io::Result<record::Taken> {
        let now_us = clock::monotonic().0;
        let logs: Vec<_> = self.logs.iter().map(|l| &**l).collect();
        record::take(&logs, self.started, self.platform, (before_us.min(now_us), now_us), path)
    }

    /// Clears the record, the totals and the counted attempts. Connections stay and continue to
    /// count their bytes; the counts of quotas stay too.
    pub fn reset(&self) {
        for log in &self.logs {
            log.lock().reset();
        }
        for project in self.shared.policy.fcm().into_iter().flat_map(|p| &p.projects) {
            project.quota.lock().reset_peak();
        }
        self.shared.attempts.clear();
    }

    /// Ends all connections and threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        for inbox in &self.inboxes {
            // A worker that cannot receive the command has ended already.
            let _ = inbox.send(Command::Stop);
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
    fn send(&self, command: Command) -> io::Result<()> {
        self.commands
            .send(command)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "a gateway thread has ended"))?;
        self.waker.wake()
    }
}
