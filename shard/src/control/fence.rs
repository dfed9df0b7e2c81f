//! Decides which coordinator may direct this node, and with which log. Pure.
//!
//! A node holds partitions that were built from one log. A coordinator that serves another log
//! plans alerts for devices that this node does not hold, so the two must not be mixed: not after a
//! restart with an empty store, not when a second coordinator is started by mistake, not when an
//! address points at another cluster.
//!
//! | the coordinator's Open says | a session is open | else |
//! |---|---|---|
//! | another cluster name | refused | refused |
//! | the process that directs this node | the new session supersedes the old one | – |
//! | another process | refused | decided by its log |
//! | the log that this node follows | – | accepted |
//! | another log | – | refused for 10 s after the last session with the former log, then accepted: rebuild |

use std::time::Duration;

use clarion_proto::{
    ids::{ClusterName, CoordinatorId, LogIdentity},
    time::Time,
};

/// Time after the end of a session in which a coordinator with another log is refused: a
/// coordinator whose connection broke reconnects within its longest pause of 2 s, and waves of the
/// former log have no grant after 5 s.
pub const FORMER_LOG_FOR: Duration = Duration::from_secs(10);

/// Identity of a coordinator, from its Open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The cluster name in the coordinator's configuration.
    pub cluster: ClusterName,
    /// The coordinator process that opened the session.
    pub coordinator: CoordinatorId,
    /// The log that it serves.
    pub log: LogIdentity,
    /// Version of the coordinator's program, for log lines.
    pub version: String,
}

/// Why a coordinator may not direct this node now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fenced {
    /// Retrying does not help: one of the two is configured wrongly.
    #[error("cluster: must be \"{ours}\", the cluster of this node; got \"{theirs}\"")]
    Cluster {
        /// The cluster name that the coordinator sent.
        theirs: ClusterName,
        /// The cluster name in this node's configuration.
        ours: ClusterName,
    },
    /// Retrying helps once the other coordinator has ended.
    #[error(
        "another coordinator process ({directs}) directs this node; {refused} may retry after it \
         has ended"
    )]
    Directed {
        /// The coordinator process whose session is open.
        directs: CoordinatorId,
        /// The coordinator process that asked for a session and was refused.
        refused: CoordinatorId,
    },
    /// Retrying helps after [`FORMER_LOG_FOR`].
    #[error(
        "log_identity: must be {follows}, the log of a session that ended less than 10 s ago; got \
         {offered}; retry later"
    )]
    FormerLog {
        /// The log from which this node's partitions were built.
        follows: LogIdentity,
        /// The log that the coordinator serves.
        offered: LogIdentity,
    },
}

impl Fenced {
    /// Whether retrying helps without a change by an operator.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::FormerLog { .. })
    }
}

/// What a session that may begin begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// The log that this node follows already, or its first log.
    SameLog,
    /// Another log than before: nothing from the former log may be used any more.
    OtherLog {
        /// The log that this node followed before.
        former: LogIdentity,
    },
}

/// The fence of one node.
#[derive(Debug)]
pub struct Fence {
    cluster: ClusterName,
    /// Log from which the node's partitions were built.
    follows: Option<LogIdentity>,
    /// Coordinator whose session is open.
    directs: Option<CoordinatorId>,
    /// End of the last session.
    ended: Option<Time>,
}

impl Fence {
    /// A node that has not met a coordinator yet.
    #[must_use]
    pub fn new(cluster: ClusterName) -> Self {
        Self { cluster, follows: None, directs: None, ended: None }
    }

    /// The node's cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The log that the node follows.
    #[must_use]
    pub fn follows(&self) -> Option<LogIdentity> {
        self.follows
    }

    /// Whether a coordinator may direct the node from now on.
    ///
    /// # Errors
    /// Why not; see the table above.
    pub fn admit(&self, opened: &Opened, now: Time) -> Result<Admitted, Fenced> {
        if opened.cluster != self.cluster {
            return Err(Fenced::Cluster {
                theirs: opened.cluster.clone(),
                ours: self.cluster.clone(),
            });
        }
        if let Some(directs) = self.directs.filter(|directs| *directs != opened.coordinator) {
            return Err(Fenced::Directed { directs, refused: opened.coordinator });
        }
        let Some(follows) = self.follows.filter(|follows| *follows != opened.log) else {
            return Ok(Admitted::SameLog);
        };
        let recent =
            self.directs.is_some() || self.ended.is_some_and(|ended| now < ended + FORMER_LOG_FOR);
        match recent {
            true => Err(Fenced::FormerLog { follows, offered: opened.log }),
            false => Ok(Admitted::OtherLog { former: follows }),
        }
    }

    /// A session that was admitted has begun.
    pub fn begin(&mut self, opened: &Opened) {
        self.follows = Some(opened.log);
        self.directs = Some(opened.coordinator);
    }

    /// The session, if there is one, has ended.
    pub fn end(&mut self, now: Time) {
        if self.directs.take().is_some() {
            self.ended = Some(now);
        }
    }

    /// Whether a coordinator directs the node, or did less than [`FORMER_LOG_FOR`] ago.
    #[must_use]
    pub fn is_directed(&self, now: Time) -> bool {
        self.directs.is_some() || self.ended.is_some_and(|ended| now < ended + FORMER_LOG_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG_1: LogIdentity = LogIdentity([1; 16]);
    const LOG_2: LogIdentity = LogIdentity([2; 16]);

    fn opened(coordinator: u8, log: LogIdentity) -> Opened {
        let coordinator = CoordinatorId([coordinator; 16]);
        Opened { cluster: ClusterName::default(), coordinator, log, version: String::new() }
    }

    fn seconds(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    fn directed_by(coordinator: u8, log: LogIdentity) -> Fence {
        let mut fence = Fence::new(ClusterName::default());
        assert_eq!(fence.admit(&opened(coordinator, log), seconds(0)), Ok(Admitted::SameLog));
        fence.begin(&opened(coordinator, log));
        fence
    }

    #[test]
    fn another_cluster_is_refused_whatever_else_holds() {
        let other = Opened { cluster: ClusterName::new("other").unwrap(), ..opened(1, LOG_1) };
        let never_met = Fence::new(ClusterName::default());
        let mut met = directed_by(1, LOG_1);
        for fence in [&never_met, &met] {
            assert!(matches!(fence.admit(&other, seconds(1)), Err(Fenced::Cluster { .. })));
        }
        met.end(seconds(1));
        assert!(matches!(met.admit(&other, seconds(3_600)), Err(Fenced::Cluster { .. })));
    }

    #[test]
    fn the_second_of_two_coordinators_is_refused_while_the_first_directs() {
        let fence = directed_by(1, LOG_1);
        for log in [LOG_1, LOG_2] {
            let refused = fence.admit(&opened(2, log), seconds(3_600)).unwrap_err();
            assert!(matches!(refused, Fenced::Directed { .. }) && !refused.passes(), "{refused}");
        }
    }

    #[test]
    fn a_coordinator_supersedes_its_own_session() {
        let fence = directed_by(1, LOG_1);
        assert_eq!(fence.admit(&opened(1, LOG_1), seconds(1)), Ok(Admitted::SameLog));
    }

    #[test]
    fn another_process_with_the_same_log_takes_over_at_once() {
        let mut fence = directed_by(1, LOG_1);
        fence.end(seconds(5));
        assert_eq!(fence.admit(&opened(2, LOG_1), seconds(5)), Ok(Admitted::SameLog));
    }

    #[test]
    fn another_log_waits_ten_seconds_and_then_means_a_rebuild() {
        let mut fence = directed_by(1, LOG_1);
        fence.end(seconds(5));
        for now in [5, 14] {
            let refused = fence.admit(&opened(2, LOG_2), seconds(now)).unwrap_err();
            assert!(matches!(refused, Fenced::FormerLog { .. }) && refused.passes(), "{refused}");
        }
        assert_eq!(
            fence.admit(&opened(2, LOG_2), seconds(15)),
            Ok(Admitted::OtherLog { former: LOG_1 })
        );
        // The former coordinator is back meanwhile: its log goes on.
        assert_eq!(fence.admit(&opened(1, LOG_1), seconds(20)), Ok(Admitted::SameLog));
    }

    #[test]
    fn one_process_does_not_change_its_log_while_its_session_is_open() {
        let fence = directed_by(1, LOG_1);
        assert!(matches!(
            fence.admit(&opened(1, LOG_2), seconds(60)),
            Err(Fenced::FormerLog { .. })
        ));
    }

    #[test]
    fn a_node_counts_as_directed_for_ten_seconds_after_its_session() {
        let mut fence = Fence::new(ClusterName::default());
        assert!(!fence.is_directed(seconds(0)));
        fence.begin(&opened(1, LOG_1));
        assert!(fence.is_directed(seconds(3_600)));
        fence.end(seconds(3_600));
        assert!(fence.is_directed(seconds(3_609)) && !fence.is_directed(seconds(3_610)));
        // Ended again: nothing changes.
        fence.end(seconds(3_609));
        assert!(!fence.is_directed(seconds(3_610)));
    }
}
