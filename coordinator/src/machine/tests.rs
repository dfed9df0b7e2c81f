//! What one coordinator says to one node, with answers of the store by hand.

use std::time::Duration;

use clarion_proto::wire::shard_v1::{session_request, session_response};

use super::*;
use crate::{
    fixtures::{BOOT_1, PARTITIONS, gateway, node},
    lane_owner::fixtures::{credential, key},
    owners::Ownership,
    store::StoreError,
};

/// The beginning of one of APNs' slots of 24 minutes.
const WALL: u64 = 1_800_000_000_000;

fn at(seconds: u64) -> Moment {
    let after = Duration::from_secs(seconds);
    Moment { at: Time(0) + after, wall: UnixMillis(WALL + seconds * 1_000) }
}

/// A coordinator with a lane, whose node has sent its Hello on stream 1.
fn machine() -> Machine {
    let mut machine = Machine::new(MachineConfig {
        cluster: ClusterName::default(),
        coordinator: CoordinatorId([1; 16]),
        log: LogIdentity([7; 16]),
        lanes_epoch: Epoch(1),
        partitions: PARTITIONS,
        logs: 4,
        nodes: 1,
        gateways: vec![gateway(None)],
        credentials: vec![credential("c")],
    });
    machine.ensure_lane(&key("g", "c"), at(0)).unwrap();
    machine.opened(1, at(0));
    let hello = wire::Hello {
        node: "a".to_owned(),
        boot_id: BOOT_1.0.to_vec(),
        cluster: ClusterName::default().to_string(),
        ..wire::Hello::default()
    };
    let hello = session_response::Message::Hello(hello);
    machine.received(1, SessionResponse { message: Some(hello) }, at(0));
    assert_eq!(outputs(&mut machine), ["read ownership", "open"]);
    machine
}

/// Outputs so far, each as a word.
fn outputs(machine: &mut Machine) -> Vec<String> {
    use session_request::Message as Says;
    let word = |output| match output {
        Output::Store(StoreOp::ReadOwnership) => "read ownership".to_owned(),
        Output::Store(StoreOp::WriteOwnership(next)) => format!("write {}", next.number),
        Output::End { reason, .. } => format!("end: {reason}"),
        Output::Say { request, .. } => match request.message.expect("a message") {
            Says::Open(_) => "open".to_owned(),
            Says::Ownership(ownership) => format!("ownership {}", ownership.number),
            Says::Lane(_) => "lane".to_owned(),
            Says::ProviderToken(_) => "token".to_owned(),
            other => panic!("{other:?}"),
        },
    };
    std::iter::from_fn(|| machine.poll()).map(word).collect()
}

#[test]
fn ownership_goes_through_the_store_to_the_node() {
    let mut machine = machine();
    machine.stored(StoreResult::Read(Ok(None)), at(1));
    assert_eq!(outputs(&mut machine), ["write 1"]);
    assert!(!machine.is_ready());
    // Another coordinator was faster.
    let conflict = StoreError::Conflict("ownership".to_owned());
    machine.stored(StoreResult::Written(Err(conflict)), at(2));
    assert_eq!(outputs(&mut machine), ["read ownership"]);
    let theirs = Ownership::assign(3, PARTITIONS, &[node("a")]);
    machine.stored(StoreResult::Read(Ok(Some(Arc::new(theirs)))), at(3));
    assert_eq!(outputs(&mut machine), ["ownership 3", "lane", "token"]);
    assert!(machine.is_ready());
}

#[test]
fn a_node_gets_the_next_token_when_the_slot_ends() {
    let mut machine = machine();
    let ownership = Ownership::assign(1, PARTITIONS, &[node("a")]);
    machine.stored(StoreResult::Read(Ok(Some(Arc::new(ownership)))), at(1));
    assert_eq!(outputs(&mut machine), ["ownership 1", "lane", "token"]);
    machine.expire(at(60));
    assert_eq!(outputs(&mut machine), [""; 0]);
    let slot = at(24 * 60 + 1);
    assert_eq!(machine.deadline(at(60).at), Some(slot.at));
    machine.expire(slot);
    assert_eq!(outputs(&mut machine), ["token"]);
}
