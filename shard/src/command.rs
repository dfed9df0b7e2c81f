//! Commands from a node's control plane to its cores, and the events that cores return.
//!
//! The control plane (tokio) decodes and checks messages; a core (one thread) owns partitions,
//! waves and lanes. Two bounded queues for each core connect them; they share nothing but immutable
//! data behind an `Arc`.

mod count;
mod counts;
mod event;
mod held;
mod owns;
mod reasons;
mod report;
mod restore;
mod sink;
mod snapshot;
mod wave;

use std::sync::Arc;

use clarion_proto::{
    device::Record,
    ids::{Epoch, LaneId, LogId, PartitionId, Position, UnixMillis, WaveId},
    time::Time,
};

use tokio::sync::mpsc;

pub use self::{
    count::{COUNTS_MAX, CountSpec},
    counts::Counts,
    event::Event,
    held::HeldStats,
    owns::Owns,
    reasons::{Consequence, ReasonCount, ReasonKind},
    report::{CoreReport, DeadToken, RefusedMessage},
    restore::RestorePiece,
    sink::{Closed, CommandSink},
    snapshot::SnapshotPart,
    wave::{AppSpec, MessageSpec, ShardSpec, WaveSpec},
};
use crate::lane::{provider::authorization::Authorization, rate::Rate, spec::LaneSpec};

/// From the control plane to one core.
#[derive(Debug)]
pub enum Command {
    /// Changes what this core owns. Waves let go of partitions that are dropped.
    Own(Owns),
    /// Makes partitions empty, at position 0: their logs are read from the beginning. Waves walk
    /// them from the start, without the devices that were handed.
    Rebuild(Vec<PartitionId>),
    /// Piece of a snapshot that replaces a partition when it is complete; in the queue of the
    /// feed. Waves then walk the partition from the start, without the devices that were handed.
    Restore {
        /// The partition that the snapshot is of.
        partition: PartitionId,
        /// Number of the load: pieces of a lower number than the newest are ignored.
        load: u64,
        /// The next piece.
        piece: RestorePiece,
    },
    /// Writes a snapshot of a partition into a bounded sink, whenever the sink has room. The core
    /// drops the sink if it does not hold the partition or cannot finish, and gives up when the
    /// receiver is dropped.
    Save {
        /// The partition to write.
        partition: PartitionId,
        /// Where the parts go.
        sink: mpsc::Sender<SnapshotPart>,
    },
    /// One batch of one log, with only the records of this core's partitions. A batch without
    /// records is sent too: it advances the positions that `WaveSpec::shards` wait for.
    Apply {
        /// The log that the batch belongs to.
        log: LogId,
        /// Position of the batch, dense from 1 within a log.
        position: Position,
        /// Append time of the batch: the only clock of `apply`.
        appended: UnixMillis,
        /// Partitions of this core that the batch is for. The other ones of the log have it, or the
        /// feed does not follow them yet: the batch lacks their records.
        partitions: Vec<PartitionId>,
        /// Records, each with its partition.
        records: Vec<(PartitionId, Record)>,
    },
    /// Creates or replaces the lane's end on this core.
    Lane(Arc<LaneSpec>),
    /// Sets a new provider token for a lane.
    ProviderToken {
        /// The lane that the token is for.
        lane: LaneId,
        /// The new value; it is never printed.
        authorization: Authorization,
        /// Number of the key that signed the token.
        signer: u64,
    },
    /// Takes up a wave, or another plan of it: partitions that the plan does not name are let go
    /// of, in all others what was handed stays handed. Ignored unless epoch or plan is newer than
    /// what the core has. A wave sends nothing before a grant.
    Wave(Arc<WaveSpec>),
    /// Adds a partition to a wave that the core has. The partition came late because another core
    /// had to say first which of its devices were handed.
    Shard {
        /// The wave that the command is about.
        wave: WaveId,
        /// Number of the plan that the addition makes: see [`WaveSpec::plan`].
        plan: u64,
        /// The partition to walk.
        shard: ShardSpec,
    },
    /// Opens bands of a wave on one lane: all cores of the node have walked the bands below.
    OpenBands {
        /// The wave that the command is about.
        wave: WaveId,
        /// The lane for which the bands open.
        lane: LaneId,
        /// Number of the first band that stays closed.
        bands: u32,
    },
    /// Permission to send for a wave until a time.
    Grant {
        /// The wave that the command is about.
        wave: WaveId,
        /// On the node's clock, from when the node asked.
        until: Time,
        /// This core's share of the alert's rate; `None`: no limit.
        rate: Option<Rate>,
    },
    /// Part of a lane's quota.
    Slice {
        /// The lane that the command is about.
        lane: LaneId,
        /// End of the slice, on the node's clock.
        until: Time,
        /// This core's part; `None`: the lane has no quota.
        rate: Option<Rate>,
    },
    /// Sets this core's part of the lane's connections, until the next such command.
    Connections {
        /// The lane that the command is about.
        lane: LaneId,
        /// How many; surplus connections close with GOAWAY.
        connections: usize,
        /// Core whose connections a core without any uses.
        host: Option<usize>,
    },
    /// Stops a wave: nothing more is written; the core answers with [`Event::Stopped`].
    Cancel {
        /// The wave that the command is about.
        wave: WaveId,
        /// Epoch of the cancel: the highest epoch seen is in force.
        epoch: Epoch,
    },
    /// The wave has ended everywhere: a last report with `ended`, then its state may go.
    End(WaveId),
    /// Counts the devices that an alert would reach.
    Count(Arc<CountSpec>),
    /// Makes the next report complete, because a new session knows no earlier report.
    ReportAll,
    /// Close connections in order (GOAWAY, `close_notify`) and end the thread.
    Shutdown,
}
