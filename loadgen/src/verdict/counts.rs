//! Sums of the verdict: over all devices, by platform, and by spot.

use serde::Serialize;

/// Devices and requests of one alert, counted over the whole population.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Devices exactly inside that must be alerted (for devices that changed: at the end, wherever
    /// they were before).
    pub region_devices: u64,
    /// Outside, but their cell is in the flat cover (devices that never changed).
    pub edge_devices: u64,
    /// Devices accepted at least once, by the gateway's record.
    pub accepted: u64,
    /// Inside, or come in behind the frontier to stay a while: alive, never accepted.
    pub missed: u64,
    /// Accepted while not within 500 m of the region.
    pub outside: u64,
    /// Accepted on a token that was not the current one.
    pub stale_tokens: u64,
    /// Accepted while removed or muted.
    pub unwanted: u64,
    /// Acceptances after the first without a reason.
    pub duplicates: u64,
    /// Acceptances after the first that follow an unanswered or failed request.
    pub repeated: u64,
    /// Devices sent to and never answered.
    pub unknown: u64,
    /// Devices whose token a gateway called dead.
    pub dead_tokens: u64,
    /// Requests for tokens that no device has.
    pub strangers: u64,
    /// Requests that the gateway left unanswered.
    pub unanswered_requests: u64,
}

/// Devices of one platform; the words are those of [`Counts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlatformCount {
    /// Exactly inside, or at the edge.
    pub addressed: u64,
    /// Devices accepted at least once.
    pub accepted: u64,
    /// Never accepted, though inside and alive.
    pub missed: u64,
    /// Acceptances after the first without a reason.
    pub duplicates: u64,
    /// Acceptances after the first that follow an unanswered or failed request.
    pub repeated: u64,
    /// Sent to and never answered.
    pub unknown: u64,
    /// Devices whose token a gateway called dead.
    pub dead_tokens: u64,
}

/// Devices addressed in one spot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpotCount {
    /// Devices inside or at the edge, and those that were reached anyway.
    pub devices: u64,
    /// Addressed devices exactly inside, with a live token, never accepted.
    pub missed: u64,
    /// Addressed devices with a push that was never answered.
    pub unknown: u64,
}

impl Counts {
    /// Adds those of other devices.
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

    /// All faults: devices missed, alerted outside, on a wrong token, again, or never answered.
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
    /// Adds those of other devices.
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
    /// Adds those of other devices.
    pub fn add(&mut self, other: Self) {
        self.devices += other.devices;
        self.missed += other.missed;
        self.unknown += other.unknown;
    }
}
