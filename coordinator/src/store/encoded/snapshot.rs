//! The last snapshot of an alert, as bytes.

use std::time::Duration;

use clarion_proto::{
    error::InvalidField,
    ids::{AlertName, AppName, UnixMillis},
    wire::store::v1 as wire,
};

use super::{lane, missing, read_lane, read_state, state, unknown};
use crate::{
    owners::NodeName,
    snapshot::{
        AnswerOutcome, BandCounts, CellCounts, Counts, LaneTrouble, PruningAlarm, ReasonCount,
        RefusedMessage, Snapshot, Trouble,
    },
};

pub(super) fn encoded(snapshot: &Snapshot) -> wire::Snapshot {
    wire::Snapshot {
        version: snapshot.version,
        state: state(snapshot.state).into(),
        settled: snapshot.settled,
        ended_ms: snapshot.ended.map(|ended| ended.0),
        totals: Some(counts(&snapshot.totals)),
        unanswered_requests: snapshot.unanswered_requests,
        retried_requests: snapshot.retried_requests,
        nodes_walked: snapshot.nodes_walked,
        nodes: snapshot.nodes,
        first_accepted_after_us: snapshot.first_accepted_after.map(micros),
        last_accepted_after_us: snapshot.last_accepted_after.map(micros),
        bands: snapshot.bands.iter().map(band).collect(),
        cells: snapshot.cells.iter().map(cell).collect(),
        refused_messages: snapshot.refused_messages.iter().map(refused_message).collect(),
        lane_troubles: snapshot.lane_troubles.iter().map(lane_trouble).collect(),
        isolated: snapshot.isolated.iter().map(isolated).collect(),
        reasons: snapshot.reasons.iter().map(reason).collect(),
        other_reasons: snapshot.other_reasons,
        pruning_alarms: snapshot.pruning_alarms.iter().map(pruning_alarm).collect(),
    }
}

pub(super) fn read(snapshot: wire::Snapshot, alert: &AlertName) -> Result<Snapshot, InvalidField> {
    Ok(Snapshot {
        alert: alert.clone(),
        version: snapshot.version,
        state: read_state(snapshot.state)?,
        settled: snapshot.settled,
        ended: snapshot.ended_ms.map(UnixMillis),
        totals: read_counts(snapshot.totals),
        unanswered_requests: snapshot.unanswered_requests,
        retried_requests: snapshot.retried_requests,
        nodes_walked: snapshot.nodes_walked,
        nodes: snapshot.nodes,
        first_accepted_after: snapshot.first_accepted_after_us.map(Duration::from_micros),
        last_accepted_after: snapshot.last_accepted_after_us.map(Duration::from_micros),
        bands: snapshot.bands.into_iter().map(read_band).collect(),
        cells: snapshot.cells.into_iter().map(read_cell).collect(),
        refused_messages: all(snapshot.refused_messages, read_refused_message)?,
        lane_troubles: all(snapshot.lane_troubles, read_lane_trouble)?,
        isolated: all(snapshot.isolated, read_isolated)?,
        reasons: all(snapshot.reasons, read_reason)?,
        other_reasons: snapshot.other_reasons,
        pruning_alarms: all(snapshot.pruning_alarms, read_pruning_alarm)?,
    })
}

fn all<A, B>(
    items: Vec<A>,
    read: impl Fn(A) -> Result<B, InvalidField>,
) -> Result<Vec<B>, InvalidField> {
    items.into_iter().map(read).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn counts(counts: &Counts) -> wire::Counts {
    let Counts { handed, outcomes: [accepted, dead, refused, unknown, expired] } = *counts;
    wire::Counts { handed, accepted, dead, refused, unknown, expired }
}

fn read_counts(counts: Option<wire::Counts>) -> Counts {
    let wire::Counts { handed, accepted, dead, refused, unknown, expired } =
        counts.unwrap_or_default();
    Counts { handed, outcomes: [accepted, dead, refused, unknown, expired] }
}

fn band(band: &BandCounts) -> wire::Band {
    let BandCounts { from_m, to_m, walked, counts: of_band } = band;
    let counts = Some(counts(of_band));
    wire::Band { from_meters: *from_m, to_meters: *to_m, walked: *walked, counts }
}

fn read_band(band: wire::Band) -> BandCounts {
    let wire::Band { from_meters, to_meters, walked, counts } = band;
    BandCounts { from_m: from_meters, to_m: to_meters, walked, counts: read_counts(counts) }
}

fn cell(cell: &CellCounts) -> wire::Cell {
    let CellCounts { cell, handed, accepted, failed, version } = *cell;
    wire::Cell { cell, handed, accepted, failed, version }
}

fn read_cell(cell: wire::Cell) -> CellCounts {
    let wire::Cell { cell, handed, accepted, failed, version } = cell;
    CellCounts { cell, handed, accepted, failed, version }
}

fn refused_message(message: &RefusedMessage) -> wire::RefusedMessage {
    wire::RefusedMessage { app: message.app.name(), detail: message.detail.clone() }
}

fn read_refused_message(message: wire::RefusedMessage) -> Result<RefusedMessage, InvalidField> {
    Ok(RefusedMessage { app: AppName::from_name(&message.app)?, detail: message.detail })
}

fn lane_trouble(trouble: &LaneTrouble) -> wire::LaneTrouble {
    let kind = match trouble.kind {
        Trouble::Unreachable => wire::Trouble::Unreachable,
        Trouble::Throttled => wire::Trouble::Throttled,
        Trouble::Credential => wire::Trouble::Credential,
        Trouble::Intermediary => wire::Trouble::Intermediary,
        Trouble::Project => wire::Trouble::Project,
    };
    let (gateway, credential) = (trouble.gateway.clone(), trouble.credential.clone());
    wire::LaneTrouble {
        lane: Some(wire::Lane { gateway, credential }),
        kind: kind.into(),
        nodes: trouble.nodes,
        detail: trouble.detail.clone(),
        since_ms: trouble.since.0,
        next_probe_ms: trouble.next_probe.map(|probe| probe.0),
    }
}

fn read_lane_trouble(trouble: wire::LaneTrouble) -> Result<LaneTrouble, InvalidField> {
    let kind = match wire::Trouble::try_from(trouble.kind) {
        Ok(wire::Trouble::Unreachable) => Trouble::Unreachable,
        Ok(wire::Trouble::Throttled) => Trouble::Throttled,
        Ok(wire::Trouble::Credential) => Trouble::Credential,
        Ok(wire::Trouble::Intermediary) => Trouble::Intermediary,
        Ok(wire::Trouble::Project) => Trouble::Project,
        Ok(wire::Trouble::Unspecified) | Err(_) => return Err(unknown("kind", trouble.kind)),
    };
    let lane = read_lane(trouble.lane)?;
    Ok(LaneTrouble {
        gateway: lane.gateway,
        credential: lane.credential,
        kind,
        nodes: trouble.nodes,
        detail: trouble.detail,
        since: UnixMillis(trouble.since_ms),
        next_probe: trouble.next_probe_ms.map(UnixMillis),
    })
}

fn isolated((node, reason): &(NodeName, String)) -> wire::IsolatedNode {
    wire::IsolatedNode { node: node.as_str().to_owned(), reason: reason.clone() }
}

fn read_isolated(isolated: wire::IsolatedNode) -> Result<(NodeName, String), InvalidField> {
    Ok((NodeName::new(&isolated.node)?, isolated.reason))
}

fn reason(count: &ReasonCount) -> wire::ReasonCount {
    let outcome = match count.outcome {
        AnswerOutcome::Dead => wire::AnswerOutcome::Dead,
        AnswerOutcome::Refused => wire::AnswerOutcome::Refused,
        AnswerOutcome::Retried => wire::AnswerOutcome::Retried,
    };
    wire::ReasonCount {
        app: count.of.as_ref().map(|(app, _)| app.name()).unwrap_or_default(),
        lane: count.of.as_ref().map(|(_, of)| lane(of)),
        outcome: outcome.into(),
        status: count.status,
        reason: count.reason.clone(),
        count: count.count,
    }
}

fn read_reason(count: wire::ReasonCount) -> Result<ReasonCount, InvalidField> {
    let outcome = match wire::AnswerOutcome::try_from(count.outcome) {
        Ok(wire::AnswerOutcome::Dead) => AnswerOutcome::Dead,
        Ok(wire::AnswerOutcome::Refused) => AnswerOutcome::Refused,
        Ok(wire::AnswerOutcome::Retried) => AnswerOutcome::Retried,
        Ok(wire::AnswerOutcome::Unspecified) | Err(_) => {
            return Err(unknown("outcome", count.outcome));
        }
    };
    let of = match count.lane {
        Some(of) => Some((AppName::from_name(&count.app)?, read_lane(Some(of))?)),
        None => None,
    };
    let (status, reason, count) = (count.status, count.reason, count.count);
    Ok(ReasonCount { of, outcome, status, reason, count })
}

fn pruning_alarm(alarm: &PruningAlarm) -> wire::PruningAlarm {
    wire::PruningAlarm {
        app: alarm.app.name(),
        lane: Some(lane(&alarm.lane)),
        since_ms: alarm.since.0,
        withheld: alarm.withheld,
        accepted_any: alarm.accepted_any,
    }
}

fn read_pruning_alarm(alarm: wire::PruningAlarm) -> Result<PruningAlarm, InvalidField> {
    let lane = alarm.lane.ok_or_else(|| missing("lane"))?;
    Ok(PruningAlarm {
        app: AppName::from_name(&alarm.app)?,
        lane: read_lane(Some(lane))?,
        since: UnixMillis(alarm.since_ms),
        withheld: alarm.withheld,
        accepted_any: alarm.accepted_any,
    })
}
