//! Devices in motion: the planned changes of phones are sent to the registry, as the servers of
//! their apps would.
//!
//! Changes are collected for [`TICK`] into one batch; batches go over one stream in order, and at
//! most [`UNDER_WAY`] of them are unacknowledged. When the registry is slower than the plan, the
//! plan waits: observations keep their time and arrive later, and the report states the delay. The
//! times of each batch are kept, because the verdict must know which changes the wave may have
//! seen.

mod plan;
mod way;

use std::{collections::VecDeque, time::Duration};

use clarion_emulator::clock;
use clarion_proto::wire::v1::{self as wire, registry_service_client::RegistryServiceClient};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{DriveError, alert::now_ns, load, timestamp};
use crate::{
    population::Population,
    report::motion::Carried,
    verdict::history::{Batch, Change, Delivery, History},
};
pub use plan::{Plan, Planned};
pub use way::Ways;

/// Time for which changes are collected into one batch.
const TICK: Duration = Duration::from_millis(50);
/// Most unacknowledged batches.
const UNDER_WAY: usize = 3;
/// Time without an answer after which the registry is stuck.
const STALLED: Duration = Duration::from_secs(30);
/// Approximate number of items in a batch; a carriage more may come.
const BATCH: usize = 5_000;

/// Carries out a plan until it is `stop`ped and everything is acknowledged. `acknowledged` receives
/// the number of acknowledged changes.
///
/// # Errors
/// If the stream fails or stalls, or a change is refused.
pub async fn carry_out(
    channel: Channel,
    population: &Population,
    mut plan: Plan<'_>,
    acknowledged: &watch::Sender<u64>,
    stop: CancellationToken,
) -> Result<Carried, DriveError> {
    let (requests, receiver) = mpsc::channel(UNDER_WAY);
    let mut client = RegistryServiceClient::new(channel);
    // An empty batch opens the stream for a server that reads first.
    drop(requests.try_send(wire::WriteDevicesRequest::default()));
    let mut answers = client.write_devices(ReceiverStream::new(receiver)).await?.into_inner();
    answer(&mut answers, 0, 0).await?;

    let (begun, begun_ms) = (Instant::now(), clock::wall().0);
    let (mut deliveries, mut batches): (Vec<Delivery>, Vec<Batch>) = (Vec::new(), Vec::new());
    let mut under_way: VecDeque<usize> = VecDeque::with_capacity(UNDER_WAY);
    let mut behind = Duration::ZERO;
    let mut due: Vec<Planned> = Vec::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let going = !stop.is_cancelled();
        tokio::select! {
            () = stop.cancelled(), if going => {}
            _ = ticks.tick(), if going && under_way.len() < UNDER_WAY => {
                due.clear();
                plan.until(begun.elapsed().as_secs_f64(), BATCH, &mut due);
                if due.is_empty() {
                    continue;
                }
                behind = behind.max(begun.elapsed().saturating_sub(plan.reached()));
                let number = u32::try_from(batches.len()).expect("batches of a run");
                let changes = due.iter().map(|step| change(population, step, begun_ms)).collect();
                batches.push(Batch { sent_ns: now_ns(), acknowledged_ns: u64::MAX });
                let batch_id = u64::from(number) + 1;
                requests
                    .send(wire::WriteDevicesRequest { batch_id, changes, ..Default::default() })
                    .await
                    .map_err(|_| DriveError::Ended("WriteDevices"))?;
                deliveries.extend(due.iter().map(|step| Delivery {
                    device: u32::try_from(step.device).expect("checked: devices"),
                    batch: number,
                    observed_us: step.observed_us,
                    change: step.change,
                }));
                under_way.push_back(due.len());
            }
            answered = answer(&mut answers, next_id(&batches, &under_way), under_way.front().copied().unwrap_or(0)),
                if !under_way.is_empty() =>
            {
                answered?;
                let at = batches.len() - under_way.len();
                batches[at].acknowledged_ns = now_ns();
                let count = under_way.pop_front().unwrap_or(0) as u64;
                acknowledged.send_modify(|sum| *sum += count);
            }
            else => break,
        }
    }
    let history = History::new(deliveries, batches, plan.devices());
    Ok(Carried { history, kinds: plan.kinds, behind })
}

/// Returns the id of the oldest unacknowledged batch.
fn next_id(batches: &[Batch], under_way: &VecDeque<usize>) -> u64 {
    (batches.len() - under_way.len()) as u64 + 1
}

/// Checks the answer to a batch: all items must be written.
async fn answer(
    answers: &mut tonic::Streaming<wire::WriteDevicesResponse>,
    batch_id: u64,
    items: usize,
) -> Result<(), DriveError> {
    let answer = timeout(STALLED, answers.message())
        .await
        .map_err(|_| DriveError::Stalled("WriteDevices", STALLED))??;
    let answer = answer.ok_or(DriveError::Ended("WriteDevices"))?;
    match answer.errors.first() {
        Some(error) => Err(DriveError::ItemRefused {
            field: error.field.clone(),
            problem: error.description.clone(),
        }),
        None if answer.batch_id != batch_id || answer.written as usize != items => {
            let (id, n) = (answer.batch_id, answer.written);
            Err(DriveError::Broken(format!(
                "batch {batch_id} of {items} was answered as {id} with {n} written"
            )))
        }
        None => Ok(()),
    }
}

fn change(population: &Population, step: &Planned, begun_ms: u64) -> wire::DeviceChange {
    use wire::device_change::Change as Wire;
    let device = population.device(step.device);
    let registration = |generation| {
        load::registration(
            population,
            &device,
            population.token(device.index, device.platform, generation),
        )
    };
    let change = match step.change {
        Change::Place(place) => Wire::Place(super::place(place)),
        Change::Arrival(generation, place) => Wire::Arrival(wire::Arrival {
            registration: Some(registration(generation)),
            place: Some(super::place(place)),
        }),
        Change::Registration(generation) => Wire::Registration(registration(generation)),
        Change::Removal => Wire::Removal(wire::Removal {}),
        Change::Mute(muted) => Wire::Mute(wire::Mute { muted }),
    };
    wire::DeviceChange {
        device: uuid::Uuid::from_bytes(device.id).simple().to_string(),
        observe_time: Some(timestamp(begun_ms + step.observed_us / 1_000)),
        change: Some(change),
        ..wire::DeviceChange::default()
    }
}
