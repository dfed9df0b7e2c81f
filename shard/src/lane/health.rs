//! The health of a lane end, as one value.

/// Health of one end of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneHealth {
    /// Connected, and the gateway answers.
    Ready,
    /// No connection, no answers, or nothing can be sent: tried again with backoff.
    Unreachable,
    /// The provider token is refused: single requests try it until it is accepted or another one
    /// comes.
    Credential,
    /// The message itself is wrong: no other device can succeed.
    Campaign,
    /// The gateway asks for less.
    Throttled,
    /// Answers are not the provider's: an outage, a proxy.
    Unsigned,
    /// The gateway says that the project does not exist.
    Project,
}
