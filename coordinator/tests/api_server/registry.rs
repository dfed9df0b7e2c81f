//! Changes in: acknowledged in order, bad items as values, good ones in their logs.

use std::time::Duration;

use clarion_coordinator::{
    api::registry::{ANSWER_TAKEN_WITHIN, NEXT_BATCH_WITHIN, STREAMS_MAX},
    lane::LaneKey,
    snapshot::PruningAlarm,
};
use clarion_proto::{
    device::Record,
    ids::{AppName, LogId, Position, UnixMillis, log_of, partition_of},
    wire::{
        shard_v1,
        v1::{self as wire, registry_service_client::RegistryServiceClient},
    },
};
use prost::Message;
use tokio_stream::StreamExt;
use tonic::{Code, Status, transport::Channel};

use crate::support::{Server, busy, from_now, soon, violation};

pub(crate) fn arrival(device: &str) -> wire::DeviceChange {
    let registration = wire::Registration {
        app: "apps/demo".into(),
        token: "ab".repeat(32),
        locale: "en-GB".into(),
        ..Default::default()
    };
    let place = wire::place::Place::Point(wire::LatLng { latitude: 22.5, longitude: 114.0 });
    let place = wire::Place { place: Some(place), datum: 0 };
    let change = wire::Arrival { registration: Some(registration), place: Some(place) };
    wire::DeviceChange {
        device: device.to_owned(),
        observe_time: Some(from_now(0)),
        change: Some(wire::device_change::Change::Arrival(change)),
        ..Default::default()
    }
}

pub(crate) fn device(n: u128) -> wire::DeviceChange {
    arrival(&uuid::Uuid::from_u128(n).to_string())
}

pub(crate) async fn write(
    server: &Server,
    batches: Vec<wire::WriteDevicesRequest>,
) -> Result<Vec<wire::WriteDevicesResponse>, Status> {
    let stream =
        soon(server.registry().write_devices(tokio_stream::iter(batches))).await?.into_inner();
    soon(stream.collect::<Result<Vec<_>, _>>()).await
}

/// Everything in the logs, by log.
pub(crate) async fn logged(server: &Server) -> Vec<(LogId, Vec<Record>)> {
    let log = &server.context.log;
    let mut all = Vec::new();
    let all_logs: Vec<_> = (0..log.logs()).map(|log| (LogId(log), Position(0))).collect();
    for (id, batches) in log.read_many(&all_logs, usize::MAX).await.expect("up") {
        for batch in batches {
            let records = shard_v1::FeedResponse::decode(batch.records).expect("records").records;
            all.push((
                id,
                records.into_iter().map(|r| Record::from_wire(r).expect("valid")).collect(),
            ));
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
        ..Default::default()
    });
    let answers = write(&server, batches.collect()).await.expect("acknowledged");
    assert_eq!(
        answers.iter().map(|a| (a.batch_id, a.written)).collect::<Vec<_>>(),
        [(7, 500), (8, 500), (9, 500)]
    );
    let logged = logged(&server).await;
    let (config, logs) = (&server.context.config, server.context.log.logs());
    let mut devices = std::collections::BTreeSet::new();
    for (log, records) in &logged {
        for record in records {
            assert_eq!(log_of(partition_of(record.device, config.partitions), logs), *log);
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
    let registration =
        |change: &mut wire::DeviceChange, spoil: fn(&mut wire::Registration)| match &mut change
            .change
        {
            Some(wire::device_change::Change::Arrival(a)) => {
                spoil(a.registration.as_mut().expect("set"));
            }
            other => panic!("{other:?}"),
        };
    let mut changes: Vec<_> = (0..7).map(device).collect();
    registration(&mut changes[1], |r| r.app = "apps/nobody".into());
    registration(&mut changes[2], |r| r.app = "nobody".into());
    registration(&mut changes[3], |r| r.token = "xyz".into());
    changes[4].observe_time = Some(from_now(-25 * 3_600));
    changes[5].device.clear();
    let answers = write(
        &server,
        vec![wire::WriteDevicesRequest { batch_id: 1, changes, ..Default::default() }],
    )
    .await
    .expect("answered");
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
    assert!(
        answers[0]
            .errors
            .iter()
            .all(|e| !e.description.is_empty() && !e.description.contains("xyz"))
    );
    assert_eq!(logged(&server).await.iter().map(|(_, r)| r.len()).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_batch_over_the_limits_ends_the_stream() {
    let server = Server::with_demo().await;
    let batch = |changes| wire::WriteDevicesRequest { batch_id: 1, changes, ..Default::default() };
    let many = write(&server, vec![batch(vec![device(1); 10_001])]).await.expect_err("many");
    let (field, problem) = violation(&many);
    assert_eq!(
        (field.as_str(), problem.as_str()),
        ("changes", "must have at most 10000 changes; got 10001")
    );
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
    let batch = |first: u128| wire::WriteDevicesRequest {
        batch_id: 1,
        changes: (first..first + 1_000).map(device).collect(),
        ..Default::default()
    };
    let (a, b) = tokio::join!(write(&server, vec![batch(0)]), write(&server, vec![batch(1_000)]));
    assert_eq!((a.expect("a")[0].written, b.expect("b")[0].written), (1_000, 1_000));
    assert_eq!(logged(&server).await.iter().map(|(_, r)| r.len()).sum::<usize>(), 2_000);
}

fn of(n: u128, change: wire::device_change::Change) -> wire::DeviceChange {
    wire::DeviceChange { change: Some(change), ..device(n) }
}

pub(crate) fn removal(n: u128) -> wire::DeviceChange {
    of(n, wire::device_change::Change::Removal(wire::Removal {}))
}

fn mute(n: u128) -> wire::DeviceChange {
    of(n, wire::device_change::Change::Mute(wire::Mute { muted: true }))
}

pub(crate) fn batch(batch_id: u64, changes: Vec<wire::DeviceChange>) -> wire::WriteDevicesRequest {
    wire::WriteDevicesRequest { batch_id, changes, ..Default::default() }
}

/// A server whose store has no more room for registrations, and how many devices it knows from 0.
pub(crate) async fn full(store_bytes_max: u64) -> (Server, u128) {
    let args = clarion_coordinator::config::Args {
        store_bytes_max: Some(store_bytes_max),
        logs: Some(1),
        ..Default::default()
    };
    let server = Server::with_demo_and(args).await;
    for n in (0..).step_by(10) {
        match write(&server, vec![batch(1, (n..n + 10).map(device).collect())]).await {
            Ok(answers) => assert_eq!(answers[0].written, 10),
            Err(status) => {
                assert_eq!(busy(&status), (Code::ResourceExhausted, "STORE_FULL".to_owned()));
                return (server, n);
            }
        }
    }
    unreachable!("the store is bounded")
}

#[tokio::test]
async fn a_full_store_refuses_registrations_and_still_takes_removals_and_mutes() {
    let (server, known) = full(50_000).await;
    assert!(known >= 50);
    let stats = || async {
        let mut client = server.registry();
        soon(client.get_registry_stats(wire::GetRegistryStatsRequest {}))
            .await
            .expect("up")
            .into_inner()
            .changes_written
    };
    let written = stats().await;
    // Nothing of it can be written: the stream ends.
    let place = wire::device_change::Change::Place(wire::Place {
        place: Some(wire::place::Place::Cell(0x89411ca0003ffff)),
        datum: 0,
    });
    for changes in [vec![device(1)], vec![of(1, place.clone())]] {
        let refused = write(&server, vec![batch(1, changes), batch(2, vec![removal(1)])])
            .await
            .expect_err("no room");
        assert_eq!(busy(&refused), (Code::ResourceExhausted, "STORE_FULL".to_owned()));
        assert!(refused.message().contains("removals and mutes are still taken"), "{refused:?}");
    }
    assert_eq!(stats().await, written);
    // Something can: it is, the rest is told item by item, and the stream goes on.
    let mixed = batch(3, vec![device(2), removal(2), of(3, place), mute(3), arrival("")]);
    let answers = write(&server, vec![mixed, batch(4, vec![removal(4)])]).await.expect("answered");
    assert_eq!((answers[0].batch_id, answers[0].written, answers[1].written), (3, 2, 1));
    let errors: Vec<_> =
        answers[0].errors.iter().map(|e| (e.index, e.field.as_str(), e.no_room)).collect();
    assert_eq!(errors, [(0, "change", true), (2, "change", true), (4, "device", false)]);
    assert_eq!(answers[0].retry_after.as_ref().expect("told").seconds, 60);
    assert_eq!(answers[1].retry_after, None);
    assert_eq!(stats().await, written + 3);
    // Whoever was never registered is not kept, and is answered as anybody.
    let strangers = (0..20).map(|b| batch(b, (0..500).map(|n| removal(1_000_000 + n)).collect()));
    let answers = write(&server, strangers.collect()).await.expect("answered");
    assert!(answers.iter().all(|answer| answer.written == 500 && answer.errors.is_empty()));
    assert_eq!(stats().await, written + 3);
}

/// The next batch within a minute, or the place goes to somebody else; the clock runs as soon as
/// nothing else is left to do.
#[tokio::test]
async fn an_idle_stream_is_told_so_and_leaves() {
    let server = Server::with_demo().await;
    let (requests, batches) = tokio::sync::mpsc::channel(4);
    requests.try_send(batch(1, vec![device(1)])).expect("room");
    let batches = tokio_stream::wrappers::ReceiverStream::new(batches);
    let mut answers =
        soon(server.registry().write_devices(batches)).await.expect("served").into_inner();
    assert_eq!(soon(answers.message()).await.expect("no error").expect("an answer").written, 1);
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let status = answers.message().await.expect_err("idle");
    assert_eq!(busy(&status), (Code::DeadlineExceeded, "WRITE_STREAM_IDLE".to_owned()));
    let waited = begun.elapsed();
    assert!(
        waited >= NEXT_BATCH_WITHIN - Duration::from_secs(1) && waited < 2 * NEXT_BATCH_WITHIN,
        "{waited:?}"
    );
    tokio::time::resume();
    write(&server, vec![batch(2, vec![device(2)])]).await.expect("a new stream is served");
}

type Opened = Result<
    (
        tokio::sync::mpsc::Sender<wire::WriteDevicesRequest>,
        tonic::Streaming<wire::WriteDevicesResponse>,
    ),
    Status,
>;

/// A stream that ends when its sender is dropped.
async fn open(channel: &Channel) -> Opened {
    let (sender, batches) = tokio::sync::mpsc::channel(4);
    let batches = tokio_stream::wrappers::ReceiverStream::new(batches);
    let answers = RegistryServiceClient::new(channel.clone()).write_devices(batches).await?;
    Ok((sender, answers.into_inner()))
}

async fn all_it_gets(
    channel: &Channel,
) -> Vec<(
    tokio::sync::mpsc::Sender<wire::WriteDevicesRequest>,
    tonic::Streaming<wire::WriteDevicesResponse>,
)> {
    let mut streams = Vec::new();
    loop {
        match soon(open(channel)).await {
            Ok(stream) => streams.push(stream),
            Err(refused) => {
                assert_eq!(
                    busy(&refused),
                    (Code::ResourceExhausted, "WRITE_STREAMS_MAX".to_owned())
                );
                return streams;
            }
        }
    }
}

#[tokio::test]
async fn streams_are_shared_by_addresses() {
    let server = Server::with_demo().await;
    let (first, second, third) = (server.from(1).await, server.from(2).await, server.from(3).await);
    let of_first = all_it_gets(&first).await;
    assert_eq!(of_first.len(), STREAMS_MAX / 2, "one address locks nobody out");
    // More connections of the same address are the same peer.
    assert!(all_it_gets(&server.from(1).await).await.is_empty());
    let of_second = all_it_gets(&second).await;
    assert_eq!(of_second.len(), STREAMS_MAX / 4);
    let (sender, mut answers) = soon(open(&third)).await.expect("there is room for others");
    sender.send(batch(1, vec![device(1)])).await.expect("open");
    assert_eq!(soon(answers.message()).await.expect("no error").expect("an answer").written, 1);
    drop((of_first, of_second));
    soon(async {
        while open(&first).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn whoever_does_not_read_answers_loses_the_place() {
    let server = Server::with_demo().await;
    let (sender, answers) = soon(open(&server.from(1).await)).await.expect("free");
    // 10,000 refused items make an answer of some 400 KB: more than windows and buffers take of a
    // dozen.
    let bad = wire::DeviceChange { device: "x".repeat(129), ..device(1) };
    let flood = tokio::spawn(async move {
        for n in 0..24 {
            if sender.send(batch(n, vec![bad.clone(); 10_000])).await.is_err() {
                break;
            }
        }
        // The stream stays open.
        sender.closed().await;
    });
    let others = all_it_gets(&server.channel).await;
    assert_eq!(others.len(), STREAMS_MAX / 2 - 1);
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    while open(&server.channel).await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let waited = begun.elapsed();
    tokio::time::resume();
    assert!(
        waited >= ANSWER_TAKEN_WITHIN - Duration::from_secs(2) && waited < NEXT_BATCH_WITHIN,
        "{waited:?}"
    );
    flood.abort();
    drop(answers);
}

/// An address with thirty streams that all have batches waiting, and one with a single batch: it
/// has its turn after those under way and one more, not after thirty.
#[tokio::test]
async fn one_batch_does_not_wait_for_all_of_another_address() {
    let server = Server::with_demo().await;
    let (many, one) = (server.from(2).await, server.from(3).await);
    let answered = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut crowd = tokio::task::JoinSet::new();
    for stream in 0..30_u128 {
        let (channel, answered) = (many.clone(), std::sync::Arc::clone(&answered));
        crowd.spawn(async move {
            let (sender, mut answers) = open(&channel).await.expect("free");
            for n in 0..3 {
                let first = stream * 10_000 + n * 1_000;
                sender
                    .send(batch(0, (first..first + 1_000).map(device).collect()))
                    .await
                    .expect("open");
            }
            for _ in 0..3 {
                answers.message().await.expect("no error").expect("an answer");
                answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
    }
    let (sender, mut answers) = soon(open(&one)).await.expect("free");
    let now = || answered.load(std::sync::atomic::Ordering::Relaxed);
    soon(async {
        while now() < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let before = now();
    sender.send(batch(1, vec![device(9_999_999)])).await.expect("open");
    soon(answers.message()).await.expect("no error").expect("an answer");
    let meanwhile = now() - before;
    assert!(meanwhile < 15, "{meanwhile} of 90 batches went first");
    while let Some(done) = soon(crowd.join_next()).await {
        done.expect("all answered");
    }
}

#[tokio::test]
async fn stats_say_what_is_written_and_what_every_owner_has_applied() {
    let server = Server::with_demo().await;
    let changes = (0..200).map(device).collect();
    write(&server, vec![wire::WriteDevicesRequest { batch_id: 1, changes, ..Default::default() }])
        .await
        .expect("answered");
    let stats = || {
        let mut client = server.registry();
        async move {
            soon(client.get_registry_stats(wire::GetRegistryStatsRequest {}))
                .await
                .expect("up")
                .into_inner()
        }
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
    let alarms: Vec<_> =
        after.pruning_alarms.iter().map(|a| (a.app.as_str(), a.withheld, a.accepted_any)).collect();
    assert_eq!(alarms, [("apps/demo", 900, true)]);
    assert_eq!(after.pruning_alarms[0].since.map(|at| at.seconds), Some(1_800_000_000));
}
