use std::{collections::BinaryHeap, time::Duration};

use proptest::{collection::vec, prelude::*};
use rand::SeedableRng as _;
use rand_pcg::Pcg64Mcg;

use super::*;

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;

fn rate(per_second: f64, burst: f64) -> Option<Rate> {
    Some(Rate { per_second, burst })
}

fn spend_all(slice: &mut Slice, now: Time) -> usize {
    let room = slice.room(now);
    slice.take(room, now);
    room
}

fn answer_all(slice: &mut Slice, requests: usize, now: Time) {
    slice.settled(requests, now);
}

#[test]
fn it_begins_empty_and_collects_as_leased() {
    let mut slice = Slice::default();
    assert_eq!(slice.room(Time(SECOND)), 0, "nothing was given yet");
    slice.set(Time(10 * SECOND), rate(100.0, 50.0), Time(SECOND));
    assert_eq!(slice.room(Time(SECOND)), 0);
    assert_eq!(slice.ready_at(Time(SECOND), 0), Some(Time(SECOND + 10_001)));
    assert_eq!(slice.room(Time(SECOND + 200_000)), 20);
    assert_eq!(slice.room(Time(3 * SECOND)), 50, "never more than the burst");
}

#[test]
fn a_gap_between_leases_collects_nothing() {
    let mut slice = Slice::default();
    slice.set(Time(SECOND / 10), rate(100.0, 50.0), Time(0));
    // Leased for a tenth of a second: ten requests, however late the next lease comes.
    slice.set(Time(90 * SECOND), rate(100.0, 50.0), Time(60 * SECOND));
    assert_eq!(slice.room(Time(60 * SECOND)), 10);
    // Whether anybody looked in between or not.
    let mut slice = Slice::default();
    slice.set(Time(SECOND / 10), rate(100.0, 50.0), Time(0));
    (0..600).for_each(|n| assert!(slice.room(Time(n * SECOND / 10)) <= 10));
    slice.set(Time(90 * SECOND), rate(100.0, 50.0), Time(60 * SECOND));
    assert_eq!(slice.room(Time(60 * SECOND)), 10);
}

#[test]
fn a_sixteenth_is_kept_and_collected_behind() {
    let mut slice = Slice::default();
    slice.set(Time::NEVER, rate(100.0, 160.0), Time(0));
    let full = 2 * SECOND;
    assert_eq!((slice.reserve(), slice.room(Time(full))), (10, 160));
    // Others than the newest leave it, and what then comes in is collected as from an empty bucket.
    slice.take(150, Time(full));
    answer_all(&mut slice, 150, Time(full));
    assert_eq!(slice.room(Time(full + 10_000)), 0);
    assert_eq!(slice.ready_at(Time(full), 10), Some(Time(full + 20_000)));
    assert_eq!(slice.room(Time(full + 20_000)), 12, "of which two are theirs");
    slice.take(12, Time(full + 20_000));
    assert_eq!(slice.ready_at(Time(full + 20_000), 10), Some(Time(full + 130_001)));
    assert_eq!(slice.ready_at(Time(full + 20_000), 0), Some(Time(full + 40_000)));
}

#[test]
fn what_is_out_leaves_no_room() {
    let mut slice = Slice::default();
    slice.set(Time::NEVER, rate(100.0, 50.0), Time(0));
    assert_eq!(spend_all(&mut slice, Time(SECOND)), 50);
    assert_eq!(slice.room(Time(100 * SECOND)), 0, "nobody has answered");
    assert_eq!(slice.ready_at(Time(100 * SECOND), 0), None, "so time alone changes nothing");
    answer_all(&mut slice, 20, Time(100 * SECOND));
    assert_eq!(slice.room(Time(100 * SECOND)), 0, "collected from now on");
    assert_eq!(slice.room(Time(101 * SECOND)), 20);
    answer_all(&mut slice, 30, Time(101 * SECOND));
    assert_eq!(slice.room(Time(103 * SECOND)), 50);
}

#[test]
fn no_limit_gives_always_while_leased_and_a_limit_after_it_begins_empty() {
    let mut slice = Slice::default();
    slice.set(Time(SECOND), None, Time(0));
    assert_eq!((slice.room(Time(0)), slice.ready_at(Time(0), 0)), (usize::MAX, Some(Time(0))));
    slice.take(70, Time(1));
    slice.set(Time(100 * SECOND), rate(10.0, 50.0), Time(SECOND / 2));
    assert_eq!(slice.room(Time(SECOND)), 0);
    answer_all(&mut slice, 70, Time(SECOND));
    // Twenty more were out than the burst holds: those are owed first.
    assert_eq!(slice.room(Time(3 * SECOND)), 0);
    assert_eq!(slice.room(Time(4 * SECOND)), 10);
    assert_eq!(slice.room(Time(100 * SECOND)), 0, "the lease is over");
    assert_eq!(slice.ready_at(Time(100 * SECOND), 0), None);
}

#[test]
fn parts_sum_up_to_the_whole_in_any_minute() {
    assert_eq!(share(100.0, 40.0, 4), Rate { per_second: 25.0, burst: 10.0 });
    // Less than a request of burst for each core: the rate pays for it.
    for (per_second, burst, parts) in
        [(100.0, 1.0, 4), (1.0, 3.0, 16), (0.5, 1.0, 2), (0.1, 1.0, 4), (0.0, 0.0, 3)]
    {
        let part = share(per_second, burst, parts);
        #[allow(clippy::cast_precision_loss)]
        let parts = parts as f64;
        assert!(part.burst >= 1.0);
        let whole = burst + 60.0 * per_second;
        assert!(
            part.per_second == 0.0 || parts * (part.burst + 60.0 * part.per_second) <= whole + 1e-9
        );
    }
    // Less than one a minute for each core: nobody sends.
    assert_eq!(share(0.01, 1.0, 4).per_second, 0.0);
}

/// What happens to a node's slices.
#[derive(Debug, Clone)]
enum Act {
    /// A lease of this many milliseconds, granted this many milliseconds ago.
    Lease(u64, u64),
    /// Work for this many milliseconds, with answers after up to this many milliseconds.
    Work(u64, u64),
    /// No bytes are sent or answered for this many milliseconds: sockets block, the process is
    /// stopped.
    Freeze(u64),
    /// The coordinator gives this part (in tenths) of the whole from now on.
    Part(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (100u64..5_000, 0u64..2_000).prop_map(|(lease, ago)| Act::Lease(lease, ago)),
        6 => (1u64..8_000, 1u64..3_000).prop_map(|(time, latency)| Act::Work(time, latency)),
        2 => (1u64..90_000).prop_map(Act::Freeze),
        1 => (1u64..=10).prop_map(Act::Part),
    ]
}

/// The most that arrived in any minute.
fn busiest(mut arrivals: Vec<u64>) -> usize {
    arrivals.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for (last, at) in arrivals.iter().enumerate() {
        while arrivals[first] + MINUTE <= *at {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// With any leases, shares and answers, no minute has more than burst + rate · 60 of the whole,
    /// over all cores together, at the node's sockets and at the gateway.
    #[test]
    fn no_minute_holds_more_than_the_quota(
        cores in 1usize..6,
        per_second in 0u32..40,
        burst in 1u32..60,
        acts in vec(act(), 1..60),
        seed in any::<u64>(),
    ) {
        let (per_second, burst) = (f64::from(per_second), f64::from(burst));
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut slices: Vec<Slice> = (0..cores).map(|_| Slice::default()).collect();
        // (answered at, core), the earliest first.
        let mut out: BinaryHeap<std::cmp::Reverse<(u64, usize)>> = BinaryHeap::new();
        let (mut written, mut arrived) = (Vec::new(), Vec::new());
        let (mut now, mut part) = (1_000 * SECOND, 10u64);
        for act in acts {
            match act {
                Act::Lease(lease_ms, ago_ms) => {
                    let until = Time((now + lease_ms * 1_000).saturating_sub(ago_ms * 1_000));
                    #[allow(clippy::cast_precision_loss)]
                    let tenths = part as f64 / 10.0;
                    let rate = share(per_second * tenths, burst * tenths, cores);
                    slices.iter_mut().for_each(|slice| slice.set(until, Some(rate), Time(now)));
                }
                Act::Part(tenths) => part = tenths,
                Act::Freeze(ms) => now += ms * 1_000,
                Act::Work(ms, latency_ms) => {
                    let end = now + ms * 1_000;
                    while now < end {
                        now += rng.random_range(500..200_000);
                        while let Some(std::cmp::Reverse((at, core))) = out.peek().copied().filter(|o| o.0.0 <= now) {
                            out.pop();
                            let _ = at;
                            slices[core].settled(1, Time(now));
                        }
                        for (core, slice) in slices.iter_mut().enumerate() {
                            for _ in 0..slice.room(Time(now)).min(rng.random_range(0..80)) {
                                slice.take(1, Time(now));
                                written.push(now);
                                // On its way for as long as it likes, but there before it is
                                // answered.
                                let arrives = now + rng.random_range(0..latency_ms * 1_000 + 1);
                                arrived.push(arrives);
                                out.push(std::cmp::Reverse((arrives + rng.random_range(0..50_000), core)));
                            }
                        }
                    }
                }
            }
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let most = (burst + 60.0 * per_second + 1e-6) as usize;
        prop_assert!(busiest(written.clone()) <= most, "{} written, {most} allowed", busiest(written));
        prop_assert!(busiest(arrived.clone()) <= most, "{} arrived, {most} allowed", busiest(arrived));
    }
}

#[test]
fn the_rate_is_reached_when_answers_come_within_the_bursts_time() {
    // A second's worth of burst and answers after 300 ms: nothing is lost of 1,000 a second.
    let mut slice = Slice::default();
    slice.set(Time::NEVER, rate(1_000.0, 1_000.0), Time(0));
    let mut out = std::collections::VecDeque::new();
    let mut sent = 0;
    for ms in 0..20_000u64 {
        let now = Time(10 * SECOND + ms * 1_000);
        while out.front().is_some_and(|at| *at <= now) {
            out.pop_front();
            slice.settled(1, now);
        }
        for _ in 0..slice.room(now) {
            slice.take(1, now);
            out.push_back(now + Duration::from_millis(300));
            sent += 1;
        }
    }
    assert!((20_600..=21_000).contains(&sent), "{sent}");
}
