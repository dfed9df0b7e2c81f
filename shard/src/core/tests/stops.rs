//! Cancel, end and expiry: no more requests are sent, and every device that was handed over has an
//! outcome.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    ids::{Epoch, PartitionId, WaveId},
    outcome::Outcome,
    time::Time,
};

use super::{
    gateway::{Gateway, Reply},
    world::{PARTITIONS, SECOND, World, wave_spec},
};
use crate::{command::Command, lane::rate::Rate};

const HOUR: Time = Time(3_600 * SECOND);
const SLOWLY: Option<Rate> = Some(Rate { per_second: 2_000.0, burst: 100.0 });

fn cancel(wave: u64) -> Command {
    Command::Cancel { wave: WaveId(wave), epoch: Epoch(1) }
}

fn ended(world: &World, outcome: Outcome) -> u64 {
    world.totals(1).outcomes[outcome as usize]
}

#[test]
fn after_a_cancel_nothing_is_written() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..5_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, SLOWLY);
    world.run_for(Duration::from_millis(700));
    let (sent, last) = (world.gateway.requests.len(), world.gateway.requests.last().unwrap().at);
    assert!((100..5_000).contains(&sent));
    world.tell(cancel(1));
    let at = world.now;
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.gateway.requests.len(), sent);
    assert_eq!(world.said.stopped, [(WaveId(1), Some(last), 0, at)]);
    assert_eq!(world.totals(1).handed, sent as u64);
    assert_eq!(ended(&world, Outcome::Accepted), sent as u64);
    assert!(world.last(1).ended && !world.last(1).complete);
    world.tell(cancel(1));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.said.stopped.len(), 2, "asked again, answered again");
}

#[test]
fn a_cancel_holds_though_a_socket_takes_nothing() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..2_000);
    world.start(1, HOUR);
    world.start(2, HOUR);
    world.grant(1, Time::NEVER, SLOWLY);
    world.grant(2, Time::NEVER, SLOWLY);
    world.run_for(Duration::from_millis(300));
    world.blocked = true;
    world.run_for(Duration::from_millis(20));
    assert!(world.unsent_bytes() > 0);
    let bodies = |world: &World| world.gateway.requests.len();
    let sent = bodies(&world);
    world.tell(cancel(1));
    let at = world.now;
    world.run_for(Duration::from_millis(99));
    let (wave, last_write, written_after, when) = world.said.stopped[0];
    assert_eq!((wave, written_after), (WaveId(1), 0));
    assert!(last_write.unwrap() <= at);
    assert!(when.since(at) <= Duration::from_millis(60), "{:?}", when.since(at));
    assert_eq!(bodies(&world), sent);
    // The other wave goes on over new connections: everybody of it is reached.
    world.blocked = false;
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.totals(2).outcomes[Outcome::Accepted as usize], 2_000);
    assert_eq!(world.totals(1).open(), 0);
    assert!(
        ended(&world, Outcome::Unknown) > 0,
        "encoded and lost with the connection: it may have gone out"
    );
    assert!(world.said.reports.iter().any(|r| r.wave == WaveId(1) && r.ended));
}

#[test]
fn what_is_in_flight_at_a_cancel_may_still_be_answered_until_its_deadline() {
    let mut world = World::new(Gateway::new(100, |request, _| match request.device % 4 {
        1 if request.at >= Time(SECOND + 200_000) => Reply::Silence,
        _ => Reply::Accept,
    }));
    world.populate(0..2_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, SLOWLY);
    world.run_for(Duration::from_millis(500));
    world.tell(cancel(1));
    world.run_for(Duration::from_secs(1));
    let open = world.totals(1).open();
    assert!(open > 0);
    assert!(!world.last(1).ended);
    world.run_for(Duration::from_secs(15));
    assert_eq!(world.totals(1).open(), 0);
    assert_eq!(ended(&world, Outcome::Unknown), open);
    assert!(world.last(1).ended);
}

#[test]
fn those_who_wait_at_a_cancel_are_expired_or_unknown() {
    let mut world =
        World::new(Gateway::new(100, |request, tries| match (request.device % 10, tries) {
            (1, _) => Reply::Refuse(429, "TooManyRequests"),
            (2, 1) => Reply::Silence,
            (2, _) => Reply::Refuse(429, "TooManyRequests"),
            _ => Reply::Accept,
        }));
    world.populate(0..100);
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.totals(1).open(), 20);
    world.tell(cancel(1));
    world.run_for(Duration::from_secs(15));
    assert_eq!(ended(&world, Outcome::Accepted), 80);
    assert_eq!(ended(&world, Outcome::Expired), 10);
    assert_eq!(ended(&world, Outcome::Unknown), 10);
}

#[test]
fn what_was_not_sent_in_time_is_counted_as_expired() {
    let expires = Time(2 * SECOND);
    let mut world = World::new(Gateway::new(100, |request, _| match request.device % 10 {
        1 => Reply::Refuse(429, "TooManyRequests"),
        2 => Reply::Silence,
        _ => Reply::Accept,
    }));
    world.populate(0..5_000);
    world.start(1, expires);
    world.grant(1, Time::NEVER, SLOWLY);
    world.run(Time(30 * SECOND));
    assert!(world.gateway.requests.iter().all(|r| r.at < expires));
    let totals = world.totals(1);
    assert_eq!((totals.handed, totals.open()), (5_000, 0));
    let silent = world.gateway.requests.iter().filter(|r| r.device % 10 == 2).count() as u64;
    assert_eq!(ended(&world, Outcome::Unknown), silent);
    assert!(ended(&world, Outcome::Expired) > 2_000);
    assert!(ended(&world, Outcome::Accepted) > 500);
    assert!(world.last(1).ended && world.last(1).complete);
    assert_eq!(world.said.handed.values().map(|s| s.len()).sum::<u64>(), 5_000);
}

#[test]
fn a_cancel_may_come_before_its_wave() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..100);
    world.tell(cancel(1));
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.said.stopped.len(), 1);
    assert!(world.gateway.requests.is_empty());
}

#[test]
fn a_lower_epoch_is_not_obeyed() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..100);
    let spec = |epoch| {
        Command::Wave(Arc::new(crate::command::WaveSpec {
            epoch: Epoch(epoch),
            ..wave_spec(1, HOUR, 1)
        }))
    };
    world.tell(spec(3));
    world.tell(cancel(1));
    world.tell(spec(2));
    world.grant(1, Time::NEVER, None);
    world.run_for(Duration::from_secs(1));
    assert!(world.said.stopped.is_empty());
    assert_eq!((world.requests_by_device().len(), world.last(1).epoch), (100, Epoch(3)));
}

#[test]
fn who_was_handed_over_before_is_not_pushed_again() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..400);
    let mut spec = wave_spec(1, HOUR, 1);
    spec.shards[2].handed = (0..1_000).collect();
    world.tell(Command::Wave(Arc::new(spec)));
    world.grant(1, Time::NEVER, None);
    world.run_for(Duration::from_secs(1));
    let others = (0..400).filter(|n| {
        clarion_proto::ids::partition_of(super::world::device(*n), PARTITIONS) != PartitionId(2)
    });
    assert_eq!(world.requests_by_device().len(), others.count());
}

#[test]
fn a_partition_that_goes_to_somebody_else_is_walked_no_further() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..4_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, SLOWLY);
    world.run_for(Duration::from_millis(300));
    let kept: Vec<_> = (0..PARTITIONS - 1).map(PartitionId).collect();
    world.tell(Command::Own(kept.into()));
    let gone = |n: u32| {
        clarion_proto::ids::partition_of(super::world::device(n), PARTITIONS)
            == PartitionId(PARTITIONS - 1)
    };
    let before = world.gateway.requests.iter().filter(|r| gone(r.device)).count();
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.gateway.requests.iter().filter(|r| gone(r.device)).count(), before);
    let last = world.last(1);
    assert!(!last.complete && last.bands_walked == [(super::world::LANE, 3)], "{last:?}");
    let kept = (0..4_000).filter(|n| !gone(*n)).count();
    assert_eq!(world.requests_by_device().len(), kept + before);
}

#[test]
fn a_shutdown_closes_in_order_and_waits_for_answers() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..100);
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(1));
    world.tell(Command::Shutdown);
    assert!(!world.core.is_finished());
    world.run_for(Duration::from_millis(100));
    assert!(world.core.is_finished());
    assert!(world.gateway.connections().is_empty());
}

#[test]
fn a_core_that_shuts_down_in_the_middle_reports_every_answer_before_it_ends() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..4_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, SLOWLY);
    // Between two reports, so that there is something that none has told.
    world.run_for(Duration::from_millis(307));
    world.tell(Command::Shutdown);
    for _ in 0..10_000 {
        if world.core.is_finished() {
            break;
        }
        world.run_for(Duration::from_millis(1));
    }
    assert!(world.core.is_finished());
    let (told, sent) = (world.totals(1), world.gateway.requests.len() as u64);
    assert!((1..4_000).contains(&sent), "{sent} of 4,000: it was in the middle");
    assert_eq!((told.handed, told.outcomes[Outcome::Accepted as usize]), (sent, sent));
    assert!(world.last(1).open.iter().all(|(_, open)| open.is_empty()));
}
