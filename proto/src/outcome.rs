//! The last word of a gateway on one device.

/// What became of one device of a wave. Each device handed to a lane ends in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The gateway took it. Not proof that it was shown.
    Accepted,
    /// The gateway says the token is dead; fed back into the registry.
    Dead,
    /// The gateway refuses this message or this token for good.
    Refused,
    /// Sent, never answered, and the wave ended before another try.
    Unknown,
    /// Never sent, or put off by the gateway, when the wave ended.
    Expired,
}

impl Outcome {
    /// All, in the order of their counters.
    pub const ALL: [Self; 5] =
        [Self::Accepted, Self::Dead, Self::Refused, Self::Unknown, Self::Expired];
}
