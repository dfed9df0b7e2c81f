//! Small audiences: refused unless the operator allows them, and told as "fewer than 20".

use clarion_coordinator::config::Args;
use clarion_proto::wire::v1::{self as wire, device_count::Count};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{Server, busy, create, demo_alert, soon};

fn preview(alert: wire::Alert) -> wire::PreviewAlertRequest {
    wire::PreviewAlertRequest { alert: Some(alert) }
}

fn of_radius(radius_meters: f64) -> wire::Alert {
    let mut alert = demo_alert();
    match alert.region.as_mut().and_then(|region| region.shape.as_mut()) {
        Some(wire::region::Shape::Circle(circle)) => circle.radius_meters = radius_meters,
        other => panic!("{other:?}"),
    }
    alert
}

/// Code, reason, field and limit.
fn refused(status: &Status) -> (Code, String, String, String) {
    let info = status.get_details_error_info().expect("ErrorInfo");
    (status.code(), info.reason, info.metadata["field"].clone(), info.metadata["limit"].clone())
}

#[tokio::test]
async fn a_region_under_a_square_kilometre_is_refused_unless_allowed() {
    let server = Server::with_demo().await;
    // 0.9 km².
    let small = || of_radius(535.0);
    let expected = (Code::PermissionDenied, "REGION_TOO_SMALL".into(), "alert.region".into(), "1 km²".into());
    let created = soon(server.alerts().create_alert(create(1, small()))).await.expect_err("small");
    assert_eq!(refused(&created), expected);
    let previewed = soon(server.alerts().preview_alert(preview(small()))).await.expect_err("small");
    assert_eq!(refused(&previewed), expected);
    assert!(server.nodes.questions.lock().is_empty(), "nobody was asked");
    // 1.1 km².
    soon(server.alerts().create_alert(create(1, of_radius(592.0)))).await.expect("large enough");

    let server = Server::with_demo_and(Args { allow_small_audiences: Some(true), ..Args::default() }).await;
    soon(server.alerts().create_alert(create(1, small()))).await.expect("allowed");
}

#[tokio::test]
async fn an_audience_under_a_hundred_is_refused_without_its_count_unless_allowed() {
    let server = Server::with_demo().await;
    *server.nodes.audience.lock() = Some(97);
    for request in
        [create(1, demo_alert()), wire::CreateAlertRequest { validate_only: true, ..create(1, demo_alert()) }]
    {
        let created = soon(server.alerts().create_alert(request)).await.expect_err("few");
        let limit = "100 devices in the region".to_owned();
        assert_eq!(
            refused(&created),
            (Code::PermissionDenied, "AUDIENCE_TOO_SMALL".into(), "alert.audience".into(), limit)
        );
        assert!(!format!("{created:?}").contains("97"));
    }
    assert!(server.nodes.started.lock().is_empty());
    *server.nodes.counted.lock() = Some(vec![20, 20, 20, 20, 17]);
    let previewed = soon(server.alerts().preview_alert(preview(demo_alert()))).await.expect_err("few");
    assert_eq!(refused(&previewed).1, "AUDIENCE_TOO_SMALL");
    *server.nodes.audience.lock() = Some(100);
    soon(server.alerts().create_alert(create(1, demo_alert()))).await.expect("enough, and the request id is free");

    let server = Server::with_demo_and(Args { allow_small_audiences: Some(true), ..Args::default() }).await;
    *server.nodes.audience.lock() = Some(1);
    soon(server.alerts().create_alert(create(1, demo_alert()))).await.expect("allowed");
    assert!(server.nodes.questions.lock().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn the_nearest_kilometres_are_asked_first_and_mostly_alone() {
    let server = Server::with_demo().await;
    soon(server.alerts().create_alert(create(1, of_radius(120_000.0)))).await.expect("created");
    // To 1, 2, 5 and 10 km; the last of them has the thousandth cell.
    assert_eq!(*server.nodes.questions.lock(), [4]);
    *server.nodes.audience.lock() = Some(5);
    soon(server.alerts().create_alert(create(2, of_radius(120_000.0)))).await.expect_err("few");
    assert_eq!(server.nodes.questions.lock()[1..], [4, 16], "then all");
    *server.nodes.away.lock() = true;
    let away = soon(server.alerts().create_alert(create(2, demo_alert()))).await.expect_err("nobody can tell");
    assert_eq!(busy(&away), (Code::Unavailable, "NO_NODES".to_owned()));
}

#[tokio::test]
async fn a_preview_tells_few_as_few_and_gives_no_difference_away() {
    let server = Server::with_demo().await;
    let told = |counted: [u64; 5]| {
        *server.nodes.counted.lock() = Some(counted.to_vec());
        let alert = wire::Alert { max_rate_per_second: 10, ..demo_alert() };
        let mut client = server.alerts();
        async move { soon(client.preview_alert(preview(alert))).await.expect("counted").into_inner() }
    };
    let count = |count: Option<wire::DeviceCount>| count.and_then(|c| c.count).expect("told");
    let bands = |p: &wire::PreviewAlertResponse| p.bands.iter().map(|b| count(b.devices)).collect::<Vec<_>>();
    let withheld = Count::Withheld(wire::device_count::Withheld {});

    let large = told([30, 40, 50, 60, 70]).await;
    assert_eq!(bands(&large), [30, 40, 50, 60, 70].map(Count::Exact));
    assert_eq!((count(large.devices), large.estimated_duration.expect("told").seconds), (Count::Exact(250), 25));

    let one_small = told([3, 400, 50, 60, 70]).await;
    assert_eq!(
        bands(&one_small),
        [Count::FewerThan(20), Count::Exact(400), withheld, Count::Exact(60), Count::Exact(70)],
        "total less the others would be 3"
    );
    assert_eq!(count(one_small.devices), Count::Exact(583));

    let server = Server::with_demo_and(Args { allow_small_audiences: Some(true), ..Args::default() }).await;
    *server.nodes.counted.lock() = Some(vec![3, 4, 0, 0, 5]);
    let alert = wire::Alert { max_rate_per_second: 1, ..demo_alert() };
    let few = soon(server.alerts().preview_alert(preview(alert))).await.expect("allowed").into_inner();
    assert_eq!(count(few.devices), Count::FewerThan(20));
    assert_eq!(count(few.apps[0].devices), Count::FewerThan(20));
    assert!(few.bands.iter().all(|band| count(band.devices) == Count::FewerThan(20)));
    assert!(few.estimated_duration.is_none(), "at one a second it would be the count");
}
