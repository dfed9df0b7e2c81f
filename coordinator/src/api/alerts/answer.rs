//! Builds API responses from records and snapshots; free of I/O.

use std::time::Duration;

use clarion_proto::{
    alert::timestamp, audience::PLACE_SEEN_WITHIN_MAX, outcome::Outcome, wire::v1 as wire,
};
use prost::Message as _;

use super::RESPONSE_BYTES_MAX;
use crate::{
    privacy,
    snapshot::{
        AnswerOutcome, CellCounts, Counts, LaneTrouble, PruningAlarm, ReasonCount, Snapshot, State,
        Trouble, truncated,
    },
    store::AlertRecord,
};

/// Largest sum of the output fields of an alert, bytes: name, times, progress, and an isolation
/// with its detail.
pub(super) const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Which regions a response returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Regions {
    /// No region, to keep a list small.
    None,
    /// Regions of alerts that fit into a response which every client accepts.
    Small,
    /// Every region, whatever its size.
    All,
}

/// An alert with its newest known progress.
pub(super) fn alert(
    record: &AlertRecord,
    newest: Option<&Snapshot>,
    regions: Regions,
) -> wire::Alert {
    let newest = newest.or(record.settled.as_deref());
    let region = match regions {
        Regions::None => false,
        Regions::Small => is_small(&record.submitted),
        Regions::All => true,
    };
    wire::Alert {
        name: record.name.name(),
        state: state(standing(record, newest)).into(),
        create_time: Some(timestamp(record.created)),
        end_time: record.ended.map(timestamp),
        progress: Some(newest.map(progress).unwrap_or_default()),
        isolation: newest.and_then(isolation),
        overshoot_meters: record.overshoot_m,
        band_step_meters: record.band_step_m,
        audience: audience_in_effect(&record.submitted, place_seen_within(record)),
        ..submitted(&record.submitted, region)
    }
}

/// Whether a response with the whole alert stays within [`RESPONSE_BYTES_MAX`], the output fields
/// included.
pub(super) fn is_small(alert: &wire::Alert) -> bool {
    alert.encoded_len() <= RESPONSE_BYTES_MAX - OUTPUT_BYTES_MAX
}

/// The fields that the caller submitted. A region that is not returned is not copied either.
pub(super) fn submitted(alert: &wire::Alert, region: bool) -> wire::Alert {
    wire::Alert {
        name: String::new(),
        case: alert.case.clone(),
        severity: alert.severity,
        region: if region { alert.region.clone() } else { None },
        last_seen: alert.last_seen,
        last_seen_datum: alert.last_seen_datum,
        audience: alert.audience.clone(),
        active_until: alert.active_until,
        mode: alert.mode,
        max_rate_per_second: alert.max_rate_per_second,
        collapse_key: alert.collapse_key.clone(),
        state: 0,
        create_time: None,
        end_time: None,
        progress: None,
        isolation: None,
        overshoot_meters: 0.0,
        band_step_meters: 0.0,
        external_id: alert.external_id.clone(),
        labels: alert.labels.clone(),
        options: alert.options.clone(),
    }
}

/// The audience of an alert with the age of places in effect, which may be the default.
pub(super) fn audience_in_effect(
    submitted: &wire::Alert,
    place_seen_within: Duration,
) -> Option<wire::Audience> {
    let audience = submitted.audience.clone()?;
    Some(wire::Audience { place_seen_within: duration(place_seen_within), ..audience })
}

/// The age of places that an alert accepts, at its creation.
pub(super) fn place_seen_within(record: &AlertRecord) -> Duration {
    match record.place_seen_after.0 {
        0 => PLACE_SEEN_WITHIN_MAX,
        after => Duration::from_millis(record.created.0.saturating_sub(after)),
    }
}

/// One message of a watch. `cells`: the cells that may be disclosed; `cells_since`: only cells
/// changed after this version are included; `None`: no cells.
pub(super) fn watched(
    snapshot: &Snapshot,
    cells: &[CellCounts],
    cells_since: Option<u64>,
) -> wire::AlertProgress {
    let bands = privacy::bands(&snapshot.bands).into_iter().map(|band| wire::BandProgress {
        from_meters: band.from_m,
        to_meters: band.to_m,
        walked: band.walked,
        handed: band.counts.handed,
        outcomes: Some(outcomes(&band.counts)),
    });
    let cells = cells.iter().filter(|cell| cells_since.is_some_and(|since| cell.version > since));
    let cells = cells.map(|cell| wire::CellProgress {
        cell: cell.cell,
        handed: cell.handed,
        accepted: cell.accepted,
        failed: cell.failed,
    });
    wire::AlertProgress {
        alert: snapshot.alert.name(),
        state: state(snapshot.state).into(),
        progress: Some(progress(snapshot)),
        bands: bands.collect(),
        cells: cells.collect(),
        refused_messages: snapshot
            .refused_messages
            .iter()
            .map(|r| wire::RefusedMessage { app: r.app.name(), detail: r.detail.clone() })
            .collect(),
        lane_troubles: snapshot.lane_troubles.iter().map(lane_trouble).collect(),
        isolation: isolation(snapshot),
        reasons: snapshot.reasons.iter().map(reason_count).collect(),
        pruning_alarms: snapshot.pruning_alarms.iter().map(pruning_alarm).collect(),
        other_reasons_count: snapshot.other_reasons,
    }
}

/// The only message of a watch on an alert of which only the record is known.
pub(super) fn recorded(record: &AlertRecord) -> wire::AlertProgress {
    wire::AlertProgress {
        alert: record.name.name(),
        state: state(record.state).into(),
        progress: Some(wire::Progress::default()),
        ..Default::default()
    }
}

/// The state to report: a final record decides. Before that, the nodes' reports may be ahead of the
/// record, or the record's cancel may be ahead of the reports.
fn standing(record: &AlertRecord, newest: Option<&Snapshot>) -> State {
    match newest {
        Some(snapshot) if !record.state.is_final() && snapshot.state.is_final() => snapshot.state,
        _ => record.state,
    }
}

fn state(state: State) -> wire::State {
    match state {
        State::Active => wire::State::Active,
        State::Cancelling => wire::State::Cancelling,
        State::Cancelled => wire::State::Cancelled,
        State::Resolved => wire::State::Resolved,
        State::Expired => wire::State::Expired,
    }
}

fn progress(snapshot: &Snapshot) -> wire::Progress {
    let ended: u64 = snapshot.totals.outcomes.iter().sum();
    wire::Progress {
        handed: snapshot.totals.handed,
        open: snapshot.totals.handed.saturating_sub(ended),
        outcomes: Some(outcomes(&snapshot.totals)),
        unanswered_requests: snapshot.unanswered_requests,
        retried_requests: snapshot.retried_requests,
        nodes_walked: snapshot.nodes_walked,
        nodes: snapshot.nodes,
        first_accepted_after: snapshot.first_accepted_after.and_then(duration),
        last_accepted_after: snapshot.last_accepted_after.and_then(duration),
    }
}

/// The status of the nodes on which the alert is isolated; `None`: every node accepted the alert.
fn isolation(snapshot: &Snapshot) -> Option<wire::Isolation> {
    let (node, reason) = snapshot.isolated.first()?;
    let detail = truncated(&format!("{node}: {reason}")).to_owned();
    Some(wire::Isolation {
        nodes: u32::try_from(snapshot.isolated.len()).unwrap_or(u32::MAX),
        detail,
    })
}

fn lane_trouble(trouble: &LaneTrouble) -> wire::LaneTrouble {
    use wire::lane_trouble::Kind;
    let kind = match trouble.kind {
        Trouble::Unreachable => Kind::Unreachable,
        Trouble::Throttled => Kind::Throttled,
        Trouble::Credential => Kind::Credential,
        Trouble::Intermediary => Kind::Intermediary,
        Trouble::Project => Kind::Project,
    };
    wire::LaneTrouble {
        gateway: trouble.gateway.clone(),
        credential: trouble.credential.clone(),
        kind: kind.into(),
        nodes: trouble.nodes,
        detail: trouble.detail.clone(),
        since: Some(timestamp(trouble.since)),
        next_probe: trouble.next_probe.map(timestamp),
    }
}

fn reason_count(count: &ReasonCount) -> wire::ReasonCount {
    use wire::reason_count::Outcome;
    let outcome = match count.outcome {
        AnswerOutcome::Dead => Outcome::Dead,
        AnswerOutcome::Refused => Outcome::Refused,
        AnswerOutcome::Retried => Outcome::Retried,
    };
    let (app, gateway, credential) = match &count.of {
        Some((app, lane)) => (app.name(), lane.gateway.clone(), lane.credential.clone()),
        None => Default::default(),
    };
    wire::ReasonCount {
        app,
        gateway,
        credential,
        outcome: outcome.into(),
        status: count.status,
        reason: count.reason.clone(),
        count: count.count,
    }
}

/// A pruning alarm, as WatchAlert and GetRegistryStats report it.
pub(in crate::api) fn pruning_alarm(alarm: &PruningAlarm) -> wire::PruningAlarm {
    wire::PruningAlarm {
        app: alarm.app.name(),
        gateway: alarm.lane.gateway.clone(),
        credential: alarm.lane.credential.clone(),
        since: Some(timestamp(alarm.since)),
        withheld: alarm.withheld,
        accepted_any: alarm.accepted_any,
    }
}

fn outcomes(counts: &Counts) -> wire::Outcomes {
    let mut outcomes = wire::Outcomes::default();
    for (outcome, count) in Outcome::ALL.into_iter().zip(counts.outcomes) {
        match outcome {
            Outcome::Accepted => outcomes.accepted = count,
            Outcome::Dead => outcomes.dead = count,
            Outcome::Refused => outcomes.refused = count,
            Outcome::Unknown => outcomes.unknown = count,
            Outcome::Expired => outcomes.expired = count,
        }
    }
    outcomes
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}
