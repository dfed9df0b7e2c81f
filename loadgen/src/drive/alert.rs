//! The alert of a scenario: its apps, submission, progress and cancellation.

use std::time::Duration;

use clarion_emulator::{Platform, clock};
use clarion_proto::wire::v1::{
    self as wire, alert_service_client::AlertServiceClient, app_service_client::AppServiceClient,
};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use xxhash_rust::xxh3::xxh3_64;

use super::{DriveError, lat_lng, timestamp};
use crate::{
    names,
    place::Place,
    population::Population,
    scenario::{RegionSpec, Scenario},
};

/// An alert that the coordinator acknowledged.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// Resource name of the alert: `alerts/{alert}`.
    pub name: String,
    /// Time at which the acknowledgement arrived, nanoseconds of `CLOCK_MONOTONIC`.
    pub acknowledged_ns: u64,
    /// Largest distance outside the region at which a device may receive the alert, metres, as the
    /// coordinator says.
    pub overshoot_m: f64,
}

impl Submitted {
    /// Returns the hash by which the gateways' records name the alert's pushes. An alert without a
    /// collapse key of its own uses its id.
    #[must_use]
    pub fn collapse_hash(&self) -> u64 {
        xxh3_64(self.name.trim_start_matches("alerts/").as_bytes())
    }
}

/// A cancellation that the coordinator acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Cancelled {
    /// Time at which the acknowledgement arrived, nanoseconds of `CLOCK_MONOTONIC`.
    pub acknowledged_ns: u64,
    /// Duration of the call.
    pub took: Duration,
}

/// End of an alert as the cluster reported it.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Last progress message.
    pub progress: wire::AlertProgress,
    /// Time at which it arrived, nanoseconds of `CLOCK_MONOTONIC`.
    pub seen_ns: u64,
    /// Cancellation, if the scenario has one.
    pub cancelled: Option<Cancelled>,
    /// Troubles that the watcher's progress messages reported.
    pub troubles: Troubles,
}

/// Troubles that progress messages reported while an alert was watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Whether a lane was paused, throttled or unreachable.
    pub troubled: bool,
    /// Whether an app raised the alarm for devices that are kept although a gateway called their
    /// tokens dead.
    pub alarmed: bool,
    /// Number of lane troubles without a reason or a start time.
    pub speechless: u64,
}

impl Troubles {
    fn record(&mut self, progress: &wire::AlertProgress) {
        self.troubled |= !progress.lane_troubles.is_empty();
        self.alarmed |= !progress.pruning_alarms.is_empty();
        let speechless =
            |trouble: &&wire::LaneTrouble| trouble.detail.is_empty() || trouble.since.is_none();
        self.speechless += progress.lane_troubles.iter().filter(speechless).count() as u64;
    }
}

/// Reads CLOCK_MONOTONIC, nanoseconds, the clock of the gateways' records.
#[must_use]
pub fn now_ns() -> u64 {
    clock::monotonic().0 * 1_000
}

/// Creates the apps of a population.
///
/// # Errors
/// If the coordinator refuses.
pub async fn create_apps(channel: Channel, population: &Population) -> Result<(), DriveError> {
    let mut client = AppServiceClient::new(channel);
    for app in population.apps() {
        let (platform, topic, project) = match app.platform {
            Platform::Apns => (wire::Platform::Apns, names::topic(&app.name), String::new()),
            Platform::Fcm => (wire::Platform::Fcm, String::new(), names::PROJECT.to_owned()),
        };
        let request = wire::CreateAppRequest {
            app_id: app.name.clone(),
            app: Some(wire::App {
                display_name: "Load".to_owned(),
                platform: platform.into(),
                gateway: names::gateway(app.platform).to_owned(),
                credential: names::credential(app.platform).to_owned(),
                topic,
                project,
                environment: wire::Environment::Sandbox.into(),
                lane_kind: wire::LaneKind::Test.into(),
                ..wire::App::default()
            }),
        };
        client.create_app(request).await?;
    }
    Ok(())
}

/// Builds the alert that a scenario submits.
#[must_use]
pub fn alert(scenario: &Scenario, population: &Population) -> wire::Alert {
    wire::Alert {
        case: Some(case()),
        severity: wire::Severity::Urgent.into(),
        region: Some(region(&scenario.alert.region)),
        last_seen: Some(lat_lng(scenario.last_seen())),
        audience: Some(wire::Audience {
            apps: population.apps().iter().map(|a| format!("apps/{}", a.name)).collect(),
            ..wire::Audience::default()
        }),
        active_until: Some(timestamp(clock::wall().0 + scenario.alert.active_s * 1_000)),
        mode: wire::Mode::Test.into(),
        max_rate_per_second: scenario.alert.max_rate_per_second,
        ..wire::Alert::default()
    }
}

/// Submits an alert.
///
/// # Errors
/// If the coordinator refuses.
pub async fn submit(
    channel: Channel,
    alert: wire::Alert,
    request_id: String,
) -> Result<Submitted, DriveError> {
    let mut client = AlertServiceClient::new(channel);
    let request = wire::CreateAlertRequest { alert: Some(alert), request_id, validate_only: false };
    let answer = client.create_alert(request).await?.into_inner();
    Ok(Submitted {
        name: answer.name,
        acknowledged_ns: now_ns(),
        overshoot_m: answer.overshoot_meters,
    })
}

/// Returns the number of devices that an alert would reach, as the cluster counts them.
///
/// # Errors
/// If the coordinator refuses.
pub async fn preview(channel: Channel, alert: wire::Alert) -> Result<u64, DriveError> {
    let mut client = AlertServiceClient::new(channel);
    let preview = client
        .preview_alert(wire::PreviewAlertRequest { alert: Some(alert) })
        .await?
        .into_inner()
        .devices;
    match preview.and_then(|devices| devices.count) {
        Some(wire::device_count::Count::Exact(devices)) => Ok(devices),
        // Audiences under 100 devices are refused, so the count is never withheld.
        other => Err(DriveError::Broken(format!("a preview of {other:?} devices"))),
    }
}

/// Watches an alert until it has ended, and cancels it once `cancel_at` devices were accepted.
///
/// # Errors
/// If the alert does not end within `deadline`, or the coordinator ends the stream early.
pub async fn watch(
    channel: Channel,
    name: &str,
    cancel_at: Option<u64>,
    deadline: Duration,
    mut seen: impl FnMut(&wire::Progress),
) -> Result<Ended, DriveError> {
    let end = Instant::now() + deadline;
    let mut client = AlertServiceClient::new(channel.clone());
    let request = wire::WatchAlertRequest { name: name.to_owned(), cells: false };
    let mut updates = client.watch_alert(request).await?.into_inner();
    let (mut newest, mut cancelled, mut ended_ns) = (wire::AlertProgress::default(), None, None);
    let mut troubles = Troubles::default();
    loop {
        let update =
            timeout_at(end, updates.message()).await.map_err(|_| late(&newest, deadline))??;
        newest = match (update, ended_ns) {
            (Some(update), _) => update,
            // The stream ends after the last state, and only then.
            (None, Some(seen_ns)) => {
                return Ok(Ended { progress: newest, seen_ns, cancelled, troubles });
            }
            (None, None) => return Err(DriveError::Ended("WatchAlert")),
        };
        troubles.record(&newest);
        let progress = newest.progress.unwrap_or_default();
        seen(&progress);
        if has_ended(newest.state()) {
            ended_ns = ended_ns.or_else(|| Some(now_ns()));
        } else if let Some(at) = cancel_at
            && cancelled.is_none()
            && progress.outcomes.unwrap_or_default().accepted >= at
        {
            cancelled = Some(cancel(&mut client, name).await?);
        }
    }
}

async fn cancel(
    client: &mut AlertServiceClient<Channel>,
    name: &str,
) -> Result<Cancelled, DriveError> {
    let begun = now_ns();
    let request = wire::CancelAlertRequest { name: name.to_owned(), reason: "found".to_owned() };
    client.cancel_alert(request).await?;
    let acknowledged_ns = now_ns();
    Ok(Cancelled { acknowledged_ns, took: Duration::from_nanos(acknowledged_ns - begun) })
}

pub(super) fn has_ended(state: wire::State) -> bool {
    match state {
        wire::State::Unspecified | wire::State::Active | wire::State::Cancelling => false,
        wire::State::Cancelled | wire::State::Resolved | wire::State::Expired => true,
    }
}

fn late(newest: &wire::AlertProgress, deadline: Duration) -> DriveError {
    let progress = newest.progress.unwrap_or_default();
    DriveError::Late {
        what: "the alert",
        seconds: deadline.as_secs(),
        state: format!(
            "{}, {} handed, {} open, {} accepted, {} of {} nodes walked",
            newest.state().as_str_name(),
            progress.handed,
            progress.open,
            progress.outcomes.unwrap_or_default().accepted,
            progress.nodes_walked,
            progress.nodes
        ),
    }
}

fn case() -> wire::Case {
    let message =
        |title: &str, body: &str| wire::Message { title: title.to_owned(), body: body.to_owned() };
    let messages = [
        (
            "en",
            message(
                "Missing child",
                "A boy of six, red jacket, last seen at the station. Have you seen him?",
            ),
        ),
        ("zh-Hans", message("寻找走失儿童", "六岁男孩，红色外套，最后出现在火车站。您见过他吗？")),
        ("zh-Hant", message("尋找走失兒童", "六歲男孩，紅色外套，最後出現在火車站。您見過他嗎？")),
    ]
    .map(|(locale, message)| (locale.to_owned(), message));
    wire::Case {
        messages: messages.into_iter().collect(),
        fallback_locale: "en".to_owned(),
        image_url: "https://alerts.example.org/cases/7/photo.jpg".to_owned(),
        deep_link: "https://alerts.example.org/cases/7".to_owned(),
    }
}

fn region(spec: &RegionSpec) -> wire::Region {
    use wire::region::Shape;
    let shape = match spec {
        RegionSpec::Circle { center, radius_meters } => Shape::Circle(wire::Circle {
            center: Some(lat_lng(*center)),
            radius_meters: *radius_meters,
        }),
        RegionSpec::Polygon { outer, holes } => Shape::Polygon(wire::Polygon {
            outer: Some(ring(outer)),
            holes: holes.iter().map(|h| ring(h)).collect(),
        }),
    };
    wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 }
}

/// Closes a ring, as the contract requires.
fn ring(points: &[Place]) -> wire::Ring {
    let closing = points.first().filter(|first| points.last() != Some(first));
    wire::Ring { points: points.iter().chain(closing).map(|p| lat_lng(*p)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_closed_once() {
        let open = [Place::new(0.0, 0.0), Place::new(0.0, 1.0), Place::new(1.0, 0.0)];
        let closed = [open[0], open[1], open[2], open[0]];
        assert_eq!(ring(&open).points.len(), 4);
        assert_eq!(ring(&closed).points.len(), 4);
    }

    #[test]
    fn an_alert_names_its_apps_and_place() {
        let scenario = Scenario::find("city").unwrap();
        let population = Population::new(&scenario.population, 1, 1).unwrap();
        let alert = alert(&scenario, &population);
        assert_eq!(alert.audience.unwrap().apps, ["apps/guardian-ios", "apps/guardian-android"]);
        assert!(alert.case.unwrap().messages.contains_key("en"));
        assert_eq!(alert.mode, i32::from(wire::Mode::Test));
    }
}
