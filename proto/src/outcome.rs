//! Outcome of one device of a wave.

/// Final result for one device of a wave. Each device handed to a lane ends with exactly one
/// outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The gateway accepted the push. Does not prove that the phone showed it.
    Accepted,
    /// The gateway says that the token is dead; feedback removes it from the registry.
    Dead,
    /// The gateway refuses this message or this token permanently.
    Refused,
    /// The push was sent and never answered, and the wave ended before another attempt.
    Unknown,
    /// The push was never sent, or the gateway had postponed it, when the wave ended.
    Expired,
}

impl Outcome {
    /// All outcomes, in the order of their counters.
    pub const ALL: [Self; 5] =
        [Self::Accepted, Self::Dead, Self::Refused, Self::Unknown, Self::Expired];
}
