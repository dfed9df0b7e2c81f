//! Reasons why an import ends before its last row.

use std::{io, path::PathBuf};

use tonic::Status;

use crate::{
    config::ConfigError, heads::HeadsError, private_folder::FolderError, state::KeptError,
};

/// Reason why an import cannot start or go on. A row that is refused is none: it goes to the file
/// of rejects.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// A file cannot be opened, read or written.
    #[error("{}: cannot be {verb}: {error}", path.display())]
    File { path: PathBuf, verb: &'static str, error: io::Error },
    /// A file of devices is not what it should be.
    #[error("{}: {problem}", path.display())]
    Content { path: PathBuf, problem: String },
    /// An option that does not fit the others.
    #[error("{option}: {problem}")]
    Option { option: &'static str, problem: String },
    /// The coordinator refuses the import.
    #[error("the import was refused: {:?}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
    /// The coordinator took nothing for the whole time limit.
    #[error(
        "no rows were taken for {seconds} s; the last problem: {problem}. Run the import again, \
         with --resume, when the coordinator takes rows"
    )]
    GaveUp { seconds: u64, problem: String },
    /// An answer that the contract does not allow.
    #[error("the coordinator violated its API: {0}")]
    Broken(String),
    /// The configuration of the store's coordinator is wrong.
    #[error(transparent)]
    Config(#[from] Box<ConfigError>),
    /// The data folder cannot be used; a coordinator may run on it.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The store or its objects cannot be opened; a coordinator may run on them.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The store lacks what it had, or that cannot be found out.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// The database that is followed cannot be read.
    #[error("database: {0}")]
    Database(String),
    /// The system refused a thread.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl ImportError {
    /// A file that cannot be opened, read or written.
    pub(super) fn file(path: &std::path::Path, verb: &'static str, error: io::Error) -> Self {
        Self::File { path: path.to_owned(), verb, error }
    }

    /// A file of devices with another content.
    pub(super) fn content(path: &std::path::Path, problem: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), problem: problem.into() }
    }
}
