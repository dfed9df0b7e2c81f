//! Names that several parts must spell alike: processes, gateways in the coordinator's
//! configuration and the API, and the files of a run.

use clarion_emulator::Platform;

/// Name of the first coordinator's process.
pub const COORDINATOR: &str = "coordinator";
/// Name of the process of a second coordinator beside the first.
pub const SECOND_COORDINATOR: &str = "coordinator-2";
/// Name of the only project of the FCM emulator.
pub const PROJECT: &str = "clarion-load";
/// Name of the file with a run's figures, for programs.
pub const REPORT: &str = "report.json";
/// Name of the page that shows a run, for people.
pub const PAGE: &str = "report.html";

/// Returns the name of a shard node's process: `shard-0`.
#[must_use]
pub fn node(number: u32) -> String {
    format!("shard-{number}")
}

/// Returns the number in a shard node's name; `None` if the process is not a node.
#[must_use]
pub fn node_number(name: &str) -> Option<u32> {
    name.strip_prefix("shard-")?.parse().ok()
}

/// Returns the name of an emulator's process: `gateway-apns`.
#[must_use]
pub fn emulator(platform: Platform) -> String {
    format!("gateway-{}", platform.as_str())
}

/// Returns the name of the file of an emulator's record; `part` distinguishes the alerts of one
/// run.
#[must_use]
pub fn record(platform: Platform, part: &str) -> String {
    format!("{}{part}-record.bin", emulator(platform))
}

/// Returns the name of an emulator in the coordinator's configuration.
#[must_use]
pub fn gateway(platform: Platform) -> &'static str {
    match platform {
        Platform::Apns => "apns-emulator",
        Platform::Fcm => "fcm-emulator",
    }
}

/// Returns the name of an emulator's credential in the coordinator's configuration.
#[must_use]
pub fn credential(platform: Platform) -> &'static str {
    match platform {
        Platform::Apns => "team-key",
        Platform::Fcm => "service-account",
    }
}

/// Returns the topic of an app of APNs.
#[must_use]
pub fn topic(app: &str) -> String {
    format!("org.clarion.{app}")
}
