//! The snapshot of a partition that is being written, section by section.
//!
//! ```text
//!         sink has room, no batch is held       rows are left             all is written
//! waits ─────────────────────────────────▶ writes ◀──────────┐ ─────────────────────────▶ (ended)
//!   ▲                                        │  └────────────┘
//!   └── too many rows changed: an overrun ───┘
//! ```
//!
//! A turn writes one section at most, and while waves are under way only every [`PAUSE`]: a section
//! takes about a millisecond, so a wave loses a twentieth of the core. Nothing is written while the
//! sink is full, so the memory is one section, the sink, and copies of rows that changed meanwhile.
//!
//! A partition that changes faster than it is written overruns its copies. After
//! [`OVERRUNS_MAX`] of those, a core without active waves applies no records until the snapshot is
//! written, for [`HOLD_MAX`] at most; a core with waves gives up.

use std::{collections::VecDeque, fmt, time::Duration};

use bytes::Bytes;
use clarion_proto::{ids::PartitionId, time::Time};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::Core;
use crate::{
    command::SnapshotPart,
    partition::snapshot::{SnapshotWriter, WriteError},
};

/// Time between two sections while waves are under way.
const PAUSE: Duration = Duration::from_millis(20);
/// Time after which a full sink is looked at again: nothing signals that it has room.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Overruns after which no records are applied until the snapshot is written.
const OVERRUNS_MAX: u8 = 2;
/// Longest time for which no records are applied, well below the time for which the node waits for
/// the batches in a core's queue when the feed ends (5 s).
const HOLD_MAX: Duration = Duration::from_secs(2);

/// The snapshot that a core writes.
pub(super) struct SaveRun {
    partition: PartitionId,
    sink: mpsc::Sender<SnapshotPart>,
    writer: Option<SnapshotWriter>,
    /// Parts that were written and not taken yet: at most the beginning of a snapshot.
    parts: VecDeque<SnapshotPart>,
    overruns: u8,
    /// When the next section may be written.
    next_at: Time,
    /// Until when records wait for this snapshot.
    hold_until: Option<Time>,
}

impl SaveRun {
    /// Whether the snapshot is of one of these partitions.
    pub(super) fn is_of_any(&self, partitions: &[PartitionId]) -> bool {
        partitions.contains(&self.partition)
    }
}

impl fmt::Debug for SaveRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, overruns, .. } = self;
        f.debug_struct("SaveRun")
            .field("partition", partition)
            .field("overruns", overruns)
            .finish_non_exhaustive()
    }
}

/// Result of one turn.
enum Step {
    /// The snapshot goes on in a later turn.
    Later,
    /// The snapshot could go on at once.
    More,
    /// It is written, or cannot be.
    Ended,
}

impl Core {
    pub(super) fn begin_save(&mut self, partition: PartitionId, sink: mpsc::Sender<SnapshotPart>) {
        self.stop_save();
        self.save = Some(SaveRun {
            partition,
            sink,
            writer: None,
            parts: VecDeque::new(),
            overruns: 0,
            next_at: self.now,
            hold_until: None,
        });
    }

    /// Gives up the snapshot that is being written.
    pub(super) fn stop_save(&mut self) {
        if let Some(run) = self.save.take() {
            self.partitions.end_snapshot(run.partition);
        }
    }

    /// Whether no records are applied for now.
    pub(super) fn is_apply_held(&self, is_busy: bool) -> bool {
        let until = self.save.as_ref().and_then(|run| run.hold_until);
        !is_busy && until.is_some_and(|until| self.now < until)
    }

    /// Writes at most one section. Returns true if more could be written at once.
    pub(super) fn write_snapshot(&mut self, is_busy: bool) -> bool {
        let Some(mut run) = self.save.take() else { return false };
        match self.step_save(&mut run, is_busy) {
            Step::Ended => {
                self.partitions.end_snapshot(run.partition);
                false
            }
            step => {
                self.save = Some(run);
                matches!(step, Step::More)
            }
        }
    }

    /// Time at which the snapshot goes on.
    pub(super) fn save_deadline(&self) -> Option<Time> {
        self.save.as_ref().map(|run| run.next_at)
    }

    fn step_save(&mut self, run: &mut SaveRun, is_busy: bool) -> Step {
        if run.hold_until.is_some_and(|until| self.now >= until || is_busy) {
            return Step::Ended;
        }
        while let Some(part) = run.parts.pop_front() {
            let ends = part == SnapshotPart::End;
            match run.sink.try_send(part) {
                Ok(()) if ends => return Step::Ended,
                Ok(()) => {}
                Err(TrySendError::Full(part)) => {
                    run.parts.push_front(part);
                    run.next_at = self.now + FULL_PAUSE;
                    return Step::Later;
                }
                Err(TrySendError::Closed(_)) => return Step::Ended,
            }
        }
        if run.sink.is_closed() {
            return Step::Ended;
        }
        if self.now < run.next_at {
            return Step::Later;
        }
        if is_busy {
            run.next_at = self.now + PAUSE;
        }
        let Some((partition, words, applied)) = self.partitions.between_batches(run.partition)
        else {
            return Step::Ended;
        };
        let mut out = Vec::new();
        match &mut run.writer {
            // A snapshot is of a position, which the partition has between two batches.
            None => {
                let Some(applied) = applied else { return Step::More };
                run.writer = Some(partition.begin_snapshot(applied, words, &mut out));
                run.parts.push_back(SnapshotPart::Begin(applied));
                run.parts.push_back(SnapshotPart::Data(Bytes::from(out)));
                if run.overruns >= OVERRUNS_MAX {
                    run.hold_until = Some(self.now + HOLD_MAX);
                }
            }
            Some(writer) => match writer.next(partition, words, &mut out) {
                Ok(true) => run.parts.push_back(SnapshotPart::Data(Bytes::from(out))),
                Ok(false) => {
                    run.parts.push_back(SnapshotPart::Data(Bytes::from(out)));
                    run.parts.push_back(SnapshotPart::End);
                }
                Err(WriteError::Overrun) if run.overruns < OVERRUNS_MAX || !is_busy => {
                    run.overruns = run.overruns.saturating_add(1);
                    run.writer = None;
                }
                // The partition has other content now, or waves leave it too little time.
                Err(WriteError::Overrun | WriteError::Replaced) => return Step::Ended,
            },
        }
        if is_busy { Step::Later } else { Step::More }
    }
}
