//! Batches: rows of one file, packed for the API.
//!
//! A thread of its own reads the files, checks the form of each row and encodes batches; it waits
//! while [`QUEUE`] batches are not taken. So the rows in memory are bounded by the batches in the
//! queue and those that are not acknowledged.

use std::collections::BTreeSet;

use bytes::Bytes;
use clarion_proto::wire::v1 as wire;
use prost::Message;
use tokio::sync::mpsc;

use super::{
    column::Column,
    error::ImportError,
    position::Position,
    row::{Changes, Fault, Row},
    source::Source,
};

/// Number of batches that may wait between the reader and the writer.
pub(super) const QUEUE: usize = 2;
/// Maximum number of rows of a batch: each may be two of the 10,000 changes that the API takes.
const ROWS_MAX: usize = 4_000;
/// Bytes of changes from which on a batch is complete: the API takes 4 MiB, and a row has less than
/// 130 KiB.
const BYTES_ENOUGH: usize = 1 << 20;

/// Rows of one file, encoded as a request of `WriteDevices`.
#[derive(Debug)]
pub(super) struct Batch {
    /// Number of the batch, from 1.
    pub(super) id: u64,
    /// The encoded `WriteDevicesRequest`.
    pub(super) request: Bytes,
    /// Number of rows, with rejected ones.
    pub(super) rows: u64,
    /// Number of the file, from 0.
    pub(super) file: usize,
    /// Position in the file after the batch.
    pub(super) end: Position,
    /// Row of each change.
    changes: Vec<u64>,
    rejects: Vec<Reject>,
}

/// A row that was not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reject {
    /// Line of a CSV file, or number of the row of a Parquet file.
    pub(super) row: u64,
    /// Column and reason.
    pub(super) fault: Fault,
}

/// What the API has made of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Rows that were rejected, in the order of the file.
    pub(super) rejects: Vec<Reject>,
    /// Number of rows that were written.
    pub(super) written: u64,
    /// Number of rows of which a part without meaning was left out.
    pub(super) warned: u64,
}

impl Batch {
    /// Combines the rows that were rejected before with those that the answer refuses.
    ///
    /// # Errors
    /// The answer is not one to this batch.
    pub(super) fn answered(
        &self,
        answer: wire::WriteDevicesResponse,
    ) -> Result<Outcome, ImportError> {
        if answer.batch_id != self.id {
            let got = answer.batch_id;
            return Err(ImportError::Broken(format!("batch {} was answered as {got}", self.id)));
        }
        let row = |index: u32| {
            let row = self.changes.get(index as usize).copied();
            row.ok_or_else(|| {
                let changes = self.changes.len();
                ImportError::Broken(format!("change {index} of {changes} was answered"))
            })
        };
        let mut rejects = self.rejects.clone();
        for error in answer.errors {
            let row = row(error.index)?;
            let column = Column::of_field(&error.field);
            let reason = match column {
                Some(_) => error.description,
                None => format!("{}: {}", error.field, error.description),
            };
            rejects.push(Reject { row, fault: Fault { column, reason } });
        }
        // Of a row with two changes at fault, the first is told.
        rejects.sort_by_key(|reject| reject.row);
        rejects.dedup_by_key(|reject| reject.row);
        let warned = answer.warnings.iter().map(|warning| row(warning.index));
        let warned = warned.collect::<Result<BTreeSet<u64>, _>>()?;
        let written = self.rows - rejects.len() as u64;
        Ok(Outcome { rejects, written, warned: warned.len() as u64 })
    }
}

/// Options of the reader.
#[derive(Debug, Clone)]
pub(super) struct Packing {
    /// App of rows that name none.
    pub(super) app: Option<String>,
    /// Whether the import takes observations of up to 400 days.
    pub(super) historic: bool,
}

/// Reads all files from `first` on, and hands over their batches. The last item is the error that
/// ended the reading, if one did. Runs on a thread of its own.
pub(super) fn pack_all(
    mut sources: Vec<Source>,
    first: usize,
    packing: &Packing,
    to: &mpsc::Sender<Result<Batch, ImportError>>,
) {
    let mut id = 0;
    for (file, source) in sources.iter_mut().enumerate().skip(first) {
        loop {
            id += 1;
            let batch = match pack(source, id, file, packing) {
                Ok(Some(batch)) => Ok(batch),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let is_last = batch.is_err();
            // The writer has ended if it takes no more batches; it knows why.
            if to.blocking_send(batch).is_err() || is_last {
                return;
            }
        }
    }
}

/// Packs the next rows of a file; `None`: there are none.
fn pack(
    source: &mut Source,
    id: u64,
    file: usize,
    packing: &Packing,
) -> Result<Option<Batch>, ImportError> {
    let mut packed = Packed::new(id, packing.historic);
    let mut row = Row::default();
    while !packed.is_full() && source.next_row(&mut row)? {
        packed.push(row.number, row.take_changes(packing.app.as_deref()));
    }
    Ok(packed.into_batch(file, source.position()))
}

/// Rows on their way into a batch.
pub(super) struct Packed {
    request: wire::WriteDevicesRequest,
    changes: Vec<u64>,
    rejects: Vec<Reject>,
    rows: usize,
    bytes: usize,
}

impl Packed {
    pub(super) fn new(id: u64, historic: bool) -> Self {
        let request = wire::WriteDevicesRequest { batch_id: id, historic, changes: Vec::new() };
        Self { request, changes: Vec::new(), rejects: Vec::new(), rows: 0, bytes: 0 }
    }

    /// Whether the batch is complete.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= ROWS_MAX || self.bytes >= BYTES_ENOUGH
    }

    /// Adds the changes of a row, or its fault.
    pub(super) fn push(&mut self, row: u64, changes: Result<Changes, Fault>) {
        self.rows += 1;
        match changes {
            Ok((change, mute)) => {
                for change in std::iter::once(change).chain(mute) {
                    self.bytes += change.encoded_len();
                    self.request.changes.push(change);
                    self.changes.push(row);
                }
            }
            Err(fault) => self.rejects.push(Reject { row, fault }),
        }
    }

    /// The batch of these rows, which ends there; `None`: there are no rows.
    pub(super) fn into_batch(self, file: usize, end: Position) -> Option<Batch> {
        let Self { request, changes, rejects, rows, .. } = self;
        (rows > 0).then(|| Batch {
            id: request.batch_id,
            request: request.encode_to_vec().into(),
            rows: rows as u64,
            file,
            end,
            changes,
            rejects,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn batch(id: u64, changes: &[u64], rejects: &[u64]) -> Batch {
        let reject =
            |row: &u64| Reject { row: *row, fault: Fault::of(Column::Token, "is required") };
        let rows: BTreeSet<u64> = changes.iter().chain(rejects).copied().collect();
        Batch {
            id,
            request: Bytes::from_static(b"request"),
            rows: rows.len() as u64,
            file: 0,
            end: Position { rows: id, byte: id * 100, line: 0 },
            changes: changes.to_vec(),
            rejects: rejects.iter().map(reject).collect(),
        }
    }

    #[test]
    fn refusals_become_rows_and_columns() {
        let error = |index, field: &str| wire::DeviceError {
            index,
            field: field.to_owned(),
            description: "must be valid".to_owned(),
            no_room: false,
        };
        // Row 5 has a mute, too.
        let batch = batch(7, &[3, 5, 5, 6], &[4]);
        let answer = wire::WriteDevicesResponse {
            batch_id: 7,
            written: 1,
            errors: vec![
                error(1, "arrival.registration.token"),
                error(2, "token_device.token"),
                error(3, "change"),
            ],
            warnings: vec![wire::DeviceWarning { index: 0, ..Default::default() }],
            ..Default::default()
        };
        let outcome = batch.answered(answer).expect("of this batch");
        let told: Vec<_> = outcome
            .rejects
            .iter()
            .map(|r| (r.row, r.fault.column, r.fault.reason.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (4, Some(Column::Token), "is required"),
                (5, Some(Column::Token), "must be valid"),
                (6, None, "change: must be valid"),
            ]
        );
        assert_eq!((outcome.written, outcome.warned), (1, 1));
    }

    #[test]
    fn an_answer_to_another_batch_is_no_answer() {
        let answer = wire::WriteDevicesResponse { batch_id: 8, ..Default::default() };
        assert!(batch(7, &[1], &[]).answered(answer).is_err());
        let errors = vec![wire::DeviceError { index: 9, ..Default::default() }];
        let answer = wire::WriteDevicesResponse { batch_id: 7, errors, ..Default::default() };
        assert!(batch(7, &[1], &[]).answered(answer).is_err());
    }
}
