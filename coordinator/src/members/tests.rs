//! Accepted and refused nodes, and the assignment of partitions.

use clarion_proto::ids::Epoch;

use super::*;
use crate::{
    fixtures::{BOOT_1, BOOT_2, PARTITIONS, node, seconds},
    store::memory::MemoryStore,
};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn claim(
    roster: &Roster,
    name: &str,
    boot: BootId,
    port: u16,
    now: u64,
) -> Result<NodeMemory, Refused> {
    roster.claim(&node(name), boot, at(port), &[], seconds(now))
}

fn gathered(roster: &Roster, now: u64) -> Gathered {
    roster.nodes.lock().gathered(seconds(now))
}

#[test]
fn a_second_process_of_the_same_name_is_refused_while_the_first_is_there() {
    let roster = Roster::new(1);
    let memory = claim(&roster, "a", BOOT_1, 1, 0).unwrap();
    assert_eq!(claim(&roster, "a", BOOT_2, 2, 1).unwrap_err(), Refused::SameName { other: at(1) });
    assert_eq!(
        claim(&roster, "a", BOOT_1, 2, 1).unwrap_err(),
        Refused::SameProcess { other: at(1) }
    );
    roster.release(&node("a"), memory);
    claim(&roster, "a", BOOT_2, 2, 2).unwrap();
}

#[test]
fn a_nodes_memory_outlives_its_session() {
    let roster = Roster::new(1);
    let mut memory = claim(&roster, "a", BOOT_1, 1, 0).unwrap();
    memory.hello(BOOT_1);
    memory.inherit(WaveId(1), Epoch(1));
    roster.release(&node("a"), memory);
    assert!(
        claim(&roster, "a", BOOT_1, 2, 1).unwrap().was_offered(WaveId(1)),
        "whatever its address"
    );
}

#[test]
fn partitions_are_shared_out_when_as_many_are_there_as_there_are_addresses() {
    let roster = Roster::new(1);
    roster.set_addresses(2);
    assert_eq!(gathered(&roster, 0), Gathered::Wait(Time::NEVER));
    let _a = claim(&roster, "a", BOOT_1, 1, 3).unwrap();
    assert_eq!(gathered(&roster, 3), Gathered::Wait(seconds(8)));
    let _b = claim(&roster, "b", BOOT_1, 2, 4).unwrap();
    assert_eq!(gathered(&roster, 4), Gathered::Ready(vec![node("a"), node("b")]));
}

#[test]
fn but_not_before_as_many_as_were_asked_for() {
    let roster = Roster::new(2);
    roster.set_addresses(1); // the second node has no address yet
    let _a = claim(&roster, "a", BOOT_1, 1, 3).unwrap();
    assert_eq!(gathered(&roster, 3), Gathered::Wait(Time::NEVER));
    assert_eq!(gathered(&roster, 3_600), Gathered::Wait(Time::NEVER));
    let _b = claim(&roster, "b", BOOT_1, 2, 3_601).unwrap();
    assert_eq!(gathered(&roster, 3_601), Gathered::Ready(vec![node("a"), node("b")]));
}

#[test]
fn or_with_those_that_are_there_some_seconds_after_the_first() {
    let roster = Roster::new(1);
    roster.set_addresses(3);
    let _a = claim(&roster, "a", BOOT_1, 1, 3).unwrap();
    let b = claim(&roster, "b", BOOT_1, 2, 4).unwrap();
    roster.release(&node("b"), b);
    assert_eq!(gathered(&roster, 7), Gathered::Wait(seconds(8)));
    assert_eq!(
        gathered(&roster, 8),
        Gathered::Ready(vec![node("a")]),
        "the one that left again owns nothing"
    );
}

#[test]
fn a_node_that_says_that_it_will_come_is_waited_for() {
    let roster = Roster::new(1);
    roster.set_addresses(2);
    // A new node, while the second node still keeps to the former coordinator.
    let _a = claim(&roster, "a", BOOT_1, 1, 3).unwrap();
    for now in 3..12 {
        roster.coming(seconds(now));
        let until = seconds((now + 4).max(8));
        assert_eq!(gathered(&roster, now), Gathered::Wait(until));
    }
    let _b = claim(&roster, "b", BOOT_1, 2, 13).unwrap();
    assert_eq!(gathered(&roster, 13), Gathered::Ready(vec![node("a"), node("b")]));
}

#[test]
fn but_not_for_ever() {
    let roster = Roster::new(1);
    roster.set_addresses(2);
    let _a = claim(&roster, "a", BOOT_1, 1, 3).unwrap();
    roster.coming(seconds(17));
    assert_eq!(gathered(&roster, 17), Gathered::Wait(seconds(18)));
    assert_eq!(gathered(&roster, 18), Gathered::Ready(vec![node("a")]));
}

#[test]
fn nobody_is_given_partitions_while_nobody_is_there() {
    let roster = Roster::new(1);
    roster.set_addresses(2);
    let a = claim(&roster, "a", BOOT_1, 1, 3).unwrap();
    roster.release(&node("a"), a);
    assert_eq!(gathered(&roster, 9), Gathered::Wait(Time::NEVER));
}

#[test]
fn names_have_a_limit() {
    let roster = Roster::new(1);
    for i in 0..NAMES_MAX {
        claim(&roster, &format!("n{i}"), BOOT_1, 1, 0).unwrap();
    }
    assert_eq!(claim(&roster, "one-more", BOOT_1, 1, 0).unwrap_err(), Refused::TooManyNames);
}

#[test]
fn what_a_former_process_held_does_not_count_for_the_next() {
    let roster = Roster::new(1);
    let owned = Owned::new(Ownership::assign(1, PARTITIONS, &[node("a")]), PARTITIONS, 1);
    let memory = claim(&roster, "a", BOOT_1, 1, 0).unwrap();
    let positions = vec![wire::LogPosition { log: 0, position: 9 }];
    let state = wire::RegistryState { positions, devices: 5, ..wire::RegistryState::default() };
    roster.registry(&node("a"), Some(&state));
    assert_eq!(roster.totals(Some(&owned)).devices, 5);
    roster.registry(&node("a"), None);
    assert_eq!(roster.totals(Some(&owned)).devices, 0, "it has dropped all of it");
    roster.registry(&node("a"), Some(&state));
    roster.release(&node("a"), memory);
    assert_eq!(roster.totals(Some(&owned)).devices, 5, "it is away, not gone");
    let _memory = claim(&roster, "a", BOOT_2, 1, 1).unwrap();
    let totals = roster.totals(Some(&owned));
    assert_eq!(totals.devices, 0);
    assert_eq!(totals.applied.values().max(), Some(&clarion_proto::ids::Position(0)));
}

#[tokio::test(start_paused = true)]
async fn the_board_has_ownership_once_all_are_there() {
    let (roster, board, clock) = (Roster::new(1), Board::new(), Clock::start());
    roster.set_addresses(2);
    let mut watch = board.watch();
    let wait = async {
        let _a = claim(&roster, "a", BOOT_1, 1, 0).unwrap();
        tokio::task::yield_now().await;
        assert!(board.read().owned.is_none());
        let _b = claim(&roster, "b", BOOT_1, 2, 0).unwrap();
        watch.changed().await.unwrap();
    };
    let store = MemoryStore::new(4, 1 << 20, clock);
    tokio::join!(roster.share_out(&board, (PARTITIONS, 4), &store, clock), wait);
    let owned = board.read().owned.clone().unwrap();
    assert_eq!(owned.ownership.number, 1, "the first in a new store");
    assert_eq!(store.ownership().await.unwrap().as_deref(), Some(&owned.ownership), "recorded");
    assert_eq!(owned.nodes().values().sum::<u16>(), PARTITIONS);
    assert_eq!(owned.nodes().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn ownership_of_the_store_is_on_the_board_before_any_node_is_there() {
    let (roster, board, clock) = (Roster::new(1), Board::new(), Clock::start());
    let store = MemoryStore::new(4, 1 << 20, clock);
    let first = Ownership::assign(1, PARTITIONS, &[node("a")]);
    let second = Ownership::assign(2, PARTITIONS, &[node("a"), node("b")]);
    for ownership in [&first, &second] {
        store.replace_ownership(ownership.clone()).await.unwrap();
    }
    roster.share_out(&board, (PARTITIONS, 4), &store, clock).await;
    assert_eq!(board.read().owned.clone().unwrap().ownership, second);
    let (other, wrong) = (Board::new(), PARTITIONS + 1);
    roster.share_out(&other, (wrong, 4), &store, clock).await;
    assert!(other.read().owned.is_none(), "of another number of partitions: nobody is assigned");
}
