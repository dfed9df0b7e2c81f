//! The client of the cluster, which makes the calls of a real caller over the public API.

pub mod alert;
pub mod load;
pub mod motion;
pub mod watchers;

use std::time::Duration;

use clarion_proto::wire::v1::{self as wire, registry_service_client::RegistryServiceClient};
use tokio::time::{Instant, interval, timeout_at};
use tonic::transport::{Channel, Endpoint};

use crate::place::Place;

/// Reason why a call of the cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The cluster refused a call.
    #[error("the coordinator answered {}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    /// The coordinator could not be reached.
    #[error("cannot reach the coordinator: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The server sent nothing for this long.
    #[error("{0}: no answer for {1:?}")]
    Stalled(&'static str, Duration),
    /// A stream ended before its time.
    #[error("{0}: the stream ended before everything was answered")]
    Ended(&'static str),
    /// A device of the population was refused.
    #[error("the registry refused a device: {field}: {problem}")]
    ItemRefused {
        /// Name of the invalid field.
        field: String,
        /// Problem with the field, as the registry described it.
        problem: String,
    },
    /// An answer violated the contract.
    #[error("the coordinator violated its API: {0}")]
    Broken(String),
    /// A deadline of the scenario has passed.
    #[error("{what} took longer than {seconds} s: {state}")]
    Late {
        /// Condition that was waited for.
        what: &'static str,
        /// Time limit, seconds.
        seconds: u64,
        /// Progress when the deadline passed.
        state: String,
    },
    /// A defect of this program.
    #[error("defect in the load generator: {0}")]
    Defect(String),
}

impl From<tonic::Status> for DriveError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Connects to a coordinator.
///
/// # Errors
/// If the coordinator is not reached `within` that time.
pub async fn connect(coordinator: &str, within: Duration) -> Result<Channel, DriveError> {
    let endpoint = Endpoint::from_shared(coordinator.to_owned())?;
    Ok(endpoint.connect_timeout(within).tcp_nodelay(true).connect().await?)
}

/// Waits until every acknowledged change is applied everywhere and all devices are registered.
///
/// # Errors
/// If that takes longer than `deadline`, or the coordinator refuses.
pub async fn visible(
    channel: Channel,
    devices: u64,
    deadline: Duration,
) -> Result<wire::RegistryStats, DriveError> {
    let mut client = RegistryServiceClient::new(channel);
    let end = Instant::now() + deadline;
    let mut ticks = interval(Duration::from_millis(50));
    let mut newest = wire::RegistryStats::default();
    loop {
        let late = |stats: &wire::RegistryStats| DriveError::Late {
            what: "making all devices visible",
            seconds: deadline.as_secs(),
            state: format!(
                "{} of {devices} devices, {} of {} changes applied",
                stats.devices, stats.changes_applied, stats.changes_written
            ),
        };
        timeout_at(end, ticks.tick()).await.map_err(|_| late(&newest))?;
        let answer =
            timeout_at(end, client.get_registry_stats(wire::GetRegistryStatsRequest {})).await;
        newest = answer.map_err(|_| late(&newest))??.into_inner();
        if newest.devices >= devices && newest.changes_applied == newest.changes_written {
            return Ok(newest);
        }
    }
}

fn timestamp(unix_ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(unix_ms % 1_000 * 1_000_000).expect("below 10^9"),
    }
}

fn lat_lng(place: Place) -> wire::LatLng {
    wire::LatLng { latitude: place.latitude, longitude: place.longitude }
}

fn place(place: Place) -> wire::Place {
    wire::Place { place: Some(wire::place::Place::Point(lat_lng(place))), datum: 0 }
}
