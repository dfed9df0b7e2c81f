//! One sick lane never slows another: a gateway that attacks on every connection, as long as it is
//! spoken to, has a core to itself with one that is well; the wave through the second completes,
//! whatever the first does.
//!
//! How much of the core the first may take is counted in `core/tests/sick.rs`, where time is a
//! number.

use std::sync::Arc;

use clarion_proto::{
    ids::{Epoch, LaneId, PartitionId, Position, UnixMillis, WaveId},
    outcome::Outcome,
    time::Time,
};
use clarion_runtime::world::World;
use clarion_shard::{
    command::{AppSpec, Command, Counts, Event, ShardSpec, WaveSpec},
    driver::{self, CoreHandle},
    lane::provider::authorization::Authorization,
};
use roaring::RoaringBitmap;

mod floods;
mod gateway_support;
mod wave_support;

use floods::{floods, frame};
use gateway_support::{Dialect, Peer, serve_all};
use wave_support::{
    Gateway, LANE, PARTITIONS, app, certificate, cover, lane_spec, next, prepare, shut_down,
};

const DEVICES: u32 = 2_000;
const WELL: LaneId = LaneId(2);
const OTHER_WAVE: WaveId = WaveId(2);
/// More connections than the pool opens in the time that this takes.
const ATTACKERS: usize = 400;

#[tokio::test]
async fn a_wave_completes_beside_a_lane_under_attack() {
    let (made, roots) = certificate();
    let attacks = floods(1, 1).len();
    let attackers: Vec<Dialect> = (0..ATTACKERS)
        .map(|n| -> Dialect {
            Box::new(move |mut peer: Peer| {
                // One answer, or no wave would be under way; then one flood after another.
                let (open, ended) = peer.be_honest(1)?;
                let flood = floods(open, ended).swap_remove(n % attacks);
                peer.say(&flood.first)?;
                while !flood.again.is_empty() && !peer.has_hung_up(true) {
                    peer.say(&flood.again.repeat(16_384_usize.div_ceil(flood.again.len())))?;
                }
                peer.wait_for_the_end()
            })
        })
        .collect();
    let sick = serve_all(&made, attackers);
    let well = serve_all(&made, Vec::new());
    let gateway =
        |address| Gateway { address, roots: Arc::clone(&roots), connections: 4, hosts: usize::MAX };
    let mut cores = driver::spawn(1, &World::system()).expect("a thread");
    prepare(&cores, &gateway(sick.address()), DEVICES, None).await;
    second_lane(&cores, &gateway(well.address())).await;
    let total = through_the_second(&mut cores).await;
    assert_eq!(total.outcomes[Outcome::Accepted as usize], u64::from(DEVICES));
    shut_down(cores).await;
    let seen = well.stop();
    assert_eq!(seen.answered.len(), DEVICES as usize);
    assert!(seen.answered.values().all(|n| *n == 1));
    sick.stop();
}

/// A lane to a gateway that is well, and a wave through it to all devices.
async fn second_lane(cores: &[CoreHandle], gateway: &Gateway) {
    let say = async |command| cores[0].commands.send(command).await.expect("the core lives");
    say(Command::Lane(Arc::new(lane_spec(WELL, gateway, gateway.connections)))).await;
    let authorization =
        Authorization(Arc::new(secrecy::SecretString::from("bearer token".to_owned())));
    say(Command::ProviderToken { lane: WELL, authorization, signer: 0 }).await;
    say(Command::Slice { lane: WELL, until: Time::NEVER, rate: None }).await;
    let shard = |n| ShardSpec {
        partition: PartitionId(n),
        start: Position(1),
        handed: RoaringBitmap::new(),
    };
    say(Command::Wave(Arc::new(WaveSpec {
        id: OTHER_WAVE,
        alert: "alerts/other".to_owned(),
        epoch: Epoch(1),
        plan: 0,
        cover: Arc::new(cover()),
        shards: (0..PARTITIONS).map(shard).collect(),
        apps: vec![AppSpec { lane: WELL, ..app() }],
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
        expires: Time::NEVER,
    })))
    .await;
    say(Command::Grant { wave: OTHER_WAVE, until: Time::NEVER, rate: None }).await;
}

/// Until the second lane's wave is complete.
async fn through_the_second(cores: &mut [CoreHandle]) -> Counts {
    let mut bands = std::collections::BTreeMap::new();
    loop {
        let (_, Event::Report(report)) = next(cores).await else { continue };
        assert!(
            !(report.wave == wave_support::WAVE && report.complete),
            "{LANE:?} is under attack"
        );
        if report.wave == OTHER_WAVE {
            bands.extend(report.bands);
            if report.complete {
                break;
            }
        }
    }
    let mut total = Counts::default();
    bands.values().for_each(|counts| total.add(counts));
    total
}

/// Used by [`gateway_support`] too.
pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, v)| [&id.to_be_bytes()[..], &v.to_be_bytes()].concat())
        .collect();
    frame(4, 0, 0, &payload)
}
