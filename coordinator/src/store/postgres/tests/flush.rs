//! Flushes of several writers at once, and what readers see of them.

use std::{sync::Arc, time::Instant};

use super::*;

/// Three processes of one epoch append to overlapping logs; a reader polls; somebody else holds
/// transactions open and locks heads.
async fn writers_at_once(seconds: u64) {
    let Some(server) = shared() else { return };
    let (name, engine, epoch) = led(server).await;
    let mut stranger = server
        .psql(
            &name,
            "DO $$ BEGIN FOR i IN 1..100000 LOOP
               PERFORM 1 FROM log_head WHERE log = i % 8 FOR UPDATE;
               PERFORM pg_sleep(0.02);
               COMMIT;
               PERFORM pg_sleep(0.05);
             END LOOP; END $$",
        )
        .spawn()
        .expect("psql starts");
    let mut idle = server
        .psql(&name, "BEGIN; UPDATE meta SET value = value; SELECT pg_sleep(100000)")
        .spawn()
        .expect("psql starts");
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut writers = JoinSet::new();
    for producer in 1..=3_u8 {
        let engine = connect(server, &name).await;
        writers.spawn(async move {
            let mut appended = 0_u64;
            let mut number = 0;
            while Instant::now() < end {
                number += 1;
                // Subsets of logs that overlap with those of the others, also all of them.
                let mask = (number * 37 + u64::from(producer) * 101) % 255 + 1;
                let logs: Vec<u16> = (0..LOGS).filter(|log| mask >> log & 1 == 1).collect();
                let flushed = engine.flush(flush_of(epoch, producer, number, &logs)).await;
                let flushed = flushed.expect("no deadlock, no refusal");
                let of: Vec<u16> = flushed.iter().map(|flushed| flushed.log.0).collect();
                assert_eq!(of, logs, "all, in the order given");
                appended += logs.len() as u64;
            }
            (number, appended)
        });
    }
    // The reader follows all logs, and sees every batch once.
    let reader = connect(server, &name).await;
    let mut read = vec![Place::beginning(server, &name); usize::from(LOGS)];
    let mut seen = 0_u64;
    let mut totals = (0, 0);
    while !writers.is_empty() || seen < totals.1 {
        while let Some(ended) = writers.try_join_next() {
            let (flushes, appended) = ended.expect("no panic");
            totals = (totals.0 + flushes, totals.1 + appended);
        }
        let after = (0..LOGS).map(|log| (LogId(log), read[usize::from(log)].position)).collect();
        let batches = reader.read(after, 100_000).await.expect("up");
        seen += batches.len() as u64;
        for of_log in batches.chunk_by(|a, b| a.flushed.log == b.flushed.log) {
            let log = of_log[0].flushed.log.0;
            read[usize::from(log)].follow(log, of_log);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(seen, totals.1, "each batch once");
    for process in [&mut stranger, &mut idle] {
        assert!(process.try_wait().expect("ours").is_none(), "it ran all the time");
        process.kill().expect("ours");
        process.wait().expect("ended");
    }
    let heads = server.sql(&name, "SELECT sum(position), sum(records) FROM log_head");
    assert_eq!(heads, format!("{0}|{0}", totals.1));
    println!("{} flushes, {} batches in {seconds} s", totals.0, totals.1);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_writers_at_once_leave_no_gap() {
    writers_at_once(60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes ten minutes"]
async fn three_writers_at_once_leave_no_gap_for_ten_minutes() {
    writers_at_once(600).await;
}

#[tokio::test]
async fn a_flush_that_is_stored_is_refused_as_a_whole() {
    let Some(server) = shared() else { return };
    let (name, engine, epoch) = led(server).await;
    engine.flush(flush_of(epoch, 1, 1, &[2, 5])).await.expect("new");
    for logs in [&[2_u16, 5][..], &[1, 2], &[5, 7]] {
        let again = engine.flush(flush_of(epoch, 1, 1, logs)).await;
        assert_eq!(again, Err(EngineError::Duplicate), "{logs:?}");
    }
    assert_eq!(server.sql(&name, "SELECT sum(position), count(*) FROM log_head"), "2|8");
    assert!(is_stored(&engine, 1, 1).await.expect("up"));
    assert!(!is_stored(&engine, 1, 2).await.expect("up"));
    engine.flush(flush_of(epoch, 2, 1, &[2])).await.expect("another producer");
}

#[tokio::test]
async fn a_flush_of_another_epoch_or_of_a_missing_log_appends_nothing() {
    let Some(server) = shared() else { return };
    let (name, engine, epoch) = led(server).await;
    for wrong in [Epoch(epoch.0 - 1), Epoch(epoch.0 + 1)] {
        let refused = engine.flush(flush_of(wrong, 1, 1, &[0])).await;
        assert_eq!(refused, Err(EngineError::Fenced { stored: epoch }));
    }
    let missing = engine.flush(flush_of(epoch, 1, 1, &[0, LOGS])).await;
    assert!(matches!(missing, Err(EngineError::Broken(_))), "{missing:?}");
    assert_eq!(server.sql(&name, "SELECT sum(position) FROM log_head"), "0");
}

#[tokio::test]
async fn reads_keep_to_their_limit_and_order() {
    let Some(server) = shared() else { return };
    let (_, engine, epoch) = led(server).await;
    for number in 1..=3 {
        engine.flush(flush_of(epoch, 1, number, &[0, 3])).await.expect("new");
    }
    let size = flush_of(epoch, 1, 1, &[0]).batches[0].records.len();
    let read = async |after: &[(u16, u64)], bytes_max| {
        let after = after.iter().map(|&(log, at)| (LogId(log), Position(at))).collect();
        let read = engine.read(after, bytes_max).await.expect("up");
        read.iter().map(|b| (b.flushed.log.0, b.flushed.position.0)).collect::<Vec<_>>()
    };
    let all = [(3, 1), (3, 2), (3, 3), (0, 1), (0, 2), (0, 3)];
    assert_eq!(read(&[(3, 0), (1, 0), (0, 0)], usize::MAX).await, all);
    assert_eq!(read(&[(3, 0), (1, 0), (0, 0)], 4 * size).await, all[..4]);
    assert_eq!(read(&[(3, 2), (0, 1)], 2 * size + 1).await, [(3, 3), (0, 2)]);
    assert_eq!(read(&[(3, 0)], 0).await, [(3, 1)], "one at least");
    assert_eq!(read(&[(3, 3), (1, 0)], 9).await, []);
    assert_eq!(read(&[], 9).await, []);
}

/// A page of the table is damaged on disk: checksums find it.
#[tokio::test]
async fn damage_is_told_by_log_and_position() {
    let Some(mut server) = TestServer::start() else { return };
    let (name, engine, epoch) = led(&server).await;
    // 20 batches of a kilobyte fill several pages: the log that comes last has a page of its own.
    let large = |log, number| Flush {
        batches: vec![batch(log, &[b'x'; 1_500])],
        ..flush_of(epoch, 1, number, &[])
    };
    for number in 1..=20 {
        engine.flush(large(0, number)).await.expect("new");
    }
    for number in 21..=40 {
        engine.flush(large(1, number)).await.expect("new");
    }
    let file = server.sql(&name, "SELECT pg_relation_filepath('batch')");
    engine.close().await;
    server.sql(&name, "CHECKPOINT");
    server.stop();
    let path = server.folder().join("data").join(file);
    let mut pages = std::fs::read(&path).expect("the table");
    let end = pages.len();
    pages[end - 100] ^= 1;
    std::fs::write(&path, pages).expect("root or the owner");
    server.restart();
    let engine = connect(&server, &name).await;
    let first = engine.read(vec![(LogId(0), Position(0))], usize::MAX).await.expect("whole");
    assert_eq!(first.len(), 20);
    let both = vec![(LogId(0), Position(19)), (LogId(1), Position(0))];
    let both = engine.read(both, usize::MAX).await.expect("what comes before the damage");
    assert!((2..21).contains(&both.len()), "{}", both.len());
    let last = both.last().expect("some").flushed.position;
    match engine.read(vec![(LogId(1), last)], usize::MAX).await {
        Err(ReadError::Damaged { log, position, problem }) => {
            assert_eq!((log, position), (LogId(1), Position(last.0 + 1)));
            assert!(problem.contains("invalid page"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

/// Prints figures; see the report of the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures this machine"]
async fn figures_of_64_logs() {
    const LOGS: u16 = 64;
    let Some(server) = shared() else { return };
    let (name, engine, epoch) = led_of(server, LOGS).await;
    let engine = Arc::new(engine);
    for bytes in [100, 4_000, 30_000] {
        let mut times = Vec::new();
        let start = Instant::now();
        for number in 1.. {
            if start.elapsed() > Duration::from_secs(10) {
                break;
            }
            let batches = (0..LOGS).map(|log| batch(log, &vec![b'x'; bytes])).collect();
            let producer = [u8::try_from(bytes / 1_000 + 10).expect("small"); 16];
            let flush = Flush { epoch, producer, number, batches };
            let one = Instant::now();
            engine.flush(flush).await.expect("up");
            times.push(one.elapsed());
        }
        let seconds = start.elapsed().as_secs_f64();
        times.sort();
        let flushes = times.len() as f64 / seconds;
        println!(
            "64 logs of {bytes} bytes: {flushes:.0} flushes/s, {:.1} MB/s, p50 {:?}, p99 {:?}",
            flushes * f64::from(LOGS) * bytes as f64 / 1e6,
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        );
    }
    server.sql(&name, "CHECKPOINT");
    engine.close().await;
}
