//! Tables and their versions: one text for all engines.
//!
//! `TEXT` is compared by bytes ([`Engine::migrate`](super::Engine::migrate)). SQLite gives columns
//! of type BYTEA the affinity NUMERIC, which leaves bytes as they are; a cast to BYTEA would not.
//! All integers are BIGINT, so that engines bind and read one type.
//!
//! | Table | Row |
//! |---|---|
//! | `meta` | what the store was made for, and the version of the schema |
//! | `chief` | epoch of the process that writes |
//! | `app` | app; a deleted app keeps its row with its identity and no record |
//! | `alert` | alert; `apps` are the apps that it addresses, each between commas |
//! | `cluster` | numbered records: ownership, lane director, and others |
//! | `checkpoint` | newest checkpoint of an active alert |
//! | `log_head` | newest position of a log, its sums, and where it begins |
//! | `batch` | appended batch |
//!
//! | Version | What it changed |
//! |---|---|
//! | 1 | |
//! | 2 | `batch.records` are sealed; those that version 1 appended stay as they are |

use super::{Hash, Statement};

/// Version of the schema that this program writes. A store of a later version is refused.
pub(super) const VERSION: u64 = 2;

/// The table that tells the version; it stays as it is in all versions.
pub(super) const META: &str =
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BYTEA NOT NULL)";

/// Tables and indexes of versions 1 and 2.
pub(super) const TABLES: [&str; 12] = [
    "CREATE TABLE chief (
        id BIGINT PRIMARY KEY CHECK (id = 1),
        epoch BIGINT NOT NULL,
        incarnation BYTEA NOT NULL,
        counter BIGINT NOT NULL
    )",
    // `deleted`: 0, or the number of the deletion. `record`: empty once it is deleted.
    "CREATE TABLE app (
        name TEXT PRIMARY KEY,
        revision BIGINT NOT NULL,
        identity BIGINT NOT NULL,
        deleted BIGINT NOT NULL,
        record BYTEA NOT NULL
    )",
    "CREATE INDEX app_deleted ON app (deleted)",
    // `external_id`: bytes, because a text of PostgreSQL has no NUL.
    // `positions`: newest position of each log at the creation, with commas between them.
    // `ended`: 0, or the number of the end. `active`: 1 until the alert has ended, then 0.
    "CREATE TABLE alert (
        name TEXT PRIMARY KEY,
        request_id BYTEA NOT NULL UNIQUE,
        created BIGINT NOT NULL,
        external_id BYTEA NOT NULL,
        apps TEXT NOT NULL,
        active BIGINT NOT NULL,
        ended BIGINT NOT NULL,
        epoch BIGINT NOT NULL,
        revision BIGINT NOT NULL,
        bytes BIGINT NOT NULL,
        positions TEXT NOT NULL,
        record BYTEA NOT NULL
    )",
    "CREATE INDEX alert_by_age ON alert (created, name)",
    "CREATE INDEX alert_by_external_id ON alert (external_id, created, name)",
    "CREATE INDEX alert_by_end ON alert (active, ended)",
    "CREATE TABLE cluster (key TEXT PRIMARY KEY, number BIGINT NOT NULL, record BYTEA NOT NULL)",
    "CREATE TABLE checkpoint (
        alert TEXT PRIMARY KEY,
        epoch BIGINT NOT NULL,
        number BIGINT NOT NULL,
        bytes BYTEA NOT NULL
    )",
    // `first`: oldest position held. `trimmed_chain`: chain of the batch before it.
    "CREATE TABLE log_head (
        log BIGINT PRIMARY KEY,
        position BIGINT NOT NULL,
        appended BIGINT NOT NULL,
        records BIGINT NOT NULL,
        bytes BIGINT NOT NULL,
        chain BYTEA NOT NULL,
        first BIGINT NOT NULL,
        records_trimmed BIGINT NOT NULL,
        trimmed_chain BYTEA NOT NULL
    )",
    "CREATE TABLE batch (
        log BIGINT NOT NULL,
        position BIGINT NOT NULL,
        appended BIGINT NOT NULL,
        records_until BIGINT NOT NULL,
        producer BYTEA NOT NULL,
        number BIGINT NOT NULL,
        digest BYTEA NOT NULL,
        chain BYTEA NOT NULL,
        records BYTEA NOT NULL,
        PRIMARY KEY (log, position)
    )",
    // One batch of a log in a flush; and the way to ask whether a flush is there.
    "CREATE UNIQUE INDEX batch_by_flush ON batch (producer, number, log)",
];

/// Marks a store of a former version as one of this version.
pub(super) fn raise() -> Statement {
    Statement::new("UPDATE meta SET value = $1 WHERE key = 'schema_version'")
        .bytes(VERSION.to_string().into_bytes())
}

/// Row of `chief` before the first process: no process has epoch 0.
pub(super) fn no_chief() -> Statement {
    Statement::new("INSERT INTO chief (id, epoch, incarnation, counter) VALUES (1, 0, $1, 0)")
        .bytes(vec![0; 16])
}

/// Row of a log that was never appended to; its first chain is the identity of the logs, filled up
/// with zeros.
pub(super) fn empty_log(log: u16, identity: [u8; 16]) -> Statement {
    let mut chain = identity.to_vec();
    chain.resize(size_of::<Hash>(), 0);
    Statement::new(
        "INSERT INTO log_head (log, position, appended, records, bytes, chain, first, \
         records_trimmed, trimmed_chain) VALUES ($1, 0, 0, 0, 0, $2, 1, 0, $2)",
    )
    .integer(log)
    .bytes(chain)
}
