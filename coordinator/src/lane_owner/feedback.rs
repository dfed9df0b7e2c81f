//! Feedback: decides which devices are removed from the registry because gateways call their tokens
//! dead; free of I/O.
//!
//! A gateway that gets the wrong credential, topic or environment calls *every* token bad, and
//! would empty the registry in a minute. So a token that is called bad is pruned only with evidence
//! ([`evidence`]); a token that the gateway calls unregistered is pruned at once:
//!
//! | A dead token of a report | What becomes of it |
//! |---|---|
//! | its device id is not 16 bytes | ignored, with a log message |
//! | unregistered | pruned at once |
//! | called bad, of a known app | goes to the evidence, which prunes it now, later or never |
//! | called bad, of an unknown app | ignored: there is no evidence, so the device is kept |
//!
//! The shell is `dispatch/pruning.rs`.

use std::collections::BTreeMap;

use clarion_proto::{
    device::{Change, Record},
    ids::{AppName, DeviceId, LaneId, LogId, UnixMillis, log_of, partition_of},
    wire::shard_v1 as wire,
};

use crate::lane::AppLane;
use evidence::BadToken;

pub(crate) mod evidence;

/// A token to be pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dead {
    device: DeviceId,
    token_hash: u64,
    /// Time since when the token is dead, as the gateway says it.
    gateway_time: Option<UnixMillis>,
}

/// The dead tokens of one report, by what becomes of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sorted {
    /// Tokens that are pruned at once.
    pub(crate) dead: Vec<Dead>,
    /// Tokens that need evidence.
    pub(crate) bad: Vec<(AppLane, BadToken)>,
    /// Lengths of the device ids that are none.
    pub(crate) malformed: Vec<usize>,
}

impl Sorted {
    /// Sorts the dead tokens of a report that was heard at a wall time.
    pub(crate) fn new(tokens: &[wire::DeadToken], heard: UnixMillis) -> Self {
        let mut sorted = Self::default();
        for token in tokens {
            let Some(known) = Dead::read(token) else {
                sorted.malformed.push(token.device.len());
                continue;
            };
            match (token.needs_evidence, AppName::from_name(&token.app).ok()) {
                (false, _) => sorted.dead.push(known),
                (true, Some(app)) => {
                    let Dead { device, token_hash, .. } = known;
                    let called = BadToken { device, token_hash, heard };
                    sorted.bad.push(((app, LaneId(token.lane)), called));
                }
                // The app is unknown, so there is no evidence: the device is kept.
                (true, None) => {}
            }
        }
        sorted
    }
}

/// The records that remove the devices of dead tokens, by log.
pub(crate) fn records(
    dead: Vec<Dead>,
    (partitions, logs): (u16, u16),
    now: UnixMillis,
) -> BTreeMap<LogId, Vec<Record>> {
    let mut by_log: BTreeMap<LogId, Vec<Record>> = BTreeMap::new();
    for dead in dead {
        let id = log_of(partition_of(dead.device, partitions), logs);
        by_log.entry(id).or_default().push(dead.record(now));
    }
    by_log
}

impl Dead {
    fn read(token: &wire::DeadToken) -> Option<Self> {
        let device = token.device.as_slice().try_into().ok()?;
        let gateway_time =
            (token.gateway_time_ms != 0).then_some(UnixMillis(token.gateway_time_ms));
        Some(Self { device: DeviceId(device), token_hash: token.token_hash, gateway_time })
    }

    fn record(self, now: UnixMillis) -> Record {
        let change =
            Change::Feedback { token_hash: self.token_hash, gateway_time: self.gateway_time };
        Record { device: self.device, observed: now, change }
    }
}

impl From<BadToken> for Dead {
    fn from(BadToken { device, token_hash, heard }: BadToken) -> Self {
        Self { device, token_hash, gateway_time: Some(heard) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const LANE: u32 = 3;

    pub(crate) fn dead(device: u8, needs_evidence: bool) -> wire::DeadToken {
        let app = "apps/demo".to_owned();
        wire::DeadToken {
            lane: LANE,
            device: vec![device; 16],
            token_hash: 1,
            gateway_time_ms: 0,
            app,
            needs_evidence,
        }
    }

    /// The table at the top of the module.
    #[test]
    fn each_dead_token_is_pruned_needs_evidence_or_is_ignored() {
        let short = wire::DeadToken { device: vec![7; 15], ..dead(1, false) };
        let nameless = wire::DeadToken { app: String::new(), ..dead(2, true) };
        let timed = wire::DeadToken { gateway_time_ms: 5, ..dead(3, false) };
        let tokens = [short, nameless, timed, dead(4, true)];
        let sorted = Sorted::new(&tokens, UnixMillis(9));
        let of = (AppName::from_id("demo").expect("a name"), LaneId(LANE));
        let id = |n| DeviceId([n; 16]);
        let (gateway_time, heard) = (Some(UnixMillis(5)), UnixMillis(9));
        let expected = Sorted {
            dead: vec![Dead { device: id(3), token_hash: 1, gateway_time }],
            bad: vec![(of, BadToken { device: id(4), token_hash: 1, heard })],
            malformed: vec![15],
        };
        assert_eq!(sorted, expected);
        let records = records(sorted.dead, (8, 1), UnixMillis(10));
        assert_eq!(records[&LogId(0)][0].observed, UnixMillis(10));
    }
}
