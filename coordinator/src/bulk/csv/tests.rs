use std::io::Write;

use super::*;

/// Device and token of a row, or its problem.
type Read = Result<[Value; 2], String>;

/// Rows of a text, each with its line.
fn rows(text: &[u8]) -> Result<Vec<(u64, Read)>, String> {
    let (mut csv, _file) = opened(text)?;
    let (mut row, mut rows) = (Row::default(), Vec::new());
    while csv.next_row(&mut row).map_err(|e| e.to_string())? {
        let values = [Column::Device, Column::Token]
            .map(|column| std::mem::take(&mut row.values[column.index()]));
        rows.push((row.number, row.fault.take().map_or(Ok(values), |fault| Err(fault.reason))));
    }
    assert_eq!(csv.position().byte, text.len() as u64);
    assert_eq!(csv.position().rows, rows.len() as u64);
    Ok(rows)
}

fn opened(text: &[u8]) -> Result<(CsvFile, tempfile::NamedTempFile), String> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text).expect("written");
    let csv = CsvFile::open(file.path(), true).map_err(|e| e.to_string())?;
    Ok((csv, file))
}

fn text(device: &str, token: &str) -> Read {
    Ok([Value::of_text(device), Value::of_text(token)])
}

#[test]
fn lines_are_counted_over_every_kind_of_break() {
    let unix = rows(b"device,token,observed\na,00,1\n\nb,01,1\n").expect("valid");
    assert_eq!(unix, [(2, text("a", "00")), (4, text("b", "01"))]);
    let windows = b"\xef\xbb\xbfdevice,token,observed\r\n\"a\r\nb\",00,1\r\nc,01,1\r\n\r\nd,,1";
    let windows = rows(windows).expect("valid");
    assert_eq!(windows, [(2, text("a\r\nb", "00")), (4, text("c", "01")), (6, text("d", ""))]);
}

#[test]
fn a_delimiter_is_found_in_the_header() {
    for header in ["device;token;observed", "device\ttoken\tobserved", "device,token,observed"] {
        let delimiter = &header[6..7];
        let text_of = format!("{header}\n\"a{delimiter}\"\"b\"{delimiter}00{delimiter}1\n");
        let rows = rows(text_of.as_bytes()).expect("valid");
        assert_eq!(rows, [(2, text(&format!("a{delimiter}\"b"), "00"))]);
    }
}

#[test]
fn a_row_at_fault_is_one_row() {
    let rows = rows(b"device,token,observed\na,00\nb,01,1,\nc,\xff,1\nd,02,1\n").expect("valid");
    let wrong = |n: u64| Err(format!("must have 3 values, as the header; got {n}"));
    assert_eq!(rows[0], (2, wrong(2)));
    assert_eq!(rows[1], (3, wrong(4)));
    assert_eq!(rows[2].1.as_ref().expect("a row")[1], Value::Malformed);
    assert_eq!(rows[3], (5, text("d", "02")));
}

#[test]
fn what_is_no_csv_is_named() {
    for (start, words) in [
        (&b""[..], "is empty"),
        (b"\n\n", "is empty"),
        (b"\xff\xfed\0e\0", "is UTF-16"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", "spreadsheet"),
        (b"PAR1", "--format parquet"),
        (b"device,token\n", "column observed is required"),
        (b"\xff,token\n", "UTF-8"),
    ] {
        let problem = rows(start).expect_err("no CSV");
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn a_missing_quotation_mark_ends_the_import() {
    let mut text = b"device,token,observed\na,00,1\n\"b,01,1\n".to_vec();
    text.extend(b"c,02,1\n".repeat(20_000));
    let problem = rows(&text).expect_err("one row of all");
    assert!(problem.contains("line 3: a row must have at most 65536 bytes"), "{problem}");
    let many = [b"device,token,observed\n".to_vec(), b",".repeat(300)].concat();
    assert!(rows(&many).expect_err("values").contains("line 2: a row must have at most 256"));
}

#[test]
fn it_goes_on_at_any_position() {
    let lines: String = (0..20_000).map(|n| format!("\"d\n{n}\",{n:08x},1\r\n")).collect();
    let file = format!("device,token,observed\r\n{lines}");
    let all = rows(file.as_bytes()).expect("valid");
    let (mut csv, _file) = opened(file.as_bytes()).expect("valid");
    let mut row = Row::default();
    for at in [0_usize, 1, 7_000, 19_999, 20_000] {
        csv.seek(Position { line: 1, ..Position::default() }).expect("the start");
        csv.next_row(&mut row).expect("the header");
        csv.at.rows = 0;
        for _ in 0..at {
            assert!(csv.next_row(&mut row).expect("valid"));
        }
        let position = csv.position();
        let (mut other, _file) = opened(file.as_bytes()).expect("valid");
        other.seek(position).expect("the place");
        assert_eq!(other.next_row(&mut row).expect("valid"), at < 20_000);
        if at < 20_000 {
            assert_eq!(row.number, all[at].0);
            assert_eq!(row.values[Column::Token.index()], Value::of_text(&format!("{at:08x}")));
            assert_eq!(other.position().rows, at as u64 + 1);
        }
    }
}
