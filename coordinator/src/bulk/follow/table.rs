//! The table that is followed: its columns, and the statements that read it.

use crate::{
    bulk::column::{self, COLUMNS, Column},
    store::postgres::{Foreign, ForeignError, TextRow},
};

/// Number of rows of a page: that of a batch.
pub(super) const PAGE_ROWS: usize = 4_000;

/// Name of a table as the server writes it; no row if there is none.
const NAME: &str = "SELECT to_regclass($1)::text";
/// Columns of a table: name, type, and whether the column is in the primary key.
const COLUMNS_OF: &str = "SELECT a.attname::text, format_type(a.atttypid, NULL)::text, \
     (i.indrelid IS NOT NULL)::text FROM pg_attribute a LEFT JOIN pg_index i \
     ON i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey) \
     WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// What the command line says of a table.
#[derive(Debug, Clone)]
pub(super) struct TableOptions {
    /// Name of the table, perhaps with its schema.
    pub(super) table: String,
    /// Column that grows with each change of a row.
    pub(super) cursor: String,
    /// Column that identifies a row; `None`: the primary key.
    pub(super) key: Option<String>,
    /// Columns of the registry by the columns of the table.
    pub(super) columns: Vec<(Column, String)>,
    /// Column that marks rows of removed devices.
    pub(super) deleted_when: Option<String>,
    /// Whether an app is named for all rows.
    pub(super) has_app: bool,
}

/// A table, and what is read of it.
#[derive(Debug)]
pub(super) struct Table {
    /// Columns of the registry, in the order of the statements.
    pub(super) columns: Vec<Column>,
    /// Whether the column behind these marks removed devices.
    pub(super) has_deleted: bool,
    /// Reads the first rows.
    pub(super) first: &'static str,
    /// Reads the rows behind a cursor and a key.
    pub(super) next: &'static str,
}

/// A column of the table.
#[derive(Debug, Clone)]
struct Stored {
    name: String,
    kind: String,
    is_primary: bool,
}

impl Table {
    /// Looks the table up, and prepares its statements.
    ///
    /// # Errors
    /// The server cannot be reached, or the table is not as the options say.
    pub(super) async fn find(
        database: &Foreign,
        options: &TableOptions,
    ) -> Result<Self, ForeignError> {
        let name = database.query(NAME, &[&options.table]).await?;
        let name = name.into_iter().flatten().next().flatten().ok_or_else(|| {
            ForeignError::Refused(format!(
                "table {}: must exist, and the role must see it; a name with capitals needs \
                 quotes, as in 'public.\"Devices\"'",
                options.table
            ))
        })?;
        let stored = database.query(COLUMNS_OF, &[&options.table]).await?;
        let stored: Vec<Stored> = stored.into_iter().filter_map(Stored::of).collect();
        Self::of(&name, &stored, options).map_err(ForeignError::Refused)
    }

    fn of(name: &str, stored: &[Stored], options: &TableOptions) -> Result<Self, String> {
        let find = |wanted: &str, option: &str| {
            let found = stored.iter().find(|column| column.name == wanted);
            found.ok_or_else(|| {
                let names: Vec<_> = stored.iter().map(|column| column.name.as_str()).collect();
                format!("{option}: the table has no column {wanted}; it has {}", names.join(", "))
            })
        };
        let cursor = find(&options.cursor, "--cursor")?;
        let grows = ["timestamp", "bigint", "integer", "smallint", "numeric"];
        if !grows.iter().any(|kind| cursor.kind.starts_with(kind)) {
            return Err(format!(
                "--cursor: must be a column of times or integers; {} is {}",
                cursor.name, cursor.kind
            ));
        }
        let key = match (&options.key, stored.iter().filter(|c| c.is_primary).count()) {
            (Some(key), _) => find(key, "--key")?,
            (None, 1) => stored.iter().find(|c| c.is_primary).ok_or("--key: is required")?,
            (None, count) => {
                return Err(format!(
                    "--key: must name a column that identifies a row; the primary key has {count} \
                     columns"
                ));
            }
        };
        let mut columns = Vec::with_capacity(COLUMNS);
        for column in Column::ALL {
            let given = options.columns.iter().find(|(of, _)| *of == column);
            let found = match given {
                Some((_, theirs)) => Some(find(theirs, "--column")?),
                None => stored.iter().find(|stored| stored.name == column.name()),
            };
            let is_time = cursor.kind.starts_with("timestamp");
            let found = found.or((column == Column::Observed && is_time).then_some(cursor));
            columns.extend(found.map(|found| (column, found)));
        }
        column::header(columns.iter().map(|(column, _)| column.name()), options.has_app).map_err(
            |problem| format!("{problem}; name columns with other names by --column OURS=THEIRS"),
        )?;
        let deleted = options.deleted_when.as_deref();
        let deleted = deleted.map(|name| find(name, "--deleted-when")).transpose()?;
        let mut texts = vec![cursor.text(), key.text()];
        texts.extend(columns.iter().map(|(_, stored)| stored.text()));
        texts.extend(deleted.map(Stored::text));
        // No row may be the last place for ever: rows behind it would never be read. A key that is
        // NULL is no place at all.
        let quoted = cursor.quoted();
        let finite = match cursor.kind.as_str() {
            "timestamp with time zone" => format!("isfinite({quoted}) AND {quoted} <= now()"),
            "timestamp without time zone" => format!("isfinite({quoted})"),
            "numeric" => format!("{quoted}::text NOT IN ('NaN', 'Infinity', '-Infinity')"),
            _ => format!("{quoted} IS NOT NULL"),
        };
        let is_key = format!("{} IS NOT NULL", key.quoted());
        let read = |bound: &str| {
            format!(
                "SELECT {} FROM {name} WHERE {finite} AND {is_key}{bound} ORDER BY {}, {} LIMIT {PAGE_ROWS}",
                texts.join(", "),
                cursor.quoted(),
                key.quoted(),
            )
        };
        let bound = format!(
            " AND ({}, {}) > ($1::text::{}, $2::text::{})",
            cursor.quoted(),
            key.quoted(),
            cursor.cast(),
            key.cast()
        );
        Ok(Self {
            columns: columns.iter().map(|(column, _)| *column).collect(),
            has_deleted: deleted.is_some(),
            first: kept(read("")),
            next: kept(read(&bound)),
        })
    }
}

impl Stored {
    fn of(row: TextRow) -> Option<Self> {
        let [name, kind, is_primary] = <[_; 3]>::try_from(row).ok()?;
        Some(Self { name: name?, kind: kind?, is_primary: is_primary.as_deref() == Some("true") })
    }

    /// The column's name in a statement.
    fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    /// Type to which the text of a value is cast. `character` alone is a single character.
    fn cast(&self) -> &str {
        if self.kind == "character" { "bpchar" } else { &self.kind }
    }

    /// The column's value as text: bytes in hexadecimal, times in UTC.
    fn text(&self) -> String {
        let quoted = self.quoted();
        match self.kind.as_str() {
            "bytea" => format!("encode({quoted}, 'hex')"),
            "timestamp without time zone" => format!("({quoted} AT TIME ZONE 'UTC')::text"),
            _ => format!("{quoted}::text"),
        }
    }
}

/// A statement that lives as long as the program: connections keep it prepared under its text, and
/// a program has two of them.
fn kept(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(columns: &[(&str, &str, bool)]) -> Vec<Stored> {
        let of = |(name, kind, is_primary): &(&str, &str, bool)| Stored {
            name: (*name).to_owned(),
            kind: (*kind).to_owned(),
            is_primary: *is_primary,
        };
        columns.iter().map(of).collect()
    }

    fn options(cursor: &str) -> TableOptions {
        TableOptions {
            table: "devices".to_owned(),
            cursor: cursor.to_owned(),
            key: None,
            columns: vec![(Column::Token, "push_token".to_owned())],
            deleted_when: Some("deleted_at".to_owned()),
            has_app: true,
        }
    }

    fn devices() -> Vec<Stored> {
        stored(&[
            ("id", "uuid", true),
            ("push_token", "bytea", false),
            ("Locale \"x\"", "text", false),
            ("updated_at", "timestamp without time zone", false),
            ("deleted_at", "timestamp with time zone", false),
        ])
    }

    #[test]
    fn a_table_is_read_by_cursor_and_key() {
        let table = Table::of("public.devices", &devices(), &options("updated_at")).expect("fits");
        assert_eq!(table.columns, [Column::Token, Column::Observed]);
        assert_eq!(
            table.next,
            "SELECT (\"updated_at\" AT TIME ZONE 'UTC')::text, \"id\"::text, \
             encode(\"push_token\", 'hex'), (\"updated_at\" AT TIME ZONE 'UTC')::text, \
             \"deleted_at\"::text FROM public.devices WHERE isfinite(\"updated_at\") AND \
             \"id\" IS NOT NULL AND (\"updated_at\", \"id\") > ($1::text::timestamp without time zone, $2::text::uuid) \
             ORDER BY \"updated_at\", \"id\" LIMIT 4000"
        );
        let mut named = options("updated_at");
        named.columns.push((Column::Locale, "Locale \"x\"".to_owned()));
        let table = Table::of("d", &devices(), &named).expect("fits");
        assert!(table.first.contains("\"Locale \"\"x\"\"\"::text"), "{}", table.first);
    }

    #[test]
    fn a_table_that_does_not_fit_is_told_what_to_do() {
        let refused =
            |options: TableOptions| Table::of("d", &devices(), &options).expect_err("does not fit");
        assert!(refused(options("changed")).contains("no column changed; it has id, push_token"));
        assert!(refused(options("push_token")).contains("push_token is bytea"));
        let problem = refused(TableOptions { columns: Vec::new(), ..options("updated_at") });
        assert!(problem.starts_with("column token is required"), "{problem}");
        assert!(problem.contains("--column OURS=THEIRS"), "{problem}");
        let problem = refused(TableOptions { has_app: false, ..options("updated_at") });
        assert!(problem.contains("--app"), "{problem}");
        let no_key = stored(&[("updated_at", "bigint", false), ("token", "text", false)]);
        let problem = Table::of("d", &no_key, &options("updated_at")).expect_err("no key");
        assert!(problem.starts_with("--key: must name"), "{problem}");
    }
}
