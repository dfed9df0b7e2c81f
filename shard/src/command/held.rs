//! Content of a core: devices by app, and the applied positions of its partitions.

use clarion_proto::ids::{AppName, PartitionId, Position};

/// Content of a core.
#[derive(Debug, Clone, Default)]
pub struct HeldStats {
    /// Number of [`super::Command::Own`] that the core had carried out: if it is not the newest,
    /// the other fields describe former partitions.
    pub owns: u64,
    /// Applied position of each partition that has content.
    pub positions: Vec<(PartitionId, Position)>,
    /// Devices with a registration.
    pub devices: u64,
    /// Registered devices with a place.
    pub placed: u64,
    /// Registered devices that are muted.
    pub muted: u64,
    /// Registered devices by app.
    pub apps: Vec<(AppName, u64)>,
}
