use std::{fs, os::unix::fs::PermissionsExt as _};

use clarion_runtime::world::World;
use proptest::{prelude::*, sample::select};

use super::*;
use crate::{
    seal::{Generation, KEY_BYTES, Seals},
    store::{
        AlertStore, ChangeLog, StoreError,
        fixtures::seals,
        sql::{
            BATCH_BYTES, FlushBatch, MadeFor, OpenError, SqlStore,
            model::{batch, compare, step},
        },
        suite::{app, suite},
    },
};

fn made_for() -> MadeFor {
    MadeFor { cluster: "c".to_owned(), partitions: 8, logs: 4, device_key: None }
}

/// Opens the store of a file; `tail`: bytes of the newest batches in memory.
async fn open(path: &Path, tail: usize) -> Result<SqlStore<SqliteEngine>, OpenError> {
    let world = World::system();
    let engine = SqliteEngine::open(path, world.clock()).await?;
    SqlStore::open(engine, &made_for(), 1 << 30, tail, seals(), &world).await
}

/// An empty store. Its file has no name any more, so that nothing is left when it is closed.
async fn store(tail: usize) -> SqlStore<SqliteEngine> {
    let folder = tempfile::tempdir().expect("a folder");
    open(&folder.path().join("store.sqlite"), tail).await.expect("a new file")
}

suite! { store(1 << 20).await }

/// The same requirements with every read from the file.
mod without_tail {
    use super::*;

    suite! { store(0).await }
}

async fn append(store: &impl ChangeLog, log: u16, byte: u8) -> Position {
    store.append_all(vec![(LogId(log), batch(byte))]).await.expect("room")[0]
}

async fn text_of_refusal(path: &Path) -> String {
    open(path, 0).await.expect_err("refused").to_string()
}

#[tokio::test]
async fn a_store_that_was_closed_is_there_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    let store = open(&path, 1 << 20).await.expect("a new file");
    store.create_app(app("demo")).await.expect("room");
    append(&store, 1, 7).await;
    let identity = store.identity();
    store.close().await;
    assert!(matches!(store.heads().await, Ok(_) | Err(StoreError::Away(_))));
    let late = store.append_all(vec![(LogId(1), batch(1))]).await;
    assert!(matches!(late, Err(StoreError::Away(_))), "{late:?}");

    let store = open(&path, 1 << 20).await.expect("the same file");
    assert_eq!(store.identity(), identity);
    assert_eq!(store.heads().await, Ok([0, 1, 0, 0].map(Position).to_vec()));
    assert_eq!(append(&store, 1, 8).await, Position(2));
    let read = store.read_many(&[(LogId(1), Position(0))], 1 << 20).await.expect("up");
    assert_eq!(read[0].1.iter().map(|b| b.position.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(store.apps(None, 9).await.expect("up").len(), 1);
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "tokens are only for the owner");
    store.close().await;
}

#[tokio::test]
async fn a_flipped_bit_concerns_only_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    let store = open(&path, 0).await.expect("a new file");
    for byte in [0xa1, 0xa2, 0xa3] {
        append(&store, 1, byte).await;
        append(&store, 2, byte - 0x40).await;
    }
    store.close().await;
    let connection = rusqlite::Connection::open(&path).expect("a file of SQLite");
    let second = "SELECT records FROM batch WHERE log = 1 AND position = 2";
    let sealed: Vec<u8> = connection.query_row(second, [], |row| row.get(0)).expect("there");
    drop(connection);
    let mut bytes = fs::read(&path).expect("the WAL is in the file");
    let found = bytes.windows(sealed.len()).position(|window| window == sealed);
    bytes[found.expect("the record") + 25] ^= 4;
    fs::write(&path, bytes).expect("written");

    let store = open(&path, 0).await.expect("the file is whole for SQLite");
    let from = |log, after| (LogId(log), Position(after));
    for after in [0, 1] {
        let error = store.read_many(&[from(1, after)], 1 << 20).await.expect_err("damaged");
        assert!(
            matches!(error, StoreError::Damaged { log: LogId(1), position: Position(2), .. }),
            "{error}"
        );
    }
    let both = store.read_many(&[from(2, 0), from(1, 0)], 1 << 20).await.expect("log 2");
    assert_eq!(both.iter().map(|(log, b)| (log.0, b.len())).collect::<Vec<_>>(), [(2, 3)]);
    let rest = store.read_many(&[from(1, 2)], 1 << 20).await.expect("what follows is whole");
    assert_eq!(rest[0].1[0].position, Position(3));
    assert_eq!(append(&store, 1, 9).await, Position(4), "the log goes on");
    store.close().await;
}

/// Runs statements on the file besides the program.
fn alter(path: &Path, text: &str) {
    let connection = rusqlite::Connection::open(path).expect("a file of SQLite");
    connection.execute_batch(text).expect("valid");
}

#[tokio::test]
async fn a_store_of_a_later_version_or_another_cluster_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    open(&path, 0).await.expect("a new file").close().await;
    for (key, value, says) in [
        ("cluster", "other", "cluster: the store was made for other; got c"),
        ("partitions", "16", "partitions: the store was made for 16; got 8"),
        ("logs", "3", "logs: the store was made for 3; got 4"),
        ("schema_version", "3", "the store has schema version 3, and this program knows versions"),
    ] {
        let set = |value: &str| {
            alter(
                &path,
                &format!("UPDATE meta SET value = CAST('{value}' AS BLOB) WHERE key = '{key}'"),
            );
        };
        set(value);
        let refused = text_of_refusal(&path).await;
        assert!(refused.starts_with(says), "{refused}");
        set(match key {
            "cluster" => "c",
            "partitions" => "8",
            "logs" => "4",
            _ => "2",
        });
    }
    open(&path, 0).await.expect("as it was").close().await;
}

/// A batch as version 1 appended it, with its records in plain text.
async fn append_plain(path: &Path, number: u64) {
    let world = World::system();
    let engine = SqliteEngine::open(path, world.clock()).await.expect("free");
    let epoch = engine.lead([1; 16]).await.expect("up");
    let records = batch(7).into_records();
    let digest = ring::digest::digest(&ring::digest::SHA256, &records);
    let batch = FlushBatch {
        log: LogId(1),
        count: 1,
        bytes: records.len() as u64 + BATCH_BYTES,
        digest: digest.as_ref().try_into().expect("32 bytes"),
        records,
    };
    let flush = Flush { epoch, producer: [1; 16], number, batches: vec![batch] };
    engine.flush(flush).await.expect("up");
    engine.close().await;
}

#[tokio::test]
async fn plain_batches_of_version_1_are_read_and_keep_all_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    open(&path, 0).await.expect("a new file").close().await;
    append_plain(&path, 1).await;
    alter(&path, "UPDATE meta SET value = CAST('1' AS BLOB) WHERE key = 'schema_version'");
    let store = open(&path, 0).await.expect("of a former version");
    assert_eq!(append(&store, 1, 7).await, Position(2), "sealed");
    let read = store.read_many(&[(LogId(1), Position(0))], 1 << 20).await.expect("both");
    let [plain, sealed] = &read[0].1[..] else { panic!("two batches") };
    assert_eq!(plain.records, sealed.records);
    assert_eq!(store.oldest_generation().await, Ok(Some(Generation(0))));
    let on_disk = || {
        let files = [path.clone(), path.with_extension("sqlite-wal")];
        let bytes = files.map(|file| fs::read(file).unwrap_or_default()).concat();
        bytes.windows(16).filter(|window| *window == [7; 16]).count()
    };
    assert!(on_disk() > 0, "the plain batch");
    store.trim(LogId(1), Position(2)).await.expect("up");
    assert_eq!(on_disk(), 0, "the file and its WAL have nothing of it");
    assert_eq!(store.oldest_generation().await, Ok(Some(Generation(1))));
    store.close().await;
    let version = {
        let connection = rusqlite::Connection::open(&path).expect("a file of SQLite");
        let asked = "SELECT CAST(value AS TEXT) FROM meta WHERE key = 'schema_version'";
        connection.query_row(asked, [], |row| row.get::<_, String>(0)).expect("there")
    };
    assert_eq!(version, "2", "a former program does not write plain batches again");
}

#[tokio::test]
async fn a_batch_whose_key_is_gone_is_damage_of_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    let store = open(&path, 0).await.expect("a new file");
    append(&store, 1, 7).await;
    store.close().await;
    let world = World::system();
    let engine = SqliteEngine::open(&path, world.clock()).await.expect("free");
    let others = std::sync::Arc::new(Seals::new(Generation(2), &[2; KEY_BYTES]));
    let opened = SqlStore::open(engine, &made_for(), 1 << 30, 0, others, &world).await;
    let store = opened.expect("up");
    let error = store.read_many(&[(LogId(1), Position(0))], 1 << 20).await.expect_err("sealed");
    let problem = "the key of generation 1 is not there".to_owned();
    assert_eq!(error, StoreError::Damaged { log: LogId(1), position: Position(1), problem });
    assert_eq!(append(&store, 1, 8).await, Position(2), "the log goes on");
    store.close().await;
}

#[tokio::test]
async fn a_file_that_is_held_or_not_ours_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    let holder = open(&path, 0).await.expect("a new file");
    let refused = text_of_refusal(&path).await;
    assert!(
        refused.contains("another process holds") && refused.contains("stop that"),
        "{refused}"
    );
    append(&holder, 1, 1).await;
    holder.close().await;

    let other = folder.path().join("other.sqlite");
    alter(&other, "CREATE TABLE songs (name TEXT)");
    let refused = text_of_refusal(&other).await;
    assert!(refused.contains("of another program: name another file"), "{refused}");
    let text = folder.path().join("text");
    fs::write(&text, "a text of more than a hundred bytes ".repeat(100)).expect("written");
    let refused = text_of_refusal(&text).await;
    assert!(refused.contains("is not a SQLite file"), "{refused}");
    let nowhere = folder.path().join("missing").join("store.sqlite");
    let refused = text_of_refusal(&nowhere).await;
    assert!(refused.contains("its folder has to exist"), "{refused}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let locked = folder.path().join("locked");
    fs::create_dir(&locked).expect("made");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).expect("ours");
    if fs::write(locked.join("probe"), "").is_ok() {
        println!("SKIPPED: this user may write everywhere");
        return;
    }
    let refused = text_of_refusal(&locked.join("store.sqlite")).await;
    assert!(refused.contains("its folder has to exist and to be writable"), "{refused}");
}

/// A read-only file system shows itself as a file that cannot be written.
#[tokio::test]
async fn a_file_that_became_read_only_refuses_writes_and_is_read() {
    let store = store(1 << 20).await;
    append(&store, 1, 1).await;
    let engine = store.engine();
    engine.execute(Statement::new("PRAGMA query_only = ON")).await.expect("up");
    let refused = store.append_all(vec![(LogId(1), batch(2))]).await.expect_err("read-only");
    assert!(refused.to_string().contains("cannot be written"), "{refused}");
    assert_eq!(store.read_many(&[(LogId(1), Position(0))], 9).await.expect("up").len(), 1);
    store.engine().execute(Statement::new("PRAGMA query_only = OFF")).await.expect("up");
    assert_eq!(append(&store, 1, 2).await, Position(2));
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_have_equal_answers(
        steps in prop::collection::vec(step(), 1..40),
        tail in select(vec![0, 300, 1 << 20]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("store.sqlite");
            compare(&steps, async || open(&path, tail).await.expect("its file")).await;
        });
    }
}
