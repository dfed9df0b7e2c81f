//! The shell of feedback: alerts' tasks share the evidence under a lock, and one task appends the
//! pruned tokens to the logs.
//!
//! Each alert task evaluates its own reports, under one lock, so that an alarm starts before the
//! progress of the same report is published.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::{device::Record, ids::LogId, time::Time, wire::shard_v1 as wire};
use clarion_runtime::repeated::Repeated;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{
    Notify,
    mpsc::{self, error::TrySendError},
    watch,
};

use crate::{
    lane::AppLane,
    lane_owner::feedback::{
        self, Dead, Sorted,
        evidence::{Alarm, BadToken, Evidence},
    },
    progress::Answers,
    store::{ChangeLog, RecordBatch, StoreError},
};
use clarion_runtime::world::{Clock, Moment};

/// Maximum number of reports whose dead tokens wait for the log.
const REPORTS: usize = 256;
/// Number of tries to append before the tokens are dropped; the gateway calls them dead again at
/// the next alert.
const TRIES: u32 = 5;
/// Most reports whose tokens are appended together. Each append costs the sync of a disk: one by
/// one, the reports of a large alert would fill the queue.
const REPORTS_AT_ONCE: usize = 64;
/// Longest pause between tries.
const PAUSE_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// The evidence about dead tokens, shared by all alerts.
#[derive(Debug)]
pub(crate) struct Pruning {
    evidence: Mutex<Evidence>,
    dead: mpsc::Sender<Vec<Dead>>,
    /// Wakes [`Pruning::keep_time`], because the deadline may have changed.
    waits: Notify,
    /// Number of changes of alarms so far.
    alarms: watch::Sender<u64>,
    /// Limits the log lines of reports whose tokens were dropped.
    left_out: Mutex<Repeated>,
    /// Limits the log lines of tokens without a valid device id.
    malformed: Mutex<Repeated>,
}

/// Receiver of the tokens that [`Pruning`] prunes, for [`run`].
pub(crate) type Pruned = mpsc::Receiver<Vec<Dead>>;

impl Pruning {
    pub(crate) fn new() -> (Self, Pruned) {
        let (dead, pruned) = mpsc::channel(REPORTS);
        let evidence = Mutex::default();
        (
            Self {
                evidence,
                dead,
                waits: Notify::new(),
                alarms: watch::Sender::new(0),
                left_out: Mutex::default(),
                malformed: Mutex::default(),
            },
            pruned,
        )
    }

    /// Takes the new answers and the dead tokens of one report. A token may be named in a later
    /// report than it is counted in, or again in the first report of a session.
    ///
    /// Never waits, because the alert's task has other work, such as a cancel. Tokens that find no
    /// room in the queue are dropped; their gateway calls them dead again at the next alert.
    pub(crate) fn hear(
        &self,
        answers: &BTreeMap<AppLane, Answers>,
        tokens: &[wire::DeadToken],
        clock: &Clock,
    ) {
        let Sorted { mut dead, bad, malformed } = Sorted::new(tokens, clock.wall());
        for bytes in malformed {
            let now = clock.now().since(Time(0));
            if let Some(times) = self.malformed.lock().note("", now) {
                tracing::warn!(bytes, times, "dead token ignored: its device id is not 16 bytes");
            }
        }
        if !answers.is_empty() || !bad.is_empty() {
            let believed = self.judge(clock, |evidence, now| evidence.hear(answers, bad, now));
            dead.extend(believed);
        }
        self.prune(dead, clock.now());
    }

    fn prune(&self, dead: Vec<Dead>, now: Time) {
        if dead.is_empty() {
            return;
        }
        // A closed channel means that the coordinator ends.
        if let Err(TrySendError::Full(dead)) = self.dead.try_send(dead)
            && let Some(reports) = self.left_out.lock().note("", now.since(Time(0)))
        {
            let tokens = dead.len();
            tracing::warn!(
                reports,
                tokens,
                "dead tokens dropped: the queue to the log is full; retrying at the next alert"
            );
        }
    }

    /// Alarms that may be published, by app.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        self.evidence.lock().alarms().collect()
    }

    /// Receiver that is marked as changed whenever [`Self::alarms`] changes.
    pub(crate) fn alarm_changes(&self) -> watch::Receiver<u64> {
        self.alarms.subscribe()
    }

    fn judge(
        &self,
        clock: &Clock,
        judge: impl FnOnce(&mut Evidence, Moment) -> Vec<BadToken>,
    ) -> Vec<Dead> {
        let mut evidence = self.evidence.lock();
        let believed = judge(&mut evidence, clock.moment());
        let changes = evidence.changes();
        drop(evidence);
        self.alarms.send_if_modified(|told| std::mem::replace(told, changes) != changes);
        self.waits.notify_one();
        believed.into_iter().map(Dead::from).collect()
    }

    /// Prunes waiting tokens when their time is over; runs until it is dropped.
    async fn keep_time(&self, clock: Clock) {
        loop {
            let deadline = self.evidence.lock().deadline();
            tokio::select! {
                // The time comes first: a busy alert must not delay what is due.
                biased;
                () = clock.sleep_until(deadline) => {
                    let dead = self.judge(&clock, Evidence::expire);
                    self.prune(dead, clock.now());
                }
                () = self.waits.notified() => {}
            }
        }
    }
}

/// Appends pruned tokens to the logs until all senders are gone.
pub(crate) async fn run(
    pruning: Arc<Pruning>,
    mut pruned: Pruned,
    log: Arc<dyn ChangeLog>,
    partitions: u16,
    logs: u16,
    clock: Clock,
) {
    let mut failing = Repeated::default();
    let appending = async {
        let mut reports = Vec::new();
        while pruned.recv_many(&mut reports, REPORTS_AT_ONCE).await > 0 {
            let dead = reports.drain(..).flatten().collect();
            let records = feedback::records(dead, (partitions, logs), clock.wall());
            let appends = records.into_iter().map(|(id, records)| {
                let log = &*log;
                async move { append(log, id, &records).await.err().map(|e| (id, records.len(), e)) }
            });
            for (log, tokens, error) in join_all(appends).await.into_iter().flatten() {
                if let Some(times) = failing.note(&error.to_string(), clock.now().since(Time(0))) {
                    tracing::error!(
                        log = log.0,
                        tokens,
                        %error,
                        times,
                        "dead tokens not appended to the log; retrying at the next alert"
                    );
                }
            }
        }
    };
    tokio::select! {
        // Each waits for itself after every step: neither starves the other.
        biased;
        () = pruning.keep_time(clock) => {}
        () = appending => {}
    }
}

/// Appends to one log, beside the appends to the others: a log that refuses a record must not delay
/// the records of other logs.
async fn append(log: &dyn ChangeLog, id: LogId, records: &[Record]) -> Result<(), StoreError> {
    let batch = || vec![(id, RecordBatch::from_records(records))];
    let mut pause = std::time::Duration::from_millis(100);
    for _ in 1..TRIES {
        if log.append_all(batch()).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    log.append_all(batch()).await.map(drop)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests have tasks of their own")]
mod tests {
    use std::time::Duration;

    use clarion_proto::ids::{AppName, LaneId, Position};
    use clarion_runtime::world::World;

    use super::*;
    use crate::{
        lane_owner::feedback::tests::{LANE, dead},
        store::memory::MemoryStore,
    };

    /// What one report prunes, a minute later.
    async fn pruned(answers: Answers, tokens: &[wire::DeadToken]) -> u64 {
        let world = World::system();
        let clock = world.clock();
        let log: Arc<dyn ChangeLog> = Arc::new(MemoryStore::new(1, 1 << 20, &world));
        let (pruning, pruned) = Pruning::new();
        let pruning = Arc::new(pruning);
        let running = tokio::spawn(run(pruning.clone(), pruned, log.clone(), 8, 1, clock));
        let of = (AppName::from_id("demo").expect("a name"), LaneId(LANE));
        pruning.hear(&BTreeMap::from([(of, answers)]), tokens, &clock);
        tokio::time::sleep(Duration::from_secs(60)).await;
        running.abort();
        let head: Position = log.heads().await.expect("heads")[0];
        log.records_until(&[(LogId(0), head)]).await.expect("a count")[0]
    }

    #[tokio::test(start_paused = true)]
    async fn unregistered_tokens_are_pruned_whatever_else_is_said() {
        let tokens: Vec<_> = (0..200).map(|n| dead(n, n % 2 == 0)).collect();
        assert_eq!(pruned(Answers { accepted: 0, bad: 100 }, &tokens).await, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn bad_tokens_are_pruned_beside_acceptances() {
        assert_eq!(pruned(Answers { accepted: 1, bad: 1 }, &[dead(1, true)]).await, 1);
        assert_eq!(pruned(Answers { accepted: 0, bad: 1 }, &[dead(1, true)]).await, 0);
        let nameless = wire::DeadToken { app: String::new(), ..dead(1, true) };
        assert_eq!(pruned(Answers { accepted: 9, bad: 1 }, &[nameless]).await, 0);
    }
}
