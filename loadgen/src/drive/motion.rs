//! Devices that move while an alert runs.
//!
//! The plan is a pure function of the seed: who moves, when, and where to. It mixes what can go wrong between a walk and
//! a move: away and back again, out for good, in from outside, from before the frontier to behind it and the other way.
//! Carrying it out records when each move was sent and acknowledged, because the verdict must know what the wave can
//! have seen.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::wire::v1::{self as wire, registry_service_client::RegistryServiceClient};
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{DriveError, alert::now_ns, timestamp};
use crate::{
    gateway::clock,
    place::Place,
    population::{DOMAIN_PLAN, Population, draws::Draws},
    scenario::MotionSpec,
    verdict::{Move, Moves},
};

/// Moves are gathered for so long into one batch.
const TICK: Duration = Duration::from_millis(50);
/// An answer that takes longer means that the registry is stuck.
const STALLED: Duration = Duration::from_secs(30);
/// Items of a batch at most.
const BATCH: usize = 5_000;

/// One planned move.
#[derive(Clone, Copy)]
pub struct Planned {
    /// After the acknowledgement of the alert.
    pub after: Duration,
    /// Who.
    pub device: u64,
    /// Where to.
    pub place: Place,
}

/// All moves of a run, by time.
#[must_use]
pub fn plan(population: &Population, spec: &MotionSpec) -> Vec<Planned> {
    let mut moves = Vec::new();
    for device in 0..population.count() {
        let mut draws = Draws::new(population.seed(), DOMAIN_PLAN, device);
        if draws.unit() >= spec.share {
            continue;
        }
        let mut at = [draws.unit(), draws.unit()];
        at.sort_by(f64::total_cmp);
        let after = |unit: f64| Duration::from_millis(spec.over_ms).mul_f64(unit);
        let there = population.place(&mut draws).0;
        match draws.below(4) {
            // Away and back: the same place at start and end.
            0 | 1 => {
                moves.push(Planned { after: after(at[0]), device, place: there });
                moves.push(Planned { after: after(at[1]), device, place: population.device(device).place });
            }
            // Somewhere else, drawn as homes are: mostly within the region, before or behind the frontier.
            2 => moves.push(Planned { after: after(at[0]), device, place: there }),
            // On and on.
            _ => {
                moves.push(Planned { after: after(at[0]), device, place: there });
                moves.push(Planned { after: after(at[1]), device, place: population.place(&mut draws).0 });
            }
        }
    }
    moves.sort_by_key(|m| (m.after, m.device));
    moves
}

/// Carries out a plan until it is done or `stop`ped, and tells what was done when.
///
/// # Errors
/// The stream fails or stalls, or a move is refused.
pub async fn carry_out(
    channel: Channel,
    population: &Population,
    plan: Vec<Planned>,
    stop: CancellationToken,
) -> Result<Moves, DriveError> {
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let begin = Instant::now();
    let mut client = RegistryServiceClient::new(channel);
    // Nothing may be due yet; an empty batch opens the stream for a server that reads first.
    drop(requests.try_send(wire::WriteDevicesRequest { batch_id: 0, changes: Vec::new() }));
    let mut answers = client.write_devices(ReceiverStream::new(receiver)).await?.into_inner();
    answer(&mut answers, 0).await?;

    let mut moves: Moves = BTreeMap::new();
    let mut plan = plan.into_iter().peekable();
    let mut ticks = interval(TICK);
    let mut batch_id = 0;
    while let Some(next) = plan.peek() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep_until(begin + next.after) => {}
        }
        ticks.tick().await;
        let mut due = Vec::new();
        while due.len() < BATCH
            && let Some(step) = plan.next_if(|step| begin + step.after <= Instant::now())
        {
            due.push(step);
        }
        // In one batch with equal times, items of one device take effect in their order.
        let observed = clock::wall().0;
        batch_id += 1;
        let changes: Vec<_> = due.iter().map(|step| change(population, step, observed)).collect();
        let (sent_ns, count) = (now_ns(), changes.len());
        requests
            .send(wire::WriteDevicesRequest { batch_id, changes })
            .await
            .map_err(|_| DriveError::Ended("WriteDevices"))?;
        let written = answer(&mut answers, batch_id).await?;
        if written != count {
            return Err(DriveError::Broken(format!("{written} of {count} moves were written")));
        }
        let acknowledged_ns = now_ns();
        for step in due {
            moves.entry(step.device).or_default().push(Move { sent_ns, acknowledged_ns, place: step.place });
        }
    }
    Ok(moves)
}

async fn answer(
    answers: &mut tonic::Streaming<wire::WriteDevicesResponse>,
    batch_id: u64,
) -> Result<usize, DriveError> {
    let answer =
        timeout(STALLED, answers.message()).await.map_err(|_| DriveError::Stalled("WriteDevices", STALLED))??;
    let answer = answer.ok_or(DriveError::Ended("WriteDevices"))?;
    match answer.errors.first() {
        Some(error) => Err(DriveError::ItemRefused { field: error.field.clone(), problem: error.description.clone() }),
        None if answer.batch_id != batch_id => {
            Err(DriveError::Broken(format!("batch {batch_id} was answered as {}", answer.batch_id)))
        }
        None => Ok(answer.written as usize),
    }
}

fn change(population: &Population, step: &Planned, observed_ms: u64) -> wire::DeviceChange {
    wire::DeviceChange {
        device: uuid::Uuid::from_bytes(population.device(step.device).id).simple().to_string(),
        observe_time: Some(timestamp(observed_ms)),
        change: Some(wire::device_change::Change::Place(super::place(step.place))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_repeats_and_holds_every_kind_of_move() {
        let spec = toml::from_str(
            "areas = [{ kind = 'disc', share = 1, center = { latitude = 22.5, longitude = 114 }, radius_meters = 20000 }]",
        )
        .unwrap();
        let population = Population::new(&spec, 1, 5_000).unwrap();
        let motion = MotionSpec { share: 0.1, over_ms: 8_000, settle_ms: 0 };
        let moves = plan(&population, &motion);
        assert!(moves.is_sorted_by_key(|m| m.after) && moves.last().unwrap().after <= Duration::from_secs(8));
        let mut by_device: BTreeMap<u64, Vec<Planned>> = BTreeMap::new();
        for step in &moves {
            by_device.entry(step.device).or_default().push(*step);
        }
        assert!((400..600).contains(&by_device.len()), "{} of 5,000 move", by_device.len());
        let home = |device: &u64, steps: &[Planned]| steps.last().unwrap().place == population.device(*device).place;
        let back = by_device.iter().filter(|(d, steps)| home(d, steps)).count();
        let once = by_device.values().filter(|steps| steps.len() == 1).count();
        assert!(back > 150 && once > 60 && by_device.len() - back - once > 60, "{back} {once}");
        let again = plan(&population, &motion);
        assert!(
            again.iter().zip(&moves).all(|(a, b)| a.device == b.device && a.place == b.place && a.after == b.after)
        );
    }
}
