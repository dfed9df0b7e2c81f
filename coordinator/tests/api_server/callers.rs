//! What callers with many alerts, slow links and old libraries need: filters, large regions,
//! compression, metadata, and refusals that a library understands.

use std::io::Write as _;

use clarion_coordinator::api::door::METADATA_BYTES_MAX;
use clarion_proto::wire::v1::{
    self as wire, alert_service_client::AlertServiceClient,
    registry_service_client::RegistryServiceClient,
};
use prost::Message as _;
use tonic::{Code, Status, codec::CompressionEncoding, transport::Channel};
use tonic_types::StatusExt;

use super::support::{
    Server, app, create, demo_alert, fcm_app, field, from_now, reason, soon, violation,
};

/// A region whose GeoJSON has many spaces after it.
fn padded(bytes: usize) -> wire::Alert {
    let text = r#"{"type":"Polygon","coordinates":[[[114,22],[114.5,22],[114.5,22.5],[114,22]]]}"#;
    let text = format!("{text}{}", " ".repeat(bytes - text.len()));
    let region =
        wire::Region { shape: Some(wire::region::Shape::Geojson(text)), ..Default::default() };
    wire::Alert { region: Some(region), ..demo_alert() }
}

fn pushback(status: &Status) -> Option<i64> {
    status.metadata().get("grpc-retry-pushback-ms")?.to_str().ok()?.parse().ok()
}

#[tokio::test]
async fn a_list_is_filtered_and_its_token_belongs_to_the_filter() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(app("other"))).await.expect("created");
    let mut names = Vec::new();
    for (request, case) in (1..=4).zip(["case 1", "case 2", "case 1", "case 1"]) {
        let mut alert = demo_alert();
        alert.external_id = case.into();
        alert.labels.insert("team".into(), if request < 4 { "north" } else { "south" }.into());
        if request == 3 {
            alert.audience.as_mut().expect("set").apps = vec!["apps/other".into()];
        }
        let created = soon(server.alerts().create_alert(create(request, alert))).await;
        let created = created.expect("created").into_inner();
        assert!(created.region.is_some() && created.external_id == case, "{created:?}");
        names.push(created.name);
    }
    let cancel = wire::CancelAlertRequest { name: names[0].clone(), reason: String::new() };
    soon(server.alerts().cancel_alert(cancel)).await.expect("cancelled");
    let list = |request: wire::ListAlertsRequest| {
        let mut client = server.alerts();
        async move { soon(client.list_alerts(request)).await.map(tonic::Response::into_inner) }
    };
    let of = |filter: wire::AlertFilter| wire::ListAlertsRequest {
        page_size: 2,
        filter: Some(filter),
        ..Default::default()
    };
    let case = || wire::AlertFilter { external_id: "case 1".into(), ..Default::default() };
    let all = wire::AlertFilter::default;
    let active = vec![wire::State::Active.into()];
    let north = [("team".to_owned(), "north".to_owned())].into();
    for (filter, expected) in [
        (case(), vec![3, 2]),
        (wire::AlertFilter { states: active.clone(), ..case() }, vec![3, 2]),
        (wire::AlertFilter { states: vec![wire::State::Cancelled.into()], ..all() }, vec![0]),
        (wire::AlertFilter { app: "apps/other".into(), ..all() }, vec![2]),
        (wire::AlertFilter { labels: north, states: active, ..all() }, vec![2, 1]),
        (wire::AlertFilter { modes: vec![wire::Mode::Live.into()], ..all() }, vec![]),
        (wire::AlertFilter { created_after: Some(from_now(60)), ..all() }, vec![]),
        (wire::AlertFilter { created_before: Some(from_now(60)), ..all() }, vec![3, 2]),
    ] {
        let page = list(of(filter.clone())).await.expect("a page");
        let found: Vec<_> = page.alerts.iter().map(|alert| alert.name.clone()).collect();
        let expected: Vec<_> = expected.into_iter().map(|i: usize| names[i].clone()).collect();
        assert_eq!(found, expected, "{filter:?}");
        assert!(page.alerts.iter().all(|alert| alert.region.is_none()), "not asked for");
    }
    let first = list(of(case())).await.expect("a page");
    let next = |filter, token: &str| wire::ListAlertsRequest {
        page_token: token.to_owned(),
        with_regions: true,
        ..of(filter)
    };
    let second = list(next(case(), &first.next_page_token)).await.expect("the next page");
    assert_eq!(second.alerts.len(), 1);
    assert!(second.alerts[0].region.is_some() && second.next_page_token.is_empty());
    let other = list(next(all(), &first.next_page_token)).await.expect_err("another filter");
    let (named, says) = violation(&other);
    assert_eq!(named, "page_token");
    assert!(says.contains("filter"), "{says}");
    let wrong = wire::AlertFilter { states: vec![0], ..all() };
    assert_eq!(field(&list(of(wrong)).await.expect_err("no state")), "filter.states[0]");
}

#[tokio::test]
async fn a_used_request_id_names_its_alert_and_the_difference() {
    let server = Server::with_demo().await;
    let alert = demo_alert();
    let first =
        soon(server.alerts().create_alert(create(1, alert.clone()))).await.expect("created");
    let mut other = alert;
    other.case.as_mut().expect("set").messages.get_mut("en").expect("set").body = "Found.".into();
    let refused = soon(server.alerts().create_alert(create(1, other))).await.expect_err("used");
    assert_eq!(reason(&refused), (Code::AlreadyExists, "TAKEN".to_owned()));
    let info = refused.get_details_error_info().expect("details");
    assert_eq!(info.metadata["alert"], first.get_ref().name);
    assert_eq!(info.metadata["field"], "alert.case.messages[en].body");
    assert!(refused.message().contains(&first.get_ref().name), "{}", refused.message());
    assert_eq!(pushback(&refused), None, "a retry does not help, and no library tries");
}

#[tokio::test]
async fn a_region_of_megabytes_is_taken_and_returned_where_it_fits() {
    let server = Server::with_demo().await;
    let large = padded(7 << 20);
    let created = soon(server.alerts().create_alert(create(1, large.clone()))).await;
    let created = created.expect("created").into_inner();
    assert_eq!(created.region, None, "a default client accepts 4 MiB");
    assert!(created.overshoot_meters > 0.0 && created.case == large.case);
    let again = soon(server.alerts().create_alert(create(1, large.clone()))).await;
    assert_eq!(again.expect("the same").into_inner().name, created.name);
    let get = |with_region| wire::GetAlertRequest { name: created.name.clone(), with_region };
    let got = soon(server.alerts().get_alert(get(false))).await.expect("there").into_inner();
    assert_eq!((got.region, got.case), (None, large.case.clone()));
    let mut roomy = server.alerts().max_decoding_message_size(8 << 20);
    let got = soon(roomy.get_alert(get(true))).await.expect("there").into_inner();
    assert!(got.region == large.region);
    let list = wire::ListAlertsRequest { with_regions: true, ..Default::default() };
    let listed = soon(server.alerts().list_alerts(list)).await.expect("a page").into_inner();
    assert_eq!((listed.alerts.len(), listed.alerts[0].region.is_none()), (1, true));

    let (field, says) = violation(
        &soon(server.alerts().create_alert(create(2, padded((8 << 20) - 1_000))))
            .await
            .expect_err("too large"),
    );
    assert_eq!(field, "alert");
    assert!(says.contains("at most 8323072 bytes"), "{says}");
}

#[tokio::test]
async fn large_responses_that_nobody_reads_have_a_limit() {
    let server = Server::with_demo().await;
    let created = soon(server.alerts().create_alert(create(1, padded(4 << 20)))).await;
    let name = created.expect("created").into_inner().name;
    let get = wire::GetAlertRequest { name, with_region: true }.encode_to_vec();
    let length = u32::try_from(get.len()).expect("short").to_be_bytes();
    let framed = [&[0][..], &length, &get].concat();
    let tcp = tokio::net::TcpStream::connect(server.address).await.expect("listens");
    let (mut client, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
    tokio::spawn(connection);
    // The bodies are never read. A peer alone has about half of the 16 places.
    let (mut unread, mut refused) = (Vec::new(), 0);
    for _ in 0..20 {
        let method = "clarion.v1.AlertService/GetAlert";
        let request = http::Request::post(format!("http://{}/{method}", server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        client = soon(client.ready()).await.expect("open");
        let (answer, mut body) = client.send_request(request, false).expect("sent");
        body.send_data(framed.clone().into(), true).expect("sent");
        let answer = soon(answer).await.expect("an answer");
        match Status::from_header_map(answer.headers()) {
            None => unread.push(answer),
            Some(status) => {
                assert_eq!(reason(&status).1, "RESPONSES_BUSY", "{status:?}");
                assert_eq!(pushback(&status), Some(1_000));
                refused += 1;
            }
        }
    }
    assert!((8..=9).contains(&unread.len()) && refused >= 11, "{} are held", unread.len());
    drop((unread, client));
    let mut other = server.alerts().max_decoding_message_size(8 << 20);
    let list = wire::ListAlertsRequest::default();
    soon(other.list_alerts(list)).await.expect("others are served");
}

#[tokio::test]
async fn a_preview_has_the_size_of_every_message() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(fcm_app("droid"))).await.expect("created");
    let mut alert = demo_alert();
    alert.audience.as_mut().expect("set").apps = vec!["apps/droid".into(), "apps/demo".into()];
    let case = alert.case.as_mut().expect("set");
    let text = wire::Message { title: "Vermisst".into(), body: "x".repeat(2_000) };
    case.messages.insert("de".into(), text);
    let preview = wire::PreviewAlertRequest { alert: Some(alert.clone()) };
    let sizes = soon(server.alerts().preview_alert(preview)).await.expect("counted").into_inner();
    let named: Vec<_> =
        sizes.messages.iter().map(|m| (m.app.as_str(), m.locale.as_str())).collect();
    let apps = ["apps/demo", "apps/droid"];
    assert_eq!(named, [(apps[0], "de"), (apps[0], "en"), (apps[1], "de"), (apps[1], "en")]);
    assert!(sizes.messages.iter().all(|m| m.body_bytes + m.bytes_left == 4_096));
    // What is left is enough, and one byte more is too much.
    let left = sizes.messages[0].bytes_left.min(sizes.messages[2].bytes_left) as usize;
    let grow = |alert: &mut wire::Alert, bytes| {
        let case = alert.case.as_mut().expect("set");
        case.messages.get_mut("de").expect("set").body.push_str(&"x".repeat(bytes));
    };
    grow(&mut alert, left.min(1_000));
    if left <= 1_000 {
        soon(server.alerts().create_alert(create(1, alert.clone()))).await.expect("fits");
        grow(&mut alert, 1);
        let refused = soon(server.alerts().create_alert(create(2, alert))).await;
        assert_eq!(field(&refused.expect_err("too much")), "alert.case.messages[de]");
    }
}

#[tokio::test]
async fn compressed_requests_and_responses_are_as_good_as_others() {
    let server = Server::with_demo().await;
    for (n, encoding) in (1..).zip([CompressionEncoding::Gzip, CompressionEncoding::Zstd]) {
        let mut alerts = AlertServiceClient::new(server.channel.clone())
            .send_compressed(encoding)
            .accept_compressed(encoding);
        let created = soon(alerts.create_alert(create(n, padded(2 << 20)))).await.expect("created");
        let created = created.into_inner();
        assert!(created.region == padded(2 << 20).region);
        for _ in 0..30 {
            let list = wire::ListAlertsRequest { with_regions: true, ..Default::default() };
            let page = soon(alerts.list_alerts(list)).await.expect("a page").into_inner();
            assert!(!page.alerts.is_empty());
        }
        let watch = wire::WatchAlertRequest { name: created.name.clone(), cells: true };
        let mut watch = soon(alerts.watch_alert(watch)).await.expect("watched").into_inner();
        soon(watch.message()).await.expect("a message").expect("progress");

        let mut registry = RegistryServiceClient::new(server.channel.clone())
            .send_compressed(encoding)
            .accept_compressed(encoding);
        let batch = |id| wire::WriteDevicesRequest {
            batch_id: id,
            changes: removals(3_000),
            historic: false,
        };
        let batches = tokio_stream::iter([batch(1), batch(2)]);
        let mut answers = soon(registry.write_devices(batches)).await.expect("open").into_inner();
        for id in 1..=2 {
            let answer = soon(answers.message()).await.expect("an answer").expect("one for each");
            assert_eq!((answer.batch_id, answer.written), (id, 3_000));
        }
    }
}

fn removals(count: usize) -> Vec<wire::DeviceChange> {
    let removal = |n| wire::DeviceChange {
        device: format!("device-{n}"),
        observe_time: Some(from_now(-1)),
        change: Some(wire::device_change::Change::Removal(wire::Removal {})),
        token_device: None,
    };
    (0..count).map(removal).collect()
}

/// Sends one compressed message to a method, and returns the status of the answer.
async fn send(
    channel_from: std::net::IpAddr,
    server: &Server,
    method: &str,
    encoding: &str,
    message: &[u8],
) -> Status {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((channel_from, 0).into()).expect("a local address");
    let tcp = socket.connect(server.address).await.expect("listens");
    let (client, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/{method}", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", encoding)
        .body(())
        .expect("a request");
    let mut client = client.ready().await.expect("open");
    let (answer, mut body) = client.send_request(request, false).expect("sent");
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    body.send_data([&[1][..], &length, message].concat().into(), true).expect("sent");
    let answer = answer.await.expect("an answer");
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status;
    }
    let mut body = answer.into_body();
    while body.data().await.is_some() {}
    let trailers = body.trailers().await.expect("trailers").expect("a status");
    Status::from_header_map(&trailers).expect("a status")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes).expect("memory");
    gzip.finish().expect("memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_refused_quickly_whoever_sends_them() {
    let server = Server::with_demo().await;
    // 1 GB of zeros in zstd, 400 MB in gzip; both are refused after 8 MiB.
    let gzip_bomb = gzip(&vec![0; 400 << 20]);
    let zstd_bomb =
        zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1).expect("memory");
    let host = |n: u8| std::net::IpAddr::from([127, 0, 0, n]);
    let methods = [
        "clarion.v1.AlertService/GetAlert",
        "clarion.v1.AlertService/CreateAlert",
        "clarion.v1.AlertService/WatchAlert",
        "clarion.v1.RegistryService/WriteDevices",
        "clarion.v1.AppService/CreateApp",
    ];
    for method in methods {
        for (encoding, bomb) in [("gzip", &gzip_bomb), ("zstd", &zstd_bomb)] {
            let refused = soon(send(host(1), &server, method, encoding, bomb)).await;
            let (field, says) = violation(&refused);
            assert_eq!(field, "request", "{method} {encoding}");
            assert!(says.contains("8388609"), "one byte more than the limit: {says}");
        }
    }
    let many = (2..30).map(|n| {
        let (server, bomb) = (&server, &gzip_bomb);
        async move { send(host(n), server, methods[0], "gzip", bomb).await }
    });
    for refused in soon(futures_util::future::join_all(many)).await {
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let broken = soon(send(host(1), &server, methods[0], "gzip", b"no gzip")).await;
    assert!(violation(&broken).1.contains("cannot be decompressed"), "{broken:?}");
    let unknown = soon(send(host(1), &server, methods[0], "snappy", b"x")).await;
    assert_eq!(unknown.code(), Code::Unimplemented);
    let list = wire::ListAlertsRequest::default();
    soon(server.alerts().list_alerts(list)).await.expect("others are served");
}

#[tokio::test]
async fn metadata_that_is_too_large_gets_a_status() {
    let server = Server::with_demo().await;
    let list = |bytes: usize| {
        let mut request = tonic::Request::new(wire::ListAlertsRequest::default());
        request.metadata_mut().insert("x-much", "y".repeat(bytes).parse().expect("visible"));
        let mut client: AlertServiceClient<Channel> = server.alerts();
        async move { soon(client.list_alerts(request)).await }
    };
    list(METADATA_BYTES_MAX - 1_000).await.expect("within the limit");
    for bytes in [METADATA_BYTES_MAX, 20_000, 40_000, 64 << 10] {
        let refused = list(bytes).await.expect_err("too large");
        let expected = (Code::ResourceExhausted, "METADATA_TOO_LARGE".to_owned());
        assert_eq!(reason(&refused), expected, "{bytes}");
        assert!(refused.message().contains("at most 16384 bytes"), "{}", refused.message());
        assert_eq!(pushback(&refused), Some(-1), "the same metadata again does not help");
    }
}

#[tokio::test]
async fn a_refusal_for_now_says_when_to_libraries_too() {
    let server = Server::with_demo().await;
    *server.nodes.away.lock() = true;
    let refused = soon(server.alerts().create_alert(create(1, demo_alert()))).await;
    let refused = refused.expect_err("no nodes");
    let retry = refused.get_details_retry_info().and_then(|info| info.retry_delay);
    let retry = retry.expect("a time").as_millis();
    assert_eq!(pushback(&refused).map(i64::unsigned_abs), u64::try_from(retry).ok());
}
