//! Reads of a database that belongs to another system, over a connection that is made again when
//! it is lost.

use std::{fmt, sync::Arc, time::Duration};

use clarion_runtime::world::World;
use secrecy::SecretString;

use super::{
    address::Address,
    connection::{Role, Server},
    failure::{Effect, Failure, words},
    link::Link,
    query::{Parameter, Query},
};
use crate::store::sql::Value;

/// Deadline of a statement; the server gives it up 10 s earlier.
const DEADLINE: Duration = Duration::from_secs(70);

/// A database of another system.
#[derive(Debug)]
pub(crate) struct Foreign(Link);

/// Values of a row, as the server writes them as text; `None`: NULL.
pub(crate) type TextRow = Vec<Option<String>>;

/// Why a statement has no rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ForeignError {
    /// A retry may help.
    Away(String),
    /// The server refuses the statement. A retry does not help.
    Refused(String),
}

impl fmt::Display for ForeignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(reason) | Self::Refused(reason) => f.write_str(reason),
        }
    }
}

impl Foreign {
    /// Prepares to connect; nothing is sent yet.
    ///
    /// # Errors
    /// The certificates of the address cannot be used.
    pub(crate) fn new(
        address: Address,
        password: Option<SecretString>,
        world: &World,
    ) -> Result<Self, String> {
        let server = Server::new(address, password, world.clone())?;
        Ok(Self(Link::new(&Arc::new(server), Role::Foreign)))
    }

    /// Runs a statement whose parameters and columns are of type TEXT.
    ///
    /// # Errors
    /// See [`ForeignError`].
    pub(crate) async fn query(
        &self,
        text: &'static str,
        parameters: &[&str],
    ) -> Result<Vec<TextRow>, ForeignError> {
        let mut query = Query::new(text);
        for parameter in parameters {
            query = query.with(Parameter::One(Value::Text((*parameter).to_owned())));
        }
        let rows = self.0.run(&query, Effect::Reads, DEADLINE).await.map_err(error)?;
        let read = |row: &tokio_postgres::Row| {
            let value = |index| row.try_get(index).map_err(|e| ForeignError::Refused(words(&e)));
            (0..row.len()).map(value).collect()
        };
        rows.iter().map(read).collect()
    }
}

fn error(failure: Failure) -> ForeignError {
    match failure {
        Failure::Refused(refusal) => {
            // Connections, conflicts, resources, locks, operators, input and output.
            let passes = ["08", "40", "53", "55", "57", "58"].contains(&&refusal.code.code()[..2]);
            let is_passing = passes || refusal.is_stale();
            match is_passing {
                true => ForeignError::Away(refusal.text),
                false => ForeignError::Refused(refusal.text),
            }
        }
        other => ForeignError::Away(other.into_text()),
    }
}
