//! The health of a lane end as text for people: the trouble, its start, and the next probe.
//!
//! Of several troubles, only the one that hides the others is reported: first a refused credential,
//! then no connection or no answers, then the content of answers. No code here does I/O.

use std::time::Duration;

use clarion_proto::time::Time;

use super::{LaneEnd, Mute};
use crate::lane::health::LaneHealth;

/// Shortest time between two reports of the same trouble that differ only in the time of the next
/// probe.
const PROBES_REPORTED_EVERY: Duration = Duration::from_secs(1);

/// Health of a lane end with the texts and times that people need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Health as one value.
    pub health: LaneHealth,
    /// Text from the gateway or from this program; never a token.
    pub detail: String,
    /// Start of the trouble; `None`: no trouble.
    pub since: Option<Time>,
    /// Time of the next request to the gateway, if it is known.
    pub next_probe: Option<Time>,
}

/// Part of the last report that is compared with the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported {
    health: LaneHealth,
    mute: Option<Mute>,
    words: u32,
    next_probe: Option<Time>,
    at: Time,
}

impl LaneEnd {
    /// Returns the health to report to the control plane, if it has changed. `connected` is the
    /// number of established connections.
    pub fn take_news(&mut self, connected: usize, now: Time) -> Option<News> {
        if let Some(detail) = self.campaign.take() {
            // The next state is reported again after it.
            self.reported = None;
            return Some(News {
                health: LaneHealth::Campaign,
                detail,
                since: Some(now),
                next_probe: None,
            });
        }
        let health = self.health(connected, now)?;
        if self.since.is_none_or(|(of, _)| of != health) {
            self.since = Some((health, now));
        }
        let next_probe = self.next_probe(health).filter(|at| *at > now);
        let mute = self.mute.filter(|_| health == LaneHealth::Unreachable);
        let words = if health == LaneHealth::Ready || mute.is_some() { 0 } else { self.words };
        let news = Reported { health, mute, words, next_probe, at: now };
        if let Some(reported) = self.reported {
            let same =
                Reported { next_probe: reported.next_probe, at: reported.at, ..news } == reported;
            let same_probe = next_probe.is_none() || next_probe == reported.next_probe;
            if same && (same_probe || now < reported.at + PROBES_REPORTED_EVERY) {
                return None;
            }
        }
        self.reported = Some(news);
        let since = self.since.filter(|(of, _)| *of != LaneHealth::Ready).map(|(_, at)| at);
        Some(News { health, detail: self.detail(health, mute), since, next_probe })
    }

    fn detail(&self, health: LaneHealth, mute: Option<Mute>) -> String {
        match health {
            LaneHealth::Credential => self.credential_detail.clone(),
            LaneHealth::Throttled if self.trouble != Some(health) => self.credential_detail.clone(),
            LaneHealth::Throttled | LaneHealth::Unsigned | LaneHealth::Project => {
                self.detail.clone()
            }
            LaneHealth::Unreachable => match mute {
                Some(mute) => mute.to_string(),
                None if self.no_connection.is_empty() => "no connection".to_owned(),
                None => format!("no connection: {}", self.no_connection),
            },
            LaneHealth::Ready | LaneHealth::Campaign => String::new(),
        }
    }

    fn next_probe(&self, health: LaneHealth) -> Option<Time> {
        match health {
            LaneHealth::Credential => Some(self.trust.not_before()),
            LaneHealth::Throttled if self.trouble != Some(health) => Some(self.trust.not_before()),
            LaneHealth::Unreachable if self.mute.is_none() => Some(self.pool.ready_at(true)),
            LaneHealth::Throttled
            | LaneHealth::Unsigned
            | LaneHealth::Project
            | LaneHealth::Unreachable => Some(self.silent_until()),
            LaneHealth::Ready | LaneHealth::Campaign => None,
        }
    }

    fn health(&self, connected: usize, now: Time) -> Option<LaneHealth> {
        Some(if self.trust.is_refused(now) {
            LaneHealth::Credential
        } else if self.mute.is_some() || (connected == 0 && self.pool.failures() > 0) {
            LaneHealth::Unreachable
        } else if let Some(trouble) = self.trouble {
            trouble
        } else if self.trust.is_put_off() {
            LaneHealth::Throttled
        } else if connected > 0 {
            LaneHealth::Ready
        } else {
            return None; // still connecting for the first time
        })
    }
}
