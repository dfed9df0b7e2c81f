use proptest::prelude::*;

use super::*;

const LIMITS: ConnectionLimits = ConnectionLimits { floor: 2, ceiling: 64 };

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn ms(n: u64) -> Time {
    Time(n * 1_000)
}

/// Of a node with so many connections, each with 100 streams and a window that is never in the way.
fn load(connections: u32, starved_permille: u32, out: u64) -> wire::LaneLoad {
    wire::LaneLoad {
        busy: true,
        starved_permille,
        connections,
        streams: u64::from(connections) * 100,
        window_bytes: u64::from(connections) << 30,
        requests_out_max: out,
        body_bytes: 250,
        ..wire::LaneLoad::default()
    }
}

fn idle() -> wire::LaneLoad {
    wire::LaneLoad { busy: false, ..load(2, 0, 0) }
}

/// Latencies around one value.
fn taking(us: u64) -> Vec<u32> {
    let mut latencies = Latencies::default();
    (0..100).for_each(|_| latencies.count(us));
    latencies.to_wire()
}

#[test]
fn a_rate_needs_what_arithmetic_says() {
    // FCM's default quota at its own distance; APNs at full speed; a window of 64 KiB with bodies
    // of 257 bytes.
    assert_eq!(needed(10_000.0, 100_000.0, 100.0), 11);
    assert_eq!(needed(20_000.0, 50_000.0, 1_000.0), 2);
    assert_eq!(needed(20_000.0, 50_000.0, 65_535.0 / 257.0), 5);
    assert_eq!(needed(0.0, 100_000.0, 100.0), 1);
    assert_eq!(needed(f64::MAX, 1e9, 1.0), u32::MAX);
}

#[test]
fn a_quota_is_served_by_what_it_needs_and_follows_the_latency() {
    let mut budget = Budget::new(LIMITS, 100, ms(0));
    let mut say = |us, now| {
        budget.hear(
            &node("a"),
            wire::LaneLoad { latencies: taking(us), ..load(2, 0, 10) },
            Some(10_000.0),
            1,
            now,
        );
        budget.connections()
    };
    let near = say(20_000, ms(0));
    assert!((3..=4).contains(&near), "{near}: 10,000 × 20 ms ÷ 100, and one");
    let far = say(200_000, ms(100));
    assert!((20..=23).contains(&far), "{far}: at once");
    assert_eq!(say(20_000, ms(200)), far, "not back at once");
    assert_eq!(say(20_000, ms(30_100)), far);
    assert_eq!(say(20_000, ms(30_300)), near);
}

#[test]
fn without_a_quota_it_doubles_while_connections_are_the_bottleneck() {
    let mut budget = Budget::new(LIMITS, 100, ms(0));
    let mut say = |load, now| {
        budget.hear(&node("a"), load, None, 1, now);
        budget.connections()
    };
    assert_eq!(say(load(2, 900, 200), ms(0)), 4);
    assert_eq!(say(load(2, 900, 200), ms(100)), 4, "two are still being opened");
    assert_eq!(say(load(4, 900, 400), ms(200)), 8);
    assert_eq!(say(load(8, 499, 800), ms(300)), 8, "the core is at work");
    assert_eq!(say(load(8, 500, 800), ms(400)), 16);
    assert_eq!(say(load(14, 900, 1_400), ms(500)), 32, "two of sixteen are being replaced");
    assert_eq!(say(load(32, 900, 3_200), ms(600)), 64);
    assert_eq!(say(load(64, 1_000, 6_400), ms(700)), 64, "the ceiling");
}

#[test]
fn it_shrinks_when_little_is_used_or_nothing_is_to_be_sent() {
    let mut budget = Budget::new(LIMITS, 100, ms(0));
    let mut say = |load, now| {
        budget.hear(&node("a"), load, None, 1, now);
        budget.connections()
    };
    // Later than what a new coordinator takes over is taken for needed.
    let second = |n: u64| ms(60_000 + n * 1_000);
    for (n, at) in [(2, 0), (4, 100), (8, 200), (16, 300)] {
        say(load(n, 900, 100 * u64::from(n)), ms(60_000 + at));
    }
    assert_eq!(say(load(32, 0, 1_000), ms(60_400)), 32, "31 %: enough");
    assert!(
        (1..=30).all(|n| say(load(32, 0, 800), second(n)) == 32),
        "a quarter, but not for long enough"
    );
    assert_eq!(say(load(32, 0, 800), second(31)), 16);
    assert_eq!(say(load(16, 0, 800), second(32)), 16, "now it is half of them");
    assert_eq!(say(idle(), second(33)), 16);
    assert_eq!(say(idle(), second(63)), 2);
}

#[test]
fn a_new_coordinator_takes_over_what_stands() {
    let mut budget = Budget::new(LIMITS, 100, ms(0));
    budget.hear(&node("a"), load(9, 0, 900), None, 2, ms(0));
    budget.hear(&node("b"), load(11, 0, 1_100), None, 2, ms(10));
    assert_eq!(budget.connections(), 20);
}

#[test]
fn nodes_that_have_gone_are_not_counted() {
    let mut budget = Budget::new(ConnectionLimits { floor: 1, ceiling: 64 }, 100, ms(0));
    budget.hear(&node("a"), load(1, 900, 100), None, 1, ms(40_000));
    assert_eq!(budget.connections(), 2);
    // What `a` said is too old to make anybody starve.
    budget.hear(&node("b"), load(2, 0, 150), None, 1, ms(43_000));
    assert_eq!(budget.connections(), 2);
}

proptest! {
    #[test]
    fn a_budget_keeps_its_bounds_and_remembers_little(
        floor in 1u32..20,
        above in 0u32..100,
        nodes in 0usize..8,
        quota in proptest::option::of(0.0..1e7),
        said in proptest::collection::vec((0usize..4, 0u32..200, 0u32..=1_000, 0u64..30_000, any::<bool>(), 1u64..10_000_000, 0u64..20_000), 1..80),
    ) {
        let limits = ConnectionLimits { floor, ceiling: floor + above };
        let mut budget = Budget::new(limits, 100, Time(0));
        let mut now = Time(0);
        for (name, connections, starved, out, busy, us, later_ms) in said {
            now = now + Duration::from_millis(later_ms);
            let before = budget.connections();
            let load = wire::LaneLoad { busy, latencies: taking(us), ..load(connections, starved, out) };
            budget.hear(&node(&format!("n{name}")), load, quota, nodes, now);
            let least = floor.max(u32::try_from(nodes).unwrap());
            prop_assert!((least..=limits.ceiling.max(least)).contains(&budget.connections()));
            prop_assert!(budget.wanted.len() <= limits.ceiling.max(least) as usize + 1);
            if budget.connections() < before {
                // Nothing higher was wanted for as long as that counts.
                prop_assert!(budget.wanted.iter().all(|(at, wanted)| now.since(*at) <= HOLD && *wanted < before));
            }
        }
    }

    #[test]
    fn parts_sum_up_and_a_budget_that_rises_takes_nothing_away(
        partitions in proptest::collection::vec(1u16..512, 1..12),
        budget in 0u32..300,
    ) {
        let nodes: BTreeMap<_, _> = partitions.iter().enumerate().map(|(n, p)| (node(&format!("n{n}")), *p)).collect();
        let parts = |budget| nodes.keys().map(|name| share(budget, &nodes, name)).collect::<Vec<_>>();
        let (now, more) = (parts(budget), parts(budget + 1));
        prop_assert_eq!(now.iter().sum::<u32>(), budget.max(u32::try_from(nodes.len()).unwrap()));
        prop_assert!(now.iter().all(|part| *part >= 1));
        prop_assert!(now.iter().zip(&more).all(|(now, more)| more >= now));
        // Who has more partitions has no fewer; who has as many has one more or less at most.
        let mut by_partitions: Vec<_> = nodes.values().zip(&now).collect();
        by_partitions.sort_unstable();
        for pair in by_partitions.windows(2) {
            let [(few, least), (many, most)] = pair else { unreachable!("two") };
            prop_assert!(least <= most || few == many, "{by_partitions:?}");
            prop_assert!(few < many || **most - **least <= 1, "{by_partitions:?}");
        }
    }
}

#[test]
fn who_owns_nothing_has_no_part() {
    let nodes = BTreeMap::from([(node("a"), 3)]);
    assert_eq!((share(7, &nodes, &node("a")), share(7, &nodes, &node("b"))), (7, 0));
}
