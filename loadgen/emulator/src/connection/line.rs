//! Waiting answers in order of their due time: a calendar of ticks, because all answers of one tick
//! are sent together.
//!
//! Each connection of a distant gateway has tens of thousands of waiting answers, and a heap would
//! move each of them a dozen times. Here an answer is added to the list of its tick and removed
//! with that list; both cost the same however many answers wait. Ticks beyond the calendar's
//! [`PAGES_MAX`], which only the pace of a slow gateway reaches, are in a tree. Answers that wait
//! for the end of a silence, and requests that are never answered, are in lists of their own.

use std::collections::{BTreeMap, VecDeque};

use clarion_proto::time::Time;

use super::answers::Pending;

/// Length of a tick at which waiting answers are sent, microseconds. A write of one answer costs as
/// much as a write of hundreds.
pub(super) const TICK_US: u64 = 1_000;
/// Number of ticks that the calendar covers: 24 bytes each, and the answers due in them.
const PAGES_MAX: u64 = 2_048;
/// Number of emptied lists that are kept for later ticks, and the longest list that is kept: 8 ×
/// 1,024 × some 100 bytes.
const SPARE_MAX: usize = 8;
const SPARE_LENGTH_MAX: usize = 1_024;

/// Waiting answers of one connection.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Tick of the first page. If there are pages, the first one is not empty.
    first: u64,
    pages: VecDeque<Vec<Pending>>,
    /// Answers beyond the pages, by tick; no list is empty.
    later: BTreeMap<u64, Vec<Pending>>,
    /// Answers that are due at [`Pending::HELD`].
    held: Vec<Pending>,
    /// Answers that are due at [`Time::NEVER`].
    never: Vec<Pending>,
    len: usize,
    spare: Vec<Vec<Pending>>,
}

/// Returns the tick at which an answer leaves: the first tick that is not before its due time.
fn tick(due: Time) -> u64 {
    due.0.div_ceil(TICK_US)
}

impl Waiting {
    pub(super) fn push(&mut self, pending: Pending) {
        self.len += 1;
        match pending.due {
            Time::NEVER => return self.never.push(pending),
            Pending::HELD => return self.held.push(pending),
            _ => {}
        }
        let tick = tick(pending.due);
        if self.pages.is_empty() {
            self.first = tick;
        }
        // The tick is before the first page: empty pages are added in front while the last page
        // stays within the calendar.
        while tick < self.first && self.first - tick + self.pages.len() as u64 <= PAGES_MAX {
            self.first -= 1;
            let page = self.spare.pop().unwrap_or_default();
            self.pages.push_front(page);
        }
        match tick.checked_sub(self.first) {
            Some(ahead @ 0..PAGES_MAX) => {
                let at = usize::try_from(ahead).expect("below the calendar's length");
                while self.pages.len() <= at {
                    let page = self.spare.pop().unwrap_or_default();
                    self.pages.push_back(page);
                }
                self.pages[at].push(pending);
            }
            _ => self.later.entry(tick).or_default().push(pending),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the due time of the next answer; `None` if no answer has a due time.
    pub(super) fn due(&self) -> Option<Time> {
        let page = (!self.pages.is_empty()).then_some(self.first);
        let later = self.later.first_key_value().map(|(tick, _)| *tick);
        page.into_iter().chain(later).min().map(|tick| Time(tick * TICK_US))
    }

    pub(super) fn contains(&self, stream: u32) -> bool {
        self.all().any(|p| p.stream == stream)
    }

    /// Removes and returns all answers of the earliest tick, if that tick has come.
    pub(super) fn take_due(&mut self, now: Time) -> Option<Vec<Pending>> {
        let due = self.due().filter(|due| *due <= now)?;
        let tick = due.0 / TICK_US;
        let taken = if !self.pages.is_empty() && self.first == tick {
            let page = self.pages.pop_front()?;
            self.first += 1;
            self.turn();
            // The tree may hold answers of the same tick, added when the calendar did not reach
            // that far.
            match self.later.remove(&tick) {
                Some(mut all) => {
                    all.extend(page);
                    all
                }
                None => page,
            }
        } else {
            self.later.remove(&tick)?
        };
        self.len -= taken.len();
        Some(taken)
    }

    /// Takes a list of [`Self::take_due`] back, so that its memory is used again.
    pub(super) fn recycle(&mut self, mut list: Vec<Pending>) {
        list.clear();
        if self.spare.len() < SPARE_MAX && list.capacity() <= SPARE_LENGTH_MAX {
            self.spare.push(list);
        }
    }

    /// Removes the answer of a stream that the client reset.
    pub(super) fn remove(&mut self, stream: u32) -> Option<Pending> {
        let take = |list: &mut Vec<Pending>| {
            let at = list.iter().position(|p| p.stream == stream)?;
            Some(list.remove(at))
        };
        let listed = self.pages.iter_mut().chain(self.later.values_mut()).find_map(take);
        let found =
            listed.or_else(|| [&mut self.held, &mut self.never].into_iter().find_map(take))?;
        self.len -= 1;
        self.later.retain(|_, list| !list.is_empty());
        self.turn();
        Some(found)
    }

    /// Removes and returns all waiting answers, oldest stream first.
    pub(super) fn take(&mut self) -> Vec<Pending> {
        let whole = std::mem::take(self);
        let lists = whole
            .pages
            .into_iter()
            .chain(whole.later.into_values())
            .chain([whole.held, whole.never]);
        let mut all: Vec<_> = lists.flatten().collect();
        all.sort_by_key(|p| p.stream);
        all
    }

    /// Limits every due time to `latest`, after slowness has ended. Requests that are never
    /// answered stay.
    pub(super) fn hasten(&mut self, latest: Time) {
        for mut pending in self.take() {
            if pending.due != Time::NEVER {
                pending.due = pending.due.min(latest);
            }
            self.push(pending);
        }
    }

    fn all(&self) -> impl Iterator<Item = &Pending> {
        self.pages.iter().chain(self.later.values()).flatten().chain(&self.held).chain(&self.never)
    }

    /// Removes empty pages from the front.
    fn turn(&mut self) {
        while let Some(page) = self.pages.pop_front_if(|page| page.is_empty()) {
            self.first += 1;
            self.recycle(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use proptest::prelude::*;

    use super::{
        super::{
            super::{answer::Answer, record::Log},
            answers::Subject,
        },
        *,
    };

    fn pending(due: Time, stream: u32) -> Pending {
        let handle = Log::default().push(super::super::super::record::Entry::default());
        Pending {
            due,
            stream,
            answer: Answer::ACCEPTED,
            subject: Subject::Apns([0; 16]),
            handle,
            fate: Default::default(),
        }
    }

    fn streams(list: &[Pending]) -> Vec<u32> {
        list.iter().map(|p| p.stream).collect()
    }

    #[test]
    fn what_is_due_in_one_tick_leaves_together_and_in_order() {
        let mut line = Waiting::default();
        for (due, stream) in [(5_000, 1), (4_001, 3), (9_000, 5), (5_000, 7)] {
            line.push(pending(Time(due), stream));
        }
        assert_eq!((line.len(), line.due()), (4, Some(Time(5_000))));
        assert!(line.take_due(Time(4_999)).is_none());
        assert_eq!(streams(&line.take_due(Time(5_000)).expect("due")), [1, 3, 7]);
        assert_eq!(line.due(), Some(Time(9_000)));
    }

    #[test]
    fn held_and_never_are_due_at_no_time_but_can_be_hastened() {
        let mut line = Waiting::default();
        line.push(pending(Time::NEVER, 1));
        line.push(pending(Pending::HELD, 3));
        assert_eq!((line.len(), line.due()), (2, None));
        line.hasten(Time(2_000));
        assert_eq!(streams(&line.take_due(Time(2_000)).expect("due")), [3]);
        assert_eq!((line.len(), line.due(), line.contains(1)), (1, None, true));
        assert_eq!(line.remove(1).map(|p| p.stream), Some(1));
        assert_eq!(line.len(), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u64),
        Pass(u64),
        Remove(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Some delays reach beyond the calendar.
        prop_oneof![
            4 => prop_oneof![0..10_000_u64, 0..5_000_000_u64].prop_map(Step::Push),
            2 => prop_oneof![0..3_000_u64, 0..3_000_000_u64].prop_map(Step::Pass),
            1 => (0..64_usize).prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// Checks that the line returns what a heap returns, in the order of ticks.
        #[test]
        fn it_is_a_heap_of_ticks(steps in prop::collection::vec(step(), 1..200)) {
            let (mut line, mut heap) = (Waiting::default(), BinaryHeap::new());
            let (mut now, mut stream) = (1_000_000, 1);
            for step in steps {
                match step {
                    Step::Push(delay) => {
                        line.push(pending(Time(now + delay), stream));
                        heap.push(Reverse((tick(Time(now + delay)), stream)));
                        stream += 2;
                    }
                    Step::Pass(time) => {
                        now += time;
                        while let Some(list) = line.take_due(Time(now)) {
                            let mut got = streams(&list);
                            got.sort_unstable();
                            let first = heap.peek().map(|Reverse((tick, _))| *tick);
                            let mut expected = Vec::new();
                            while let Some(&Reverse((tick, stream))) = heap.peek().filter(|r| Some(r.0.0) == first) {
                                prop_assert!(tick * TICK_US <= now);
                                expected.push(stream);
                                heap.pop();
                            }
                            prop_assert_eq!(got, expected);
                            line.recycle(list);
                        }
                        prop_assert!(heap.peek().is_none_or(|Reverse((tick, _))| tick * TICK_US > now));
                    }
                    Step::Remove(at) => {
                        let gone = heap.iter().nth(at).map(|Reverse((_, stream))| *stream);
                        if let Some(gone) = gone {
                            prop_assert_eq!(line.remove(gone).map(|p| p.stream), Some(gone));
                            heap.retain(|Reverse((_, stream))| *stream != gone);
                        }
                    }
                }
                prop_assert_eq!(line.len(), heap.len());
                let due = heap.peek().map(|Reverse((tick, _))| Time(tick * TICK_US));
                prop_assert_eq!(line.due(), due);
            }
        }
    }
}
