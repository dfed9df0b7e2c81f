//! The lanes of the cluster and what only their owner may do: mint provider tokens, share out quotas, stop the pruning.
//!
//! A lane is one credential on one gateway. It exists from the moment an app names it, so that nodes connect before the
//! first alert needs them. Its number is made from its name, so that it stays the same over restarts and whatever else
//! is configured. One provider token serves a credential in the whole cluster: APNs answers 429 if a key's tokens change
//! more than once in 20 minutes (`TooManyProviderTokenUpdates`), also when several processes make them.
//!
//! The parts: [`token`] when a token is made and how, [`health`] what nodes say of their lane ends, [`feedback`] dead
//! tokens back into the registry, with the guard that stops it when the tokens are not to blame.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_proto::{ids::LaneId, wire::shard_v1 as wire};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    dispatch::{LaneKey, StartError, standing::Board},
    owners::NodeName,
};

pub(crate) mod feedback;
pub mod health;
pub(crate) mod token;

use health::{HealthBook, LaneStatus};

/// A gateway as configured, checked.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Unique.
    pub name: String,
    /// host:port.
    pub endpoint: String,
    /// For the certificate and `:authority`.
    pub server_name: String,
    /// PEM; empty: the public roots.
    pub ca_pem: String,
    /// Real people are behind it.
    pub live: bool,
    /// Of each node.
    pub connections: u32,
    /// At once, whatever the gateway allows.
    pub streams_per_connection: u32,
    /// Then a request counts as unanswered.
    pub request_deadline: Duration,
    /// TCP and TLS together.
    pub connect_deadline: Duration,
    /// First pause before another try.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// `authorization` enters the HPACK table.
    pub hpack_authorization_indexed: bool,
    /// Requests that the provider allows in any minute, over the whole cluster; `None`: unlimited.
    pub quota: Option<Quota>,
}

/// A provider's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// In any minute.
    pub per_minute: u32,
    /// Of those, at once; `None`: one second's worth.
    pub burst: Option<u32>,
}

/// An APNs signing key as configured. Never leaves the coordinator.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Unique.
    pub name: String,
    /// 10 characters.
    pub key_id: String,
    /// 10 characters.
    pub team_id: String,
    /// PKCS#8, PEM.
    pub key_pem: SecretString,
}

/// One lane, as sessions tell it to nodes.
#[derive(Debug)]
pub(crate) struct LaneSpec {
    pub(crate) id: LaneId,
    pub(crate) key: LaneKey,
    pub(crate) gateway: Arc<Gateway>,
}

impl LaneSpec {
    /// `gateway/credential`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.key.gateway, self.key.credential)
    }
}

/// The value of `authorization`. Secret.
#[derive(Debug)]
pub(crate) struct ProviderToken {
    pub(crate) authorization: SecretString,
}

/// All lanes of the cluster.
#[derive(Debug)]
pub(crate) struct LaneOwner {
    gateways: BTreeMap<String, Arc<Gateway>>,
    credentials: BTreeMap<String, Credential>,
    table: Mutex<Table>,
    /// A token may be due earlier than thought.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    lanes: BTreeMap<LaneKey, Arc<LaneSpec>>,
    /// By credential.
    refreshes: BTreeMap<String, token::Refresh>,
    health: HealthBook,
}

impl LaneOwner {
    pub(crate) fn new(gateways: Vec<Gateway>, credentials: Vec<Credential>) -> Self {
        Self {
            gateways: gateways.into_iter().map(|g| (g.name.clone(), Arc::new(g))).collect(),
            credentials: credentials.into_iter().map(|c| (c.name.clone(), c)).collect(),
            table: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The lane of that name, on the board with its provider token from now on.
    ///
    /// # Errors
    /// The configuration lacks one of the two, or the credential makes no token.
    pub(crate) fn ensure(&self, key: &LaneKey, board: &Board, clock: &Clock) -> Result<Arc<LaneSpec>, StartError> {
        let refuse = |problem: String| StartError::Lane {
            gateway: key.gateway.clone(),
            credential: key.credential.clone(),
            problem,
        };
        let gateway = self.gateways.get(&key.gateway).ok_or_else(|| refuse("no such gateway".to_owned()))?;
        let credential =
            self.credentials.get(&key.credential).ok_or_else(|| refuse("no such credential".to_owned()))?;
        // The table is held throughout, so that two first alerts do not make two tokens.
        let mut table = self.table.lock();
        if let Some(lane) = table.lanes.get(key) {
            return Ok(lane.clone());
        }
        let shared = table.lanes.values().find(|lane| lane.key.credential == key.credential);
        let token = match shared.and_then(|lane| board.read().tokens.get(&lane.id).cloned()) {
            Some(token) => token,
            None => {
                let made = token::mint(credential, clock.wall()).map_err(|e| refuse(e.to_string()))?;
                table.refreshes.entry(key.credential.clone()).or_default().minted(clock.now());
                Arc::new(made)
            }
        };
        let lane = Arc::new(LaneSpec { id: free_id(key, &table), key: key.clone(), gateway: gateway.clone() });
        table.lanes.insert(key.clone(), lane.clone());
        board.change(|standing| {
            standing.lanes.insert(lane.id, lane.clone());
            standing.tokens.insert(lane.id, token);
        });
        tracing::info!(lane = lane.name(), id = lane.id.0, live = gateway.live, "lane");
        self.changed.notify_one();
        Ok(lane)
    }

    /// A node says how its end of a lane is.
    pub(crate) fn health_changed(&self, node: &NodeName, state: &wire::LaneState, clock: &Clock) {
        let mut table = self.table.lock();
        let Some(lane) = table.lanes.values().find(|lane| lane.id.0 == state.lane).cloned() else { return };
        if !table.health.changed(node, lane.id, &lane.name(), state) {
            return;
        }
        if state.health() == wire::LaneHealth::Credential
            && let Some(refresh) = table.refreshes.get_mut(&lane.key.credential)
        {
            refresh.refused(clock.now());
            self.changed.notify_one();
        }
    }

    /// How all lane ends are.
    pub(crate) fn status(&self) -> Vec<LaneStatus> {
        self.table.lock().health.status()
    }

    /// The longest that a request may go unanswered on any lane: then every open one has its fate.
    pub(crate) fn request_deadline_max(&self) -> Duration {
        self.gateways.values().map(|g| g.request_deadline).max().unwrap_or_default()
    }

    /// Keeps provider tokens fresh; runs until it is dropped.
    pub(crate) async fn keep_fresh(&self, board: &Board, clock: Clock) {
        loop {
            self.refresh_due(board, &clock);
            let next = self.table.lock().refreshes.values().map(token::Refresh::deadline).min();
            match next {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(clock.instant(at)) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    fn refresh_due(&self, board: &Board, clock: &Clock) {
        let now = clock.now();
        let mut table = self.table.lock();
        let due: Vec<_> = table.refreshes.iter().filter(|(_, r)| r.due(now)).map(|(name, _)| name.clone()).collect();
        for name in due {
            let (Some(credential), Some(refresh)) = (self.credentials.get(&name), table.refreshes.get_mut(&name))
            else {
                continue;
            };
            match token::mint(credential, clock.wall()) {
                Ok(made) => {
                    refresh.minted(now);
                    let made = Arc::new(made);
                    let lanes: Vec<_> =
                        table.lanes.values().filter(|l| l.key.credential == name).map(|l| l.id).collect();
                    board.change(|standing| {
                        standing.tokens.extend(lanes.into_iter().map(|lane| (lane, made.clone())));
                    });
                    tracing::info!(credential = name, "new provider token");
                }
                Err(error) => {
                    refresh.failed(now);
                    tracing::error!(credential = name, %error, "no new provider token; tried again");
                }
            }
        }
    }
}

/// The number of a lane: a hash of its name. If another lane has it (one in four thousand million), the next free one.
fn free_id(key: &LaneKey, table: &Table) -> LaneId {
    let hash = xxhash_rust::xxh3::xxh3_64(format!("{}/{}", key.gateway, key.credential).as_bytes());
    #[allow(clippy::cast_possible_truncation)] // the lower half of a hash is a hash
    let mut id = LaneId(hash as u32);
    while id.0 == 0 || table.lanes.values().any(|lane| lane.id == id) {
        id.0 = id.0.wrapping_add(1);
    }
    id
}

/// For the wire.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
