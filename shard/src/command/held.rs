//! Content of a core: devices by app, and the applied positions of its logs.

use clarion_proto::ids::{AppName, LogId, Position};

/// What a core holds.
#[derive(Debug, Clone, Default)]
pub struct HeldStats {
    /// How many [`super::Command::Own`] the core had carried out: of an older number, the rest is
    /// about former partitions.
    pub owns: u64,
    /// How far each log is applied.
    pub positions: Vec<(LogId, Position)>,
    /// Devices with a registration.
    pub devices: u64,
    /// Registered devices with a place.
    pub placed: u64,
    /// Registered devices that are muted.
    pub muted: u64,
    /// Registered devices by app.
    pub apps: Vec<(AppName, u64)>,
}
