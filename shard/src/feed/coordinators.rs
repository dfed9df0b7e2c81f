//! Addresses of the coordinators: configured addresses, or a name that resolves to all of them,
//! resolved again every 5 s.
//!
//! Any coordinator serves any log. A node stays with one coordinator while it responds, and tries
//! the coordinators in turn otherwise: a coordinator that has just failed is tried last.

use std::{io, net::SocketAddr, time::Duration};

use clarion_proto::time::Time;
use clarion_runtime::world::World;
use tokio::time::timeout;
use tracing::{info, warn};

/// Maximum age of a DNS response.
pub const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Deadline of a resolution; a slower resolver counts as failed.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);

/// All coordinators, in turn.
#[derive(Debug)]
pub struct Coordinators {
    world: World,
    names: Vec<String>,
    addresses: Vec<SocketAddr>,
    asked: Option<Time>,
    next: usize,
}

impl Coordinators {
    /// Coordinators by name, each as `host:port`.
    #[must_use]
    pub fn new(names: Vec<String>, world: World) -> Self {
        Self { world, names, addresses: Vec::new(), asked: None, next: 0 }
    }

    /// Address of the coordinator to connect to next.
    ///
    /// # Errors
    /// No name resolves, and no name ever resolved.
    pub async fn next(&mut self) -> io::Result<SocketAddr> {
        let now = self.world.clock().now();
        if self.asked.is_none_or(|asked| now.since(asked) >= ASK_AGAIN) {
            self.resolve().await?;
        }
        self.next += 1;
        let turn = (self.next - 1) % self.addresses.len().max(1);
        self.addresses
            .get(turn)
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no coordinator"))
    }

    /// Reports that the last coordinator responded: the next connection uses it again.
    pub fn stay(&mut self) {
        self.next = self.next.saturating_sub(1);
    }

    async fn resolve(&mut self) -> io::Result<()> {
        let mut addresses = Vec::new();
        let mut failed = None;
        for name in &self.names {
            match timeout(RESOLVE_WITHIN, self.world.resolve(name)).await {
                Ok(Ok(found)) => addresses.extend(found),
                Ok(Err(error)) => failed = Some(format!("{name}: {error}")),
                Err(_) => {
                    failed = Some(format!("{name}: no answer in {} s", RESOLVE_WITHIN.as_secs()));
                }
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        self.asked = Some(self.world.clock().now());
        match failed {
            Some(problem) if addresses.is_empty() && self.addresses.is_empty() => {
                self.asked = None;
                return Err(io::Error::new(io::ErrorKind::NotFound, problem));
            }
            // The former addresses stay in use: they are better than none.
            Some(problem) => warn!(problem, "coordinator name not resolved"),
            None => {}
        }
        if !addresses.is_empty() && addresses != self.addresses {
            info!(?addresses, "coordinator addresses changed");
            self.addresses = addresses;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn goes_round_and_stays_with_who_answers() {
        let mut coordinators =
            Coordinators::new(vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()], World::system());
        let ports = async |c: &mut Coordinators| c.next().await.unwrap().port();
        assert_eq!((ports(&mut coordinators).await, ports(&mut coordinators).await), (1, 2));
        coordinators.stay();
        assert_eq!(ports(&mut coordinators).await, 2);
        assert_eq!(ports(&mut coordinators).await, 1);
    }
}
