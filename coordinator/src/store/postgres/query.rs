//! One statement for the database: its text, its parameters, and its rows.

use std::error::Error;

use bytes::{Bytes, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::super::sql::{EngineError, Row, Statement, Value};

/// The stored epoch, as the portable statements ask for it.
const EPOCH: &str = "(SELECT epoch FROM chief WHERE id = 1)";
/// The same with a lock. A statement sees the rows that were committed before it began; without
/// the lock, a statement that began before a takeover could commit after it. The lock does not
/// conflict with the renewal of the counter, and a takeover waits for all who hold it.
const EPOCH_LOCKED: &str = "(SELECT epoch FROM chief WHERE id = 1 FOR KEY SHARE)";

/// A statement with the values of its parameters.
#[derive(Debug, Clone)]
pub(super) struct Query {
    /// Portable text, or text of this engine; connections keep it prepared under this text.
    pub(super) text: &'static str,
    pub(super) parameters: Vec<Parameter>,
}

/// Value of a parameter.
#[derive(Clone)]
pub(super) enum Parameter {
    One(Value),
    Integers(Vec<i64>),
    Bytes(Vec<Bytes>),
}

impl Query {
    /// A statement without parameters.
    pub(super) const fn new(text: &'static str) -> Self {
        Self { text, parameters: Vec::new() }
    }

    pub(super) fn with(mut self, parameter: impl Into<Parameter>) -> Self {
        self.parameters.push(parameter.into());
        self
    }

    /// The text for PostgreSQL: the fence locks the row that it reads, and tables compare text by
    /// bytes.
    pub(super) fn dialect(&self) -> String {
        let text = self.text.replace(EPOCH, EPOCH_LOCKED);
        if text.starts_with("CREATE TABLE") {
            return text.replace(" TEXT", " TEXT COLLATE \"C\"");
        }
        text
    }

    /// Types of the parameters, so that the server does not guess them from their use.
    pub(super) fn types(&self) -> Vec<Type> {
        self.parameters.iter().map(Parameter::kind).collect()
    }
}

impl From<Statement> for Query {
    fn from(statement: Statement) -> Self {
        let parameters = statement.values.into_iter().map(Parameter::One).collect();
        Self { text: statement.text, parameters }
    }
}

impl From<i64> for Parameter {
    fn from(value: i64) -> Self {
        Self::One(Value::Integer(value))
    }
}

impl From<u64> for Parameter {
    fn from(value: u64) -> Self {
        Self::One(Value::Integer(integer(value)))
    }
}

impl From<Bytes> for Parameter {
    fn from(value: Bytes) -> Self {
        Self::One(Value::Bytes(value))
    }
}

impl From<[u8; 16]> for Parameter {
    fn from(value: [u8; 16]) -> Self {
        Self::One(Value::Bytes(Bytes::copy_from_slice(&value)))
    }
}

impl From<Vec<i64>> for Parameter {
    fn from(values: Vec<i64>) -> Self {
        Self::Integers(values)
    }
}

impl From<Vec<Bytes>> for Parameter {
    fn from(values: Vec<Bytes>) -> Self {
        Self::Bytes(values)
    }
}

impl Parameter {
    fn kind(&self) -> Type {
        match self {
            Self::One(Value::Integer(_) | Value::Null) => Type::INT8,
            Self::One(Value::Text(_)) => Type::TEXT,
            Self::One(Value::Bytes(_)) => Type::BYTEA,
            Self::Integers(_) => Type::INT8_ARRAY,
            Self::Bytes(_) => Type::BYTEA_ARRAY,
        }
    }
}

/// Only kind and size: values may hold tokens and places.
impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(value) => value.fmt(f),
            Self::Integers(values) => write!(f, "{} integers", values.len()),
            Self::Bytes(values) => write!(f, "{} byte strings", values.len()),
        }
    }
}

impl ToSql for Parameter {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::One(Value::Integer(number)) => number.to_sql(ty, out),
            Self::One(Value::Text(text)) => text.to_sql(ty, out),
            Self::One(Value::Bytes(bytes)) => (&bytes[..]).to_sql(ty, out),
            Self::One(Value::Null) => Ok(IsNull::Yes),
            Self::Integers(values) => values.to_sql(ty, out),
            Self::Bytes(values) => {
                values.iter().map(|bytes| &bytes[..]).collect::<Vec<_>>().to_sql(ty, out)
            }
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA, Type::INT8_ARRAY, Type::BYTEA_ARRAY].contains(ty)
    }

    to_sql_checked!();
}

/// A number as a BIGINT; beyond its range: the largest.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A row of the server as a row of the store.
pub(super) fn row(row: &tokio_postgres::Row) -> Result<Row, EngineError> {
    let value = |(index, column): (usize, &tokio_postgres::Column)| {
        let kind = column.type_();
        let value = if *kind == Type::INT8 {
            row.try_get::<_, Option<i64>>(index).map(|value| value.map(Value::Integer))
        } else if *kind == Type::INT4 {
            row.try_get::<_, Option<i32>>(index)
                .map(|value| value.map(|value| Value::Integer(value.into())))
        } else if *kind == Type::TEXT {
            row.try_get::<_, Option<String>>(index).map(|value| value.map(Value::Text))
        } else if *kind == Type::BYTEA {
            row.try_get::<_, Option<&[u8]>>(index)
                .map(|value| value.map(|bytes| Value::Bytes(Bytes::copy_from_slice(bytes))))
        } else {
            let name = column.name();
            return Err(EngineError::Broken(format!(
                "column {name} of the database has type {kind}, which the store does not write: \
                 use a database that only the coordinator writes to"
            )));
        };
        let unreadable = |e| EngineError::Broken(format!("column {}: {e}", column.name()));
        value.map(|value| value.unwrap_or(Value::Null)).map_err(unreadable)
    };
    row.columns().iter().enumerate().map(value).collect::<Result<_, _>>().map(Row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fence_locks_and_tables_compare_bytes() {
        let text = |text| Query::new(text).dialect();
        let fenced = text(
            "UPDATE app SET revision = 1 WHERE \
                           (SELECT epoch FROM chief WHERE id = 1) = $1",
        );
        assert!(fenced.ends_with("WHERE id = 1 FOR KEY SHARE) = $1"), "{fenced}");
        assert_eq!(text(super::super::super::sql::FENCE), format!("{EPOCH_LOCKED} = $1"));
        let table = text("CREATE TABLE IF NOT EXISTS t (a TEXT PRIMARY KEY, b TEXT NOT NULL)");
        assert_eq!(table.matches("COLLATE \"C\"").count(), 2, "{table}");
        assert_eq!(text("SELECT 'A TEXT'"), "SELECT 'A TEXT'");
    }
}
