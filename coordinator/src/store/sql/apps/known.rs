//! Apps in memory: every batch of registrations needs its apps, and a database may be busy with a
//! flush just then. Only this process writes, so what it read stays true until it writes again.
//!
//! ```text
//! read ──▶ kept, unless a write of any app began or ended meanwhile
//! write ─▶ begin: forgotten, and not kept ─▶ end: kept again by the next read
//! ```
//!
//! A write whose caller goes away may still be committed later. It never ends here, and its app is
//! read from the database from then on.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::ids::AppName;
use parking_lot::Mutex;

use crate::store::{AppRecord, memory::APPS_MAX};

/// Apps that were read, at most as many as a cluster may have.
#[derive(Debug, Default)]
pub(in crate::store::sql) struct KnownApps(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    apps: BTreeMap<AppName, Arc<AppRecord>>,
    /// Apps with writes under way, and their number.
    writing: BTreeMap<AppName, usize>,
    /// Number of begins and ends of writes.
    changes: u64,
}

impl KnownApps {
    /// The app, if it is in memory.
    pub(super) fn get(&self, name: &AppName) -> Option<Arc<AppRecord>> {
        self.0.lock().apps.get(name).cloned()
    }

    /// Number to take before a read, for [`KnownApps::keep`].
    pub(super) fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// Keeps an app that was read, unless it may have changed since the number was taken.
    pub(super) fn keep(&self, app: &Arc<AppRecord>, changes: u64) {
        let mut known = self.0.lock();
        let name = &app.app.name;
        let full = known.writing.len() >= APPS_MAX;
        if known.changes == changes && !full && !known.writing.contains_key(name) {
            known.apps.insert(name.clone(), Arc::clone(app));
        }
    }

    /// Begins a write of an app.
    pub(in crate::store::sql) fn begin(&self, name: &AppName) {
        let mut known = self.0.lock();
        known.changes += 1;
        known.apps.remove(name);
        // Writes that never ended must not fill the memory: with so many, no app is kept any more.
        if known.writing.len() < APPS_MAX {
            *known.writing.entry(name.clone()).or_default() += 1;
        }
    }

    /// Ends a write of an app, whatever came of it.
    pub(in crate::store::sql) fn end(&self, name: &AppName) {
        let mut known = self.0.lock();
        known.changes += 1;
        if let Some(writes) = known.writing.get_mut(name) {
            *writes -= 1;
            if *writes == 0 {
                known.writing.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::app;

    #[test]
    fn an_app_is_kept_only_while_no_write_is_under_way() {
        let (known, demo) = (KnownApps::default(), Arc::new(app("demo")));
        let name = &demo.app.name;
        known.keep(&demo, known.changes());
        assert!(known.get(name).is_some());
        let before = known.changes();
        known.begin(name);
        assert!(known.get(name).is_none(), "forgotten before it is written");
        known.keep(&demo, before);
        let during = known.changes();
        known.keep(&demo, during);
        assert!(known.get(name).is_none());
        known.end(name);
        known.keep(&demo, during);
        assert!(known.get(name).is_none(), "it was read before the write ended");
        known.keep(&demo, known.changes());
        assert!(known.get(name).is_some());

        known.begin(name);
        known.begin(name);
        known.end(name);
        known.keep(&demo, known.changes());
        assert!(known.get(name).is_none(), "the other write never ended");
    }
}
