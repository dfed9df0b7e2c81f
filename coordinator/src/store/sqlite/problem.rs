//! What SQLite's errors mean, and what to do about each.

use std::path::Path;

use rusqlite::{Error, ErrorCode};

use crate::store::sql::EngineError;

/// The engine's error for an error of SQLite. `writes`: the statement may have changed something.
pub(super) fn engine_error(path: &Path, error: &Error, writes: bool) -> EngineError {
    let path = path.display();
    let Some(code) = error.sqlite_error_code() else {
        return EngineError::Broken(format!("{path}: {error}; this is a defect of this program"));
    };
    match code {
        ErrorCode::DiskFull => EngineError::Away(format!(
            "the disk of {path} is full: free space on it; nothing has to be restarted"
        )),
        ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied
        | ErrorCode::AuthorizationForStatementDenied => EngineError::Away(format!(
            "{path} cannot be written ({error}): make the file and its folder writable for \
                 this user, and its file system mounted for writing"
        )),
        ErrorCode::CannotOpen => EngineError::Away(format!(
            "{path} cannot be opened ({error}): its folder has to exist and to be writable for \
             this user"
        )),
        ErrorCode::SystemIoFailure => {
            let problem =
                format!("the disk of {path} failed ({error}): check the disk and the kernel's log");
            if writes { EngineError::Unknown(problem) } else { EngineError::Away(problem) }
        }
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed => EngineError::Away(format!(
            "another process holds {path}: stop that process, or use another file"
        )),
        ErrorCode::DatabaseCorrupt => EngineError::Broken(format!(
            "{path} is damaged ({error}): stop using the disk and restore the file from a backup"
        )),
        ErrorCode::NotADatabase => EngineError::Broken(format!(
            "{path} is not a SQLite file, or its beginning is damaged: name another file, or \
             restore it from a backup"
        )),
        ErrorCode::OutOfMemory => {
            EngineError::Away(format!("no memory for {path}: give the process more memory"))
        }
        ErrorCode::TooBig
        | ErrorCode::ConstraintViolation
        | ErrorCode::InternalMalfunction
        | ErrorCode::OperationAborted
        | ErrorCode::OperationInterrupted
        | ErrorCode::NotFound
        | ErrorCode::SchemaChanged
        | ErrorCode::TypeMismatch
        | ErrorCode::ApiMisuse
        | ErrorCode::NoLargeFileSupport
        | ErrorCode::ParameterOutOfRange
        | ErrorCode::Unknown => {
            EngineError::Away(format!("{path}: {error}; this is a defect of this program"))
        }
        // The list of codes is open.
        _ => EngineError::Away(format!("{path}: {error}")),
    }
}
