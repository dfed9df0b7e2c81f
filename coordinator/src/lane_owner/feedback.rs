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
    progress::fold::Answers,
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

/// What one report said: new answers of the wave's lanes, and tokens called dead. A token may be named in a later report
/// than it is counted in, or again in the first one of a session.
#[derive(Debug)]
pub(crate) struct DeadReport {
    /// Since the last report of this node.
    pub(crate) answers: BTreeMap<LaneId, Answers>,
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
        guard.judge(&report.answers);
        let mut by_log: BTreeMap<LogId, Vec<Record>> = BTreeMap::new();
        for token in report.dead.iter().filter(|token| guard.believes(LaneId(token.lane))) {
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
    halves: [Answers; 2],
    stopped: bool,
}

impl Guard {
    /// Counts new answers and judges their lanes anew.
    fn judge(&mut self, answers: &BTreeMap<LaneId, Answers>) {
        for (lane, new) in answers {
            let window = self.0.entry(*lane).or_default();
            window.count(*new);
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
        }
    }

    /// Whether the lane's word is believed now. A lane that was never heard of has counted nobody.
    fn believes(&self, lane: LaneId) -> bool {
        self.0.get(&lane).is_some_and(|window| !window.stopped)
    }
}

impl Window {
    fn count(&mut self, new: Answers) {
        if self.halves[1].all >= ANSWERS_MIN {
            self.halves = [self.halves[1], Answers::default()];
        }
        self.halves[1].all += new.all;
        self.halves[1].dead += new.dead;
    }

    /// True if the verdict has changed.
    fn judge(&mut self) -> bool {
        let answers: u64 = self.halves.iter().map(|h| h.all).sum();
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

    /// Takes in so many answers of a lane, so many of them dead; whether it is believed then.
    fn judged(guard: &mut Guard, lane: u32, all: u64, dead: u64) -> bool {
        guard.judge(&BTreeMap::from([(LaneId(lane), Answers { all, dead })]));
        guard.believes(LaneId(lane))
    }

    #[test]
    fn the_usual_share_is_believed() {
        let mut guard = Guard::default();
        assert!((0..100).all(|_| judged(&mut guard, 1, 100, 10)));
    }

    #[test]
    fn a_lane_that_is_wrong_from_the_start_loses_fewer_than_a_thousand() {
        let mut guard = Guard::default();
        let lost = (0..100).filter(|_| judged(&mut guard, 1, 100, 100)).count() * 100;
        assert_eq!(lost, 900);
    }

    #[test]
    fn one_large_report_is_judged_before_it_is_believed() {
        assert!(!judged(&mut Guard::default(), 1, 5_000, 5_000));
    }

    #[test]
    fn a_fifth_is_usual_and_more_is_not() {
        assert!(judged(&mut Guard::default(), 1, 1_000, 200));
        assert!(!judged(&mut Guard::default(), 1, 1_000, 201));
    }

    #[test]
    fn pruning_goes_on_when_the_share_is_usual_again() {
        let mut guard = Guard::default();
        assert!(!judged(&mut guard, 1, 1_000, 1_000));
        assert!(!judged(&mut guard, 1, 1_000, 0), "half of the recent ones are dead");
        assert!(judged(&mut guard, 1, 1_000, 0));
    }

    #[test]
    fn one_lane_does_not_stop_another_nor_hide_it() {
        let mut guard = Guard::default();
        let (small, large) = (Answers { all: 1_000, dead: 1_000 }, Answers { all: 100_000, dead: 100 });
        guard.judge(&BTreeMap::from([(LaneId(1), small), (LaneId(2), large)]));
        assert!(!guard.believes(LaneId(1)), "one in a hundred of the devices, and all of them dead");
        assert!(guard.believes(LaneId(2)));
        assert!(!guard.believes(LaneId(3)), "of which nothing was counted");
    }

    #[test]
    fn a_device_that_is_no_device_is_left_out() {
        let token = wire::DeadToken { lane: 1, device: vec![7; 15], token_hash: 1, ..wire::DeadToken::default() };
        assert!(record(&token, UnixMillis(0)).is_none());
    }
}
