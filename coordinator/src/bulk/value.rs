//! One value of a row: as its file has it, and read as what its column means.
//!
//! No error repeats a value: it may be a token or the place of a person.

use std::str::FromStr;

use clarion_proto::{ids::UnixMillis, wire::v1::Datum};

/// First Unix time in milliseconds that is not mistaken for seconds: March 1973.
const MILLIS_MIN: i64 = 100_000_000_000;
/// First Unix time that is not mistaken for milliseconds, but for microseconds: the year 5138.
const MICROS_MIN: i64 = 100_000_000_000_000;

/// Characters between names of segments: separators, and what PostgreSQL (`{a,b}`), JSON and Python
/// (`['a', 'b']`) write around lists. None of them may be in a name.
const BETWEEN_SEGMENTS: [char; 10] = [' ', ',', ';', '|', '{', '}', '[', ']', '"', '\''];

/// A value as the file has it: CSV has only text.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Value {
    /// No value; empty text, too.
    #[default]
    Absent,
    Text(String),
    Real(f64),
    Integer(i64),
    Flag(bool),
    /// Unix time in milliseconds.
    Time(i64),
    List(Vec<String>),
    /// Bytes that are not UTF-8.
    Malformed,
}

impl Value {
    /// A value of text; spaces around it are not part of it. `\N` is how MySQL and PostgreSQL write
    /// that there is no value.
    pub(super) fn of_text(text: &str) -> Self {
        match text.trim() {
            "" | "\\N" => Self::Absent,
            text => Self::Text(text.to_owned()),
        }
    }

    /// A value of text in UTF-8.
    pub(super) fn of_bytes(text: &[u8]) -> Self {
        std::str::from_utf8(text).map_or(Self::Malformed, Self::of_text)
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Text; a number is its digits. Absent: empty.
    pub(super) fn into_text(self) -> Result<String, String> {
        match self {
            Self::Absent => Ok(String::new()),
            Self::Text(text) => Ok(text),
            Self::Integer(number) => Ok(number.to_string()),
            Self::Malformed => Err("must be text in UTF-8, of at most 16 KiB".to_owned()),
            Self::Real(_) | Self::Flag(_) | Self::Time(_) | Self::List(_) => {
                Err("must be text".to_owned())
            }
        }
    }

    /// Degrees of a latitude or longitude.
    pub(super) fn degrees(&self) -> Result<f64, String> {
        match self {
            Self::Real(degrees) => Ok(*degrees),
            #[allow(clippy::cast_precision_loss, reason = "the API refuses more than 180")]
            Self::Integer(degrees) => Ok(*degrees as f64),
            Self::Text(text) => f64::from_str(text).map_err(|_| {
                let hint = if text.contains(',') { ", with a point and no comma" } else { "" };
                format!("must be a number of degrees{hint}; got {} characters", text.len())
            }),
            _ => Err("must be a number of degrees".to_owned()),
        }
    }

    /// Index of an H3 cell. Its hexadecimal form has 15 or 16 digits, its decimal form 18 or 19.
    pub(super) fn cell(&self) -> Result<u64, String> {
        let problem = "must be an H3 cell: 15 hexadecimal or 18 decimal digits";
        match self {
            Self::Integer(index) => u64::try_from(*index).map_err(|_| problem.to_owned()),
            Self::Text(text) => {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                let radix = if digits.len() <= 16 { 16 } else { 10 };
                u64::from_str_radix(digits, radix)
                    .map_err(|_| format!("{problem}; got {} characters", text.len()))
            }
            _ => Err(problem.to_owned()),
        }
    }

    /// Datum of a latitude and a longitude.
    pub(super) fn datum(&self) -> Result<Datum, String> {
        let problem = || "must be wgs84 or gcj02; convert other datums first".to_owned();
        match self {
            Self::Absent => Ok(Datum::Unspecified),
            Self::Text(text) => match text.to_ascii_lowercase().replace('-', "").as_str() {
                "wgs84" | "datum_wgs84" => Ok(Datum::Wgs84),
                "gcj02" | "datum_gcj02" => Ok(Datum::Gcj02),
                _ => Err(problem()),
            },
            _ => Err(problem()),
        }
    }

    /// Names of segments.
    pub(super) fn into_segments(self) -> Result<Vec<String>, String> {
        match self {
            Self::Absent => Ok(Vec::new()),
            Self::List(names) => Ok(names),
            Self::Text(text) => {
                let names = text.split(BETWEEN_SEGMENTS).filter(|name| !name.is_empty());
                Ok(names.map(str::to_owned).collect())
            }
            _ => Err("must be names of segments".to_owned()),
        }
    }

    /// Time of an observation: Unix time in milliseconds, or RFC 3339.
    pub(super) fn observed(&self) -> Result<UnixMillis, String> {
        match self {
            Self::Absent => {
                Err("is required: the time at which the device was observed".to_owned())
            }
            Self::Time(ms) => {
                u64::try_from(*ms).map(UnixMillis).map_err(|_| "must be after 1970".to_owned())
            }
            Self::Integer(ms) => millis(*ms),
            // Pandas writes `.0` behind all integers of a column that has empty values.
            Self::Text(text) => match text.strip_suffix(".0").unwrap_or(text) {
                digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
                    i64::from_str(digits).map_err(|_| not_a_time(text)).and_then(millis)
                }
                _ => rfc_3339(text),
            },
            _ => Err("must be RFC 3339 or Unix time in milliseconds".to_owned()),
        }
    }

    /// Whether the device is muted; `None`: the value is absent.
    pub(super) fn muted(&self) -> Result<Option<bool>, String> {
        let problem = || "must be true, false or empty".to_owned();
        match self {
            Self::Absent => Ok(None),
            Self::Flag(muted) => Ok(Some(*muted)),
            Self::Integer(0) => Ok(Some(false)),
            Self::Integer(1) => Ok(Some(true)),
            Self::Text(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "1" => Ok(Some(true)),
                "false" | "f" | "0" => Ok(Some(false)),
                _ => Err(problem()),
            },
            _ => Err(problem()),
        }
    }
}

fn millis(number: i64) -> Result<UnixMillis, String> {
    match number {
        MILLIS_MIN..MICROS_MIN => Ok(UnixMillis(number.unsigned_abs())),
        ..MILLIS_MIN => Err("must be Unix time in milliseconds; got seconds".to_owned()),
        MICROS_MIN.. => Err("must be Unix time in milliseconds; got a smaller unit".to_owned()),
    }
}

fn rfc_3339(text: &str) -> Result<UnixMillis, String> {
    let of_day = text.get(10..).unwrap_or_default();
    if !of_day.contains(['Z', 'z', '+', '-']) {
        return Err(format!(
            "must be RFC 3339 with a time and an offset, as in 2026-11-29T08:00:00Z; got {} \
             characters",
            text.len()
        ));
    }
    let time = prost_types::Timestamp::from_str(text).map_err(|_| not_a_time(text))?;
    clarion_proto::alert::instant(time, "observed").map_err(|e| e.problem)
}

fn not_a_time(text: &str) -> String {
    format!("must be RFC 3339 or Unix time in milliseconds; got {} characters", text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::of_text(text)
    }

    #[test]
    fn times_have_two_forms_and_no_third() {
        let at = Ok(UnixMillis(1_763_769_600_000));
        for form in [
            "1763769600000",
            "1763769600000.0",
            "2025-11-22T00:00:00Z",
            "2025-11-22 00:00:00Z",
            "2025-11-22T08:00:00+08:00",
            "2025-11-21T19:00:00.000-05:00",
            "2025-11-22 00:00:00+00",
        ] {
            assert_eq!(text(form).observed(), at, "{form}");
        }
        assert_eq!(Value::Time(1_763_769_600_000).observed(), at);
        for (form, words) in [
            ("", "is required"),
            ("1763769600", "got seconds"),
            ("1763769600000000", "smaller unit"),
            ("2025-11-22", "an offset"),
            ("2025-11-22T00:00:00", "an offset"),
            ("22.11.2025 00:00:00Z", "must be RFC 3339"),
            ("99999999999999999999", "must be RFC 3339"),
        ] {
            let problem = text(form).observed().expect_err(form);
            assert!(problem.contains(words), "{form}: {problem}");
        }
    }

    #[test]
    fn a_cell_has_two_forms() {
        let index = 0x0891_9450_4aa7_ffff;
        for form in ["89194504aa7ffff", "089194504AA7FFFF", "0x89194504aa7ffff"] {
            assert_eq!(text(form).cell(), Ok(index), "{form}");
        }
        assert_eq!(text(&index.to_string()).cell(), Ok(index));
        assert!(text("somewhere").cell().expect_err("no cell").ends_with("got 9 characters"));
    }

    #[test]
    fn no_problem_repeats_a_value() {
        for value in ["22,5431", "secret", "2x25-11-22T00:00:00Z"] {
            let value = text(value);
            for problem in [
                value.degrees().err(),
                value.cell().err(),
                value.observed().err(),
                value.muted().err(),
                value.datum().err(),
            ] {
                let problem = problem.expect("refused");
                assert!(!problem.contains("5431") && !problem.contains("secret"), "{problem}");
            }
        }
        assert!(text("22,54").degrees().expect_err("a comma").contains("no comma"));
    }

    #[test]
    fn segments_are_a_list_or_text() {
        let names = vec!["driver".to_owned(), "staff".to_owned()];
        for form in [
            "driver staff",
            "driver,staff",
            "driver; staff",
            "{driver,staff}",
            "['driver', 'staff']",
        ] {
            assert_eq!(text(form).into_segments().as_ref(), Ok(&names), "{form}");
        }
        assert_eq!(Value::List(names.clone()).into_segments(), Ok(names));
        assert_eq!(text("\\N").into_segments(), Ok(vec![]));
    }
}
