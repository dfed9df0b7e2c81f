//! Apps: made, changed, listed, removed; always on a lane that is configured.

use clarion_proto::wire::v1 as wire;
use prost_types::FieldMask;
use tonic::Code;

use crate::support::{Server, app, busy, demo_app, fcm_app, field, reason, soon, token_app};

#[tokio::test]
async fn an_app_is_made_once_and_its_lane_is_opened() {
    let server = Server::start().await;
    let made = soon(server.apps().create_app(demo_app())).await.expect("created").into_inner();
    assert_eq!(made.name, "apps/demo");
    assert!(made.create_time.is_some() && !made.etag.is_empty());
    assert_eq!(server.nodes.lanes.lock()[0].credential, "team");
    let again =
        soon(server.apps().create_app(demo_app())).await.expect("the very same").into_inner();
    assert_eq!(again, made);
    let mut other = demo_app();
    other.app.as_mut().expect("set").topic = "org.example.other".into();
    let refused = soon(server.apps().create_app(other)).await.expect_err("taken");
    assert_eq!(refused.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn an_app_must_fit_the_configuration() {
    let server = Server::start().await;
    let refused = |spoil: fn(&mut wire::App)| {
        let mut request = demo_app();
        spoil(request.app.as_mut().expect("set"));
        let mut client = server.apps();
        async move { soon(client.create_app(request)).await.expect_err("must be refused") }
    };
    let missing = (Code::FailedPrecondition, "LANE_NOT_CONFIGURED".to_owned());
    assert_eq!(reason(&refused(|a| a.gateway = "none".into()).await), missing);
    assert_eq!(reason(&refused(|a| a.credential = "none".into()).await), missing);
    assert_eq!(field(&refused(|a| a.environment = 1).await), "app.environment");
    assert_eq!(field(&refused(|a| a.lane_kind = 1).await), "app.lane_kind");
    assert_eq!(field(&refused(|a| a.topic.clear()).await), "app.topic");
    assert_eq!(field(&refused(|a| a.name = "apps/other".into()).await), "app.name");
    assert_eq!(field(&refused(|a| a.gateway = "fcm".into()).await), "app.platform");
    assert_eq!(field(&refused(|a| a.credential = "google".into()).await), "app.credential");
    let list = soon(server.apps().list_apps(wire::ListAppsRequest::default()))
        .await
        .expect("up")
        .into_inner();
    assert!(list.apps.is_empty());
}

#[tokio::test]
async fn an_app_of_fcm_needs_a_project_and_a_lane_of_fcm() {
    let server = Server::start().await;
    let made =
        soon(server.apps().create_app(fcm_app("android"))).await.expect("created").into_inner();
    assert_eq!((made.platform(), made.project.as_str()), (wire::Platform::Fcm, "demo-project"));
    assert_eq!(server.nodes.lanes.lock()[0].credential, "google");
    let refused = |spoil: fn(&mut wire::App)| {
        let mut request = fcm_app("other");
        spoil(request.app.as_mut().expect("set"));
        let mut client = server.apps();
        async move { field(&soon(client.create_app(request)).await.expect_err("must be refused")) }
    };
    assert_eq!(refused(|a| a.gateway = "apns".into()).await, "app.platform");
    assert_eq!(refused(|a| a.credential = "team".into()).await, "app.credential");
    assert_eq!(refused(|a| a.project.clear()).await, "app.project");
    assert_eq!(refused(|a| a.project = "p/../q".into()).await, "app.project");
    // A credential's lane has one quota and one fate: its own project's.
    assert_eq!(refused(|a| a.project = "another-project".into()).await, "app.project");
    assert_eq!(refused(|a| a.topic = "org.example".into()).await, "app.topic");
}

#[tokio::test]
async fn an_update_changes_the_fields_named_and_the_first_writer_wins() {
    let server = Server::start().await;
    let made = soon(server.apps().create_app(demo_app())).await.expect("created").into_inner();
    let update = |app: wire::App, paths: &[&str]| {
        let paths = paths.iter().map(|p| (*p).to_owned()).collect();
        let request =
            wire::UpdateAppRequest { app: Some(app), update_mask: Some(FieldMask { paths }) };
        let mut client = server.apps();
        async move { soon(client.update_app(request)).await.map(tonic::Response::into_inner) }
    };
    let wanted = wire::App { display_name: "Demo".into(), topic: "ignored".into(), ..made.clone() };
    let updated = update(wanted.clone(), &["display_name"]).await.expect("updated");
    assert_eq!((updated.display_name.as_str(), &updated.topic), ("Demo", &made.topic));
    assert_ne!(updated.etag, made.etag);
    assert_eq!(update(wanted, &["display_name"]).await.expect_err("late").code(), Code::Aborted);

    let current = wire::App { etag: String::new(), ..updated };
    assert_eq!(
        field(&update(current.clone(), &["name"]).await.expect_err("fixed")),
        "update_mask.paths[0]"
    );
    assert_eq!(field(&update(current.clone(), &[]).await.expect_err("nothing")), "update_mask");
    let fcm = wire::App { platform: wire::Platform::Fcm.into(), ..current.clone() };
    assert_eq!(reason(&update(fcm, &["platform"]).await.expect_err("fixed")).1, "PLATFORM_FIXED");
    let elsewhere = wire::App { gateway: "none".into(), ..current };
    assert_eq!(
        reason(&update(elsewhere, &["gateway"]).await.expect_err("none")).1,
        "LANE_NOT_CONFIGURED"
    );
}

#[tokio::test]
async fn the_identity_of_an_app_is_fixed_at_its_creation() {
    let server = Server::start().await;
    let unset = soon(server.apps().create_app(demo_app())).await.expect("created").into_inner();
    assert_eq!(unset.identity(), wire::Identity::Device);
    let mut device = demo_app();
    device.app.as_mut().expect("set").identity = wire::Identity::Device.into();
    let same = soon(server.apps().create_app(device)).await.expect("the very same");
    assert_eq!(same.into_inner(), unset);
    let other = soon(server.apps().create_app(token_app("demo"))).await.expect_err("taken");
    assert_eq!(other.code(), Code::AlreadyExists);
    let mut unknown = demo_app();
    unknown.app.as_mut().expect("set").identity = 3;
    let unknown = soon(server.apps().create_app(unknown)).await.expect_err("unknown");
    assert_eq!(field(&unknown), "app.identity");

    let tokens = soon(server.apps().create_app(token_app("tokens"))).await.expect("created");
    let tokens = tokens.into_inner();
    assert_eq!(tokens.identity(), wire::Identity::Token);
    let update = async |app: &wire::App, identity: i32, paths: &[&str]| {
        let app =
            wire::App { identity, display_name: "Demo".into(), etag: String::new(), ..app.clone() };
        let paths = paths.iter().map(|p| (*p).to_owned()).collect();
        let mask = FieldMask { paths };
        let request = wire::UpdateAppRequest { app: Some(app), update_mask: Some(mask) };
        soon(server.apps().update_app(request)).await.map(tonic::Response::into_inner)
    };
    // 0 means DEVICE, as at creation.
    for (app, kept, changed) in [(&unset, [0, 1].as_slice(), [2, 3]), (&tokens, &[2], [0, 1])] {
        for identity in kept {
            let updated = update(app, *identity, &["identity", "display_name"]).await;
            assert_eq!(updated.expect("nothing changes").identity, app.identity);
        }
        for identity in changed {
            let refused = update(app, identity, &["identity"]).await.expect_err("fixed");
            let fixed = (Code::FailedPrecondition, "IDENTITY_FIXED".to_owned());
            assert_eq!(reason(&refused), fixed);
            let unnamed = update(app, identity, &["display_name"]).await.expect("not named");
            assert_eq!(unnamed.identity, app.identity);
        }
    }
}

/// Devices stay when their app is deleted. Under another identity, a phone would be there twice.
#[tokio::test]
async fn a_name_keeps_its_identity_while_it_has_devices() {
    let server = Server::with_demo().await;
    let name = clarion_proto::ids::AppName::from_id("demo").expect("valid");
    let delete = async || {
        let request = wire::DeleteAppRequest { name: "apps/demo".into() };
        soon(server.apps().delete_app(request)).await.expect("deleted");
    };
    let create = async |request| soon(server.apps().create_app(request)).await.map(drop);
    server.nodes.totals.lock().apps.insert(name.clone(), 1);
    delete().await;
    let refused = create(token_app("demo")).await.expect_err("it has a device");
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "IDENTITY_FIXED".to_owned()));
    create(demo_app()).await.expect("the same identity");
    delete().await;
    *server.nodes.away.lock() = true;
    let refused = create(token_app("demo")).await.expect_err("nobody counts its devices");
    assert_eq!(busy(&refused), (Code::Unavailable, "NO_NODES".to_owned()));
    *server.nodes.away.lock() = false;
    server.nodes.totals.lock().apps.clear();
    create(token_app("demo")).await.expect("it has no devices");
    server.nodes.totals.lock().apps.insert(name, 1);
    create(token_app("demo")).await.expect("a repeat");
}

#[tokio::test]
async fn an_app_is_removed_when_no_active_alert_addresses_it() {
    let server = Server::with_demo().await;
    let alert = server.created(1).await;
    let delete = || {
        let mut client = server.apps();
        async move { soon(client.delete_app(wire::DeleteAppRequest { name: "apps/demo".into() })).await }
    };
    assert_eq!(
        reason(&delete().await.expect_err("in use")),
        (Code::FailedPrecondition, "APP_IN_USE".to_owned())
    );
    let cancel = wire::CancelAlertRequest { name: alert.name, ..Default::default() };
    soon(server.alerts().cancel_alert(cancel)).await.expect("cancelled");
    delete().await.expect("removed");
    assert_eq!(delete().await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn apps_are_listed_by_name_in_pages() {
    let server = Server::start().await;
    for id in ["c", "a", "b"] {
        soon(server.apps().create_app(app(id))).await.expect("created");
    }
    let list = |page_size, page_token: String| {
        let mut client = server.apps();
        async move { soon(client.list_apps(wire::ListAppsRequest { page_size, page_token })).await }
    };
    let first = list(2, String::new()).await.expect("a page").into_inner();
    let second = list(2, first.next_page_token.clone()).await.expect("a page").into_inner();
    let names: Vec<&str> = first.apps.iter().chain(&second.apps).map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["apps/a", "apps/b", "apps/c"]);
    assert!(second.next_page_token.is_empty());
    assert_eq!(field(&list(2, "x".into()).await.expect_err("made up")), "page_token");
}

#[tokio::test]
async fn one_address_does_not_take_all_names() {
    let server = Server::start().await;
    let mut made = 0;
    let refused = loop {
        match soon(server.apps().create_app(app(&format!("a{made}")))).await {
            Ok(_) => made += 1,
            Err(refused) => break refused,
        }
    };
    assert!((100..=105).contains(&made), "{made}");
    assert_eq!(busy(&refused), (Code::ResourceExhausted, "APPS_RATE".to_owned()));
    let mut other = wire::app_service_client::AppServiceClient::new(server.from(2).await);
    soon(other.create_app(app("other"))).await.expect("another address");
}
