//! (being built: the signatures that others rely on)

pub mod vocabulary;

use clarion_proto::{
    device::{Cell, Record},
    ids::{DeviceId, Ordinal, PartitionId, UnixMillis},
};

pub use vocabulary::{AppIndex, LocaleIndex, SegmentsIndex, Vocabulary};

/// The devices of one hash bucket.
#[derive(Debug)]
pub struct Partition {
    id: PartitionId,
    held: Held,
}

/// A device that can be pushed to now.
#[derive(Clone, Copy)]
pub struct Pushable<'a> {
    /// Which device.
    pub device: DeviceId,
    /// Where it is.
    pub cell: Cell,
    /// Never [`AppIndex::UNKNOWN`].
    pub app: AppIndex,
    /// For the choice of a message.
    pub locale: LocaleIndex,
    /// For the audience.
    pub segments: SegmentsIndex,
    /// Secret: never printed.
    pub token: &'a [u8],
}

/// What one record changed for waves under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Some: pushable now at this cell, and newly pushable, moved, or of another app or other segments. Every wave's
    /// [`crate::wave::Walk::entered`] has to hear it, before its next step.
    pub placed: Option<(Ordinal, Cell)>,
}

/// How much a partition holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Devices with a registration.
    pub devices: u64,
    /// Of those, with a place.
    pub placed: u64,
    /// Of those with a registration, muted.
    pub muted: u64,
    /// Devices with a registration, by `AppIndex.0`; shorter than the vocabulary where there are none.
    pub apps: Vec<u64>,
}

impl Partition {
    /// An empty one.
    #[must_use]
    pub fn new(id: PartitionId) -> Self {
        Self { id, held: Held::default() }
    }

    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Takes one record of the log, in the log's order. `appended` is the append time of its batch.
    pub fn apply(&mut self, _appended: UnixMillis, _record: &Record, _words: &mut Vocabulary) -> Applied {
        Applied::default()
    }

    /// What is needed to push to a device; `None`: gone, muted, without registration or place.
    #[must_use]
    pub fn pushable(&self, _ordinal: Ordinal) -> Option<Pushable<'_>> {
        None
    }

    /// How much is held; kept up to date by `apply`, so asking costs nothing.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }
}
