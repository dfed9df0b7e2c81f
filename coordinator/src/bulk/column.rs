//! Columns of an import file: their names, their meaning, and the header that names them.

use std::fmt::Write as _;

/// Column of an import file; one row is one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    App,
    Device,
    Token,
    Latitude,
    Longitude,
    Cell,
    Datum,
    Locale,
    Segments,
    Observed,
    Muted,
}

/// Number of columns that an import knows.
pub(super) const COLUMNS: usize = Column::ALL.len();

/// Longest unknown name that an error repeats: a longer one may be a token in a file without a
/// header.
const SHOWN_BYTES_MAX: usize = 24;

/// Names that other systems use, with the column that they mostly mean.
const OTHER_NAMES: &[(&str, Column)] = &[
    ("application", Column::App),
    ("id", Column::Device),
    ("uuid", Column::Device),
    ("push_token", Column::Token),
    ("registration_id", Column::Token),
    ("lng", Column::Longitude),
    ("lon", Column::Longitude),
    ("h3", Column::Cell),
    ("crs", Column::Datum),
    ("language", Column::Locale),
    ("tags", Column::Segments),
    ("last_seen", Column::Observed),
    ("timestamp", Column::Observed),
    ("updated_at", Column::Observed),
    ("opted_out", Column::Muted),
];

impl Column {
    /// Every column, in the order of the help text.
    pub(super) const ALL: [Self; 11] = [
        Self::App,
        Self::Device,
        Self::Token,
        Self::Latitude,
        Self::Longitude,
        Self::Cell,
        Self::Datum,
        Self::Locale,
        Self::Segments,
        Self::Observed,
        Self::Muted,
    ];

    /// Name of the column in the header of a file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Device => "device",
            Self::Token => "token",
            Self::Latitude => "latitude",
            Self::Longitude => "longitude",
            Self::Cell => "cell",
            Self::Datum => "datum",
            Self::Locale => "locale",
            Self::Segments => "segments",
            Self::Observed => "observed",
            Self::Muted => "muted",
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::App => "App, `apps/{app}`; required unless --app names the app",
            Self::Device => {
                "Identifier; required for an app with IDENTITY_DEVICE, empty for IDENTITY_TOKEN"
            }
            Self::Token => "Token of the gateway; required",
            Self::Latitude => "Degrees, -90 to 90; together with longitude; without a place: empty",
            Self::Longitude => "Degrees, -180 to 180",
            Self::Cell => "H3 cell of resolution 9, hexadecimal or decimal, instead of a latitude",
            Self::Datum => "wgs84 or gcj02, of latitude and longitude; empty: wgs84",
            Self::Locale => "Language of the phone, such as zh-Hans-CN; empty: unknown",
            Self::Segments => "Names separated by spaces, commas or semicolons, or a Parquet list",
            Self::Observed => "Time of the observation: RFC 3339, or Unix time in ms; required",
            Self::Muted => "true: the device receives no alerts; false: it does; empty: unchanged",
        }
    }

    /// Index of the column in a row.
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// The column of a name.
    ///
    /// # Errors
    /// The names of all columns.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        Self::of_name(name).ok_or_else(|| format!("must be one of {}; got {name:?}", known()))
    }

    /// The column that a header names, in any case and with spaces around it.
    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name().eq_ignore_ascii_case(name.trim()))
    }

    /// The column that an unknown name probably means.
    fn nearest(name: &str) -> Self {
        let name = name.trim().to_ascii_lowercase();
        let other = OTHER_NAMES.iter().find(|(other, _)| *other == name).map(|(_, c)| *c);
        let part = || {
            Self::ALL.into_iter().find(|column| {
                name.len() >= 3
                    && (column.name().starts_with(&name) || name.contains(column.name()))
            })
        };
        let close = || Self::ALL.into_iter().min_by_key(|column| distance(&name, column.name()));
        other.or_else(part).or_else(close).unwrap_or(Self::Token)
    }

    /// The column to which a field of the API belongs, by the last part of its path.
    pub(super) fn of_field(path: &str) -> Option<Self> {
        let last = path.rsplit('.').next().unwrap_or(path);
        match last.split('[').next().unwrap_or(last) {
            "observe_time" => Some(Self::Observed),
            "place" | "point" => Some(Self::Latitude),
            "mute" => Some(Self::Muted),
            "token_device" => Some(Self::Token),
            name => Self::ALL.into_iter().find(|column| column.name() == name),
        }
    }
}

/// Columns of the help text, one a line.
pub(super) fn help() -> String {
    let mut text = "Columns of a file, one device a row:\n".to_owned();
    for column in Column::ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:<10} {}", column.name(), column.meaning());
    }
    text
}

/// Finds the column of each name of a header.
///
/// # Errors
/// An unknown, repeated or missing column, with what to do. A name that may be a token is not
/// repeated.
pub(super) fn header<'a>(
    names: impl IntoIterator<Item = &'a str>,
    has_app: bool,
) -> Result<Vec<Column>, String> {
    let names: Vec<&str> = names.into_iter().collect();
    let found: Vec<Option<Column>> = names.iter().map(|name| Column::of_name(name)).collect();
    if found.iter().all(Option::is_none) {
        return Err(format!(
            "must begin with the names of its columns; none of its {} names is known. Known \
             columns: {}",
            names.len(),
            known()
        ));
    }
    let mut columns = Vec::with_capacity(names.len());
    for (name, column) in names.iter().zip(found) {
        let Some(column) = column else { return Err(unknown(name)) };
        if columns.contains(&column) {
            return Err(format!("column {} must be there once; it is there twice", column.name()));
        }
        columns.push(column);
    }
    let missing = |column: Column| !columns.contains(&column);
    if missing(Column::Token) || missing(Column::Observed) {
        let column = if missing(Column::Token) { Column::Token } else { Column::Observed };
        return Err(format!("column {} is required", column.name()));
    }
    if missing(Column::App) && !has_app {
        return Err("column app is required; or name the app of all rows with --app".to_owned());
    }
    if missing(Column::Latitude) != missing(Column::Longitude) {
        return Err("columns latitude and longitude must be there together".to_owned());
    }
    Ok(columns)
}

fn known() -> String {
    Column::ALL.map(Column::name).join(", ")
}

fn unknown(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_alphanumeric() || "_- .".contains(c));
    let shown = if plain && name.len() <= SHOWN_BYTES_MAX && !name.is_empty() {
        format!("column {:?} is unknown; is it {}?", name, Column::nearest(name).name())
    } else {
        format!("a column with a name of {} bytes is unknown", name.len())
    };
    format!("{shown} Known columns: {}; remove all others from the file", known())
}

/// Number of insertions, deletions and replacements between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_its_columns_in_any_order_and_case() {
        let columns = header([" Token", "OBSERVED", "app"], false).expect("valid");
        assert_eq!(columns, [Column::Token, Column::Observed, Column::App]);
        assert!(header(["token", "observed"], true).is_ok());
    }

    #[test]
    fn a_header_at_fault_is_told_what_to_do() {
        let refused = |names: &[&str]| header(names.iter().copied(), false).expect_err("refused");
        for (name, meant) in [
            ("lat", "latitude"),
            ("lng", "longitude"),
            ("tokn", "token"),
            ("device_id", "device"),
            ("Push_Token", "token"),
            ("obsreved", "observed"),
        ] {
            let problem = refused(&["app", name]);
            assert!(problem.contains(&format!("{name:?} is unknown; is it {meant}?")), "{problem}");
        }
        assert!(refused(&["app", "token"]).starts_with("column observed is required"));
        assert!(refused(&["token", "observed"]).contains("--app"));
        assert!(refused(&["app", "token", "token"]).contains("twice"));
        let half = refused(&["app", "token", "observed", "latitude"]);
        assert!(half.contains("together"), "{half}");
    }

    #[test]
    fn a_file_without_a_header_shows_no_token() {
        let token = "00ffab".repeat(10);
        let problem = header(["apps/demo", &token], false).expect_err("no header");
        assert!(problem.contains("none of its 2 names") && !problem.contains("00ff"), "{problem}");
        let problem = header(["app", &token], false).expect_err("no header");
        assert!(problem.contains("60 bytes is unknown") && !problem.contains("00ff"), "{problem}");
    }

    #[test]
    fn a_field_of_the_api_has_a_column() {
        for (field, column) in [
            ("arrival.registration.token", Some(Column::Token)),
            ("registration.segments[3]", Some(Column::Segments)),
            ("arrival.place.point.latitude", Some(Column::Latitude)),
            ("observe_time", Some(Column::Observed)),
            ("device", Some(Column::Device)),
            ("change", None),
        ] {
            assert_eq!(Column::of_field(field), column, "{field}");
        }
    }
}
