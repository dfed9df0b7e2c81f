//! Commands from a node's control plane to its cores, and the events that cores return.
//!
//! The control plane (tokio) decodes and checks messages; a core (one thread) owns partitions,
//! waves and lanes. Two bounded queues for each core connect them; they share nothing but immutable
//! data behind an `Arc`.

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
        /// The log that the batch belongs to.
        log: LogId,
        /// Dense from 1 within a log.
        position: Position,
        /// The only clock of `apply`.
        appended: UnixMillis,
        /// Each record with its partition.
        records: Vec<(PartitionId, Record)>,
    },
    /// Makes or replaces a lane end.
    Lane(Arc<LaneSpec>),
    /// A new value of `authorization`.
    ProviderToken {
        /// The lane that the token is for.
        lane: LaneId,
        /// The new value; it is never printed.
        authorization: Authorization,
        /// Which key signed the token.
        signer: u64,
    },
    /// Takes up a wave. Known already with this or a higher epoch: ignored. It sends nothing before
    /// a grant.
    Wave(Arc<WaveSpec>),
    /// Bands below this number may be walked for one lane: all cores of the node have walked those
    /// before for it.
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
        /// On the node's clock.
        until: Time,
        /// This core's part; `None`: the lane has no quota.
        rate: Option<Rate>,
    },
    /// This core's part of the lane's connections, until another one comes.
    Connections {
        /// The lane that the command is about.
        lane: LaneId,
        /// How many; surplus connections close with GOAWAY.
        connections: usize,
        /// Of a core that has none: through whose it sends.
        host: Option<usize>,
    },
    /// Write nothing more of this wave; answer with [`Event::Stopped`].
    Cancel {
        /// The wave that the command is about.
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
