//! The health of a lane end, as one value.

/// Health of one end of a lane as reported to the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneHealth {
    /// Connected, and the gateway answers.
    Ready,
    /// There is no connection, no answer, or nothing can be sent. The lane end retries with
    /// backoff.
    Unreachable,
    /// The provider token is refused. Single requests try it until it is accepted or another token
    /// arrives.
    Credential,
    /// The message itself is wrong, so no other device can succeed.
    Campaign,
    /// The gateway asks for less load.
    Throttled,
    /// The provider did not sign the answers: an outage or a proxy.
    Unsigned,
    /// The gateway says that the project does not exist.
    Project,
}
