//! Registration of the whole population through `RegistryService.WriteDevices`.
//!
//! The load uses a few streams, each with a few batches in progress, so the server's answers set
//! the pace. Devices are computed batch by batch, so a million of them never exist at once.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use clarion_emulator::{Platform, clock};
use clarion_proto::wire::v1::{self as wire, registry_service_client::RegistryServiceClient};
use data_encoding::HEXLOWER;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::DriveError;
use crate::population::{Device, Population, token::TokenBytes};

/// Number of streams: one batch is encoded while another one waits.
const STREAMS: u64 = 2;
/// Number of items in a batch: some 600 KB, far below the 4 MiB that the contract allows.
const BATCH: u64 = 2_000;
/// Most unacknowledged batches of one stream.
const UNDER_WAY: usize = 3;
/// Largest age of an observation that a stream takes without being historic, milliseconds.
const RECENT_MS: u64 = 24 * 3_600_000;
/// Time without an acknowledgement after which the load has failed.
const STALLED: Duration = Duration::from_secs(30);

/// Writes all devices, as a historic import if they were observed more than a day ago. `written` is
/// called with the number of newly acknowledged ones.
///
/// # Errors
/// If a stream fails or stalls, or an item is refused.
pub async fn load(
    channel: Channel,
    population: Arc<Population>,
    observed_ms: u64,
    written: impl Fn(u64) + Clone + Send + 'static,
) -> Result<(), DriveError> {
    let count = population.count();
    let share = count.div_ceil(STREAMS);
    let historic = clock::wall().0.saturating_sub(observed_ms) > RECENT_MS;
    let mut streams = JoinSet::new();
    for n in 0..STREAMS {
        let range = (n * share).min(count)..((n + 1) * share).min(count);
        let (client, population) =
            (RegistryServiceClient::new(channel.clone()), Arc::clone(&population));
        let batches =
            range.clone().step_by(usize::try_from(BATCH).expect("fits")).map(move |from| {
                let upto = (from + BATCH).min(range.end);
                let changes = (from..upto)
                    .map(|i| arrival(&population, &population.device(i), observed_ms))
                    .collect();
                wire::WriteDevicesRequest { batch_id: from, changes, historic }
            });
        streams.spawn(write(client, batches, written.clone()));
    }
    while let Some(ended) = streams.join_next().await {
        // A stream that fails ends the others, because the set that owns them is dropped.
        ended.map_err(|e| DriveError::Defect(e.to_string()))??;
    }
    Ok(())
}

/// Writes batches over one stream, a few in progress, in order; every item must be written.
///
/// # Errors
/// If the stream fails or stalls, or an item is refused.
pub async fn write(
    mut client: RegistryServiceClient<Channel>,
    batches: impl Iterator<Item = wire::WriteDevicesRequest> + Send,
    written: impl Fn(u64) + Send,
) -> Result<(), DriveError> {
    let mut batches = batches;
    let (requests, receiver) = mpsc::channel(UNDER_WAY);
    let mut under_way = VecDeque::with_capacity(UNDER_WAY);
    // The first batches are sent before the call, because a server may read before it answers.
    send(&mut batches, &requests, &mut under_way);
    let mut answers = client.write_devices(ReceiverStream::new(receiver)).await?.into_inner();
    while let Some((batch_id, items)) = under_way.pop_front() {
        let answer = timeout(STALLED, answers.message())
            .await
            .map_err(|_| DriveError::Stalled("WriteDevices", STALLED))??;
        let answer = answer.ok_or(DriveError::Ended("WriteDevices"))?;
        if let Some(error) = answer.errors.first() {
            return Err(DriveError::ItemRefused {
                field: error.field.clone(),
                problem: error.description.clone(),
            });
        }
        if answer.batch_id != batch_id || u64::from(answer.written) != items {
            let (id, n) = (answer.batch_id, answer.written);
            return Err(DriveError::Broken(format!(
                "batch {batch_id} of {items} was answered as {id} with {n} written"
            )));
        }
        written(items);
        send(&mut batches, &requests, &mut under_way);
    }
    Ok(())
}

fn send(
    batches: &mut impl Iterator<Item = wire::WriteDevicesRequest>,
    requests: &mpsc::Sender<wire::WriteDevicesRequest>,
    under_way: &mut VecDeque<(u64, u64)>,
) {
    while under_way.len() < UNDER_WAY
        && let Some(batch) = batches.next()
    {
        under_way.push_back((batch.batch_id, batch.changes.len() as u64));
        // The channel has room for all batches in progress. If the stream has ended, the reader
        // gets the reason.
        drop(requests.try_send(batch));
    }
}

/// Builds a registration with a place, as a phone sends it at the first start of an app.
fn arrival(population: &Population, device: &Device, observed_ms: u64) -> wire::DeviceChange {
    wire::DeviceChange {
        device: uuid::Uuid::from_bytes(device.id).simple().to_string(),
        observe_time: Some(super::timestamp(observed_ms)),
        change: Some(wire::device_change::Change::Arrival(wire::Arrival {
            registration: Some(registration(population, device, device.token)),
            place: Some(super::place(device.place)),
        })),
        ..wire::DeviceChange::default()
    }
}

/// Builds the registration of a device with a token.
pub(super) fn registration(
    population: &Population,
    device: &Device,
    token: TokenBytes,
) -> wire::Registration {
    let token = token.as_slice();
    let token = match device.platform {
        Platform::Apns => HEXLOWER.encode(token),
        Platform::Fcm => String::from_utf8_lossy(token).into_owned(),
    };
    wire::Registration {
        app: format!("apps/{}", population.apps()[device.app].name),
        token,
        locale: device.locale.to_owned(),
        segments: device.segments.iter().map(|s| (*s).to_owned()).collect(),
        ..wire::Registration::default()
    }
}
