//! The statement of a flush, and the statement that reads batches.
//!
//! **One flush is one statement that commits by itself**, because each other form was seen to fail:
//!
//! | Form | What happens |
//! |---|---|
//! | `UPDATE log_head ... WHERE log = ANY(...)` | locks in scan order: two flushes deadlock |
//! | `INSERT ... ON CONFLICT DO NOTHING` | leaves a gap, for which readers wait for ever |
//! | several statements in a transaction | a client that stops before COMMIT blocks all writers |
//! | cancelling a flush that takes long | the commit succeeds, and no standby has it |
//!
//! The heads are locked `ORDER BY log`. Row locks are held until the commit is visible, so that the
//! commits of one log become visible in the order of their positions, without a gap.

use bytes::Bytes;
use clarion_proto::ids::{LogId, Position, UnixMillis};
use tokio_postgres::{Error, Row};

use super::{
    super::sql::{Flush, Flushed, Hash, StoredBatch},
    query::{Query, integer},
};

/// Locks the chief's row and the heads, appends to each log, and moves the heads.
///
/// The lock on the chief's row excludes a takeover between the check of the epoch and the commit.
/// The time is read after the last head is locked (`clock` counts the heads), so that it is later
/// than that of every flush before. A missing head appends nothing.
const FLUSH: &str = "
WITH fence AS MATERIALIZED (
  SELECT epoch FROM chief WHERE id = 1 AND epoch = $1 FOR KEY SHARE
), head AS MATERIALIZED (
  SELECT log, position, appended, records, bytes, chain FROM log_head
  WHERE log = ANY($4) AND EXISTS (SELECT 1 FROM fence) ORDER BY log FOR UPDATE
), clock AS MATERIALIZED (
  SELECT count(*) AS heads, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now
  FROM head
), next AS MATERIALIZED (
  SELECT h.log, h.position + 1 AS position, greatest(h.appended, c.now) AS appended,
    h.records + g.count AS records_until, h.bytes + g.bytes AS bytes, g.digest,
    sha256(h.chain || g.digest) AS chain, g.records
  FROM head h JOIN unnest($4, $5, $6, $7, $8) AS g(log, count, bytes, digest, records) USING (log)
  CROSS JOIN clock c WHERE c.heads = cardinality($4)
), inserted AS (
  INSERT INTO batch
    (log, position, appended, records_until, producer, number, digest, chain, records)
  SELECT log, position, appended, records_until, $2, $3, digest, chain, records FROM next
), moved AS (
  UPDATE log_head h SET position = n.position, appended = n.appended, records = n.records_until,
    bytes = n.bytes, chain = n.chain
  FROM next n WHERE h.log = n.log
)
SELECT log, position, appended, records_until, chain FROM next ORDER BY log";

/// Batches of several logs up to a number of bytes, at least one.
///
/// The sizes are summed before the records are read. At most [`ROWS_MAX`] batches of a log come, so
/// that a reader far behind does not make the server walk through the whole log.
const READ: &str = "
WITH held AS (
  SELECT a.place, a.log, b.position, octet_length(b.records) AS size
  FROM unnest($1, $2) WITH ORDINALITY AS a(log, after, place)
  CROSS JOIN LATERAL (
    SELECT position, records FROM batch
    WHERE log = a.log AND position > a.after ORDER BY position LIMIT $4
  ) b
), summed AS (
  SELECT place, log, position, sum(size) OVER in_order AS bytes,
    row_number() OVER in_order AS number
  FROM held WINDOW in_order AS (ORDER BY place, position)
)
SELECT b.log, b.position, b.appended, b.records_until, b.chain, b.digest, b.records,
  (SELECT p.chain FROM batch p WHERE p.log = b.log AND p.position = b.position - 1) AS before
FROM summed s JOIN batch b ON b.log = s.log AND b.position = s.position
WHERE s.bytes <= $3 OR s.number = 1 ORDER BY s.place, b.position";

/// Maximum number of batches of one log in one read.
const ROWS_MAX: i64 = 1_024;

/// The query that appends a flush.
pub(super) fn append(flush: Flush) -> Query {
    let integers = |of: fn(&super::super::sql::FlushBatch) -> u64| {
        flush.batches.iter().map(|batch| integer(of(batch))).collect::<Vec<_>>()
    };
    let (logs, counts) = (integers(|b| b.log.0.into()), integers(|b| b.count));
    let bytes = integers(|b| b.bytes);
    let digests: Vec<Bytes> =
        flush.batches.iter().map(|b| Bytes::copy_from_slice(&b.digest)).collect();
    let (epoch, producer, number) = (flush.epoch.0, flush.producer, flush.number);
    let records: Vec<Bytes> = flush.batches.into_iter().map(|batch| batch.records).collect();
    Query::new(FLUSH)
        .with(epoch)
        .with(producer)
        .with(number)
        .with(logs)
        .with(counts)
        .with(bytes)
        .with(digests)
        .with(records)
}

/// The query that reads batches after positions.
pub(super) fn read(after: &[(LogId, Position)], bytes_max: usize) -> Query {
    read_rows(after, integer(u64::try_from(bytes_max).unwrap_or(u64::MAX)), ROWS_MAX)
}

/// The query that reads the batch after a position.
pub(super) fn read_one(log: LogId, after: Position) -> Query {
    read_rows(&[(log, after)], 0, 1)
}

fn read_rows(after: &[(LogId, Position)], bytes_max: i64, rows_max: i64) -> Query {
    let logs: Vec<i64> = after.iter().map(|(log, _)| i64::from(log.0)).collect();
    let positions: Vec<i64> = after.iter().map(|(_, position)| integer(position.0)).collect();
    Query::new(READ).with(logs).with(positions).with(bytes_max).with(rows_max)
}

/// A row of [`append`].
pub(super) fn flushed(row: &Row) -> Result<Flushed, Error> {
    let unsigned = |column: usize| {
        row.try_get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or_default())
    };
    Ok(Flushed {
        log: LogId(u16::try_from(unsigned(0)?).unwrap_or(u16::MAX)),
        position: Position(unsigned(1)?),
        appended: UnixMillis(unsigned(2)?),
        records_until: unsigned(3)?,
        chain: hash(row.try_get(4)?),
    })
}

/// A row of [`read`].
pub(super) fn stored(row: &Row) -> Result<StoredBatch, Error> {
    Ok(StoredBatch {
        flushed: flushed(row)?,
        digest: hash(row.try_get(5)?),
        records: Bytes::copy_from_slice(row.try_get(6)?),
        before: row.try_get::<_, Option<&[u8]>>(7)?.map(hash),
    })
}

/// Bytes of a hash; a wrong length becomes a hash that matches nothing, so that the caller's check
/// finds the damage.
fn hash(bytes: &[u8]) -> Hash {
    bytes.try_into().unwrap_or_default()
}
