//! Owner of the cluster's lanes: mints provider tokens, sets budgets of connections, collects
//! health, and decides which dead tokens are pruned.
//!
//! A lane is one credential on one gateway. The lane exists from the moment an app names it, so
//! that nodes connect before the first alert. The lane's number is a hash of its name, so that the
//! number survives restarts and other changes of the configuration. One provider token serves a
//! credential in the whole cluster: APNs answers 429 (`TooManyProviderTokenUpdates`) if a key's
//! tokens change more than once in 20 minutes, also when several processes make them. So the token
//! of a key is a function of the time ([`apns`]), and restarts do not change it.
//!
//! The coordinator signs a token of APNs itself, at once. Google's token endpoint issues a token of
//! FCM, and may be slow or unreachable: the lane exists without a token, nodes send once the token
//! has arrived, and a failing credential delays no other credential.
//!
//! The parts: [`credential`] has the keys and accounts, [`apns`] and [`oauth`] make tokens,
//! [`token`] says when a token is due; [`budget`] sets the number of connections; [`health`] keeps
//! the health of lane ends; [`feedback`] returns dead tokens to the registry, given evidence.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_proto::{ids::LaneId, time::Time, wire::shard_v1 as wire};
use clarion_runtime::repeated::Repeated;
use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, watch};

use crate::{
    clock::{Clock, Moment},
    lane::{Gateway, LaneKey, LaneSpec, ProviderToken, Quota, ramp},
    owners::NodeName,
    snapshot::LaneTrouble,
    standing::Board,
};

mod apns;
pub(crate) mod budget;
mod credential;
pub(crate) mod feedback;
pub mod health;
mod number;
mod oauth;
mod token;

use budget::Budget;
pub use credential::{ApnsKey, Credential, ServiceAccount, TokenEndpoint};
use health::{HealthBook, LaneStatus};
use number::free_id;
use oauth::{AccessToken, ExchangeError};
use token::Refresh;

/// All lanes of the cluster, with their tokens, budgets and health.
#[derive(Debug)]
pub(crate) struct LaneOwner {
    gateways: BTreeMap<String, Arc<Gateway>>,
    table: Mutex<Table>,
    /// Wakes [`LaneOwner::keep_fresh`], because a token may be due earlier.
    changed: Notify,
    /// Number of changes of lane ends' health so far.
    healths: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    /// Credentials by name, as last read from their files.
    credentials: BTreeMap<String, Arc<Credential>>,
    lanes: BTreeMap<LaneKey, Arc<LaneSpec>>,
    /// Tokens by the name of the credential, for credentials that a lane uses.
    kept: BTreeMap<String, Kept>,
    health: HealthBook,
    budgets: BTreeMap<LaneId, Budget>,
}

/// Token of one credential, and when it is replaced.
#[derive(Debug)]
struct Kept {
    refresh: Refresh,
    token: Option<Arc<ProviderToken>>,
    /// Reason of the last failure to get a token; `None`: the last try succeeded.
    problem: Option<String>,
    /// Limits the log lines of failures.
    failures: Repeated,
}

/// State of a credential: whether its lanes can send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialStatus {
    /// Name of the credential in the configuration.
    pub credential: String,
    /// Whether nodes have got a token of the credential.
    pub has_token: bool,
    /// Reason why the last try to get a token failed; `None`: the try succeeded.
    pub problem: Option<String>,
}

/// Reason why a lane cannot exist: the configuration lacks its gateway or credential, the two have
/// different platforms, or the key signs no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lane {gateway}/{credential}: {problem}")]
pub struct LaneError {
    /// Name of the lane's gateway.
    pub gateway: String,
    /// Name of the lane's credential.
    pub credential: String,
    /// Description of the problem, for people.
    pub problem: String,
}

/// Reason why new credentials cannot replace the present credentials without a restart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// A credential that the configuration did not have at startup.
    #[error("credential {0} was added after startup; restart the coordinator to use it")]
    Added(String),
    /// A credential that the configuration had at startup and no longer has.
    #[error("credential {0} was removed after startup; restart the coordinator to drop it")]
    Removed(String),
    /// A credential that now has another platform or project.
    #[error(
        "credential {0} changed its platform or project after startup; restart the coordinator to \
         use it"
    )]
    Other(String),
}

impl LaneOwner {
    pub(crate) fn new(gateways: Vec<Gateway>, credentials: Vec<Credential>) -> Self {
        Self {
            gateways: gateways.into_iter().map(|g| (g.name.clone(), Arc::new(g))).collect(),
            table: Mutex::new(Table {
                credentials: credentials
                    .into_iter()
                    .map(|c| (c.name().to_owned(), Arc::new(c)))
                    .collect(),
                ..Table::default()
            }),
            changed: Notify::new(),
            healths: watch::Sender::new(0),
        }
    }

    /// Returns the lane of that name; creates it if needed and puts it on the board with its
    /// provider token (a token of FCM follows once Google has issued it). Never waits.
    ///
    /// # Errors
    /// The configuration lacks the gateway or the credential, the two have different platforms, or
    /// the key signs no token.
    pub(crate) fn ensure(
        &self,
        key: &LaneKey,
        board: &Board,
        clock: &Clock,
    ) -> Result<Arc<LaneSpec>, LaneError> {
        let refuse = |problem: String| LaneError {
            gateway: key.gateway.clone(),
            credential: key.credential.clone(),
            problem,
        };
        let gateway = self
            .gateways
            .get(&key.gateway)
            .ok_or_else(|| refuse("the configuration has no such gateway".to_owned()))?;
        // The table stays locked, so that two concurrent first alerts do not make two tokens.
        let mut table = self.table.lock();
        let credential = table.credentials.get(&key.credential).cloned();
        let credential = credential
            .ok_or_else(|| refuse("the configuration has no such credential".to_owned()))?;
        if gateway.platform != credential.platform() {
            return Err(refuse("gateway and credential must have the same platform".to_owned()));
        }
        if let Some(lane) = table.lanes.get(key) {
            return Ok(lane.clone());
        }
        if !table.kept.contains_key(&key.credential) {
            let kept = Kept::first(&credential, clock).map_err(|e| refuse(e.to_string()))?;
            table.kept.insert(key.credential.clone(), kept);
        }
        let token = table.kept.get(&key.credential).and_then(|kept| kept.token.clone());
        let lane = Arc::new(LaneSpec {
            id: free_id(key, &table),
            key: key.clone(),
            gateway: gateway.clone(),
        });
        table.lanes.insert(key.clone(), lane.clone());
        board.change(|standing| {
            standing.lanes.insert(lane.id, lane.clone());
            standing.tokens.extend(token.map(|token| (lane.id, token)));
        });
        tracing::info!(
            lane = lane.name(),
            id = lane.id.0,
            live = gateway.live,
            "lane added to the cluster"
        );
        self.changed.notify_one();
        Ok(lane)
    }

    /// Records the health of a lane end, as its node reports it.
    pub(crate) fn health_changed(&self, node: &NodeName, state: &wire::LaneState, now: Moment) {
        let mut table = self.table.lock();
        let Some(lane) = table.lanes.values().find(|lane| lane.id.0 == state.lane).cloned() else {
            return;
        };
        if !table.health.changed(node, lane.id, &lane.name(), state, now) {
            return;
        }
        self.healths.send_modify(|changes| *changes += 1);
        if state.health() == wire::LaneHealth::Credential
            && let Some(kept) = table.kept.get_mut(&lane.key.credential)
        {
            kept.refresh.refused();
            self.changed.notify_one();
        }
    }

    /// Marks the lane ends of a node as unknown, because the node has no session.
    pub(crate) fn node_gone(&self, node: &NodeName) {
        if self.table.lock().health.gone(node) {
            self.healths.send_modify(|changes| *changes += 1);
        }
    }

    /// Records the load of a node's connections of a lane; may change the lane's budget.
    pub(crate) fn loaded(&self, node: &NodeName, load: wire::LaneLoad, board: &Board, now: Time) {
        let standing = board.read();
        let Some(lane) = standing.lanes.get(&LaneId(load.lane)) else { return };
        let nodes = standing.owned.as_ref().map_or(0, |owned| owned.nodes().len());
        let granted = lane.gateway.quota.map(|quota| {
            let ramp = standing.ramps.get(&lane.id).copied().unwrap_or_default();
            granted_per_second(quota, ramp.share(quota.ramp, now))
        });
        let (limits, streams) = (lane.gateway.connections, lane.gateway.streams_per_connection);
        if lane.gateway.quota.is_some_and(|quota| !quota.ramp.is_zero()) {
            board.set_used(lane.id, load.busy, now);
        }
        let mut table = self.table.lock();
        let budget =
            table.budgets.entry(lane.id).or_insert_with(|| Budget::new(limits, streams, now));
        budget.hear(node, load, granted, nodes, now);
        let connections = budget.connections();
        let before = standing.connections.get(&lane.id).copied();
        if before != Some(connections) {
            // Under the table's lock, so that the newest budget reaches the board last.
            board.change(|standing| standing.connections.insert(lane.id, connections));
            tracing::info!(
                lane = lane.name(),
                connections,
                before,
                "connection budget of a lane changed"
            );
        }
    }

    /// Receiver that is marked as changed with each change of a lane end's health.
    pub(crate) fn health_changes(&self) -> watch::Receiver<u64> {
        self.healths.subscribe()
    }

    /// Troubles that keep these lanes from sending now.
    pub(crate) fn troubles(&self, lanes: &[Arc<LaneSpec>]) -> Vec<LaneTrouble> {
        self.table.lock().health.troubles(lanes.iter().map(|lane| &**lane))
    }

    /// Health of all lane ends.
    pub(crate) fn status(&self) -> Vec<LaneStatus> {
        self.table.lock().health.status()
    }

    /// States of all credentials that a lane uses.
    pub(crate) fn credentials(&self) -> Vec<CredentialStatus> {
        let table = self.table.lock();
        let status = |(name, kept): (&String, &Kept)| CredentialStatus {
            credential: name.clone(),
            has_token: kept.token.is_some(),
            problem: kept.problem.clone(),
        };
        table.kept.iter().map(status).collect()
    }

    /// Longest request deadline of all gateways: after it, every open request has its outcome.
    pub(crate) fn request_deadline_max(&self) -> Duration {
        self.gateways.values().map(|g| g.request_deadline).max().unwrap_or_default()
    }

    /// Keeps provider tokens fresh; runs until it is dropped. Requests to token endpoints run
    /// concurrently, at most one for each credential.
    pub(crate) async fn keep_fresh(&self, board: &Board, clock: Clock) {
        let mut random = StdRng::seed_from_u64(clock.wall().0);
        let mut exchanges = FuturesUnordered::new();
        loop {
            for credential in self.begin_due(clock.now()) {
                match &*credential {
                    Credential::Apns(key) => self.signed(key, board, clock.moment()),
                    Credential::Fcm(_) => exchanges.push(async move {
                        let Credential::Fcm(account) = &*credential else {
                            unreachable!("matched")
                        };
                        let exchanged = oauth::exchange(account, clock.wall()).await;
                        (credential, exchanged)
                    }),
                }
            }
            let next = self.table.lock().kept.values().map(|kept| kept.refresh.deadline()).min();
            tokio::select! {
                () = tokio::time::sleep_until(clock.instant(next.unwrap_or(Time::NEVER))) => {}
                () = self.changed.notified() => {}
                Some((credential, exchanged)) = exchanges.next() => {
                    self.exchanged(&credential, exchanged, board, clock.now(), &mut random);
                }
            }
        }
    }

    /// Credentials whose token is due; marks each token as under way.
    fn begin_due(&self, now: Time) -> Vec<Arc<Credential>> {
        let mut table = self.table.lock();
        let Table { kept, credentials, .. } = &mut *table;
        let due = kept.iter_mut().filter(|(_, kept)| kept.refresh.due(now));
        let begun = due.filter_map(|(name, kept)| {
            let credential = credentials.get(name)?;
            kept.refresh.begin();
            Some(Arc::clone(credential))
        });
        begun.collect()
    }

    /// Replaces the credentials with those that their files have now. The new key of a changed
    /// credential makes a token at once; a token that the old key still gets is dropped.
    ///
    /// # Errors
    /// A credential was added or removed, or has another platform or project: lanes and apps depend
    /// on these. No credential was replaced then.
    pub(crate) fn replace(&self, credentials: Vec<Credential>) -> Result<(), ReplaceError> {
        let mut table = self.table.lock();
        let mut changed = Vec::new();
        for credential in &credentials {
            let former = table.credentials.get(credential.name());
            let former = former.ok_or_else(|| ReplaceError::Added(credential.name().to_owned()))?;
            if (former.platform(), former.project())
                != (credential.platform(), credential.project())
            {
                return Err(ReplaceError::Other(credential.name().to_owned()));
            }
            if !former.is_same(credential) {
                changed.push(credential.name().to_owned());
            }
        }
        if let Some(gone) =
            table.credentials.keys().find(|name| credentials.iter().all(|c| c.name() != *name))
        {
            return Err(ReplaceError::Removed(gone.clone()));
        }
        for credential in
            credentials.into_iter().filter(|c| changed.iter().any(|name| name == c.name()))
        {
            let name = credential.name().to_owned();
            if let Some(kept) = table.kept.get_mut(&name) {
                kept.refresh.replaced();
            }
            tracing::info!(credential = name, "credential reloaded from its file");
            table.credentials.insert(name, Arc::new(credential));
        }
        drop(table);
        self.changed.notify_one();
        Ok(())
    }

    fn signed(&self, key: &ApnsKey, board: &Board, now: Moment) {
        match apns::mint(key, now.wall) {
            Ok(token) => self.took(&key.name, token, apns::replace_after(now.wall), board, now.at),
            Err(error) => self.failed(&key.name, &error, false, |_| apns::AFTER_FAILURE, now.at),
        }
    }

    fn exchanged(
        &self,
        credential: &Arc<Credential>,
        exchanged: Result<AccessToken, ExchangeError>,
        board: &Board,
        now: Time,
        random: &mut impl Rng,
    ) {
        let name = credential.name();
        // The credential was replaced meanwhile: the new key's exchange is under way or due.
        if !self
            .table
            .lock()
            .credentials
            .get(name)
            .is_some_and(|present| Arc::ptr_eq(present, credential))
        {
            return;
        }
        match exchanged {
            Ok(AccessToken { token, life }) => {
                self.took(name, token, oauth::replace_after(life), board, now);
            }
            Err(error) => self.failed(
                name,
                &error,
                error.is_passing(),
                |failures| error.pause(failures, random),
                now,
            ),
        }
    }

    /// Puts a new token on the board for all lanes of its credential.
    fn took(
        &self,
        name: &str,
        token: ProviderToken,
        replace_after: Duration,
        board: &Board,
        now: Time,
    ) {
        let token = Arc::new(token);
        let mut table = self.table.lock();
        let Some(kept) = table.kept.get_mut(name) else { return };
        kept.refresh.minted(now, replace_after);
        (kept.token, kept.problem) = (Some(token.clone()), None);
        kept.failures = Repeated::default();
        let lanes: Vec<_> =
            table.lanes.values().filter(|l| l.key.credential == name).map(|l| l.id).collect();
        table.health.forgive(&lanes);
        self.healths.send_modify(|changes| *changes += 1);
        board.change(|standing| {
            standing.tokens.extend(lanes.into_iter().map(|lane| (lane, token.clone())));
        });
        tracing::info!(credential = name, "provider token replaced");
    }

    fn failed(
        &self,
        name: &str,
        error: &dyn std::error::Error,
        is_passing: bool,
        pause: impl FnOnce(u32) -> Duration,
        now: Time,
    ) {
        let mut table = self.table.lock();
        let Some(kept) = table.kept.get_mut(name) else { return };
        kept.refresh.failed(now, pause(kept.refresh.failures()));
        let words = error.to_string();
        if let Some(times) = kept.failures.note(&words, now.since(Time(0))) {
            let has_token = kept.token.is_some();
            if is_passing {
                tracing::warn!(
                    credential = name,
                    has_token,
                    error = words,
                    times,
                    "provider token not renewed; retrying"
                );
            } else {
                tracing::error!(
                    credential = name,
                    has_token,
                    error = words,
                    times,
                    "provider token not renewed; check the credential"
                );
            }
        }
        kept.problem = Some(words);
    }
}

impl Kept {
    /// Token of a credential that no lane has used yet. A key signs a token at once; a service
    /// account gets its token once [`LaneOwner::keep_fresh`] has asked for one.
    fn first(credential: &Credential, clock: &Clock) -> Result<Self, apns::MintError> {
        let (rules, token) = match credential {
            Credential::Apns(key) => (apns::RULES, Some(Arc::new(apns::mint(key, clock.wall())?))),
            Credential::Fcm(_) => (oauth::RULES, None),
        };
        let mut refresh = Refresh::new(rules);
        if token.is_some() {
            refresh.minted(clock.now(), apns::replace_after(clock.wall()));
        }
        Ok(Self { refresh, token, problem: None, failures: Repeated::default() })
    }
}

/// Requests per second that a quota grants at a ramp's share, in thousandths.
#[allow(clippy::cast_precision_loss)] // thousandths
fn granted_per_second(quota: Quota, share: u64) -> f64 {
    f64::from(quota.per_minute) / 60.0 * share as f64 / ramp::SHARE_MAX as f64
}

#[cfg(test)]
mod tests;
