//! What one node has told of its waves: enough to go on without it.
//!
//! A node that starts again has forgotten everything. What it had handed over is kept here, so that
//! its next process walks again from the start and skips those devices. Handed but *open* ones (in
//! flight, waiting for another try) are not skipped: nobody knows their answer, so they are sent
//! again. Repeats are thus bounded by what was open and what was accepted in the last 20 ms, which
//! no report had told yet; nobody is missed.
//!
//! Memory: two bytes for each device handed, as roaring bitmaps, while the alert runs: 28 MB for 14
//! million.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{
    ids::{BootId, PartitionId, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};
use roaring::RoaringBitmap;

use super::delivery::Deliveries;
use crate::lane::lease::LEASE;

type Sets = BTreeMap<PartitionId, RoaringBitmap>;

/// One node, over all its processes and sessions.
#[derive(Debug, Default)]
pub(crate) struct NodeMemory {
    boot: Option<BootId>,
    /// When a former process was given a slice last.
    former_slice: Option<Time>,
    /// When this process was given one last.
    slice: Option<Time>,
    waves: BTreeMap<WaveId, WaveMemory>,
    /// Of all its processes: what broke one breaks the next.
    pub(super) deliveries: Deliveries,
}

/// One wave at one node.
#[derive(Debug, Default)]
struct WaveMemory {
    /// This process was sent the wave, or at least that was tried.
    offered: bool,
    /// Of the newest report of this process; 0: none.
    sequence: u64,
    /// Done by former processes: not to be handed again.
    done: Sets,
    /// Handed by this process.
    handed: Sets,
    /// Of those, open at its last report.
    open: Sets,
}

impl NodeMemory {
    /// A process of the node has said hello. True if it is another one than the last.
    pub(crate) fn hello(&mut self, boot: BootId) -> bool {
        if self.boot == Some(boot) {
            return false;
        }
        self.boot = Some(boot);
        self.former_slice = self.former_slice.max(self.slice.take());
        for wave in self.waves.values_mut() {
            for (partition, mut handed) in std::mem::take(&mut wave.handed) {
                if let Some(open) = wave.open.get(&partition) {
                    handed -= open;
                }
                *wave.done.entry(partition).or_default() |= handed;
            }
            *wave = WaveMemory { done: std::mem::take(&mut wave.done), ..WaveMemory::default() };
        }
        true
    }

    /// The present process is given a slice of a quota.
    pub(crate) fn sliced(&mut self, now: Time) {
        self.slice = Some(now);
    }

    /// For how long no other process can have had a slice of this node's part: since the last lease
    /// of a former one has ended, and since those that a former coordinator may have given just
    /// before this one started ([`Time`] 0).
    pub(crate) fn alone_for(&self, now: Time) -> Duration {
        now.since(self.former_slice.unwrap_or_default() + LEASE)
    }

    /// The process is about to be sent the wave.
    pub(crate) fn offer(&mut self, wave: WaveId) {
        self.waves.entry(wave).or_default().offered = true;
    }

    /// The present process may know the wave.
    pub(crate) fn was_offered(&self, wave: WaveId) -> bool {
        self.waves.get(&wave).is_some_and(|w| w.offered)
    }

    /// The present process surely knows the wave: it has reported on it.
    pub(crate) fn has_reported(&self, wave: WaveId) -> bool {
        self.waves.get(&wave).is_some_and(|w| w.sequence > 0)
    }

    /// Waves that the present process may know.
    pub(crate) fn offered(&self) -> Vec<WaveId> {
        self.waves.iter().filter(|(_, w)| w.offered).map(|(id, _)| *id).collect()
    }

    /// The wave has ended while the node was away: its sets go; that the node is to be told stays.
    pub(crate) fn forget_sets(&mut self, wave: WaveId) {
        match self.waves.get_mut(&wave) {
            Some(memory) if memory.offered => {
                *memory = WaveMemory { offered: true, ..WaveMemory::default() }
            }
            _ => drop(self.waves.remove(&wave)),
        }
    }

    /// Drops every wave that `keep` does not know.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(WaveId) -> bool) {
        self.waves.retain(|id, _| keep(*id));
    }

    /// What a new process must not hand over again; `None`: nothing.
    pub(crate) fn done(&self, wave: WaveId, partition: PartitionId) -> Option<&RoaringBitmap> {
        self.waves.get(&wave)?.done.get(&partition).filter(|set| !set.is_empty())
    }

    /// All of it, as portable bitmaps, bytes.
    pub(crate) fn done_bytes(&self, wave: WaveId) -> usize {
        let sets = self.waves.get(&wave).into_iter().flat_map(|w| w.done.values());
        sets.map(RoaringBitmap::serialized_size).sum()
    }

    /// Takes the sets out of a report. An old or repeated one changes nothing.
    ///
    /// # Errors
    /// A set cannot be read: a defect of the node. What can be read is taken.
    pub(crate) fn report(&mut self, report: &wire::Report) -> Result<(), BadSet> {
        let Some(wave) = self.waves.get_mut(&WaveId(report.wave)) else { return Ok(()) };
        if report.sequence <= wave.sequence {
            return Ok(());
        }
        wave.sequence = report.sequence;
        let mut result = Ok(());
        for set in &report.handed {
            match read(set) {
                Ok((partition, ordinals)) => *wave.handed.entry(partition).or_default() |= ordinals,
                Err(bad) => result = Err(bad),
            }
        }
        // All that is open now: a partition that is not named has nothing open.
        let mut open = Sets::new();
        for set in &report.open {
            match read(set) {
                Ok((partition, ordinals)) => drop(open.insert(partition, ordinals)),
                Err(bad) => result = Err(bad),
            }
        }
        match result {
            Ok(()) => wave.open = open,
            // Too many open at worst repeats devices after a restart; too few would leave some
            // without an answer.
            Err(_) => open
                .into_iter()
                .for_each(|(partition, set)| *wave.open.entry(partition).or_default() |= set),
        }
        result
    }
}

/// A set of ordinals that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("partition {partition}: {bytes} bytes are no roaring bitmap")]
pub(crate) struct BadSet {
    partition: u32,
    bytes: usize,
}

fn read(set: &wire::OrdinalSet) -> Result<(PartitionId, RoaringBitmap), BadSet> {
    let bad = || BadSet { partition: set.partition, bytes: set.ordinals.len() };
    let partition = u16::try_from(set.partition).map_err(|_| bad())?;
    if set.ordinals.is_empty() {
        return Ok((PartitionId(partition), RoaringBitmap::new()));
    }
    let ordinals = RoaringBitmap::deserialize_from(&set.ordinals[..]).map_err(|_| bad())?;
    Ok((PartitionId(partition), ordinals))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAVE: WaveId = WaveId(1);
    const P: PartitionId = PartitionId(3);

    fn set(ordinals: impl IntoIterator<Item = u32>) -> wire::OrdinalSet {
        let mut bytes = Vec::new();
        ordinals.into_iter().collect::<RoaringBitmap>().serialize_into(&mut bytes).unwrap();
        wire::OrdinalSet { partition: u32::from(P.0), ordinals: bytes.into() }
    }

    fn report(sequence: u64, handed: &[u32], open: &[u32]) -> wire::Report {
        wire::Report {
            wave: WAVE.0,
            sequence,
            handed: vec![set(handed.iter().copied())],
            open: vec![set(open.iter().copied())],
            ..wire::Report::default()
        }
    }

    fn done(memory: &NodeMemory) -> Vec<u32> {
        memory.done(WAVE, P).map(|set| set.iter().collect()).unwrap_or_default()
    }

    fn fresh() -> NodeMemory {
        let mut memory = NodeMemory::default();
        assert!(memory.hello(BootId([1; 16])));
        memory.offer(WAVE);
        memory
    }

    #[test]
    fn a_new_process_skips_what_was_handed_and_not_open() {
        let mut memory = fresh();
        memory.report(&report(1, &[1, 2, 3], &[1, 2, 3])).unwrap();
        memory.report(&report(2, &[4], &[3, 4])).unwrap();
        assert!(memory.hello(BootId([2; 16])));
        assert_eq!(done(&memory), [1, 2]);
        assert!(
            !memory.was_offered(WAVE) && !memory.has_reported(WAVE),
            "the new process knows nothing"
        );
    }

    #[test]
    fn processes_add_up() {
        let mut memory = fresh();
        memory.report(&report(1, &[1, 2], &[2])).unwrap();
        memory.hello(BootId([2; 16]));
        memory.offer(WAVE);
        memory.report(&report(1, &[2, 3], &[3])).unwrap();
        memory.hello(BootId([3; 16]));
        assert_eq!(done(&memory), [1, 2]);
    }

    #[test]
    fn the_same_process_keeps_its_own_memory() {
        let mut memory = fresh();
        memory.report(&report(1, &[1], &[])).unwrap();
        assert!(!memory.hello(BootId([1; 16])));
        assert!(memory.has_reported(WAVE));
        assert_eq!(done(&memory), [0; 0], "it has its bits itself");
    }

    #[test]
    fn an_old_report_does_not_bring_back_what_was_open() {
        let mut memory = fresh();
        memory.report(&report(2, &[1, 2], &[])).unwrap();
        memory.report(&report(1, &[1, 2], &[1, 2])).unwrap();
        memory.hello(BootId([2; 16]));
        assert_eq!(done(&memory), [1, 2]);
    }

    #[test]
    fn a_report_that_names_no_open_ones_has_none() {
        let mut memory = fresh();
        memory.report(&report(1, &[1, 2], &[2])).unwrap();
        memory
            .report(&wire::Report { wave: WAVE.0, sequence: 2, ..wire::Report::default() })
            .unwrap();
        memory.hello(BootId([2; 16]));
        assert_eq!(done(&memory), [1, 2]);
    }

    #[test]
    fn a_set_that_cannot_be_read_is_an_error_and_harms_no_other() {
        let mut memory = fresh();
        let mut bad = report(1, &[1], &[]);
        bad.handed.push(wire::OrdinalSet { partition: 9, ordinals: vec![0xff; 7].into() });
        assert!(memory.report(&bad).is_err());
        memory.hello(BootId([2; 16]));
        assert_eq!(done(&memory), [1]);
    }

    #[test]
    fn open_ones_that_cannot_be_read_leave_the_former_ones_open() {
        let mut memory = fresh();
        memory.report(&report(1, &[1, 2, 3], &[2])).unwrap();
        let mut bad = report(2, &[], &[3]);
        bad.open.push(wire::OrdinalSet { partition: 9, ordinals: vec![0xff; 7].into() });
        assert!(memory.report(&bad).is_err());
        memory.hello(BootId([2; 16]));
        assert_eq!(done(&memory), [1]);
    }
}
