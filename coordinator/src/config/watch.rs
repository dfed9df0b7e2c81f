//! Reload of credentials while the coordinator runs: a revoked key is replaced by a new file,
//! without a restart.
//!
//! The files are read and checked every [`EVERY`], which takes a millisecond. File events would not
//! do: Kubernetes swaps mounted files by links, and an editor leaves a file half written for a
//! moment. Of the configuration file only `[[credentials]]` is reloaded, because a new key of Apple
//! has a new `key_id`. If the files are unreadable or invalid, the present credentials stay in use.

use std::{path::PathBuf, time::Duration};

use clarion_proto::time::Time;
use clarion_runtime::{offload::offload, repeated::Repeated, world::Clock};

use super::{
    ConfigError,
    credentials::{self, CredentialTable},
    file,
    given::{self, Given, Places, Tables},
};
use crate::{
    lane::Gateway,
    lane_owner::{Credential, ReplaceError},
};

/// Interval between two checks of the files: the longest delay until a new key is used.
const EVERY: Duration = Duration::from_secs(5);

/// Sources of the credentials, to read them again.
#[derive(Debug, Clone)]
pub struct CredentialFiles {
    /// Credentials given by flag or environment, which override the file.
    pub(super) given: Option<Tables<CredentialTable>>,
    /// Path of the configuration file; `None`: no file.
    pub(super) path: Option<PathBuf>,
    /// Gateways that the credentials are checked against.
    pub(super) gateways: Vec<Gateway>,
}

impl CredentialFiles {
    /// Reads and checks all credentials.
    ///
    /// # Errors
    /// The first problem found.
    pub fn read(&self) -> Result<Vec<Credential>, ConfigError> {
        let file = self.path.as_deref().map(file::read).transpose()?.unwrap_or_default();
        self.check(Given::of("credentials", self.given.clone(), file.credentials))
    }

    pub(super) fn check(
        &self,
        given: Given<Tables<CredentialTable>>,
    ) -> Result<Vec<Credential>, ConfigError> {
        let places = Places { path: self.path.as_deref(), variables: given::variable };
        let (tables, place) = given.tables(&places)?;
        let credentials = credentials::credentials(tables, &place)?;
        credentials::share_no_quota(&credentials, &self.gateways, &place)?;
        Ok(credentials)
    }

    /// Passes the credentials of the files to `replace` every [`EVERY`]; runs until it is dropped.
    pub(crate) async fn watch(
        self,
        clock: Clock,
        replace: impl Fn(Vec<Credential>) -> Result<(), ReplaceError>,
    ) {
        let mut failures = Repeated::default();
        loop {
            tokio::time::sleep(EVERY).await;
            let files = self.clone();
            let read = offload(move || files.read()).await;
            let problem = match read {
                Ok(Ok(credentials)) => replace(credentials).err().map(|e| e.to_string()),
                Ok(Err(error)) => Some(error.to_string()),
                Err(defect) => Some(format!("reading the files failed: {defect}")),
            };
            match problem {
                None => failures = Repeated::default(),
                Some(problem) => {
                    if let Some(times) = failures.note(&problem, clock.now().since(Time(0))) {
                        tracing::error!(
                            problem,
                            times,
                            "credentials not reloaded; the present credentials stay in use"
                        );
                    }
                }
            }
        }
    }
}
