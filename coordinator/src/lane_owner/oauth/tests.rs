//! Conversations with a token endpoint that says what a test tells it to, over real TLS sockets.
//! Time is the machine's but where a test has to let an hour pass: then it is stopped, moved, and
//! let go on.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use clarion_proto::{app::Platform, wire::shard_v1 as wire};
use clarion_runtime::proxy::Route;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    dispatch::{board::Board, lanes::Lanes},
    fixtures::{gateway, node},
    lane::{Gateway, LaneKey},
    lane_owner::{self as owner, Credential, LaneOwner, ServiceAccount},
    store::memory::MemoryStore,
};

mod sources;

const RSA: &str = include_str!("../../../tests/keys/rsa-2048.pem");
/// For everything that must happen; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const NOW: UnixMillis = UnixMillis(1_763_769_600_999);

/// What the endpoint does with a request.
#[derive(Debug, Clone)]
enum Script {
    /// Status line's end, headers' end (each line closed by CRLF), body; then it closes.
    Say(&'static str, String),
    /// Nothing, for ever.
    Hang,
    /// 200 and a body without end.
    Flood,
}

fn token(name: &str, life: u64) -> Script {
    let body = format!(r#"{{"access_token":"{name}","expires_in":{life},"token_type":"Bearer"}}"#);
    Script::Say("200 OK\r\ncontent-type: application/json", body)
}

fn error(status: &'static str, body: &str) -> Script {
    Script::Say(status, body.to_owned())
}

/// An endpoint and what it was asked, request by request.
struct Endpoint {
    address: SocketAddr,
    ca_pem: String,
    requests: mpsc::Receiver<String>,
}

impl Endpoint {
    /// Answers the first request by the first of the script, and so on; the last is repeated.
    async fn start(script: Vec<Script>) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel(64);
        tokio::spawn(async move {
            for i in 0.. {
                let (tcp, _) = listener.accept().await.unwrap();
                let script = script[usize::min(i, script.len() - 1)].clone();
                // A client that does not trust the certificate leaves in the middle of the
                // handshake.
                if let Ok(tls) = acceptor.accept(tcp).await {
                    tokio::spawn(answer_one(tls, script, sender.clone()));
                }
            }
        });
        Self { address, ca_pem: cert.pem(), requests }
    }

    fn account(&self) -> GoogleAccount {
        self.account_with(&self.ca_pem)
    }

    fn account_with(&self, ca_pem: &str) -> GoogleAccount {
        GoogleAccount {
            name: "google".to_owned(),
            project_id: "p".to_owned(),
            source: TokenSource::ServiceAccount(ServiceAccount {
                client_email: "clarion@p.iam.gserviceaccount.com".to_owned(),
                private_key_id: "kid-1".to_owned(),
                private_key_pem: SecretString::from(RSA.to_owned()),
                token_endpoint: owner::Endpoint {
                    uri: format!("https://localhost:{}/token", self.address.port()),
                    host: "localhost".to_owned(),
                    port: self.address.port(),
                    is_tls: true,
                    ca_pem: ca_pem.to_owned(),
                },
            }),
            route: Route::Environment,
        }
    }

    async fn asked(&mut self) -> String {
        timeout(PATIENCE, self.requests.recv()).await.expect("in time").expect("the endpoint lives")
    }
}

async fn answer_one(
    mut tls: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    script: Script,
    requests: mpsc::Sender<String>,
) {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "))
                .unwrap()
                .parse()
                .unwrap();
            if body.len() >= length {
                // Nobody listens in some tests.
                let _ = requests.send(text).await;
                break;
            }
        }
        if tls.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return;
        }
    }
    match script {
        Script::Say(status, body) => {
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = tls.write_all(answer.as_bytes()).await;
            let _ = tls.shutdown().await;
        }
        Script::Hang => std::future::pending().await,
        Script::Flood => {
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while tls
                .write_all(&[b"1000\r\n".as_slice(), &[b'x'; 4_096], b"\r\n"].concat())
                .await
                .is_ok()
            {}
        }
    }
}

async fn exchanged(script: Script) -> Result<AccessToken, ExchangeError> {
    let endpoint = Endpoint::start(vec![script]).await;
    timeout(PATIENCE, exchange(&endpoint.account(), &World::system(), NOW)).await.expect("in time")
}

#[tokio::test]
async fn a_token_is_asked_for_as_google_wants_it_and_comes_with_its_life() {
    let mut endpoint = Endpoint::start(vec![token("ya29.a-b_c", 3_599)]).await;
    let made = timeout(PATIENCE, exchange(&endpoint.account(), &World::system(), NOW))
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(made.token.authorization.expose_secret(), "Bearer ya29.a-b_c");
    assert_eq!(made.life, Duration::from_secs(3_599));

    let request = endpoint.asked().await;
    let (head, form) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /token HTTP/1.1\r\n"), "{head}");
    let host = format!("host: localhost:{}", endpoint.address.port());
    assert!(head.lines().any(|line| line == host), "{head}");
    assert!(
        head.lines().any(|line| line == "content-type: application/x-www-form-urlencoded"),
        "{head}"
    );
    let assertion = form.strip_prefix(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=",
    );
    let assertion = assertion.expect("the form");

    // Checked by ring alone, without the library that made it.
    let parts: Vec<_> = assertion.split('.').collect();
    let decoded = |part: &str| data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).unwrap();
    let json = |part: &str| serde_json::from_slice::<serde_json::Value>(&decoded(part)).unwrap();
    assert_eq!(json(parts[0]), serde_json::json!({"typ": "JWT", "alg": "RS256", "kid": "kid-1"}));
    let (iat, uri) =
        (NOW.0 / 1_000, format!("https://localhost:{}/token", endpoint.address.port()));
    let claims = serde_json::json!({
        "iss": "clarion@p.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": uri,
        "iat": iat,
        "exp": iat + 3_600,
    });
    assert_eq!(json(parts[1]), claims);
    let key = PrivatePkcs8KeyDer::from_pem_slice(RSA.as_bytes()).unwrap();
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let signed = format!("{}.{}", parts[0], parts[1]);
    let public =
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public().as_ref().to_vec());
    public.verify(signed.as_bytes(), &decoded(parts[2])).expect("signed by the account's key");
}

#[tokio::test]
async fn a_refused_grant_says_key_or_clock_and_does_not_go_away() {
    let body = r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#;
    let refused = exchanged(error("400 Bad Request", body)).await.unwrap_err();
    assert!(!refused.is_passing());
    let expected = "HTTP 400, invalid_grant: the key was revoked or is not this account's, or this machine's clock is wrong \
                    (invalid_grant Invalid JWT Signature.)";
    assert_eq!(refused.to_string(), expected);
}

#[tokio::test]
async fn what_goes_away_is_told_from_what_does_not() {
    let html = "<html><title>502</title></html>";
    let cases = [
        (
            error("500 Internal Server Error", r#"{"error":"internal_failure"}"#),
            true,
            "HTTP 500: internal_failure",
        ),
        (error("502 Bad Gateway", html), true, "HTTP 502: without a reason in JSON"),
        (error("429 Too Many Requests", "{}"), true, "HTTP 429: without a reason in JSON"),
        (
            error("401 Unauthorized", r#"{"error":"invalid_client"}"#),
            false,
            "HTTP 401: invalid_client",
        ),
        (
            error("302 Found\r\nlocation: https://elsewhere/", ""),
            false,
            "HTTP 302: without a reason in JSON",
        ),
        (
            error("200 OK", html),
            false,
            "HTTP 200 without a usable token: the body is not JSON, or not of a token",
        ),
        (error("200 OK", "{}"), false, "HTTP 200 without a usable token: token_type is not Bearer"),
        (token("a", 0), false, "HTTP 200 without a usable token: expires_in is missing or 0"),
        (
            token("", 60),
            false,
            "HTTP 200 without a usable token: access_token is not 1 to 4,096 visible ASCII characters",
        ),
        (
            token("a b", 60),
            false,
            "HTTP 200 without a usable token: access_token is not 1 to 4,096 visible ASCII",
        ),
        (
            token(&"a".repeat(4_097), 60),
            false,
            "HTTP 200 without a usable token: access_token is not 1 to 4,096",
        ),
        (Script::Flood, false, "the answer must be at most 65536 bytes; got more"),
    ];
    for (script, is_passing, words) in cases {
        let refused = exchanged(script).await.unwrap_err();
        assert!(refused.to_string().starts_with(words), "{refused}\n instead of\n{words}");
        assert_eq!(refused.is_passing(), is_passing, "{refused}");
    }
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_is_left_at_the_deadline() {
    let mut endpoint = Endpoint::start(vec![Script::Hang]).await;
    let account = endpoint.account();
    let asking = tokio::spawn(async move { exchange(&account, &World::system(), NOW).await });
    endpoint.asked().await;
    // Everybody waits: the clock goes on to the next deadline by itself.
    tokio::time::pause();
    let refused = asking.await.unwrap().unwrap_err();
    assert!(matches!(refused, ExchangeError::Deadline) && refused.is_passing(), "{refused}");
}

#[tokio::test]
async fn nobody_else_is_told_what_was_signed() {
    let endpoint = Endpoint::start(vec![token("a", 60)]).await;
    let account = endpoint.account_with("");
    let refused = timeout(PATIENCE, exchange(&account, &World::system(), NOW))
        .await
        .expect("in time")
        .unwrap_err();
    assert!(
        refused.to_string().starts_with("cannot connect: invalid peer certificate"),
        "{refused}"
    );
}

#[test]
fn foreign_words_are_cut_and_what_may_be_a_secret_is_left_out() {
    assert_eq!(words("Invalid\u{7} JWT\n  Signature."), "Invalid JWT Signature.");
    assert_eq!(words(&format!("bad assertion {}", "a".repeat(41))), "bad assertion …");
    assert!(words(&"word ".repeat(1_000)).chars().count() <= WORDS_MAX);
}

#[test]
fn a_token_is_replaced_five_minutes_before_its_end_and_a_short_one_at_half() {
    let after = |seconds| replace_after(Duration::from_secs(seconds)).as_secs();
    assert_eq!([3_600, 3_599, 1_200, 60, 4].map(after), [3_300, 3_299, 900, 30, 2]);
}

#[test]
fn pauses_grow_to_a_minute_and_differ() {
    let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(1);
    for (failures, longest) in [(0, 1), (1, 2), (5, 32), (6, 60), (4_000_000_000, 60)] {
        let longest = Duration::from_secs(longest);
        let pauses: Vec<_> =
            (0..100).map(|_| ExchangeError::Deadline.pause(failures, &mut random)).collect();
        assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)), "{failures}");
        assert!(pauses.windows(2).any(|two| two[0] != two[1]));
    }
    let refused = ExchangeError::Unusable("");
    assert!(refused.pause(0, &mut random) >= Duration::from_secs(30));
}

/// A lane owner at work on one lane of that endpoint.
struct Owner {
    owner: Arc<Lanes>,
    board: Arc<Board>,
    world: World,
}

impl Owner {
    fn start(endpoint: &Endpoint) -> Self {
        let gateway = Gateway { platform: Platform::Fcm, ..gateway(None) };
        let owner = LaneOwner::new(vec![gateway], vec![Credential::Fcm(endpoint.account())]);
        let (board, world) = (Arc::new(Board::new()), World::system());
        let owner = Arc::new(Lanes::new(owner, board.clone()));
        let (keeper, of_task) = (owner.clone(), world.clone());
        tokio::spawn(async move {
            let store = MemoryStore::new(1, 1 << 20, &of_task);
            keeper.keep_fresh(&of_task, &store).await;
        });
        Self { owner, board, world }
    }

    fn ensure(&self) -> u32 {
        let key = LaneKey { gateway: "g".to_owned(), credential: "google".to_owned() };
        self.owner.ensure(&key, &self.world.clock()).unwrap().id.0
    }

    /// Waits until nodes are given that token.
    async fn given(&self, authorization: &str) {
        let mut board = self.board.watch();
        let given = board.wait_for(|holds| {
            holds.tokens.values().any(|token| token.authorization.expose_secret() == authorization)
        });
        drop(timeout(PATIENCE, given).await.expect("in time").unwrap());
    }

    fn say(&self, lane: u32, health: wire::LaneHealth) {
        let state = wire::LaneState { lane, health: health.into(), ..Default::default() };
        self.owner.health_changed(&node("a"), &state, self.world.clock().moment());
    }
}

/// Lets time pass at once; then it goes on as ever, for sockets need it.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_lane_is_there_at_once_and_its_token_when_it_comes() {
    let mut endpoint = Endpoint::start(vec![token("one", 3_600), token("two", 3_600)]).await;
    let owner = Owner::start(&endpoint);
    owner.ensure();
    assert!(owner.board.read().tokens.is_empty(), "nobody has waited for the network");
    assert_eq!(owner.board.read().lanes.len(), 1);
    owner.given("Bearer one").await;
    endpoint.asked().await;
    pass(3_290).await;
    assert!(endpoint.requests.try_recv().is_err(), "not yet");
    pass(15).await;
    endpoint.asked().await;
    owner.given("Bearer two").await;
}

#[tokio::test]
async fn a_node_that_is_refused_gets_another_token_but_not_within_a_minute() {
    let mut endpoint =
        Endpoint::start(vec![token("one", 3_600), token("two", 3_600), token("three", 3_600)])
            .await;
    let owner = Owner::start(&endpoint);
    let lane = owner.ensure();
    owner.given("Bearer one").await;
    endpoint.asked().await;
    pass(61).await;
    owner.say(lane, wire::LaneHealth::Credential);
    owner.given("Bearer two").await;
    endpoint.asked().await;
    owner.say(lane, wire::LaneHealth::Ready);
    owner.say(lane, wire::LaneHealth::Credential);
    pass(30).await;
    assert!(endpoint.requests.try_recv().is_err(), "spaced");
    pass(31).await;
    owner.given("Bearer three").await;
}

#[tokio::test]
async fn an_endpoint_that_fails_is_tried_again_and_said_to_fail() {
    let failing = error("500 Internal Server Error", r#"{"error":"internal_failure"}"#);
    let mut endpoint = Endpoint::start(vec![failing, token("one", 3_600)]).await;
    let owner = Owner::start(&endpoint);
    owner.ensure();
    endpoint.asked().await;
    // The first pause is a second at most, of the machine's time.
    let mut seen = Vec::new();
    timeout(PATIENCE, async {
        while !owner.owner.credentials()[0].has_token {
            seen.extend(owner.owner.credentials()[0].problem.clone());
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("in time");
    assert!(seen.iter().all(|words| words == "HTTP 500: internal_failure") && !seen.is_empty());
    assert_eq!(owner.owner.credentials()[0].problem, None);
}

#[tokio::test]
async fn one_account_in_trouble_holds_up_no_other() {
    let silent = Endpoint::start(vec![Script::Hang]).await;
    let good = Endpoint::start(vec![token("good", 3_600)]).await;
    let gateway = Gateway { platform: Platform::Fcm, ..gateway(None) };
    let other = GoogleAccount { name: "other".to_owned(), ..good.account() };
    let credentials = vec![Credential::Fcm(silent.account()), Credential::Fcm(other)];
    let started = Owner::start(&silent);
    let lanes = Lanes::new(LaneOwner::new(vec![gateway], credentials), started.board.clone());
    let owner = Owner { owner: Arc::new(lanes), ..started };
    let key =
        |credential: &str| LaneKey { gateway: "g".to_owned(), credential: credential.to_owned() };
    for credential in ["google", "other"] {
        owner.owner.ensure(&key(credential), &owner.world.clock()).unwrap();
    }
    let store = MemoryStore::new(1, 1 << 20, &owner.world);
    tokio::select! {
        () = owner.owner.keep_fresh(&owner.world, &store) => {}
        () = owner.given("Bearer good") => {}
    }
    let status: BTreeMap<_, _> = owner
        .owner
        .credentials()
        .into_iter()
        .map(|status| (status.credential, status.has_token))
        .collect();
    assert_eq!(status, BTreeMap::from([("google".to_owned(), false), ("other".to_owned(), true)]));
}
