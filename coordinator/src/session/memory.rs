//! Memory of one node: its progress on each wave, kept for the node's next process.
//!
//! A restarted node has lost its state. The memory has the devices that the node handed over, so
//! that its next process walks again from the start and skips these devices. Handed over but *open*
//! devices (in flight, or waiting for a retry) are not skipped: their answer is unknown, so they
//! are sent again. Repeated pushes are thus limited to the open devices, and to those accepted in
//! the last 20 ms, which no report had included yet. No device is missed.
//!
//! Memory: two bytes for each device handed over, as roaring bitmaps, while the alert runs: 28 MB
//! for 14 million.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{
    ids::{BootId, Epoch, PartitionId, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};
use roaring::RoaringBitmap;

use super::delivery::{Deliveries, Edition};
use crate::lane::lease::LEASE;

type Sets = BTreeMap<PartitionId, RoaringBitmap>;

/// Memory of one node, over all its processes and sessions.
#[derive(Debug, Default)]
pub(crate) struct NodeMemory {
    boot: Option<BootId>,
    /// When a former process last got a slice.
    former_slice: Option<Time>,
    /// When the present process last got a slice.
    slice: Option<Time>,
    waves: BTreeMap<WaveId, WaveMemory>,
    /// Deliveries to all processes of the node: a message that broke one breaks the next.
    pub(super) deliveries: Deliveries,
}

/// Progress of one wave at one node.
#[derive(Debug, Default)]
struct WaveMemory {
    /// Edition in which the wave was last sent to this process, perhaps in part.
    offered: Option<Edition>,
    /// Sequence number of the newest report of this process; 0: none.
    sequence: u64,
    /// Ordinals that former processes finished: must not be handed over again.
    done: Sets,
    /// Ordinals that this process handed over.
    handed: Sets,
    /// Ordinals of `handed` that were open at the last report.
    open: Sets,
}

impl NodeMemory {
    /// Records the Hello of a process of the node; true if it is a new process.
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

    /// Records that the present process gets a slice of a quota.
    pub(crate) fn sliced(&mut self, now: Time) {
        self.slice = Some(now);
    }

    /// Time since another process can last have had a slice of this node's part.
    ///
    /// Counts from the end of the last lease of a former process, and of a lease that a former
    /// coordinator may have given just before this coordinator started ([`Time`] 0).
    pub(crate) fn alone_for(&self, now: Time) -> Duration {
        now.since(self.former_slice.unwrap_or_default() + LEASE)
    }

    /// Records that the wave is about to be sent to the present process.
    pub(crate) fn offer(&mut self, wave: WaveId, edition: Edition) {
        self.waves.entry(wave).or_default().offered = Some(edition);
    }

    /// Records that the present process may know the wave from a former coordinator.
    pub(crate) fn inherit(&mut self, wave: WaveId, epoch: Epoch) {
        let offered = &mut self.waves.entry(wave).or_default().offered;
        offered.get_or_insert(Edition { epoch, ownership: 0 });
    }

    /// Edition of the wave that the present process may know; `None`: it knows none.
    pub(crate) fn edition(&self, wave: WaveId) -> Option<Edition> {
        self.waves.get(&wave)?.offered
    }

    /// Whether the present process may know the wave.
    pub(crate) fn was_offered(&self, wave: WaveId) -> bool {
        self.edition(wave).is_some()
    }

    /// Whether the present process has reported on the wave, and so knows it.
    pub(crate) fn has_reported(&self, wave: WaveId) -> bool {
        self.waves.get(&wave).is_some_and(|w| w.sequence > 0)
    }

    /// Waves that the present process may know, with the epoch of the newest offer.
    pub(crate) fn offered(&self) -> Vec<(WaveId, Epoch)> {
        self.waves.iter().filter_map(|(id, w)| Some((*id, w.offered?.epoch))).collect()
    }

    /// Drops the sets of a wave that ended without a session; keeps that the node needs its End.
    pub(crate) fn forget_sets(&mut self, wave: WaveId) {
        match self.waves.get_mut(&wave) {
            Some(memory) if memory.offered.is_some() => {
                *memory = WaveMemory { offered: memory.offered, ..WaveMemory::default() }
            }
            _ => drop(self.waves.remove(&wave)),
        }
    }

    /// Removes the waves that `keep` rejects.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(WaveId) -> bool) {
        self.waves.retain(|id, _| keep(*id));
    }

    /// Ordinals that the present process must not hand over again; `None`: none.
    pub(crate) fn done(&self, wave: WaveId, partition: PartitionId) -> Option<&RoaringBitmap> {
        self.waves.get(&wave)?.done.get(&partition).filter(|set| !set.is_empty())
    }

    /// Size of all sets of [`NodeMemory::done`] of a wave as portable bitmaps, bytes.
    pub(crate) fn done_bytes(&self, wave: WaveId) -> usize {
        let sets = self.waves.get(&wave).into_iter().flat_map(|w| w.done.values());
        sets.map(RoaringBitmap::serialized_size).sum()
    }

    /// Takes the sets of a report; ignores an old or repeated report.
    ///
    /// # Errors
    /// A set is malformed: a defect of the node. The other sets are taken.
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
        // The report names every open ordinal: a partition without a set has none.
        let mut open = Sets::new();
        for set in &report.open {
            match read(set) {
                Ok((partition, ordinals)) => drop(open.insert(partition, ordinals)),
                Err(bad) => result = Err(bad),
            }
        }
        match result {
            Ok(()) => wave.open = open,
            // Too many open ordinals at worst repeat pushes after a restart; too few would leave
            // devices without an answer.
            Err(_) => open
                .into_iter()
                .for_each(|(partition, set)| *wave.open.entry(partition).or_default() |= set),
        }
        result
    }
}

/// A set of ordinals that is not a roaring bitmap.
#[derive(Debug, thiserror::Error)]
#[error("partition {partition}: must be a roaring bitmap; got {bytes} other bytes")]
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
        memory.offer(WAVE, Edition::default());
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
        memory.offer(WAVE, Edition::default());
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
