//! Creating, reading, listing and previewing.

use std::sync::Arc;

use clarion_coordinator::{
    config::Args,
    lane::LaneKey,
    planned::{FIRST_EPOCH, PushRequest},
    snapshot::State,
};
use clarion_proto::wire::v1 as wire;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{Server, app, create, demo_alert, fcm_app, field, name, reason, soon};

#[tokio::test]
async fn an_alert_is_planned_started_and_read_back() {
    let server = Server::with_demo().await;
    let mut alert = demo_alert();
    alert.audience.as_mut().expect("set").segments = "volunteer AND NOT minor".into();
    alert.max_rate_per_second = 7;
    let created = soon(server.alerts().create_alert(create(1, alert.clone())))
        .await
        .expect("created")
        .into_inner();
    assert_eq!(created.state(), wire::State::Active);
    assert!(created.name.starts_with("alerts/a") && created.create_time.is_some());

    let started = Arc::clone(&server.nodes.started.lock()[0]);
    assert_eq!(started.name, name(&created));
    assert_eq!(started.max_rate_per_second, 7);
    assert_eq!(started.segments.len(), 4, "AND volunteer NOT minor");
    let bands: Vec<(f64, f64)> = started.bands.iter().map(|b| (b.from_m, b.to_m)).collect();
    assert_eq!(
        bands[..3],
        [(0.0, 1_000.0), (1_000.0, 2_000.0), (2_000.0, 5_000.0)],
        "nearest first"
    );
    let app = &started.apps[0];
    let PushRequest::Apns(request) = &app.request else { panic!("{app:?}") };
    assert_eq!(
        (app.app.id(), request.topic.as_str(), request.priority),
        ("demo", "org.example.demo", 10)
    );
    assert_eq!((app.lane.gateway.as_str(), app.lane.credential.as_str()), ("apns", "team"));
    assert_eq!(request.expiration, alert.active_until.expect("set").seconds.unsigned_abs());
    assert_eq!(format!("alerts/{}", request.collapse_id), created.name);
    assert_eq!(app.messages[0].locale, "en");

    let get = wire::GetAlertRequest { name: created.name.clone(), ..Default::default() };
    let read = soon(server.alerts().get_alert(get)).await.expect("there").into_inner();
    assert_eq!(read, created);
    assert!((read.overshoot_meters - 448.8).abs() < 0.1, "{}", read.overshoot_meters);
    assert!((read.band_step_meters - 10_000.0).abs() < 0.1, "{}", read.band_step_meters);
    // The age of places that is in effect is returned, too.
    let month = prost_types::Duration { seconds: 30 * 24 * 3_600, nanos: 0 };
    alert.audience.as_mut().expect("set").place_seen_within = Some(month);
    let submitted = wire::Alert {
        name: String::new(),
        state: 0,
        create_time: None,
        progress: None,
        overshoot_meters: 0.0,
        band_step_meters: 0.0,
        ..read
    };
    assert_eq!(submitted, alert);
}

#[tokio::test]
async fn the_same_request_gives_the_same_alert_and_another_is_refused() {
    let server = Server::with_demo().await;
    let first = server.created(1).await;
    let mut again = demo_alert();
    // What only an answer can say is ignored in a request.
    (again.name, again.state, again.active_until) = ("alerts/x".into(), 4, first.active_until);
    let again =
        soon(server.alerts().create_alert(create(1, again))).await.expect("the same").into_inner();
    assert_eq!(again.name, first.name);
    assert_eq!(server.nodes.started.lock().len(), 1, "started once");

    let other =
        wire::Alert { max_rate_per_second: 1, active_until: first.active_until, ..demo_alert() };
    let refused = soon(server.alerts().create_alert(create(1, other))).await.expect_err("another");
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_ne!(server.created(2).await.name, first.name);
}

#[tokio::test]
async fn tries_that_run_beside_each_other_make_one_alert() {
    let server = Server::with_demo().await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    *server.nodes.gate.lock() = Some(Arc::clone(&gate));
    let alert = demo_alert();
    let tries = (0..4).map(|_| {
        let (mut client, alert) = (server.alerts(), alert.clone());
        tokio::spawn(async move { client.create_alert(create(1, alert)).await })
    });
    let tries: Vec<_> = tries.collect();
    gate.add_permits(4);
    let mut names = Vec::new();
    for one in tries {
        names.push(soon(one).await.expect("no panic").expect("created").into_inner().name);
    }
    names.dedup();
    assert_eq!((names.len(), server.nodes.started.lock().len()), (1, 1));
}

#[tokio::test]
async fn an_exercise_reaches_its_segment_and_says_what_it_is() {
    let server = Server::with_demo().await;
    let exercise = wire::Alert { mode: wire::Mode::Exercise.into(), ..demo_alert() };
    soon(server.alerts().create_alert(create(1, exercise))).await.expect("created");
    let started = Arc::clone(&server.nodes.started.lock()[0]);
    assert_eq!(started.segments.len(), 1, "only the exercise's");
    let body = String::from_utf8(started.apps[0].messages[0].body.to_vec()).expect("JSON");
    assert!(body.contains("\"title\":\"EXERCISE: Missing child\""), "{body}");
}

#[tokio::test]
async fn one_alert_is_rendered_for_each_platform_of_its_audience() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(fcm_app("android"))).await.expect("created");
    let mut alert = demo_alert();
    alert.audience.as_mut().expect("set").apps = vec!["apps/demo".into(), "apps/android".into()];
    soon(server.alerts().create_alert(create(1, alert.clone()))).await.expect("created");
    let started = Arc::clone(&server.nodes.started.lock()[0]);
    let of = |id| started.apps.iter().find(|app| app.app.id() == id).expect("in the plan");
    assert!(matches!(of("demo").request, PushRequest::Apns(_)));
    assert_eq!(of("android").request, PushRequest::Fcm { project: "demo-project".into() });
    let message = &of("android").messages[0];
    let data = [&message.body, b"token".as_slice(), &message.body_after_token].concat();
    let sent: serde_json::Value = serde_json::from_slice(&data).expect("JSON");
    assert_eq!(sent["message"]["token"], "token");
    assert_eq!(sent["message"]["notification"]["title"], "Missing child");

    // 3,000 quotation marks are 6,000 bytes in JSON.
    let messages = &mut alert.case.as_mut().expect("set").messages;
    messages.get_mut("en").expect("set").body = "\"".repeat(3_000);
    for app in ["apps/demo", "apps/android"] {
        alert.audience.as_mut().expect("set").apps = vec![app.into()];
        let refused = soon(server.alerts().create_alert(create(2, alert.clone())))
            .await
            .expect_err("too long");
        assert_eq!(field(&refused), "alert.case.messages[en]");
        let said =
            &refused.get_details_bad_request().expect("BadRequest").field_violations[0].description;
        assert!(said.contains(app) && said.contains("more than the 4096 of"), "{said}");
    }
}

#[tokio::test]
async fn live_is_taken_where_the_flag_says_so() {
    let args = Args { allow_live_without_identity: Some(true), ..Args::default() };
    let server = Server::with_demo_and(args).await;
    let live = wire::Alert { mode: wire::Mode::Live.into(), ..demo_alert() };
    soon(server.alerts().create_alert(create(1, live))).await.expect("created");
}

#[tokio::test]
async fn validation_alone_records_and_sends_nothing() {
    let server = Server::with_demo().await;
    let request = |alert| wire::CreateAlertRequest { validate_only: true, ..create(1, alert) };
    let valid = soon(server.alerts().create_alert(request(demo_alert())))
        .await
        .expect("valid")
        .into_inner();
    assert_eq!((valid.name.as_str(), valid.state()), ("", wire::State::Unspecified));
    let mut unknown = demo_alert();
    unknown.audience.as_mut().expect("set").apps = vec!["apps/nobody".into()];
    let refused = soon(server.alerts().create_alert(request(unknown))).await.expect_err("checked");
    assert_eq!(field(&refused), "alert.audience.apps[0]");
    assert!(server.nodes.started.lock().is_empty());
    let mut other = demo_alert();
    other.max_rate_per_second = 5;
    // The request id was not used up.
    soon(server.alerts().create_alert(create(1, other))).await.expect("created");
}

#[tokio::test]
async fn without_nodes_nothing_is_recorded_and_the_same_request_can_be_tried_again() {
    let server = Server::with_demo().await;
    *server.nodes.away.lock() = true;
    let alert = demo_alert();
    let refused = soon(server.alerts().create_alert(create(1, alert.clone())))
        .await
        .expect_err("nobody there");
    assert_eq!(reason(&refused), (Code::Unavailable, "NO_NODES".to_owned()));
    assert!(refused.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
    let list = soon(server.alerts().list_alerts(wire::ListAlertsRequest::default()))
        .await
        .expect("up")
        .into_inner();
    assert!(list.alerts.is_empty());
    *server.nodes.away.lock() = false;
    soon(server.alerts().create_alert(create(1, alert))).await.expect("created");
}

#[tokio::test]
async fn a_lane_that_cannot_exist_is_refused_before_anything_is_recorded() {
    let server = Server::with_demo().await;
    let lane = LaneKey { gateway: "apns".to_owned(), credential: "team".to_owned() };
    server.nodes.broken.lock().push(lane);
    let mut client = server.alerts();
    let refused = soon(client.create_alert(create(1, demo_alert()))).await;
    let refused = refused.expect_err("its key makes no token");
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "LANE_NOT_CONFIGURED".to_owned()));
    let active = server.context.store.active_alerts().await.expect("up");
    assert!(active.is_empty() && server.nodes.started.lock().is_empty());
    server.nodes.broken.lock().clear();
    server.created(1).await;
}

#[tokio::test]
async fn the_record_is_complete_and_its_plan_goes_with_the_end() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let record = server.context.store.alert(&name(&alert)).await.expect("up").expect("there");
    let (started, plan) = (server.nodes.started.lock()[0].clone(), record.plan.clone());
    let plan = plan.expect("active");
    assert_eq!((&plan.apps, &plan.segments), (&started.apps, &started.segments));
    assert_eq!((record.epoch, started.epoch), (FIRST_EPOCH, FIRST_EPOCH));
    assert_eq!((&record.positions, record.log), (&started.positions, started.log));
    assert_eq!(plan.edges, server.context.config.alerts.bands);
    let cancel = wire::CancelAlertRequest { name: alert.name.clone(), ..Default::default() };
    soon(server.alerts().cancel_alert(cancel)).await.expect("cancelled");
    let record = server.context.store.alert(&name(&alert)).await.expect("up").expect("there");
    assert!(record.plan.is_none() && record.state == State::Cancelled);
}

#[tokio::test]
async fn too_many_active_alerts_are_refused_until_one_ends() {
    let server =
        Server::with_demo_and(Args { alerts_active_max: Some(1), ..Args::default() }).await;
    let first = server.created(1).await;
    let refused =
        soon(server.alerts().create_alert(create(2, demo_alert()))).await.expect_err("full");
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "ALERTS_ACTIVE".to_owned()));
    assert!(refused.get_details_retry_info().is_some());
    soon(
        server
            .alerts()
            .cancel_alert(wire::CancelAlertRequest { name: first.name, ..Default::default() }),
    )
    .await
    .expect("cancelled");
    server.created(2).await;
}

#[tokio::test]
async fn pages_are_newest_first_and_their_tokens_are_checked() {
    let server = Server::with_demo().await;
    let mut names = Vec::new();
    for request in 1..=5 {
        names.push(server.created(request).await.name);
    }
    let list = |page_size, page_token: &str| {
        let request = wire::ListAlertsRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        let mut client = server.alerts();
        async move { soon(client.list_alerts(request)).await.map(tonic::Response::into_inner) }
    };
    let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = list(2, &token).await.expect("a page");
        seen.extend(
            page.alerts
                .into_iter()
                .map(|alert| (alert.create_time.map(|t| (t.seconds, t.nanos)), alert.name)),
        );
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, 3);
    assert!(seen.is_sorted_by(|a, b| a.0 >= b.0), "newest first");
    let mut seen: Vec<String> = seen.into_iter().map(|(_, name)| name).collect();
    seen.sort();
    names.sort();
    assert_eq!(seen, names, "nobody missed, nobody twice");

    assert_eq!(field(&list(-1, "").await.expect_err("negative")), "page_size");
    assert_eq!(field(&list(1_001, "").await.expect_err("large")), "page_size");
    assert_eq!(field(&list(1, "AAAA").await.expect_err("made up")), "page_token");
    let apps = soon(server.apps().list_apps(wire::ListAppsRequest::default()))
        .await
        .expect("up")
        .into_inner();
    assert_eq!((apps.apps.len(), apps.next_page_token.as_str()), (1, ""));
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let server = Server::with_demo().await;
    let get = |name: &str| {
        let (mut client, name) = (server.alerts(), name.to_owned());
        async move {
            soon(client.get_alert(wire::GetAlertRequest { name, ..Default::default() }))
                .await
                .expect_err("not there")
        }
    };
    assert_eq!(get("alerts/a1").await.code(), Code::NotFound);
    assert_eq!(field(&get("a1").await), "name");
}

#[tokio::test]
async fn a_preview_counts_and_records_nothing() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(app("second"))).await.expect("created");
    let mut alert = wire::Alert { max_rate_per_second: 10, ..demo_alert() };
    alert.audience.as_mut().expect("set").apps.push("apps/second".into());
    let request = wire::PreviewAlertRequest { alert: Some(alert) };
    let preview =
        soon(server.alerts().preview_alert(request.clone())).await.expect("counted").into_inner();
    let exact = |count: &Option<wire::DeviceCount>| match count.expect("told").count {
        Some(wire::device_count::Count::Exact(devices)) => devices,
        other => panic!("{other:?}"),
    };
    // Bands to 1, 2, 5, 10 and 20 km; 30 and 60 devices in each, as scripted.
    assert_eq!((preview.bands.len(), exact(&preview.devices)), (5, 450));
    assert_eq!(
        preview.apps.iter().map(|a| (a.app.as_str(), exact(&a.devices))).collect::<Vec<_>>(),
        [("apps/demo", 150), ("apps/second", 300)]
    );
    assert_eq!(exact(&preview.bands[1].devices), 90);
    assert_eq!(preview.estimated_duration.expect("a rate is set").seconds, 45);
    assert!(preview.cover_cells > 100);
    assert!(server.nodes.started.lock().is_empty());

    *server.nodes.away.lock() = true;
    let refused = soon(server.alerts().preview_alert(request)).await.expect_err("nobody there");
    assert_eq!(refused.code(), Code::Unavailable);
}
