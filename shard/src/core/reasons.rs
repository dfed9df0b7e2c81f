//! Counts of the reasons why devices were not accepted at once, by app, consequence, status and
//! reason, so that no failure is silent.
//!
//! A wave keeps at most [`KINDS_MAX`] kinds; if a gateway invents reasons, they fill these kinds
//! and later ones are counted as `other`. Accepted pushes never touch these counts.

use super::audience::Audience;
use crate::{
    command::{Consequence, ReasonCount, ReasonKind},
    outcome::Reason,
};

/// Most kinds of reasons in one report, as in the contract.
pub(crate) const REPORTED_MAX: usize = 64;
/// Most kinds that are counted one by one; three more are `other`, by consequence.
pub(crate) const KINDS_MAX: usize = REPORTED_MAX - 3;
/// Reason under which all further kinds are counted.
pub(crate) const OTHER: &str = "other";

/// Reason for a request that cannot be written because a header has invalid bytes.
pub(crate) const HEADER: &str = "header cannot be written";
/// Reason for a request that cannot be written because neither path nor message may contain the
/// token.
pub(crate) const TOKEN: &str = "token cannot be written";

/// Source of a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// Status and reason of an answer. `Reason::None` means that the provider did not sign it.
    Answer(u16, Reason),
    /// The request for the device cannot be written.
    Unwritable(&'static str),
}

/// Counts of reasons of one wave on one core.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    kinds: Vec<(Consequence, u16, Why, u64)>,
    /// Counts of reasons beyond [`KINDS_MAX`], indexed by consequence.
    others: [u64; 3],
    changed: bool,
}

impl Reasons {
    /// Counts one device, or one more attempt of a device.
    pub(crate) fn count(&mut self, then: Consequence, app: u16, why: &Why) {
        self.changed = true;
        let known = self.kinds.iter().position(|(t, a, w, _)| (*t, *a) == (then, app) && w == why);
        match known {
            Some(at) => self.kinds[at].3 += 1,
            None if self.kinds.len() < KINDS_MAX => self.kinds.push((then, app, why.clone(), 1)),
            None => self.others[then as usize] += 1,
        }
    }

    /// Marks all counts as unreported.
    pub(crate) fn repeat_all(&mut self) {
        self.changed = true;
    }

    /// Returns all counts, if any has changed since the last call.
    pub(crate) fn take(&mut self, audience: &Audience) -> Vec<ReasonCount> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        let kinds = self.kinds.iter().map(|(then, app, why, count)| {
            let (status, reason) = match why {
                Why::Answer(status, reason) => (*status, cut(reason.to_string())),
                Why::Unwritable(what) => (0, (*what).to_owned()),
            };
            let app = Some(audience.name_and_lane(*app));
            ReasonCount { kind: ReasonKind { then: *then, app, status, reason }, count: *count }
        });
        let mut all: Vec<_> = kinds.collect();
        for then in [Consequence::Dead, Consequence::Refused, Consequence::Retried] {
            let count = self.others[then as usize];
            if count > 0 {
                all.push(ReasonCount {
                    kind: ReasonKind { then, app: None, status: 0, reason: OTHER.to_owned() },
                    count,
                });
            }
        }
        all
    }
}

/// Cuts a reason to as many bytes as the contract allows.
fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(crate::outcome::UNKNOWN_CHARS_MAX));
    reason
}
