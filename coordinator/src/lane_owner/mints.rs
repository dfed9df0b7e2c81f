//! Which token of an APNs key is in use: at most one new token in [`SPACING`]. Pure.
//!
//! A key has one token for each slot of wall time ([`apns::SLOT`]). Alone, that rule would make two
//! tokens within seconds when a process starts just before a slot ends. So a process changes a
//! token only if it has used the token for 20 minutes, and only in the first four minutes of a
//! slot, so that the change after that is 20 minutes away, too. A process that starts late in a
//! slot therefore uses the slot's token through the next slot as well, where the token is at most
//! 48 minutes old. From then on, all changes are at the beginnings of slots again.
//!
//! A token belongs to a *key*, not to a credential or lane: credentials of the same key share it,
//! and a key that is replaced and comes back within 20 minutes uses its former token. This record
//! is what a durable store has to keep of a key, so that the rule holds over restarts, too; until
//! then, the slots make restarts harmless except in the first 48 minutes of a key's use.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{ids::UnixMillis, time::Time};
use clarion_runtime::world::Moment;

use super::apns;

/// Shortest time between two new tokens of a key (Apple: "no more than once every 20 minutes").
pub(crate) const SPACING: Duration = Duration::from_mins(20);
/// Age at which a token is replaced whatever the spacing says: Apple refuses tokens older than an
/// hour, and the wall clock was set in between.
const AGE_MAX: Duration = Duration::from_mins(50);
/// A token further ahead of the wall clock than this was made before the clock was set back.
const AHEAD_MAX: Duration = Duration::from_mins(1);

/// Newest tokens of all keys that this process has used lately.
#[derive(Debug, Default)]
pub(crate) struct Mints(BTreeMap<u64, Minted>);

/// Newest token of one key.
#[derive(Debug, Clone, Copy)]
struct Minted {
    /// Beginning of the token's slot, which is the token's `iat`.
    slot: UnixMillis,
    /// Time at which this process first used the token.
    at: Time,
}

impl Mints {
    /// Whether gateways would refuse the key's token for its time, because the wall clock was set,
    /// or the machine was suspended, since the token was made.
    pub(crate) fn is_stale(&self, signer: u64, wall: UnixMillis) -> bool {
        self.0.get(&signer).is_some_and(|minted| {
            let age = Duration::from_millis(wall.0.saturating_sub(minted.slot.0));
            let ahead = Duration::from_millis(minted.slot.0.saturating_sub(wall.0));
            age >= AGE_MAX || ahead > AHEAD_MAX
        })
    }

    /// Returns the slot of the token that the key of `signer` uses now, and the time until the next
    /// token. The caller uses the token.
    pub(crate) fn slot(&mut self, signer: u64, now: Moment) -> (UnixMillis, Duration) {
        let present = apns::slot(now.wall);
        // A token may be in use for longer than the spacing.
        self.0.retain(|of, minted| *of == signer || now.at.since(minted.at) < AGE_MAX);
        let minted = self.0.entry(signer).or_insert(Minted { slot: present, at: now.at });
        let age = |minted: &Minted| Duration::from_millis(now.wall.0.saturating_sub(minted.slot.0));
        let is_usable = minted.slot <= now.wall && age(minted) < AGE_MAX;
        let is_spaced = now.at.since(minted.at) >= SPACING && is_early(now.wall);
        if minted.slot != present && (is_spaced || !is_usable) {
            *minted = Minted { slot: present, at: now.at };
        }
        // The first moment at which the spacing is over, or else the next beginning of a slot.
        let spaced = SPACING.saturating_sub(now.at.since(minted.at));
        let then = UnixMillis(now.wall.0 + u64::try_from(spaced.as_millis()).unwrap_or(0));
        let rest = match apns::slot(then) != minted.slot && is_early(then) {
            true => spaced,
            false => spaced + apns::rest_of_slot(then),
        };
        (minted.slot, rest.min(AGE_MAX.saturating_sub(age(minted))))
    }
}

/// Whether a token that is made now may be replaced when its slot ends.
fn is_early(wall: UnixMillis) -> bool {
    apns::rest_of_slot(wall) >= SPACING
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: u64 = 60_000;
    const SLOT: u64 = 24 * MINUTE;

    /// This many milliseconds after the beginning of a slot.
    fn at(millis: u64) -> Moment {
        Moment { at: Time(millis * 1_000), wall: UnixMillis(1_800_000_000_000 + millis) }
    }

    /// Minutes at which a process that starts at `start` begins to use another token.
    fn changes(start: u64, minutes: u64) -> Vec<u64> {
        let (mut mints, mut changes, mut last) = (Mints::default(), Vec::new(), None);
        let mut next = start;
        while next < start + minutes * MINUTE {
            let (slot, rest) = mints.slot(7, at(next));
            assert!(at(next).wall.0 - slot.0 < 48 * MINUTE + 2_000, "the token is too old");
            if last != Some(slot) {
                changes.push(next / MINUTE);
                last = Some(slot);
            }
            next += u64::try_from(rest.as_millis()).expect("short") + 1_000;
        }
        changes
    }

    #[test]
    fn a_start_just_before_the_end_of_a_slot_is_no_second_token_within_20_minutes() {
        assert_eq!(changes(0, 100), [0, 24, 48, 72, 96]);
        assert_eq!(changes(SLOT - 1_000, 100), [23, 48, 72, 96, 120]);
        assert_eq!(changes(10 * MINUTE, 100), [10, 48, 72, 96]);
        assert_eq!(changes(6 * MINUTE, 100), [6, 26, 48, 72, 96]);
    }

    #[test]
    fn a_key_that_comes_back_has_its_former_token() {
        let mut mints = Mints::default();
        let first = mints.slot(1, at(SLOT - MINUTE)).0;
        assert_ne!(mints.slot(2, at(SLOT + MINUTE)).0, first, "another key is not bound by it");
        assert_eq!(mints.slot(1, at(SLOT + 2 * MINUTE)).0, first);
        assert_eq!(mints.slot(1, at(2 * SLOT - MINUTE)).0, first, "too late in its slot");
        assert_ne!(mints.slot(1, at(2 * SLOT)).0, first);
    }

    #[test]
    fn a_clock_that_was_set_makes_a_token_that_gateways_accept() {
        let mut mints = Mints::default();
        let first = mints.slot(1, at(0)).0;
        let wall = |hours: u64| UnixMillis(at(hours * 60 * MINUTE).wall.0);
        let later = Moment { wall: wall(3), ..at(1_000) };
        assert_ne!(mints.slot(1, later).0, first, "it would be three hours old");
        let back = Moment { wall: at(0).wall, ..at(2_000) };
        assert_eq!(mints.slot(1, back).0, first, "it would be of the future");
    }

    proptest! {
        /// However often and whenever a process looks: two new tokens of a key are 20 minutes
        /// apart.
        #[test]
        fn never_two_tokens_within_20_minutes(
            start in 0u64..SLOT,
            steps in proptest::collection::vec(1u64..2 * SLOT, 1..200),
        ) {
            let (mut mints, mut now) = (Mints::default(), start);
            let mut last: Option<(UnixMillis, u64)> = None;
            for step in steps {
                let (slot, rest) = mints.slot(1, at(now));
                prop_assert!(rest <= 2 * apns::SLOT);
                if let Some((former, since)) = last && former != slot {
                    prop_assert!(now - since >= 20 * MINUTE, "{} ms apart", now - since);
                }
                if last.is_none_or(|(former, _)| former != slot) {
                    last = Some((slot, now));
                }
                now += step;
            }
        }
    }
}
