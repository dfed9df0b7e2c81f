//! Changes in: acknowledged in order, bad items as values, good ones in their logs.

use clarion_coordinator::{dispatch::LaneKey, progress::PruningAlarm};
use clarion_proto::{
    device::{Change, Record},
    ids::{AppName, DeviceId, LogId, Position, UnixMillis, log_of, partition_of},
    wire::{shard_v1, v1 as wire},
};
use prost::Message;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::support::{Server, busy, fcm_app, from_now, soon, violation};

pub(crate) fn arrival(device: &str) -> wire::DeviceChange {
    let registration = wire::Registration {
        app: "apps/demo".into(),
        token: "ab".repeat(32),
        locale: "en-GB".into(),
        ..Default::default()
    };
    let place = wire::place::Place::Point(wire::LatLng { latitude: 22.5, longitude: 114.0 });
    let place = wire::Place { place: Some(place) };
    let change = wire::Arrival { registration: Some(registration), place: Some(place) };
    wire::DeviceChange {
        device: device.to_owned(),
        observe_time: Some(from_now(0)),
        change: Some(wire::device_change::Change::Arrival(change)),
    }
}

pub(crate) fn device(n: u128) -> wire::DeviceChange {
    arrival(&uuid::Uuid::from_u128(n).to_string())
}

pub(crate) async fn write(
    server: &Server,
    batches: Vec<wire::WriteDevicesRequest>,
) -> Result<Vec<wire::WriteDevicesResponse>, Status> {
    let stream = soon(server.registry().write_devices(tokio_stream::iter(batches))).await?.into_inner();
    soon(stream.collect::<Result<Vec<_>, _>>()).await
}

/// Everything in the logs, by log.
async fn logged(server: &Server) -> Vec<(LogId, Vec<Record>)> {
    let log = &server.context.log;
    let mut all = Vec::new();
    for id in (0..log.logs()).map(LogId) {
        for batch in log.read(id, Position(0), usize::MAX).await.expect("up") {
            let records = shard_v1::FeedResponse::decode(batch.records).expect("records").records;
            all.push((id, records.into_iter().map(|r| Record::from_wire(r).expect("valid")).collect()));
        }
    }
    all
}

#[tokio::test]
async fn batches_are_acknowledged_in_order_and_each_record_is_in_its_log() {
    let server = Server::with_demo().await;
    let batches = (0..3_u64).map(|b| wire::WriteDevicesRequest {
        batch_id: 7 + b,
        changes: (0..500).map(|i| device(u128::from(b) * 1_000 + i)).collect(),
    });
    let answers = write(&server, batches.collect()).await.expect("acknowledged");
    assert_eq!(answers.iter().map(|a| (a.batch_id, a.written)).collect::<Vec<_>>(), [(7, 500), (8, 500), (9, 500)]);
    let logged = logged(&server).await;
    let config = &server.context.config;
    let mut devices = std::collections::BTreeSet::new();
    for (log, records) in &logged {
        for record in records {
            assert_eq!(log_of(partition_of(record.device, config.partitions), config.logs), *log);
            devices.insert(record.device);
        }
    }
    assert_eq!((devices.len(), logged.iter().map(|(_, r)| r.len()).sum::<usize>()), (1_500, 1_500));
    // One batch for each log and request at most.
    assert!(logged.len() <= 3 * 64);
}

#[tokio::test]
async fn a_bad_item_is_a_value_and_the_rest_of_its_batch_is_written() {
    let server = Server::with_demo().await;
    let registration = |change: &mut wire::DeviceChange, spoil: fn(&mut wire::Registration)| match &mut change.change {
        Some(wire::device_change::Change::Arrival(a)) => spoil(a.registration.as_mut().expect("set")),
        other => panic!("{other:?}"),
    };
    let mut changes: Vec<_> = (0..7).map(device).collect();
    registration(&mut changes[1], |r| r.app = "apps/nobody".into());
    registration(&mut changes[2], |r| r.app = "nobody".into());
    registration(&mut changes[3], |r| r.token = "xyz".into());
    changes[4].observe_time = Some(from_now(-25 * 3_600));
    changes[5].device.clear();
    let answers = write(&server, vec![wire::WriteDevicesRequest { batch_id: 1, changes }]).await.expect("answered");
    assert_eq!(answers[0].written, 2);
    let errors: Vec<_> = answers[0].errors.iter().map(|e| (e.index, e.field.as_str())).collect();
    assert_eq!(
        errors,
        [
            (1, "arrival.registration.app"),
            (2, "arrival.registration.app"),
            (3, "arrival.registration.token"),
            (4, "observe_time"),
            (5, "device"),
        ]
    );
    assert!(answers[0].errors.iter().all(|e| !e.description.is_empty() && !e.description.contains("xyz")));
    assert_eq!(logged(&server).await.iter().map(|(_, r)| r.len()).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_token_is_checked_as_its_apps_platform_wants_it() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(fcm_app("android"))).await.expect("created");
    let with = |n, app: &str, token: &str| {
        let mut change = device(n);
        let Some(wire::device_change::Change::Arrival(arrival)) = &mut change.change else { panic!("{change:?}") };
        let registration = arrival.registration.as_mut().expect("set");
        (registration.app, registration.token) = (app.to_owned(), token.to_owned());
        change
    };
    let good = "dK3x_:APA91b-Zz09";
    let changes = vec![
        with(0, "apps/android", good),
        with(1, "apps/demo", good),
        with(2, "apps/android", "s3cret\""),
        with(3, "apps/android", &"x".repeat(513)),
    ];
    let answers = write(&server, vec![wire::WriteDevicesRequest { batch_id: 1, changes }]).await.expect("answered");
    let errors: Vec<_> = answers[0].errors.iter().map(|e| (e.index, e.field.as_str())).collect();
    assert_eq!(errors, [1, 2, 3].map(|index| (index, "arrival.registration.token")));
    assert!(answers[0].errors.iter().all(|e| !e.description.contains("s3cret") && !e.description.contains("APA91b")));
    let logged = logged(&server).await;
    let [(_, records)] = &logged[..] else { panic!("one device: {logged:?}") };
    let Change::Arrival(registration, _) = &records[0].change else { panic!("{records:?}") };
    assert_eq!(registration.token.as_bytes(), good.as_bytes(), "the characters themselves");
}

#[tokio::test]
async fn strings_are_hashed_and_locales_folded() {
    let server = Server::with_demo().await;
    let changes = vec![arrival("phone-1"), arrival("phone-1")];
    write(&server, vec![wire::WriteDevicesRequest { batch_id: 1, changes }]).await.expect("answered");
    let logged = logged(&server).await;
    let [(_, records)] = &logged[..] else { panic!("one device, one log, one batch: {logged:?}") };
    assert_eq!(records[0].device, records[1].device);
    assert_ne!(records[0].device, DeviceId(*uuid::Uuid::nil().as_bytes()));
    let Change::Arrival(registration, _) = &records[0].change else { panic!("{records:?}") };
    assert_eq!((registration.locale.as_str(), registration.token.as_bytes().len()), ("en-gb", 32));
}

#[tokio::test]
async fn a_batch_over_the_limits_ends_the_stream() {
    let server = Server::with_demo().await;
    let batch = |changes| wire::WriteDevicesRequest { batch_id: 1, changes };
    let many = write(&server, vec![batch(vec![device(1); 10_001])]).await.expect_err("many");
    let (field, problem) = violation(&many);
    assert_eq!((field.as_str(), problem.as_str()), ("changes", "at most 10000 in a batch, has 10001"));
    let mut large = device(1);
    large.device = "x".repeat(4 * 1_024 * 1_024);
    let large = write(&server, vec![batch(vec![large])]).await.expect_err("large");
    let (field, problem) = violation(&large);
    assert_eq!(field, "request");
    assert!(problem.contains("4194304"), "{problem}");
    assert!(logged(&server).await.is_empty());
}

#[tokio::test]
async fn streams_run_beside_each_other() {
    let server = Server::with_demo().await;
    let batch =
        |first: u128| wire::WriteDevicesRequest { batch_id: 1, changes: (first..first + 1_000).map(device).collect() };
    let (a, b) = tokio::join!(write(&server, vec![batch(0)]), write(&server, vec![batch(1_000)]));
    assert_eq!((a.expect("a")[0].written, b.expect("b")[0].written), (1_000, 1_000));
    assert_eq!(logged(&server).await.iter().map(|(_, r)| r.len()).sum::<usize>(), 2_000);
}

#[tokio::test]
async fn a_full_store_says_so() {
    let args = clarion_coordinator::config::Args { store_bytes_max: Some(1_000), ..Default::default() };
    let server = Server::with_demo_and(args).await;
    let changes = (0..100).map(device).collect();
    let full = write(&server, vec![wire::WriteDevicesRequest { batch_id: 1, changes }]).await.expect_err("full");
    assert_eq!(busy(&full), (Code::ResourceExhausted, "STORE_FULL".to_owned()));
}

#[tokio::test]
async fn stats_say_what_is_written_and_what_every_owner_has_applied() {
    let server = Server::with_demo().await;
    let changes = (0..200).map(device).collect();
    write(&server, vec![wire::WriteDevicesRequest { batch_id: 1, changes }]).await.expect("answered");
    let stats = || {
        let mut client = server.registry();
        async move { soon(client.get_registry_stats(wire::GetRegistryStatsRequest {})).await.expect("up").into_inner() }
    };
    let before = stats().await;
    assert_eq!((before.changes_written, before.changes_applied, before.devices), (200, 0, 0));
    assert_eq!(before.pruning_alarms, []);
    {
        let mut totals = server.nodes.totals.lock();
        totals.devices = 200;
        totals.applied = (0..64).map(|log| (LogId(log), Position(1))).collect();
        totals.pruning_alarms.push(PruningAlarm {
            app: AppName::from_id("demo").expect("a name"),
            lane: LaneKey { gateway: "apns".to_owned(), credential: "team".to_owned() },
            since: UnixMillis(1_800_000_000_000),
            withheld: 900,
            accepted_any: true,
        });
    }
    let after = stats().await;
    assert_eq!((after.changes_written, after.changes_applied, after.devices), (200, 200, 200));
    let alarms: Vec<_> = after.pruning_alarms.iter().map(|a| (a.app.as_str(), a.withheld, a.accepted_any)).collect();
    assert_eq!(alarms, [("apps/demo", 900, true)]);
    assert_eq!(after.pruning_alarms[0].since.map(|at| at.seconds), Some(1_800_000_000));
}
