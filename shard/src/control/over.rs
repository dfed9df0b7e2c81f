//! Waves that are over: what a node remembers of a wave beyond the wave's state, so that a late
//! plan of a superseded coordinator cannot start the wave again.

use std::collections::VecDeque;

use clarion_proto::ids::{Epoch, WaveId};

/// Maximum number of waves of which only the id, the epoch and the kind of end are kept: 1,024 × 32
/// bytes.
const OVER_MAX: usize = 1_024;

/// Waves that were cancelled or ended on all nodes; the oldest first.
#[derive(Debug, Default)]
pub(super) struct Over(VecDeque<(WaveId, End)>);

/// How a wave ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    /// Highest epoch that was seen for the wave.
    epoch: Epoch,
    cancelled: bool,
}

impl Over {
    /// Remembers the cancel of a wave, under any epoch.
    pub(super) fn cancelled(&mut self, id: WaveId, epoch: Epoch) {
        self.remember(id, epoch, true);
    }

    /// Remembers the end of a wave on all nodes.
    pub(super) fn ended(&mut self, id: WaveId, epoch: Epoch) {
        self.remember(id, epoch, false);
    }

    /// Highest epoch that was seen for a wave that is over.
    pub(super) fn epoch(&self, id: WaveId) -> Option<Epoch> {
        self.of(id).map(|end| end.epoch)
    }

    /// Why a wave must not start under an epoch: a cancel is final, an end holds for its epoch and
    /// lower epochs.
    pub(super) fn forbids(&self, id: WaveId, epoch: Epoch) -> Option<String> {
        match self.of(id)? {
            End { epoch: ended, cancelled: true } => {
                Some(format!("is {epoch}, but a cancel under epoch {ended} has ended the wave"))
            }
            End { epoch: ended, .. } if ended >= epoch => {
                Some(format!("is {epoch}, but epoch {ended} has ended the wave"))
            }
            End { .. } => None,
        }
    }

    /// Whether a wave was cancelled.
    pub(super) fn is_cancelled(&self, id: WaveId) -> bool {
        self.of(id).is_some_and(|end| end.cancelled)
    }

    fn of(&self, id: WaveId) -> Option<End> {
        self.0.iter().find(|(other, _)| *other == id).map(|(_, end)| *end)
    }

    fn remember(&mut self, id: WaveId, epoch: Epoch, cancelled: bool) {
        let end = match self.of(id) {
            Some(known) => {
                End { epoch: known.epoch.max(epoch), cancelled: known.cancelled || cancelled }
            }
            None => End { epoch, cancelled },
        };
        self.0.retain(|(other, _)| *other != id);
        if self.0.len() == OVER_MAX {
            self.0.pop_front();
        }
        self.0.push_back((id, end));
    }
}
