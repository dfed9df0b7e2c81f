//! Values of one column chunk, decoded from their physical type.

use std::{fs::File, sync::Arc};

use clarion_proto::device::SEGMENTS_MAX;
use parquet::{
    basic::{ConvertedType, LogicalType, TimeUnit, Type},
    column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader},
    data_type::{ByteArray, DataType, Int96},
    file::metadata::ColumnChunkMetaData,
    schema::types::ColumnDescriptor,
};

use super::{
    super::{column::Column, value::Value},
    page::Pages,
};

/// Bytes of a UUID.
const UUID_BYTES: i32 = 16;
/// Largest scale of a decimal number that fits 64 bits.
const SCALE_MAX: i32 = 18;

/// How the values of a column are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Texts of a list.
    Texts,
    Uuid,
    Real,
    Integer,
    /// Integers times 10 to the minus `scale`.
    Decimal {
        scale: i32,
    },
    /// Time since 1970 in units of 1/`per_second` s.
    Time {
        per_second: i64,
    },
    /// Days and nanoseconds of a day, as Impala and older Spark write times.
    Int96,
    Flag,
}

impl Kind {
    /// Checks the type of a column.
    ///
    /// # Errors
    /// The type that the column must have, and the type that it has.
    pub(super) fn of(column: Column, leaf: &ColumnDescriptor) -> Result<Self, String> {
        let physical = leaf.physical_type();
        let wrong = |must: &str| {
            let kind = leaf.logical_type_ref().map_or(String::new(), |t| format!(" ({t:?})"));
            format!("column {} must be {must}; got {physical}{kind}", column.name())
        };
        let is_list = leaf.max_rep_level() > 0;
        if is_list && (column != Column::Segments || leaf.max_rep_level() > 1) {
            return Err(wrong("a single value, not a list"));
        }
        let kind = match (column, physical) {
            (Column::Segments, Type::BYTE_ARRAY) if is_list => Self::Texts,
            (Column::Device, Type::FIXED_LEN_BYTE_ARRAY) if leaf.type_length() == UUID_BYTES => {
                Self::Uuid
            }
            (
                Column::App
                | Column::Device
                | Column::Token
                | Column::Datum
                | Column::Locale
                | Column::Segments,
                Type::BYTE_ARRAY,
            ) => Self::Text,
            (Column::Latitude | Column::Longitude, Type::FLOAT | Type::DOUBLE) => Self::Real,
            (Column::Latitude | Column::Longitude, Type::INT32 | Type::INT64) => {
                match leaf.type_scale() {
                    scale @ 0..=SCALE_MAX if is_decimal(leaf) => Self::Decimal { scale },
                    _ => Self::Integer,
                }
            }
            (Column::Cell, Type::INT64) => Self::Integer,
            (Column::Cell | Column::Latitude | Column::Longitude, Type::BYTE_ARRAY)
                if !is_decimal(leaf) =>
            {
                Self::Text
            }
            (Column::Observed, Type::INT64) => time(leaf).ok_or_else(|| wrong("a time"))?,
            (Column::Observed, Type::INT96) => Self::Int96,
            (Column::Observed | Column::Muted, Type::BYTE_ARRAY) => Self::Text,
            (Column::Muted, Type::BOOLEAN) => Self::Flag,
            (Column::Muted, Type::INT32 | Type::INT64) => Self::Integer,
            (Column::Latitude | Column::Longitude, _) => return Err(wrong("DOUBLE")),
            (Column::Cell, _) => return Err(wrong("INT64 or BYTE_ARRAY")),
            (Column::Observed, _) => return Err(wrong("INT64 (a timestamp) or BYTE_ARRAY")),
            (Column::Muted, _) => return Err(wrong("BOOLEAN")),
            _ => return Err(wrong("BYTE_ARRAY (a string)")),
        };
        Ok(kind)
    }
}

fn is_decimal(leaf: &ColumnDescriptor) -> bool {
    matches!(leaf.logical_type_ref(), Some(LogicalType::Decimal { .. }))
        || leaf.converted_type() == ConvertedType::DECIMAL
}

/// Kind of a time in 64 bits; plain integers are milliseconds, and checked as such.
fn time(leaf: &ColumnDescriptor) -> Option<Kind> {
    match leaf.logical_type_ref() {
        Some(LogicalType::Timestamp(time)) => Some(Kind::Time {
            per_second: match time.unit {
                TimeUnit::MILLIS => 1_000,
                TimeUnit::MICROS => 1_000_000,
                TimeUnit::NANOS => 1_000_000_000,
            },
        }),
        Some(LogicalType::Integer { .. }) => Some(Kind::Integer),
        Some(_) => None,
        None => match leaf.converted_type() {
            ConvertedType::TIMESTAMP_MILLIS => Some(Kind::Time { per_second: 1_000 }),
            ConvertedType::TIMESTAMP_MICROS => Some(Kind::Time { per_second: 1_000_000 }),
            ConvertedType::NONE | ConvertedType::INT_64 | ConvertedType::UINT_64 => {
                Some(Kind::Integer)
            }
            _ => None,
        },
    }
}

/// Longest text of a value, bytes: an item of the API has at most as many.
const TEXT_BYTES_MAX: usize = 16 * 1_024;

/// Values of one column of one row group, read in order.
pub(super) struct Chunk {
    reader: ColumnReader,
    kind: Kind,
    levels: Levels,
}

/// Levels of the values read last, and the level of a value that is there.
struct Levels {
    def: Vec<i16>,
    rep: Vec<i16>,
    def_max: i16,
}

impl Chunk {
    /// The values of a chunk that was checked.
    pub(super) fn new(file: &Arc<File>, chunk: &ColumnChunkMetaData, kind: Kind) -> Self {
        let leaf = chunk.column_descr_ptr();
        let def_max = leaf.max_def_level();
        let reader = get_column_reader(leaf, Box::new(Pages::new(file, chunk)));
        Self { reader, kind, levels: Levels { def: Vec::new(), rep: Vec::new(), def_max } }
    }

    /// Reads the values of exactly `rows` rows.
    ///
    /// # Errors
    /// Damage, or fewer values.
    pub(super) fn read(&mut self, rows: usize, into: &mut Vec<Value>) -> Result<(), String> {
        let Self { reader, kind, levels } = self;
        let kind = *kind;
        match reader {
            ColumnReader::ByteArrayColumnReader(reader) if kind == Kind::Texts => {
                levels.texts(reader, rows, into)
            }
            ColumnReader::ByteArrayColumnReader(reader) => {
                levels.flat(reader, rows, into, |bytes| text(bytes.data()))
            }
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                levels.flat(reader, rows, into, |id| {
                    let id = uuid::Uuid::from_slice(id.data());
                    id.map_or(Value::Malformed, |id| Value::Text(id.hyphenated().to_string()))
                })
            }
            ColumnReader::BoolColumnReader(reader) => {
                levels.flat(reader, rows, into, |flag| Value::Flag(*flag))
            }
            ColumnReader::Int32ColumnReader(reader) => {
                levels.flat(reader, rows, into, |number| integer(i64::from(*number), kind))
            }
            ColumnReader::Int64ColumnReader(reader) => {
                levels.flat(reader, rows, into, |number| integer(*number, kind))
            }
            ColumnReader::Int96ColumnReader(reader) => levels.flat(reader, rows, into, int96),
            ColumnReader::FloatColumnReader(reader) => {
                levels.flat(reader, rows, into, |number| Value::Real(f64::from(*number)))
            }
            ColumnReader::DoubleColumnReader(reader) => {
                levels.flat(reader, rows, into, |number| Value::Real(*number))
            }
        }
    }
}

impl Levels {
    fn flat<T: DataType>(
        &mut self,
        reader: &mut ColumnReaderImpl<T>,
        rows: usize,
        into: &mut Vec<Value>,
        value: impl Fn(&T::T) -> Value,
    ) -> Result<(), String> {
        let values = self.read(reader, rows)?;
        if self.def_max == 0 {
            into.extend(values.iter().map(value));
        } else {
            let mut values = values.iter();
            into.extend(self.def.iter().map(|level| {
                let there = (*level == self.def_max).then(|| values.next()).flatten();
                there.map_or(Value::Absent, &value)
            }));
        }
        if into.len() == rows { Ok(()) } else { Err(fewer(into.len(), rows)) }
    }

    /// Reads lists of texts; a null list and an empty list are the same.
    fn texts<T: DataType<T = ByteArray>>(
        &mut self,
        reader: &mut ColumnReaderImpl<T>,
        rows: usize,
        into: &mut Vec<Value>,
    ) -> Result<(), String> {
        let values = self.read(reader, rows)?;
        let mut values = values.iter();
        for (rep, def) in self.rep.iter().zip(&self.def) {
            if *rep == 0 {
                into.push(Value::List(Vec::new()));
            }
            let text = (*def == self.def_max).then(|| values.next()).flatten();
            match (text.map(|text| std::str::from_utf8(text.data())), into.last_mut()) {
                (Some(Ok(text)), Some(list)) if text.len() > TEXT_BYTES_MAX => {
                    *list = Value::Malformed;
                }
                // One more than a device may have, so that the row is rejected for it.
                (Some(Ok(text)), Some(Value::List(texts))) if texts.len() <= SEGMENTS_MAX => {
                    texts.push(text.to_owned());
                }
                (Some(Err(_)), Some(list)) => *list = Value::Malformed,
                _ => {}
            }
        }
        if into.len() == rows { Ok(()) } else { Err(fewer(into.len(), rows)) }
    }

    fn read<T: DataType>(
        &mut self,
        reader: &mut ColumnReaderImpl<T>,
        rows: usize,
    ) -> Result<Vec<T::T>, String> {
        let Self { def, rep, .. } = self;
        def.clear();
        rep.clear();
        let mut values = Vec::with_capacity(rows);
        let read = reader.read_records(rows, Some(def), Some(rep), &mut values);
        let (records, ..) = read.map_err(|error| match error {
            parquet::errors::ParquetError::General(problem) => problem,
            other => other.to_string(),
        })?;
        if records == rows { Ok(values) } else { Err(fewer(records, rows)) }
    }
}

/// Text of a value. A longer one than any value of a device is not copied.
fn text(bytes: &[u8]) -> Value {
    if bytes.len() > TEXT_BYTES_MAX { Value::Malformed } else { Value::of_bytes(bytes) }
}

fn fewer(there: usize, rows: usize) -> String {
    format!("has {there} values for the next {rows} rows: the file is damaged")
}

fn integer(number: i64, kind: Kind) -> Value {
    match kind {
        #[allow(clippy::cast_precision_loss, reason = "degrees with 15 digits")]
        Kind::Decimal { scale } => Value::Real(number as f64 / 10_f64.powi(scale)),
        Kind::Time { per_second } => Value::Time(number.div_euclid(per_second / 1_000)),
        _ => Value::Integer(number),
    }
}

/// Milliseconds since 1970 of a Julian day and the nanoseconds of that day.
fn int96(time: &Int96) -> Value {
    const JULIAN_DAY_OF_1970: i64 = 2_440_588;
    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    let &[low, high, day] = time.data() else { return Value::Malformed };
    let nanos = (u64::from(high) << 32 | u64::from(low)) / 1_000_000;
    let days = (i64::from(day) - JULIAN_DAY_OF_1970) * DAY_MS;
    i64::try_from(nanos).map_or(Value::Malformed, |ms| Value::Time(days.saturating_add(ms)))
}
