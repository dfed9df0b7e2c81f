//! Small audiences: refused unless the operator allows them, and told as "fewer than 20".

use clarion_coordinator::{config::Args, privacy::curiosity};
use clarion_proto::wire::v1::{
    self as wire, alert_service_client::AlertServiceClient, device_count::Count,
};
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
    let expected =
        (Code::PermissionDenied, "REGION_TOO_SMALL".into(), "alert.region".into(), "1 km²".into());
    let created = soon(server.alerts().create_alert(create(1, small()))).await.expect_err("small");
    assert_eq!(refused(&created), expected);
    let previewed = soon(server.alerts().preview_alert(preview(small()))).await.expect_err("small");
    assert_eq!(refused(&previewed), expected);
    assert!(server.nodes.questions.lock().is_empty(), "nobody was asked");
    // 1.1 km².
    soon(server.alerts().create_alert(create(1, of_radius(592.0)))).await.expect("large enough");

    let server =
        Server::with_demo_and(Args { allow_small_audiences: Some(true), ..Args::default() }).await;
    soon(server.alerts().create_alert(create(1, small()))).await.expect("allowed");
}

#[tokio::test]
async fn an_audience_under_a_hundred_is_refused_without_its_count_unless_allowed() {
    let server = Server::with_demo().await;
    *server.nodes.audience.lock() = Some(97);
    for request in [
        create(1, demo_alert()),
        wire::CreateAlertRequest { validate_only: true, ..create(1, demo_alert()) },
    ] {
        let created = soon(server.alerts().create_alert(request)).await.expect_err("few");
        let limit = "100 devices in the region, seen there within place_seen_within".to_owned();
        assert_eq!(
            refused(&created),
            (Code::PermissionDenied, "AUDIENCE_TOO_SMALL".into(), "alert.audience".into(), limit)
        );
        assert!(!format!("{created:?}").contains("97"));
    }
    assert!(server.nodes.started.lock().is_empty());
    *server.nodes.counted.lock() = Some(vec![20, 20, 20, 20, 17]);
    let previewed =
        soon(server.alerts().preview_alert(preview(demo_alert()))).await.expect_err("few");
    assert_eq!(refused(&previewed).1, "AUDIENCE_TOO_SMALL");
    *server.nodes.audience.lock() = Some(100);
    soon(server.alerts().create_alert(create(1, demo_alert())))
        .await
        .expect("enough, and the request id is free");

    let server =
        Server::with_demo_and(Args { allow_small_audiences: Some(true), ..Args::default() }).await;
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
    let away = soon(server.alerts().create_alert(create(2, demo_alert())))
        .await
        .expect_err("nobody can tell");
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
    let bands = |p: &wire::PreviewAlertResponse| {
        p.bands.iter().map(|b| count(b.devices)).collect::<Vec<_>>()
    };
    let withheld = Count::Withheld(wire::device_count::Withheld {});

    let large = told([30, 40, 50, 60, 70]).await;
    assert_eq!(bands(&large), [30, 40, 50, 60, 70].map(Count::Exact));
    assert_eq!(
        (count(large.devices), large.estimated_duration.expect("told").seconds),
        (Count::Exact(250), 25)
    );

    let one_small = told([3, 400, 50, 60, 70]).await;
    assert_eq!(
        bands(&one_small),
        [Count::FewerThan(20), Count::Exact(400), withheld, Count::Exact(60), Count::Exact(70)],
        "total less the others would be 3"
    );
    assert_eq!(count(one_small.devices), Count::Exact(583));

    let server =
        Server::with_demo_and(Args { allow_small_audiences: Some(true), ..Args::default() }).await;
    *server.nodes.counted.lock() = Some(vec![3, 4, 0, 0, 5]);
    let alert = wire::Alert { max_rate_per_second: 1, ..demo_alert() };
    let few =
        soon(server.alerts().preview_alert(preview(alert))).await.expect("allowed").into_inner();
    assert_eq!(count(few.devices), Count::FewerThan(20));
    assert_eq!(count(few.apps[0].devices), Count::FewerThan(20));
    assert!(few.bands.iter().all(|band| count(band.devices) == Count::FewerThan(20)));
    assert!(few.estimated_duration.is_none(), "at one a second it would be the count");
}

fn total(answer: &wire::PreviewAlertResponse) -> (Count, bool) {
    (answer.devices.and_then(|d| d.count).expect("told"), answer.of_earlier_region)
}

/// Two circles that differ by one house, as an attacker asks for them: both answers are of the same
/// region.
#[tokio::test]
async fn nobody_is_placed_by_two_previews() {
    let server = Server::with_demo().await;
    let ask = |from: &tonic::transport::Channel, alert: wire::Alert| {
        let mut client = AlertServiceClient::new(from.clone());
        async move { soon(client.preview_alert(preview(alert))).await.map(tonic::Response::into_inner) }
    };
    let here = server.channel.clone();
    *server.nodes.counted.lock() = Some(vec![100, 100, 100, 100, 100, 100]);
    let first = ask(&here, of_radius(5_000.0)).await.expect("counted");
    let cells = first.cover_cells;
    let bands = first.bands.len();
    assert_eq!(total(&first), (Count::Exact(100 * bands as u64), false));
    assert!(
        !ask(&here, of_radius(5_000.0)).await.expect("counted").of_earlier_region,
        "the same again is itself"
    );
    // One person more in the ring between the two.
    let moved = |meters: f64| {
        let mut alert = of_radius(5_000.0);
        let region = alert.region.as_mut().and_then(|region| region.shape.as_mut());
        let Some(wire::region::Shape::Circle(circle)) = region else { panic!("a circle") };
        circle.center.as_mut().expect("set").latitude += meters / 111_000.0;
        alert
    };
    let mut excluded = of_radius(5_000.0);
    let hole = wire::Circle {
        center: Some(wire::LatLng { latitude: 22.55, longitude: 114.06 }),
        radius_meters: 450.0,
    };
    let hole = wire::Region {
        shape: Some(wire::region::Shape::Circle(hole)),
        exclusions: vec![],
        datum: 0,
    };
    excluded.region.as_mut().expect("set").exclusions.push(hole);
    // "Nearest" from elsewhere cuts the same region into other bands.
    let seen_elsewhere = wire::Alert {
        last_seen: Some(wire::LatLng { latitude: 22.541, longitude: 114.06 }),
        ..of_radius(5_000.0)
    };
    // Another name for everybody.
    let mut everybody = of_radius(5_010.0);
    everybody.audience.as_mut().expect("set").segments = "NOT nobody-at-all".into();
    let there = server.from(2).await;
    for (what, alert) in [
        ("wider by 20 m", of_radius(5_020.0)),
        ("moved by 30 m", moved(30.0)),
        ("less a house", excluded),
        ("other bands", seen_elsewhere),
        ("other words for the same audience", everybody),
    ] {
        for from in [&here, &there] {
            let answer = ask(from, alert.clone()).await.expect(what);
            assert_eq!(
                (answer.cover_cells, answer.bands.len()),
                (cells, bands),
                "{what}: the first region's"
            );
            assert!(answer.of_earlier_region, "{what}");
        }
    }
    let (_, earlier) = total(&ask(&here, of_radius(6_000.0)).await.expect("another region"));
    assert!(!earlier);
}

#[tokio::test]
async fn one_address_asks_so_often_and_others_go_on() {
    let server = Server::with_demo().await;
    let mut client = server.alerts();
    let mut asked = 0;
    let refused = loop {
        match soon(client.preview_alert(preview(demo_alert()))).await {
            Ok(_) => asked += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(asked, curiosity::REGION_BURST);
    let too_often = (Code::ResourceExhausted, "PREVIEWS_MAX".to_owned());
    assert_eq!(busy(&refused), too_often);
    // Another region, until the peer itself has asked too often.
    let refused = loop {
        let radius = 13_000.0 + 2_000.0 * f64::from(asked);
        match soon(client.preview_alert(preview(of_radius(radius)))).await {
            Ok(_) => asked += 1,
            Err(refused) => break refused,
        }
        assert!(asked <= curiosity::PEER_BURST + 20, "some of it comes back while the test runs");
    };
    assert_eq!(busy(&refused), too_often);
    // One comes back every 5 s, so a slow machine may find some.
    let validate = wire::CreateAlertRequest { validate_only: true, ..create(1, demo_alert()) };
    let mut refused = Ok(());
    for _ in 0..20 {
        refused = soon(client.create_alert(validate.clone())).await.map(drop);
        if refused.is_err() {
            break;
        }
    }
    assert_eq!(busy(&refused.expect_err("a question, too")), too_often);
    soon(client.create_alert(create(1, demo_alert())))
        .await
        .expect("an alert that is sent is none");
    let mut other = AlertServiceClient::new(server.from(2).await);
    soon(other.preview_alert(preview(demo_alert()))).await.expect("another address");
}

/// The threshold tells one bit: whether a hundredth device is there. It is asked so often and no
/// more.
#[tokio::test]
async fn refusals_of_nearly_the_same_region_are_counted() {
    let server = Server::with_demo().await;
    *server.nodes.audience.lock() = Some(99);
    let mut client = server.alerts();
    for n in 1..=u128::from(curiosity::REGION_BURST) {
        let refused = soon(client.create_alert(create(n, demo_alert()))).await.expect_err("small");
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let asked = server.nodes.questions.lock().len();
    let refused =
        soon(client.create_alert(create(99, of_radius(12_010.0)))).await.expect_err("too often");
    assert_eq!(busy(&refused), (Code::ResourceExhausted, "REFUSALS_MAX".to_owned()));
    assert_eq!(server.nodes.questions.lock().len(), asked, "the nodes were not asked");
    *server.nodes.audience.lock() = None;
    soon(client.create_alert(create(100, of_radius(30_000.0)))).await.expect("a larger region");
    let mut other = AlertServiceClient::new(server.from(2).await);
    soon(other.create_alert(create(101, demo_alert()))).await.expect("another address");
}
