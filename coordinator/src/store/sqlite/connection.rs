//! Opening of the file: created for its owner only, held exclusively, with settings that are
//! checked after they were made.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, types::Value};

use super::problem::engine_error;
use crate::store::sql::EngineError;

/// Marks the file as a store of this program: "Clrn".
const APPLICATION_ID: i64 = 0x436c_726e;
/// Longest wait for a process that is about to let go of the file, such as a backup.
const BUSY_MAX: Duration = Duration::from_millis(500);

/// Settings in the order in which they are made, with the values that they must have then.
const SETTINGS: [(&str, &str, &str); 8] = [
    // Before the first access in WAL mode, so that no shared memory is used.
    ("locking_mode", "EXCLUSIVE", "exclusive"),
    ("journal_mode", "WAL", "wal"),
    // A commit is answered when the WAL is on the disk.
    ("synchronous", "FULL", "2"),
    // Tokens and places of removed devices are overwritten.
    ("secure_delete", "ON", "1"),
    // Damage and hostile files are found when pages are read.
    ("cell_size_check", "ON", "1"),
    ("trusted_schema", "OFF", "0"),
    // After a checkpoint the WAL is cut to 64 MiB.
    ("journal_size_limit", "67108864", "67108864"),
    ("temp_store", "MEMORY", "2"),
];

/// An open file.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
}

impl Opened {
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        // SQLite would give everybody read access; the WAL gets the access of this file.
        let created =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        created.map_err(|error| {
            EngineError::Away(format!(
                "{} cannot be opened for writing ({error}): its folder has to exist and to be \
                 writable for this user",
                path.display()
            ))
        })?;
        let failed = |error| engine_error(path, &error, false);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_MAX).map_err(failed)?;
        for (name, value, expected) in SETTINGS {
            connection.execute_batch(&format!("PRAGMA {name} = {value}")).map_err(failed)?;
            let set = pragma(&connection, name).map_err(failed)?;
            if set != expected {
                return Err(EngineError::Broken(format!(
                    "{}: the setting {name} has to be {expected}; it is {set}",
                    path.display()
                )));
            }
        }
        let opened = Self { path: path.to_owned(), connection };
        opened.mark()?;
        Ok(opened)
    }

    /// Marks an empty file as ours, and refuses files of other programs. Takes the file's lock.
    fn mark(&self) -> Result<(), EngineError> {
        let failed = |error| engine_error(&self.path, &error, true);
        let run = |text: &str| self.connection.execute_batch(text).map_err(failed);
        let number = |text: &str| {
            self.connection.query_row(text, [], |row| row.get::<_, i64>(0)).map_err(failed)
        };
        run("BEGIN IMMEDIATE")?;
        let id = number("SELECT * FROM pragma_application_id")?;
        if id != APPLICATION_ID {
            if id != 0 || number("SELECT count(*) FROM sqlite_schema")? != 0 {
                return Err(EngineError::Broken(format!(
                    "{} is a database of another program: name another file",
                    self.path.display()
                )));
            }
            run(&format!("PRAGMA application_id = {APPLICATION_ID}"))?;
        }
        run("COMMIT")
    }
}

/// The value of a setting, as text.
fn pragma(connection: &Connection, name: &str) -> Result<String, rusqlite::Error> {
    let value = connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))?;
    Ok(match value {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text,
        other => format!("{other:?}"),
    })
}
