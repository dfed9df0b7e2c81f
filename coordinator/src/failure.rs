//! Reasons why the process cannot start or go on.

use std::io;

use clarion_runtime::{descriptors::Shortage, proxy::rules::EnvironmentError, telemetry};

use crate::{
    backup::restore::RestoreError, config::ConfigError, heads::HeadsError,
    private_folder::FolderError, state::KeptError, store::StoreError,
};

/// Why the process could not start or continue.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An environment variable of telemetry is invalid.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The store or its objects cannot be opened.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The store lacks what it had, or that cannot be found out.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// A restore into the store has not ended.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// This process must not use the store any more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The environment names an unusable proxy.
    #[error(transparent)]
    Proxy(#[from] EnvironmentError),
    /// The system refused a port, a signal handler or a thread.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The limit of file descriptors is too low.
    #[error(transparent)]
    Descriptors(#[from] Shortage),
    /// The protobuf descriptors built into the program are invalid: a defect.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}
