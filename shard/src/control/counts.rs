//! Counts of devices for coordinators: every core counts, the node answers with the sum. The answer
//! goes to the session that asked.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{error::InvalidField, ids::CoordinatorId, time::Time, wire::shard_v1 as wire};

use super::{message::Count, output::Output};
use crate::command::{COUNTS_MAX, Command, CountSpec};

/// Maximum number of counts in progress of one session: twice the maximum of a coordinator, because
/// a count that its coordinator has given up goes on here. All sessions together hold at most
/// [`COUNTS_MAX`] counts of 2 MiB (64 apps × 4,096 bands); their covers are part of the node's room.
const SESSION_COUNTS_MAX: usize = 16;
/// Time after which the caller of a count has given up.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Counts in progress.
#[derive(Debug, Default)]
pub struct Counts {
    /// By the node's own number: ids of two coordinators may be equal.
    asked: BTreeMap<u64, Asked>,
    answers: VecDeque<(CoordinatorId, wire::Counted)>,
    /// Number of the newest count.
    newest: u64,
}

#[derive(Debug)]
struct Asked {
    /// `None`: that session has ended, and the cores still count.
    by: Option<CoordinatorId>,
    /// Id that the coordinator gave the count.
    id: u64,
    waiting: BTreeSet<usize>,
    devices: Vec<Vec<u64>>,
    left_out_for_age: u64,
    until: Time,
}

impl Counts {
    /// Asks all cores.
    ///
    /// # Errors
    /// Asked already, or one too many.
    pub fn ask(
        &mut self,
        by: CoordinatorId,
        count: Count,
        cores: usize,
        now: Time,
        out: &mut VecDeque<Output>,
    ) -> Result<(), InvalidField> {
        let id = count.id;
        let mine = || self.asked.values().filter(|asked| asked.by == Some(by));
        if mine().any(|asked| asked.id == id) {
            let problem = format_args!("must be unique; count {id} is under way");
            return Err(InvalidField::new("count.id", problem));
        }
        let unread = self.answers.iter().filter(|(of, _)| *of == by).count();
        if mine().count() + unread >= SESSION_COUNTS_MAX {
            let problem = format_args!(
                "must not be one more: {SESSION_COUNTS_MAX} counts of this session are under way, \
                 the maximum"
            );
            return Err(InvalidField::new("count", problem));
        }
        if self.asked.len() >= COUNTS_MAX {
            let problem = format_args!(
                "must not be one more: {COUNTS_MAX} counts of all sessions are under way, the \
                 maximum; retry later"
            );
            return Err(InvalidField::new("count", problem));
        }
        self.newest += 1;
        let devices = vec![vec![0; count.bands]; count.apps.len()];
        let (waiting, until) = ((0..cores).collect(), now + ANSWER_WITHIN);
        let asked = Asked { by: Some(by), id, waiting, devices, left_out_for_age: 0, until };
        self.asked.insert(self.newest, asked);
        let spec = CountSpec {
            id: self.newest,
            cover: Arc::new(count.cover),
            apps: count.apps,
            segments: count.segments,
            place_seen_after: count.place_seen_after,
        };
        let spec = Arc::new(spec);
        out.extend((0..cores).map(|core| Output::command(core, Command::Count(spec.clone()))));
        Ok(())
    }

    /// One core's answer to a count, by the node's number; the last one makes the sum.
    pub fn counted(
        &mut self,
        core: usize,
        number: u64,
        devices: &[Vec<u64>],
        left_out_for_age: u64,
    ) {
        let Some(asked) = self.asked.get_mut(&number) else { return };
        if !asked.waiting.remove(&core) {
            return;
        }
        for (sum, part) in asked.devices.iter_mut().zip(devices) {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        asked.left_out_for_age += left_out_for_age;
        if asked.waiting.is_empty()
            && let Some(Asked { by: Some(by), id, devices, left_out_for_age, .. }) =
                self.asked.remove(&number)
        {
            let apps = devices.into_iter().map(|devices| wire::AppCounted { devices }).collect();
            self.answers.push_back((by, wire::Counted { id, apps, left_out_for_age }));
        }
    }

    /// Drops the answers to a session that has ended; its counts occupy the cores for some time yet.
    pub fn forget(&mut self, by: CoordinatorId) {
        let ended = self.asked.values_mut().filter(|asked| asked.by == Some(by));
        ended.for_each(|asked| asked.by = None);
        self.answers.retain(|(of, _)| *of != by);
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

    /// Whether an answer can be sent to a coordinator.
    #[must_use]
    pub fn is_due(&self, to: CoordinatorId) -> bool {
        self.answers.iter().any(|(of, _)| *of == to)
    }

    /// The next complete answer to a coordinator.
    pub fn take(&mut self, to: CoordinatorId) -> Option<wire::Counted> {
        let at = self.answers.iter().position(|(of, _)| *of == to)?;
        self.answers.remove(at).map(|(_, counted)| counted)
    }
}
