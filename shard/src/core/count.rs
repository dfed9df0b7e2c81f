//! Counts of the devices in a region, by a walk that hands no device over.

use std::sync::Arc;

use clarion_proto::ids::PartitionId;
use roaring::RoaringBitmap;

use super::{outlet::Steps, partitions::Partitions};
use crate::{
    command::CountSpec,
    partition::{AppIndex, Tags},
    wave::{Ahead, Program, ProgramError, Step, Walk},
};

/// One count in progress.
#[derive(Debug)]
pub(crate) struct CountRun {
    pub(crate) spec: Arc<CountSpec>,
    program: Program,
    /// Partition that is being counted, and its walk.
    at: Option<(PartitionId, Walk)>,
    done: Option<PartitionId>,
    /// Number of devices for each app of the count, for each band.
    pub(crate) devices: Vec<Vec<u64>>,
    /// Number of devices that only the age of their place leaves out.
    pub(crate) left_out_for_age: u64,
    /// App of the count by `AppIndex`, for the apps that the vocabulary had at the last update.
    app_of: Vec<Option<usize>>,
}

impl CountRun {
    /// Creates a count that has not begun.
    ///
    /// # Errors
    /// If the expression over segments is invalid.
    pub(crate) fn new(spec: Arc<CountSpec>) -> Result<Self, ProgramError> {
        let devices = vec![vec![0; spec.cover.bands() as usize]; spec.apps.len()];
        let program = Program::compile(&spec.segments)?;
        Ok(Self {
            spec,
            program,
            at: None,
            done: None,
            devices,
            left_out_for_age: 0,
            app_of: Vec::new(),
        })
    }

    /// Continues the count within the turn's work. Returns true if the count is complete.
    pub(crate) fn step(&mut self, partitions: &Partitions, steps: &mut Steps) -> bool {
        for index in self.app_of.len()..usize::from(partitions.words.apps()) {
            let name = partitions.words.app(AppIndex(u16::try_from(index).expect("below a u16")));
            self.app_of
                .push(name.and_then(|name| self.spec.apps.iter().position(|app| app == name)));
        }
        while steps.0 > 0 {
            steps.0 -= 1;
            let Some((id, walk)) = &mut self.at else {
                let Some(next) = partitions.next_partition(self.done) else { return true };
                self.at = Some((
                    next.id(),
                    Walk::new(RoaringBitmap::new(), Tags::of(&self.spec.apps), Ahead::Rows),
                ));
                continue;
            };
            let step = match partitions.slot_of(*id) {
                Some(slot) => {
                    let partition = partitions.partition(slot);
                    match walk.step(partition, &self.spec.cover, self.spec.cover.bands()) {
                        Step::Device { ordinal, band, .. } => {
                            let Some(device) = partition.pushable(ordinal) else { continue };
                            let app = self.app_of.get(usize::from(device.app.0)).copied().flatten();
                            if let Some(app) = app.filter(|_| {
                                self.program.matches(&partitions.words, device.segments)
                            }) {
                                if device.place_seen < self.spec.place_seen_after {
                                    self.left_out_for_age += 1;
                                } else {
                                    self.devices[app][band as usize] += 1;
                                }
                            }
                            continue;
                        }
                        other => other,
                    }
                }
                None => Step::Idle,
            };
            if step != Step::More {
                self.done = Some(*id);
                self.at = None;
            }
        }
        false
    }
}
