//! The logs of changes: appended by flushes, read from memory or from the database.

use async_trait::async_trait;
use clarion_proto::ids::{LogId, LogIdentity, Position};
use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::{
    SqlStore,
    database::Attempts,
    engine::{BATCH_BYTES, Engine, EngineError, Row, Statement, StoredBatch},
    fork,
    logs::{self, Head, Newest},
};
use crate::{
    seal::{Generation, generation_of},
    store::{Batch, ChainAt, ChangeLog, Link, RecordBatch, StoreError, Usage},
};

/// Moves the beginning of a log from `$3` to `$4`; `$5`: bytes of the batches between.
const TRIM: &str = "UPDATE log_head SET first = $4, \
     records_trimmed = (SELECT records_until FROM batch WHERE log = $2 AND position = $4 - 1), \
     trimmed_chain = (SELECT chain FROM batch WHERE log = $2 AND position = $4 - 1), \
     bytes = bytes - $5 \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 AND log = $2 AND first = $3 \
     AND EXISTS (SELECT 1 FROM batch WHERE log = $2 AND position = $4 - 1) RETURNING first";
const CHAIN: &str = "SELECT chain FROM batch WHERE log = $1 AND position = $2";
/// Where a log begins.
const BEGINNING: &str = "SELECT first, records_trimmed, trimmed_chain FROM log_head WHERE log = $1";
/// Bytes of the batches that a trim removes.
const TRIMMED_BYTES: &str = "SELECT CAST(coalesce(sum(length(records) + $4), 0) AS BIGINT) \
     FROM batch WHERE log = $1 AND position >= $2 AND position < $3";
/// Removes at most some batches before the beginning of a log: a large deletion would stop appends.
const DROP: &str = "DELETE FROM batch WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 \
     AND log = $2 AND position < $3 AND position < \
     (SELECT min(position) FROM batch WHERE log = $2) + $4 RETURNING position";
/// Number of batches that one statement removes, of at most some MiB each.
const DROP_AT_ONCE: u64 = 64;

#[async_trait]
impl<E: Engine> ChangeLog for SqlStore<E> {
    fn identity(&self) -> LogIdentity {
        self.logs.identity
    }

    fn logs(&self) -> u16 {
        self.logs.count()
    }

    fn links(&self) -> Vec<Link> {
        self.logs.links()
    }

    async fn chain_at(&self, log: LogId, position: Position) -> Result<ChainAt, StoreError> {
        self.database.usable()?;
        let head = self.logs.head(log)?;
        if position > head.position {
            return Ok(ChainAt::Ahead);
        }
        if position == head.position {
            return Ok(ChainAt::Known(head.chain));
        }
        if position < head.first {
            let is_known = position.0 + 1 == head.first.0;
            return Ok(if is_known {
                ChainAt::Known(head.trimmed_chain)
            } else {
                ChainAt::Trimmed
            });
        }
        let query = Statement::new(CHAIN).integer(log.0).integer(position.0);
        let rows = self.rows_of(log, position, query).await?;
        // It may have been trimmed meanwhile.
        let row = rows.first().map(|row| row.hash(0));
        Ok(self.database.noted(row.transpose())?.map_or(ChainAt::Trimmed, ChainAt::Known))
    }

    async fn append_all(
        &self,
        batches: Vec<(LogId, RecordBatch)>,
    ) -> Result<Vec<Position>, StoreError> {
        self.database.usable()?;
        for (log, _) in &batches {
            self.logs.head(*log)?;
        }
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let growing = batches.iter().any(|(_, batch)| batch.growing() > 0);
        let cost = batches.iter().map(|(_, batch)| logs::cost(batch.bytes())).sum();
        match self.logs.room.take(cost, growing) {
            Ok(()) => {}
            Err(_) if !growing => self.logs.room.take_reserve(cost)?,
            Err(full) => return Err(full),
        }
        self.flusher.append(batches, cost, &self.logs).await
    }

    fn has_room(&self) -> watch::Receiver<bool> {
        self.logs.room.watch()
    }

    fn usage(&self) -> Usage {
        self.logs.room.usage()
    }

    async fn heads(&self) -> Result<Vec<Position>, StoreError> {
        self.database.usable()?;
        Ok(self.logs.heads())
    }

    async fn read_many(
        &self,
        after: &[(LogId, Position)],
        bytes_max: usize,
    ) -> Result<Vec<(LogId, Vec<Batch>)>, StoreError> {
        self.database.usable()?;
        let (mut found, mut left) = (Vec::new(), bytes_max);
        let mut rest = after;
        while let [(log, position), others @ ..] = rest {
            if left == 0 {
                break;
            }
            let batches = match self.logs.newest(*log, *position, left, found.is_empty()) {
                Ok(Newest::Nothing) => Vec::new(),
                Ok(Newest::Tail(batches)) => batches,
                Ok(Newest::Stored) => {
                    let stored = self.stored(rest, &mut left, &mut found).await?;
                    rest = &rest[stored..];
                    continue;
                }
                // A log that cannot be read is reported when nothing else was found.
                Err(error) if found.is_empty() => return Err(error),
                Err(_) => break,
            };
            left -= bytes_of(&batches).min(left);
            if !batches.is_empty() {
                found.push((*log, batches));
            }
            rest = others;
        }
        Ok(found)
    }

    async fn records_until(&self, of: &[(LogId, Position)]) -> Result<Vec<u64>, StoreError> {
        self.database.usable()?;
        let count = async |&(log, until): &(LogId, Position)| {
            if let Some(known) = self.logs.records_until(log, until)? {
                return Ok(known);
            }
            let query = "SELECT records_until FROM batch WHERE log = $1 AND position = $2";
            let query = Statement::new(query).integer(log.0).integer(until.0);
            let rows = self.rows_of(log, until, query).await?;
            let Some(row) = rows.into_iter().next() else {
                // It may have been trimmed meanwhile.
                if let Some(known) = self.logs.records_until(log, until)? {
                    return Ok(known);
                }
                let problem = "the batch is missing".to_owned();
                return Err(StoreError::Damaged { log, position: until, problem });
            };
            self.database.noted(row.unsigned(0))
        };
        try_join_all(of.iter().map(count)).await
    }

    async fn trim(&self, log: LogId, before: Position) -> Result<(), StoreError> {
        self.database.usable()?;
        let head = self.logs.head(log)?;
        let first = before.min(Position(head.position.0 + 1));
        if first <= head.first {
            return Ok(());
        }
        let query = Statement::new(TRIMMED_BYTES).integer(log.0).integer(head.first.0);
        let query = query.integer(first.0).integer(BATCH_BYTES);
        let rows = self.rows_of(log, head.first, query).await?;
        let bytes = rows.first().map_or(Ok(0), |row| row.unsigned(0));
        let bytes = self.database.noted(bytes)?.min(head.bytes);
        let trim = self.database.fenced(TRIM).integer(log.0).integer(head.first.0);
        let written = self.database.write(trim.integer(first.0).integer(bytes)).await?;
        if !Attempts::default().changed(written) {
            self.database.check_chief().await?;
        }
        // Read again, because the outcome may be unknown, and another trim may have been faster.
        let rows = self.database.read(Statement::new(BEGINNING).integer(log.0)).await?;
        let Some(row) = rows.first() else { return Err(StoreError::Missing(format!("log {log}"))) };
        let stored = Position(self.database.noted(row.unsigned(0))?);
        let records = self.database.noted(row.unsigned(1))?;
        let chain = self.database.noted(row.hash(2))?;
        if stored < first {
            return Err(StoreError::Away(format!("log {log} was not trimmed; try again")));
        }
        self.logs.trimmed(log, stored, records, chain, bytes);
        self.drop_trimmed(log, first).await
    }

    fn grown(&self) -> watch::Receiver<u64> {
        self.logs.grown.subscribe()
    }

    async fn oldest_generation(&self) -> Result<Option<Generation>, StoreError> {
        self.database.usable()?;
        let mut oldest = None;
        for log in (0..self.logs.count()).map(LogId) {
            let (head, first) = match self.first_batch(log).await? {
                Some(found) => found,
                None => continue,
            };
            let after = Position(head.first.0 - 1);
            let first = logs::checked(&head, after, vec![first])?;
            // A generation that was never made: whatever is not sealed keeps all keys.
            let sealed_by = generation_of(&first[0].records).unwrap_or(Generation(0));
            oldest = Some(oldest.map_or(sealed_by, |oldest: Generation| oldest.min(sealed_by)));
        }
        Ok(oldest)
    }
}

impl<E: Engine> SqlStore<E> {
    /// Rows about the batches of one log from a position on. Damage of them concerns only the
    /// readers of the log, not the process.
    async fn rows_of(
        &self,
        log: LogId,
        position: Position,
        query: Statement,
    ) -> Result<Vec<Row>, StoreError> {
        match self.database.engine().query(query).await {
            Err(EngineError::Broken(problem)) => {
                Err(StoreError::Damaged { log, position, problem })
            }
            rows => self.database.noted(rows),
        }
    }

    /// Reads logs from the database, from the first of `rest` to the first that the tail has, and
    /// adds what was found. Returns the number of logs that were read.
    async fn stored(
        &self,
        rest: &[(LogId, Position)],
        left: &mut usize,
        found: &mut Vec<(LogId, Vec<Batch>)>,
    ) -> Result<usize, StoreError> {
        let only_stored = |&&(log, after): &&(LogId, Position)| {
            matches!(self.logs.newest(log, after, 0, false), Ok(Newest::Stored))
        };
        let asked: Vec<_> = rest.iter().take_while(only_stored).copied().collect();
        let heads =
            asked.iter().map(|(log, _)| self.logs.head(*log)).collect::<Result<Vec<_>, _>>()?;
        let read = self.database.engine().read(asked.clone(), *left).await;
        let mut stored = match read.map_err(|error| self.database.read_error(error)) {
            Ok(stored) => stored.into_iter().peekable(),
            Err(_) if !found.is_empty() => {
                *left = 0;
                return Ok(asked.len());
            }
            Err(error) => return Err(error),
        };
        for (&(log, after), head) in asked.iter().zip(&heads) {
            let of_log = std::iter::from_fn(|| stored.next_if(|batch| batch.flushed.log == log));
            // A batch whose flush is not answered yet is left for the next read.
            let of_log = of_log.filter(|batch| batch.flushed.position <= head.position);
            let of_log: Vec<StoredBatch> = of_log.collect();
            let none = of_log.is_empty();
            let batches = match self.logs.opened(head, after, of_log) {
                // The log has batches after the position, and the first log that is asked for
                // comes with one at least.
                Ok(_) if none && found.is_empty() => {
                    let (position, problem) =
                        (Position(after.0 + 1), "the batch is missing".into());
                    Err(StoreError::Damaged { log, position, problem })
                }
                checked => checked,
            };
            // It may have been trimmed meanwhile, or the database lost the newest batches of all.
            let batches =
                batches.or_else(|error| self.logs.newest(log, after, 0, false).and(Err(error)));
            if batches.is_err() {
                fork::compare(&self.database, &self.logs).await?;
            }
            match batches {
                Ok(batches) if batches.is_empty() => break,
                Ok(batches) => {
                    *left -= bytes_of(&batches).min(*left);
                    found.push((log, batches));
                }
                Err(error) if found.is_empty() => return Err(error),
                Err(_) => {
                    *left = 0;
                    break;
                }
            }
        }
        Ok(asked.len())
    }

    /// The first batch of a log, with the head that it follows from; `None`: the log is empty.
    async fn first_batch(&self, log: LogId) -> Result<Option<(Head, StoredBatch)>, StoreError> {
        let head = self.logs.head(log)?;
        if head.first > head.position {
            return Ok(None);
        }
        let after = Position(head.first.0 - 1);
        let read = self.database.engine().read(vec![(log, after)], 1).await;
        let read = read.map_err(|error| self.database.read_error(error))?;
        match read.into_iter().next() {
            Some(first) => Ok(Some((head, first))),
            // It may have been trimmed meanwhile.
            None if self.logs.head(log)?.first > head.first => {
                Box::pin(self.first_batch(log)).await
            }
            None => {
                let (position, problem) = (head.first, "the batch is missing".to_owned());
                Err(StoreError::Damaged { log, position, problem })
            }
        }
    }

    /// Removes the batches of a log before its beginning.
    async fn drop_trimmed(&self, log: LogId, first: Position) -> Result<(), StoreError> {
        loop {
            let drop = self.database.fenced(DROP).integer(log.0).integer(first.0);
            match self.database.engine().execute(drop.integer(DROP_AT_ONCE)).await {
                // Batches of version 1 have tokens in plain text.
                Ok(rows) if rows.is_empty() => return self.database.scrub().await,
                Ok(_) => {}
                // The next trim removes the rest.
                Err(EngineError::Unknown(_)) => return Ok(()),
                // Nobody reads these batches any more.
                Err(EngineError::Broken(problem)) => {
                    let position = Position(first.0 - 1);
                    return Err(StoreError::Damaged { log, position, problem });
                }
                Err(error) => return Err(self.database.error(error)),
            }
        }
    }
}

fn bytes_of(batches: &[Batch]) -> usize {
    batches.iter().map(|batch| batch.records.len()).sum()
}
