//! Refusals of lanes and of new credentials.

/// Reason why a lane cannot exist: the configuration lacks its gateway or credential, the two have
/// different platforms, or the key signs no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lane {gateway}/{credential}: {problem}")]
pub struct LaneError {
    /// Name of the lane's gateway.
    pub gateway: String,
    /// Name of the lane's credential.
    pub credential: String,
    /// Description of the problem, for people.
    pub problem: String,
}

/// Reason why new credentials cannot replace the present credentials without a restart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// A credential that the configuration did not have at startup.
    #[error("credential {0} was added after startup; restart the coordinator to use it")]
    Added(String),
    /// A credential that the configuration had at startup and no longer has.
    #[error("credential {0} was removed after startup; restart the coordinator to drop it")]
    Removed(String),
    /// A credential that now has another platform or project.
    #[error(
        "credential {0} changed its platform or project after startup; restart the coordinator to \
         use it"
    )]
    Other(String),
}
