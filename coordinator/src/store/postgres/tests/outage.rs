//! Servers that die, stand still, or wait for a standby: nothing acknowledged is lost, nothing is
//! stored twice.
//!
//! `CLARION_POSTGRES_KILLS` sets the number of kills of the long run.

use std::{collections::BTreeMap, time::Instant};

use super::*;

/// Appends one flush as the store does: asks after a lost answer, and repeats under the same
/// number. Returns the positions when the flush is acknowledged.
async fn append_certainly(engine: &PostgresEngine, flush: &Flush) -> Vec<(LogId, Position)> {
    loop {
        match engine.flush(flush.clone()).await {
            Ok(flushed) => return flushed.iter().map(|f| (f.log, f.position)).collect(),
            Err(EngineError::Unknown(_) | EngineError::Duplicate) => {
                let asked = "SELECT log, position FROM batch WHERE producer = $1 AND number = $2";
                let asked = Statement::new(asked).bytes(flush.producer.to_vec());
                let asked = asked.integer(flush.number);
                // Not there: the flush is repeated. Away: asked again by repeating it.
                if let Ok(rows) = engine.query(asked).await
                    && !rows.is_empty()
                {
                    let at = |row: &Row| {
                        let log = u16::try_from(row.unsigned(0).expect("a log")).expect("a log");
                        (LogId(log), Position(row.unsigned(1).expect("a position")))
                    };
                    return rows.iter().map(at).collect();
                }
            }
            Err(EngineError::Away(_) | EngineError::Busy(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_no_acknowledged_flush() {
    let Some(mut server) = TestServer::start() else { return };
    let (name, engine, epoch) = led(&server).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let mut writers = JoinSet::new();
    for producer in 1..=3_u8 {
        let (engine, stop) = (connect(&server, &name).await, stop.clone());
        writers.spawn(async move {
            let mut acknowledged = BTreeMap::new();
            let mut number = 0;
            while !stop.is_cancelled() {
                number += 1;
                let log = u16::try_from(number % u64::from(LOGS)).expect("small");
                let flush = flush_of(epoch, producer, number, &[log.min(LOGS - 2), LOGS - 1]);
                let positions = append_certainly(&engine, &flush).await;
                assert_eq!(positions.len(), 2, "all or none");
                let records = &flush.batches[0].records;
                acknowledged.extend(positions.into_iter().map(|at| (at, records.clone())));
            }
            (number, acknowledged)
        });
    }
    let kills = std::env::var("CLARION_POSTGRES_KILLS");
    let kills: u64 = kills.map_or(10, |n| n.parse().expect("a number"));
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(300 + kill * 37 % 500)).await;
        server.kill();
        server.restart();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.cancel();
    let mut acknowledged = BTreeMap::new();
    let mut flushes = 0;
    for (number, of_writer) in writers.join_all().await {
        flushes += number;
        let before = acknowledged.len() + of_writer.len();
        acknowledged.extend(of_writer);
        assert_eq!(acknowledged.len(), before, "no position twice");
    }
    // Every batch that is stored was acknowledged, because each flush was repeated until it was.
    let mut stored = BTreeMap::new();
    for log in 0..LOGS {
        let mut at = Place::beginning(&server, &name);
        loop {
            let read = engine.read(vec![(LogId(log), at.position)], 1_000_000).await.expect("up");
            if read.is_empty() {
                break;
            }
            at.follow(log, &read);
            let entry = |b: StoredBatch| ((b.flushed.log, b.flushed.position), b.records);
            stored.extend(read.into_iter().map(entry));
        }
    }
    assert_eq!(stored.len() as u64, 2 * flushes);
    assert!(stored == acknowledged, "as acknowledged");
    println!("{flushes} flushes, {kills} kills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_without_its_standby_is_unknown_and_not_lost() {
    let Some(server) = TestServer::start() else { return };
    let (name, engine, epoch) = led(&server).await;
    engine.flush(flush_of(epoch, 1, 1, &[0])).await.expect("up");
    server.set("synchronous_standby_names", "nobody");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let since = Instant::now();
    let unknown = engine.flush(flush_of(epoch, 1, 2, &[0])).await;
    assert!(matches!(unknown, Err(EngineError::Unknown(_))), "{unknown:?}");
    assert!(since.elapsed() >= FLUSH_DEADLINE, "{:?}", since.elapsed());
    // Nothing is told that a standby does not have.
    let asked = is_stored(&engine, 1, 2).await;
    assert!(matches!(asked, Err(EngineError::Away(_))), "{asked:?}");
    assert_eq!(*engine.taken_over().borrow(), None, "the counter does not wait for a standby");
    server.set("synchronous_standby_names", "");
    assert_eq!(is_stored(&engine, 1, 2).await, Ok(true));
    let again = engine.flush(flush_of(epoch, 1, 2, &[0])).await;
    assert_eq!(again, Err(EngineError::Duplicate));
    let next = engine.flush(flush_of(epoch, 1, 3, &[0])).await.expect("up");
    assert_eq!(next[0].position, Position(3));
    assert_eq!(server.sql(&name, "SELECT counter > 10 FROM chief"), "t");
}

/// An operator cancels the wait: the server answers OK with a warning, and no standby has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_wait_for_a_standby_is_unknown() {
    let Some(server) = TestServer::start() else { return };
    let (_, engine, epoch) = led(&server).await;
    engine.flush(flush_of(epoch, 1, 1, &[0])).await.expect("up");
    server.set("synchronous_standby_names", "nobody");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let cancel = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.sql(
            "postgres",
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
        );
    };
    let (flushed, ()) = tokio::join!(engine.flush(flush_of(epoch, 1, 2, &[0])), cancel);
    let Err(EngineError::Unknown(reason)) = flushed else { panic!("{flushed:?}") };
    assert!(reason.contains("synchronous replication"), "{reason}");
    server.set("synchronous_standby_names", "");
    assert_eq!(is_stored(&engine, 1, 2).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_delays_nobody_beyond_the_deadline() {
    let Some(server) = TestServer::start() else { return };
    let (_, engine, epoch) = led(&server).await;
    let engine = Arc::new(engine);
    engine.flush(flush_of(epoch, 1, 1, &[0])).await.expect("up");
    engine.query(Statement::new("SELECT 1")).await.expect("up");
    server.pause(true);
    let since = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..3_000 {
        let engine = Arc::clone(&engine);
        callers.spawn(async move { engine.query(Statement::new("SELECT 1")).await });
    }
    let flushed = engine.flush(flush_of(epoch, 1, 2, &[0])).await;
    assert!(matches!(flushed, Err(EngineError::Unknown(_))), "{flushed:?}");
    let answers = callers.join_all().await;
    let refused =
        |answer: &Result<_, _>| matches!(answer, Err(EngineError::Away(_) | EngineError::Busy(_)));
    assert!(answers.iter().all(refused));
    assert!(since.elapsed() < FLUSH_DEADLINE + Duration::from_secs(2), "{:?}", since.elapsed());
    server.pause(false);
    let positions = append_certainly(&engine, &flush_of(epoch, 1, 2, &[0])).await;
    assert_eq!(positions, [(LogId(0), Position(2))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_outage_is_waited_for_and_a_long_one_is_told() {
    let Some(mut server) = TestServer::start() else { return };
    let (_, engine, epoch) = led(&server).await;
    server.stop();
    let (read, ()) = tokio::join!(engine.query(Statement::new("SELECT 1")), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.restart();
    });
    read.expect("up again within the deadline");
    engine.flush(flush_of(epoch, 1, 1, &[0])).await.expect("up again");
    server.stop();
    let folder = server.folder().display().to_string();
    let first = engine.query(Statement::new("SELECT 1")).await.expect_err("down");
    let EngineError::Away(reason) = first else { panic!("{first:?}") };
    assert!(reason.contains(&folder), "names the host: {reason}");
    // Every later caller gets the reason at once, or after one more try.
    for _ in 0..8 {
        let since = Instant::now();
        let next = engine.query(Statement::new("SELECT 1")).await;
        assert!(matches!(next, Err(EngineError::Away(_))), "{next:?}");
        assert!(since.elapsed() < DEADLINE, "{:?}", since.elapsed());
    }
    server.restart();
    tokio::time::sleep(Duration::from_secs(6)).await;
    engine.query(Statement::new("SELECT 1")).await.expect("up again");
}
