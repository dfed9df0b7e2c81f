//! Condition of a list of alerts.

use std::collections::BTreeMap;

use clarion_proto::{
    alert::{Mode, mode},
    ids::{AppName, UnixMillis},
};
use xxhash_rust::xxh3::Xxh3;

use super::AlertRecord;
use crate::snapshot::State;

/// Condition on an alert, which fulfils every part that is set. The default is true for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertFilter {
    /// States of which the alert has one, ascending; empty: any.
    pub states: Vec<State>,
    /// Modes of which the alert has one, ascending; empty: any.
    pub modes: Vec<Mode>,
    /// First time of creation.
    pub created_from: Option<UnixMillis>,
    /// Time before which the alert was created.
    pub created_before: Option<UnixMillis>,
    /// External identifier of the alert.
    pub external_id: Option<String>,
    /// App that the alert addresses.
    pub app: Option<AppName>,
    /// Labels that the alert has, with their values.
    pub labels: BTreeMap<String, String>,
}

impl AlertFilter {
    /// Whether an alert fulfils the condition. The state is that of the record, which may be some
    /// milliseconds behind the nodes' reports.
    #[must_use]
    pub fn matches(&self, alert: &AlertRecord) -> bool {
        let submitted = &alert.submitted;
        let of_mode = || mode(submitted.mode, "mode").is_ok_and(|mode| self.modes.contains(&mode));
        (self.states.is_empty() || self.states.contains(&alert.state))
            && self.created_from.is_none_or(|from| alert.created >= from)
            && self.created_before.is_none_or(|before| alert.created < before)
            && self.external_id.as_ref().is_none_or(|id| *id == submitted.external_id)
            && self.app.as_ref().is_none_or(|app| alert.apps.contains(app))
            && self.labels.iter().all(|(key, value)| submitted.labels.get(key) == Some(value))
            && (self.modes.is_empty() || of_mode())
    }

    /// Number that differs for different conditions, so that a page token belongs to one of them.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3::new();
        let mut part = |bytes: &[u8]| {
            hash.update(&bytes.len().to_be_bytes());
            hash.update(bytes);
        };
        let text = format!(
            "{:?} {:?} {:?} {:?}",
            self.states, self.modes, self.created_from, self.created_before
        );
        part(text.as_bytes());
        part(self.external_id.as_deref().unwrap_or_default().as_bytes());
        part(self.app.as_ref().map(AppName::id).unwrap_or_default().as_bytes());
        for (key, value) in &self.labels {
            part(key.as_bytes());
            part(value.as_bytes());
        }
        hash.digest()
    }
}
