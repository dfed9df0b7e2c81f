//! Watching: the newest state, only what changed, and an end.

use clarion_coordinator::{
    config::Args,
    lane::LaneKey,
    owners::NodeName,
    snapshot::{
        AnswerOutcome, CellCounts, Counts, LaneTrouble, PruningAlarm, ReasonCount, State, Trouble,
    },
};
use clarion_proto::{
    ids::{AppName, UnixMillis},
    wire::v1::{self as wire, alert_service_client::AlertServiceClient},
};
use tonic::{Code, Streaming, transport::Channel};

use crate::support::{Server, busy, create, demo_alert, name, soon};

async fn watch(
    server: &Server,
    alert: &wire::Alert,
    cells: bool,
) -> Streaming<wire::AlertProgress> {
    let request = wire::WatchAlertRequest { name: alert.name.clone(), cells };
    soon(server.alerts().watch_alert(request)).await.expect("there").into_inner()
}

async fn next(stream: &mut Streaming<wire::AlertProgress>) -> Option<wire::AlertProgress> {
    soon(stream.message()).await.expect("no error")
}

/// Neighbours of resolution 6 around Shenzhen, in the order of their index.
const CELLS: [u64; 3] = [0x86411ca07ffffff, 0x86411ca0fffffff, 0x86411ca17ffffff];

fn cell(n: usize, handed: u64, version: u64) -> CellCounts {
    CellCounts { cell: CELLS[n], handed, accepted: handed, failed: 0, version }
}

#[tokio::test]
async fn the_state_comes_at_once_then_the_newest_and_the_last_ends_the_stream() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let mut stream = watch(&server, &alert, false).await;
    let first = next(&mut stream).await.expect("at once");
    assert_eq!(
        (first.state(), first.bands.len(), first.cells.len()),
        (wire::State::Active, 1, 0),
        "all bands as one"
    );
    assert_eq!(first.alert, alert.name);
    // Many changes, and a reader who was away: the newest only.
    for handed in 1..=50 {
        server.nodes.publish(&name(&alert), |snapshot| {
            snapshot.totals = Counts { handed: 2 * handed, outcomes: [handed - 1, 0, 0, 0, 0] };
            snapshot.bands[0].walked = true;
            snapshot.bands[0].counts.handed = handed;
            snapshot.bands[2].counts.handed = handed;
        });
    }
    let newest = next(&mut stream).await.expect("changed");
    let progress = newest.progress.expect("always");
    assert_eq!((progress.handed, progress.open), (100, 51));
    let bands: Vec<_> =
        newest.bands.iter().map(|b| (b.from_meters, b.to_meters, b.walked, b.handed)).collect();
    assert_eq!(
        bands,
        [(0.0, 1_000.0, true, 50), (1_000.0, 20_000.0, false, 50)],
        "with neighbours that have too few"
    );
    server.nodes.publish(&name(&alert), |snapshot| {
        (snapshot.state, snapshot.settled) = (State::Resolved, true);
    });
    assert_eq!(next(&mut stream).await.expect("the last").state(), wire::State::Resolved);
    assert!(next(&mut stream).await.is_none(), "ended");
}

#[tokio::test]
async fn a_shutdown_tells_the_end_of_an_alert_that_it_has_waited_for() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let mut stream = watch(&server, &alert, false).await;
    next(&mut stream).await.expect("at once");
    // The next message would be due in 100 ms: the stop comes before.
    server.nodes.publish(&name(&alert), |snapshot| {
        (snapshot.state, snapshot.settled) = (State::Resolved, true);
    });
    server.context.drain.token().cancel();
    assert_eq!(next(&mut stream).await.expect("the last").state(), wire::State::Resolved);
    assert!(next(&mut stream).await.is_none(), "ended");
}

#[tokio::test]
async fn a_coordinator_that_stops_takes_no_new_alert_and_still_answers_for_a_recorded_one() {
    let server = Server::with_demo().await;
    let first = create(1, demo_alert());
    let alert =
        soon(server.alerts().create_alert(first.clone())).await.expect("created").into_inner();
    server.context.admission.close();
    let refused =
        soon(server.alerts().create_alert(create(2, demo_alert()))).await.expect_err("it stops");
    assert_eq!(refused.code(), Code::Unavailable);
    let again = soon(server.alerts().create_alert(first)).await.expect("recorded").into_inner();
    assert_eq!(again.name, alert.name);
    // Whoever watches is told how it goes on.
    assert!(next(&mut watch(&server, &alert, false).await).await.is_some());
}

#[tokio::test]
async fn cells_come_if_asked_for_and_only_those_that_changed() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let id = name(&alert);
    server.nodes.publish(&id, |s| s.cells = vec![cell(0, 20, s.version), cell(1, 20, s.version)]);
    let (mut with, mut without) =
        (watch(&server, &alert, true).await, watch(&server, &alert, false).await);
    let cells = |progress: wire::AlertProgress| {
        progress.cells.iter().map(|c| (c.cell, c.handed)).collect::<Vec<_>>()
    };
    assert_eq!(cells(next(&mut with).await.expect("at once")), [(CELLS[0], 20), (CELLS[1], 20)]);
    assert!(next(&mut without).await.expect("at once").cells.is_empty());
    server.nodes.publish(&id, |s| s.cells[1] = cell(1, 21, s.version));
    // A state in between that is skipped must not take its cells with it.
    server.nodes.publish(&id, |s| s.cells.push(cell(2, 30, s.version)));
    let mut seen = cells(next(&mut with).await.expect("changed"));
    if seen.len() == 1 {
        seen.extend(cells(next(&mut with).await.expect("changed")));
    }
    assert_eq!(seen, [(CELLS[1], 21), (CELLS[2], 30)]);
}

#[tokio::test]
async fn cells_with_few_are_told_as_the_finest_cell_around_them_that_has_enough() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    server
        .nodes
        .publish(&name(&alert), |s| s.cells = (0..3).map(|n| cell(n, 9, s.version)).collect());
    let told = next(&mut watch(&server, &alert, true).await).await.expect("at once").cells;
    let around = h3o::CellIndex::try_from(CELLS[0])
        .expect("a cell")
        .parent(h3o::Resolution::Five)
        .expect("coarser");
    assert_eq!(
        told.iter().map(|c| (c.cell, c.handed)).collect::<Vec<_>>(),
        [(u64::from(around), 27)]
    );
    // The first has enough alone, and what is left of the others is too little for any cell around
    // them.
    server.nodes.publish(&name(&alert), |s| {
        s.cells = [20, 9, 9].iter().zip(0..).map(|(&h, n)| cell(n, h, s.version)).collect();
    });
    let told = next(&mut watch(&server, &alert, true).await).await.expect("at once").cells;
    assert_eq!(told.iter().map(|c| (c.cell, c.handed)).collect::<Vec<_>>(), [(CELLS[0], 20)]);
}

#[tokio::test]
async fn an_alert_that_ended_long_ago_gives_its_last_word() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let id = name(&alert);
    server.nodes.publish(&id, |s| {
        s.totals = Counts { handed: 23, outcomes: [23, 0, 0, 0, 0] };
        s.cells = vec![cell(0, 3, s.version), cell(1, 20, s.version)];
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
    assert_eq!(
        (last.state(), last.progress.expect("kept").handed, last.cells.len()),
        (wire::State::Expired, 23, 1)
    );
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
    // The task of the alert ends too.
    assert_eq!(server.context.drain.finish(crate::support::PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn watchers_are_bounded_by_alert_and_in_all_and_one_address_leaves_half() {
    let args = Args { watchers_max: Some(6), watchers_per_alert_max: Some(4), ..Args::default() };
    let server = Server::with_demo_and(args).await;
    let (a, b) = (server.created(1).await, server.created(2).await);
    let here = server.channel.clone();
    let (there, elsewhere) = (server.from(2).await, server.from(3).await);
    let watch = |channel: &Channel, alert: &wire::Alert| {
        let mut client = AlertServiceClient::new(channel.clone());
        let request = wire::WatchAlertRequest { name: alert.name.clone(), cells: false };
        async move { soon(client.watch_alert(request)).await.map(tonic::Response::into_inner) }
    };
    let full = |status: tonic::Status| {
        assert_eq!(busy(&status), (Code::ResourceExhausted, "WATCHERS_MAX".to_owned()));
        status.message().to_owned()
    };
    let mut seats =
        vec![watch(&here, &a).await.expect("free"), watch(&here, &a).await.expect("free")];
    let of_one = full(watch(&here, &a).await.expect_err("half of the alert's"));
    assert!(of_one.starts_with("127.0.0.1 holds 2 of 4 watchers of alerts/"), "{of_one}");
    seats.push(watch(&here, &b).await.expect("another alert"));
    let of_all = full(watch(&here, &b).await.expect_err("half of all"));
    assert!(of_all.starts_with("127.0.0.1 holds 3 of 6 watchers of alerts;"), "{of_all}");
    seats.push(watch(&there, &a).await.expect("another address"));
    seats.push(watch(&there, &b).await.expect("another address"));
    full(watch(&there, &b).await.expect_err("one is left"));
    seats.push(watch(&elsewhere, &a).await.expect("for whoever has none"));
    let nothing = full(watch(&server.from(4).await, &b).await.expect_err("all are taken"));
    assert!(nothing.starts_with("all 6 watchers of alerts are in use"), "{nothing}");
    drop(seats);
    soon(async {
        while watch(&here, &b).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_does_not_read_gets_the_newest_state_and_no_queue() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let id = name(&alert);
    // A message of some 300 kB: more than the reader's window takes, so that the first one stands
    // in the way.
    let base = h3o::CellIndex::try_from(CELLS[0])
        .expect("a cell")
        .parent(h3o::Resolution::Zero)
        .expect("coarser");
    let cells: Vec<u64> = base.children(h3o::Resolution::Six).take(15_000).map(u64::from).collect();
    let publish = |handed: u64| {
        server.nodes.publish(&id, |s| {
            s.totals.handed = handed;
            let version = s.version;
            let cell =
                |&cell: &u64| CellCounts { cell, handed, accepted: handed, failed: 0, version };
            s.cells = cells.iter().map(cell).collect();
        });
    };
    publish(100);
    // A window of 64 KiB; tonic's own is 2 MiB, and would take several.
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{}", server.address))
        .expect("an address");
    let channel =
        soon(endpoint.initial_stream_window_size(65_535).connect()).await.expect("listens");
    let request = wire::WatchAlertRequest { name: alert.name.clone(), cells: true };
    let mut client = wire::alert_service_client::AlertServiceClient::new(channel);
    let mut stream = soon(client.watch_alert(request)).await.expect("there").into_inner();
    // Others who read see each change; this one sleeps meanwhile.
    let mut awake = watch(&server, &alert, false).await;
    for handed in 101..140 {
        publish(handed);
        if handed % 13 == 0 {
            next(&mut awake).await.expect("changed");
        }
    }
    server.nodes.publish(&id, |s| (s.state, s.settled) = (State::Resolved, true));
    let mut got = Vec::new();
    while let Some(message) = next(&mut stream).await {
        got.push((message.progress.expect("always").handed, message.cells.len(), message.state()));
    }
    assert!(got.len() <= 3, "what was under way, and the newest: {got:?}");
    let (handed, told, state) = *got.last().expect("some");
    assert_eq!((handed, state), (139, wire::State::Resolved));
    assert!(told >= 15_000, "all changed since: {told}");
}

#[tokio::test]
async fn reasons_troubles_and_alarms_reach_whoever_watches() {
    use wire::{lane_trouble::Kind, reason_count::Outcome};
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let lane = LaneKey { gateway: "apns".to_owned(), credential: "team".to_owned() };
    let app = AppName::from_id("demo").expect("a name");
    let reason = |of, outcome, status, reason: &str, count| {
        let reason = reason.to_owned();
        ReasonCount { of, outcome, status, reason, count }
    };
    let trouble = |kind, next_probe| LaneTrouble {
        gateway: lane.gateway.clone(),
        credential: lane.credential.clone(),
        kind,
        nodes: 2,
        detail: "404, not signed by the provider".to_owned(),
        since: UnixMillis(1_800_000_000_250),
        next_probe,
    };
    server.nodes.publish(&name(&alert), |snapshot| {
        let of = Some((app.clone(), lane.clone()));
        snapshot.reasons = vec![
            reason(of.clone(), AnswerOutcome::Dead, 400, "BadDeviceToken", 900),
            reason(of, AnswerOutcome::Retried, 404, "", 1),
            reason(None, AnswerOutcome::Refused, 0, "other", 1),
        ];
        snapshot.other_reasons = 7;
        snapshot.lane_troubles = vec![
            trouble(Trouble::Intermediary, Some(UnixMillis(1_800_000_002_000))),
            trouble(Trouble::Project, None),
        ];
        snapshot.pruning_alarms = vec![PruningAlarm {
            app: app.clone(),
            lane: lane.clone(),
            since: UnixMillis(1_800_000_000_500),
            withheld: 900,
            accepted_any: false,
        }];
    });
    let told = next(&mut watch(&server, &alert, false).await).await.expect("at once");
    let reasons: Vec<_> =
        told.reasons.iter().map(|r| (r.app.as_str(), r.outcome(), r.status, r.count)).collect();
    let expected = [
        ("apps/demo", Outcome::Dead, 400, 900),
        ("apps/demo", Outcome::Retried, 404, 1),
        ("", Outcome::Refused, 0, 1),
    ];
    assert_eq!(
        (&reasons[..], told.other_reasons_count),
        (&expected[..], 7),
        "exactly, however few"
    );
    assert_eq!(
        (told.reasons[0].gateway.as_str(), told.reasons[0].credential.as_str()),
        ("apns", "team")
    );
    assert_eq!(
        (told.reasons[0].reason.as_str(), told.reasons[1].reason.as_str()),
        ("BadDeviceToken", "")
    );
    assert_eq!((told.reasons[2].gateway.as_str(), told.reasons[2].reason.as_str()), ("", "other"));
    let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let troubles: Vec<_> =
        told.lane_troubles.iter().map(|t| (t.kind(), t.nodes, t.since, t.next_probe)).collect();
    let since = at(1_800_000_000, 250_000_000);
    assert_eq!(
        troubles,
        [(Kind::Intermediary, 2, since, at(1_800_000_002, 0)), (Kind::Project, 2, since, None)]
    );
    let alarm = wire::PruningAlarm {
        app: "apps/demo".to_owned(),
        gateway: "apns".to_owned(),
        credential: "team".to_owned(),
        since: at(1_800_000_000, 500_000_000),
        withheld: 900,
        accepted_any: false,
    };
    assert_eq!(told.pruning_alarms, [alarm]);
}

#[tokio::test]
async fn nodes_that_do_not_take_an_alert_are_told_to_all_who_ask() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let get = async || {
        let request = wire::GetAlertRequest { name: alert.name.clone(), ..Default::default() };
        soon(server.alerts().get_alert(request)).await.expect("there").into_inner()
    };
    let mut stream = watch(&server, &alert, false).await;
    assert_eq!(
        (next(&mut stream).await.expect("at once").isolation, get().await.isolation),
        (None, None)
    );
    let node = |name: &str| NodeName::new(name).expect("a name");
    let long = "x".repeat(400);
    server.nodes.publish(&name(&alert), |snapshot| {
        snapshot.isolated =
            vec![(node("a"), long.clone()), (node("b"), "wave.bands: no".to_owned())];
    });
    let told = next(&mut stream).await.expect("changed").isolation.expect("two nodes");
    assert_eq!((told.nodes, told.detail.len()), (2, 256));
    assert!(told.detail.starts_with("a: xxx"));
    let list = soon(server.alerts().list_alerts(wire::ListAlertsRequest::default()))
        .await
        .expect("there")
        .into_inner();
    assert_eq!(
        (get().await.isolation, &list.alerts[0].isolation),
        (Some(told.clone()), &Some(told.clone()))
    );
    assert_eq!(get().await.state(), wire::State::Active, "never as if all had been told");
    // Also long after its end, from the record.
    server.nodes.publish(&name(&alert), |snapshot| {
        (snapshot.state, snapshot.settled) = (State::Expired, true);
    });
    assert_eq!(next(&mut stream).await.expect("the last").isolation, Some(told));
}
