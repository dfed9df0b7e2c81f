//! One sick lane never slows another: a gateway that floods each of its connections has a core to
//! share with one that is well. Time is a number here, and what a turn hears costs some of it, so
//! how much the attack takes can be said exactly.

use std::{collections::BTreeSet, time::Duration};

use clarion_proto::time::Time;

use super::{
    gateway::{Gateway, Reply},
    world::{FCM, SECOND, World},
};
use crate::{
    command::Command,
    floods::{Flood, floods},
    lane::rate::Rate,
    outcome::Platform,
};

const HOUR: Time = Time(3_600 * SECOND);
/// Bytes that a driver reads from one socket before other sockets have their turn.
const READ_BUDGET: usize = 256 * 1024;
/// Duration of a turn: 10 µs, and 4 ns for each byte of an attacker. Frames of ten bytes take 40 ns
/// each, twice the cost of the reader's slow path.
const TURN: Duration = Duration::from_micros(10);
const BYTES_PER_MICROSECOND: usize = 250;
/// More bytes than any attack delivers on one connection before it is closed: the longest tolerated
/// frames, and one more read.
const HEARD_MAX: usize = 4 << 20;

/// Returns when the healthy lane has pushed to all of its 300 devices at 1,000 per second, in turns
/// and in time, and the bytes from the other gateway.
fn beside(flood: Option<&Flood>) -> (usize, Duration, usize) {
    let mut world = World::new(Gateway::new(100, |request, _| match request.platform {
        Platform::Apns => Reply::Silence,
        Platform::Fcm => Reply::Accept,
    }));
    world.add_fcm(2);
    world.latency = Duration::from_millis(10);
    world.populate_both(0..600);
    let rate = Some(Rate { per_second: 1_000.0, burst: 50.0 });
    world.tell(Command::Slice { lane: FCM, until: Time::NEVER, rate });
    let again = flood
        .filter(|flood| !flood.again.is_empty())
        .map(|f| f.again.repeat(READ_BUDGET / f.again.len()));
    let (began, mut turns, mut heard, mut flooded) = (world.now, 0, 0, BTreeSet::new());
    world.start_both(1, HOUR);
    while world.requests_of(Platform::Fcm).len() < 300 {
        turns += 1;
        let active = world.step();
        let mut bytes = 0;
        for id in world.gateway.connections_of(Platform::Apns) {
            let Some(flood) = flood else { break };
            let first: &[u8] = if flooded.insert(id) { &flood.first } else { &[] };
            for words in [first, again.as_deref().unwrap_or_default()] {
                world.core.receive(id, words, world.now);
                bytes += words.len();
            }
        }
        heard += bytes;
        let next = if active || bytes > 0 { world.now } else { world.next().max(world.now) };
        world.now = next + TURN + Duration::from_micros((bytes / BYTES_PER_MICROSECOND) as u64);
        assert!(world.now < began + Duration::from_secs(20), "the well lane waits");
    }
    world.attempts_are_bounded(2 + 2);
    let attempts = world.attempts.len();
    assert!(heard <= attempts * HEARD_MAX, "{heard} bytes in {attempts} attempts");
    (turns, world.now.since(began), heard)
}

#[test]
fn a_lane_is_as_fast_beside_one_that_is_attacked_as_beside_one_that_is_silent() {
    let (_, alone, _) = beside(None);
    for flood in floods(1, 1) {
        let (turns, attacked, heard) = beside(Some(&flood));
        assert!(attacked <= alone + alone / 10, "{}: {attacked:?} for {alone:?}", flood.name);
        // Each turn that the attack adds has heard something, or has cut somebody off.
        assert!(turns < 10_000, "{}: {turns} turns, {heard} bytes", flood.name);
    }
}
