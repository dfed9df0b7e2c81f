//! A lane's warmth in the process after one that ends in the middle of its use.

use super::*;
use crate::{
    fixtures::gateway,
    lane::Quota,
    lane_owner::{
        fixtures::{credential, key},
        records::{StoreOp, StoreResult},
    },
    standing::Change,
};

const MINUTE: Duration = Duration::from_secs(60);
const WALL: u64 = 1_800_000_000_000;

fn at(seconds: u64, start: u64) -> Moment {
    let wall = UnixMillis(WALL + seconds * 1_000);
    Moment { at: Time((seconds - start) * 1_000_000), wall }
}

/// A process with one lane that has a ramp of a minute, and what it stores.
struct Process {
    owner: LaneOwner,
    board: Standing,
    lane: LaneId,
    start: u64,
    stored: BTreeMap<String, Numbered>,
}

impl Process {
    fn starts(start: u64, stored: BTreeMap<String, Numbered>) -> Self {
        let quota = Quota { per_minute: 60_000, burst: None, ramp: MINUTE };
        let mut owner = LaneOwner::new(vec![gateway(Some(quota))], vec![credential("c")]);
        let lane = owner.ensure(&key("g", "c")).unwrap().id;
        let mut process = Self { owner, board: Standing::default(), lane, start, stored };
        process.pass(start);
        process
    }

    /// Carries out everything that is due.
    fn pass(&mut self, seconds: u64) {
        let now = at(seconds, self.start);
        loop {
            self.owner.follow_ramps(&self.board, now);
            self.owner.expire(now);
            let Some(output) = self.owner.poll() else { break };
            match output {
                Output::Board(change) => drop(self.board.apply(change, now.at)),
                Output::Store(StoreOp::Read) => {
                    let all = self.stored.values().cloned().collect();
                    self.owner.stored(StoreResult::Read(Ok(all)), now);
                }
                Output::Store(StoreOp::Write(record)) => {
                    self.stored.insert(record.key.clone(), record.clone());
                    self.owner.stored(StoreResult::Written(record, Ok(())), now);
                }
                Output::Store(StoreOp::Delete(record)) => {
                    self.stored.remove(&record.key);
                    self.owner.stored(StoreResult::Deleted(record, Ok(())), now);
                }
                _ => {}
            }
        }
    }

    fn turn(&mut self, busy: bool, seconds: u64) {
        self.board.apply(Change::Used(self.lane, busy), at(seconds, self.start).at);
        self.pass(seconds);
    }

    fn share(&self, seconds: u64) -> u64 {
        let ramp = self.board.ramps.get(&self.lane).copied().unwrap_or_default();
        ramp.share(MINUTE, at(seconds, self.start).at)
    }

    /// The record of the lane's ramp.
    fn record(&self) -> &Numbered {
        &self.stored[&format!("{PREFIX}{:08x}", self.lane.0)]
    }
}

#[test]
fn a_restart_in_the_middle_of_a_ramp_goes_on_where_it_was() {
    let mut first = Process::starts(0, BTreeMap::new());
    first.turn(true, 0);
    for second in 0..=30 {
        first.pass(second);
    }
    assert_eq!(first.share(30), 525);
    assert_eq!(first.record().number, 7, "every five seconds");
    let mut next = Process::starts(32, first.stored);
    assert_eq!(next.share(32), 525, "neither a cold lane nor a warm one");
    next.turn(true, 33);
    assert!((500..525).contains(&next.share(33)), "{}", next.share(33));
    assert_eq!(next.share(93), 1_000);
}

#[test]
fn a_lane_that_nobody_served_for_long_is_cold() {
    let mut first = Process::starts(0, BTreeMap::new());
    first.turn(true, 0);
    for second in 0..=300 {
        first.pass(second);
    }
    assert_eq!(first.share(300), 1_000);
    let shares = [305, 310, 340, 370, 3_000]
        .map(|start| Process::starts(start, first.stored.clone()).share(start));
    assert_eq!(shares, [1_000, 1_000, 525, 50, 50]);
}

#[test]
fn an_idle_lane_cools_over_the_restart() {
    let mut first = Process::starts(0, BTreeMap::new());
    first.turn(true, 0);
    first.pass(60);
    first.turn(false, 60);
    let next = Process::starts(90, first.stored.clone());
    assert_eq!(next.share(90), 525);
    let old = Process::starts(60 + 86_400, first.stored);
    assert!(!old.stored.keys().any(|key| key.starts_with(PREFIX)), "deleted after a day");
}
