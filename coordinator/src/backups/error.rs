//! Reasons why a backup or a restore ends early.

use std::{io, time::Duration};

use tonic::Status;

use crate::{
    backup::{file::FileError, read::ReadError, restore::RestoreError},
    config::ConfigError,
    heads::HeadsError,
    private_folder::FolderError,
    state::KeptError,
};

/// Why a backup or a restore has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    /// An option cannot be used.
    #[error("{option}: {problem}")]
    Option { option: &'static str, problem: String },
    /// The cluster of the configuration differs from that of the backup.
    #[error("{setting}: the backup is of {theirs}, the configuration says {ours}; set {theirs}")]
    Setting { setting: &'static str, theirs: String, ours: String },
    /// The device key is not that of the backup's cluster.
    #[error(
        "device_key: the backup was made with another device key; put the device.key of its \
         cluster into the data folder, or name it with device_key_file, and restore into a new \
         store"
    )]
    DeviceKey,
    /// The address of the coordinator is unknown.
    #[error("--from: the name has no address")]
    NoAddress,
    /// The coordinator cannot be reached.
    #[error("--from: {0}")]
    Connect(#[from] tonic::transport::Error),
    /// The coordinator refuses, or its stream ended early.
    #[error("the backup was refused: {:?}: {}", .0.code(), .0.message())]
    Refused(#[from] Box<Status>),
    /// The coordinator does not send.
    #[error("the coordinator sent nothing for {0:?}")]
    Silent(Duration),
    /// The items have no end.
    #[error("the backup has no end; make it again")]
    Incomplete,
    /// What is read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The objects of the backup.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The configuration of the store.
    #[error(transparent)]
    Config(#[from] Box<ConfigError>),
    /// The data folder or the folder of the objects; a coordinator may run on it.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The store; a coordinator may run on it.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The store lacks what it had, or that cannot be found out.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// The system refuses a thread or a name.
    #[error(transparent)]
    System(#[from] io::Error),
}
