//! A link to a host core: like a connection, with credits instead of free streams.

use clarion_proto::{
    device::TOKEN_BYTES_MAX,
    ids::{LaneId, WaveId},
    time::Time,
};

use super::letter::{Entry, Run};
use crate::{
    lane::{
        connection::{PushError, TemplateSpec},
        provider::fcm,
    },
    outcome::Platform,
};

/// A link to a host.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) host: usize,
    platform: Platform,
    /// Round of the last [`super::letter::Letter::Want`].
    pub(super) round: u32,
    /// Whether that letter was the last one to the host about credits.
    pub(super) wants: bool,
    pub(super) credits: usize,
    /// Number of requests that were handed over and have no result yet.
    pub(super) out: usize,
    /// Requests to hand over in this turn.
    pub(super) run: Run,
    /// Whether the host has a template, indexed by number.
    pub(super) known: Vec<bool>,
}

impl Remote {
    /// Creates a link to a host that has received no letter yet.
    pub(super) fn new(host: usize, platform: Platform, lane: LaneId) -> Self {
        Self {
            host,
            platform,
            round: 0,
            wants: false,
            credits: 0,
            out: 0,
            run: Run::new(lane),
            known: Vec::new(),
        }
    }

    /// Returns the number of requests that may be handed over now.
    pub(crate) fn room(&self, probing: bool) -> usize {
        match (probing, self.out) {
            (false, _) => self.credits,
            (true, 0) => self.credits.min(1),
            (true, _) => 0,
        }
    }

    /// Reports whether the link has no credits left.
    pub(crate) fn is_spent(&self) -> bool {
        self.wants && self.credits == 0
    }

    /// Adds a request to the run, and refuses a request that no connection would take.
    pub(crate) fn push(
        &mut self,
        ticket: u64,
        (wave, until): (WaveId, Time),
        template: u32,
        spec: &TemplateSpec,
        token: &[u8],
    ) -> Result<(), PushError> {
        if self.credits == 0 {
            return Err(PushError::Full);
        }
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(PushError::Token);
        }
        if self.platform == Platform::Fcm && !fcm::is_safe_token(token) {
            return Err(PushError::Token);
        }
        let at = template as usize;
        if self.known.len() <= at {
            self.known.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.known[at], true) {
            self.run.templates.push((template, spec.clone()));
        }
        let token_bytes = u16::try_from(token.len()).expect("at most TOKEN_BYTES_MAX");
        self.run.entries.push(Entry { ticket, template, wave, until, token_bytes });
        self.run.tokens.0.extend_from_slice(token);
        (self.credits, self.out) = (self.credits - 1, self.out + 1);
        Ok(())
    }
}
