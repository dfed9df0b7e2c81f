//! One of several coordinators: what a session does when another coordinator directs a wave or the
//! lanes, and when ownership changes.

use clarion_proto::{ids::Epoch, wire::shard_v1::RefusalCause};
use session_response::Message as Said;

use super::*;
use crate::{
    fixtures::*,
    owners::{Owned, Ownership},
};

fn sent(session: &mut Session) -> Vec<Message> {
    std::iter::from_fn(|| session.poll_message()).map(|request| request.message.unwrap()).collect()
}

fn notes(session: &mut Session) -> Vec<Note> {
    std::iter::from_fn(|| session.poll_note()).collect()
}

fn with_wave() -> Standing {
    let mut standing = standing(None);
    standing.waves.insert(WAVE, wave(Phase::Running));
    standing
}

fn open(memory: NodeMemory, standing: Standing) -> Session {
    let log = LogIdentity([1; 16]);
    Session::open((node("a"), BOOT_1), log, memory, Arc::new(standing), seconds(2))
}

fn superseded(epoch: u64) -> Said {
    Said::Refusal(wire::Refusal {
        ownership: 5,
        wave: WAVE.0,
        reason: "wave.epoch: is 1, but another is obeyed".to_owned(),
        cause: RefusalCause::Superseded.into(),
        epoch,
        ..wire::Refusal::default()
    })
}

fn ask(nonce: u64, lane: LaneId) -> Said {
    let (waves, lanes) = (vec![WAVE.0], vec![lane.0]);
    Said::LeaseRequest(wire::LeaseRequest { nonce, waves, lanes })
}

#[test]
fn a_refusal_with_a_higher_epoch_ends_grants_and_sends_no_end() {
    let running = with_wave();
    let mut session = open(NodeMemory::default(), running.clone());
    sent(&mut session);
    notes(&mut session);
    session.receive(superseded(2), seconds(3)).unwrap();
    let said = notes(&mut session);
    let [Note::Fault(_), Note::Wave(WAVE, WaveNote::Superseded(Epoch(2)))] = &said[..] else {
        panic!("{said:?}")
    };
    session.receive(ask(1, LANE), seconds(3)).unwrap();
    let messages = sent(&mut session);
    assert!(matches!(&messages[0], Message::Grant(grant) if grant.waves.is_empty()));

    let mut left = Standing { waves: BTreeMap::new(), ..running };
    left.abandoned.push_back(WAVE);
    session.update(Arc::new(left.clone()), seconds(4));
    assert!(sent(&mut session).is_empty(), "the node would forget what it has handed");
    // Nor does the next session, whose node may not know the other coordinator yet.
    let (memory, _) = session.close(None);
    let mut next = open(memory, left);
    assert!(!sent(&mut next).iter().any(|m| matches!(m, Message::End(_) | Message::Wave(_))));
}

#[test]
fn a_refusal_with_the_own_epoch_is_a_failed_delivery() {
    let mut session = open(NodeMemory::default(), with_wave());
    sent(&mut session);
    notes(&mut session);
    session.receive(superseded(1), seconds(3)).unwrap();
    assert!(matches!(notes(&mut session)[..], [Note::Fault(_)]));
    session.expire(seconds(4));
    assert!(matches!(sent(&mut session)[..], [Message::Wave(_)]), "it is offered again");
}

#[test]
fn a_newer_ownership_leads_to_a_new_offer_once() {
    let mut session = open(NodeMemory::default(), with_wave());
    sent(&mut session);
    let mut changed = with_wave();
    let ownership = Ownership::assign(6, PARTITIONS, &[node("a")]);
    changed.owned = Some(Arc::new(Owned::new(ownership, PARTITIONS, PARTITIONS)));
    session.update(Arc::new(changed.clone()), seconds(3));
    let messages = sent(&mut session);
    let offered = messages.iter().find_map(|message| match message {
        Message::Wave(wave) => Some(wave),
        _ => None,
    });
    let offered = offered.expect("a new plan");
    assert_eq!((offered.ownership, offered.epoch, offered.shards.len()), (6, 1, 8));
    session.update(Arc::new(changed.clone()), seconds(4));
    assert!(!sent(&mut session).iter().any(|m| matches!(m, Message::Wave(_))));
    // A node that has reported on the wave under the former ownership gets the new plan, too.
    let report = wire::Report { wave: WAVE.0, epoch: 1, sequence: 1, ..wire::Report::default() };
    session.receive(Said::Report(report), seconds(4)).unwrap();
    let (memory, _) = session.close(None);
    let ownership = Ownership::assign(7, PARTITIONS, &[node("a")]);
    changed.owned = Some(Arc::new(Owned::new(ownership, PARTITIONS, PARTITIONS)));
    let mut next = open(memory, changed);
    assert!(
        sent(&mut next).iter().any(|m| matches!(m, Message::Wave(wave) if wave.ownership == 7))
    );
}

#[test]
fn lanes_are_stated_again_when_the_node_asks_for_them() {
    let mut session = open(NodeMemory::default(), standing(None));
    sent(&mut session);
    session.receive(Said::LanesWanted(wire::LanesWanted {}), seconds(3)).unwrap();
    assert!(matches!(sent(&mut session)[..], [Message::Lane(_), Message::ProviderToken(_)]));
}

#[test]
fn a_lane_of_another_coordinator_is_noted() {
    let mut session = open(NodeMemory::default(), standing(None));
    sent(&mut session);
    session.receive(ask(1, LaneId(99)), seconds(3)).unwrap();
    assert!(matches!(notes(&mut session)[..], [Note::LaneUnknown(LaneId(99))]));
}
