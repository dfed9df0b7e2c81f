//! Tokens without a key: the metadata server, the token exchange and impersonation.

use clarion_emulator::{GatewayConfig, GatewayHandle, WorkloadIdentityConfig};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    client::{ask, connect, send, start},
    oauth::exchange,
    sender::{ACCOUNT, FCM_PATH, fcm_body, fcm_config, fcm_token},
};

const AUDIENCE: &str = "//iam.googleapis.com/pool";
const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange";
const TYPE: &str = "urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3A";
const SCOPE: &str = "https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform";
const METADATA: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

fn config(expires: Option<u64>) -> GatewayConfig {
    GatewayConfig {
        workload_identities: vec![WorkloadIdentityConfig {
            audience: AUDIENCE.to_owned(),
            subject_token_type: "urn:ietf:params:oauth:token-type:jwt".to_owned(),
            subject_token: "subject".to_owned(),
            expires_unix_seconds: expires,
            service_account: ACCOUNT.to_owned(),
        }],
        machine_account: Some(ACCOUNT.to_owned()),
        ..fcm_config()
    }
}

fn form() -> String {
    format!(
        "audience={AUDIENCE}&grant_type={GRANT}&requested_token_type={TYPE}access_token&\
         scope={SCOPE}&subject_token=subject&subject_token_type={TYPE}jwt"
    )
}

async fn post(gateway: &GatewayHandle, path: &str, head: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{head}\
         connection: close\r\n\r\n{body}"
    );
    exchange(gateway, request.as_bytes()).await
}

/// Status of a push with this access token.
async fn pushed(gateway: &GatewayHandle, token: &Value) -> u16 {
    let bearer = format!("Bearer {}", token.as_str().expect("a token"));
    let (requests, _driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    let request = send(FCM_PATH, &[("authorization", &bearer)]);
    ask(&requests, request, &fcm_body(&fcm_token(1))).await.expect("answered").status
}

#[tokio::test]
async fn a_subject_token_buys_a_token_that_may_impersonate_and_not_send() {
    let gateway = start(config(None));
    let (status, sts) = post(&gateway, "/v1/token", "", &form()).await;
    assert_eq!(
        (status, &sts["token_type"], &sts["expires_in"]),
        (200, &json!("Bearer"), &3_600.into())
    );
    assert_eq!(pushed(&gateway, &sts["access_token"]).await, 401);
    let path = format!("/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken");
    let head = format!("authorization: Bearer {}\r\n", sts["access_token"].as_str().expect("text"));
    let body = json!({ "scope": ["https://www.googleapis.com/auth/firebase.messaging"] });
    let (status, generated) = post(&gateway, &path, &head, &body.to_string()).await;
    assert_eq!(status, 200, "{generated}");
    assert!(generated["expireTime"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!(pushed(&gateway, &generated["accessToken"]).await, 200);

    let other = path.replace(ACCOUNT, "other@p.example");
    let long = json!({ "scope": body["scope"], "lifetime": "3601s" }).to_string();
    for (path, head, body, expected) in [
        (&path, "", body.to_string(), (401, "UNAUTHENTICATED")),
        (&path, "authorization: Bearer x\r\n", body.to_string(), (401, "UNAUTHENTICATED")),
        (&other, &head, body.to_string(), (403, "PERMISSION_DENIED")),
        (&path, &head, json!({ "scope": ["email"] }).to_string(), (400, "INVALID_ARGUMENT")),
        (&path, &head, long, (400, "INVALID_ARGUMENT")),
        (&path, &head, "{".to_owned(), (400, "INVALID_ARGUMENT")),
    ] {
        let (status, refusal) = post(&gateway, path, head, &body).await;
        assert_eq!((status, refusal["error"]["status"].as_str()), (expected.0, Some(expected.1)));
    }
    gateway.stop();
}

#[tokio::test]
async fn every_flaw_of_an_exchange_is_refused() {
    let gateway = start(config(None));
    let form = form();
    for (from, to, error) in [
        (GRANT, "refresh_token", "unsupported_grant_type"),
        (AUDIENCE, "//iam.googleapis.com/other", "invalid_request"),
        ("jwt", "id_token", "invalid_request"),
        ("access_token", "jwt", "invalid_request"),
        ("cloud-platform", "userinfo.email", "invalid_scope"),
        ("subject_token=subject", "subject_token=another", "invalid_grant"),
        ("subject_token=subject", "subject_token=", "invalid_request"),
    ] {
        let (status, refusal) = post(&gateway, "/v1/token", "", &form.replace(from, to)).await;
        assert_eq!((status, refusal["error"].as_str()), (400, Some(error)), "{to}");
    }
    gateway.stop();
    let gateway = start(config(Some(1)));
    let (status, refusal) = post(&gateway, "/v1/token", "", &form).await;
    assert_eq!((status, refusal["error"].as_str()), (400, Some("invalid_grant")), "it has expired");
    gateway.stop();
}

#[tokio::test]
async fn the_metadata_server_answers_inside_the_machine_only() {
    let gateway = start(config(None));
    let host = gateway.metadata_host().expect("the machine has an account");
    let ask = async |request: String| {
        let mut tcp = TcpStream::connect(host).await.expect("connected");
        tcp.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.contains("\r\nmetadata-flavor: Google\r\n"), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status: u16 = head[9..12].parse().expect("a status");
        (status, serde_json::from_str::<Value>(body).expect("JSON"))
    };
    let get = |path: &str, head: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: m\r\n{head}connection: close\r\n\r\n")
    };
    let flavor = "metadata-flavor: Google\r\n";
    let (status, token) = ask(get(&format!("{METADATA}?scopes=a"), flavor)).await;
    assert_eq!((status, &token["token_type"]), (200, &json!("Bearer")));
    assert_eq!(pushed(&gateway, &token["access_token"]).await, 200);
    assert_eq!(ask(get(METADATA, "")).await.0, 403);
    assert_eq!(ask(get(METADATA, &format!("{flavor}x-forwarded-for: 1.2.3.4\r\n"))).await.0, 403);
    assert_eq!(ask(get("/token", flavor)).await.0, 404);
    gateway.stop();
    let without = start(fcm_config());
    assert_eq!(without.metadata_host(), None);
    without.stop();
}
