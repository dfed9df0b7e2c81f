//! What the control plane of a node says to its cores, and what they say back.
//!
//! The control plane (tokio) decodes and checks; a core (one thread) owns partitions, waves and
//! lanes. Between them are two bounded queues for each core, and nothing shared but immutable data
//! behind an `Arc`.

mod count;
mod counts;
mod event;
mod held;
mod reasons;
mod report;
mod sink;
mod wave;

use std::sync::Arc;

use clarion_proto::{
    device::Record,
    ids::{Epoch, LaneId, LogId, PartitionId, Position, UnixMillis, WaveId},
    time::Time,
};

pub use self::{
    count::CountSpec,
    counts::Counts,
    event::Event,
    held::HeldStats,
    reasons::{Consequence, ReasonCount, ReasonKind},
    report::{CoreReport, DeadToken, RefusedMessage},
    sink::{Closed, CommandSink},
    wave::{AppSpec, MessageSpec, ShardSpec, WaveSpec},
};
use crate::lane::{provider::authorization::Authorization, rate::Rate, spec::LaneSpec};

/// From the control plane to one core.
#[derive(Debug)]
pub enum Command {
    /// These partitions are this core's from now on (empty ones are made); others are dropped with
    /// their waves.
    Own(Vec<PartitionId>),
    /// One batch of one log, only the records of this core's partitions. A batch without any is
    /// sent too: it moves the position of the log, which `WaveSpec::shards` wait for.
    Apply {
        /// Whose.
        log: LogId,
        /// Dense from 1 within a log.
        position: Position,
        /// The only clock of `apply`.
        appended: UnixMillis,
        /// With the partition of each.
        records: Vec<(PartitionId, Record)>,
    },
    /// Makes or replaces a lane end.
    Lane(Arc<LaneSpec>),
    /// A new value of `authorization`.
    ProviderToken {
        /// Whose.
        lane: LaneId,
        /// Never printed.
        authorization: Authorization,
        /// Tells the keys that made tokens apart.
        signer: u64,
    },
    /// Takes up a wave. Known already with this or a higher epoch: ignored. It sends nothing before
    /// a grant.
    Wave(Arc<WaveSpec>),
    /// Bands below this number may be walked for one lane: all cores of the node have walked those
    /// before for it.
    OpenBands {
        /// Which wave.
        wave: WaveId,
        /// Through which lane.
        lane: LaneId,
        /// Exclusive.
        bands: u32,
    },
    /// Leave to send.
    Grant {
        /// Which wave.
        wave: WaveId,
        /// On the node's clock, from when the node asked.
        until: Time,
        /// This core's share of the alert's rate; `None`: no limit.
        rate: Option<Rate>,
    },
    /// Part of a lane's quota.
    Slice {
        /// Which lane.
        lane: LaneId,
        /// On the node's clock.
        until: Time,
        /// This core's part; `None`: the lane has no quota.
        rate: Option<Rate>,
    },
    /// This core's part of the lane's connections, until another one comes.
    Connections {
        /// Which lane.
        lane: LaneId,
        /// How many; those that are too many leave in order.
        connections: usize,
        /// Of a core that has none: through whose it sends.
        host: Option<usize>,
    },
    /// Write nothing more of this wave; answer with [`Event::Stopped`].
    Cancel {
        /// Which wave.
        wave: WaveId,
        /// The highest seen is obeyed.
        epoch: Epoch,
    },
    /// The wave has ended everywhere: a last report with `ended`, then its state may go.
    End(WaveId),
    /// Count who would be reached.
    Count(Arc<CountSpec>),
    /// The first report of a new session is complete: forget what was reported.
    ReportAll,
    /// Close connections in order (GOAWAY, `close_notify`) and end the thread.
    Shutdown,
}
