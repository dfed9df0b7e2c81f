use std::{fs, io::Write};

use parquet::{
    basic::Compression,
    data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

use super::*;

const SCHEMA: &str = "message devices {
    REQUIRED BYTE_ARRAY token (STRING);
    OPTIONAL DOUBLE latitude;
    OPTIONAL DOUBLE longitude;
    REQUIRED INT64 observed (TIMESTAMP(MICROS, true));
    OPTIONAL BOOLEAN muted;
    OPTIONAL GROUP segments (LIST) { REPEATED GROUP list { OPTIONAL BYTE_ARRAY element (STRING); } }
}";

const GROUPS: u64 = 3;
const GROUP_ROWS: u64 = 2_500;

/// A file with all kinds of columns. Of each ten rows, the first has no place and no segments.
fn file(compression: Compression) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_data_page_row_count_limit(700)
        .set_write_batch_size(100)
        .build();
    let out = file.reopen().expect("opened");
    let mut writer = SerializedFileWriter::new(out, schema, Arc::new(properties)).expect("begun");
    for group in 0..GROUPS {
        let rows: Vec<u64> = (group * GROUP_ROWS..(group + 1) * GROUP_ROWS).collect();
        let mut columns = writer.next_row_group().expect("a group");
        let text = |n: &u64| ByteArray::from(format!("{n:08x}").into_bytes());
        let (there, def): (Vec<u64>, Vec<i16>) = (
            rows.iter().copied().filter(|n| n % 10 != 0).collect(),
            rows.iter().map(|n| i16::from(n % 10 != 0)).collect(),
        );
        let tokens: Vec<ByteArray> = rows.iter().map(text).collect();
        #[allow(clippy::cast_precision_loss)]
        let degrees: Vec<f64> = there.iter().map(|n| *n as f64 / 1_000.0).collect();
        let times: Vec<i64> =
            rows.iter().map(|n| (1_763_769_600_000 + n.cast_signed()) * 1_000).collect();
        let flags: Vec<bool> = there.iter().map(|n| n % 2 == 0).collect();
        let mut column = columns.next_column().expect("written").expect("token");
        column.typed::<ByteArrayType>().write_batch(&tokens, None, None).expect("written");
        column.close().expect("written");
        for _ in 0..2 {
            let mut column = columns.next_column().expect("written").expect("a coordinate");
            column.typed::<DoubleType>().write_batch(&degrees, Some(&def), None).expect("written");
            column.close().expect("written");
        }
        let mut column = columns.next_column().expect("written").expect("observed");
        column.typed::<Int64Type>().write_batch(&times, None, None).expect("written");
        column.close().expect("written");
        let mut column = columns.next_column().expect("written").expect("muted");
        column.typed::<BoolType>().write_batch(&flags, Some(&def), None).expect("written");
        column.close().expect("written");
        // Two segments for each row that has any.
        let segments: Vec<ByteArray> =
            there.iter().flat_map(|n| [text(n), ByteArray::from("driver")]).collect();
        let def = rows.iter().flat_map(|n| if n % 10 == 0 { vec![0] } else { vec![3, 3] });
        let rep = rows.iter().flat_map(|n| if n % 10 == 0 { vec![0] } else { vec![0, 1] });
        let (def, rep): (Vec<i16>, Vec<i16>) = (def.collect(), rep.collect());
        let mut column = columns.next_column().expect("written").expect("segments");
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&segments, Some(&def), Some(&rep)).expect("written");
        column.close().expect("written");
        columns.close().expect("written");
    }
    writer.close().expect("closed");
    file
}

fn check(row: &Row, n: u64) {
    let value = |column: Column| &row.values[column.index()];
    assert_eq!(row.number, n + 1);
    assert_eq!(value(Column::Token), &Value::Text(format!("{n:08x}")));
    assert_eq!(value(Column::Observed), &Value::Time(1_763_769_600_000 + n.cast_signed()));
    if n.is_multiple_of(10) {
        let absent = [Column::Latitude, Column::Longitude, Column::Muted].map(value);
        assert!(absent.iter().all(|value| value.is_absent()));
        assert_eq!(value(Column::Segments), &Value::List(Vec::new()));
    } else {
        #[allow(clippy::cast_precision_loss)]
        let degrees = Value::Real(n as f64 / 1_000.0);
        assert_eq!((value(Column::Latitude), value(Column::Longitude)), (&degrees, &degrees));
        assert_eq!(value(Column::Muted), &Value::Flag(n.is_multiple_of(2)));
        let names = vec![format!("{n:08x}"), "driver".to_owned()];
        assert_eq!(value(Column::Segments), &Value::List(names));
    }
}

#[test]
fn all_columns_are_read_from_any_row_on() {
    let file = file(Compression::UNCOMPRESSED);
    for from in [0, 1, 1_024, 2_499, 2_500, 2_501, 5_000, 7_499, 7_500] {
        let mut parquet = ParquetFile::open(file.path(), true).expect("valid");
        parquet.seek(Position { rows: from, ..Position::default() }).expect("valid");
        let mut row = Row::default();
        for n in from..GROUPS * GROUP_ROWS {
            assert!(parquet.next_row(&mut row).expect("valid"), "{n}");
            check(&row, n);
        }
        assert!(!parquet.next_row(&mut row).expect("valid"));
        assert_eq!(parquet.position().byte, file.as_file().metadata().expect("there").len());
    }
}

fn all_rows(path: &Path) -> Result<u64, String> {
    let mut parquet = ParquetFile::open(path, true).map_err(|e| e.to_string())?;
    let mut row = Row::default();
    while parquet.next_row(&mut row).map_err(|e| e.to_string())? {}
    Ok(parquet.position().rows)
}

#[test]
fn a_truncated_or_foreign_file_is_named() {
    let file = file(Compression::UNCOMPRESSED);
    let whole = fs::read(file.path()).expect("read");
    let problem = |bytes: &[u8]| {
        let mut cut = tempfile::NamedTempFile::new().expect("a file");
        cut.write_all(bytes).expect("written");
        all_rows(cut.path()).expect_err("refused")
    };
    for cut in [0, 3, 7, 100, whole.len() - 1] {
        assert!(problem(&whole[..cut]).contains("its end is missing"), "{cut}");
    }
    // The metadata is there, but not all that it names.
    let without_rows = [&whole[..4], &whole[whole.len() / 2..]].concat();
    let told = problem(&without_rows);
    assert!(told.contains("truncated") || told.contains("column"), "{told}");
    let mut tail = whole.clone();
    let at = tail.len() - 8;
    tail[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(problem(&tail).contains("must have at most 67108864 bytes of metadata"));
    tail[at + 4..].copy_from_slice(b"PARE");
    assert!(problem(&tail).contains("is encrypted"));
}

/// Damage anywhere is an error or another value; never a panic, and never much memory.
#[test]
fn no_damaged_byte_panics() {
    let file = file(Compression::UNCOMPRESSED);
    let whole = fs::read(file.path()).expect("read");
    let headers = (0..300_usize).map(|n| (n * 7_919 % whole.len(), 1_u8 << (n % 8)));
    let metadata = (whole.len().saturating_sub(1_500)..whole.len()).step_by(2);
    let metadata = metadata.map(|at| (at, u8::try_from(1 + at % 255).expect("small")));
    // The first page of each column begins with its header.
    let first = (4..40).flat_map(|at| [(at, 0x02), (at, 0x1e), (at, 0xff)]);
    let mut panicked = Vec::new();
    for (at, change) in headers.chain(metadata).chain(first) {
        let mut damaged = whole.clone();
        damaged[at] ^= change;
        fs::write(file.path(), &damaged).expect("written");
        if std::panic::catch_unwind(|| all_rows(file.path())).is_err() {
            panicked.push((at, change));
        }
    }
    assert_eq!(panicked, [], "of {} bytes", whole.len());
}

#[test]
fn a_column_of_the_wrong_type_is_named() {
    for (column, words) in [
        ("OPTIONAL INT32 token", "column token must be BYTE_ARRAY (a string); got INT32"),
        ("OPTIONAL BOOLEAN latitude", "column latitude must be DOUBLE; got BOOLEAN"),
        ("OPTIONAL INT32 observed (DATE)", "column observed must be INT64 (a timestamp)"),
        ("REPEATED BYTE_ARRAY token (STRING)", "must be a single value, not a list"),
        ("OPTIONAL GROUP device { OPTIONAL INT32 a; OPTIONAL INT32 b; }", "must be simple"),
        ("OPTIONAL BYTE_ARRAY latitud (STRING)", "is unknown; is it latitude?"),
    ] {
        let others = ["token", "observed", "longitude", "latitude", "device"]
            .into_iter()
            .filter(|name| !column.split([' ', ';']).any(|word| word == *name))
            .map(|name| match name {
                "observed" => "REQUIRED INT64 observed;".to_owned(),
                name => format!("OPTIONAL BYTE_ARRAY {name} (STRING);"),
            })
            .collect::<String>();
        let end = if column.ends_with('}') { "" } else { ";" };
        let schema = format!("message devices {{ {others} {column}{end} }}");
        let schema = Arc::new(parse_message_type(&schema).expect("a schema"));
        let file = tempfile::NamedTempFile::new().expect("a file");
        let out = file.reopen().expect("opened");
        let writer = SerializedFileWriter::new(out, schema, Arc::default()).expect("begun");
        writer.close().expect("closed");
        let problem = all_rows(file.path()).expect_err("refused");
        assert!(problem.contains(words), "{problem}");
    }
}
