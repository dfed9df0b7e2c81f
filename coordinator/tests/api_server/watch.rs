//! Watching: the newest state, only what changed, and an end.

use clarion_coordinator::progress::{CellCounts, Counts, State};
use clarion_proto::wire::v1 as wire;
use tonic::{Code, Streaming};

use crate::support::{Server, name, soon};

async fn watch(server: &Server, alert: &wire::Alert, cells: bool) -> Streaming<wire::AlertProgress> {
    let request = wire::WatchAlertRequest { name: alert.name.clone(), cells };
    soon(server.alerts().watch_alert(request)).await.expect("there").into_inner()
}

async fn next(stream: &mut Streaming<wire::AlertProgress>) -> Option<wire::AlertProgress> {
    soon(stream.message()).await.expect("no error")
}

fn cell(cell: u64, handed: u64, version: u64) -> CellCounts {
    CellCounts { cell, handed, accepted: handed, failed: 0, version }
}

#[tokio::test]
async fn the_state_comes_at_once_then_the_newest_and_the_last_ends_the_stream() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let mut stream = watch(&server, &alert, false).await;
    let first = next(&mut stream).await.expect("at once");
    assert_eq!((first.state(), first.bands.len(), first.cells.len()), (wire::State::Active, 5, 0));
    assert_eq!(first.alert, alert.name);
    // Many changes, and a reader who was away: the newest only.
    for handed in 1..=50 {
        server.nodes.publish(&name(&alert), |snapshot| {
            snapshot.totals = Counts { handed, outcomes: [handed - 1, 0, 0, 0, 0] };
            snapshot.bands[0].walked = true;
        });
    }
    let newest = next(&mut stream).await.expect("changed");
    let progress = newest.progress.expect("always");
    assert_eq!((progress.handed, progress.open), (50, 1));
    assert!(newest.bands[0].walked && !newest.bands[1].walked);
    server.nodes.publish(&name(&alert), |snapshot| (snapshot.state, snapshot.settled) = (State::Resolved, true));
    assert_eq!(next(&mut stream).await.expect("the last").state(), wire::State::Resolved);
    assert!(next(&mut stream).await.is_none(), "ended");
}

#[tokio::test]
async fn cells_come_if_asked_for_and_only_those_that_changed() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let id = name(&alert);
    server.nodes.publish(&id, |s| s.cells = vec![cell(1, 10, s.version), cell(2, 10, s.version)]);
    let (mut with, mut without) = (watch(&server, &alert, true).await, watch(&server, &alert, false).await);
    let cells = |progress: wire::AlertProgress| progress.cells.iter().map(|c| (c.cell, c.handed)).collect::<Vec<_>>();
    assert_eq!(cells(next(&mut with).await.expect("at once")), [(1, 10), (2, 10)]);
    assert!(next(&mut without).await.expect("at once").cells.is_empty());
    server.nodes.publish(&id, |s| s.cells[1] = cell(2, 11, s.version));
    // A state in between that is skipped must not take its cells with it.
    server.nodes.publish(&id, |s| s.cells.push(cell(3, 1, s.version)));
    let mut seen = cells(next(&mut with).await.expect("changed"));
    if seen.len() == 1 {
        seen.extend(cells(next(&mut with).await.expect("changed")));
    }
    assert_eq!(seen, [(2, 11), (3, 1)]);
}

#[tokio::test]
async fn an_alert_that_ended_long_ago_gives_its_last_word() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let id = name(&alert);
    server.nodes.publish(&id, |s| {
        s.totals = Counts { handed: 3, outcomes: [3, 0, 0, 0, 0] };
        s.cells = vec![cell(7, 3, s.version)];
        (s.state, s.settled) = (State::Expired, true);
    });
    soon(async {
        while server.context.store.alert(&id).await.expect("up").expect("there").settled.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.nodes.forget(&id);
    let mut stream = watch(&server, &alert, true).await;
    let last = next(&mut stream).await.expect("at once");
    assert_eq!((last.state(), last.progress.expect("kept").handed, last.cells.len()), (wire::State::Expired, 3, 1));
    assert!(next(&mut stream).await.is_none());
}

#[tokio::test]
async fn a_stop_in_order_ends_watches_with_unavailable() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let mut stream = watch(&server, &alert, false).await;
    next(&mut stream).await.expect("at once");
    server.context.drain.token().cancel();
    let status = soon(stream.message()).await.expect_err("draining");
    assert_eq!(status.code(), Code::Unavailable);
    // The keeper of the alert ends too.
    assert_eq!(server.context.drain.finish(crate::support::PATIENCE).await, Ok(()));
}
