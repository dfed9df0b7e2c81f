//! Connections follow the budget, and their use is reported.

use std::{collections::BTreeSet, time::Duration};

use clarion_proto::{outcome::Outcome, time::Time};

use super::{
    gateway::{Gateway, Reply},
    world::{LANE, SECOND, World},
};
use crate::{
    command::Command,
    lane::{pool::AGE_MAX, rate::Rate},
};

const HOUR: Time = Time(3_600 * SECOND);

fn connections(connections: usize) -> Command {
    Command::Connections { lane: LANE, connections, host: None }
}

/// Creates a world whose gateway is 50 ms away and allows 100 streams.
fn far(connections: usize) -> World {
    let mut world = World::with(Gateway::new(100, |_, _| Reply::Accept), true, connections);
    world.latency = Duration::from_millis(50);
    world.populate(0..20_000);
    world
}

#[test]
fn a_lane_whose_streams_are_all_used_says_so_and_what_they_carry() {
    let mut world = far(1);
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(2));
    let load = world.said.loads[&LANE].last().expect("said").clone();
    assert!(load.busy && load.starved > 0.9, "{load:?}");
    assert_eq!((load.connections, load.streams), (1, 100));
    assert!((65_535..70_000).contains(&load.window_bytes), "{load:?}");
    assert_eq!(load.requests_out_max, 100);
    assert!((30..40).contains(&(load.body_bytes / load.bodies)), "{load:?}");
    let middle = load.latencies.middle().expect("sampled");
    assert!((40_000.0..=62_000.0).contains(&middle), "{middle}");
    // 100 streams and 50 ms.
    let rate = world.totals(1).outcomes[Outcome::Accepted as usize] / 2;
    assert!((1_700..=2_000).contains(&rate), "{rate}");
}

#[test]
fn a_lane_that_waits_for_something_else_does_not_ask_for_connections() {
    let mut world = far(1);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, Some(Rate { per_second: 500.0, burst: 10.0 }));
    world.run_for(Duration::from_secs(2));
    let load = world.said.loads[&LANE].last().expect("said");
    assert!(load.busy && load.starved < 0.1, "{load:?}");
    assert!(load.requests_out_max < 60, "{load:?}");
    let told = world.said.loads[&LANE].len();
    assert!((15..=25).contains(&told), "{told}: ten times a second");
}

#[test]
fn connections_follow_the_budget_and_surplus_ones_leave_in_order() {
    let mut world = far(1);
    world.start(1, HOUR);
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.gateway.connections().len(), 1);
    world.tell(connections(4));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.gateway.connections().len(), 4);
    let before: BTreeSet<_> = world.gateway.connections().into_iter().collect();
    let sent = world.gateway.requests.len();
    world.run_for(Duration::from_secs(1));
    let fast = world.gateway.requests.len() - sent;
    assert!((7_000..=8_000).contains(&fast), "{fast}");
    world.tell(connections(1));
    world.run_for(Duration::from_millis(200));
    let left: BTreeSet<_> = world.gateway.connections().into_iter().collect();
    assert!(left.len() == 1 && left.is_subset(&before), "{left:?}");
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.requests_by_device().len(), 20_000);
    assert!(
        world.requests_by_device().values().all(|times| *times == 1),
        "what was out was answered before they left"
    );
    assert_eq!(world.last(1).unanswered_requests, 0);
    let load = world.said.loads[&LANE].last().expect("said");
    assert!(!load.busy, "the last word is that it is idle");
}

#[test]
fn an_old_connection_is_replaced_by_a_young_one() {
    let mut world = far(3);
    world.run_for(Duration::from_secs(1));
    let first = world.gateway.connections();
    assert_eq!(first.len(), 1, "warm, and no more while there is nothing to send");
    world.run_for(AGE_MAX * 3 / 4 - Duration::from_mins(1));
    assert_eq!(world.gateway.connections(), first);
    world.run_for(AGE_MAX / 4 + Duration::from_mins(2));
    let second = world.gateway.connections();
    assert!(second.len() == 1 && second != first);
    assert_eq!(world.attempts.len(), 2);
    world.start(1, Time::NEVER);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.requests_by_device().len(), 20_000);
}
