//! Renewal of provider tokens: which credential makes a token now, and what becomes of it.
//!
//! Keys of APNs sign tokens here, once [`super::mints`] allows it; accounts of FCM exchange theirs
//! with Google, through the shell.

use std::{error::Error, sync::Arc, time::Duration};

use clarion_proto::time::Time;
use clarion_runtime::{repeated::Repeated, world::Moment};
use rand::Rng;

use super::{
    ApnsKey, Credential, LaneOwner, Output, apns,
    log::Log,
    oauth::{self, AccessToken, ExchangeError},
    records::StoreResult,
    token::Refresh,
};
use crate::{lane::ProviderToken, standing::Change};
use clarion_proto::ids::UnixMillis;

/// Token of one credential, and when it is replaced.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) refresh: Refresh,
    pub(super) token: Option<Arc<ProviderToken>>,
    /// Slot of the present key's token, once it has signed one; APNs only.
    slot: Option<UnixMillis>,
    /// Name of the present key's record, once it is known; APNs only.
    record: Option<String>,
    /// Reason of the last failure to get a token; `None`: the last try succeeded.
    pub(super) problem: Option<String>,
    /// Limits the log lines of failures.
    failures: Repeated,
}

impl Kept {
    /// Token of a credential that no lane has used yet: [`LaneOwner::expire`] makes or requests it.
    ///
    /// # Errors
    /// The key signs no token.
    pub(super) fn first(credential: &Credential) -> Result<Self, apns::MintError> {
        let (rules, record) = match credential {
            Credential::Apns(key) => (apns::RULES, Some(apns::record(key)?)),
            Credential::Fcm(_) => (oauth::RULES, None),
        };
        let (refresh, failures) = (Refresh::new(rules), Repeated::default());
        Ok(Self { refresh, token: None, slot: None, record, problem: None, failures })
    }

    /// Forgets the former key and returns the name of its record. Its token stays in use until the
    /// present key has one.
    pub(super) fn replaced(&mut self) -> Option<String> {
        self.refresh.replaced();
        self.slot = None;
        self.record.take()
    }
}

impl LaneOwner {
    /// Makes the tokens that are due: signs those of APNs keys, asks for exchanges of FCM accounts.
    /// Continues with the records of the store.
    pub(crate) fn expire(&mut self, now: Moment) {
        let names: Vec<_> = self.kept.keys().cloned().collect();
        for name in names {
            let Some(credential) = self.credentials.get(&name).cloned() else { continue };
            match &*credential {
                Credential::Apns(key) => self.sign(key, now),
                Credential::Fcm(_) => {
                    let Some(kept) = self.kept.get_mut(&name) else { continue };
                    if kept.refresh.due(now.at) {
                        kept.refresh.begin();
                        self.outputs.push_back(Output::Exchange(credential));
                    }
                }
            }
        }
        while let Some(op) = self.records.poll(now.at) {
            self.outputs.push_back(Output::Store(op));
        }
    }

    /// Next time at which [`LaneOwner::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let tokens = self.kept.values().map(|kept| kept.refresh.deadline());
        let others = [self.mints.deadline(), self.records.deadline(), self.ramps_deadline()];
        let next = tokens.chain(others.into_iter().flatten()).min();
        next.filter(|at| *at < Time::NEVER)
    }

    /// Takes the result of an [`Output::Store`]; [`LaneOwner::expire`] acts on it.
    pub(crate) fn stored(&mut self, result: StoreResult, now: Moment) {
        let were_known = self.records.are_known();
        if let Some(failed) = self.records.take(result, now.at) {
            self.log(Log::RecordsFailed { error: failed.error, times: failed.times });
        }
        if !were_known && self.records.are_known() {
            self.restore_ramps(now);
        }
        self.mints.drop_unused(now, &mut self.records);
    }

    /// Takes the answer to an [`Output::Exchange`].
    pub(crate) fn exchanged(
        &mut self,
        credential: &Arc<Credential>,
        exchanged: Result<AccessToken, ExchangeError>,
        now: Time,
        random: &mut impl Rng,
    ) {
        let name = credential.name();
        // The credential was replaced meanwhile: the new key's exchange is under way or due.
        if !self.credentials.get(name).is_some_and(|present| Arc::ptr_eq(present, credential)) {
            return;
        }
        match exchanged {
            Ok(AccessToken { token, life }) => {
                self.took(name, token, oauth::replace_after(life), now);
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

    /// Signs the token that a key uses now, unless the credential has it already.
    fn sign(&mut self, key: &ApnsKey, now: Moment) {
        let failed = |owner: &mut Self, error: &apns::MintError| {
            owner.failed(&key.name, error, false, |_| apns::AFTER_FAILURE, now.at);
        };
        let Some(kept) = self.kept.get_mut(&key.name) else { return };
        if kept.refresh.is_paused(now.at) {
            return;
        }
        if kept.record.is_none() {
            match apns::record(key) {
                Ok(record) => kept.record = Some(record),
                Err(error) => return failed(self, &error),
            }
        }
        let Some(record) = &kept.record else { return };
        let Some(in_use) = self.mints.token(record, now, &mut self.records) else {
            kept.refresh.begin();
            return;
        };
        let rest = in_use.rest + apns::MARGIN;
        if kept.slot == Some(in_use.slot) {
            kept.refresh.minted(now.at, rest);
            return;
        }
        match apns::token(key, in_use.slot) {
            Ok(token) => {
                kept.slot = Some(in_use.slot);
                self.took(&key.name, token, rest, now.at);
            }
            Err(error) => failed(self, &error),
        }
        if in_use.is_unrecorded {
            self.log(Log::TokenUnrecorded { credential: key.name.clone() });
        }
    }

    /// Gives a new token to all lanes of its credential.
    fn took(&mut self, name: &str, token: ProviderToken, replace_after: Duration, now: Time) {
        let token = Arc::new(token);
        let Some(kept) = self.kept.get_mut(name) else { return };
        kept.refresh.minted(now, replace_after);
        (kept.token, kept.problem) = (Some(token.clone()), None);
        kept.failures = Repeated::default();
        let lanes: Vec<_> =
            self.lanes.values().filter(|l| l.key.credential == name).map(|l| l.id).collect();
        self.health.forgive(&lanes);
        self.outputs.push_back(Output::Board(Change::Token(lanes, token)));
        self.outputs.push_back(Output::HealthChanged);
        self.log(Log::TokenReplaced { credential: name.to_owned() });
    }

    fn failed(
        &mut self,
        name: &str,
        error: &dyn Error,
        is_passing: bool,
        pause: impl FnOnce(u32) -> Duration,
        now: Time,
    ) {
        let Some(kept) = self.kept.get_mut(name) else { return };
        kept.refresh.failed(now, pause(kept.refresh.failures()));
        let (error, has_token) = (error.to_string(), kept.token.is_some());
        kept.problem = Some(error.clone());
        if let Some(times) = kept.failures.note(&error, now.since(Time(0))) {
            let credential = name.to_owned();
            self.log(Log::TokenFailed { credential, has_token, error, times, is_passing });
        }
    }
}
