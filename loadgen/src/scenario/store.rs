//! The store of the coordinator that a run starts.

use clap::ValueEnum;
use serde::Deserialize;

/// Store of the coordinator that a run starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A file in the run's folder, removed after a run that passed.
    #[default]
    Sqlite,
    /// The coordinator's memory: no disk takes part in what is measured.
    Memory,
}
