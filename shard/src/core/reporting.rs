//! Progress of the reports of a wave: the state for its next report.

use clarion_proto::time::Time;

/// Last reported values of a wave, and whether any has changed since.
#[derive(Debug, Default)]
pub(crate) struct Reporting {
    pub(super) at: Option<Time>,
    pub(super) cells_at: Option<Time>,
    pub(super) changed: bool,
    /// Bands whose walk had ended at the last report, indexed by outlet.
    pub(super) bands_walked: Vec<u32>,
    pub(super) complete: bool,
    pub(super) ended: bool,
    /// Whether the next report is complete.
    pub(super) all: bool,
    /// Whether the last report named open ordinals, indexed by part.
    pub(super) had_open: Vec<bool>,
}

impl Reporting {
    /// Records a change that the next report contains.
    #[inline]
    pub(crate) fn change(&mut self) {
        self.changed = true;
    }
}
