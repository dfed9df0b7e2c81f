//! Health of lane ends, as nodes reported it last; each change is logged. Pure.

use std::collections::{BTreeMap, btree_map::Entry};

use clarion_proto::{
    ids::{LaneId, UnixMillis},
    time::Time,
    wire::shard_v1::{self as wire, LaneHealth},
};
use clarion_runtime::{repeated::Repeated, world::Moment};

use crate::{
    lane::LaneSpec,
    lane_owner::log::Log,
    owners::NodeName,
    snapshot::{LaneTrouble, Trouble, truncated},
};

/// State of one end of a lane, as its node reported it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStatus {
    /// Name of the lane as `gateway/credential`.
    pub lane: String,
    /// Node that has this end of the lane.
    pub node: NodeName,
    /// Health of the end, as the node reported it.
    pub health: LaneHealth,
    /// Reason in the gateway's words; at most 256 bytes.
    pub detail: String,
    /// When the trouble began; `None`: no trouble.
    pub since: Option<UnixMillis>,
    /// When the node tries again to send; `None`: not known.
    pub next_probe: Option<UnixMillis>,
}

/// Health of all lane ends: lanes × nodes, both limited where they are created.
#[derive(Debug, Default)]
pub(super) struct HealthBook(BTreeMap<(LaneId, NodeName), LaneEnd>);

#[derive(Debug)]
struct LaneEnd {
    status: LaneStatus,
    troubles: Repeated,
    /// Whether the last trouble was logged, so that its end has to be logged, too.
    logged: bool,
}

/// What a node's report leads to.
#[derive(Debug)]
pub(super) struct Heard {
    /// Whether watchers have to be notified.
    pub(super) is_news: bool,
    pub(super) log: Option<Log>,
}

impl HealthBook {
    /// Records a node's report.
    pub(super) fn changed(
        &mut self,
        node: &NodeName,
        id: LaneId,
        lane: &str,
        state: &wire::LaneState,
        now: Moment,
    ) -> Heard {
        let health = state.health();
        let status = LaneStatus {
            lane: lane.to_owned(),
            node: node.clone(),
            health,
            detail: truncated(&state.detail).to_owned(),
            since: trouble(health)
                .map(|_| UnixMillis(now.wall.0.saturating_sub(state.troubled_for_ms))),
            next_probe: state.next_probe_in_ms.map(|ms| UnixMillis(now.wall.0.saturating_add(ms))),
        };
        match self.0.entry((id, node.clone())) {
            Entry::Vacant(entry) => {
                let end = LaneEnd { status, troubles: Repeated::default(), logged: false };
                Heard { is_news: true, log: entry.insert(end).log(None, now.at) }
            }
            Entry::Occupied(mut entry) => {
                let end = entry.get_mut();
                let former = std::mem::replace(&mut end.status, status);
                let status = &mut end.status;
                let same = (former.health, &former.detail) == (status.health, &status.detail);
                if same && former.since.is_some() {
                    // A repeated report: transit times must not move the beginning.
                    status.since = former.since.min(status.since);
                }
                Heard {
                    is_news: !same || former.next_probe != end.status.next_probe,
                    log: if same { None } else { end.log(Some(former.health), now.at) },
                }
            }
        }
    }

    /// Marks the ends of a node without a session as unknown; true if watchers have to be notified.
    pub(super) fn gone(&mut self, node: &NodeName) -> bool {
        let mut news = false;
        for ((_, of), end) in &mut self.0 {
            if of == node && end.status.health != LaneHealth::Unspecified {
                news |= trouble(end.status.health).is_some();
                end.status.health = LaneHealth::Unspecified;
                (end.status.since, end.status.next_probe) = (None, None);
                end.status.detail.clear();
            }
        }
        news
    }

    /// Clears credential troubles of lanes that got a new token: a refusal of the former token says
    /// nothing about the new token, and a refusal of the new token has to be reported.
    pub(super) fn forgive(&mut self, lanes: &[LaneId]) {
        for ((lane, _), end) in &mut self.0 {
            if end.status.health == LaneHealth::Credential && lanes.contains(lane) {
                end.status.health = LaneHealth::Unspecified;
                (end.status.since, end.status.next_probe) = (None, None);
            }
        }
    }

    /// Troubles that keep ends of these lanes from sending, by kind.
    pub(super) fn troubles<'a>(
        &self,
        lanes: impl Iterator<Item = &'a LaneSpec>,
    ) -> Vec<LaneTrouble> {
        let mut troubles: Vec<LaneTrouble> = Vec::new();
        for lane in lanes {
            let mut by_kind: BTreeMap<Trouble, LaneTrouble> = BTreeMap::new();
            for (_, LaneEnd { status, .. }) in self.0.iter().filter(|((id, _), _)| *id == lane.id) {
                let (Some(kind), Some(since)) = (trouble(status.health), status.since) else {
                    continue;
                };
                let first = || LaneTrouble {
                    gateway: lane.key.gateway.clone(),
                    credential: lane.key.credential.clone(),
                    kind,
                    nodes: 0,
                    detail: status.detail.clone(),
                    since,
                    next_probe: status.next_probe,
                };
                let told = by_kind.entry(kind).or_insert_with(first);
                told.nodes += 1;
                told.since = told.since.min(since);
                told.next_probe = [told.next_probe, status.next_probe].into_iter().flatten().min();
            }
            troubles.extend(by_kind.into_values());
        }
        troubles
    }

    pub(super) fn status(&self) -> Vec<LaneStatus> {
        self.0.values().map(|end| end.status.clone()).collect()
    }
}

impl LaneEnd {
    /// The log message of a change: a trouble (first occurrence, each change of reason, then once a
    /// minute), or its end.
    fn log(&mut self, former: Option<LaneHealth>, now: Time) -> Option<Log> {
        let LaneStatus { lane, node, health, detail, .. } = &self.status;
        if *health == LaneHealth::Ready {
            let ended = former.is_some_and(|former| former != LaneHealth::Ready)
                && std::mem::take(&mut self.logged);
            let (lane, node) = (lane.clone(), node.clone());
            return match (former, ended) {
                (None, _) => Some(Log::EndConnected { lane, node }),
                (Some(_), true) => Some(Log::TroubleEnded { lane, node }),
                (Some(_), false) => None,
            };
        }
        if *health == LaneHealth::Unspecified {
            return None;
        }
        let reason = format!("{health:?} {detail}");
        let times = self.troubles.note(&reason, now.since(Time(0)))?;
        self.logged = true;
        Some(Log::Trouble { end: self.status.clone(), times })
    }
}

/// Trouble that keeps a lane end of this health from sending. A refused message is its alert's
/// trouble, not the lane's.
fn trouble(health: LaneHealth) -> Option<Trouble> {
    match health {
        LaneHealth::Unspecified | LaneHealth::Ready | LaneHealth::Campaign => None,
        LaneHealth::Unreachable => Some(Trouble::Unreachable),
        LaneHealth::Throttled => Some(Trouble::Throttled),
        LaneHealth::Credential => Some(Trouble::Credential),
        LaneHealth::Unsigned => Some(Trouble::Intermediary),
        LaneHealth::Project => Some(Trouble::Project),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        fixtures::{gateway, node},
        lane::LaneKey,
    };

    fn at(millis: u64) -> Moment {
        Moment { at: Time(millis * 1_000), wall: UnixMillis(1_000_000 + millis) }
    }

    fn state(health: LaneHealth, detail: &str) -> wire::LaneState {
        wire::LaneState {
            lane: 1,
            health: health.into(),
            detail: detail.to_owned(),
            troubled_for_ms: 0,
            next_probe_in_ms: None,
        }
    }

    fn says(book: &mut HealthBook, name: &str, state: &wire::LaneState, now: Moment) -> bool {
        book.changed(&node(name), LaneId(1), "g/c", state, now).is_news
    }

    fn troubles(book: &HealthBook) -> Vec<LaneTrouble> {
        let key = LaneKey { gateway: "g".to_owned(), credential: "c".to_owned() };
        let lane = LaneSpec { id: LaneId(1), key, gateway: Arc::new(gateway(None)) };
        book.troubles([&lane].into_iter())
    }

    #[test]
    fn the_same_again_is_no_news() {
        let mut book = HealthBook::default();
        let mut said = |health: LaneHealth| says(&mut book, "a", &state(health, ""), at(0));
        assert!(said(LaneHealth::Credential));
        assert!(!said(LaneHealth::Credential));
        assert!(said(LaneHealth::Ready));
        assert!(said(LaneHealth::Credential));
    }

    #[test]
    fn another_reason_for_the_same_trouble_is_news_and_another_probe() {
        let mut book = HealthBook::default();
        let unreachable = |words| state(LaneHealth::Unreachable, words);
        assert!(says(&mut book, "a", &unreachable("no connection"), at(0)));
        assert!(says(&mut book, "a", &unreachable("no answers"), at(0)));
        assert!(!says(&mut book, "a", &unreachable("no answers"), at(0)));
        let probed = wire::LaneState { next_probe_in_ms: Some(1_500), ..unreachable("no answers") };
        assert!(says(&mut book, "a", &probed, at(100)));
        assert_eq!(troubles(&book)[0].next_probe, Some(UnixMillis(1_001_600)));
    }

    #[test]
    fn a_refusal_of_the_next_token_is_news() {
        let mut book = HealthBook::default();
        let refused = state(LaneHealth::Credential, "403 InvalidProviderToken");
        assert!(says(&mut book, "a", &refused, at(0)));
        book.forgive(&[LaneId(2)]);
        assert!(!says(&mut book, "a", &refused, at(0)));
        book.forgive(&[LaneId(1)]);
        assert_eq!(troubles(&book), []);
        assert!(says(&mut book, "a", &refused, at(0)));
    }

    #[test]
    fn a_trouble_says_since_when_on_how_many_nodes_and_when_it_is_tried_again() {
        let mut book = HealthBook::default();
        let unsigned = |for_ms, probe| wire::LaneState {
            troubled_for_ms: for_ms,
            next_probe_in_ms: probe,
            ..state(LaneHealth::Unsigned, "404, not signed by the provider")
        };
        // It began before this coordinator did.
        says(&mut book, "a", &unsigned(90_000, Some(2_000)), at(10));
        says(&mut book, "b", &unsigned(5, Some(1_000)), at(20));
        says(&mut book, "c", &state(LaneHealth::Ready, ""), at(20));
        let expected = LaneTrouble {
            gateway: "g".to_owned(),
            credential: "c".to_owned(),
            kind: Trouble::Intermediary,
            nodes: 2,
            detail: "404, not signed by the provider".to_owned(),
            since: UnixMillis(910_010),
            next_probe: Some(UnixMillis(1_001_020)),
        };
        assert_eq!(troubles(&book), std::slice::from_ref(&expected));
        // Told again, later: it began when it began.
        says(&mut book, "a", &unsigned(0, Some(2_000)), at(10));
        assert_eq!(troubles(&book), [expected]);
        // Another reason is another trouble of the node.
        says(&mut book, "a", &state(LaneHealth::Project, "404 NOT_FOUND"), at(50));
        let kinds: Vec<_> =
            troubles(&book).into_iter().map(|t| (t.kind, t.nodes, t.since.0)).collect();
        assert_eq!(
            kinds,
            [(Trouble::Intermediary, 1, 1_000_015), (Trouble::Project, 1, 1_000_050)]
        );
    }

    #[test]
    fn nobody_knows_the_lanes_of_a_node_that_is_gone() {
        let mut book = HealthBook::default();
        let throttled = state(LaneHealth::Throttled, "429 QUOTA_EXCEEDED");
        says(&mut book, "a", &throttled, at(0));
        says(&mut book, "b", &throttled, at(0));
        assert!(book.gone(&node("a")) && !book.gone(&node("a")));
        assert_eq!(troubles(&book)[0].nodes, 1);
        assert!(says(&mut book, "a", &throttled, at(1)), "its next session tells it again");
    }
}
