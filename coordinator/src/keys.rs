//! Data keys: which generation seals, when the next one is made, and when one is erased.
//!
//! The key of a generation is a half in the database XOR a half among the objects, both random.
//! Whoever has copied only one of the two places has no key. Erasing a generation deletes both
//! halves, and with them everything that the key sealed, in every copy of the logs and snapshots:
//! that is how a removed device leaves backups and the free space of disks.
//!
//! ```text
//!          object half written, record written, both read back
//!   (none) ───────────────────────────────────────────────────▶ live: seals while it is newest
//!                                                                 │ nothing is sealed by it
//!                                                                 ▼
//!   (none) ◀── record deleted ◀── object half deleted ◀── erasing: record without its half
//! ```
//!
//! Every step can be the last one of a process; the next start goes on from what it finds. A half
//! without a record was never used. A number is given to one key only: [`record::NEWEST`] is raised
//! before anything else.
//!
//! This file decides; [`keeper`] reads, writes and waits.

use std::time::Duration;

use clarion_proto::ids::UnixMillis;

use crate::seal::Generation;

pub mod keeper;
pub mod record;

/// Number of parts that one key may seal: a quarter of the 2^32 that its random nonces allow.
const SEALED_MAX: u64 = 1 << 30;

/// One key of the store, by its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownKey {
    /// Number of the key.
    pub generation: Generation,
    /// Time at which the key was made.
    pub created: UnixMillis,
    /// Whether the key is being erased: nothing needs it any more.
    pub erasing: bool,
}

/// The keys of a store, as their records are now.
#[derive(Debug, Clone)]
pub struct Keys {
    known: Vec<KnownKey>,
    sealing: Generation,
}

impl Keys {
    /// The keys of a store; `sealing`: the generation that this process seals with.
    #[must_use]
    pub fn new(known: Vec<KnownKey>, sealing: Generation) -> Self {
        Self { known, sealing }
    }

    /// Whether the next key is to be made: the newest one is as old as `rotation`, or has sealed
    /// many parts. A key from the far future was made under a clock that was wrong.
    #[must_use]
    pub fn is_due(&self, now: UnixMillis, rotation: Duration, sealed: u64) -> bool {
        let newest = self.known.iter().find(|key| key.generation == self.sealing);
        let Some(newest) = newest else { return true };
        let rotation = u64::try_from(rotation.as_millis()).unwrap_or(u64::MAX);
        newest.created.0.abs_diff(now.0) >= rotation || sealed >= SEALED_MAX
    }

    /// Whether there is any generation besides the one that seals.
    #[must_use]
    pub fn has_former(&self) -> bool {
        self.known.iter().any(|key| key.generation < self.sealing)
    }

    /// Generations whose keys nothing needs, lowest first: those that are being erased, and those
    /// below all generations in use. `None`: there are no batches, or no snapshots.
    ///
    /// The number of generations in use is not known, only the lowest one: batches of a log and
    /// snapshots of a partition are trimmed in the order in which they were sealed. `oldest_held`
    /// must have been read before the other two, so that a part that is sealed meanwhile is counted
    /// in one of them.
    #[must_use]
    pub fn erasable(
        &self,
        oldest_in_logs: Option<Generation>,
        oldest_in_snapshots: Option<Generation>,
        oldest_held: Generation,
    ) -> Vec<Generation> {
        let in_use = [oldest_in_logs, oldest_in_snapshots, Some(oldest_held), Some(self.sealing)];
        let oldest = in_use.into_iter().flatten().min().unwrap_or(self.sealing);
        let erasable = |key: &&KnownKey| key.erasing || key.generation < oldest;
        let mut erasable: Vec<_> =
            self.known.iter().filter(erasable).map(|key| key.generation).collect();
        erasable.sort_unstable();
        erasable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn key(generation: u32, created_hour: u64) -> KnownKey {
        let created = UnixMillis(created_hour * 3_600_000);
        KnownKey { generation: Generation(generation), created, erasing: false }
    }

    #[test]
    fn a_key_seals_for_the_time_between_two_rotations() {
        let keys = Keys::new(vec![key(3, 9), key(4, 10)], Generation(4));
        let at = |minutes: u64| UnixMillis(10 * 3_600_000 + minutes * 60_000);
        assert!(!keys.is_due(at(0), HOUR, 0) && !keys.is_due(at(59), HOUR, SEALED_MAX - 1));
        assert!(keys.is_due(at(60), HOUR, 0), "an hour old");
        assert!(keys.is_due(at(1), HOUR, SEALED_MAX), "many nonces");
        assert!(!keys.is_due(UnixMillis(at(0).0 - 60_000), HOUR, 0), "a clock that was set back");
        assert!(keys.is_due(UnixMillis(0), HOUR, 0), "made hours in the future");
        let unknown = Keys::new(vec![key(3, 9)], Generation(4));
        assert!(unknown.is_due(at(0), HOUR, 0), "its record is gone");
    }

    #[test]
    fn only_what_nothing_needs_is_erased() {
        let known = vec![key(1, 1), key(3, 3), key(2, 2), key(5, 5)];
        let keys = Keys::new(known.clone(), Generation(5));
        let erasable = |logs: Option<u32>, snapshots: Option<u32>, held| {
            let [logs, snapshots] = [logs, snapshots].map(|lowest| lowest.map(Generation));
            let erasable = keys.erasable(logs, snapshots, Generation(held));
            erasable.into_iter().map(|generation| generation.0).collect::<Vec<_>>()
        };
        assert_eq!(erasable(None, None, 5), [1, 2, 3], "never the one that seals");
        assert_eq!(erasable(Some(9), Some(9), 9), [1, 2, 3]);
        assert_eq!(erasable(Some(3), None, 5), [1, 2]);
        assert_eq!(erasable(Some(3), Some(2), 5), [1]);
        assert_eq!(erasable(None, Some(5), 3), [1, 2], "a part is being sealed");
        assert_eq!(erasable(Some(0), Some(5), 5), [0; 0], "a batch is not sealed at all");
        // The process could not use generation 6 after it was made.
        let keys = Keys::new([known, vec![key(6, 6)]].concat(), Generation(5));
        assert!(keys.has_former());
        let all = keys.erasable(None, None, Generation(5));
        assert_eq!(all, [1, 2, 3].map(Generation));
    }

    #[test]
    fn an_erasure_that_began_is_finished() {
        let begun = KnownKey { erasing: true, ..key(2, 2) };
        let keys = Keys::new(vec![key(1, 1), begun, key(4, 4)], Generation(4));
        assert_eq!(keys.erasable(Some(Generation(1)), None, Generation(4)), [Generation(2)]);
    }
}
