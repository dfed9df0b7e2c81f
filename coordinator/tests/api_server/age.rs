//! Ages through the API: of the places that an alert accepts, and of the observations that a
//! historic stream writes.

use std::time::Duration;

use clarion_proto::{alert::timestamp, ids::UnixMillis, wire::v1 as wire};
use tonic::Code;

use crate::{
    registry::{device, write},
    support::{Server, create, demo_alert, soon, violation},
};

const DAY_MS: u64 = 24 * 3_600_000;
const DAY_S: i64 = 24 * 3_600;

fn aged(seconds: i64) -> wire::Alert {
    let mut alert = demo_alert();
    let within = Some(prost_types::Duration { seconds, nanos: 0 });
    alert.audience.as_mut().expect("set").place_seen_within = within;
    alert
}

fn within(alert: &wire::Alert) -> i64 {
    alert.audience.as_ref().expect("set").place_seen_within.expect("in effect").seconds
}

#[tokio::test]
async fn the_age_of_places_is_fixed_when_the_alert_is_created() {
    let server = Server::with_demo().await;
    for (request, alert, days) in
        [(1, demo_alert(), 30), (2, aged(7 * DAY_S), 7), (3, aged(400 * DAY_S), 400)]
    {
        let made = soon(server.alerts().create_alert(create(request, alert.clone()))).await;
        let made = made.expect("created").into_inner();
        assert_eq!(within(&made), days * DAY_S, "the value in effect");
        let created = made.create_time.expect("recorded");
        let created_ms = created.seconds.unsigned_abs() * 1_000
            + u64::from(created.nanos.unsigned_abs()) / 1_000_000;
        let after = server.nodes.started.lock().last().expect("started").place_seen_after;
        let expected = if days == 400 { 0 } else { created_ms - days.unsigned_abs() * DAY_MS };
        assert_eq!(after, UnixMillis(expected));

        let again = soon(server.alerts().create_alert(create(request, alert))).await;
        assert_eq!(again.expect("the same").into_inner().name, made.name);
        let read = wire::GetAlertRequest { name: made.name, with_region: false };
        let read = soon(server.alerts().get_alert(read)).await.expect("there").into_inner();
        assert_eq!(within(&read), days * DAY_S);
    }
}

#[tokio::test]
async fn a_wrong_age_is_refused_by_name() {
    let server = Server::with_demo().await;
    for seconds in [0, -1, 3_599, 400 * DAY_S + 1] {
        let refused = soon(server.alerts().create_alert(create(1, aged(seconds)))).await;
        let (field, problem) = violation(&refused.expect_err("out of range"));
        assert_eq!(field, "alert.audience.place_seen_within");
        assert_eq!(
            problem,
            format!("must be 1 hour (3600 s) to 400 days (34560000 s); got {seconds} s and 0 ns")
        );
    }
}

#[tokio::test]
async fn a_preview_tells_how_many_the_age_leaves_out() {
    use wire::device_count::Count;
    let server = Server::with_demo().await;
    for (alert, expected) in
        [(demo_alert(), Count::Exact(250)), (aged(400 * DAY_S), Count::FewerThan(20))]
    {
        let request = wire::PreviewAlertRequest { alert: Some(alert) };
        let preview = soon(server.alerts().preview_alert(request)).await.expect("counted");
        let left_out = preview.into_inner().left_out_for_age.expect("told");
        assert_eq!(left_out.count, Some(expected));
    }
}

fn observed(n: u128, now: UnixMillis, age_ms: u64) -> wire::DeviceChange {
    wire::DeviceChange { observe_time: Some(timestamp(UnixMillis(now.0 - age_ms))), ..device(n) }
}

#[tokio::test]
async fn a_historic_stream_imports_a_year_and_no_old_removals() {
    let server = Server::with_demo().await;
    let now = server.context.world.clock().wall();
    let removal = |age_ms| wire::DeviceChange {
        change: Some(wire::device_change::Change::Removal(wire::Removal {})),
        ..observed(9, now, age_ms)
    };
    let changes = vec![
        observed(1, now, 365 * DAY_MS),
        observed(2, now, 401 * DAY_MS),
        removal(2 * DAY_MS),
        removal(DAY_MS / 2),
    ];
    let batch = |historic| {
        let batch = wire::WriteDevicesRequest { batch_id: 1, changes: changes.clone(), historic };
        let server = &server;
        async move {
            let answer = write(server, vec![batch]).await.expect("answered").remove(0);
            let errors = answer.errors.into_iter().map(|e| (e.index, e.field, e.description));
            (answer.written, errors.collect::<Vec<_>>())
        }
    };
    let (written, errors) = batch(true).await;
    let fields: Vec<_> = errors.iter().map(|(index, field, _)| (*index, field.as_str())).collect();
    assert_eq!((written, &fields[..]), (2, &[(1, "observe_time"), (2, "removal")][..]));
    assert!(errors[0].2.starts_with("must be at most 400 days old; got "), "{errors:?}");
    assert!(errors[1].2.contains("leave removed devices out of the import"), "{errors:?}");
    let (written, errors) = batch(false).await;
    let fields: Vec<_> = errors.iter().map(|(index, field, _)| (*index, field.as_str())).collect();
    let refused = [0, 1, 2].map(|index| (index, "observe_time"));
    assert_eq!((written, &fields[..]), (1, &refused[..]));
}

#[tokio::test]
async fn a_stream_is_historic_from_its_first_batch_or_never() {
    let server = Server::with_demo().await;
    for first in [false, true] {
        let batch = |batch_id, historic| wire::WriteDevicesRequest {
            batch_id,
            changes: vec![device(u128::from(batch_id))],
            historic,
        };
        let written = write(&server, vec![batch(1, first), batch(2, first)]).await;
        assert_eq!(written.expect("acknowledged").len(), 2);
        let refused = write(&server, vec![batch(1, first), batch(2, !first)]).await;
        let refused = tokio::time::timeout(Duration::from_secs(5), async { refused });
        let refused = refused.await.expect("in time").expect_err("another value");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let (field, problem) = violation(&refused);
        assert_eq!(field, "historic");
        assert!(problem.starts_with(&format!("must be {first} in every batch")), "{problem}");
    }
}
