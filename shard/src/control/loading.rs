//! How each partition of the node gets its content: from its newest readable snapshot, or from the
//! beginning of its log; free of I/O.
//!
//! ```text
//!  gained, or its log was trimmed
//!        │
//!        ▼            listed              the core has it
//!     listed ──────────────────▶ loading ─────────────────────▶ ready ──▶ followed by the feed
//!        ▲                        │   ▲ next older one             ▲
//!        │ 30 s                   ▼   │ damaged                    │
//!       lost ◀──── no snapshot is left, log trimmed      no snapshot is left, log whole
//! ```
//!
//! One feed serves all partitions, and adding partitions opens it anew. So those that are ready
//! join it together: when no other partition is under way, or after [`JOIN_WITHIN`].
//!
//! Nobody knows whether a log begins at position 1 until a feed is refused: a partition without a
//! readable snapshot is followed from the beginning, and a log that was trimmed brings it back
//! here, with the oldest position that the log holds. From then on a snapshot before that position
//! does not count, and a partition without another one is lost. Only an operator can repair that,
//! so its snapshots are listed again every [`LOST_PAUSE`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use clarion_proto::{
    ids::{LogId, PartitionId, Position, log_of},
    time::Time,
};
use tracing::{debug, error, info, warn};

use super::{
    output::Output,
    ownership::Assignment,
    snapshot::{List, Load, Snapshot},
};
use crate::command::Command;

/// Longest time for which a ready partition waits for others before the feed is opened anew.
const JOIN_WITHIN: Duration = Duration::from_secs(1);
/// Time after which the snapshots of a lost partition are listed again.
const LOST_PAUSE: Duration = Duration::from_secs(30);

/// Partitions whose content is still to come, and what is known of their snapshots.
#[derive(Debug, Default)]
pub(super) struct Loading {
    stages: BTreeMap<PartitionId, Stage>,
    /// Partitions that have their content, with its position, and that the feed does not follow.
    ready: BTreeMap<PartitionId, Position>,
    ready_since: Option<Time>,
    /// Oldest position of each log that is known to be trimmed.
    first: BTreeMap<LogId, Position>,
    /// Partitions that were lost since they last had their content, so that each is logged once.
    named: BTreeSet<PartitionId>,
    /// Partitions that each core is to be told to make empty; empty between two calls.
    emptied: BTreeMap<usize, Vec<PartitionId>>,
    lists: u64,
    loads: u64,
}

#[derive(Debug)]
enum Stage {
    Listed,
    /// The snapshot of a load, and the older ones.
    Loading(u64, VecDeque<Snapshot>),
    /// No content can be had; `None`: since just now.
    Lost(Option<Time>),
}

impl Loading {
    /// Applies a new ownership: gained partitions need content.
    pub(super) fn own(
        &mut self,
        assignment: &Assignment,
        gained: &BTreeSet<PartitionId>,
        out: &mut VecDeque<Output>,
    ) {
        let stays = |p: &PartitionId| assignment.core_of(*p).is_some() && !gained.contains(p);
        self.drop_all_but(stays, out);
        self.stages.extend(gained.iter().map(|p| (*p, Stage::Listed)));
        if !gained.is_empty() {
            self.list(assignment, out);
        }
    }

    /// Drops everything: the node holds nothing any more, or ends.
    pub(super) fn clear(&mut self, out: &mut VecDeque<Output>) {
        self.drop_all_but(|_| false, out);
        self.first.clear();
        // An answer that is still to come is nobody's.
        self.lists += 1;
    }

    /// Makes every partition begin with its log: the log lost records that were applied, so a
    /// snapshot may hold records that no log has.
    pub(super) fn rebuild_all(&mut self, assignment: &Assignment, out: &mut VecDeque<Output>) {
        self.drop_all_but(|_| false, out);
        for (partition, core, log) in assignment.places() {
            self.rebuild(partition, core);
            // The beginning of the log is gone. A snapshot that the log does not reach any more
            // would bring the partition back here, so the next try waits.
            if self.first.contains_key(&log) {
                self.ready.remove(&partition);
                self.stages.insert(partition, Stage::Lost(None));
            }
        }
        self.empty_cores(out);
    }

    /// A log was trimmed behind what some partitions have applied. `applied`: least position that
    /// a followed partition is known to have.
    pub(super) fn trimmed(
        &mut self,
        (log, first): (LogId, Position),
        assignment: &Assignment,
        applied: impl Fn(PartitionId) -> Position,
        out: &mut VecDeque<Output>,
    ) {
        let known = self.first.insert(log, first);
        let of_log = assignment.places().filter(|(p, _, of)| *of == log && self.is_followed(*p));
        let of_log: Vec<_> = of_log.map(|(p, ..)| p).collect();
        let behind = |p: &PartitionId| applied(*p).0 + 1 < first.0;
        // At least one is behind, or the feed would go on. Reports of cores come late.
        let all = !of_log.iter().any(behind);
        let behind: Vec<_> = of_log.into_iter().filter(|p| all || behind(p)).collect();
        for partition in &behind {
            self.ready.remove(partition);
            // The same answer again, with nobody behind: loading at once would not help.
            let stage = if all && known == Some(first) { Stage::Lost(None) } else { Stage::Listed };
            self.stages.insert(*partition, stage);
        }
        info!(
            %log, first = first.0, partitions = behind.len(),
            "log trimmed before it was applied; loading snapshots"
        );
        self.list(assignment, out);
    }

    /// A coordinator has listed the snapshots of all partitions, the newest of each first.
    pub(super) fn listed(
        &mut self,
        list: u64,
        snapshots: &[Snapshot],
        assignment: &Assignment,
        out: &mut VecDeque<Output>,
    ) {
        if list != self.lists {
            return;
        }
        let waiting =
            |(p, stage): (&PartitionId, &Stage)| matches!(stage, Stage::Listed).then_some(*p);
        let waiting: Vec<_> = self.stages.iter().filter_map(waiting).collect();
        for partition in waiting {
            let log = log_of(partition, assignment.owned().log_count);
            let first = self.first.get(&log).map_or(0, |first| first.0);
            let of = snapshots.iter().filter(|snapshot| snapshot.partition == partition);
            let usable = of.filter(|snapshot| snapshot.position.0 + 1 >= first).cloned();
            let mut usable: Vec<_> = usable.collect();
            usable.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.position));
            self.next(partition, usable.into(), assignment, out);
        }
        self.empty_cores(out);
    }

    /// A load cannot be finished: the next older snapshot is tried.
    pub(super) fn failed(
        &mut self,
        load: u64,
        problem: &str,
        assignment: &Assignment,
        out: &mut VecDeque<Output>,
    ) {
        let of_load = |(p, stage): (&PartitionId, &Stage)| {
            matches!(stage, Stage::Loading(number, _) if *number == load).then_some(*p)
        };
        let Some(partition) = self.stages.iter().find_map(of_load) else { return };
        let Some(Stage::Loading(_, mut rest)) = self.stages.remove(&partition) else { return };
        let failed = rest.pop_front();
        let (position, id) = failed.map(|s| (s.position.0, u128::from_be_bytes(s.id))).unzip();
        let snapshot = id.map(|id| format!("{id:032x}"));
        warn!(
            %partition, snapshot, position, problem, older = rest.len(),
            "snapshot cannot be loaded"
        );
        self.next(partition, rest, assignment, out);
        self.empty_cores(out);
    }

    /// A core has read a snapshot as a whole.
    pub(super) fn restored(&mut self, partition: PartitionId, load: u64, position: Position) {
        let stage = self.stages.get(&partition);
        if !matches!(stage, Some(Stage::Loading(number, _)) if *number == load) {
            return;
        }
        debug!(%partition, position = position.0, "snapshot loaded into its partition");
        self.stages.remove(&partition);
        self.named.remove(&partition);
        self.ready.insert(partition, position);
    }

    /// Whether the feed may follow a partition from where it was, or does already.
    pub(super) fn is_followed(&self, partition: PartitionId) -> bool {
        !self.stages.contains_key(&partition)
    }

    /// The partitions that are ready, with the positions at which the feed begins: they are
    /// followed from now on.
    pub(super) fn take_ready(&mut self) -> BTreeMap<PartitionId, Position> {
        self.ready_since = None;
        std::mem::take(&mut self.ready)
    }

    /// Whether the feed is to be opened anew for the partitions that are ready.
    pub(super) fn may_join(&self, now: Time) -> bool {
        let late = self.ready_since.is_some_and(|since| now >= since + JOIN_WITHIN);
        !self.ready.is_empty() && (late || !self.is_under_way())
    }

    /// Starts the waits that have begun since the last call, and lists the snapshots of lost
    /// partitions again when their wait is over.
    pub(super) fn expire(
        &mut self,
        assignment: &Assignment,
        now: Time,
        out: &mut VecDeque<Output>,
    ) {
        if !self.ready.is_empty() {
            self.ready_since.get_or_insert(now);
        }
        let mut again = false;
        for stage in self.stages.values_mut() {
            if let Stage::Lost(retry) = stage
                && now >= *retry.get_or_insert(now + LOST_PAUSE)
            {
                *stage = Stage::Listed;
                again = true;
            }
        }
        if again {
            self.list(assignment, out);
        }
    }

    /// Time of the next call to [`Loading::expire`] that has work.
    pub(super) fn deadline(&self) -> Option<Time> {
        let join = match self.ready_since {
            _ if self.ready.is_empty() => None,
            Some(since) if self.is_under_way() => Some(since + JOIN_WITHIN),
            _ => Some(Time(0)),
        };
        let retries = self.stages.values().filter_map(|stage| match stage {
            Stage::Lost(retry) => Some(retry.unwrap_or_default()),
            Stage::Listed | Stage::Loading(..) => None,
        });
        retries.chain(join).min()
    }

    /// The lost partition with the lowest number.
    pub(super) fn lost(&self) -> Option<PartitionId> {
        // A retry does not mean that anything is better.
        let under_way = |p: &&PartitionId| self.stages.contains_key(*p);
        self.named.iter().find(under_way).copied()
    }

    /// Whether the content of any partition is still to come.
    pub(super) fn is_loading(&self) -> bool {
        !self.stages.is_empty() || !self.ready.is_empty()
    }

    fn is_under_way(&self) -> bool {
        self.stages.values().any(|stage| !matches!(stage, Stage::Lost(_)))
    }

    /// Asks for the snapshots of all partitions.
    pub(super) fn list(&mut self, assignment: &Assignment, out: &mut VecDeque<Output>) {
        self.lists += 1;
        let owned = assignment.owned();
        let (number, partitions) = (self.lists, owned.partitions.clone());
        out.push_back(Output::List(List { number, log: owned.log, partitions }));
    }

    /// Loads the first of these snapshots. Without one, the partition begins with its log, if the
    /// log is not known to be trimmed.
    fn next(
        &mut self,
        partition: PartitionId,
        snapshots: VecDeque<Snapshot>,
        assignment: &Assignment,
        out: &mut VecDeque<Output>,
    ) {
        let Some(core) = assignment.core_of(partition) else {
            self.stages.remove(&partition);
            return;
        };
        let log = log_of(partition, assignment.owned().log_count);
        if let Some(snapshot) = snapshots.front().cloned() {
            self.loads += 1;
            let (number, log) = (self.loads, assignment.owned().log);
            out.push_back(Output::Load(Load { number, core, snapshot, log }));
            self.stages.insert(partition, Stage::Loading(number, snapshots));
        } else if let Some(first) = self.first.get(&log) {
            if self.named.insert(partition) {
                error!(
                    %partition, %log, first = first.0, retry_s = LOST_PAUSE.as_secs(),
                    "partition lost: its log was trimmed and no snapshot can be read"
                );
            }
            self.stages.insert(partition, Stage::Lost(None));
        } else {
            self.rebuild(partition, core);
        }
    }

    fn rebuild(&mut self, partition: PartitionId, core: usize) {
        self.emptied.entry(core).or_default().push(partition);
        self.stages.remove(&partition);
        self.ready.insert(partition, Position(0));
    }

    /// Tells each core which of its partitions begin with their logs: one command for all of them.
    fn empty_cores(&mut self, out: &mut VecDeque<Output>) {
        let emptied = std::mem::take(&mut self.emptied).into_iter();
        out.extend(emptied.map(|(core, list)| Output::command(core, Command::Rebuild(list))));
    }

    fn drop_all_but(&mut self, stays: impl Fn(&PartitionId) -> bool, out: &mut VecDeque<Output>) {
        self.stages.retain(|partition, stage| {
            let stays = stays(partition);
            if !stays && let Stage::Loading(load, _) = stage {
                out.push_back(Output::StopLoad { load: *load });
            }
            stays
        });
        self.ready.retain(|partition, _| stays(partition));
        self.named.retain(|partition| stays(partition));
    }
}

#[cfg(test)]
#[path = "loading_tests.rs"]
mod tests;
