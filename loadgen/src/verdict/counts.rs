//! Sums of the verdict: over all devices, by platform, and by spot.

use serde::Serialize;

/// Counts of devices and requests of one alert over the whole population.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Devices exactly inside that must be alerted. A device that changed counts by its state at
    /// the end.
    pub region_devices: u64,
    /// Devices outside whose cell is in the flat cover; only devices that never changed.
    pub edge_devices: u64,
    /// Devices accepted at least once in the gateways' record.
    pub accepted: u64,
    /// Devices with a live token that were never accepted although they were inside, or entered
    /// behind the frontier and stayed.
    pub missed: u64,
    /// Devices accepted while more than 500 m outside the region.
    pub outside: u64,
    /// Devices accepted on a token that was not the current one.
    pub stale_tokens: u64,
    /// Devices accepted while removed or muted.
    pub unwanted: u64,
    /// Acceptances after the first that no unanswered or failed request explains.
    pub duplicates: u64,
    /// Acceptances after the first that follow an unanswered or failed request.
    pub repeated: u64,
    /// Devices with a request but without any answer.
    pub unknown: u64,
    /// Devices whose token a gateway called dead.
    pub dead_tokens: u64,
    /// Requests for tokens that no device has.
    pub strangers: u64,
    /// Requests that the gateway left unanswered.
    pub unanswered_requests: u64,
}

/// Counts of the devices of one platform; fields have the meaning of those in [`Counts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlatformCount {
    /// Devices exactly inside or at the edge.
    pub addressed: u64,
    /// Devices accepted at least once.
    pub accepted: u64,
    /// Devices inside with a live token that were never accepted.
    pub missed: u64,
    /// Acceptances after the first that no unanswered or failed request explains.
    pub duplicates: u64,
    /// Acceptances after the first that follow an unanswered or failed request.
    pub repeated: u64,
    /// Devices with a request but without any answer.
    pub unknown: u64,
    /// Devices whose token a gateway called dead.
    pub dead_tokens: u64,
}

/// Counts of the devices addressed in one spot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpotCount {
    /// Devices inside or at the edge, and others that were reached.
    pub devices: u64,
    /// Addressed devices exactly inside, with a live token, never accepted.
    pub missed: u64,
    /// Addressed devices with a push that was never answered.
    pub unknown: u64,
}

impl Counts {
    /// Adds the counts of other devices.
    pub fn add(&mut self, other: Self) {
        self.region_devices += other.region_devices;
        self.edge_devices += other.edge_devices;
        self.accepted += other.accepted;
        self.missed += other.missed;
        self.outside += other.outside;
        self.stale_tokens += other.stale_tokens;
        self.unwanted += other.unwanted;
        self.duplicates += other.duplicates;
        self.repeated += other.repeated;
        self.unknown += other.unknown;
        self.dead_tokens += other.dead_tokens;
        self.strangers += other.strangers;
        self.unanswered_requests += other.unanswered_requests;
    }

    /// Returns the sum of all faults: devices missed, alerted outside, on a wrong token, again, or
    /// never answered.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.missed
            + self.outside
            + self.stale_tokens
            + self.unwanted
            + self.duplicates
            + self.repeated
            + self.unknown
            + self.strangers
    }
}

impl PlatformCount {
    /// Adds the counts of other devices.
    pub fn add(&mut self, other: Self) {
        self.addressed += other.addressed;
        self.accepted += other.accepted;
        self.missed += other.missed;
        self.duplicates += other.duplicates;
        self.repeated += other.repeated;
        self.unknown += other.unknown;
        self.dead_tokens += other.dead_tokens;
    }
}

impl SpotCount {
    /// Adds the counts of other devices.
    pub fn add(&mut self, other: Self) {
        self.devices += other.devices;
        self.missed += other.missed;
        self.unknown += other.unknown;
    }
}
