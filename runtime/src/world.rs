//! The world of a process: the only source of time, chance, identity and connections.
//!
//! A program makes one [`World::system`] at its start and hands it down. A test or a simulator
//! makes a [`World::new`] of a clock, a seed and a network of its own, and the same seed gives the
//! same identities and random numbers. `clippy.toml` forbids every other source below the binaries.
//!
//! | What | From where |
//! |---|---|
//! | time | [`World::clock`]: monotonic and wall time; timers of tokio follow the same clock |
//! | chance | [`World::random`]: a generator of its own for each task that draws |
//! | identity | [`World::id`], [`World::uuid_v7`] |
//! | connections | [`World::resolve`], [`World::connect`], [`World::listen`] |
//! | the proxy of the environment | [`World::proxy_rules`] |
//!
//! Two things stay outside. Keys and nonces of TLS and of signatures come from `ring`: they must
//! not be repeatable. The sockets of the lanes are the driver's (`shard/src/driver/socket.rs`),
//! which a simulator replaces as a whole.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

pub use clock::{Clock, Moment};
pub use network::{Accept, Listener, Network, Stream, Tcp};
pub use pipes::Pipes;

use crate::{offload::offload, proxy::rules::ProxyRules};

mod clock;
mod network;
mod pipes;

/// Source of time, chance, identity and connections; clones share one state.
#[derive(Clone)]
pub struct World {
    clock: Clock,
    chance: Arc<Mutex<Chance>>,
    network: Arc<dyn Network>,
    proxy_rules: Arc<ProxyRules>,
}

/// State of chance: the generator that seeds all others, and the newest UUID.
struct Chance {
    random: StdRng,
    last_uuid: Uuid,
}

impl World {
    /// The world of a program: the system's clocks, entropy and name resolution, and TCP.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the only place that draws the system's entropy")]
    pub fn system() -> Self {
        Self::of(Clock::start(), rand::make_rng(), Arc::new(Tcp))
    }

    /// A world of which everything is chosen: the same seed and the same calls give the same
    /// identities and random numbers.
    #[must_use]
    pub fn new(clock: Clock, seed: u64, network: Arc<dyn Network>) -> Self {
        Self::of(clock, StdRng::seed_from_u64(seed), network)
    }

    fn of(clock: Clock, random: StdRng, network: Arc<dyn Network>) -> Self {
        let chance = Chance { random, last_uuid: Uuid::nil() };
        let proxy_rules = Arc::default();
        Self { clock, chance: Arc::new(Mutex::new(chance)), network, proxy_rules }
    }

    /// The same world with a proxy for connections to the internet. Connections inside the cluster
    /// never use it.
    #[must_use]
    pub fn with_proxy_rules(self, rules: ProxyRules) -> Self {
        Self { proxy_rules: Arc::new(rules), ..self }
    }

    /// Rules of the environment's proxy; a world has none unless a program sets them.
    #[must_use]
    pub fn proxy_rules(&self) -> &ProxyRules {
        &self.proxy_rules
    }

    /// The clocks of the process.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// A new generator, seeded by the world's: independent of all generators handed out before.
    #[must_use]
    pub fn random(&self) -> StdRng {
        StdRng::from_rng(&mut self.chance.lock().random)
    }

    /// A new seed, for a generator of another kind or for a hash.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.chance.lock().random.next_u64()
    }

    /// A new random identity, 16 bytes.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        self.chance.lock().random.fill_bytes(&mut id);
        id
    }

    /// A new UUID of version 7: wall time in milliseconds, then random bits. Every UUID of a world
    /// is greater than the UUIDs before it, also within one millisecond.
    #[must_use]
    pub fn uuid_v7(&self) -> Uuid {
        let mut bits = [0; 10];
        let mut chance = self.chance.lock();
        chance.random.fill_bytes(&mut bits);
        let new = uuid::Builder::from_unix_timestamp_millis(self.clock.wall().0, &bits).into_uuid();
        let after_last = chance.last_uuid.as_u128().saturating_add(1);
        chance.last_uuid = Uuid::from_u128(new.as_u128().max(after_last));
        chance.last_uuid
    }

    /// All addresses of `host:port`, in the resolver's order. Blocks the thread for as long as the
    /// resolver takes; tasks use [`World::resolve`].
    ///
    /// # Errors
    /// The name does not exist, or no name server answers.
    pub fn lookup(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        self.network.lookup(name)
    }

    /// All addresses of `host:port`, in the resolver's order. The caller sets the deadline.
    ///
    /// # Errors
    /// The name does not exist, or no name server answers.
    pub async fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let (network, name) = (Arc::clone(&self.network), name.to_owned());
        offload(move || network.lookup(&name)).await.map_err(io::Error::other)?
    }

    /// Connects to an address. The caller sets the deadline.
    ///
    /// # Errors
    /// The address cannot be reached, or nothing listens there.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        self.network.connect(address).await
    }

    /// Listens on an address; port 0: the network chooses a port.
    ///
    /// # Errors
    /// `cannot listen on 127.0.0.1:7400: Address already in use`.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        self.network.listen(address).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the generator: its state would tell what is drawn next.
        f.debug_struct("World").field("clock", &self.clock).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
