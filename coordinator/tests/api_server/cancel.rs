//! Stopping an alert, and how the record follows what nodes report.

use clarion_coordinator::snapshot::State;
use clarion_proto::wire::v1 as wire;

use crate::support::{Server, field, name, soon};

fn cancel(alert: &wire::Alert, reason: &str) -> wire::CancelAlertRequest {
    wire::CancelAlertRequest { name: alert.name.clone(), reason: reason.to_owned() }
}

/// Asks until the record says what it must say in the end.
async fn read_until(server: &Server, alert: &wire::Alert, state: wire::State) -> wire::Alert {
    soon(async {
        loop {
            let get = wire::GetAlertRequest { name: alert.name.clone(), ..Default::default() };
            let read = server.alerts().get_alert(get).await.expect("there").into_inner();
            if read.state() == state && read.end_time.is_some() {
                return read;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_cancel_answers_what_the_nodes_confirmed_and_again_the_same() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let cancelled = soon(server.alerts().cancel_alert(cancel(&alert, "found")))
        .await
        .expect("done")
        .into_inner();
    assert_eq!(cancelled.state(), wire::State::Cancelled);
    assert!(cancelled.end_time.is_some());
    let again = soon(server.alerts().cancel_alert(cancel(&alert, "again")))
        .await
        .expect("done")
        .into_inner();
    assert_eq!((again.state(), again.end_time), (wire::State::Cancelled, cancelled.end_time));
}

#[tokio::test]
async fn a_cancel_without_confirmation_says_cancelling_until_the_nodes_speak() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    *server.nodes.deaf.lock() = true;
    let answer = soon(server.alerts().cancel_alert(cancel(&alert, "")))
        .await
        .expect("answered")
        .into_inner();
    assert_eq!((answer.state(), answer.end_time), (wire::State::Cancelling, None));
    server.nodes.publish(&name(&alert), |snapshot| snapshot.state = State::Cancelled);
    read_until(&server, &alert, wire::State::Cancelled).await;
}

#[tokio::test]
async fn an_ended_alert_keeps_its_last_word_when_dispatch_has_forgotten_it() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    server.nodes.publish(&name(&alert), |snapshot| {
        snapshot.totals.handed = 12;
        snapshot.totals.outcomes = [9, 1, 0, 2, 0];
        (snapshot.state, snapshot.settled) = (State::Resolved, true);
    });
    let resolved = read_until(&server, &alert, wire::State::Resolved).await;
    let progress = resolved.progress.expect("always");
    assert_eq!((progress.handed, progress.open), (12, 0));
    // Settled a moment after it ended: its last state is in the record before dispatch may forget
    // it.
    soon(async {
        while server
            .context
            .store
            .alert(&name(&alert))
            .await
            .expect("up")
            .expect("there")
            .settled
            .is_none()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.nodes.forget(&name(&alert));
    let read = read_until(&server, &alert, wire::State::Resolved).await;
    assert_eq!(read.progress.expect("kept").outcomes.expect("kept").accepted, 9);
    // What has ended cannot be cancelled.
    let answer = soon(server.alerts().cancel_alert(cancel(&alert, "")))
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(answer.state(), wire::State::Resolved);
}

#[tokio::test]
async fn a_reason_has_a_limit() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let refused = soon(server.alerts().cancel_alert(cancel(&alert, &"x".repeat(513))))
        .await
        .expect_err("long");
    assert_eq!(field(&refused), "reason");
    let read = soon(
        server.alerts().get_alert(wire::GetAlertRequest { name: alert.name, ..Default::default() }),
    )
    .await
    .expect("there");
    assert_eq!(read.into_inner().state(), wire::State::Active);
}
