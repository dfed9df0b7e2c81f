//! Owner of the cluster's lanes: mints provider tokens, sets budgets of connections, collects
//! health, and decides which dead tokens are pruned; free of I/O.
//!
//! A lane is one credential on one gateway. The lane exists from the moment an app names it, so
//! that nodes connect before the first alert. The lane's number is a hash of its name, so that the
//! number survives restarts and other changes of the configuration. One provider token serves a
//! credential in the whole cluster: APNs answers 429 (`TooManyProviderTokenUpdates`) if a key's
//! tokens change more than once in 20 minutes, also when several processes make them. So the token
//! of a key is a function of the time ([`apns`]), and the store has a record of it ([`mints`]).
//!
//! The coordinator signs a token of APNs itself, once its record is stored. Google's token endpoint
//! issues a token of FCM. Both may be slow or unreachable: the lane exists without a token, nodes
//! send once the token has arrived, and a failing credential delays no other credential.
//!
//! A credential that a lane uses is in one of these states ([`token::Refresh`] has the times):
//!
//! | State | Input | Output | Next state |
//! |---|---|---|---|
//! | unused | a lane | the lane without a token | due |
//! | has a token | time: replaced by age, or refused and the spacing is over | – | due |
//! | due, APNs | time; the key may use a token | new token for all lanes of the credential; on failure a log message | has a token; due after a pause |
//! | due, APNs | time; the key waits for the store | writes of the key's record | due |
//! | due, FCM | time | an exchange, the only one of this key | under way |
//! | under way | exchanged: a token | new token for all lanes of the credential | has a token |
//! | under way | exchanged: an error | log message | due after a pause |
//! | any | the key is replaced | – | due; the answer to the former key's exchange is dropped |
//!
//! Inputs are methods; [`LaneOwner::poll`] returns what the shell (`dispatch/lanes.rs`) has to do.
//!
//! The parts: [`credential`] has the keys and accounts, [`apns`] and [`oauth`] make tokens,
//! [`mints`] keeps the tokens of a key apart, [`token`] says when a token is due, [`renewal`]
//! brings these together; [`ramps`] keeps the warmth of lanes over restarts; [`records`] carries
//! what [`mints`] and [`ramps`] keep to the store; [`budget`] sets the number of connections;
//! [`health`] keeps the health of lane ends; [`feedback`] returns dead tokens to the registry, given evidence.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{ids::LaneId, time::Time, wire::shard_v1 as wire};
use clarion_runtime::repeated::Repeated;

use crate::{
    lane::{Gateway, LaneKey, LaneSpec, Quota, ramp},
    owners::NodeName,
    snapshot::LaneTrouble,
    standing::{Change, Standing},
};
use clarion_runtime::world::Moment;

mod apns;
pub(crate) mod budget;
mod credential;
pub(crate) mod feedback;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod health;
mod log;
mod mints;
mod number;
pub(crate) mod oauth;
mod ramps;
pub(crate) mod records;
mod refusal;
mod renewal;
mod token;

use budget::Budget;
pub use credential::{
    ApnsKey, Credential, Endpoint, ExternalAccount, GoogleAccount, Headers, ServiceAccount,
    SubjectSource, TokenSource,
};
use health::{HealthBook, LaneStatus};
use log::Log;
use mints::Mints;
use ramps::Ramps;
use records::{Records, StoreOp};
pub use refusal::{LaneError, ReplaceError};
use renewal::Kept;

/// All lanes of the cluster, with their tokens, budgets and health.
#[derive(Debug)]
pub(crate) struct LaneOwner {
    gateways: BTreeMap<String, Arc<Gateway>>,
    /// Credentials by name, as last read from their files.
    credentials: BTreeMap<String, Arc<Credential>>,
    lanes: BTreeMap<LaneKey, Arc<LaneSpec>>,
    /// Tokens by the name of the credential, for credentials that a lane uses.
    kept: BTreeMap<String, Kept>,
    /// Newest tokens of APNs keys.
    mints: Mints,
    /// Newest recorded states of ramps.
    ramps: Ramps,
    /// Records of the store.
    records: Records,
    health: HealthBook,
    budgets: BTreeMap<LaneId, Budget>,
    /// Nodes that use a lane with a ramp, as their last reports of load say.
    users: BTreeMap<LaneId, BTreeSet<NodeName>>,
    /// Limits the log lines about lanes that the configuration does not have.
    unknown: Repeated,
    outputs: VecDeque<Output>,
}

/// One step for the shell to perform.
#[derive(Debug)]
pub(crate) enum Output {
    /// Change the desired state of all nodes.
    Board(Change),
    /// Ask the token endpoint of this FCM account for an access token, and return the answer to
    /// [`LaneOwner::exchanged`]. Only [`LaneOwner::expire`] asks for exchanges.
    Exchange(Arc<Credential>),
    /// Carry out an operation of the store, and return its result to [`LaneOwner::stored`]. Only
    /// [`LaneOwner::expire`] asks for operations.
    Store(StoreOp),
    /// The health of lane ends has changed: watchers get the new troubles.
    HealthChanged,
    /// Write a log message.
    Log(Log),
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

impl LaneOwner {
    pub(crate) fn new(gateways: Vec<Gateway>, credentials: Vec<Credential>) -> Self {
        let credentials = credentials.into_iter().map(|c| (c.name().to_owned(), Arc::new(c)));
        Self {
            gateways: gateways.into_iter().map(|g| (g.name.clone(), Arc::new(g))).collect(),
            credentials: credentials.collect(),
            lanes: BTreeMap::new(),
            kept: BTreeMap::new(),
            mints: Mints::default(),
            ramps: Ramps::default(),
            records: Records::default(),
            health: HealthBook::default(),
            budgets: BTreeMap::new(),
            users: BTreeMap::new(),
            unknown: Repeated::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Returns the lane of that name; creates it if needed. Its provider token follows, unless the
    /// credential has one already.
    ///
    /// # Errors
    /// The configuration lacks the gateway or the credential, the two have different platforms, or
    /// the key signs no token.
    pub(crate) fn ensure(&mut self, key: &LaneKey) -> Result<Arc<LaneSpec>, LaneError> {
        let refuse = |problem: String| LaneError {
            gateway: key.gateway.clone(),
            credential: key.credential.clone(),
            problem,
        };
        let gateway = self
            .gateways
            .get(&key.gateway)
            .ok_or_else(|| refuse("the configuration has no such gateway".to_owned()))?;
        let credential = self
            .credentials
            .get(&key.credential)
            .ok_or_else(|| refuse("the configuration has no such credential".to_owned()))?;
        if gateway.platform != credential.platform() {
            return Err(refuse("gateway and credential must have the same platform".to_owned()));
        }
        if let Some(lane) = self.lanes.get(key) {
            return Ok(lane.clone());
        }
        if !self.kept.contains_key(&key.credential) {
            let kept = Kept::first(credential).map_err(|e| refuse(e.to_string()))?;
            self.kept.insert(key.credential.clone(), kept);
        }
        let token = self.kept.get(&key.credential).and_then(|kept| kept.token.clone());
        let lane = Arc::new(LaneSpec {
            id: self.free_id(key),
            key: key.clone(),
            gateway: gateway.clone(),
        });
        self.lanes.insert(key.clone(), lane.clone());
        self.outputs.push_back(Output::Board(Change::Lane(lane.clone(), token)));
        self.log(Log::LaneAdded(lane.clone()));
        Ok(lane)
    }

    /// Records the health of a lane end, as its node reports it.
    pub(crate) fn health_changed(&mut self, node: &NodeName, state: &wire::LaneState, now: Moment) {
        let Some(lane) = self.lanes.values().find(|lane| lane.id.0 == state.lane) else { return };
        let heard = self.health.changed(node, lane.id, &lane.name(), state, now);
        self.outputs.extend(heard.log.map(Output::Log));
        if !heard.is_news {
            return;
        }
        self.outputs.push_back(Output::HealthChanged);
        if state.health() == wire::LaneHealth::Credential
            && let Some(kept) = self.kept.get_mut(&lane.key.credential)
        {
            kept.refresh.refused();
        }
    }

    /// Marks the lane ends of a node as unknown, because the node has no session.
    pub(crate) fn node_gone(&mut self, node: &NodeName) {
        if self.health.gone(node) {
            self.outputs.push_back(Output::HealthChanged);
        }
        let used: Vec<_> = self.users.keys().copied().collect();
        used.into_iter().for_each(|lane| self.set_used(lane, node, false));
    }

    /// Records the load of a node's connections of a lane; may change the lane's budget.
    pub(crate) fn loaded(
        &mut self,
        node: &NodeName,
        load: wire::LaneLoad,
        standing: &Standing,
        now: Time,
    ) {
        let Some(lane) = standing.lanes.get(&LaneId(load.lane)) else { return };
        let nodes = standing.owned.as_ref().map_or(0, |owned| owned.nodes().len());
        let granted = lane.gateway.quota.map(|quota| {
            let ramp = standing.ramps.get(&lane.id).copied().unwrap_or_default();
            granted_per_second(quota, ramp.share(quota.ramp, now))
        });
        if lane.gateway.quota.is_some_and(|quota| !quota.ramp.is_zero()) {
            self.set_used(lane.id, node, load.busy);
        }
        let (limits, streams) = (lane.gateway.connections, lane.gateway.streams_per_connection);
        let known = self.budgets.contains_key(&lane.id);
        let budget =
            self.budgets.entry(lane.id).or_insert_with(|| Budget::new(limits, streams, now));
        let before = known.then(|| budget.connections());
        budget.hear(node, load, granted, nodes, now);
        let connections = budget.connections();
        if before != Some(connections) {
            self.outputs.push_back(Output::Board(Change::Budget(lane.id, connections)));
            self.log(Log::BudgetChanged { lane: lane.clone(), connections, before });
        }
    }

    /// Replaces the credentials with those that their files have now. The new key of a changed
    /// credential makes a token at once; a token that the old key still gets is dropped.
    ///
    /// # Errors
    /// A credential was added or removed, or has another platform or project: lanes and apps depend
    /// on these. No credential was replaced then.
    pub(crate) fn replace(&mut self, credentials: Vec<Credential>) -> Result<(), ReplaceError> {
        let mut changed = Vec::new();
        for credential in &credentials {
            let former = self.credentials.get(credential.name());
            let former = former.ok_or_else(|| ReplaceError::Added(credential.name().to_owned()))?;
            if (former.platform(), former.project())
                != (credential.platform(), credential.project())
            {
                return Err(ReplaceError::Other(credential.name().to_owned()));
            }
            if **former != *credential {
                changed.push(credential.name().to_owned());
            }
        }
        if let Some(gone) =
            self.credentials.keys().find(|name| credentials.iter().all(|c| c.name() != *name))
        {
            return Err(ReplaceError::Removed(gone.clone()));
        }
        for credential in
            credentials.into_iter().filter(|c| changed.iter().any(|name| name == c.name()))
        {
            let name = credential.name().to_owned();
            if let Some(kept) = self.kept.get_mut(&name)
                && let Some(record) = kept.replaced()
            {
                self.mints.gave_up(&record);
            }
            self.log(Log::CredentialReloaded { credential: name.clone() });
            self.credentials.insert(name, Arc::new(credential));
        }
        Ok(())
    }

    /// The next step for the shell to perform.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Troubles that keep these lanes from sending now.
    pub(crate) fn troubles(&self, lanes: &[Arc<LaneSpec>]) -> Vec<LaneTrouble> {
        self.health.troubles(lanes.iter().map(|lane| &**lane))
    }

    /// Health of all lane ends.
    pub(crate) fn status(&self) -> Vec<LaneStatus> {
        self.health.status()
    }

    /// States of all credentials that a lane uses.
    pub(crate) fn credentials(&self) -> Vec<CredentialStatus> {
        let status = |(name, kept): (&String, &Kept)| CredentialStatus {
            credential: name.clone(),
            has_token: kept.token.is_some(),
            problem: kept.problem.clone(),
        };
        self.kept.iter().map(status).collect()
    }

    /// Longest request deadline of all gateways: after it, every open request has its outcome.
    pub(crate) fn request_deadline_max(&self) -> Duration {
        self.gateways.values().map(|g| g.request_deadline).max().unwrap_or_default()
    }

    /// Records whether a node uses a lane. The waves may be another coordinator's, which no board of
    /// this process shows, but the lane's ramp warms up for them, too.
    fn set_used(&mut self, lane: LaneId, node: &NodeName, used: bool) {
        let users = self.users.entry(lane).or_default();
        let before = !users.is_empty();
        match used {
            true => drop(users.insert(node.clone())),
            false => drop(users.remove(node)),
        }
        let is_used = !users.is_empty();
        if !is_used {
            self.users.remove(&lane);
        }
        if is_used != before {
            self.outputs.push_back(Output::Board(Change::Used(lane, is_used)));
        }
    }

    fn log(&mut self, log: Log) {
        self.outputs.push_back(Output::Log(log));
    }
}

/// Requests per second that a quota grants at a ramp's share, in thousandths.
#[allow(clippy::cast_precision_loss)] // thousandths
fn granted_per_second(quota: Quota, share: u64) -> f64 {
    f64::from(quota.per_minute) / 60.0 * share as f64 / ramp::SHARE_MAX as f64
}

#[cfg(test)]
mod tests;
