//! Whether the node can do its work, and if not, why: what the health service says. Pure.
//!
//! A node that looks ready and holds the wrong devices, or none, is worse than one that is down:
//! nobody looks for it. So everything that keeps an alert from its devices is a reason here, and
//! liveness (the service "") is no part of it.

use std::fmt;

use clarion_proto::{ids::PartitionId, time::Time};

use super::Control;

/// How the node follows its partitions' logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// From their beginning, or from where the node had been.
    Loading,
    /// Everything has been applied that was there when the stream was opened.
    CaughtUp,
    /// No coordinator serves them now.
    Lost,
    /// The coordinators that were asked serve another cluster or another log.
    Refused,
}

/// Why the node is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// The node is shutting down.
    Draining,
    /// It owns nothing, and the newest coordinator was another cluster's.
    OtherCluster,
    /// No coordinator gave any to it.
    NoPartitions,
    /// What it holds is not what one of its coordinators wants it to hold.
    OwnershipRefused,
    /// No session for some time: no grant, no alert.
    NotDirected,
    /// It does not hold all of its devices yet.
    Loading,
    /// Its devices are no longer up to date.
    LogLost,
    /// As before; and whoever could bring them up to date has another log.
    LogRefused,
    /// Part of this partition's log is gone, and no snapshot holds it: no coordinator can bring
    /// the partition up to date.
    PartitionDamaged(PartitionId),
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Draining => "the node is draining",
            Self::OtherCluster => "the coordinator belongs to another cluster",
            Self::NoPartitions => "no partitions are assigned",
            Self::OwnershipRefused => "the newest ownership was refused",
            Self::NotDirected => "no coordinator has had a session for 10 s",
            Self::Loading => "partitions are being loaded",
            Self::LogLost => "no coordinator serves the log",
            Self::LogRefused => "the log was refused: another cluster or another log",
            Self::PartitionDamaged(partition) => {
                return write!(
                    f,
                    "partition {partition} is lost: its log was trimmed and no snapshot can be read"
                );
            }
        };
        f.write_str(text)
    }
}

impl Control {
    /// Whether the node holds its partitions, up to date, and is directed.
    ///
    /// # Errors
    /// The reason that an operator has to look at first.
    pub fn readiness(&self, now: Time) -> Result<(), NotReady> {
        let owns = self.owned().is_some_and(|owned| !owned.partitions.is_empty());
        let lost = self.loading.lost();
        match self.feed {
            _ if self.draining => Err(NotReady::Draining),
            _ if !owns && self.other_cluster => Err(NotReady::OtherCluster),
            _ if !owns => Err(NotReady::NoPartitions),
            _ if self.sessions.values().any(|s| s.ownership_refused) => {
                Err(NotReady::OwnershipRefused)
            }
            _ if !self.fence.is_directed(now) => Err(NotReady::NotDirected),
            _ if lost.is_some() => lost.map_or(Ok(()), |p| Err(NotReady::PartitionDamaged(p))),
            _ if self.loading.is_loading() => Err(NotReady::Loading),
            FeedState::Loading => Err(NotReady::Loading),
            FeedState::Lost => Err(NotReady::LogLost),
            FeedState::Refused => Err(NotReady::LogRefused),
            FeedState::CaughtUp => Ok(()),
        }
    }
}
