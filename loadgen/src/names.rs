//! Names that several parts must spell alike: processes, the names of gateways in the coordinator's
//! configuration and the API, and the files of a run.

use clarion_emulator::Platform;

/// The process of the first coordinator.
pub const COORDINATOR: &str = "coordinator";
/// The process of a second coordinator beside the first.
pub const SECOND_COORDINATOR: &str = "coordinator-2";
/// The one project of the FCM emulator.
pub const PROJECT: &str = "clarion-load";
/// The file with a run's figures, for programs.
pub const REPORT: &str = "report.json";
/// The file that shows a run, for people.
pub const PAGE: &str = "report.html";

/// Names a shard node's process: `shard-0`.
#[must_use]
pub fn node(number: u32) -> String {
    format!("shard-{number}")
}

/// The number in a shard node's name; none: the process is no node.
#[must_use]
pub fn node_number(name: &str) -> Option<u32> {
    name.strip_prefix("shard-")?.parse().ok()
}

/// Names an emulator's process: `gateway-apns`.
#[must_use]
pub fn emulator(platform: Platform) -> String {
    format!("gateway-{}", platform.as_str())
}

/// Name of the file of an emulator's record; `part` distinguishes the alerts of one run.
#[must_use]
pub fn record(platform: Platform, part: &str) -> String {
    format!("{}{part}-record.bin", emulator(platform))
}

/// Names an emulator in the coordinator's configuration.
#[must_use]
pub fn gateway(platform: Platform) -> &'static str {
    match platform {
        Platform::Apns => "apns-emulator",
        Platform::Fcm => "fcm-emulator",
    }
}

/// Names the credential for an emulator in the coordinator's configuration.
#[must_use]
pub fn credential(platform: Platform) -> &'static str {
    match platform {
        Platform::Apns => "team-key",
        Platform::Fcm => "service-account",
    }
}

/// The topic of an app of APNs.
#[must_use]
pub fn topic(app: &str) -> String {
    format!("org.clarion.{app}")
}
