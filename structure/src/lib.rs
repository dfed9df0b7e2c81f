//! Reader of the workspace's source, with which tests enforce the rules of `ARCHITECTURE.md`: which
//! module imports which ([`imports`]), where imports form a circle ([`circles`]), which imports
//! point upward ([`floors`]), how long files, functions and lines are ([`sizes`]), and where a task
//! chooses at random ([`choices`]).
//!
//! A module is a file: inline modules belong to the file that contains them. Code under
//! `#[cfg(test)]` is not read, because tests may import whatever they test.

use std::path::{Path, PathBuf};

pub mod choices;
pub mod circles;
pub mod floors;
pub mod imports;
pub mod modules;
pub mod sizes;
pub mod text;

/// Folders of the checked crates, relative to the workspace.
pub const CRATES: [&str; 7] =
    ["proto", "runtime", "coordinator", "shard", "loadgen/emulator", "loadgen", "sim"];

/// A file that could not be read as Rust.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file does not exist or is not UTF-8.
    #[error("{path}: {problem}", path = path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        problem: std::io::Error,
    },
    /// The file is not Rust.
    #[error("{path}:{line}: {problem}", path = path.display())]
    Parse {
        /// Path of the file.
        path: PathBuf,
        /// The line of the problem, from 1.
        line: usize,
        /// Error of the parser.
        problem: String,
    },
}

/// Returns the folder of the workspace, or the one that `CLARION_STRUCTURE_OF` names, so that the
/// tree of another commit can be measured by the rules of this one.
#[must_use]
pub fn workspace() -> PathBuf {
    std::env::var_os("CLARION_STRUCTURE_OF").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned(),
        PathBuf::from,
    )
}

/// Reads and parses one file.
///
/// # Errors
/// If the file cannot be read, or is not Rust.
pub fn parse(path: &Path) -> Result<syn::File, SourceError> {
    let text = std::fs::read_to_string(path)
        .map_err(|problem| SourceError::Read { path: path.to_owned(), problem })?;
    syn::parse_file(&text).map_err(|error| SourceError::Parse {
        path: path.to_owned(),
        line: error.span().start().line,
        problem: error.to_string(),
    })
}

/// Reports whether an item is compiled for tests only.
#[must_use]
pub fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}
