//! The data folders of a run's coordinators: where they are, and their removal.

use std::{fs, io, path::PathBuf};

use super::ClusterPlan;
use crate::{names, scenario::StoreKind};

impl ClusterPlan {
    /// Removes the data folders of all coordinators: before a start, because a former run may have
    /// left them, and after a run that passed.
    ///
    /// # Errors
    /// If a folder cannot be removed.
    pub fn remove_data(&self) -> io::Result<()> {
        for coordinator in [names::COORDINATOR, names::SECOND_COORDINATOR] {
            match fs::remove_dir_all(self.data_dir(coordinator)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the options of a coordinator for its folder, store and objects. Options override
    /// variables of the environment: a run must not write to the store of a real cluster.
    pub(super) fn data_options(&self, coordinator: &str) -> [String; 3] {
        let folder = self.data_dir(coordinator);
        let shown = folder.display();
        let (store, objects) = match self.store {
            StoreKind::Sqlite => {
                (format!("sqlite:{shown}/store.sqlite"), format!("file:{shown}/objects"))
            }
            StoreKind::Memory => ("memory".to_owned(), "memory".to_owned()),
        };
        [format!("--data-dir={shown}"), format!("--store={store}"), format!("--objects={objects}")]
    }

    /// Returns the data folder of a coordinator, which all of its processes use.
    fn data_dir(&self, coordinator: &str) -> PathBuf {
        self.dir.join(format!("{coordinator}-data"))
    }
}
