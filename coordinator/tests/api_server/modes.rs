//! Which modes of alerts reach which lanes.

use clarion_coordinator::config::Args;
use clarion_proto::wire::v1 as wire;
use tonic::Code;

use crate::{
    refusals::Left,
    support::{Server, create, demo_alert, live_app, reason, soon},
};

/// No way to a live lane while nobody has to say who they are: whatever the mode, the mix of apps,
/// the call.
#[tokio::test]
async fn a_live_lane_is_reached_by_nobody_without_an_identity() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(live_app("live"))).await.expect("created");
    let before = Left::of(&server).await;
    let alert = |mode: wire::Mode, apps: &[&str]| {
        let mut alert = wire::Alert { mode: mode.into(), ..demo_alert() };
        alert.audience.as_mut().expect("set").apps =
            apps.iter().map(|app| (*app).to_owned()).collect();
        alert
    };
    let lacks_identity = "IDENTITY_NOT_CONFIGURED";
    for (mode, expected) in [
        (wire::Mode::Live, lacks_identity),
        (wire::Mode::Exercise, lacks_identity),
        (wire::Mode::Test, "TEST_ON_LIVE_LANE"),
    ] {
        for apps in [&["apps/live"][..], &["apps/demo", "apps/live"], &["apps/live", "apps/demo"]] {
            let alert = alert(mode, apps);
            let validate =
                wire::CreateAlertRequest { validate_only: true, ..create(1, alert.clone()) };
            let preview = wire::PreviewAlertRequest { alert: Some(alert.clone()) };
            for refused in [
                soon(server.alerts().create_alert(create(1, alert))).await.expect_err(expected),
                soon(server.alerts().create_alert(validate)).await.expect_err(expected),
                soon(server.alerts().preview_alert(preview)).await.expect_err(expected),
            ] {
                assert_eq!(
                    reason(&refused),
                    (Code::FailedPrecondition, expected.to_owned()),
                    "{mode:?} to {apps:?}"
                );
            }
        }
    }
    assert!(server.nodes.questions.lock().is_empty(), "nobody was counted");
    assert_eq!(Left::of(&server).await, before);

    // An app that is moved to a live lane after an alert was admitted takes the next alert with it,
    // not that one.
    let test = soon(server.alerts().create_alert(create(2, demo_alert())))
        .await
        .expect("created")
        .into_inner();
    let mut moved = live_app("demo").app.expect("set");
    moved.name = "apps/demo".into();
    let paths = ["gateway", "environment", "lane_kind"].map(str::to_owned).to_vec();
    let update = wire::UpdateAppRequest {
        app: Some(moved),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    soon(server.apps().update_app(update)).await.expect("moved");
    assert_eq!(server.nodes.started.lock()[0].apps[0].lane.gateway, "apns", "{}", test.name);
    let refused =
        soon(server.alerts().create_alert(create(3, demo_alert()))).await.expect_err("live now");
    assert_eq!(reason(&refused).1, "TEST_ON_LIVE_LANE");

    let args = Args { allow_live_without_identity: Some(true), ..Args::default() };
    let server = Server::start_with(args).await;
    soon(server.apps().create_app(live_app("live"))).await.expect("created");
    for (n, mode) in [(1, wire::Mode::Live), (2, wire::Mode::Exercise)] {
        soon(server.alerts().create_alert(create(n, alert(mode, &["apps/live"]))))
            .await
            .expect("the operator allows it");
    }
    let test =
        soon(server.alerts().create_alert(create(3, alert(wire::Mode::Test, &["apps/live"]))))
            .await;
    assert_eq!(reason(&test.expect_err("a test never is")).1, "TEST_ON_LIVE_LANE");
}
