//! Rows of a CSV file, in bounded memory.
//!
//! The file is UTF-8 (a byte order mark is skipped), its first line names the columns, and values
//! are separated by commas, semicolons or tabs, whichever the first line has most of. A quoted
//! value may have line breaks. A row with another number of values than the header is a row at
//! fault; a row of more than [`ROW_BYTES_MAX`] ends the import, because a missing quotation mark
//! makes one value of all that follows.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::{
    column::{self, Column},
    error::ImportError,
    position::Position,
    row::{Fault, Row},
    value::Value,
};

/// Longest row, bytes: an item of the API has at most 16 KiB.
const ROW_BYTES_MAX: usize = 64 * 1_024;
/// Maximum number of values in a row: many times the known columns.
const FIELDS_MAX: usize = 256;
/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 256 * 1_024;

/// A CSV file that is being read.
pub(super) struct CsvFile {
    path: PathBuf,
    file: File,
    reader: Reader,
    columns: Vec<Column>,
    input: Input,
    at: Position,
    /// Text of the values of one row, one after another.
    text: Box<[u8]>,
    /// End of each value in `text`.
    ends: [usize; FIELDS_MAX],
}

/// Bytes that are read and not yet used.
struct Input {
    bytes: Vec<u8>,
    used: usize,
    has_ended: bool,
}

impl CsvFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The file is unreadable, no CSV, or has a header at fault.
    pub(super) fn open(path: &Path, has_app: bool) -> Result<Self, ImportError> {
        let file = File::open(path).map_err(|e| ImportError::file(path, "opened", e))?;
        let mut csv = Self {
            path: path.to_owned(),
            file,
            reader: Reader::new(),
            columns: Vec::new(),
            input: Input { bytes: Vec::with_capacity(CHUNK_BYTES), used: 0, has_ended: false },
            at: Position { line: 1, ..Position::default() },
            text: vec![0; ROW_BYTES_MAX].into(),
            ends: [0; FIELDS_MAX],
        };
        csv.fill()?;
        if let Some(problem) = other_format(&csv.input.bytes) {
            return Err(ImportError::content(path, problem));
        }
        csv.reader = ReaderBuilder::new().delimiter(delimiter(&csv.input.bytes)).build();
        let Some(fields) = csv.read_record()? else {
            return Err(ImportError::content(path, "is empty; it must begin with a header"));
        };
        let names: Result<Vec<&str>, _> = csv.fields(fields).map(std::str::from_utf8).collect();
        let names = names.map_err(|_| ImportError::content(path, "must be text in UTF-8"))?;
        let columns = column::header(names, has_app);
        csv.columns = columns.map_err(|problem| ImportError::content(path, problem))?;
        Ok(csv)
    }

    /// Position after the rows that were read.
    pub(super) fn position(&self) -> Position {
        self.at
    }

    /// Goes on at a position of the same file.
    ///
    /// # Errors
    /// The file cannot be read there.
    pub(super) fn seek(&mut self, to: Position) -> Result<(), ImportError> {
        let sought = self.file.seek(SeekFrom::Start(to.byte));
        sought.map_err(|e| ImportError::file(&self.path, "read", e))?;
        self.input.bytes.clear();
        (self.input.used, self.input.has_ended) = (0, false);
        self.reader.reset();
        self.at = to;
        Ok(())
    }

    /// Reads the next row; `false`: there is none.
    ///
    /// # Errors
    /// The file is unreadable, or a row is too large.
    pub(super) fn next_row(&mut self, row: &mut Row) -> Result<bool, ImportError> {
        row.clear();
        let number = self.skip_line_breaks()?;
        let Some(fields) = self.read_record()? else { return Ok(false) };
        self.at.rows += 1;
        row.number = number;
        if fields != self.columns.len() {
            row.fault = Some(Fault::of_row(format!(
                "must have {} values, as the header; got {fields}",
                self.columns.len()
            )));
            return Ok(true);
        }
        for (field, column) in self.fields(fields).zip(&self.columns) {
            row.values[column.index()] = Value::of_bytes(field);
        }
        Ok(true)
    }

    /// Values of the row that was read last.
    fn fields(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends).take(count).map(|(start, end)| &self.text[start..end])
    }

    /// Skips empty lines, and what is left of a line break; returns the line of the next row.
    fn skip_line_breaks(&mut self) -> Result<u64, ImportError> {
        loop {
            let rest = self.input.rest();
            let breaks = rest.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
            let is_done = breaks < rest.len() || self.input.has_ended;
            self.advance(breaks);
            if is_done {
                return Ok(self.at.line);
            }
            self.fill()?;
        }
    }

    /// Reads one row into `text` and `ends`; returns the number of its values.
    fn read_record(&mut self) -> Result<Option<usize>, ImportError> {
        let (line, mut written, mut fields) = (self.at.line, 0, 0);
        loop {
            if self.input.rest().is_empty() {
                self.fill()?;
            }
            let (result, read, more, ended) = self.reader.read_record(
                self.input.rest(),
                &mut self.text[written..],
                &mut self.ends[fields..],
            );
            (written, fields) = (written + more, fields + ended);
            self.advance(read);
            match result {
                ReadRecordResult::Record => return Ok(Some(fields)),
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => {
                    let problem = format!(
                        "line {line}: a row must have at most {ROW_BYTES_MAX} bytes; is a \
                         quotation mark missing?"
                    );
                    return Err(ImportError::content(&self.path, problem));
                }
                ReadRecordResult::OutputEndsFull => {
                    let problem =
                        format!("line {line}: a row must have at most {FIELDS_MAX} values");
                    return Err(ImportError::content(&self.path, problem));
                }
            }
        }
    }

    /// Reads more bytes of the file after those that are not yet used.
    fn fill(&mut self) -> Result<(), ImportError> {
        let input = &mut self.input;
        input.bytes.drain(..input.used);
        input.used = 0;
        let wanted = (CHUNK_BYTES - input.bytes.len()) as u64;
        let read = io::Read::by_ref(&mut self.file).take(wanted).read_to_end(&mut input.bytes);
        let read = read.map_err(|e| ImportError::file(&self.path, "read", e))?;
        input.has_ended = (read as u64) < wanted;
        Ok(())
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.input.rest()[..bytes];
        self.at.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.at.byte += bytes as u64;
        self.input.used += bytes;
    }
}

impl Input {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.used..]
    }
}

/// The byte between values: the one of which the first line has most.
fn delimiter(start: &[u8]) -> u8 {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| line.iter().filter(|byte| **byte == delimiter).count();
    // The last of equal counts is chosen: a comma, if there is none at all.
    [b'\t', b';', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

/// Problem with a file whose first bytes show another format.
fn other_format(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("is UTF-16; save it as UTF-8"),
        [0x1f, 0x8b, ..] => Some("is compressed with gzip; decompress it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("is compressed with zstd; decompress it first"),
        [b'P', b'K', 3, 4, ..] => Some("is an archive or a spreadsheet; save it as CSV in UTF-8"),
        [b'P', b'A', b'R', b'1', ..] => Some("is a Parquet file; give --format parquet"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
