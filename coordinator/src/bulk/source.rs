//! The files of an import, whatever their format.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{csv::CsvFile, error::ImportError, parquet::ParquetFile, position::Position, row::Row};

/// Bytes at either end of a file that its fingerprint covers.
const PRINT_BYTES: u64 = 64 * 1_024;

/// Format of a file of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Text with a line for each device
    Csv,
    /// Columns of Apache Parquet
    Parquet,
}

impl Format {
    /// The format that a file's name says.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let of = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if of(&[".csv", ".tsv", ".txt"]) {
            Some(Self::Csv)
        } else if of(&[".parquet", ".pq", ".parq"]) {
            Some(Self::Parquet)
        } else {
            None
        }
    }
}

/// A file of devices that is being read.
pub(super) struct Source {
    /// Path as the caller gave it.
    pub(super) path: PathBuf,
    /// What shows later whether the file is still the same.
    pub(super) print: Fingerprint,
    rows: Rows,
}

enum Rows {
    Csv(Box<CsvFile>),
    Parquet(Box<ParquetFile>),
}

/// Length, time of the last change, and a hash of both ends of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fingerprint {
    /// Length of the file, bytes.
    pub(super) bytes: u64,
    changed_ms: u64,
    hash: String,
}

impl Source {
    /// Opens a file, and checks its columns. `format`: the format of all files; default: the ending
    /// of the file's name.
    ///
    /// # Errors
    /// The file is unreadable, or its columns cannot be imported.
    pub(super) fn open(
        path: &Path,
        format: Option<Format>,
        has_app: bool,
    ) -> Result<Self, ImportError> {
        let format = format.or_else(|| Format::of(path)).ok_or_else(|| {
            ImportError::content(path, "must end in .csv or .parquet; or give --format")
        })?;
        let print = Fingerprint::of(path)?;
        let rows = match format {
            Format::Csv => Rows::Csv(Box::new(CsvFile::open(path, has_app)?)),
            Format::Parquet => Rows::Parquet(Box::new(ParquetFile::open(path, has_app)?)),
        };
        Ok(Self { path: path.to_owned(), print, rows })
    }

    /// Position after the rows that were read.
    pub(super) fn position(&self) -> Position {
        match &self.rows {
            Rows::Csv(csv) => csv.position(),
            Rows::Parquet(parquet) => parquet.position(),
        }
    }

    /// Goes on at a position of the same file.
    ///
    /// # Errors
    /// The file cannot be read there.
    pub(super) fn seek(&mut self, to: Position) -> Result<(), ImportError> {
        match &mut self.rows {
            Rows::Csv(csv) => csv.seek(to),
            Rows::Parquet(parquet) => parquet.seek(to),
        }
    }

    /// Reads the next row; `false`: there is none.
    ///
    /// # Errors
    /// The file is unreadable or damaged, or it was changed meanwhile.
    pub(super) fn next_row(&mut self, row: &mut Row) -> Result<bool, ImportError> {
        let is_there = match &mut self.rows {
            Rows::Csv(csv) => csv.next_row(row)?,
            Rows::Parquet(parquet) => parquet.next_row(row)?,
        };
        if !is_there && Fingerprint::of(&self.path)? != self.print {
            let problem = "was changed while it was imported; import it again";
            return Err(ImportError::content(&self.path, problem));
        }
        Ok(is_there)
    }
}

impl Fingerprint {
    /// The fingerprint of a regular file.
    ///
    /// # Errors
    /// The file is unreadable, or no regular file.
    fn of(path: &Path) -> Result<Self, ImportError> {
        let unreadable = |error| ImportError::file(path, "read", error);
        let mut file = File::open(path).map_err(|e| ImportError::file(path, "opened", e))?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(ImportError::content(path, "must be a regular file"));
        }
        let bytes = metadata.len();
        let changed = metadata.modified().map_err(unreadable)?.duration_since(UNIX_EPOCH);
        let mut hash = Xxh3::new();
        for start in [0, bytes.saturating_sub(PRINT_BYTES)] {
            let mut end = Vec::new();
            file.seek(SeekFrom::Start(start)).map_err(unreadable)?;
            Read::by_ref(&mut file).take(PRINT_BYTES).read_to_end(&mut end).map_err(unreadable)?;
            hash.update(&end);
        }
        let changed_ms = changed.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        Ok(Self { bytes, changed_ms, hash: format!("{:032x}", hash.digest128()) })
    }
}
