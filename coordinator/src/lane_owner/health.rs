//! How the lane ends are: what nodes said last, logged once for each change.

use std::collections::BTreeMap;

use clarion_proto::{
    ids::LaneId,
    wire::shard_v1::{self as wire, LaneHealth},
};

use super::LaneSpec;
use crate::{
    owners::NodeName,
    progress::{LaneTrouble, Trouble},
};

/// Longest detail kept, bytes: the gateway's words, which nobody limits.
const DETAIL_BYTES_MAX: usize = 256;

/// One end of a lane, as its node said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStatus {
    /// `gateway/credential`.
    pub lane: String,
    /// Whose end.
    pub node: NodeName,
    /// How it is.
    pub health: LaneHealth,
    /// The gateway's words.
    pub detail: String,
}

#[derive(Debug, Default)]
pub(super) struct HealthBook(BTreeMap<(LaneId, NodeName), LaneStatus>);

impl HealthBook {
    /// True if it is news. At most lanes × nodes entries: both are bounded where they come in.
    pub(super) fn changed(&mut self, node: &NodeName, id: LaneId, lane: &str, state: &wire::LaneState) -> bool {
        let health = state.health();
        let key = (id, node.clone());
        let detail: String = truncated(&state.detail).to_owned();
        if self.0.get(&key).is_some_and(|status| status.health == health && status.detail == detail) {
            return false;
        }
        match health {
            LaneHealth::Ready => tracing::info!(lane, %node, "lane end ready"),
            LaneHealth::Unspecified | LaneHealth::Unreachable | LaneHealth::Throttled | LaneHealth::Unsigned => {
                tracing::warn!(lane, %node, ?health, detail, "lane end");
            }
            LaneHealth::Credential | LaneHealth::Campaign | LaneHealth::Project => {
                tracing::error!(lane, %node, ?health, detail, "lane end");
            }
        }
        self.0.insert(key, LaneStatus { lane: lane.to_owned(), node: node.clone(), health, detail });
        true
    }

    /// A new token has come to these lanes: what was said of the former ones is no word on it, so that a refusal of this
    /// one is news.
    pub(super) fn forgive(&mut self, lanes: &[LaneId]) {
        self.0.retain(|(lane, _), status| status.health != LaneHealth::Credential || !lanes.contains(lane));
    }

    /// What keeps ends of these lanes from sending, by reason.
    pub(super) fn troubles<'a>(&self, lanes: impl Iterator<Item = &'a LaneSpec>) -> Vec<LaneTrouble> {
        let mut troubles: Vec<LaneTrouble> = Vec::new();
        for lane in lanes {
            let mut by_kind: BTreeMap<Trouble, LaneTrouble> = BTreeMap::new();
            for (_, status) in self.0.iter().filter(|((id, _), _)| *id == lane.id) {
                let Some(kind) = trouble(status.health) else { continue };
                let first = || LaneTrouble {
                    gateway: lane.key.gateway.clone(),
                    credential: lane.key.credential.clone(),
                    kind,
                    nodes: 0,
                    detail: status.detail.clone(),
                };
                by_kind.entry(kind).or_insert_with(first).nodes += 1;
            }
            troubles.extend(by_kind.into_values());
        }
        troubles
    }

    pub(super) fn status(&self) -> Vec<LaneStatus> {
        self.0.values().cloned().collect()
    }
}

/// What of a lane end's health keeps it from sending. A refused message is its alert's trouble, not the lane's.
fn trouble(health: LaneHealth) -> Option<Trouble> {
    match health {
        LaneHealth::Unspecified | LaneHealth::Ready | LaneHealth::Campaign => None,
        // A proxy answers in the gateway's place: the gateway itself is not reached.
        LaneHealth::Unreachable | LaneHealth::Unsigned => Some(Trouble::Unreachable),
        LaneHealth::Throttled => Some(Trouble::Throttled),
        // Whether this credential's project is there is the provider's word on the credential's configuration.
        LaneHealth::Credential | LaneHealth::Project => Some(Trouble::Credential),
    }
}

/// A gateway's words, cut.
pub(crate) fn truncated(detail: &str) -> &str {
    &detail[..detail.floor_char_boundary(DETAIL_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_no_news() {
        let mut book = HealthBook::default();
        let node = NodeName::new("a").unwrap();
        let mut said = |health: LaneHealth| {
            let state = wire::LaneState { lane: 1, health: health.into(), ..Default::default() };
            book.changed(&node, LaneId(1), "g/c", &state)
        };
        assert!(said(LaneHealth::Credential));
        assert!(!said(LaneHealth::Credential));
        assert!(said(LaneHealth::Ready));
        assert!(said(LaneHealth::Credential));
    }

    #[test]
    fn another_reason_for_the_same_trouble_is_news() {
        let mut book = HealthBook::default();
        let node = NodeName::new("a").unwrap();
        let mut said = |words: &str| {
            let health = LaneHealth::Unreachable.into();
            let state = wire::LaneState { lane: 1, health, detail: words.to_owned(), ..Default::default() };
            book.changed(&node, LaneId(1), "g/c", &state)
        };
        assert!(said("no connection") && said("no answers") && !said("no answers"));
    }

    #[test]
    fn a_refusal_of_the_next_token_is_news() {
        let mut book = HealthBook::default();
        let node = NodeName::new("a").unwrap();
        let state = wire::LaneState { lane: 1, health: LaneHealth::Credential.into(), ..Default::default() };
        assert!(book.changed(&node, LaneId(1), "g/c", &state));
        book.forgive(&[LaneId(2)]);
        assert!(!book.changed(&node, LaneId(1), "g/c", &state));
        book.forgive(&[LaneId(1)]);
        assert!(book.changed(&node, LaneId(1), "g/c", &state));
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let long = "é".repeat(DETAIL_BYTES_MAX);
        assert_eq!(truncated(&long).len(), DETAIL_BYTES_MAX);
        assert_eq!(truncated(&format!("x{long}")).len(), DETAIL_BYTES_MAX - 1);
    }
}
