//! Credentials anew while the coordinator runs: a key that was revoked is replaced by writing a
//! file, not by a restart.
//!
//! The files are read and checked whole every [`EVERY`], a millisecond of work, rather than watched
//! for events: what Kubernetes mounts is swapped by links, and what is edited by hand is briefly
//! half written. Of the configuration's own file only `[[credentials]]` counts, as a new key of
//! Apple's comes with a new `key_id`. What cannot be read or does not fit is said once, and what
//! there was goes on.

use std::{path::PathBuf, time::Duration};

use super::{
    ConfigError,
    credentials::{self, CredentialTable},
    file,
    given::{Given, Places, Tables},
};
use crate::{
    lane::Gateway,
    lane_owner::{Credential, ReplaceError},
};

/// Between two looks. Whoever has just replaced a revoked key waits for so long at most.
const EVERY: Duration = Duration::from_secs(5);

/// Where credentials come from.
#[derive(Debug, Clone)]
pub struct CredentialFiles {
    /// By flag or environment, which beat the file.
    pub(super) given: Option<Tables<CredentialTable>>,
    /// The configuration's file.
    pub(super) path: Option<PathBuf>,
    /// Those that they must agree with.
    pub(super) gateways: Vec<Gateway>,
}

impl CredentialFiles {
    /// Reads and checks all of them.
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
        let places = Places { path: self.path.as_deref() };
        let (tables, place) = given.tables(&places)?;
        let credentials = credentials::credentials(tables, &place)?;
        credentials::share_no_quota(&credentials, &self.gateways, &place)?;
        Ok(credentials)
    }

    /// Hands what the files say to `replace`, again and again; runs until it is dropped.
    pub(crate) async fn watch(self, replace: impl Fn(Vec<Credential>) -> Result<(), ReplaceError>) {
        let mut said = None;
        loop {
            tokio::time::sleep(EVERY).await;
            let files = self.clone();
            let read = tokio::task::spawn_blocking(move || files.read()).await;
            let problem = match read {
                Ok(Ok(credentials)) => replace(credentials).err().map(|e| e.to_string()),
                Ok(Err(error)) => Some(error.to_string()),
                Err(defect) => Some(format!("reading ended: {defect}")),
            };
            // Once for each new reason: a file that is wrong for an hour is one line.
            if let Some(problem) =
                problem.as_ref().filter(|problem| said.as_ref() != Some(*problem))
            {
                tracing::error!(problem, "credentials are kept as they were");
            }
            said = problem;
        }
    }
}
