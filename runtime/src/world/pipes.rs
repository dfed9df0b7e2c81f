//! A network of pipes within one process, for tests and simulators.
//!
//! Real sockets and paused time do not go together: the clock would jump while a packet is on its
//! way. A pipe delivers at once, so a paused clock advances only when every task waits.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Accept, Listener, Network, Stream};

/// Bytes on their way in one direction of a connection.
const PIPE_BYTES: usize = 1 << 20;
/// Connections that a listener has not accepted yet; one more waits.
const BACKLOG: usize = 16;

/// A network of pipes; clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct Pipes(Arc<Mutex<Ports>>);

#[derive(Debug, Default)]
struct Ports {
    listening: BTreeMap<SocketAddr, mpsc::Sender<Arrival>>,
    /// Number of the last port that was given out, for listeners and callers.
    last: u16,
}

type Arrival = (Stream, SocketAddr);

impl Pipes {
    /// Listens on an address; port 0: the next free port. A listener takes the place of a former
    /// listener at the same address, as a process that was started again does.
    #[must_use]
    pub fn open(&self, mut address: SocketAddr) -> Listener {
        let (arrives, arrived) = mpsc::channel(BACKLOG);
        let mut ports = self.0.lock();
        while address.port() == 0 {
            let free = SocketAddr::new(address.ip(), ports.next());
            if !ports.listening.contains_key(&free) {
                address = free;
            }
        }
        ports.listening.insert(address, arrives);
        Listener::new(address, Port(arrived))
    }
}

impl Ports {
    fn next(&mut self) -> u16 {
        self.last = self.last.checked_add(1).unwrap_or(1);
        self.last
    }
}

#[async_trait]
impl Network for Pipes {
    /// Knows no names: only addresses.
    fn lookup(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let unknown = |_| io::Error::new(io::ErrorKind::NotFound, "pipes have no names");
        Ok(vec![name.parse().map_err(unknown)?])
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let (arrives, caller) = {
            let mut ports = self.0.lock();
            let arrives = ports.listening.get(&address).cloned().ok_or_else(refused)?;
            (arrives, SocketAddr::from((Ipv4Addr::LOCALHOST, ports.next())))
        };
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        arrives.send((Stream::new(far), caller)).await.map_err(|_| refused())?;
        Ok(Stream::new(near))
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        Ok(self.open(address))
    }
}

/// Arrivals at one address.
struct Port(mpsc::Receiver<Arrival>);

impl Accept for Port {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        // The sender is gone once another listener has the address: nothing arrives here any more.
        match self.0.poll_recv(context) {
            Poll::Ready(Some(arrival)) => Poll::Ready(Ok(arrival)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
