//! The process: what it binds, what it serves beside the API, how it ends.

use std::{
    ffi::OsString,
    process::{ExitCode, Stdio},
    sync::Arc,
};

use clarion_coordinator::{Coordinator, config::Args};
use clarion_proto::wire::v1::{self as wire, app_service_client::AppServiceClient};
use clarion_runtime::{
    channel::{self, ChannelLimits},
    world::{Clock, Pipes, World},
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::registry::device;
use crate::support::{PATIENCE, config, create, demo_alert, demo_app, reason, soon};

fn any_port() -> Args {
    let port = Some("127.0.0.1:0".parse().expect("an address"));
    // Nobody listens there: nodes are looked for and not found.
    Args {
        listen: port,
        health_listen: port,
        feed_listen: port,
        nodes: Some(vec!["127.0.0.1:9".into()]),
        ..Args::default()
    }
}

async fn connect(address: std::net::SocketAddr) -> Channel {
    soon(Channel::from_shared(format!("http://{address}")).expect("an address").connect())
        .await
        .expect("listens")
}

/// The whole coordinator without a socket, under paused time: a world of pipes is all that it needs.
#[tokio::test(start_paused = true)]
async fn it_serves_callers_in_a_world_without_sockets() {
    let world = World::new(Clock::start(), 1, Arc::new(Pipes::default()));
    let coordinator = Coordinator::bind(config(any_port()), world.clone()).await.expect("bound");
    let listen = coordinator.listen();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(coordinator.run(async move { drop(stopped.await) }));
    let limits = ChannelLimits {
        connect_within: PATIENCE,
        window_bytes: 65_535,
        ping_every: PATIENCE,
        pong_within: PATIENCE,
    };
    let channel = channel::connect(&world, listen, limits).await.expect("listens");
    let app = AppServiceClient::new(channel).create_app(demo_app()).await.expect("created");
    assert_eq!(app.into_inner().name, "apps/demo");
    stop.send(()).expect("it runs");
    soon(running).await.expect("no panic").expect("in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_health_on_both_ports_reflection_and_a_whole_alert_up_to_the_missing_node() {
    let coordinator =
        soon(Coordinator::bind(config(any_port()), World::system())).await.expect("bound");
    let (listen, health) = (coordinator.listen(), coordinator.health_listen());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(coordinator.run(async move {
        let _ = stopped.await;
    }));
    let (api, health) = (connect(listen).await, connect(health).await);
    for channel in [&api, &health] {
        for (service, status) in [
            ("clarion.v1.AppService", ServingStatus::Serving),
            ("clarion.v1.RegistryService", ServingStatus::Serving),
            // No node has a session.
            ("clarion.v1.AlertService", ServingStatus::NotServing),
        ] {
            let request = HealthCheckRequest { service: service.into() };
            let answer = soon(HealthClient::new(channel.clone()).check(request))
                .await
                .expect("served")
                .into_inner();
            assert_eq!(answer.status(), status, "{service}");
        }
    }
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(api.clone());
    let mut answers = soon(client.server_reflection_info(tokio_stream::once(list)))
        .await
        .expect("served")
        .into_inner();
    let answer = soon(answers.message()).await.expect("no error").expect("one").message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else {
        panic!("{answer:?}")
    };
    let mut names: Vec<String> = services.service.into_iter().map(|s| s.name).collect();
    names.sort();
    for service in [
        "clarion.v1.AlertService",
        "clarion.v1.AppService",
        "clarion.v1.RegistryService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.iter().any(|n| n == service), "{service} in {names:?}");
    }
    assert!(
        names.iter().all(|n| !n.starts_with("clarion.shard")),
        "the internal contract is no promise: {names:?}"
    );

    let mut apps = wire::app_service_client::AppServiceClient::new(api.clone());
    soon(apps.create_app(demo_app())).await.expect("created");
    let mut alerts = wire::alert_service_client::AlertServiceClient::new(api.clone());
    let refused = soon(alerts.create_alert(create(1, demo_alert()))).await.expect_err("no node");
    assert_eq!(reason(&refused), (Code::Unavailable, "NO_NODES".to_owned()));

    stop.send(()).expect("running");
    drop((api, health, apps, alerts, client, answers));
    soon(running).await.expect("no panic").expect("ended in order");
}

/// The store is full: the registry says that it is not served, the other services go on, and so do mutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_told_to_those_who_look_at_health() {
    let args = Args { store_bytes_max: Some(20_000), ..any_port() };
    let coordinator = soon(Coordinator::bind(config(args), World::system())).await.expect("bound");
    let (listen, health) = (coordinator.listen(), coordinator.health_listen());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(coordinator.run(async move {
        let _ = stopped.await;
    }));
    let (api, health) = (connect(listen).await, connect(health).await);
    let status = |service: &str| {
        let (mut client, service) = (HealthClient::new(health.clone()), service.to_owned());
        async move {
            soon(client.check(HealthCheckRequest { service }))
                .await
                .expect("served")
                .into_inner()
                .status()
        }
    };
    soon(wire::app_service_client::AppServiceClient::new(api.clone()).create_app(demo_app()))
        .await
        .expect("created");
    assert_eq!(status("clarion.v1.RegistryService").await, ServingStatus::Serving);
    let write = |changes| {
        let mut client = wire::registry_service_client::RegistryServiceClient::new(api.clone());
        let batch = wire::WriteDevicesRequest { batch_id: 1, changes, ..Default::default() };
        async move {
            let mut answers = soon(client.write_devices(tokio_stream::once(batch)))
                .await
                .expect("served")
                .into_inner();
            soon(answers.message()).await.map(|answer| answer.expect("an answer").written)
        }
    };
    assert_eq!(write(vec![device(1)]).await.expect("room"), 1);
    let full = write((2..1_000).map(device).collect()).await.expect_err("no room");
    assert_eq!(reason(&full), (Code::ResourceExhausted, "STORE_FULL".to_owned()));
    soon(async {
        while status("clarion.v1.RegistryService").await != ServingStatus::NotServing {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(status("clarion.v1.AppService").await, ServingStatus::Serving);
    let mute = wire::device_change::Change::Mute(wire::Mute { muted: true });
    assert_eq!(
        write(vec![wire::DeviceChange { change: Some(mute), ..device(1) }])
            .await
            .expect("kept for it"),
        1
    );
    write(vec![device(2)]).await.expect_err("no room for small ones either");
    stop.send(()).expect("running");
    drop((api, health));
    soon(running).await.expect("no panic").expect("ended in order");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("bound");
    let args = Args { listen: Some(address), ..any_port() };
    let refused =
        Coordinator::bind(config(args), World::system()).await.expect_err("in use").to_string();
    assert!(refused.starts_with(&format!("cannot listen on {address}: ")), "{refused}");
}

#[test]
fn a_wrong_start_ends_with_another_code_than_zero() {
    let run = |args: &[&str]| {
        let args = ["coordinator"].iter().chain(args).map(OsString::from);
        format!("{:?}", clarion_coordinator::main(args))
    };
    let code = |code: u8| format!("{:?}", ExitCode::from(code));
    assert_eq!(run(&["--config", "/nowhere.toml"]), code(1));
    assert_eq!(run(&["--no-such-flag"]), code(2));
    assert_eq!(run(&["--help"]), code(0));
}

/// The program itself, on ports of the system's choice; `args` come last.
pub(crate) fn program(args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command.args(["--announce", "--health-listen", "127.0.0.1:0", "--feed-listen", "127.0.0.1:0"]);
    command.args(["--nodes", "127.0.0.1:9", "--store", "memory"]).args(args);
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn both_signals_end_the_program_in_order() {
    for signal in ["TERM", "INT"] {
        let mut running = program(&["--listen", "127.0.0.1:0"]).spawn().expect("started");
        let mut lines = BufReader::new(running.stdout.take().expect("piped")).lines();
        let line = soon(lines.next_line()).await.expect("readable").expect("announced");
        let announced: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let address =
            |key: &str| announced[key].as_str().expect("an address").parse().expect("an address");
        // A client that stays connected must not keep the process.
        let (api, health) = (connect(address("listen")).await, connect(address("health")).await);
        let request = HealthCheckRequest { service: "clarion.v1.AlertService".into() };
        soon(HealthClient::new(health).check(request)).await.expect("served");
        let pid = running.id().expect("running").to_string();
        let sent = tokio::process::Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(soon(sent).await.expect("sent").success());
        assert!(soon(running.wait()).await.expect("ended").success(), "{signal}");
        drop(api);
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    // Every frame is a line: a pipe of 64 KiB is full after some tens of requests.
    let mut command = program(&["--listen", "127.0.0.1:0"]);
    let mut running = command.env("CLARION_LOG", "trace").spawn().expect("started");
    let mut lines = BufReader::new(running.stdout.take().expect("piped")).lines();
    let line = soon(lines.next_line()).await.expect("readable").expect("announced");
    let announced: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let address = announced["health"].as_str().expect("an address").parse().expect("an address");
    let mut client = HealthClient::new(connect(address).await);
    for _ in 0..500 {
        soon(client.check(HealthCheckRequest::default())).await.expect("served");
    }
    let pid = running.id().expect("running").to_string();
    let sent = tokio::process::Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(soon(sent).await.expect("sent").success());
    drop(client);
    let unread = running.stderr.take().expect("piped");
    assert!(soon(running.wait()).await.expect("ended").success());
    // The pipe is full but for less than a line's room, or this shows nothing.
    let mut log = Vec::new();
    soon(BufReader::new(unread).read_to_end(&mut log)).await.expect("readable");
    assert!(log.len() >= 60 << 10, "{}", log.len());
}

#[tokio::test]
async fn a_start_that_fails_says_why_in_one_line() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let held = (held.local_addr().expect("bound").to_string(), held);
    for (args, words) in [
        (vec!["--listen", held.0.as_str()], format!("error: cannot listen on {}: ", held.0)),
        (vec!["--config", "/nowhere.toml"], "error: /nowhere.toml: cannot be read: ".to_owned()),
        (
            vec!["--device-key-file", "/nowhere"],
            "error: environment and flags: device_key_file: /nowhere: cannot be read: ".to_owned(),
        ),
    ] {
        let output = soon(program(&args).output()).await.expect("ended");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&words) && said.lines().count() == 1, "{said}");
        assert!(output.stdout.is_empty(), "nothing was announced");
    }
}

/// Who did what, in few lines: the peer and the method, nothing of what was asked, and no probes.
#[tokio::test]
async fn the_log_of_requests_names_the_peer_and_nothing_private() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = crate::support::config_file(directory.path());
    let file = file.to_str().expect("UTF-8");
    let mut running =
        program(&["--listen", "127.0.0.1:0", "--config", file]).spawn().expect("started");
    let mut lines = BufReader::new(running.stdout.take().expect("piped")).lines();
    let line = soon(lines.next_line()).await.expect("readable").expect("announced");
    let announced: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let api =
        connect(announced["listen"].as_str().expect("an address").parse().expect("an address"))
            .await;
    let mut apps = wire::app_service_client::AppServiceClient::new(api.clone());
    soon(apps.create_app(demo_app())).await.expect("created");
    let mut alerts = wire::alert_service_client::AlertServiceClient::new(api.clone());
    for n in 1..=200 {
        let mut spoiled = demo_alert();
        spoiled.last_seen = Some(wire::LatLng { latitude: 91.987_654, longitude: 0.0 });
        soon(alerts.create_alert(create(n, spoiled))).await.expect_err("off the globe");
        let health = HealthCheckRequest { service: String::new() };
        soon(HealthClient::new(api.clone()).check(health)).await.expect("served");
    }
    let unknown: http::uri::PathAndQuery =
        format!("/clarion.v1.AlertService/{}", "x".repeat(2_000)).parse().expect("a path");
    let mut grpc = tonic::client::Grpc::new(api.clone());
    soon(grpc.ready()).await.expect("open");
    let codec = tonic_prost::ProstCodec::<wire::GetAlertRequest, wire::Alert>::default();
    let request = tonic::Request::new(wire::GetAlertRequest::default());
    soon(grpc.unary(request, unknown, codec)).await.expect_err("no such method");
    let mut registry = wire::registry_service_client::RegistryServiceClient::new(api.clone());
    let batch =
        wire::WriteDevicesRequest { batch_id: 1, changes: vec![device(1)], ..Default::default() };
    let answers = soon(registry.write_devices(tokio_stream::once(batch))).await.expect("served");
    assert_eq!(
        soon(answers.into_inner().message()).await.expect("no error").expect("an answer").written,
        1
    );
    drop((api, apps, alerts, registry, grpc));
    let pid = running.id().expect("running").to_string();
    let sent = tokio::process::Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(soon(sent).await.expect("sent").success());
    let output = soon(running.wait_with_output()).await.expect("ended");
    let log = String::from_utf8(output.stderr).expect("text");
    let of = |phrase: &str| log.lines().filter(|line| line.contains(phrase)).collect::<Vec<_>>();
    let [created] = of("app created by a caller")[..] else { panic!("one app: {log}") };
    assert!(
        created.contains("peer=127.0.0.1:") && created.contains("AppService/CreateApp"),
        "{created}"
    );
    let refused = of("request refused with status");
    assert_eq!(refused.len(), 2, "200 of a kind are one line: {log}");
    assert!(refused.iter().all(|line| line.contains("peer=127.0.0.1:")), "{log}");
    assert!(
        refused[0].contains("AlertService/CreateAlert") && refused[0].contains("InvalidArgument"),
        "{log}"
    );
    assert!(refused[1].contains("unknown method") && refused[1].contains("Unimplemented"), "{log}");
    for private in ["91.98", "abab", "22.5", "Health", "xxx"] {
        assert!(!log.contains(private), "{private} in {log}");
    }
}
