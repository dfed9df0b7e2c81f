//! The token endpoint over real sockets, in HTTP/1.1 and HTTP/2.

use clarion_emulator::{GatewayHandle, oauth::assertion::GRANT_TYPE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    client::{PATIENCE, ask, connect, secure, send, start},
    sender::{FCM_PATH, assertion, bearer, fcm_body, fcm_config, fcm_token},
};

fn address(gateway: &GatewayHandle) -> std::net::SocketAddr {
    let uri = gateway.token_uri().expect("FCM has one");
    uri.strip_prefix("https://")
        .and_then(|u| u.strip_suffix("/token"))
        .expect("its form")
        .parse()
        .expect("an address")
}

fn form(assertion: &str) -> String {
    format!("grant_type={}&assertion={assertion}", GRANT_TYPE.replace(':', "%3A"))
}

/// Posts a form in HTTP/1.1, and returns status and body.
async fn post(gateway: &GatewayHandle, form: &str) -> (u16, serde_json::Value) {
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        form.len()
    );
    exchange(gateway, format!("{head}{form}").as_bytes()).await
}

pub(super) async fn exchange(gateway: &GatewayHandle, request: &[u8]) -> (u16, serde_json::Value) {
    let whole = async {
        let mut socket = secure(address(gateway), gateway.ca_pem(), &[b"http/1.1"]).await;
        socket.write_all(request).await.expect("sent");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("answered");
        String::from_utf8(answer).expect("UTF-8")
    };
    let answer = tokio::time::timeout(PATIENCE, whole).await.expect("in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.get(9..12).and_then(|s| s.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// Requests an access token as a service account does.
pub(super) async fn access_token(gateway: &GatewayHandle) -> String {
    let assertion = assertion(gateway.token_uri().expect("FCM has one"), &[]);
    let (status, body) = post(gateway, &form(&assertion)).await;
    assert_eq!(status, 200, "{body}");
    body["access_token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_signed_assertion_buys_an_hour() {
    let gateway = start(fcm_config());
    let uri = gateway.token_uri().expect("FCM has one").to_owned();
    let (status, body) = post(&gateway, &form(&assertion(&uri, &[]))).await;
    assert_eq!(
        (status, &body["token_type"], &body["expires_in"]),
        (200, &"Bearer".into(), &3_600.into())
    );
    assert!(
        body["access_token"].as_str().is_some_and(|t| t.starts_with("ya29.") && t.len() == 1_024)
    );
    // The same over HTTP/2, by another implementation.
    let (requests, _driver) = connect(address(&gateway), gateway.ca_pem()).await;
    let request = send("/token", &[("content-type", "application/x-www-form-urlencoded")]);
    let seen =
        ask(&requests, request, form(&assertion(&uri, &[])).as_bytes()).await.expect("answered");
    assert_eq!(seen.status, 200);
    gateway.stop();
}

#[tokio::test]
async fn every_other_request_is_refused_in_words() {
    let gateway = start(fcm_config());
    let uri = gateway.token_uri().expect("FCM has one").to_owned();
    let good = assertion(&uri, &[]);
    let cases = [
        (form(&assertion(&uri, &[("iss", "nobody".into())])), "invalid_grant"),
        (form(&assertion(&uri, &[("aud", "https://elsewhere/token".into())])), "invalid_grant"),
        (form(&assertion(&uri, &[("exp", 1.into())])), "invalid_grant"),
        (form(&assertion(&uri, &[("scope", "email".into())])), "invalid_scope"),
        (form(&good[..good.len() - 8]), "invalid_grant"),
        (form("abc"), "invalid_grant"),
        (format!("grant_type=refresh_token&assertion={good}"), "unsupported_grant_type"),
        (format!("assertion={good}"), "invalid_request"),
        (format!("grant_type={GRANT_TYPE}"), "invalid_request"),
        (String::new(), "invalid_request"),
        ("x".repeat(17 << 10), "invalid_request"),
    ];
    for (form, error) in cases {
        let (status, body) = post(&gateway, &form).await;
        assert_eq!((status, body["error"].as_str()), (400, Some(error)), "{body}");
        assert!(body["error_description"].as_str().is_some_and(|d| !d.is_empty()));
    }
    let get = b"GET /token HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(&gateway, get).await.0, 405);
    let other = b"POST /other HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(&gateway, other).await.0, 404);
    gateway.stop();
}

#[tokio::test]
async fn the_endpoint_fails_on_order() {
    let gateway = start(fcm_config());
    let set = |faults: &str| {
        gateway.set_faults(serde_json::from_str(faults).expect("faults")).expect("set");
    };
    let form = form(&assertion(gateway.token_uri().expect("FCM has one"), &[]));
    set(r#"{"token_endpoint": {"down": true}}"#);
    assert_eq!(post(&gateway, &form).await.0, 503);
    set(r#"{"token_endpoint": {"lifetime_seconds": 0, "delay_ms": 1}}"#);
    let (status, body) = post(&gateway, &form).await;
    assert_eq!((status, &body["expires_in"]), (200, &0.into()));
    let bearer = format!("Bearer {}", body["access_token"].as_str().expect("a token"));
    let (requests, _driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    let seen =
        ask(&requests, send(FCM_PATH, &[("authorization", &bearer)]), &fcm_body(&fcm_token(1)))
            .await;
    assert_eq!(seen.expect("answered").status, 401, "it ended when it was issued");
    set("{}");
    assert_eq!(post(&gateway, &form).await.1["expires_in"], 3_600);
    gateway.stop();
}

#[tokio::test]
async fn a_hostile_client_of_it_harms_nobody() {
    let gateway = start(fcm_config());
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut plain = tokio::net::TcpStream::connect(address(&gateway)).await.expect("connected");
        plain.write_all(b"\x16\x03\x01\xff\xffnonsense").await.expect("sent");
        silent.push(plain);
    }
    let mut half = secure(address(&gateway), gateway.ca_pem(), &[b"http/1.1"]).await;
    half.write_all(b"POST /token HTTP/1.1\r\ncontent-le").await.expect("sent");
    let mut frames = secure(address(&gateway), gateway.ca_pem(), &[b"h2"]).await;
    frames.write_all(&[b'P'; 4_096]).await.expect("sent");
    assert!(access_token(&gateway).await.starts_with("ya29."));
    gateway.stop();
}

#[test]
fn access_tokens_of_one_gateway_mean_nothing_to_another() {
    let policy = fcm_config().policy().expect("good");
    let token = bearer(&policy, 0, u64::MAX);
    let other = fcm_config().policy().expect("good");
    assert_eq!(
        other.fcm().and_then(|p| p.issuer.read(token.trim_start_matches("Bearer ").as_bytes())),
        None
    );
}
