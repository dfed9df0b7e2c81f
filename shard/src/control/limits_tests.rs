//! The largest message of each kind that a node can make is within what it may send.

use clarion_proto::{
    ids::{AppName, BootId, DeviceId, Epoch, LaneId, PARTITIONS_MAX, PartitionId, WaveId},
    limits::{BANDS_MAX, RESPONSE_BYTES_MAX, WAVES_MAX},
    wire::shard_v1::{self as wire, session_response::Message as Wire},
};
use prost::Message as _;
use roaring::RoaringBitmap;

use super::{lanes::LANES_MAX, merge::Merge};
use crate::{
    command::{CoreReport, Counts, DeadToken},
    outcome::Answers,
};

#[track_caller]
fn within(what: &str, message: Wire) -> usize {
    let bytes = wire::SessionResponse { message: Some(message) }.encoded_len();
    assert!(bytes <= RESPONSE_BYTES_MAX, "{what}: {bytes} bytes, at most {RESPONSE_BYTES_MAX}");
    bytes
}

fn positions() -> Vec<wire::LogPosition> {
    (0..u32::from(PARTITIONS_MAX))
        .map(|log| wire::LogPosition { log, position: u64::MAX })
        .collect()
}

#[test]
fn every_message_but_reports_is_small() {
    let hello = wire::Hello {
        node: "n".repeat(255),
        boot_id: BootId([7; 16]).0.to_vec(),
        version: "v".repeat(64),
        cores: u32::MAX,
        positions: positions(),
        cluster: "c".repeat(63),
        log_identity: vec![7; 16],
    };
    within("hello", Wire::Hello(hello));
    let lease = wire::LeaseRequest {
        nonce: u64::MAX,
        waves: vec![u64::MAX; WAVES_MAX],
        lanes: vec![u32::MAX; LANES_MAX],
    };
    within("lease request", Wire::LeaseRequest(lease));
    // As many apps as the registry has, each of the longest name.
    let app = wire::AppDevices { app: "a".repeat(63), devices: u64::MAX };
    let state = wire::RegistryState {
        positions: positions(),
        apps: vec![app; 10_000],
        ..Default::default()
    };
    within("registry state", Wire::RegistryState(state));
    let devices = wire::AppCounted { devices: vec![u64::MAX; BANDS_MAX] };
    let apps = vec![devices; 64];
    let counted = wire::Counted { id: u64::MAX, apps, left_out_for_age: u64::MAX };
    within("counted", Wire::Counted(counted));
    let refusal = wire::Refusal { reason: "r".repeat(4_096), ..wire::Refusal::default() };
    within("refusal", Wire::Refusal(refusal));
}

/// 64 million devices, half of them handed over and two million open, in any spread over
/// partitions.
#[test]
fn a_report_of_everything_comes_in_several_and_each_is_within_the_limit() {
    for partitions in [1_u16, 64, PARTITIONS_MAX] {
        let each = (8 << 20) / usize::from(partitions);
        let every_other = RoaringBitmap::from_lsb0_bytes(0, &vec![0x55; each]);
        let few = RoaringBitmap::from_lsb0_bytes(0, &[0x01, 0, 0, 0].repeat(each / 4));
        let sets = |of: &RoaringBitmap| {
            (0..partitions).map(|p| (PartitionId(p), of.clone())).collect::<Vec<_>>()
        };
        let counts = Counts { handed: u64::MAX >> 8, outcomes: [u64::MAX >> 8; 5] };
        let answers = Answers { outcomes: [u64::MAX >> 8; 5], bad_device_tokens: u64::MAX >> 8 };
        let mut merge = Merge::default();
        merge.set_cores([0], 0);
        merge.add(
            0,
            CoreReport {
                wave: WaveId(u64::MAX),
                all: true,
                complete: true,
                ended: true,
                bands: (0..number(BANDS_MAX)).map(|band| (band, counts)).collect(),
                cells: (0..100_000).map(|cell| (0x0860_0000_0000_0000 + cell, counts)).collect(),
                handed: sets(&every_other),
                open: sets(&few),
                dead: (0..30_000_u64).map(dead).collect(),
                answers: (0..number(LANES_MAX))
                    .map(|lane| (LaneId(lane), app(), answers))
                    .collect(),
                ..CoreReport::default()
            },
        );
        let mut handed = 0;
        let (mut cells, mut dead, mut reports) = (0, 0, 0);
        loop {
            assert!(merge.is_due(), "there is more");
            let report = merge.take(WaveId(u64::MAX), Epoch(u64::MAX), number(BANDS_MAX), true);
            reports += 1;
            let set = |set: &wire::OrdinalSet| {
                RoaringBitmap::deserialize_from(&set.ordinals[..]).unwrap().len()
            };
            handed += report.handed.iter().map(set).sum::<u64>();
            if reports == 1 {
                assert_eq!(
                    report.open.iter().map(set).sum::<u64>(),
                    few.len() * u64::from(partitions)
                );
            }
            (cells, dead) = (cells + report.cells.len(), dead + report.dead.len());
            let ended = report.ended;
            within("report", Wire::Report(report));
            if ended {
                break;
            }
        }
        assert_eq!(
            (handed, cells, dead),
            (every_other.len() * u64::from(partitions), 100_000, 30_000)
        );
        assert!(!merge.is_changed() && reports > 10, "{reports} reports");
    }
}

fn dead(n: u64) -> DeadToken {
    DeadToken {
        lane: LaneId(1),
        device: DeviceId(u128::from(n).to_le_bytes()),
        token_hash: n,
        gateway_time: None,
        app: app(),
        needs_evidence: true,
    }
}

/// Of the longest name.
fn app() -> AppName {
    AppName::from_id(&"a".repeat(63)).unwrap()
}

fn number(bound: usize) -> u32 {
    u32::try_from(bound).unwrap()
}
