//! Tokens of keys over restarts, with a store that answers, fails, or loses its answers.

use proptest::prelude::*;

use super::*;
use crate::{
    lane_owner::records::{StoreOp, StoreResult},
    store::StoreError,
};

const MINUTE: u64 = 60_000;
const SLOT: u64 = 24 * MINUTE;
const DAY: u64 = 24 * 60 * MINUTE;
const KEY: &str = "mint/1";

/// How the store answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Yes,
    /// It carries out nothing.
    Away,
    /// It carries the operation out, and the answer is lost.
    Lost,
}

/// Store of numbered records.
#[derive(Debug, Default)]
struct Store(BTreeMap<String, Numbered>);

impl Store {
    fn carry_out(&mut self, op: StoreOp, answers: Answers) -> StoreResult {
        let away = || StoreError::Away("cut".to_owned());
        let result = match (answers, &op) {
            (Answers::Away, _) => Err(away()),
            (_, StoreOp::Write(record)) => {
                let stored = self.0.get(&record.key).map_or(0, |stored| stored.number);
                match record.number == stored + 1 {
                    true => drop(self.0.insert(record.key.clone(), record.clone())),
                    false => {
                        let conflict = StoreError::Conflict(record.key.clone());
                        let StoreOp::Write(record) = op else { unreachable!() };
                        return StoreResult::Written(record, Err(conflict));
                    }
                }
                Ok(())
            }
            (_, StoreOp::Delete(record)) => {
                self.0.remove(&record.key);
                Ok(())
            }
            (_, StoreOp::Read) => Ok(()),
        };
        let result = if answers == Answers::Lost { Err(away()) } else { result };
        match op {
            StoreOp::Read => StoreResult::Read(result.map(|()| self.0.values().cloned().collect())),
            StoreOp::Write(record) => StoreResult::Written(record, result),
            StoreOp::Delete(record) => StoreResult::Deleted(record, result),
        }
    }
}

/// One process, which started at this time.
#[derive(Debug, Default)]
struct Process {
    start: u64,
    mints: Mints,
    records: Records,
}

impl Process {
    fn starts(start: u64) -> Self {
        Self { start, ..Self::default() }
    }

    /// This many milliseconds after the beginning of a slot.
    fn at(&self, millis: u64) -> Moment {
        let wall = UnixMillis(1_800_000_000_000 + millis);
        Moment { at: Time((millis - self.start) * 1_000), wall }
    }

    fn token_at(
        &mut self,
        key: &str,
        now: Moment,
        store: &mut Store,
        answers: Answers,
    ) -> Option<InUse> {
        let mut token = self.mints.token(key, now, &mut self.records);
        while let Some(op) = self.records.poll(now.at) {
            let result = store.carry_out(op, answers);
            self.records.take(result, now.at);
            self.mints.drop_unused(now, &mut self.records);
            let is_unrecorded = token.is_some_and(|token| token.is_unrecorded);
            token = self.mints.token(key, now, &mut self.records);
            token.iter_mut().for_each(|token| token.is_unrecorded |= is_unrecorded);
        }
        token
    }

    /// The token of a key, with a store that answers.
    fn token(&mut self, key: &str, millis: u64, store: &mut Store) -> UnixMillis {
        let now = self.at(millis);
        self.token_at(key, now, store, Answers::Yes).expect("the store answers").slot
    }
}

/// Minutes at which a process that starts at `start` begins to use another token.
fn changes(start: u64, minutes: u64) -> Vec<u64> {
    let (mut process, mut store) = (Process::starts(start), Store::default());
    let (mut changes, mut last, mut next) = (Vec::new(), None, start);
    while next < start + minutes * MINUTE {
        let now = process.at(next);
        let token = process.token_at(KEY, now, &mut store, Answers::Yes).expect("an answer");
        assert!(now.wall.0 - token.slot.0 < 48 * MINUTE + 2_000, "the token is too old");
        if last != Some(token.slot) {
            changes.push(next / MINUTE);
            last = Some(token.slot);
        }
        next += u64::try_from(token.rest.as_millis()).expect("short") + 1_000;
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
    let (mut process, mut store) = (Process::starts(0), Store::default());
    let mut token = |key, millis| process.token(key, millis, &mut store);
    let first = token("mint/1", SLOT - MINUTE);
    assert_ne!(token("mint/2", SLOT + MINUTE), first, "another key is not bound by it");
    assert_eq!(token("mint/1", SLOT + 2 * MINUTE), first);
    assert_eq!(token("mint/1", 2 * SLOT - MINUTE), first, "too late in its slot");
    assert_ne!(token("mint/1", 2 * SLOT), first);
}

#[test]
fn a_clock_that_was_set_makes_a_token_that_gateways_accept() {
    let (mut process, mut store) = (Process::starts(0), Store::default());
    let first = process.token(KEY, 0, &mut store);
    let mut token = |now| process.token_at(KEY, now, &mut store, Answers::Yes).unwrap().slot;
    let moment = |millis: u64, wall: u64| Moment {
        at: Time(millis * 1_000),
        wall: UnixMillis(1_800_000_000_000 + wall),
    };
    assert_ne!(token(moment(1_000, 180 * MINUTE)), first, "it would be three hours old");
    assert_eq!(token(moment(2_000, 0)), first, "it would be of the future");
}

#[test]
fn a_process_that_starts_uses_the_token_of_the_former_process() {
    let mut store = Store::default();
    let first = Process::starts(0).token(KEY, SLOT - 1_000, &mut store);
    let next = SLOT + 1_000;
    assert_eq!(Process::starts(next).token(KEY, next, &mut store), first);
    assert_ne!(Process::starts(next).token("mint/2", next, &mut store), first, "another key");
    let later = 2 * SLOT + 1_000;
    assert_ne!(Process::starts(later).token(KEY, later, &mut store), first, "after 25 minutes");
}

#[test]
fn a_token_in_use_stays_while_the_store_is_away_and_gateways_accept_it() {
    let (mut process, mut store) = (Process::starts(0), Store::default());
    let first = process.token(KEY, 0, &mut store);
    for minute in [24, 30, 48, 49] {
        let now = process.at(minute * MINUTE);
        let token = process.token_at(KEY, now, &mut store, Answers::Away).expect("in use");
        assert_eq!((token.slot, token.is_unrecorded), (first, false), "minute {minute}");
        assert!(token.rest <= Duration::from_mins(50 - minute));
    }
    let refused = process.at(50 * MINUTE);
    assert_eq!(process.token_at(KEY, refused, &mut store, Answers::Away), None);
    assert_eq!(process.mints.deadline(), Some(refused.at + STORE_WAIT));
    let over = process.at(50 * MINUTE + 2_000);
    let second = process.token_at(KEY, over, &mut store, Answers::Away).expect("given out");
    assert!(second.is_unrecorded && second.slot != first);
    let again = process.token_at(KEY, over, &mut store, Answers::Away).expect("in use");
    assert!(!again.is_unrecorded, "one warning");
    assert_eq!(process.mints.deadline(), None);
    // The record follows, and the next process uses the token.
    assert_eq!(process.token(KEY, 51 * MINUTE, &mut store), second.slot);
    assert_eq!(Process::starts(60 * MINUTE).token(KEY, 60 * MINUTE, &mut store), second.slot);
}

#[test]
fn a_first_token_is_given_out_after_a_short_wait_for_the_store() {
    let (mut process, mut store) = (Process::starts(0), Store::default());
    for millis in [0, 1_000, 1_999] {
        let now = process.at(millis);
        assert_eq!(process.token_at(KEY, now, &mut store, Answers::Away), None);
    }
    let now = process.at(2_000);
    let token = process.token_at(KEY, now, &mut store, Answers::Away).expect("given out");
    assert!(token.is_unrecorded);
    assert!(store.0.is_empty());
    // A former process has used another token meanwhile: a second change would do more harm.
    Process::starts(0).token(KEY, SLOT, &mut store);
    assert_eq!(process.token(KEY, SLOT - MINUTE, &mut store), token.slot);
    let stored = MintedToken::decode(&store.0[KEY].bytes[..]).expect("a record");
    assert_eq!(UnixMillis(stored.slot_ms), token.slot);
}

#[test]
fn a_record_that_was_acknowledged_late_is_written_again() {
    let (mut process, mut store) = (Process::starts(0), Store::default());
    let first = process.token(KEY, 0, &mut store);
    let (begun, late) = (process.at(SLOT), process.at(SLOT + 30_000));
    let mut token = |now: Moment, records: &mut Records| {
        process.mints.token(KEY, now, records).expect("the former token stays").slot
    };
    let records = &mut process.records;
    assert_eq!(token(begun, records), first);
    let Some(StoreOp::Write(early)) = records.poll(begun.at) else { panic!("a write") };
    records.take(StoreResult::Written(early.clone(), Ok(())), late.at);
    assert_eq!(token(late, records), first, "the record names an earlier time");
    let Some(StoreOp::Write(second)) = records.poll(late.at) else { panic!("a write") };
    let until = |record: &Numbered| MintedToken::decode(&record.bytes[..]).unwrap().used_ms;
    assert_eq!((second.number, until(&second) - until(&early)), (3, 30_000));
    records.take(StoreResult::Written(second, Ok(())), late.at);
    assert_ne!(token(late, records), first);
}

#[test]
fn a_record_of_a_key_that_nobody_uses_is_deleted_after_a_day() {
    let (mut process, mut store) = (Process::starts(0), Store::default());
    process.token("mint/1", 0, &mut store);
    process.token("mint/2", 0, &mut store);
    process.token("mint/2", DAY, &mut store);
    assert_eq!(store.0.keys().collect::<Vec<_>>(), ["mint/1", "mint/2"]);
    process.token("mint/2", DAY + SLOT, &mut store);
    assert_eq!(store.0.keys().collect::<Vec<_>>(), ["mint/2"]);
    process.token("mint/1", DAY + SLOT + MINUTE, &mut store);
    assert_eq!(store.0["mint/1"].number, 1, "the key is back");
    // A process that starts after two days still uses its key.
    let mut next = Process::starts(3 * DAY);
    next.token("mint/1", 3 * DAY, &mut store);
    assert_eq!(store.0.keys().collect::<Vec<_>>(), ["mint/1"]);
}

fn answers() -> impl Strategy<Value = Answers> {
    prop_oneof![3 => Just(Answers::Yes), 1 => Just(Answers::Away), 1 => Just(Answers::Lost)]
}

fn steps<T: std::fmt::Debug>(
    of: impl Strategy<Value = T>,
) -> impl Strategy<Value = (u64, Vec<(u64, T)>)> {
    let step = prop_oneof![1u64..2 * MINUTE, 1u64..2 * SLOT];
    (0u64..SLOT, proptest::collection::vec((step, of), 1..200))
}

/// The newest token that gateways have seen, and since when.
#[derive(Debug, Default)]
struct Seen(Option<(UnixMillis, u64)>);

impl Seen {
    fn see(&mut self, token: InUse, now: u64) -> Result<(), TestCaseError> {
        prop_assert!(token.rest <= AGE_MAX);
        match self.0 {
            Some((former, _)) if former == token.slot => return Ok(()),
            Some((_, since)) => {
                prop_assert!(now - since >= 20 * MINUTE, "{} ms apart", now - since);
            }
            None => {}
        }
        self.0 = Some((token.slot, now));
        Ok(())
    }
}

proptest! {
    /// However often and whenever processes start and look.
    #[test]
    fn never_two_tokens_within_20_minutes_over_restarts(
        (mut now, steps) in steps(any::<bool>()),
    ) {
        let (mut process, mut store) = (Process::starts(now), Store::default());
        let mut seen = Seen::default();
        for (step, restarts) in steps {
            if restarts {
                process = Process::starts(now);
            }
            let moment = process.at(now);
            let token = process.token_at(KEY, moment, &mut store, Answers::Yes);
            seen.see(token.expect("the store answers"), now)?;
            now += step;
        }
    }

    /// Whatever the store does.
    #[test]
    fn never_two_tokens_within_20_minutes_over_failures_of_the_store(
        (mut now, steps) in steps(answers()),
    ) {
        let (mut process, mut store) = (Process::starts(now), Store::default());
        let mut seen = Seen::default();
        for (step, answers) in steps {
            let moment = process.at(now);
            if let Some(token) = process.token_at(KEY, moment, &mut store, answers) {
                seen.see(token, now)?;
            }
            now += step;
        }
    }
}
