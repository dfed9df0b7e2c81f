//! Decides which coordinators may have a session with this node, and with which log. Pure.
//!
//! A node holds partitions that were built from one log. A coordinator that serves another log
//! plans alerts for devices that this node does not hold, so the two must not be mixed: not after a
//! restart with an empty store, not when a coordinator with its own store is started by mistake,
//! not when an address points at another cluster. Coordinators of one log share the node: numbers
//! of their store decide between them ([`super::waves`], [`super::direction`]).
//!
//! | the coordinator's Open says | a session is open | else |
//! |---|---|---|
//! | another cluster name | refused | refused |
//! | another log | refused | refused for 10 s after the last session, then a rebuild |
//! | this node's log, a process that has a session | supersedes its own session | – |
//! | this node's log, another process | accepted up to [`SESSIONS_MAX`] | accepted |

use std::{collections::BTreeSet, time::Duration};

use clarion_proto::{
    ids::{ClusterName, CoordinatorId, Epoch, LogIdentity},
    time::Time,
};

/// Maximum number of coordinators that have a session at the same time. A cluster has two or three
/// coordinators; a rolling upgrade doubles them for some seconds.
pub const SESSIONS_MAX: usize = 8;

/// Time after the end of the last session in which a coordinator with another log is refused: a
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
    /// Number under which the coordinator directs the lanes of the cluster.
    pub lanes_epoch: Epoch,
    /// Version of the coordinator's program, for log lines.
    pub version: String,
}

/// Why a coordinator may not have a session with this node now.
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
    /// Retrying helps once no coordinator of this node's log has a session.
    #[error(
        "log_identity: must be {follows}, the log of coordinator {directs}, which has a session \
         with this node; got {offered} from {refused}; stop one of the two or let them share a \
         store"
    )]
    OtherLog {
        /// The log from which this node's partitions were built.
        follows: LogIdentity,
        /// The log that the refused coordinator serves.
        offered: LogIdentity,
        /// A coordinator process whose session is open.
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
    /// Retrying helps after one of the other coordinators has ended.
    #[error(
        "sessions: must be at most {SESSIONS_MAX} coordinators; {SESSIONS_MAX} other coordinators \
         have a session; retry after one of them has ended"
    )]
    Full,
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
    /// Coordinators whose session is open.
    open: BTreeSet<CoordinatorId>,
    /// End of the last session.
    ended: Option<Time>,
}

impl Fence {
    /// A node that has not met a coordinator yet.
    #[must_use]
    pub fn new(cluster: ClusterName) -> Self {
        Self { cluster, follows: None, open: BTreeSet::new(), ended: None }
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

    /// Whether a coordinator may have a session from now on.
    ///
    /// # Errors
    /// Why not; see the table above.
    pub fn admit(&self, opened: &Opened, now: Time) -> Result<Admitted, Fenced> {
        let Opened { coordinator, log: offered, .. } = *opened;
        if opened.cluster != self.cluster {
            return Err(Fenced::Cluster {
                theirs: opened.cluster.clone(),
                ours: self.cluster.clone(),
            });
        }
        let Some(follows) = self.follows.filter(|follows| *follows != offered) else {
            let full = self.open.len() >= SESSIONS_MAX && !self.open.contains(&coordinator);
            return if full { Err(Fenced::Full) } else { Ok(Admitted::SameLog) };
        };
        if let Some(directs) = self.open.first().copied() {
            return Err(Fenced::OtherLog { follows, offered, directs, refused: coordinator });
        }
        match self.is_directed(now) {
            true => Err(Fenced::FormerLog { follows, offered }),
            false => Ok(Admitted::OtherLog { former: follows }),
        }
    }

    /// A session that was admitted has begun.
    pub fn begin(&mut self, opened: &Opened) {
        self.follows = Some(opened.log);
        self.open.insert(opened.coordinator);
    }

    /// The session of a coordinator, if it has one, has ended.
    pub fn end(&mut self, coordinator: CoordinatorId, now: Time) {
        if self.open.remove(&coordinator) {
            self.ended = Some(now);
        }
    }

    /// Whether a coordinator directs the node, or did less than [`FORMER_LOG_FOR`] ago.
    #[must_use]
    pub fn is_directed(&self, now: Time) -> bool {
        !self.open.is_empty() || self.ended.is_some_and(|ended| now < ended + FORMER_LOG_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG_1: LogIdentity = LogIdentity([1; 16]);
    const LOG_2: LogIdentity = LogIdentity([2; 16]);

    fn id(coordinator: u8) -> CoordinatorId {
        CoordinatorId([coordinator; 16])
    }

    fn opened(coordinator: u8, log: LogIdentity) -> Opened {
        let (cluster, lanes_epoch) = (ClusterName::default(), Epoch(1));
        let coordinator = id(coordinator);
        Opened { cluster, coordinator, log, lanes_epoch, version: String::new() }
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
        met.end(id(1), seconds(1));
        assert!(matches!(met.admit(&other, seconds(3_600)), Err(Fenced::Cluster { .. })));
    }

    #[test]
    fn a_second_coordinator_of_the_same_log_is_accepted_and_of_another_log_refused() {
        let fence = directed_by(1, LOG_1);
        assert_eq!(fence.admit(&opened(2, LOG_1), seconds(0)), Ok(Admitted::SameLog));
        let refused = fence.admit(&opened(2, LOG_2), seconds(3_600)).unwrap_err();
        let (directs, refused_id) = (id(1), id(2));
        let expected =
            Fenced::OtherLog { follows: LOG_1, offered: LOG_2, directs, refused: refused_id };
        assert_eq!(refused, expected);
    }

    #[test]
    fn the_ninth_coordinator_is_refused_until_one_of_the_eight_ends() {
        let mut fence = directed_by(1, LOG_1);
        for coordinator in 2..=8 {
            assert_eq!(fence.admit(&opened(coordinator, LOG_1), seconds(0)), Ok(Admitted::SameLog));
            fence.begin(&opened(coordinator, LOG_1));
        }
        assert_eq!(fence.admit(&opened(9, LOG_1), seconds(0)), Err(Fenced::Full));
        // Each of the eight may replace its own session.
        assert_eq!(fence.admit(&opened(8, LOG_1), seconds(0)), Ok(Admitted::SameLog));
        fence.end(id(3), seconds(1));
        assert_eq!(fence.admit(&opened(9, LOG_1), seconds(1)), Ok(Admitted::SameLog));
    }

    #[test]
    fn another_process_with_the_same_log_takes_over_at_once() {
        let mut fence = directed_by(1, LOG_1);
        fence.end(id(1), seconds(5));
        assert_eq!(fence.admit(&opened(2, LOG_1), seconds(5)), Ok(Admitted::SameLog));
    }

    #[test]
    fn another_log_waits_ten_seconds_after_the_last_session_and_then_means_a_rebuild() {
        let mut fence = directed_by(1, LOG_1);
        fence.begin(&opened(3, LOG_1));
        fence.end(id(1), seconds(2));
        let refused = fence.admit(&opened(2, LOG_2), seconds(60)).unwrap_err();
        assert!(matches!(refused, Fenced::OtherLog { .. }), "{refused}");
        fence.end(id(3), seconds(65));
        for now in [65, 74] {
            let refused = fence.admit(&opened(2, LOG_2), seconds(now)).unwrap_err();
            assert!(matches!(refused, Fenced::FormerLog { .. }), "{refused}");
        }
        assert_eq!(
            fence.admit(&opened(2, LOG_2), seconds(75)),
            Ok(Admitted::OtherLog { former: LOG_1 })
        );
        // The former coordinator is back meanwhile: its log goes on.
        assert_eq!(fence.admit(&opened(1, LOG_1), seconds(80)), Ok(Admitted::SameLog));
    }

    #[test]
    fn one_process_does_not_change_its_log_while_its_session_is_open() {
        let fence = directed_by(1, LOG_1);
        let refused = fence.admit(&opened(1, LOG_2), seconds(60)).unwrap_err();
        assert!(matches!(refused, Fenced::OtherLog { .. }), "{refused}");
    }

    #[test]
    fn a_node_counts_as_directed_for_ten_seconds_after_its_last_session() {
        let mut fence = Fence::new(ClusterName::default());
        assert!(!fence.is_directed(seconds(0)));
        fence.begin(&opened(1, LOG_1));
        fence.begin(&opened(2, LOG_1));
        fence.end(id(2), seconds(60));
        assert!(fence.is_directed(seconds(3_600)));
        fence.end(id(1), seconds(3_600));
        assert!(fence.is_directed(seconds(3_609)) && !fence.is_directed(seconds(3_610)));
        // Ended again: nothing changes.
        fence.end(id(1), seconds(3_609));
        assert!(!fence.is_directed(seconds(3_610)));
    }
}
