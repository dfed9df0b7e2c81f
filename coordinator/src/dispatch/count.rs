//! Counts the devices that an alert would reach, at all nodes that own partitions. The count stays
//! on the board while it runs, so that a node whose session restarts is asked again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_proto::{time::Time, wire::shard_v1::Counted};
use tokio::{sync::mpsc, time::timeout_at};

use super::cluster::{Cluster, NodeAnswer, NotCounted};
use crate::{
    owners::{NodeName, Owned},
    planned::{CountPlan, CountedDevices},
    standing::Change,
};

/// Deadline of a count. Walking all pages of a million devices takes some 10 ms a core; the rest
/// is for a node that is busy or reconnects.
const DEADLINE: Duration = Duration::from_secs(10);
/// Deadline of a count that an alert waits for.
const REACHES_DEADLINE: Duration = Duration::from_secs(2);
/// Added to either deadline for a wide cover: the cover is sent to the nodes and assembled there,
/// at half a million cells a second at least.
const CELLS_PER_SECOND: usize = 500_000;
/// Largest number of counts under way: each count walks all devices at every node.
pub const QUESTIONS_MAX: usize = 8;

/// Why a count failed.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// No shard node is connected.
    #[error("no shard node is connected ({configured} configured)")]
    NoNodes {
        /// Number of known node addresses.
        configured: usize,
    },
    /// Nodes that own partitions are not connected: a count without them would be wrong.
    #[error("not connected: {}", nodes.join(", "))]
    Absent {
        /// Names of the nodes that are not connected.
        nodes: Vec<String>,
    },
    /// Some nodes did not answer within the deadline.
    #[error("not all nodes answered within {seconds} s")]
    Deadline {
        /// Deadline of the question, seconds.
        seconds: u64,
    },
    /// A node cannot count the audience.
    #[error("node {node} cannot count it: {reason}")]
    Refused {
        /// Name of the node.
        node: String,
        /// Reason that the node gave, or how its session broke each time that it was asked.
        reason: String,
        /// Whether a later retry may succeed.
        again: bool,
    },
    /// Too many counts run at once.
    #[error("{limit} counts are under way")]
    Busy {
        /// Largest number of counts at a time.
        limit: usize,
    },
}

/// Counts at all owners and sums their answers.
pub(super) async fn ask(
    id: u64,
    plan: CountPlan,
    cluster: &Arc<Cluster>,
    owned: &Owned,
) -> Result<CountedDevices, CountError> {
    let away = away(cluster, owned);
    if !away.is_empty() {
        return Err(CountError::Absent { nodes: away });
    }
    let devices = vec![vec![0; plan.bands.len()]; plan.apps.len()];
    let mut counts = CountedDevices { devices, left_out_for_age: 0 };
    let mut question = Question::open(id, plan, cluster, owned, DEADLINE)?;
    while question.answered.len() < owned.nodes().len() {
        question.next().await?;
    }
    for counted in std::mem::take(&mut question.answered).into_values() {
        counts.left_out_for_age += counted.left_out_for_age;
        for (sums, app) in counts.devices.iter_mut().zip(counted.apps) {
            sums.iter_mut().zip(app.devices).for_each(|(sum, devices)| *sum += devices);
        }
    }
    Ok(counts)
}

/// Counts until the sum of the answers reaches `least`, or every owner has answered.
pub(super) async fn reaches(
    id: u64,
    plan: CountPlan,
    least: u64,
    cluster: &Arc<Cluster>,
    owned: &Owned,
) -> Result<bool, CountError> {
    let mut question = Question::open(id, plan, cluster, owned, REACHES_DEADLINE)?;
    loop {
        let apps = question.answered.values().flat_map(|counted| &counted.apps);
        if apps.flat_map(|app| &app.devices).sum::<u64>() >= least {
            return Ok(true);
        }
        if question.answered.len() == owned.nodes().len() {
            return Ok(false);
        }
        // A disconnected node is asked when it reconnects; the count does not wait for the node.
        let away = away(cluster, owned);
        if question.answered.len() + away.len() >= owned.nodes().len() {
            return Err(CountError::Absent { nodes: away });
        }
        question.next().await?;
    }
}

fn away(cluster: &Cluster, owned: &Owned) -> Vec<String> {
    let away = owned.nodes().keys().filter(|node| !cluster.roster.is_connected(node));
    away.map(ToString::to_string).collect()
}

/// A count under way; dropping it, also when the caller hangs up, removes the count from the board.
struct Question {
    id: u64,
    cluster: Arc<Cluster>,
    answers: mpsc::Receiver<(NodeName, NodeAnswer)>,
    answered: BTreeMap<NodeName, Counted>,
    limit: Duration,
    deadline: Time,
}

impl Question {
    fn open(
        id: u64,
        plan: CountPlan,
        cluster: &Arc<Cluster>,
        owned: &Owned,
        limit: Duration,
    ) -> Result<Self, CountError> {
        // Room for one answer of each node, and one more of each node that restarts meanwhile.
        let (answer, answers) = mpsc::channel(2 * owned.nodes().len().max(1));
        cluster.open_question(id, answer);
        let cells: usize = plan.bands.iter().map(|band| band.cells.len()).sum();
        let limit = limit + Duration::from_secs((cells / CELLS_PER_SECOND) as u64);
        let (cluster, deadline) = (cluster.clone(), cluster.clock.now() + limit);
        let question = Self { id, cluster, answers, answered: BTreeMap::new(), limit, deadline };
        let plan = Arc::new(plan);
        let change = Change::BeginCount { id, plan, limit: QUESTIONS_MAX };
        let room = question.cluster.board.apply(change, question.cluster.clock.now());
        if room { Ok(question) } else { Err(CountError::Busy { limit: QUESTIONS_MAX }) }
    }

    /// Waits for one more answer. Of a node that answers twice, the last answer counts.
    async fn next(&mut self) -> Result<(), CountError> {
        let answer =
            timeout_at(self.cluster.clock.instant(self.deadline), self.answers.recv()).await;
        let Ok(Some((node, counted))) = answer else {
            return Err(CountError::Deadline { seconds: self.limit.as_secs() });
        };
        match counted {
            Ok(counted) => drop(self.answered.insert(node, counted)),
            Err(NotCounted { reason, again }) => {
                return Err(CountError::Refused { node: node.to_string(), reason, again });
            }
        }
        Ok(())
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.cluster.close_question(self.id);
    }
}
