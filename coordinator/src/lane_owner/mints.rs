//! Which token of an APNs key is in use: at most one new token in [`SPACING`], over all processes
//! that use the same store. Free of I/O.
//!
//! A key has one token for each slot of wall time ([`apns::SLOT`]). Alone, that rule would make two
//! tokens within seconds when a process starts just before a slot ends. So a key changes its token
//! only after the token was used for 20 minutes, and only in the first four minutes of a slot, so
//! that the change after that is 20 minutes away, too. A process that starts late in a slot
//! therefore uses the slot's token through the next slot as well, where the token is at most 48
//! minutes old. From then on, all changes are at the beginnings of slots again.
//!
//! A token belongs to a *key*, not to a credential or lane: credentials of the same key share it,
//! and a key that is replaced and comes back within 20 minutes uses its former token.
//!
//! **A token is given out after the store has its record** ([`MintedToken`]): the slot, and the
//! latest time at which the token is first used ([`GIVE_WITHIN`] after the decision; a record that
//! is acknowledged later is written again). A process that starts reads the record and uses that
//! token, as if the process had used the token itself. (If the former process ended between the
//! record and the first use, the token counts as used from its record on.) The record is named by a
//! hash of the public key and of Apple's names, and holds times only: it reveals neither the key
//! nor a token.
//!
//! **If the store is away:**
//!
//! - A key goes on with the token that it has, while gateways accept the token.
//! - A key without such a token waits [`STORE_WAIT`] for the store, and then gives a token out
//!   unrecorded, with one warning. Without a token no phone gets an alert. A second token within 20
//!   minutes risks 429 answers from APNs until the 20 minutes are over, and only if the slot has
//!   ended since the former process chose its token. The certain harm weighs more than the
//!   possible one. The record follows as soon as the store answers.
//!
//! | Key | Input | Result | Next state |
//! |---|---|---|---|
//! | records not read | time | – | records read; after `STORE_WAIT`: in use, unrecorded |
//! | no token | records read | write of the present slot | offered |
//! | no token | records read, with a token | – | in use |
//! | offered | written in time | – | in use |
//! | offered | written too late | write of a later time | offered |
//! | offered, without a token in use | `STORE_WAIT` is over | warning | in use, unrecorded |
//! | in use | spacing over, early in a slot | write of that slot; the token stays | offered |
//! | in use | gateways refuse the token for its time | write of the present slot | offered |
//!
//! A record of a key that nobody used for [`KEPT`] is deleted. Access tokens of FCM are not stored:
//! Google sets no such limit, and an access token in the store would be one more secret.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{ids::UnixMillis, time::Time, wire::store::v1::MintedToken};
use clarion_runtime::world::Moment;
use prost::Message as _;

use super::{apns, records::Records};
use crate::store::Numbered;

/// Beginning of the keys of the records.
pub(super) const PREFIX: &str = "mint/";
/// Shortest time between two new tokens of a key (Apple: "no more than once every 20 minutes").
pub(crate) const SPACING: Duration = Duration::from_mins(20);
/// Age at which a token is replaced whatever the spacing says: Apple refuses tokens older than an
/// hour, and the wall clock was set in between.
const AGE_MAX: Duration = Duration::from_mins(50);
/// A token further ahead of the wall clock than this was made before the clock was set back.
const AHEAD_MAX: Duration = Duration::from_mins(1);
/// Longest wait for the store while a key has no token that gateways accept.
const STORE_WAIT: Duration = Duration::from_secs(2);
/// Longest time from the decision for a token to its first use.
const GIVE_WITHIN: Duration = Duration::from_secs(10);
/// Time after which the record of an unused key is deleted.
const KEPT: Duration = Duration::from_hours(24);

/// Newest tokens of all keys, by the names of their records.
#[derive(Debug, Default)]
pub(crate) struct Mints(BTreeMap<String, Key>);

/// Token that a key uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InUse {
    /// Slot of the token.
    pub(crate) slot: UnixMillis,
    /// Time until the token may have to be replaced.
    pub(crate) rest: Duration,
    /// Whether the token is given out now although the store has no record of it.
    pub(crate) is_unrecorded: bool,
}

/// State of one key.
#[derive(Debug, Default)]
struct Key {
    token: Option<Minted>,
    /// Token that is given out once the store has its record.
    offered: Option<Offered>,
    /// When the key began to wait for the store without a token that gateways accept.
    waits_since: Option<Time>,
    /// Number of the stored record that was seen last.
    seen: u64,
}

/// Newest token of one key.
#[derive(Debug, Clone, Copy)]
struct Minted {
    /// Beginning of the token's slot, which is the token's `iat`.
    slot: UnixMillis,
    /// Time at which this process first used the token.
    at: Time,
    /// Time for which former processes had used the token then.
    before: Duration,
}

/// Token whose record is being written.
#[derive(Debug, Clone, Copy)]
struct Offered {
    slot: UnixMillis,
    /// Latest time of its first use.
    until: UnixMillis,
}

impl Mints {
    /// Returns the token that the key of this record uses now, which the caller uses; `None`: the
    /// key waits for the store.
    pub(crate) fn token(
        &mut self,
        record: &str,
        now: Moment,
        records: &mut Records,
    ) -> Option<InUse> {
        let key = match self.0.get_mut(record) {
            Some(key) => key,
            None => self.0.entry(record.to_owned()).or_default(),
        };
        if let Some(stored) = records.stored(record) {
            key.adopt(stored, now);
        }
        if key.offered.is_none() {
            // The record of another process was adopted instead of the one that was wanted.
            records.withdraw(record);
        }
        let present = apns::slot(now.wall);
        let usable = key.token.filter(|token| token.is_accepted(now.wall));
        if let Some(token) = usable {
            key.waits_since = None;
            if token.slot == present || !token.is_spaced(now) {
                if key.offered.is_some_and(|offered| offered.slot != token.slot) {
                    key.offered = None;
                    records.withdraw(record);
                }
                return Some(InUse::new(token.slot, token.rest(now)));
            }
        }
        if records.are_known() {
            key.offer(record, present, now, records);
        }
        if let Some(token) = usable {
            return Some(InUse::new(token.slot, AGE_MAX.saturating_sub(token.age(now.wall))));
        }
        let since = *key.waits_since.get_or_insert(now.at);
        if now.at.since(since) < STORE_WAIT {
            return None;
        }
        key.offer(record, present, now, records);
        let token = Minted { slot: present, at: now.at, before: Duration::ZERO };
        (key.token, key.waits_since) = (Some(token), None);
        Some(InUse { is_unrecorded: true, ..InUse::new(present, token.rest(now)) })
    }

    /// Notes that nobody asks for a token of this key any more.
    pub(crate) fn gave_up(&mut self, record: &str) {
        self.0.get_mut(record).into_iter().for_each(|key| key.waits_since = None);
    }

    /// When a key that waits for the store gets a token without it.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let waiting = self.0.values().filter_map(|key| key.waits_since);
        waiting.map(|since| since + STORE_WAIT).min()
    }

    /// Deletes the records of keys that nobody uses.
    pub(crate) fn drop_unused(&mut self, now: Moment, records: &mut Records) {
        let is_old = |record: &&Numbered| {
            let token = MintedToken::decode(&record.bytes[..]);
            token.is_ok_and(|token| millis(now.wall.0, token.used_ms) >= KEPT)
        };
        let old: Vec<_> = records.all(PREFIX).filter(is_old).map(|old| old.key.clone()).collect();
        for record in old {
            // A key in use has offered a token since: its record is about to be replaced.
            if self.0.get(&record).is_none_or(|key| key.offered.is_none()) {
                self.0.remove(&record);
                records.delete(&record);
            }
        }
    }
}

impl InUse {
    fn new(slot: UnixMillis, rest: Duration) -> Self {
        Self { slot, rest, is_unrecorded: false }
    }
}

impl Key {
    /// Takes the stored record over: that of a former process, or the one that this process wrote.
    fn adopt(&mut self, stored: &Numbered, now: Moment) {
        if stored.number == self.seen {
            return;
        }
        self.seen = stored.number;
        // What a later version wrote is replaced by the next record.
        let Ok(MintedToken { slot_ms, used_ms }) = MintedToken::decode(&stored.bytes[..]) else {
            return;
        };
        let slot = UnixMillis(slot_ms);
        let in_use = self.token.map(|token| token.slot);
        let is_offered = self.offered.is_some_and(|offered| offered.slot == slot);
        if self.token.is_some() && !is_offered {
            // A write of this process whose answer was lost: that token was never given out.
            return;
        }
        if is_offered && in_use != Some(slot) && now.wall.0 > used_ms {
            return; // too late: offered again
        }
        self.offered = None;
        if in_use != Some(slot) {
            let before = millis(now.wall.0, used_ms);
            self.token = Some(Minted { slot, at: now.at, before });
        }
    }

    /// Has the token of a slot recorded, unless that is under way.
    fn offer(&mut self, record: &str, slot: UnixMillis, now: Moment, records: &mut Records) {
        if self.offered.is_some_and(|it| it.slot == slot && it.until >= now.wall) {
            return;
        }
        let within = u64::try_from(GIVE_WITHIN.as_millis()).unwrap_or(u64::MAX);
        let until = UnixMillis(now.wall.0.saturating_add(within));
        self.offered = Some(Offered { slot, until });
        let token = MintedToken { slot_ms: slot.0, used_ms: until.0 };
        records.put(record, token.encode_to_vec());
    }
}

impl Minted {
    fn age(&self, wall: UnixMillis) -> Duration {
        millis(wall.0, self.slot.0)
    }

    /// Whether gateways accept the token for its time. They refuse it if the wall clock was set, or
    /// the machine was suspended, since the token was made.
    fn is_accepted(&self, wall: UnixMillis) -> bool {
        self.age(wall) < AGE_MAX && millis(self.slot.0, wall.0) <= AHEAD_MAX
    }

    /// Time for which the token has been in use.
    fn used(&self, now: Moment) -> Duration {
        self.before.saturating_add(now.at.since(self.at))
    }

    fn is_spaced(&self, now: Moment) -> bool {
        self.used(now) >= SPACING && is_early(now.wall)
    }

    /// Time until the spacing is over, or else until the next beginning of a slot.
    fn rest(&self, now: Moment) -> Duration {
        let spaced = SPACING.saturating_sub(self.used(now));
        let then = UnixMillis(now.wall.0 + u64::try_from(spaced.as_millis()).unwrap_or(0));
        let rest = match apns::slot(then) != self.slot && is_early(then) {
            true => spaced,
            false => spaced + apns::rest_of_slot(then),
        };
        rest.min(AGE_MAX.saturating_sub(self.age(now.wall)))
    }
}

/// Time from `from` to `until`, zero if it is negative.
fn millis(until: u64, from: u64) -> Duration {
    Duration::from_millis(until.saturating_sub(from))
}

/// Whether a token that is made now may be replaced when its slot ends.
fn is_early(wall: UnixMillis) -> bool {
    apns::rest_of_slot(wall) >= SPACING
}

#[cfg(test)]
mod tests;
