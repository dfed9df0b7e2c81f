//! Pruning: removes devices from the registry whose tokens gateways call dead.
//!
//! A gateway that gets the wrong credential, topic or environment calls *every* token bad, and
//! would empty the registry in a minute. So a token that is called bad is pruned only with evidence
//! ([`evidence`]); a token that the gateway calls unregistered is pruned at once.
//!
//! Each alert task evaluates its own reports, under one lock, so that an alarm starts before the
//! progress of the same report is published. One task ([`run`]) appends the pruned tokens to the
//! logs.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::{
    device::{Change, Record},
    ids::{AppName, DeviceId, LaneId, LogId, UnixMillis, log_of, partition_of},
    time::Time,
    wire::shard_v1 as wire,
};
use clarion_runtime::{
    repeated::Repeated,
    world::{Clock, Moment},
};
use parking_lot::Mutex;
use tokio::sync::{
    Notify,
    mpsc::{self, error::TrySendError},
    watch,
};

use crate::{
    lane::AppLane,
    progress::Answers,
    store::{ChangeLog, RecordBatch, StoreError},
};
use evidence::{Alarm, BadToken, Evidence};

pub(crate) mod evidence;

/// Maximum number of reports whose dead tokens wait for the log.
const REPORTS: usize = 256;
/// Number of tries to append before the tokens are dropped; the gateway calls them dead again at
/// the next alert.
const TRIES: u32 = 5;
/// Longest pause between tries.
const PAUSE_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// Decides which tokens are pruned; shared by all alerts.
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

/// A token to be pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dead {
    device: DeviceId,
    token_hash: u64,
    /// Time since when the token is dead, as the gateway says it.
    gateway_time: Option<UnixMillis>,
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
        let (mut dead, mut bad) = (Vec::new(), Vec::new());
        let heard = clock.wall();
        for token in tokens {
            let Some(known) = Dead::read(token) else {
                let now = clock.now().since(Time(0));
                if let Some(times) = self.malformed.lock().note("", now) {
                    let bytes = token.device.len();
                    tracing::warn!(
                        bytes,
                        times,
                        "dead token ignored: its device id is not 16 bytes"
                    );
                }
                continue;
            };
            match (token.needs_evidence, AppName::from_name(&token.app).ok()) {
                (false, _) => dead.push(known),
                (true, Some(app)) => {
                    let called =
                        BadToken { device: known.device, token_hash: known.token_hash, heard };
                    bad.push(((app, LaneId(token.lane)), called));
                }
                // The app is unknown, so there is no evidence: the device is kept.
                (true, None) => {}
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
            // A deadline passes once; hearing an answer only means that the deadline is read again.
            tokio::select! {
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

impl Dead {
    fn read(token: &wire::DeadToken) -> Option<Self> {
        let device = token.device.as_slice().try_into().ok()?;
        let gateway_time =
            (token.gateway_time_ms != 0).then_some(UnixMillis(token.gateway_time_ms));
        Some(Self { device: DeviceId(device), token_hash: token.token_hash, gateway_time })
    }

    fn record(self, now: UnixMillis) -> Record {
        let change =
            Change::Feedback { token_hash: self.token_hash, gateway_time: self.gateway_time };
        Record { device: self.device, observed: now, change }
    }
}

impl From<BadToken> for Dead {
    fn from(BadToken { device, token_hash, heard }: BadToken) -> Self {
        Self { device, token_hash, gateway_time: Some(heard) }
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
        while let Some(dead) = pruned.recv().await {
            let mut by_log: BTreeMap<LogId, Vec<Record>> = BTreeMap::new();
            for dead in dead {
                let id = log_of(partition_of(dead.device, partitions), logs);
                by_log.entry(id).or_default().push(dead.record(clock.wall()));
            }
            for (id, records) in by_log {
                let Err(error) = append(&*log, id, &records).await else { continue };
                if let Some(times) = failing.note(&error.to_string(), clock.now().since(Time(0))) {
                    let (log, tokens) = (id.0, records.len());
                    tracing::error!(
                        log,
                        tokens,
                        %error,
                        times,
                        "dead tokens not appended to the log; retrying at the next alert"
                    );
                }
            }
        }
    };
    // Two tasks in one, of which only the first one ends.
    tokio::select! {
        biased;
        () = appending => {}
        () = pruning.keep_time(clock) => {}
    }
}

/// Appends to one log: a log that refuses a record must not delay the records of other logs.
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

    use clarion_proto::ids::Position;
    use clarion_runtime::world::World;

    use super::*;
    use crate::store::memory::MemoryStore;

    const LANE: u32 = 3;

    fn dead(device: u8, needs_evidence: bool) -> wire::DeadToken {
        let app = "apps/demo".to_owned();
        wire::DeadToken {
            lane: LANE,
            device: vec![device; 16],
            token_hash: 1,
            gateway_time_ms: 0,
            app,
            needs_evidence,
        }
    }

    #[test]
    fn a_device_that_is_no_device_is_left_out() {
        assert!(Dead::read(&wire::DeadToken { device: vec![7; 15], ..dead(1, false) }).is_none());
    }

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
