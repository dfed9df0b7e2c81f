//! The metadata server, workload identity federation, and proxies on the way to Google.

use serde_json::json;
use tokio::net::TcpStream;

use super::*;
use crate::lane_owner::{ExternalAccount, Headers, SubjectSource};
use clarion_runtime::proxy::Proxy;

/// A server in plaintext that answers each request with the next bytes, and what it was asked.
async fn plain(answers: Vec<String>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel(64);
    tokio::spawn(async move {
        for answer in answers {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                if tcp.read_buf(&mut read).await.unwrap() == 0 {
                    break;
                }
            }
            let _ = sender.send(String::from_utf8(read).unwrap()).await;
            tcp.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, requests)
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn endpoint_at(address: SocketAddr, path: &str) -> owner::Endpoint {
    owner::Endpoint {
        uri: format!("http://{address}{path}"),
        host: address.ip().to_string(),
        port: address.port(),
        is_tls: false,
        ca_pem: String::new(),
    }
}

fn account(source: TokenSource, route: Route) -> GoogleAccount {
    GoogleAccount { name: "google".to_owned(), project_id: "p".to_owned(), source, route }
}

async fn asked(account: &GoogleAccount) -> Result<AccessToken, ExchangeError> {
    timeout(PATIENCE, exchange(account, &World::system(), NOW)).await.expect("in time")
}

#[tokio::test]
async fn the_metadata_server_is_known_by_its_header() {
    let body = r#"{"access_token":"ya29.m","expires_in":1799,"token_type":"Bearer"}"#;
    let google = "200 OK\r\nMetadata-Flavor: Google";
    let (address, mut requests) = plain(vec![
        answer(google, body),
        answer("200 OK", body),
        answer("302 Found\r\nlocation: https://login.example/", ""),
        answer("404 Not Found\r\nMetadata-Flavor: Google", "<html>"),
        answer("503 Unavailable\r\nMetadata-Flavor: Google", ""),
    ])
    .await;
    let source = TokenSource::Metadata(endpoint_at(address, "/token?scopes=a"));
    let account = account(source, Route::Environment);
    let made = asked(&account).await.expect("a token");
    assert_eq!(made.token.authorization.expose_secret(), "Bearer ya29.m");
    assert_eq!(made.life, Duration::from_secs(1_799));
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("GET /token?scopes=a HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nmetadata-flavor: Google\r\n"), "{request}");
    for (words, is_passing) in [
        ("HTTP 200 without `Metadata-Flavor: Google`: this is no metadata server", false),
        ("HTTP 302 without `Metadata-Flavor: Google`", false),
        ("HTTP 404: without a reason in JSON", false),
        ("HTTP 503: without a reason in JSON", true),
    ] {
        let error = asked(&account).await.expect_err(words);
        let expected = format!("metadata server at 127.0.0.1: {words}");
        assert!(error.to_string().starts_with(&expected), "{error}\n instead of\n{expected}");
        assert_eq!(error.is_passing(), is_passing, "{error}");
    }
}

fn federated(endpoint: &Endpoint, subject: SubjectSource, field: Option<&str>) -> TokenSource {
    let at = |path: &str| owner::Endpoint {
        uri: format!("https://localhost:{}{path}", endpoint.address.port()),
        host: "localhost".to_owned(),
        port: endpoint.address.port(),
        is_tls: true,
        ca_pem: endpoint.ca_pem.clone(),
    };
    TokenSource::ExternalAccount(Box::new(ExternalAccount {
        audience: "//iam.googleapis.com/pool".to_owned(),
        subject_token_type: "urn:ietf:params:oauth:token-type:jwt".to_owned(),
        subject,
        subject_field: field.map(str::to_owned),
        token_endpoint: at("/v1/token"),
        impersonation: Some(at("/v1/projects/-/serviceAccounts/a@p:generateAccessToken")),
        lifetime_seconds: 1_800,
    }))
}

fn subject_file(directory: &tempfile::TempDir, content: &str) -> SubjectSource {
    let path = directory.path().join("subject");
    std::fs::write(&path, content).unwrap();
    SubjectSource::File(path)
}

#[tokio::test]
async fn a_subject_token_becomes_the_token_of_a_service_account() {
    let generated = json!({ "accessToken": "ya29.sa", "expireTime": "2025-11-22T00:29:59Z" });
    let mut endpoint = Endpoint::start(vec![
        token("ya29.sts", 3_599),
        Script::Say("200 OK", generated.to_string()),
    ])
    .await;
    let directory = tempfile::tempdir().unwrap();
    let source = federated(&endpoint, subject_file(&directory, "subject token+/=\n"), None);
    let made = asked(&account(source, Route::Direct)).await.expect("a token");
    assert_eq!(made.token.authorization.expose_secret(), "Bearer ya29.sa");
    // NOW is 2025-11-22T00:00:00Z.
    assert_eq!(made.life, Duration::from_secs(1_799));

    let request = endpoint.asked().await;
    let (head, form) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/token HTTP/1.1\r\n"), "{head}");
    for field in [
        "audience=%2F%2Fiam%2Egoogleapis%2Ecom%2Fpool",
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant%2Dtype%3Atoken%2Dexchange",
        "subject_token=subject%20token%2B%2F%3D",
        "scope=https%3A%2F%2Fwww%2Egoogleapis%2Ecom%2Fauth%2Fcloud%2Dplatform",
        "requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken%2Dtype%3Aaccess%5Ftoken",
    ] {
        assert!(form.contains(field), "{field}: {form}");
    }
    let request = endpoint.asked().await;
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nauthorization: Bearer ya29.sts\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body, json!({ "delegates": [], "scope": [SCOPE], "lifetime": "1800s" }));
}

#[tokio::test]
async fn each_step_that_fails_is_named() {
    let denied = json!({ "error": {
        "code": 403, "status": "PERMISSION_DENIED", "message": "Permission denied on resource.",
    } });
    let over = json!({ "accessToken": "a", "expireTime": "2020-01-01T00:00:00Z" });
    let odd = json!({ "accessToken": "a", "expireTime": "tomorrow" });
    let said = |body: &serde_json::Value| Script::Say("200 OK", body.to_string());
    let sts = token("ya29.sts", 3_599);
    for (script, words) in [
        (
            vec![error("400 Bad Request", r#"{"error":"invalid_grant","error_description":"x"}"#)],
            "token exchange at localhost: HTTP 400, invalid_grant",
        ),
        (
            vec![sts.clone(), error("403 Forbidden", &denied.to_string())],
            "impersonation at localhost: HTTP 403: PERMISSION_DENIED Permission denied on resource.",
        ),
        (vec![sts.clone(), said(&over)], "impersonation at localhost: HTTP 200 without a usable"),
        (vec![sts, said(&odd)], "impersonation at localhost: HTTP 200 without a usable"),
    ] {
        let endpoint = Endpoint::start(script).await;
        let directory = tempfile::tempdir().unwrap();
        let source = federated(&endpoint, subject_file(&directory, "subject"), None);
        let error = asked(&account(source, Route::Direct)).await.expect_err(words);
        assert!(error.to_string().starts_with(words), "{error}\n instead of\n{words}");
        assert!(!error.is_passing());
    }
}

#[tokio::test]
async fn a_subject_token_is_read_as_the_file_says_and_never_shown() {
    let endpoint = Endpoint::start(vec![token("a", 60)]).await;
    let directory = tempfile::tempdir().unwrap();
    for (content, field, words) in [
        ("", None, "must be 1 to 16384 bytes; got 0 bytes"),
        ("hidden", Some("id_token"), "must be in JSON"),
        (r#"{"other":"hidden"}"#, Some("id_token"), "must be text in the member \"id_token\""),
        (r#"{"id_token":7}"#, Some("id_token"), "must be text in the member \"id_token\""),
    ] {
        let source = federated(&endpoint, subject_file(&directory, content), field);
        let error = asked(&account(source, Route::Direct)).await.expect_err(words).to_string();
        assert!(error.starts_with("the subject token in ") && error.contains(words), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    }
    let missing = SubjectSource::File(directory.path().join("absent"));
    let source = federated(&endpoint, missing, None);
    let error = asked(&account(source, Route::Direct)).await.expect_err("absent").to_string();
    assert!(error.contains("absent cannot be read: No such file"), "{error}");

    let (address, mut requests) =
        plain(vec![answer("200 OK", r#"{"access_token":"s"}"#), answer("403 Forbidden", "")]).await;
    let header = ("metadata".parse().unwrap(), "True".parse().unwrap());
    let subject = SubjectSource::Url(endpoint_at(address, "/id"), Headers(vec![header]));
    let source = federated(&endpoint, subject, Some("access_token"));
    let account = account(source, Route::Direct);
    // The exchange answers, and the impersonation answers with the same, which is no token.
    let error = asked(&account).await.expect_err("no impersonation").to_string();
    assert!(error.starts_with("impersonation at localhost: "), "{error}");
    let request = requests.recv().await.unwrap();
    assert!(request.contains("\r\nmetadata: True\r\n"), "{request}");
    let error = asked(&account).await.expect_err("403").to_string();
    assert!(error.starts_with("subject token at 127.0.0.1: HTTP 403"), "{error}");
}

/// A proxy that opens tunnels to this machine, and the requests that it read.
async fn proxy() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n") {
                    tcp.read_buf(&mut read).await.unwrap();
                }
                let request = String::from_utf8(read).unwrap();
                let target = request.split(' ').nth(1).unwrap();
                let mut there = TcpStream::connect(target).await.unwrap();
                sender.send(request).await.unwrap();
                tcp.write_all(b"HTTP/1.0 200 Connection established\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut tcp, &mut there).await;
            });
        }
    });
    (address, requests)
}

fn through(address: SocketAddr) -> Route {
    Route::Proxy(Arc::new(Proxy::parse(&format!("http://me:secret@{address}")).unwrap()))
}

#[tokio::test]
async fn a_token_endpoint_is_reached_through_a_proxy() {
    let endpoint = Endpoint::start(vec![token("ya29.a", 60)]).await;
    let (address, mut requests) = proxy().await;
    let account = GoogleAccount { route: through(address), ..endpoint.account() };
    let made = asked(&account).await.expect("a token");
    assert_eq!(made.token.authorization.expose_secret(), "Bearer ya29.a");
    let request = requests.recv().await.unwrap();
    let expected = format!("CONNECT localhost:{} HTTP/1.1\r\n", endpoint.address.port());
    assert!(request.starts_with(&expected), "{request}");
    assert!(request.contains("\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{request}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_and_the_metadata_server_never_gets_one() {
    let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".to_owned();
    let unavailable = "HTTP/1.1 503 Service Unavailable\r\n\r\n".to_owned();
    let (address, _requests) = plain(vec![refusal, unavailable, String::new()]).await;
    let endpoint = Endpoint::start(vec![token("a", 60)]).await;
    let reached = GoogleAccount { route: through(address), ..endpoint.account() };
    for (words, is_passing) in [
        ("answered 407 Proxy Authentication Required: the proxy refuses the credentials", false),
        ("answered 503 Service Unavailable: the proxy cannot reach localhost:", true),
        ("closed the connection without an answer to CONNECT", true),
    ] {
        let error = asked(&reached).await.expect_err(words);
        let expected = format!("proxy {address} {words}");
        assert!(error.to_string().starts_with(&expected), "{error}\n instead of\n{expected}");
        assert_eq!(error.is_passing(), is_passing);
    }
    // Nothing answers at the proxy's address any more.
    let error = asked(&reached).await.expect_err("gone").to_string();
    assert!(error.contains(&format!("proxy {address} cannot be reached")), "{error}");
    let body = r#"{"access_token":"ya29.m","expires_in":1799,"token_type":"Bearer"}"#;
    let (metadata, _requests) =
        plain(vec![answer("200 OK\r\nMetadata-Flavor: Google", body)]).await;
    let source = TokenSource::Metadata(endpoint_at(metadata, "/token"));
    asked(&account(source, through(address))).await.expect("directly");
}

#[tokio::test]
async fn a_proxy_that_never_answers_is_left_at_its_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = Endpoint::start(vec![token("a", 60)]).await;
    let account = GoogleAccount { route: through(address), ..endpoint.account() };
    let asking = tokio::spawn(async move { exchange(&account, &World::system(), NOW).await });
    let (mut tcp, _) = listener.accept().await.unwrap();
    tcp.read_buf(&mut Vec::new()).await.unwrap();
    // Everybody waits: the clock goes on to the next deadline by itself.
    tokio::time::pause();
    let error = asking.await.unwrap().expect_err("no tunnel");
    let expected =
        format!("cannot connect: proxy {address} takes too long to answer CONNECT: more than 5 s");
    assert_eq!(error.to_string(), expected);
    assert!(error.is_passing());
}
