//! Rows of a Parquet file, column by column, in bounded memory.
//!
//! Each column of a row group is read page by page ([`page`]), in blocks of [`BLOCK_ROWS`] rows. So
//! the memory depends on the pages and not on the size of row groups: at most
//! [`page::PAGE_BYTES_MAX`] compressed and as much again decompressed for each column and its
//! dictionary. All metadata and the types of all columns are checked before the first row.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use self::chunk::{Chunk, Kind};
use super::{
    column::{self, Column},
    error::ImportError,
    position::Position,
    row::Row,
    value::Value,
};

mod chunk;
mod page;

/// Number of rows that are decoded at a time.
const BLOCK_ROWS: usize = 1_024;
/// Largest metadata at the end of a file, bytes: that of 100,000 row groups.
const METADATA_BYTES_MAX: u64 = 64 << 20;
/// Metadata's length and the four bytes that end each file.
const TAIL_BYTES: u64 = 8;

/// A Parquet file that is being read.
pub(super) struct ParquetFile {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    metadata: ParquetMetaData,
    columns: Vec<(Column, Kind)>,
    rows: u64,
    at: u64,
    /// The next row group.
    group: usize,
    /// Rows of the open row group that are not yet decoded.
    left: u64,
    chunks: Vec<Chunk>,
    /// Values of the block by column, and the next row of the block.
    block: Vec<Vec<Value>>,
    next: usize,
}

impl ParquetFile {
    /// Opens a file, and checks its metadata and its columns.
    ///
    /// # Errors
    /// The file is unreadable, truncated, encrypted, or has a column that cannot be imported.
    pub(super) fn open(path: &Path, has_app: bool) -> Result<Self, ImportError> {
        let content = |problem| ImportError::content(path, problem);
        let file = File::open(path).map_err(|e| ImportError::file(path, "opened", e))?;
        let length = file.metadata().map_err(|e| ImportError::file(path, "read", e))?.len();
        let metadata = metadata(&file, length)
            .map_err(|e| ImportError::file(path, "read", e))?
            .map_err(content)?;
        let schema = metadata.file_metadata().schema_descr();
        let names = schema.root_schema().get_fields().iter().map(|field| field.name());
        let names = column::header(names, has_app).map_err(content)?;
        // A column of one leaf each, in the order of the leaves.
        let roots: Vec<usize> =
            (0..schema.num_columns()).map(|leaf| schema.get_column_root_idx(leaf)).collect();
        let leaves = |name: usize| roots.iter().filter(|root| **root == name).count();
        if let Some(group) = (0..names.len()).find(|name| leaves(*name) != 1) {
            let problem = format!("column {} must be simple, not a group", names[group].name());
            return Err(content(problem));
        }
        let kinds = names.into_iter().zip(schema.columns()).map(|(column, leaf)| {
            let kind = Kind::of(column, leaf)?;
            Ok((column, kind))
        });
        let columns = kinds.collect::<Result<Vec<_>, String>>().map_err(content)?;
        let mut rows = 0;
        for (group, n) in metadata.row_groups().iter().zip(0..) {
            let within = |problem| content(format!("row group {n}: {problem}"));
            if group.num_columns() != columns.len() {
                return Err(within("has another number of columns than the schema".to_owned()));
            }
            rows += u64::try_from(group.num_rows())
                .map_err(|_| within("must not have a negative number of rows".to_owned()))?;
            for (chunk, (column, _)) in group.columns().iter().zip(&columns) {
                page::check(chunk, length)
                    .map_err(|e| within(format!("column {}: {e}", column.name())))?;
            }
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            bytes: length,
            metadata,
            rows,
            at: 0,
            group: 0,
            left: 0,
            chunks: Vec::new(),
            block: vec![Vec::new(); columns.len()],
            next: 0,
            columns,
        })
    }

    /// Position after the rows that were read.
    pub(super) fn position(&self) -> Position {
        let share = u128::from(self.bytes) * u128::from(self.at) / u128::from(self.rows.max(1));
        let byte =
            if self.at == self.rows { self.bytes } else { u64::try_from(share).unwrap_or(0) };
        Position { rows: self.at, byte, line: 0 }
    }

    /// Goes on at a position after the present one. Whole row groups are skipped unread.
    ///
    /// # Errors
    /// The file cannot be read there.
    pub(super) fn seek(&mut self, to: Position) -> Result<(), ImportError> {
        while self.next == self.block[0].len()
            && self.left == 0
            && let Some(group) = self.metadata.row_groups().get(self.group)
            && let rows = group.num_rows().unsigned_abs()
            && self.at + rows <= to.rows
        {
            self.at += rows;
            self.group += 1;
        }
        let mut row = Row::default();
        while self.at < to.rows && self.next_row(&mut row)? {}
        Ok(())
    }

    /// Reads the next row; `false`: there is none.
    ///
    /// # Errors
    /// The file is unreadable or damaged.
    pub(super) fn next_row(&mut self, row: &mut Row) -> Result<bool, ImportError> {
        row.clear();
        while self.next == self.block[0].len() {
            if !self.next_block()? {
                return Ok(false);
            }
        }
        self.at += 1;
        row.number = self.at;
        for (values, (column, _)) in self.block.iter_mut().zip(&self.columns) {
            row.values[column.index()] = std::mem::take(&mut values[self.next]);
        }
        self.next += 1;
        Ok(true)
    }

    /// Decodes the next rows of the row group, or opens the next row group; `false`: there is none.
    fn next_block(&mut self) -> Result<bool, ImportError> {
        if self.left == 0 {
            let Some(group) = self.metadata.row_groups().get(self.group) else { return Ok(false) };
            let open = group.columns().iter().zip(&self.columns);
            self.chunks =
                open.map(|(meta, (_, kind))| Chunk::new(&self.file, meta, *kind)).collect();
            self.left = group.num_rows().unsigned_abs();
            self.group += 1;
        }
        let rows = BLOCK_ROWS.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let columns = self.chunks.iter_mut().zip(&mut self.block).zip(&self.columns);
        for ((chunk, values), (column, _)) in columns {
            values.clear();
            chunk.read(rows, values).map_err(|problem| {
                let problem = format!(
                    "row group {}, row {}: column {}: {problem}",
                    self.group - 1,
                    self.at + 1,
                    column.name()
                );
                ImportError::content(&self.path, problem)
            })?;
        }
        self.next = 0;
        self.left -= rows as u64;
        Ok(true)
    }
}

/// Reads the metadata at the end of a file.
fn metadata(file: &File, length: u64) -> std::io::Result<Result<ParquetMetaData, String>> {
    let short = || Ok(Err("is no Parquet file, or its end is missing".to_owned()));
    let Some(tail_at) = length.checked_sub(TAIL_BYTES) else { return short() };
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, tail_at)?;
    let [a, b, c, d, magic @ ..] = tail;
    match &magic {
        b"PAR1" => {}
        b"PARE" => return Ok(Err("is encrypted; write it without encryption".to_owned())),
        _ => return short(),
    }
    let bytes = u64::from(u32::from_le_bytes([a, b, c, d]));
    if bytes > METADATA_BYTES_MAX {
        let problem =
            format!("must have at most {METADATA_BYTES_MAX} bytes of metadata; got {bytes}");
        return Ok(Err(problem));
    }
    let Some(at) = tail_at.checked_sub(bytes) else { return short() };
    let mut text = vec![0; usize::try_from(bytes).unwrap_or_default()];
    file.read_exact_at(&mut text, at)?;
    let metadata = ParquetMetaDataReader::decode_metadata(&text);
    Ok(metadata.map_err(|error| format!("has metadata that cannot be read: {error}")))
}

#[cfg(test)]
mod tests;
