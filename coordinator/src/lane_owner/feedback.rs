//! Dead tokens back into the registry, unless it is not the tokens that are dead.
//!
//! A gateway that is given the wrong credential, topic or environment calls *every* token bad. Believing it would empty
//! the registry in a minute. So the share of dead tokens among a lane's recent answers is watched: over a fifth of at
//! least a thousand, and pruning stops for that lane, with one line that a person has to see. A report's answers are
//! counted before its tokens are believed, so a lane that is wrong from the start loses fewer than a thousand
//! registrations. Pruning goes on once the share of as many answers is usual again.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::{
    device::{Change, Record},
    ids::{DeviceId, LaneId, LogId, UnixMillis, log_of, partition_of},
    wire::shard_v1 as wire,
};
use tokio::sync::mpsc;

use crate::{
    clock::Clock,
    store::{ChangeLog, RecordBatch},
};

/// Answers that make a share of them meaningful.
const ANSWERS_MIN: u64 = 1_000;
/// One in so many dead is the most that is usual.
const DEAD_USUAL: u64 = 5;
/// Tries to append before the tokens are given up; the gateway calls them dead again at the next alert.
const TRIES: u32 = 5;
/// Longest pause between tries.
const PAUSE_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// What one report said: new answers of the wave, the wave's lanes, and the tokens called dead.
#[derive(Debug)]
pub(crate) struct DeadReport {
    pub(crate) lanes: Vec<LaneId>,
    /// Answers since the last report of this node, dead ones included.
    pub(crate) answers: u64,
    pub(crate) dead: Vec<wire::DeadToken>,
}

/// Takes reports until all senders are gone.
pub(crate) async fn run(
    mut reports: mpsc::Receiver<DeadReport>,
    log: Arc<dyn ChangeLog>,
    partitions: u16,
    logs: u16,
    clock: Clock,
) {
    let mut guard = Guard::default();
    while let Some(report) = reports.recv().await {
        let believed = guard.judge(&report);
        let mut by_log: BTreeMap<LogId, Vec<Record>> = BTreeMap::new();
        for token in report.dead.iter().filter(|token| believed.contains(&LaneId(token.lane))) {
            if let Some(record) = record(token, clock.wall()) {
                by_log.entry(log_of(partition_of(record.device, partitions), logs)).or_default().push(record);
            }
        }
        for (id, records) in by_log {
            append(&*log, id, &records).await;
        }
    }
}

async fn append(log: &dyn ChangeLog, id: LogId, records: &[Record]) {
    let mut pause = std::time::Duration::from_millis(100);
    for _ in 0..TRIES {
        match log.append(id, RecordBatch::from_records(records)).await {
            Ok(_) => return,
            Err(error) => tracing::warn!(log = id.0, %error, "feedback not recorded yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    tracing::error!(log = id.0, tokens = records.len(), "feedback given up: the gateway will say it again");
}

fn record(token: &wire::DeadToken, now: UnixMillis) -> Option<Record> {
    let Ok(device) = token.device.as_slice().try_into() else {
        tracing::warn!(bytes = token.device.len(), "a dead token's device is not 16 bytes");
        return None;
    };
    let gateway_time = (token.gateway_time_ms != 0).then_some(UnixMillis(token.gateway_time_ms));
    let change = Change::Feedback { token_hash: token.token_hash, gateway_time };
    Some(Record { device: DeviceId(device), observed: now, change })
}

/// Watches the share of dead tokens, lane by lane.
#[derive(Debug, Default)]
struct Guard(BTreeMap<LaneId, Window>);

/// The last one to two thousand answers of a lane: two halves, the older one dropped when the newer is full.
#[derive(Debug, Default)]
struct Window {
    halves: [Tally; 2],
    stopped: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    answers: u64,
    dead: u64,
}

impl Guard {
    /// Lanes whose word is believed after this report.
    ///
    /// A report says how many answers a wave got, not through which lane. With several lanes a lane's dead tokens are
    /// therefore set against the answers of all: a bad lane with a small part of the devices shows later, or not.
    fn judge(&mut self, report: &DeadReport) -> Vec<LaneId> {
        let mut believed = Vec::new();
        for lane in &report.lanes {
            let named = report.dead.iter().filter(|token| token.lane == lane.0).count() as u64;
            let window = self.0.entry(*lane).or_default();
            // The first report of a session may name tokens again that were counted: no more than there are answers.
            window.count(Tally { answers: report.answers, dead: named.min(report.answers) });
            if window.judge() {
                match window.stopped {
                    true => tracing::error!(
                        lane = lane.0,
                        "ALARM: the gateway calls an unusual share of tokens dead; credential, topic or environment is \
                         wrong, not the tokens. No registration is removed for this lane"
                    ),
                    false => tracing::warn!(lane = lane.0, "the share of dead tokens is usual again; pruning goes on"),
                }
            }
            if !window.stopped {
                believed.push(*lane);
            }
        }
        believed
    }
}

impl Window {
    fn count(&mut self, new: Tally) {
        if self.halves[1].answers >= ANSWERS_MIN {
            self.halves = [self.halves[1], Tally::default()];
        }
        self.halves[1].answers += new.answers;
        self.halves[1].dead += new.dead;
    }

    /// True if the verdict has changed.
    fn judge(&mut self) -> bool {
        let answers: u64 = self.halves.iter().map(|h| h.answers).sum();
        let dead: u64 = self.halves.iter().map(|h| h.dead).sum();
        if answers < ANSWERS_MIN {
            return false;
        }
        let before = self.stopped;
        self.stopped = dead * DEAD_USUAL > answers;
        self.stopped != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lane: u32, answers: u64, dead: usize) -> DeadReport {
        let token = wire::DeadToken { lane, device: vec![7; 16], token_hash: 1, gateway_time_ms: 0 };
        DeadReport { lanes: vec![LaneId(lane)], answers, dead: vec![token; dead] }
    }

    #[test]
    fn the_usual_share_is_believed() {
        let mut guard = Guard::default();
        for _ in 0..100 {
            assert_eq!(guard.judge(&report(1, 100, 10)), [LaneId(1)]);
        }
    }

    #[test]
    fn a_lane_that_is_wrong_from_the_start_loses_fewer_than_a_thousand() {
        let mut guard = Guard::default();
        let lost: usize = (0..100).map(|_| guard.judge(&report(1, 100, 100)).len() * 100).sum();
        assert_eq!(lost, 900);
    }

    #[test]
    fn one_large_report_is_judged_before_it_is_believed() {
        assert!(Guard::default().judge(&report(1, 5_000, 5_000)).is_empty());
    }

    #[test]
    fn a_fifth_is_usual_and_more_is_not() {
        assert_eq!(Guard::default().judge(&report(1, 1_000, 200)).len(), 1);
        assert_eq!(Guard::default().judge(&report(1, 1_000, 201)).len(), 0);
    }

    #[test]
    fn pruning_goes_on_when_the_share_is_usual_again() {
        let mut guard = Guard::default();
        assert!(guard.judge(&report(1, 1_000, 1_000)).is_empty());
        assert!(guard.judge(&report(1, 1_000, 0)).is_empty(), "half of the recent ones are dead");
        assert_eq!(guard.judge(&report(1, 1_000, 0)), [LaneId(1)]);
    }

    #[test]
    fn one_lane_does_not_stop_another() {
        let mut guard = Guard::default();
        assert!(guard.judge(&report(1, 1_000, 1_000)).is_empty());
        assert_eq!(guard.judge(&report(2, 1_000, 1)), [LaneId(2)]);
    }

    #[test]
    fn a_device_that_is_no_device_is_left_out() {
        let token = wire::DeadToken { lane: 1, device: vec![7; 15], token_hash: 1, gateway_time_ms: 0 };
        assert!(record(&token, UnixMillis(0)).is_none());
    }
}
