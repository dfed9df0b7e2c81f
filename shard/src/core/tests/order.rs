//! Two lanes of one wave: neither delays the other, each goes from the nearest band outwards, and
//! quotas hold.

use std::time::Duration;

use clarion_proto::{ids::WaveId, outcome::Outcome, time::Time};

use super::{
    gateway::{Gateway, Reply},
    world::{FCM, LANE, SECOND, World},
};
use crate::{command::Command, lane::rate::Rate, outcome::Platform};

const HOUR: Time = Time(3_600 * SECOND);

/// Creates 3,000 devices, half of them through an FCM lane of 20 requests per second.
fn bound(single: bool) -> World {
    let mut world = World::with(Gateway::new(100, |_, _| Reply::Accept), single, 2);
    world.add_fcm(2);
    world.populate_both(0..3_000);
    world.tell(Command::Slice {
        lane: FCM,
        until: Time::NEVER,
        rate: Some(Rate { per_second: 20.0, burst: 20.0 }),
    });
    world
}

/// Returns the bands of the devices with requests on a platform, in order.
fn bands(world: &World, platform: Platform) -> Vec<u32> {
    world.requests_of(platform).iter().map(|r| r.device % 3).collect()
}

fn nearest_first(bands: &[u32], overtaken: usize) {
    // Requests of several connections in one turn may overtake each other; a whole flush at the
    // most.
    let sorted = bands.windows(overtaken + 1).all(|w| w[0] <= w[overtaken]);
    assert!(sorted, "not from the nearest outwards");
}

#[test]
fn a_lane_bound_by_its_quota_holds_back_nobody_of_the_other() {
    let mut world = bound(true);
    world.start_both(1, HOUR);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.requests_of(Platform::Apns).len(), 1_500, "all of them");
    assert!(world.requests_of(Platform::Fcm).len() <= 60);
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.totals(1).outcomes[Outcome::Accepted as usize], 3_000);
    nearest_first(&bands(&world, Platform::Apns), 200);
    nearest_first(&bands(&world, Platform::Fcm), 20);
    assert!(world.last(1).complete);
}

#[test]
fn bands_open_for_each_lane_by_itself() {
    // The other cores of the node are as far as this one: the control plane opens what this core
    // reports.
    let mut world = bound(false);
    world.start_both(1, HOUR);
    let mut apns_done = None;
    for _ in 0..1_200 {
        world.run_for(Duration::from_millis(100));
        let walked = world.last(1).bands_walked.clone();
        assert_eq!(walked.iter().map(|(lane, _)| *lane).collect::<Vec<_>>(), [LANE, FCM]);
        for (lane, bands) in walked {
            world.tell(Command::OpenBands { wave: WaveId(1), lane, bands: bands + 1 });
        }
        if apns_done.is_none() && world.requests_of(Platform::Apns).len() == 1_500 {
            apns_done = Some(world.now);
            assert!(
                bands(&world, Platform::Fcm).iter().all(|band| *band == 0),
                "the other has just begun"
            );
        }
    }
    assert!(apns_done.is_some_and(|at| at < Time(3 * SECOND)), "{apns_done:?}");
    nearest_first(&bands(&world, Platform::Apns), 200);
    nearest_first(&bands(&world, Platform::Fcm), 20);
    assert!(world.last(1).complete);
    assert_eq!(world.totals(1).outcomes[Outcome::Accepted as usize], 3_000);
}

#[test]
fn a_band_stays_shut_for_the_lane_that_nobody_opened_it_for() {
    let mut world = bound(false);
    world.tell(Command::Slice { lane: FCM, until: Time::NEVER, rate: None });
    world.start_both(1, HOUR);
    world.run_for(Duration::from_secs(1));
    world.tell(Command::OpenBands { wave: WaveId(1), lane: FCM, bands: 3 });
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.last(1).bands_walked, [(LANE, 1), (FCM, 3)]);
    assert_eq!(
        (world.requests_of(Platform::Apns).len(), world.requests_of(Platform::Fcm).len()),
        (500, 1_500)
    );
}

#[test]
fn a_gateway_never_sees_more_than_the_quota_however_its_sockets_block() {
    let mut world = bound(true);
    let rate = Rate { per_second: 20.0, burst: 40.0 };
    world.tell(Command::Slice { lane: FCM, until: Time::NEVER, rate: Some(rate) });
    world.run_for(Duration::from_secs(10));
    world.start_both(1, HOUR);
    // Sockets take nothing for a while, again and again, and then all at once; leases come and go
    // meanwhile.
    for round in 0..60u64 {
        world.blocked = round % 3 == 1;
        world.run_for(Duration::from_millis(700 + 211 * (round % 7)));
        let until = world.now + Duration::from_millis(500 + 900 * (round % 5));
        world.tell(Command::Slice { lane: FCM, until, rate: Some(rate) });
    }
    world.blocked = false;
    world.tell(Command::Slice { lane: FCM, until: Time::NEVER, rate: Some(rate) });
    world.run_for(Duration::from_mins(3));
    assert_eq!(world.totals(1).outcomes[Outcome::Accepted as usize], 3_000);
    assert_eq!(world.requests_out(), 0);
    let times: Vec<_> = world.requests_of(Platform::Fcm).iter().map(|r| r.at).collect();
    let most = 40 + 20 * 60;
    for window in times.windows(most + 1) {
        assert!(window[most].since(window[0]) >= Duration::from_mins(1), "{:?}", window[0]);
    }
    // And for shorter windows as well: a flush after a stall is no burst on top of a burst.
    for window in times.windows(101) {
        assert!(window[100].since(window[0]) >= Duration::from_secs(3), "{:?}", window[0]);
    }
}
