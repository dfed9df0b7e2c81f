//! Accepted and refused nodes, and what the roster keeps of them.

use clarion_proto::ids::Epoch;

use super::*;
use crate::{
    fixtures::{BOOT_1, BOOT_2, PARTITIONS, node, seconds},
    owners::Ownership,
};

fn roster() -> Roster {
    Roster::new(1, PARTITIONS, 4)
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn claim(
    roster: &mut Roster,
    name: &str,
    boot: BootId,
    port: u16,
    now: u64,
) -> Result<NodeMemory, Refused> {
    roster.claim(&node(name), boot, at(port), &[], seconds(now))
}

#[test]
fn a_second_process_of_the_same_name_is_refused_while_the_first_is_there() {
    let mut roster = roster();
    let memory = claim(&mut roster, "a", BOOT_1, 1, 0).unwrap();
    assert_eq!(
        claim(&mut roster, "a", BOOT_2, 2, 1).unwrap_err(),
        Refused::SameName { other: at(1) }
    );
    assert_eq!(
        claim(&mut roster, "a", BOOT_1, 2, 1).unwrap_err(),
        Refused::SameProcess { other: at(1) }
    );
    roster.release(&node("a"), memory);
    claim(&mut roster, "a", BOOT_2, 2, 2).unwrap();
}

#[test]
fn a_nodes_memory_outlives_its_session() {
    let mut roster = roster();
    let mut memory = claim(&mut roster, "a", BOOT_1, 1, 0).unwrap();
    memory.hello(BOOT_1);
    memory.inherit(WaveId(1), Epoch(1));
    roster.release(&node("a"), memory);
    assert!(
        claim(&mut roster, "a", BOOT_1, 2, 1).unwrap().was_offered(WaveId(1)),
        "whatever its address"
    );
}

#[test]
fn names_have_a_limit() {
    let mut roster = roster();
    for i in 0..NAMES_MAX {
        claim(&mut roster, &format!("n{i}"), BOOT_1, 1, 0).unwrap();
    }
    assert_eq!(claim(&mut roster, "one-more", BOOT_1, 1, 0).unwrap_err(), Refused::TooManyNames);
}

#[test]
fn what_a_former_process_held_does_not_count_for_the_next() {
    let mut roster = roster();
    let owned = Owned::new(Ownership::assign(1, PARTITIONS, &[node("a")]), PARTITIONS, 1);
    let memory = claim(&mut roster, "a", BOOT_1, 1, 0).unwrap();
    let positions = vec![wire::LogPosition { log: 0, position: 9 }];
    let state = wire::RegistryState { positions, devices: 5, ..wire::RegistryState::default() };
    roster.registry(&node("a"), Some(&state));
    assert_eq!(roster.totals(Some(&owned)).devices, 5);
    roster.registry(&node("a"), None);
    assert_eq!(roster.totals(Some(&owned)).devices, 0, "it has dropped all of it");
    roster.registry(&node("a"), Some(&state));
    roster.release(&node("a"), memory);
    assert_eq!(roster.totals(Some(&owned)).devices, 5, "it is away, not gone");
    let _memory = claim(&mut roster, "a", BOOT_2, 1, 1).unwrap();
    let totals = roster.totals(Some(&owned));
    assert_eq!(totals.devices, 0);
    assert_eq!(totals.applied.values().max(), Some(&clarion_proto::ids::Position(0)));
}
