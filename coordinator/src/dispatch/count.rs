//! One question to all owners: who would be reached? A question stands on the board while it is asked, so that a node
//! whose session starts anew in between is asked again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout_at};

use super::{CountError, CountPlan, Counts, cluster::Cluster, standing::Owned};

/// Walking all pages of a million devices takes some 10 ms a core; this is for a node that is busy or comes back.
const DEADLINE: Duration = Duration::from_secs(10);
/// Questions under way: each is a walk over everything at every node.
const QUESTIONS_MAX: usize = 8;

/// Asks and adds up.
pub(super) async fn ask(id: u64, plan: CountPlan, cluster: &Arc<Cluster>, owned: &Owned) -> Result<Counts, CountError> {
    let away = owned.nodes().keys().filter(|node| !cluster.roster.is_connected(node));
    let away: Vec<_> = away.map(ToString::to_string).collect();
    if !away.is_empty() {
        return Err(CountError::Absent { nodes: away });
    }
    let mut counts = Counts { devices: vec![vec![0; plan.bands.len()]; plan.apps.len()] };
    // One answer of each node, and one more of each that starts again meanwhile.
    let (answer, mut answers) = mpsc::channel(2 * owned.nodes().len().max(1));
    let _question = Question::open(id, plan, cluster, answer)?;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut answered = BTreeMap::new();
    while answered.len() < owned.nodes().len() {
        let answer = timeout_at(deadline, answers.recv()).await;
        let Ok(Some((node, counted))) = answer else {
            return Err(CountError::Deadline { seconds: DEADLINE.as_secs() });
        };
        answered.insert(node, counted);
    }
    for counted in answered.into_values() {
        for (sums, app) in counts.devices.iter_mut().zip(counted.apps) {
            sums.iter_mut().zip(app.devices).for_each(|(sum, devices)| *sum += devices);
        }
    }
    Ok(counts)
}

/// Taken off the board when it is dropped, also by a caller that goes away.
struct Question {
    id: u64,
    cluster: Arc<Cluster>,
}

impl Question {
    fn open(
        id: u64,
        plan: CountPlan,
        cluster: &Arc<Cluster>,
        answer: mpsc::Sender<(crate::owners::NodeName, clarion_proto::wire::shard_v1::Counted)>,
    ) -> Result<Self, CountError> {
        cluster.open_question(id, answer);
        let question = Self { id, cluster: cluster.clone() };
        let room = cluster.board.change(|standing| {
            let room = standing.counts.len() < QUESTIONS_MAX;
            if room {
                standing.counts.insert(id, Arc::new(plan));
            }
            room
        });
        if room { Ok(question) } else { Err(CountError::Busy { limit: QUESTIONS_MAX }) }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.cluster.close_question(self.id);
    }
}
