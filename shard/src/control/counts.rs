//! Counts of devices for the coordinator: every core counts, the node answers with the sum.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{error::InvalidField, time::Time, wire::shard_v1 as wire};

use super::{message::Count, output::Output};
use crate::command::{Command, CountSpec};

/// Highest number of counts in progress. Each may hold a cover of some 100 KB; a preview is one
/// click of a person.
const COUNTS_MAX: usize = 32;
/// Time after which the caller of a count has given up.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Counts in progress.
#[derive(Debug, Default)]
pub struct Counts {
    asked: BTreeMap<u64, Asked>,
    answers: VecDeque<wire::Counted>,
}

#[derive(Debug)]
struct Asked {
    waiting: BTreeSet<usize>,
    devices: Vec<Vec<u64>>,
    until: Time,
}

impl Counts {
    /// Asks all cores.
    ///
    /// # Errors
    /// Asked already, or one too many.
    pub fn ask(
        &mut self,
        count: Count,
        cores: usize,
        now: Time,
        out: &mut VecDeque<Output>,
    ) -> Result<(), InvalidField> {
        let id = count.id;
        if self.asked.contains_key(&id) {
            return Err(InvalidField::new(
                "count.id",
                format_args!("must be unique; count {id} is under way"),
            ));
        }
        if self.asked.len() + self.answers.len() >= COUNTS_MAX {
            return Err(InvalidField::new(
                "count",
                format_args!(
                    "must not be one more: {COUNTS_MAX} counts are under way, the maximum"
                ),
            ));
        }
        let devices = vec![vec![0; count.bands]; count.apps.len()];
        self.asked.insert(
            id,
            Asked { waiting: (0..cores).collect(), devices, until: now + ANSWER_WITHIN },
        );
        let spec = CountSpec {
            id,
            cover: Arc::new(count.cover),
            apps: count.apps,
            segments: count.segments,
        };
        let spec = Arc::new(spec);
        out.extend((0..cores).map(|core| Output::command(core, Command::Count(spec.clone()))));
        Ok(())
    }

    /// One core's answer; the last one makes the sum.
    pub fn counted(&mut self, core: usize, id: u64, devices: &[Vec<u64>]) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        if !asked.waiting.remove(&core) {
            return;
        }
        for (sum, part) in asked.devices.iter_mut().zip(devices) {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        if asked.waiting.is_empty() {
            let apps = self.asked.remove(&id).map(|a| a.devices).unwrap_or_default();
            let apps = apps.into_iter().map(|devices| wire::AppCounted { devices }).collect();
            self.answers.push_back(wire::Counted { id, apps });
        }
    }

    /// Drops all counts: the session that asked has ended.
    pub fn forget(&mut self) {
        self.asked.clear();
        self.answers.clear();
    }

    /// Drops counts whose caller has given up.
    pub fn expire(&mut self, now: Time) {
        self.asked.retain(|_, asked| asked.until > now);
    }

    /// Time of the next call to [`Counts::expire`] that has work.
    #[must_use]
    pub fn expire_due(&self) -> Option<Time> {
        self.asked.values().map(|a| a.until).min()
    }

    /// Whether an answer can be sent.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.answers.is_empty()
    }

    /// The next complete answer.
    pub fn take(&mut self) -> Option<wire::Counted> {
        self.answers.pop_front()
    }
}
