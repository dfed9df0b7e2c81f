//! The role of chief: who takes it, who keeps it, and what a former holder can still write.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn a_second_process_is_refused_while_the_first_lives() {
    let Some(server) = shared() else { return };
    let (name, first, epoch) = led(server).await;
    let second = connect(server, &name).await;
    let Err(EngineError::Busy(reason)) = second.lead([2; 16]).await else { panic!("it lives") };
    assert!(reason.contains(&format!("incarnation {}, epoch {}", "01".repeat(16), epoch.0)));
    first.flush(flush_of(epoch, 1, 1, &[0])).await.expect("it is chief");
    assert_eq!(*first.taken_over().borrow(), None);
}

#[tokio::test]
async fn a_process_that_died_is_replaced_and_writes_nothing_more() {
    let Some(server) = shared() else { return };
    let (name, first, epoch) = led(server).await;
    die(&first);
    let second = connect(server, &name).await;
    let since = Instant::now();
    let next = second.lead([2; 16]).await.expect("the first is dead");
    assert!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(next, Epoch(epoch.0 + 1));
    let late = first.flush(flush_of(epoch, 1, 1, &[0])).await;
    assert_eq!(late, Err(EngineError::Fenced { stored: next }));
    let late = "INSERT INTO meta (key, value) SELECT 'k', $2 WHERE \
                (SELECT epoch FROM chief WHERE id = 1) = $1 RETURNING key";
    let late = Statement::new(late).integer(epoch.0).bytes(vec![1]);
    assert_eq!(first.execute(late).await, Ok(Vec::new()), "nothing written");
}

#[tokio::test]
async fn a_holder_that_was_replaced_hears_of_it() {
    let Some(server) = shared() else { return };
    let (name, first, _) = led(server).await;
    let mut taken_over = first.taken_over();
    server.sql(&name, "UPDATE chief SET epoch = 9, incarnation = '\\x03'");
    let changed = tokio::time::timeout(Duration::from_secs(5), taken_over.changed()).await;
    changed.expect("within 5 s").expect("the engine lives");
    assert_eq!(*taken_over.borrow(), Some(Epoch(9)));
}

#[tokio::test]
async fn a_role_that_was_given_back_is_free_at_once() {
    let Some(server) = shared() else { return };
    let (name, first, epoch) = led(server).await;
    first.close().await;
    assert!(matches!(first.query(Statement::new("SELECT 1")).await, Err(EngineError::Away(_))));
    let second = connect(server, &name).await;
    let since = Instant::now();
    assert_eq!(second.lead([2; 16]).await, Ok(Epoch(epoch.0 + 1)));
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

/// The flush passes the fence, waits for a head, and commits after the takeover was asked for: the
/// takeover waits for it, so that the new chief reads heads that no longer move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_waits_for_flushes_that_passed_the_fence() {
    let Some(server) = shared() else { return };
    let (name, first, epoch) = led(server).await;
    die(&first);
    let hold = "BEGIN; SELECT 1 FROM log_head WHERE log = 0 FOR UPDATE; SELECT pg_sleep(6); COMMIT";
    let mut holding = server.psql(&name, hold).spawn().expect("psql starts");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = connect(server, &name).await;
    let (flushed, next) =
        tokio::join!(first.flush(flush_of(epoch, 1, 1, &[0])), second.lead([2; 16]));
    assert_eq!(flushed.expect("it came first")[0].position, Position(1));
    assert_eq!(next, Ok(Epoch(epoch.0 + 1)));
    let head = second.query(Statement::new("SELECT position FROM log_head WHERE log = 0")).await;
    assert_eq!(head.expect("up")[0].integer(0), Ok(1));
    holding.wait().expect("ended");
}

/// The statement begins before the takeover commits and ends after it: its snapshot has the old
/// epoch, and only the lock shows the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_began_before_a_takeover_does_not_commit_after_it() {
    let Some(server) = shared() else { return };
    let (name, first, epoch) = led(server).await;
    die(&first);
    let take = "BEGIN; SELECT 1 FROM chief FOR UPDATE; UPDATE chief SET epoch = 77; \
                SELECT pg_sleep(2); COMMIT";
    let mut taking = server.psql(&name, take).spawn().expect("psql starts");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let insert = "INSERT INTO meta (key, value) SELECT $2, $3 WHERE \
                  (SELECT epoch FROM chief WHERE id = 1) = $1 RETURNING key";
    let insert = |key: &str| Statement::new(insert).integer(epoch.0).text(key).bytes(vec![1]);
    let (flushed, written, decided) = tokio::join!(
        first.flush(flush_of(epoch, 1, 1, &[0])),
        first.execute(insert("a")),
        first.execute(insert("b").serializable()),
    );
    assert_eq!(flushed, Err(EngineError::Fenced { stored: Epoch(77) }));
    assert_eq!((written, decided), (Ok(Vec::new()), Ok(Vec::new())));
    taking.wait().expect("ended");
    assert_eq!(server.sql(&name, "SELECT count(*) FROM meta WHERE key IN ('a', 'b')"), "0");
}

/// Each of two writers sees room for one row; SERIALIZABLE lets only one of them write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_decide_by_other_rows_do_not_race() {
    let Some(server) = shared() else { return };
    let (name, engine, epoch) = led(server).await;
    let engine = std::sync::Arc::new(engine);
    let insert = "INSERT INTO meta (key, value) SELECT $2, $3 WHERE \
                  (SELECT epoch FROM chief WHERE id = 1) = $1 \
                  AND (SELECT count(*) FROM meta WHERE key LIKE 'k%') < 5 RETURNING key";
    let mut writers = JoinSet::new();
    for n in 0..40 {
        let engine = std::sync::Arc::clone(&engine);
        let statement = Statement::new(insert).integer(epoch.0).text(format!("k{n}"));
        let statement = statement.bytes(vec![1]).serializable();
        writers.spawn(async move { engine.execute(statement).await.expect("up").len() });
    }
    assert_eq!(writers.join_all().await.iter().sum::<usize>(), 5);
    assert_eq!(server.sql(&name, "SELECT count(*) FROM meta WHERE key LIKE 'k%'"), "5");
}
