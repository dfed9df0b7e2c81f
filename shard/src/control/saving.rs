//! When the node saves the snapshot of which partition; free of I/O.
//!
//! A partition is due when it has applied batches since its newest snapshot and the interval of the
//! coordinators' policy has passed. The intervals differ by partition, and are spread evenly over
//! half the interval, so the partitions of a node are saved one by one. One save is under way at a
//! time; after a failure all saves pause, because its reason is probably none of the partition.
//!
//! The coordinators say with every list of snapshots what they have and how often they want more,
//! so a node that starts again does not save again at once. Lists are asked for again from time to
//! time: other nodes save, too, and the policy may change.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use clarion_proto::{
    ids::{BootId, PartitionId, Position},
    time::Time,
};
use clarion_runtime::repeated::Repeated;
use tracing::{info, warn};

use super::{
    output::Output,
    ownership::Assignment,
    snapshot::{Save, Snapshot},
};

/// Time between two looks for a partition that is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause of all saves after one has failed.
const FAILED_PAUSE: Duration = Duration::from_secs(30);
/// Time after which the snapshots are listed again.
const LIST_EVERY: Duration = Duration::from_secs(300);

/// Newest snapshots of the node's partitions, and the save that is under way.
#[derive(Debug)]
pub(super) struct Saving {
    /// Interval of the policy; 0: no snapshots are wanted.
    interval: Duration,
    newest: BTreeMap<PartitionId, Newest>,
    under_way: Option<Save>,
    saves: u64,
    /// Differs between starts, so that two nodes do not save in the same order.
    salt: u64,
    look: Time,
    list: Time,
    failures: Repeated,
}

/// Newest snapshot of one partition.
#[derive(Debug, Clone, Copy)]
struct Newest {
    position: Position,
    /// Time at which the next one is due if the partition has changed.
    due: Time,
}

impl Saving {
    /// No partition and no policy: nothing is saved.
    pub(super) fn new(boot: BootId) -> Self {
        Self {
            interval: Duration::ZERO,
            newest: BTreeMap::new(),
            under_way: None,
            saves: 0,
            salt: boot.0.iter().fold(0, |salt: u64, byte| salt.rotate_left(8) ^ u64::from(*byte)),
            look: Time::NEVER,
            list: Time::NEVER,
            failures: Repeated::default(),
        }
    }

    /// Takes what the coordinators keep, and how often they want more.
    pub(super) fn listed(
        &mut self,
        snapshots: &[Snapshot],
        interval: Duration,
        assignment: &Assignment,
        now: Time,
    ) {
        self.list = now + LIST_EVERY;
        self.look = if interval.is_zero() { Time::NEVER } else { now + LOOK_EVERY };
        let is_changed = std::mem::replace(&mut self.interval, interval) != interval;
        let mut kept: BTreeMap<PartitionId, &Snapshot> = BTreeMap::new();
        for snapshot in snapshots {
            let newest = kept.entry(snapshot.partition).or_insert(snapshot);
            if newest.position < snapshot.position {
                *newest = snapshot;
            }
        }
        for partition in assignment.owned().partitions.iter().copied() {
            let known = self.newest.get(&partition).filter(|_| !is_changed).copied();
            let newest = match (kept.get(&partition), known) {
                (Some(kept), known) if known.is_none_or(|known| known.position < kept.position) => {
                    let wait = self.wait(partition).saturating_sub(kept.age);
                    Newest { position: kept.position, due: now + wait }
                }
                (_, Some(known)) => known,
                // The first one: anywhere within an interval.
                _ => {
                    let due = now + interval.mul_f64(self.spread(partition));
                    Newest { position: Position(0), due }
                }
            };
            self.newest.insert(partition, newest);
        }
    }

    /// The coordinators have the snapshot of this save.
    pub(super) fn saved(&mut self, save: u64, position: Position, now: Time) {
        let Some(done) = self.under_way.take_if(|other| other.number == save) else { return };
        let due = now + self.wait(done.partition);
        info!(partition = %done.partition, position = position.0, "partition snapshot saved");
        self.newest.insert(done.partition, Newest { position, due });
        self.failures = Repeated::default();
    }

    /// The save has failed: all saves pause, and then those that are due go first. A partition that
    /// cannot be saved keeps no other one from being saved.
    pub(super) fn failed(&mut self, save: u64, problem: &str, now: Time) {
        let Some(failed) = self.under_way.take_if(|other| other.number == save) else { return };
        if let Some(times) = self.failures.note(problem, now.since(Time(0))) {
            warn!(partition = %failed.partition, problem, times, "partition snapshot not saved");
        }
        self.look = self.look.max(now + FAILED_PAUSE);
        if let Some(newest) = self.newest.get_mut(&failed.partition) {
            newest.due = now + FAILED_PAUSE;
        }
    }

    /// Stops the save that is under way.
    pub(super) fn stop(&mut self, out: &mut VecDeque<Output>) {
        if self.under_way.take().is_some() {
            out.push_back(Output::StopSave);
        }
    }

    /// Forgets the snapshots of partitions: they are not this node's, or have other content.
    pub(super) fn forget(&mut self, is_gone: impl Fn(PartitionId) -> bool) {
        self.newest.retain(|partition, _| !is_gone(*partition));
    }

    /// Whether [`Saving::save_next`] has work.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.under_way.is_none() && now >= self.look
    }

    /// Whether the snapshots are to be listed again. True once: the answer sets the next time.
    pub(super) fn is_list_due(&mut self, now: Time) -> bool {
        let due = now >= self.list;
        if due {
            self.list = Time::NEVER;
        }
        due
    }

    /// Saves the partition that has been due longest, if any is. `applied`: position of a partition
    /// on its core; `None`: its content is still to come.
    pub(super) fn save_next(
        &mut self,
        assignment: &Assignment,
        applied: impl Fn(PartitionId, usize) -> Option<Position>,
        now: Time,
        out: &mut VecDeque<Output>,
    ) {
        self.look = now + LOOK_EVERY;
        let due = assignment.places().filter_map(|(partition, core, _)| {
            let newest = self.newest.get(&partition).filter(|newest| newest.due <= now)?;
            let changed = applied(partition, core)? > newest.position;
            changed.then_some((newest.due, partition, core))
        });
        let Some((_, partition, core)) = due.min() else { return };
        self.saves += 1;
        let owned = assignment.owned();
        let (number, log, ownership) = (self.saves, owned.log, owned.number);
        let save = Save { number, core, partition, log, ownership };
        out.push_back(Output::Save(save.clone()));
        self.under_way = Some(save);
    }

    /// Time of the next look or list.
    pub(super) fn deadline(&self) -> Option<Time> {
        let look = Some(self.look).filter(|_| self.under_way.is_none());
        look.into_iter().chain([self.list]).filter(|at| *at < Time::NEVER).min()
    }

    /// Time from one snapshot of a partition to the next: three to five quarters of the interval.
    fn wait(&self, partition: PartitionId) -> Duration {
        self.interval.mul_f64(0.75 + self.spread(partition) / 2.0)
    }

    /// A number from 0 to 1 for each partition, evenly spread over successive partitions.
    #[allow(clippy::cast_precision_loss)] // 53 of 64 bits are enough
    fn spread(&self, partition: PartitionId) -> f64 {
        // The golden ratio as a fraction of 2^64: its multiples are spread most evenly.
        let turns = u64::from(partition.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        turns.wrapping_add(self.salt) as f64 / u64::MAX as f64
    }
}

#[cfg(test)]
#[path = "saving_tests.rs"]
mod tests;
