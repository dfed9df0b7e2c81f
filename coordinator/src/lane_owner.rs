//! The lanes of the cluster and what only their owner may do: mint provider tokens, share out
//! quotas, stop the pruning.
//!
//! A lane is one credential on one gateway. It exists from the moment an app names it, so that
//! nodes connect before the first alert needs them. Its number is made from its name, so that it
//! stays the same over restarts and whatever else is configured. One provider token serves a
//! credential in the whole cluster: APNs answers 429 if a key's tokens change more than once in 20
//! minutes (`TooManyProviderTokenUpdates`), also when several processes make them. So the token of
//! a key is a function of the time ([`apns`]): restarts do not change it.
//!
//! A token of APNs is signed here and there at once. One of FCM is given by Google's token
//! endpoint, which may be slow or away: the lane exists without it, nodes send once it has come,
//! and one credential's trouble holds up no other.
//!
//! The parts: [`credential`] what tokens are made of, [`apns`] and [`oauth`] how, [`token`] when;
//! [`budget`] how many connections it has; [`health`] what nodes say of their lane ends;
//! [`feedback`] dead tokens back into the registry, where there is evidence that the tokens are to
//! blame.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_proto::{ids::LaneId, time::Time, wire::shard_v1 as wire};
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
mod oauth;
mod token;

use budget::Budget;
pub use credential::{ApnsKey, Credential, ServiceAccount, TokenEndpoint};
use health::{HealthBook, LaneStatus};
use oauth::{AccessToken, ExchangeError};
use token::Refresh;

/// All lanes of the cluster.
#[derive(Debug)]
pub(crate) struct LaneOwner {
    gateways: BTreeMap<String, Arc<Gateway>>,
    table: Mutex<Table>,
    /// A token may be due earlier than thought.
    changed: Notify,
    /// Counts the changes of lane ends' healths.
    healths: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    /// As configured, or as their files tell by now.
    credentials: BTreeMap<String, Arc<Credential>>,
    lanes: BTreeMap<LaneKey, Arc<LaneSpec>>,
    /// By credential: those that a lane uses.
    kept: BTreeMap<String, Kept>,
    health: HealthBook,
    budgets: BTreeMap<LaneId, Budget>,
}

/// One credential's token.
#[derive(Debug)]
struct Kept {
    refresh: Refresh,
    token: Option<Arc<ProviderToken>>,
    /// Why there is no newer one.
    problem: Option<String>,
}

/// How a credential is: whether its lanes can send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialStatus {
    /// As configured.
    pub credential: String,
    /// Nodes were given a token.
    pub has_token: bool,
    /// Why the last try to get one failed; `None`: it did not.
    pub problem: Option<String>,
}

/// A lane that cannot exist: the configuration lacks its gateway or credential, or the key makes no
/// token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lane {gateway}/{credential}: {problem}")]
pub struct LaneError {
    /// Name of its gateway.
    pub gateway: String,
    /// Name of its credential.
    pub credential: String,
    /// What is wrong, for people.
    pub problem: String,
}

/// Credentials that cannot take the place of those that there are. The file's fault; a restart
/// takes them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// A new name.
    #[error("credential {0} was not there at the start: a restart takes it")]
    Added(String),
    /// A name that is missing.
    #[error("credential {0} is there no more: a restart forgets it")]
    Removed(String),
    /// The name means something else now.
    #[error("credential {0} is of another platform or project now: a restart takes it")]
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

    /// The lane of that name, on the board from now on: with its provider token, or, of FCM, as
    /// soon as Google has given one. Waits for nobody.
    ///
    /// # Errors
    /// The configuration lacks one of the two, they are of different platforms, or the key makes no
    /// token.
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
        let gateway =
            self.gateways.get(&key.gateway).ok_or_else(|| refuse("no such gateway".to_owned()))?;
        // The table is held throughout, so that two first alerts do not make two tokens.
        let mut table = self.table.lock();
        let credential = table.credentials.get(&key.credential).cloned();
        let credential = credential.ok_or_else(|| refuse("no such credential".to_owned()))?;
        if gateway.platform != credential.platform() {
            return Err(refuse("gateway and credential are of different platforms".to_owned()));
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
        tracing::info!(lane = lane.name(), id = lane.id.0, live = gateway.live, "lane");
        self.changed.notify_one();
        Ok(lane)
    }

    /// A node says how its end of a lane is.
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

    /// A node has no session: nobody knows how its lane ends are.
    pub(crate) fn node_gone(&self, node: &NodeName) {
        if self.table.lock().health.gone(node) {
            self.healths.send_modify(|changes| *changes += 1);
        }
    }

    /// A node says how its connections of a lane are used: what the cluster has of them may change.
    pub(crate) fn loaded(&self, node: &NodeName, load: wire::LaneLoad, board: &Board, now: Time) {
        let standing = board.read();
        let Some(lane) = standing.lanes.get(&LaneId(load.lane)) else { return };
        let nodes = standing.owned.as_ref().map_or(0, |owned| owned.nodes().len());
        let granted = lane.gateway.quota.map(|quota| {
            let ramp = standing.ramps.get(&lane.id).copied().unwrap_or_default();
            granted_per_second(quota, ramp.share(quota.ramp, now))
        });
        let (limits, streams) = (lane.gateway.connections, lane.gateway.streams_per_connection);
        let mut table = self.table.lock();
        let budget =
            table.budgets.entry(lane.id).or_insert_with(|| Budget::new(limits, streams, now));
        budget.hear(node, load, granted, nodes, now);
        let connections = budget.connections();
        let before = standing.connections.get(&lane.id).copied();
        if before != Some(connections) {
            // Under the table's lock, so that the newest budget is the last on the board.
            board.change(|standing| standing.connections.insert(lane.id, connections));
            tracing::info!(lane = lane.name(), connections, before, "budget of connections");
        }
    }

    /// Marked as changed whenever a lane end's health is another.
    pub(crate) fn health_changes(&self) -> watch::Receiver<u64> {
        self.healths.subscribe()
    }

    /// What keeps these lanes from sending now.
    pub(crate) fn troubles(&self, lanes: &[Arc<LaneSpec>]) -> Vec<LaneTrouble> {
        self.table.lock().health.troubles(lanes.iter().map(|lane| &**lane))
    }

    /// How all lane ends are.
    pub(crate) fn status(&self) -> Vec<LaneStatus> {
        self.table.lock().health.status()
    }

    /// How all credentials are that a lane uses.
    pub(crate) fn credentials(&self) -> Vec<CredentialStatus> {
        let table = self.table.lock();
        let status = |(name, kept): (&String, &Kept)| CredentialStatus {
            credential: name.clone(),
            has_token: kept.token.is_some(),
            problem: kept.problem.clone(),
        };
        table.kept.iter().map(status).collect()
    }

    /// The longest that a request may go unanswered on any lane: then every open one has its fate.
    pub(crate) fn request_deadline_max(&self) -> Duration {
        self.gateways.values().map(|g| g.request_deadline).max().unwrap_or_default()
    }

    /// Keeps provider tokens fresh; runs until it is dropped. Requests to token endpoints run
    /// beside each other and beside all else, at most one for each credential.
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

    /// Credentials whose token is due; each counts as under way from now on.
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

    /// Credentials as their files tell now: the token of one that is another than before is made
    /// anew at once, by the new key, and a token that is still on its way from the old one is not
    /// used.
    ///
    /// # Errors
    /// A name that was not there at the start, or is there no more, or means another platform or
    /// project: lanes and apps stand on those. Nothing was replaced then.
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
            tracing::info!(credential = name, "another key");
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
        // Replaced meanwhile: the new key's own exchange is under way or due.
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

    /// A new token: to all lanes of the credential.
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
        let lanes: Vec<_> =
            table.lanes.values().filter(|l| l.key.credential == name).map(|l| l.id).collect();
        table.health.forgive(&lanes);
        self.healths.send_modify(|changes| *changes += 1);
        board.change(|standing| {
            standing.tokens.extend(lanes.into_iter().map(|lane| (lane, token.clone())));
        });
        tracing::info!(credential = name, "new provider token");
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
        // Once for each new reason: an endpoint that is down for an hour is one line.
        if kept.problem.as_ref() != Some(&words) {
            let lanes_stand = kept.token.is_none();
            if is_passing {
                tracing::warn!(
                    credential = name,
                    lanes_stand,
                    error = words,
                    "no new provider token; tried again"
                );
            } else {
                tracing::error!(
                    credential = name,
                    lanes_stand,
                    error = words,
                    "no new provider token"
                );
            }
        }
        kept.problem = Some(words);
    }
}

impl Kept {
    /// Of a credential that no lane has used yet. A key signs here and now; of a service account
    /// nothing is known until [`LaneOwner::keep_fresh`] has asked.
    fn first(credential: &Credential, clock: &Clock) -> Result<Self, apns::MintError> {
        let (rules, token) = match credential {
            Credential::Apns(key) => (apns::RULES, Some(Arc::new(apns::mint(key, clock.wall())?))),
            Credential::Fcm(_) => (oauth::RULES, None),
        };
        let mut refresh = Refresh::new(rules);
        if token.is_some() {
            refresh.minted(clock.now(), apns::replace_after(clock.wall()));
        }
        Ok(Self { refresh, token, problem: None })
    }
}

/// The number of a lane: a hash of its name. If another lane has it (one in four thousand million),
/// the next free one.
fn free_id(key: &LaneKey, table: &Table) -> LaneId {
    let hash = xxhash_rust::xxh3::xxh3_64(format!("{}/{}", key.gateway, key.credential).as_bytes());
    #[allow(clippy::cast_possible_truncation)] // the lower half of a hash is a hash
    let mut id = LaneId(hash as u32);
    while id.0 == 0 || table.lanes.values().any(|lane| lane.id == id) {
        id.0 = id.0.wrapping_add(1);
    }
    id
}

/// What a quota grants, of which a ramp gives a share in thousandths.
#[allow(clippy::cast_precision_loss)] // thousandths
fn granted_per_second(quota: Quota, share: u64) -> f64 {
    f64::from(quota.per_minute) / 60.0 * share as f64 / ramp::SHARE_MAX as f64
}

#[cfg(test)]
mod tests;
