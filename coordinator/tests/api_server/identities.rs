//! Devices by token, and devices that replace former ones: what the logs hold.

use clarion_proto::{
    device::{Change, Record},
    ids::{DeviceId, LogId, log_of, partition_of},
    wire::v1::{self as wire, device_change::Change as Wire},
};
use tonic::Code;

use crate::{
    registry::{batch, device, full, logged, removal, write},
    support::{Server, busy, fcm_app, soon, token_app},
};

fn registration(change: &mut wire::DeviceChange) -> &mut wire::Registration {
    match &mut change.change {
        Some(Wire::Registration(registration)) => registration,
        Some(Wire::Arrival(arrival)) => arrival.registration.as_mut().expect("set"),
        other => panic!("{other:?}"),
    }
}

/// The arrival of a device of an app that identifies devices by their tokens.
fn by_token(app: &str, token: &str) -> wire::DeviceChange {
    let mut change = wire::DeviceChange { device: String::new(), ..device(0) };
    let registration = registration(&mut change);
    (registration.app, registration.token) = (format!("apps/{app}"), token.to_owned());
    change
}

fn of_token(app: &str, token: &str, change: Wire) -> wire::DeviceChange {
    let named = wire::TokenDevice { app: format!("apps/{app}"), token: token.to_owned() };
    let (token_device, change) = (Some(named), Some(change));
    wire::DeviceChange { device: String::new(), token_device, change, ..device(0) }
}

/// An arrival under one number that replaces those under others.
fn replacing(n: u128, former: &[u128]) -> wire::DeviceChange {
    let mut change = device(n);
    let former = former.iter().map(|&n| uuid::Uuid::from_u128(n).to_string());
    registration(&mut change).replaces = former.collect();
    change
}

fn id(n: u128) -> DeviceId {
    DeviceId(*uuid::Uuid::from_u128(n).as_bytes())
}

fn is_removal(record: &Record) -> bool {
    record.change == Change::Removal
}

#[tokio::test]
async fn all_changes_of_a_token_are_of_one_device() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(token_app("tokens"))).await.expect("created");
    let mut droid = fcm_app("droid");
    droid.app.as_mut().expect("set").identity = wire::Identity::Token.into();
    soon(server.apps().create_app(droid)).await.expect("created");
    let (lower, upper) = ("00ffab", "00FFAB");
    let place =
        wire::Place { place: Some(wire::place::Place::Cell(0x0894_11ca_0003_ffff)), datum: 0 };
    let mut registered = by_token("tokens", lower);
    let of = registration(&mut registered).clone();
    registered.change = Some(Wire::Registration(of));
    let changes = vec![
        // A mute and a place may come before the registration.
        of_token("tokens", upper, Wire::Mute(wire::Mute { muted: true })),
        of_token("tokens", lower, Wire::Place(place)),
        registered,
        by_token("tokens", upper),
        of_token("tokens", "00fFaB", Wire::Removal(wire::Removal {})),
    ];
    let of_one = changes.len();
    let others = vec![
        by_token("tokens", "00ffac"),
        // Case matters for FCM, and so does the app.
        by_token("droid", lower),
        by_token("droid", upper),
        // An app with the other identity has its own devices.
        wire::DeviceChange { device: lower.into(), ..by_token("demo", lower) },
    ];
    let all = changes.into_iter().chain(others).collect();
    let answer = write(&server, vec![batch(1, all)]).await.expect("answered").remove(0);
    assert_eq!((answer.written, answer.errors), (9, vec![]));
    let mut devices: Vec<_> = logged(&server)
        .await
        .into_iter()
        .flat_map(|(_, records)| records)
        .map(|r| r.device)
        .collect();
    devices.sort();
    let counts: Vec<_> = devices.chunk_by(|a, b| a == b).map(<[_]>::len).collect();
    assert_eq!((counts.len(), counts.iter().max()), (5, Some(&of_one)));
    assert_eq!(devices.iter().filter(|id| id.is_of_token()).count(), 8);
}

/// The registration stands before the removals, each in the log of its own partition.
#[tokio::test]
async fn a_registration_is_written_with_the_removals_of_former_devices() {
    let server = Server::with_demo().await;
    let former = vec![device(1), device(2), device(3)];
    write(&server, vec![batch(1, former)]).await.expect("answered");
    let changes = vec![replacing(9, &[1, 2, 3, 2]), replacing(10, &[9])];
    let answer = write(&server, vec![batch(2, changes)]).await.expect("answered").remove(0);
    assert_eq!((answer.written, answer.errors.len()), (2, 0), "each counts once");

    let (partitions, logs) = (server.context.config.partitions, server.context.log.logs());
    let log = |n| log_of(partition_of(id(n), partitions), logs);
    let logged = logged(&server).await;
    let of = |n: u128| {
        let records = |(log, records): &(LogId, Vec<Record>)| {
            let records = records.iter().filter(|r| r.device == id(n)).cloned();
            records.map(|record| (*log, record)).collect::<Vec<_>>()
        };
        logged.iter().flat_map(records).collect::<Vec<_>>()
    };
    let observed = of(9)[0].1.observed;
    for n in [1, 2, 3] {
        let [registered, removed] = &of(n)[..] else { panic!("{n}: {:?}", of(n)) };
        assert!(!is_removal(&registered.1) && is_removal(&removed.1));
        assert_eq!((registered.0, removed.0, removed.1.observed), (log(n), log(n), observed));
    }
    let [registered, removed] = &of(9)[..] else { panic!("{:?}", of(9)) };
    assert!(matches!(registered.1.change, Change::Arrival(..)) && is_removal(&removed.1));
    assert!(matches!(of(10)[..], [(_, Record { change: Change::Arrival(..), .. })]));
    let stats = soon(server.registry().get_registry_stats(wire::GetRegistryStatsRequest {})).await;
    assert_eq!(stats.expect("up").into_inner().changes_written, 9);
}

/// In one log, the order of the records is the order of the batch.
#[tokio::test]
async fn in_one_log_the_registration_is_first() {
    let args = clarion_coordinator::config::Args { logs: Some(1), ..Default::default() };
    let server = Server::with_demo_and(args).await;
    let answer = write(&server, vec![batch(1, vec![replacing(1, &[2, 3])])]).await;
    assert_eq!(answer.expect("answered")[0].written, 1);
    let logged = logged(&server).await;
    let devices: Vec<_> = logged[0].1.iter().map(|r| (r.device, is_removal(r))).collect();
    assert_eq!(devices, [(id(1), false), (id(2), true), (id(3), true)]);
}

/// A store without room for the registration keeps the former device, although it accepts removals.
#[tokio::test]
async fn a_full_store_keeps_the_former_devices() {
    let (server, known) = full(50_000).await;
    assert!(known >= 3);
    let before: usize = logged(&server).await.iter().map(|(_, records)| records.len()).sum();
    let alone = write(&server, vec![batch(1, vec![replacing(1_000_000, &[1])])]).await;
    let refused = alone.expect_err("no room");
    assert_eq!(busy(&refused), (Code::ResourceExhausted, "STORE_FULL".to_owned()));
    let mixed = vec![replacing(1_000_000, &[1]), removal(2)];
    let answer = write(&server, vec![batch(2, mixed)]).await.expect("answered").remove(0);
    assert_eq!(answer.written, 1);
    let [error] = &answer.errors[..] else { panic!("{answer:?}") };
    assert_eq!((error.index, error.no_room), (0, true));
    let logged = logged(&server).await;
    let records: Vec<_> = logged.iter().flat_map(|(_, records)| records).collect();
    assert_eq!(records.len(), before + 1);
    let removed: Vec<_> = records.iter().filter(|r| is_removal(r)).map(|r| r.device).collect();
    assert_eq!(removed, [id(2)], "the phone is not lost");
}
