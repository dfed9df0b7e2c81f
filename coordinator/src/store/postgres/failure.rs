//! What a failed statement means: whether it may have been committed, and whether a retry helps.

use std::error::Error as _;

use tokio_postgres::{
    Error,
    error::{DbError, Severity, SqlState},
};

use super::super::sql::EngineError;

/// Why a statement has no result.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// All connections are in use: nothing was sent.
    Crowded,
    /// No connection: nothing was sent.
    Unreached(String),
    /// The server refused the statement, and so wrote nothing.
    Refused(Refusal),
    /// The statement was sent, and no answer came that can be trusted.
    Lost(String),
}

/// The server's answer to a statement that it refused.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) code: SqlState,
    /// The name of the host, then the server's message. Details are left out: they may have values
    /// of rows.
    pub(super) text: String,
    /// Constraint or index that the statement would have violated.
    pub(super) constraint: Option<String>,
}

/// Whether a statement changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    Writes,
}

/// What the error of [`Failure::Crowded`] says.
const CROWDED: &str = "every connection to the database is in use";

impl Failure {
    /// The meaning of an error for a statement that was sent to a host.
    pub(super) fn of(error: &Error, host: &str) -> Self {
        let Some(refused) = error.as_db_error() else {
            return Self::Lost(format!("{host}: {}", words(error)));
        };
        let text = format!("{host}: {}", of_server(refused));
        // The session ended: at a commit that waits for a standby, after the commit.
        if refused.parsed_severity() != Some(Severity::Error) {
            return Self::Lost(text);
        }
        let constraint = refused.constraint().map(str::to_owned);
        Self::Refused(Refusal { code: refused.code().clone(), text, constraint })
    }

    /// The failure of a preparation: whatever happened, the statement was not sent.
    pub(super) fn before_sending(self) -> Self {
        match self {
            Self::Lost(text) => Self::Unreached(text),
            other => other,
        }
    }

    /// Whether the same statement may succeed at once: another writer was in the way.
    pub(super) fn is_conflict(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        // A key that another writer has inserted since is seen by a repetition.
        [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::UNIQUE_VIOLATION,
        ]
        .contains(&refusal.code)
    }

    /// Whether rows cannot be read because they are damaged.
    pub(super) fn is_damage(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        // IO_ERROR: a block cannot be read. INTERNAL_ERROR: a length that is none.
        [
            SqlState::DATA_CORRUPTED,
            SqlState::INDEX_CORRUPTED,
            SqlState::IO_ERROR,
            SqlState::INTERNAL_ERROR,
        ]
        .contains(&refusal.code)
    }

    /// Whether the tables of the store are not made yet.
    pub(super) fn is_missing_table(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == SqlState::UNDEFINED_TABLE)
    }

    /// Whether a flush is stored already.
    pub(super) fn is_duplicate_flush(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        refusal.code == SqlState::UNIQUE_VIOLATION
            && refusal.constraint.as_deref() == Some("batch_by_flush")
    }

    /// The failure in words, for a log.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Crowded => CROWDED.to_owned(),
            Self::Unreached(text) | Self::Lost(text) => text,
            Self::Refused(refusal) => refusal.text,
        }
    }

    /// The error for the store.
    pub(super) fn into_error(self, effect: Effect) -> EngineError {
        match (self, effect) {
            (Self::Crowded, _) => EngineError::Busy(CROWDED.to_owned()),
            (Self::Unreached(text), _) | (Self::Lost(text), Effect::Reads) => {
                EngineError::Away(text)
            }
            (Self::Lost(text), Effect::Writes) => EngineError::Unknown(text),
            (Self::Refused(refusal), _) => refusal.into_error(),
        }
    }
}

impl Refusal {
    /// Whether the session's prepared statements have become useless: a new connection helps.
    pub(super) fn is_stale(&self) -> bool {
        // READ_ONLY: the server has become a standby.
        [
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(&self.code)
    }

    fn into_error(self) -> EngineError {
        let Self { code, text, .. } = self;
        let slow = [
            SqlState::QUERY_CANCELED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::UNIQUE_VIOLATION,
            SqlState::DUPLICATE_TABLE,
        ];
        if slow.contains(&code) {
            return EngineError::Busy(text);
        }
        match code.code() {
            "XX001" | "XX002" => EngineError::Broken(format!(
                "{text}: the database is damaged; restore it from a backup or a standby"
            )),
            "42501" => EngineError::Broken(format!(
                "{text}: make the coordinator's role the owner of the tables"
            )),
            // Wrong data, constraints, syntax, missing tables.
            code if ["22", "23", "42"].contains(&&code[..2]) => EngineError::Broken(format!(
                "{text}: the database is not the store of this coordinator's version"
            )),
            // Resources, operators, input and output, internal errors.
            _ => EngineError::Away(text),
        }
    }
}

/// An error as one line: the server's message, or the chain of causes.
pub(super) fn words(error: &Error) -> String {
    if let Some(refused) = error.as_db_error() {
        return of_server(refused);
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Message and code of the server.
pub(super) fn of_server(error: &DbError) -> String {
    format!("{} (SQLSTATE {})", error.message(), error.code().code())
}
