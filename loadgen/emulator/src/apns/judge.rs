//! Checks of APNs that depend on the connection of a request: the provider token to which the
//! connection is bound, and a cache of checked bodies.

use clarion_proto::time::Time;

use super::{
    super::{answer::Reason, clock::Now},
    Policy,
    auth::Verified,
    payload,
    request::{Ask, Path},
};

/// Number of bodies that are cached as valid: alerts times locales in flight.
const BODIES_MAX: usize = 8;

/// State of one connection for the checks of APNs.
#[derive(Debug, Default)]
pub struct Judge {
    binding: Binding,
    /// Bodies that are known to be valid, newest first.
    bodies: Vec<Box<[u8]>>,
    /// Number of bodies so far that were not valid.
    pub not_json: u64,
}

impl Judge {
    /// Checks a request in the order of APNs, and returns its device token if the request is valid.
    ///
    /// # Errors
    /// The reason that APNs answers.
    pub fn judge<'a>(
        &mut self,
        ask: &'a Ask,
        body: &[u8],
        bytes_max: usize,
        policy: &Policy,
        token_age_max: Option<u64>,
        now: Now,
    ) -> Result<&'a [u8], Reason> {
        let rest = &ask.rest;
        if let Some(reason) = rest.method_fault {
            return Err(reason);
        }
        if ask.path == Path::Bad {
            return Err(Reason::BadPath);
        }
        if let Some(reason) = self.binding.check(rest.authorization?, policy, token_age_max, now) {
            return Err(reason);
        }
        if let Some(reason) = rest.header_fault {
            return Err(reason);
        }
        let token = match &ask.path {
            Path::Device(token) => token.as_bytes(),
            Path::BadToken(reason) => return Err(*reason),
            Path::Bad => return Err(Reason::BadPath),
        };
        if body.is_empty() {
            return Err(Reason::PayloadEmpty);
        }
        if body.len() > bytes_max {
            return Err(Reason::PayloadTooLarge);
        }
        if !self.is_valid(body) {
            // Apple documents no reason for such a body; users report PayloadEmpty.
            self.not_json += 1;
            return Err(Reason::PayloadEmpty);
        }
        Ok(token)
    }

    /// Clears the cache of bodies. The connection stays bound to its provider token.
    pub fn forget(&mut self) {
        self.bodies.clear();
    }

    fn is_valid(&mut self, body: &[u8]) -> bool {
        if let Some(at) = self.bodies.iter().position(|known| **known == *body) {
            self.bodies.swap(0, at);
            return true;
        }
        if !payload::is_valid(body) {
            return false;
        }
        self.bodies.truncate(BODIES_MAX - 1);
        self.bodies.insert(0, body.into());
        true
    }
}

/// Binding of a connection to a provider token.
#[derive(Debug, Default)]
struct Binding {
    current: Option<Verified>,
    changed: Option<Time>,
    expired: bool,
}

impl Binding {
    /// Checks a verified token against the connection's binding and the current time.
    fn check(
        &mut self,
        token: Verified,
        policy: &Policy,
        age_max: Option<u64>,
        now: Now,
    ) -> Option<Reason> {
        if self.expired {
            return Some(Reason::ExpiredProviderToken);
        }
        if let Some(reason) = token.age(now.wall, policy.clock_skew_seconds, age_max) {
            self.expired = policy.expired_sticks && reason == Reason::ExpiredProviderToken;
            return Some(reason);
        }
        let Some(current) = self.current else {
            self.current = Some(token);
            return None;
        };
        if current.id == token.id {
            return None;
        }
        // The first push binds the connection to the team (Apple: "Establishing a token-based
        // connection to APNs").
        if policy.keys[current.key].team_id != policy.keys[token.key].team_id {
            return Some(Reason::InvalidProviderToken);
        }
        let soon = |at: Time| now.at.since(at).as_secs() < policy.token_update_seconds_min;
        if self.changed.is_some_and(soon) {
            return Some(Reason::TooManyProviderTokenUpdates);
        }
        self.changed = Some(now.at);
        self.current = Some(token);
        None
    }
}
