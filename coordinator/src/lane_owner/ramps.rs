//! Records of the lanes' ramps, so that a restarted coordinator goes on with the warmth of its
//! lanes: it neither starts a ramp again nor uses a cold lane's whole quota. Free of I/O.
//!
//! A ramp is recorded when its lane becomes busy or idle, and every [`EVERY`] while the lane is
//! busy. A process that is killed records no end of its use: nodes go on sending until their slices
//! end, and then the lane cools. So a busy lane keeps its recorded warmth for [`HELD`], and cools
//! from then on. The recorded warmth is at most [`EVERY`] behind.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{
    ids::{LaneId, UnixMillis},
    time::Time,
    wire::store::v1::LaneRamp,
};
use clarion_runtime::world::Moment;
use prost::Message as _;

use super::{LaneOwner, Output};
use crate::{
    lane::lease::LEASE,
    standing::{Change, Standing},
    store::Numbered,
};

/// Beginning of the keys of the records.
pub(super) const PREFIX: &str = "ramp/";
/// Time between two records of a busy lane.
const EVERY: Duration = Duration::from_secs(5);
/// Time after the last record of a busy lane in which nodes may have used the lane: until the next
/// record, and as long as a slice lasts.
const HELD: Duration = EVERY.saturating_add(LEASE);
/// Age from which on a record is deleted.
const KEPT: Duration = Duration::from_hours(24);

/// Newest recorded state of each lane: whether it was busy, and when it was recorded.
#[derive(Debug, Default)]
pub(crate) struct Ramps(BTreeMap<LaneId, (bool, Time)>);

impl LaneOwner {
    /// Records the ramps that have turned, and those of busy lanes.
    pub(crate) fn follow_ramps(&mut self, standing: &Standing, now: Moment) {
        for (id, ramp) in &standing.ramps {
            let Some(quota) = standing.lanes.get(id).and_then(|lane| lane.gateway.quota) else {
                continue;
            };
            let is_recorded = match self.ramps.0.get(id) {
                Some((busy, at)) if *busy == ramp.is_busy() => !busy || now.at.since(*at) < EVERY,
                Some(_) => false,
                None => !ramp.is_busy(),
            };
            if is_recorded {
                continue;
            }
            self.ramps.0.insert(*id, (ramp.is_busy(), now.at));
            let record = LaneRamp {
                warm_ms: millis(ramp.warm(quota.ramp, now.at)),
                recorded_ms: now.wall.0,
                busy: ramp.is_busy(),
            };
            self.records.put(&format!("{PREFIX}{:08x}", id.0), record.encode_to_vec());
        }
    }

    /// When a busy lane is recorded next.
    pub(super) fn ramps_deadline(&self) -> Option<Time> {
        let busy = self.ramps.0.values().filter(|(busy, _)| *busy);
        busy.map(|(_, at)| *at + EVERY).min()
    }

    /// Warms the lanes up as a former process left them, and drops old records.
    pub(super) fn restore_ramps(&mut self, now: Moment) {
        let records: Vec<Numbered> = self.records.all(PREFIX).cloned().collect();
        for record in records {
            let Some((lane, ramp)) = read(&record) else { continue };
            if age(ramp.recorded_ms, now.wall) >= KEPT {
                self.records.delete(&record.key);
                continue;
            }
            let warm = warmth(&ramp, now.wall);
            if !warm.is_zero() {
                self.outputs.push_back(Output::Board(Change::Warm(lane, warm)));
            }
        }
    }
}

/// The lane and the ramp of a record; `None`: a later version wrote it.
fn read(record: &Numbered) -> Option<(LaneId, LaneRamp)> {
    let id = u32::from_str_radix(record.key.strip_prefix(PREFIX)?, 16).ok()?;
    Some((LaneId(id), LaneRamp::decode(&record.bytes[..]).ok()?))
}

/// Warmth that a lane has by now.
fn warmth(ramp: &LaneRamp, wall: UnixMillis) -> Duration {
    let held = if ramp.busy { HELD } else { Duration::ZERO };
    let cooled = age(ramp.recorded_ms, wall).saturating_sub(held);
    Duration::from_millis(ramp.warm_ms).saturating_sub(cooled)
}

fn age(recorded_ms: u64, wall: UnixMillis) -> Duration {
    Duration::from_millis(wall.0.saturating_sub(recorded_ms))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
