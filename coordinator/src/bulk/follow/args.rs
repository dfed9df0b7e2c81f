//! Command line of `coordinator follow`.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use super::table::TableOptions;
use crate::{
    bulk::{
        args::{app_of, host_of},
        column::Column,
        error::ImportError,
    },
    config::read_password,
    store::postgres::Address,
};

/// Follow a table of devices in PostgreSQL, and write its changes into the registry.
#[derive(Debug, Clone, Parser)]
#[command(name = "coordinator follow", bin_name = "coordinator follow", version)]
#[command(after_help = AFTER_HELP)]
pub(super) struct FollowArgs {
    /// Database, postgres://USER@HOST:PORT/DATABASE, without a password
    #[arg(long, value_name = "URL")]
    from: String,
    /// File with the password of the database's user. Default: no password
    #[arg(long, value_name = "FILE")]
    from_password_file: Option<PathBuf>,
    /// Table of devices, one a row: TABLE or SCHEMA.TABLE
    #[arg(long, value_name = "TABLE")]
    pub(super) table: String,
    /// Column that grows with each change of a row: a time such as updated_at, or an integer.
    /// A column that only grows with new rows, such as id, shows no changes and no removals
    #[arg(long, value_name = "COLUMN")]
    pub(super) cursor: String,
    /// Column that identifies a row. Default: the primary key
    #[arg(long, value_name = "COLUMN")]
    key: Option<String>,
    /// Column of the table that is a column of the registry under another name, for example
    /// token=push_token; may be repeated. Default: the column of the same name. observed is the
    /// cursor by default, if that is a time
    #[arg(long = "column", value_name = "OURS=THEIRS", value_parser = mapped)]
    columns: Vec<(Column, String)>,
    /// Column that marks removed devices: true, or any other value but false, 0 and NULL
    #[arg(long, value_name = "COLUMN")]
    deleted_when: Option<String>,
    /// App of rows that name none, apps/NAME
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// Address of a coordinator's API, http://HOST:PORT
    #[arg(long, value_name = "URL")]
    to: String,
    /// Write observations of up to 400 days; default: up to 24 hours. For the first copy of a
    /// table: an old row can bring back a device that was removed more than 24 hours ago
    #[arg(long)]
    pub(super) historic: bool,
    /// Time for which rows are read again: a transaction may commit them with an older cursor than
    /// rows that were read before. The overlap must be longer than the time from the beginning of a
    /// transaction to its first write; open transactions are waited for. Too short: rows are missed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(super) overlap: Duration,
    /// Pause between two passes over the newest rows
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(super) every: Duration,
    /// End after one pass over the table
    #[arg(long)]
    pub(super) once: bool,
    /// File that remembers how far the table is read. Default: every run begins with the first row
    #[arg(long, value_name = "FILE")]
    pub(super) resume: Option<PathBuf>,
    /// File for rows that are not written: CSV with key, column and reason. Lines are added to a
    /// file that exists. Default: rejects are shown
    #[arg(long, value_name = "FILE")]
    pub(super) rejects: Option<PathBuf>,
}

const AFTER_HELP: &str = "The columns of the registry are those of `coordinator import --help`. \
     bytea is read as hexadecimal, and a timestamp without time zone as UTC. A row that vanishes \
     from the table is not noticed: mark it, and name the mark with --deleted-when. An index on \
     cursor and key keeps passes short.\n\n\
     Exit codes: 0: with --once, every row is written. 3: with --once, some rows were rejected. \
     1: the program cannot go on. 2: invalid command line.";

impl FollowArgs {
    /// Database that has the table, with the password.
    ///
    /// # Errors
    /// The URL or the file cannot be used.
    pub(super) fn database(&self) -> Result<(Address, Option<secrecy::SecretString>), ImportError> {
        let address = Address::parse(&self.from).map_err(|e| problem("--from", &e))?;
        let password = self.from_password_file.as_deref().map(read_password).transpose();
        Ok((address, password.map_err(|e| problem("--from-password-file", &e))?))
    }

    /// Table, and what is read of it.
    pub(super) fn table_options(&self) -> TableOptions {
        TableOptions {
            table: self.table.clone(),
            cursor: self.cursor.clone(),
            key: self.key.clone(),
            columns: self.columns.clone(),
            deleted_when: self.deleted_when.clone(),
            has_app: self.app.is_some(),
        }
    }

    /// App of rows that name none.
    ///
    /// # Errors
    /// The name is not one of an app.
    pub(super) fn app(&self) -> Result<Option<String>, ImportError> {
        app_of(self.app.as_deref())
    }

    /// Host and port of the coordinator.
    ///
    /// # Errors
    /// The address is not one of a coordinator's API.
    pub(super) fn host(&self) -> Result<&str, ImportError> {
        host_of(&self.to).map_err(|what| problem("--to", &what))
    }
}

fn problem(option: &'static str, problem: &dyn ToString) -> ImportError {
    ImportError::Option { option, problem: problem.to_string() }
}

/// A mapping of a column.
fn mapped(text: &str) -> Result<(Column, String), String> {
    let (ours, theirs) =
        text.split_once('=').ok_or("must be OURS=THEIRS, as in token=push_token")?;
    Ok((Column::named(ours)?, theirs.to_owned()))
}

/// A time with its unit: ms, s, m or h.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u32 = digits.parse().map_err(|_| "must be a number with a unit, as in 30s")?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(u64::from(number) * 60)),
        "h" => Ok(Duration::from_secs(u64::from(number) * 3_600)),
        unit => Err(format!("must have one of the units ms, s, m and h; got {unit:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let times = ["250ms", "30s", "5m", "1h"].map(|text| duration(text).expect("a time"));
        assert_eq!(times.map(|time| time.as_millis()), [250, 30_000, 300_000, 3_600_000]);
        for text in ["30", "s", "-1s", "1d", "1.5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_column_is_mapped_by_its_name() {
        assert_eq!(mapped("token=push_token"), Ok((Column::Token, "push_token".to_owned())));
        assert!(mapped("push_token=token").expect_err("unknown").contains("app, device, token"));
        assert!(mapped("token").is_err());
    }
}
