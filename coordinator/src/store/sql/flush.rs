//! Appends that wait together become one flush: one commit serves all of them.
//!
//! ```text
//! append ─▶ queue (bounded) ─▶ joined by log, sealed ─▶ flush ─▶ heads, tail ─▶ answers
//!                                                       ▲   │ outcome unknown
//!                                             not there │   ▼
//!                                                       └─ ask by producer and number ─▶ known
//! ```
//!
//! One flush is under way at a time, and while it is, the next one gathers: the slower the
//! database, the larger the flushes. Batches of one log are joined into one batch, because their
//! records are fields of one message.
//!
//! A flush is never given up while its outcome is unknown: a later flush would go on at positions
//! that may be taken. Its callers do not wait for ever: each has a deadline ([`ANSWER_MAX`]).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use clarion_proto::ids::{LogId, Position, UnixMillis};
use clarion_runtime::world::World;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    database::Database,
    engine::{BATCH_BYTES, Engine, EngineError, Flush, FlushBatch, Flushed, Statement},
    fork,
    logs::{Logs, cost, digest},
};
use crate::store::{RecordBatch, StoreError};

/// Maximum number of calls that wait: some 100 bytes each besides their records.
const CALLS_MAX: usize = 8_192;
/// Maximum bytes of records that wait or are being flushed.
const WAITING_BYTES_MAX: u64 = 64 << 20;
/// Bytes of records above which no further call joins a flush. A database gets one flush as one
/// transaction, whose pages it keeps in memory.
const FLUSH_BYTES_MAX: usize = 8 << 20;
/// Bytes of records above which no further batch is joined to one of its log: a batch is one
/// message to a node.
const JOINED_BYTES_MAX: usize = 1 << 20;
/// Longest time that a call waits for its answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Time without appends after which the database is asked whether it is there.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// Pauses between two questions about an unknown outcome: from the first to the last, doubled.
const ASK_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Number of times that a flush may be stored by one answer and not by the next: an attempt that is
/// late explains one.
const CONTRADICTIONS_MAX: u32 = 3;

/// The way to append: a queue, and the tasks that empty it and watch what was written.
#[derive(Debug)]
pub(super) struct Flusher {
    queue: mpsc::Sender<Call>,
    waiting_bytes: Arc<AtomicU64>,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

/// One call of `append_all` that waits.
#[derive(Debug)]
struct Call {
    batches: Vec<(LogId, RecordBatch)>,
    /// Bytes of room that the caller has taken.
    room: u64,
    /// Bytes of the records.
    bytes: u64,
    /// Whether the call is part of a flush.
    begun: Arc<AtomicBool>,
    answer: oneshot::Sender<Result<Vec<Position>, StoreError>>,
}

impl Flusher {
    /// Starts the task that flushes, and the one that looks for lost flushes.
    pub(super) fn start<E: Engine>(
        database: Arc<Database<E>>,
        logs: Arc<Logs>,
        world: &World,
    ) -> Self {
        let (queue, calls) = mpsc::channel(CALLS_MAX);
        let (waiting_bytes, stop) = (Arc::default(), CancellationToken::new());
        let watch = fork::watch(Arc::clone(&database), Arc::clone(&logs));
        let run = Run {
            database,
            logs,
            calls,
            carried: None,
            waiting_bytes: Arc::clone(&waiting_bytes),
            stop: stop.clone(),
            producer: world.id(),
            number: 0,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(run.run());
        let stopped = stop.clone();
        tasks.spawn(async move {
            let _ = stopped.run_until_cancelled(watch).await;
        });
        Self { queue, waiting_bytes, stop, tasks: Mutex::new(tasks) }
    }

    /// Appends batches for which the caller has taken `room` bytes; what they do not take is given
    /// back.
    pub(super) async fn append(
        &self,
        batches: Vec<(LogId, RecordBatch)>,
        room: u64,
        logs: &Logs,
    ) -> Result<Vec<Position>, StoreError> {
        let bytes = batches.iter().map(|(_, batch)| batch.bytes() as u64).sum();
        let refused = |problem: String| {
            logs.room.give_back(room);
            Err(StoreError::Busy(problem))
        };
        // A call alone may be larger than the limit.
        let fits =
            |held: u64| (held == 0 || held + bytes <= WAITING_BYTES_MAX).then(|| held + bytes);
        if self.waiting_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return refused(format!("more than {WAITING_BYTES_MAX} bytes wait to be written"));
        }
        let (answer, answered) = oneshot::channel();
        let begun = Arc::<AtomicBool>::default();
        let call = Call { batches, room, bytes, begun: Arc::clone(&begun), answer };
        if let Err(error) = self.queue.try_send(call) {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return match error {
                mpsc::error::TrySendError::Full(_) => {
                    refused(format!("more than {CALLS_MAX} calls wait to be written"))
                }
                mpsc::error::TrySendError::Closed(_) => {
                    logs.room.give_back(room);
                    Err(StoreError::Away("it was closed".to_owned()))
                }
            };
        }
        match timeout(ANSWER_MAX, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                Err(StoreError::Away("it was closed; the change may have been stored".to_owned()))
            }
            Err(_) if begun.load(Ordering::Relaxed) => Err(StoreError::Busy(format!(
                "no answer within {} s; the change may have been stored",
                ANSWER_MAX.as_secs()
            ))),
            Err(_) => Err(StoreError::Busy(format!(
                "the change has waited for {} s and was not stored",
                ANSWER_MAX.as_secs()
            ))),
        }
    }

    /// Flushes what waits and ends the tasks; later calls are refused.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }
}

/// State of the task.
struct Run<E> {
    database: Arc<Database<E>>,
    logs: Arc<Logs>,
    calls: mpsc::Receiver<Call>,
    /// The next call, which did not fit into the flush before.
    carried: Option<Call>,
    waiting_bytes: Arc<AtomicU64>,
    stop: CancellationToken,
    producer: [u8; 16],
    /// Number of the newest flush.
    number: u64,
}

/// Batches of one log that are joined.
#[derive(Default)]
struct Joined {
    records: Vec<Bytes>,
    bytes: usize,
    count: u64,
}

impl<E: Engine> Run<E> {
    async fn run(mut self) {
        while let Some(first) = self.next().await {
            let calls = self.gather(first);
            if calls.is_empty() {
                continue;
            }
            self.number += 1;
            // The key is kept until the batches that it seals are in the database, and until the
            // heads tell so: which keys are in use is read from them.
            let held = self.logs.seals.hold();
            let (flush, records, answers) = self.join(calls);
            let outcome = self.carry_out(&flush).await;
            self.answer(&flush, records, answers, outcome);
            drop(held);
        }
    }

    /// The next call; `None`: the store is closed and no call waits.
    async fn next(&mut self) -> Option<Call> {
        if let Some(carried) = self.carried.take() {
            return Some(carried);
        }
        loop {
            let stopped = self.calls.is_closed();
            tokio::select! {
                biased;
                call = self.calls.recv() => return call,
                () = self.stop.cancelled(), if !stopped => self.calls.close(),
                () = sleep(PROBE_AFTER) => tokio::select! {
                    biased;
                    // A probe that hangs must not hold appends up.
                    call = self.calls.recv() => return call,
                    () = self.stop.cancelled(), if !stopped => {}
                    () = self.database.probe() => {}
                },
            }
        }
    }

    /// The calls of the next flush: `first` and those that wait and fit.
    fn gather(&mut self, first: Call) -> Vec<Call> {
        let mut calls = Vec::new();
        let (mut bytes, mut by_log) = (0, BTreeMap::<LogId, usize>::new());
        let mut next = Some(first);
        while let Some(call) = next.take().or_else(|| self.calls.try_recv().ok()) {
            if call.answer.is_closed() {
                // Nobody waits for it any more, and nothing of it is written.
                self.logs.room.give_back(call.room);
                self.waiting_bytes.fetch_sub(call.bytes, Ordering::Relaxed);
                continue;
            }
            let fits = |(log, batch): &(LogId, RecordBatch)| {
                let joined = by_log.get(log).copied().unwrap_or(0);
                joined == 0 || joined + batch.bytes() <= JOINED_BYTES_MAX
            };
            if !calls.is_empty()
                && (bytes + call.bytes > FLUSH_BYTES_MAX as u64 || !call.batches.iter().all(fits))
            {
                self.carried = Some(call);
                break;
            }
            bytes += call.bytes;
            for (log, batch) in &call.batches {
                *by_log.entry(*log).or_default() += batch.bytes();
            }
            call.begun.store(true, Ordering::Relaxed);
            calls.push(call);
        }
        calls
    }

    /// Joins the batches of calls by log, and seals them. Returns the joined records, too.
    fn join(&self, calls: Vec<Call>) -> (Flush, Vec<Bytes>, Vec<Answer>) {
        let mut logs = BTreeMap::<LogId, Joined>::new();
        let mut answers = Vec::with_capacity(calls.len());
        for Call { batches, room, bytes, answer, .. } in calls {
            answers.push(Answer {
                logs: batches.iter().map(|(log, _)| *log).collect(),
                room,
                bytes,
                answer,
            });
            for (log, batch) in batches {
                let joined = logs.entry(log).or_default();
                joined.bytes += batch.bytes();
                joined.count += u64::from(batch.count());
                joined.records.push(batch.into_records());
            }
        }
        let batch = |(log, joined): (LogId, Joined)| {
            let Joined { records, bytes, count } = joined;
            let plain = concatenated(records, bytes);
            let records = self.logs.seal(log, &plain);
            let digest = digest(&records);
            (FlushBatch { log, count, bytes: cost(bytes), digest, records }, plain)
        };
        let (batches, records) = logs.into_iter().map(batch).unzip();
        let (epoch, producer, number) = (self.database.epoch(), self.producer, self.number);
        (Flush { epoch, producer, number, batches }, records, answers)
    }

    /// Writes a flush until it is known whether it is stored.
    async fn carry_out(&self, flush: &Flush) -> Result<Vec<Flushed>, StoreError> {
        self.database.usable()?;
        let mut pause = ASK_PAUSE.0;
        let mut asked = false;
        let mut contradictions = 0;
        loop {
            match self.database.flush(flush.clone()).await {
                Ok(flushed) => return Ok(flushed),
                Err(EngineError::Unknown(_)) => asked = true,
                Err(EngineError::Duplicate) => (asked, contradictions) = (true, contradictions + 1),
                // An earlier attempt may still be committed.
                Err(EngineError::Away(_) | EngineError::Busy(_)) if asked => {}
                Err(error) => return Err(self.database.error(error)),
            }
            loop {
                sleep(pause).await;
                pause = (2 * pause).min(ASK_PAUSE.1);
                match self.stored(flush).await {
                    Ok(Some(flushed)) => return Ok(flushed),
                    Ok(None) if contradictions == CONTRADICTIONS_MAX => {
                        let error = StoreError::Broken(
                            "a log refuses its next batch because the batch is there, and it is \
                             not: restore the database from a backup"
                                .to_owned(),
                        );
                        self.database.stop(error.clone());
                        return Err(error);
                    }
                    Ok(None) => break,
                    Err(error) => self.database.usable().map_err(|_| error)?,
                }
                if self.stop.is_cancelled() {
                    return Err(StoreError::Away("it was closed".to_owned()));
                }
            }
        }
    }

    /// What the database made of a flush; `None`: it is not stored.
    async fn stored(&self, flush: &Flush) -> Result<Option<Vec<Flushed>>, StoreError> {
        let query = Statement::new(
            "SELECT log, position, appended, records_until, chain FROM batch \
             WHERE producer = $1 AND number = $2 ORDER BY log",
        );
        let query = query.bytes(flush.producer.to_vec()).integer(flush.number);
        let rows = self.database.read(query).await?;
        let flushed = rows.iter().map(|row| {
            let log = u16::try_from(row.unsigned(0)?).map_err(|_| not_ours())?;
            Ok(Flushed {
                log: LogId(log),
                position: Position(row.unsigned(1)?),
                appended: UnixMillis(row.unsigned(2)?),
                records_until: row.unsigned(3)?,
                chain: row.hash(4)?,
            })
        });
        let flushed = self.database.noted(flushed.collect::<Result<Vec<_>, _>>())?;
        Ok(Some(flushed).filter(|flushed| !flushed.is_empty()))
    }

    /// Answers the calls of a flush, and gives back the room that it did not take.
    fn answer(
        &self,
        flush: &Flush,
        records: Vec<Bytes>,
        answers: Vec<Answer>,
        outcome: Result<Vec<Flushed>, StoreError>,
    ) {
        let outcome =
            outcome.and_then(|flushed| match self.logs.appended(flush, records, &flushed) {
                Ok(()) => Ok(flushed),
                Err(problem) => {
                    let error = StoreError::Broken(format!(
                        "it is not as this process left it: {problem}; find out which backup or \
                         which other process wrote to the database"
                    ));
                    self.database.stop(error.clone());
                    Err(error)
                }
            });
        let taken: u64 = answers.iter().map(|answer| answer.room).sum();
        let kept = match &outcome {
            Ok(_) => flush.batches.iter().map(|batch| batch.bytes).sum(),
            Err(_) => 0,
        };
        self.logs.room.give_back(taken.saturating_sub(kept));
        let positions: Result<BTreeMap<LogId, Position>, StoreError> = outcome
            .map(|flushed| flushed.iter().map(|batch| (batch.log, batch.position)).collect());
        for Answer { logs, bytes, answer, .. } in answers {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            let of_call = positions.as_ref().map_err(Clone::clone);
            let of_call = of_call.map(|all| logs.iter().map(|log| all[log]).collect());
            // A caller that does not wait any more needs no answer.
            drop(answer.send(of_call));
        }
    }
}

/// What is left of a call while its flush is written.
struct Answer {
    /// Logs of its batches, in the order given.
    logs: Vec<LogId>,
    room: u64,
    bytes: u64,
    answer: oneshot::Sender<Result<Vec<Position>, StoreError>>,
}

fn concatenated(mut parts: Vec<Bytes>, bytes: usize) -> Bytes {
    if let [_] = parts[..] {
        return parts.remove(0);
    }
    let mut joined = BytesMut::with_capacity(bytes);
    parts.iter().for_each(|part| joined.extend_from_slice(part));
    joined.freeze()
}

fn not_ours() -> EngineError {
    EngineError::Broken("a row of its logs is damaged: restore it from a backup".to_owned())
}

const _: () = assert!(BATCH_BYTES < 1_024, "room is taken for each batch of a call");
