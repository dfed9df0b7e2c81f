//! Counts of a partition's content, updated with each record.

use super::{
    key::Key,
    vocabulary::{AppIndex, SegmentsIndex},
};

/// Counts of a partition's content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Devices with a registration.
    pub devices: u64,
    /// Registered devices with a place.
    pub placed: u64,
    /// Registered devices that are muted.
    pub muted: u64,
    /// Devices with a registration, by `AppIndex.0`. Apps after the end of the list have none.
    pub apps: Vec<u64>,
}

/// Counted and walked properties of a row, compared before and after a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) registered: Option<(AppIndex, SegmentsIndex)>,
    pub(super) placed: bool,
    pub(super) muted: bool,
    /// Whether the registration has expired: the device keeps its key until the sweep removes it.
    pub(super) expired: bool,
    /// Key of the device in the walk; `None` if it is not pushable, unless only for expiry.
    pub(super) key: Option<Key>,
}

impl Held {
    pub(super) fn count(&mut self, of: Standing, change: impl Fn(&mut u64)) {
        let Some((app, _)) = of.registered else { return };
        change(&mut self.devices);
        if of.placed {
            change(&mut self.placed);
        }
        if of.muted {
            change(&mut self.muted);
        }
        if app != AppIndex::UNKNOWN {
            let app = usize::from(app.0);
            if self.apps.len() <= app {
                self.apps.resize(app + 1, 0);
            }
            change(&mut self.apps[app]);
        }
    }
}
