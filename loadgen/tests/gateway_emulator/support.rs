//! Both sides' tools: a signer of provider tokens, a connection with its surroundings, a client over TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_loadgen::gateway::{
    Faults, Gateway, GatewayConfig, GatewayHandle, KeyConfig, Platform, ProjectConfig,
    ServiceAccountConfig,
    clock::Now,
    config::{TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM, TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM},
    connection::{Connection, Context, Pace},
    faults::Plan,
    fcm::{access::Access, quota::Window},
    frame::{self, HEAD_BYTES, Head, flag, kind},
    policy::{Policy, Provider},
    record::{Entry, Log, Record},
    script::Attempts,
};
use clarion_proto::{ids::UnixMillis, time::Time};
use h2::client::SendRequest;
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream, rustls};

pub(crate) const TOPIC: &str = "com.example.app";
pub(crate) const TEAM: &str = "TEAM000001";
pub(crate) const KEY: &str = "KEY0000001";
pub(crate) const BODY: &[u8] = br#"{"aps":{"alert":"found"}}"#;
/// Bound of every wait: far longer than any of them takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// When a bench begins.
const START: Now = Now { at: Time(1_000_000), wall: UnixMillis(1_800_000_000_000) };

pub(crate) const PROJECT: &str = "missing-children";
pub(crate) const FCM_PATH: &str = "/v1/projects/missing-children/messages:send";
pub(crate) const ACCOUNT: &str = "sender@missing-children.iam.gserviceaccount.com";

/// A gateway of FCM that knows one project and one account for it, and a project that the account may not use.
pub(crate) fn fcm_config() -> GatewayConfig {
    let project =
        |project: &str| ProjectConfig { project: project.to_owned(), quota_per_minute: 600_000 };
    GatewayConfig {
        platform: Platform::Fcm,
        projects: vec![project(PROJECT), project("another")],
        service_accounts: vec![ServiceAccountConfig {
            client_email: ACCOUNT.to_owned(),
            private_key_id: None,
            public_key_file: None,
            public_key_pem: Some(TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM.to_owned()),
            projects: vec![PROJECT.to_owned()],
        }],
        ..GatewayConfig::default()
    }
}

/// What the token endpoint would give.
pub(crate) fn bearer(policy: &Policy, account: usize, expires_ms: u64) -> String {
    let issuer = &policy.fcm().expect("a policy of FCM").issuer;
    let token =
        issuer.issue(Access { account, expires: UnixMillis(expires_ms) }).expect("randomness");
    format!("Bearer {token}")
}

/// A token as Google's look.
pub(crate) fn fcm_token(i: u32) -> String {
    format!("{i:022}:APA91b{}", "kX-_9".repeat(23))
}

pub(crate) fn fcm_body(token: &str) -> Vec<u8> {
    let android = r#""android":{"collapse_key":"case-1","priority":"HIGH","ttl":"3600s"}"#;
    format!(r#"{{"message":{{"token":"{token}",{android},"notification":{{"title":"Missing","body":"found"}}}}}}"#)
        .into_bytes()
}

/// An assertion of the test account: its own claims, and what is put over them.
pub(crate) fn assertion(token_uri: &str, over: &[(&str, serde_json::Value)]) -> String {
    let mut claims = serde_json::json!({
        "iss": ACCOUNT,
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": token_uri,
        "iat": wall_s(),
        "exp": wall_s() + 3_600,
    });
    for (name, value) in over {
        claims[*name] = value.clone();
    }
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let signed = format!(
        "{}.{}",
        encode(br#"{"alg":"RS256","typ":"JWT"}"#),
        encode(claims.to_string().as_bytes())
    );
    let der = PrivatePkcs8KeyDer::from_pem_slice(TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM.as_bytes())
        .expect("PKCS#8");
    let key = ring::rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("RSA");
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .expect("signed");
    format!("{signed}.{}", encode(&signature))
}

/// A key pair and the tokens that it signs.
pub(crate) struct Signer {
    pair: KeyPair,
}

impl Signer {
    pub(crate) fn new() -> Self {
        Self { pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key") }
    }

    pub(crate) fn config(&self, key_id: &str, team_id: &str) -> KeyConfig {
        let pem = Some(self.pair.public_key_pem());
        KeyConfig {
            key_id: key_id.to_owned(),
            team_id: team_id.to_owned(),
            public_key_file: None,
            public_key_pem: pem,
        }
    }

    pub(crate) fn bearer(&self, key_id: &str, team_id: &str, issued_s: u64) -> String {
        let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
        let head = encode(format!(r#"{{"alg":"ES256","kid":"{key_id}"}}"#).as_bytes());
        let claims = encode(format!(r#"{{"iss":"{team_id}","iat":{issued_s}}}"#).as_bytes());
        let random = SystemRandom::new();
        let der = self.pair.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .expect("PKCS#8");
        let signature = key.sign(&random, format!("{head}.{claims}").as_bytes()).expect("signed");
        format!("bearer {head}.{claims}.{}", encode(signature.as_ref()))
    }
}

/// A configuration that knows one signer and one topic.
pub(crate) fn config(signer: &Signer) -> GatewayConfig {
    GatewayConfig {
        keys: vec![signer.config(KEY, TEAM)],
        topics: vec![TOPIC.to_owned()],
        ..GatewayConfig::default()
    }
}

/// A frame as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// What tells most in an assertion.
    pub(crate) fn brief(&self) -> (u8, u32) {
        (self.kind, self.stream)
    }
}

/// The state machine with everything that it needs, and time in the test's hand.
pub(crate) struct Bench {
    pub(crate) connection: Connection,
    pub(crate) log: Log,
    pub(crate) now: Now,
    /// One provider token for all pushes: APNs does not like to see them change.
    pub(crate) bearer: String,
    pub(crate) policy: Policy,
    plan: Plan,
    pace: Pace,
    attempts: Attempts,
}

impl Bench {
    pub(crate) fn new(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let signer = Signer::new();
        let mut config = config(&signer);
        change(&mut config);
        let policy = config.policy().expect("a good configuration");
        let bearer = signer.bearer(KEY, TEAM, START.wall.0 / 1_000);
        Self::with_policy(&config, policy, bearer)
    }

    /// One of FCM, past the prefaces, with an access token for the next hour.
    pub(crate) fn fcm(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut config = fcm_config();
        change(&mut config);
        let policy = config.policy().expect("a good configuration");
        let bearer = bearer(&policy, 0, START.wall.0 + 3_600_000);
        let mut bench = Self::with_policy(&config, policy, bearer);
        bench.send(frame::PREFACE);
        bench.send(&settings(&[]));
        bench.frames();
        bench
    }

    /// Two of the same gateway, as [`Self::open`] makes one.
    pub(crate) fn pair(change: impl FnOnce(&mut GatewayConfig)) -> (Self, Self) {
        let first = Self::open(change);
        let second = first.twin();
        (first, second)
    }

    /// Two of the same FCM.
    pub(crate) fn fcm_pair() -> (Self, Self) {
        let first = Self::fcm(|_| {});
        let second = first.twin();
        (first, second)
    }

    /// Another gateway that knows the same keys; a quota of its own.
    fn twin(&self) -> Self {
        let mut policy = self.policy.clone();
        if let Provider::Fcm(fcm) = &mut policy.provider {
            for project in &mut fcm.projects {
                let per_minute = project.quota.lock().per_minute();
                project.quota = Arc::new(Mutex::new(Window::new(per_minute)));
            }
        }
        let config = GatewayConfig { faults: self.plan.faults.clone(), ..GatewayConfig::default() };
        let mut twin = Self::with_policy(&config, policy, self.bearer.clone());
        twin.send(frame::PREFACE);
        twin.send(&settings(&[]));
        twin.frames();
        twin
    }

    fn with_policy(config: &GatewayConfig, policy: Policy, bearer: String) -> Self {
        let now = START;
        Self {
            connection: Connection::new(1, &policy),
            log: Log::default(),
            now,
            bearer,
            plan: Plan::new(config.faults.clone(), now.at, 0),
            policy,
            pace: Pace::default(),
            attempts: Attempts::default(),
        }
    }

    /// Past the prefaces; what the gateway said is dropped.
    pub(crate) fn open(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut bench = Self::new(change);
        bench.send(frame::PREFACE);
        bench.send(&settings(&[]));
        bench.frames();
        bench
    }

    pub(crate) fn faults(&mut self, faults: &str) {
        let faults: Faults = serde_json::from_str(faults).expect("faults");
        self.plan = Plan::new(faults.clone(), self.now.at, 1);
        for action in &faults.once {
            self.with(|c, context| c.act(action, context));
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.with(|c, context| c.receive(bytes, context));
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now.at = self.now.at + by;
        self.now.wall.0 += u64::try_from(by.as_millis()).expect("short");
        self.with(|c, context| c.advance(context));
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.connection.deadline(&self.policy, &self.plan, self.now.at)
    }

    /// Takes all output, as a kernel that takes everything, and cuts it into frames.
    pub(crate) fn frames(&mut self) -> Vec<Frame> {
        let mut bytes = Vec::new();
        let position = self.connection.take_output(&mut bytes);
        self.with(|c, context| c.flushed(position, context));
        split(&bytes)
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("record");
        // A copy: the log itself goes on.
        let log = Mutex::new(self.log.clone());
        clarion_loadgen::gateway::record::export(&[&log], self.now, Platform::Apns, &path)
            .expect("written");
        Record::load(path).expect("read").entries
    }

    /// HEADERS and DATA of a good push.
    pub(crate) fn push(&self, stream: u32, token: &str) -> Vec<u8> {
        request(
            stream,
            &[("authorization", &self.bearer), ("apns-topic", TOPIC)],
            &format!("/3/device/{token}"),
            BODY,
        )
    }

    /// HEADERS and DATA of a request to FCM.
    pub(crate) fn message(&self, stream: u32, body: &[u8]) -> Vec<u8> {
        request(stream, &[("authorization", &self.bearer)], FCM_PATH, body)
    }

    fn with<R>(&mut self, run: impl FnOnce(&mut Connection, &mut Context<'_>) -> R) -> R {
        let mut context = Context {
            policy: &self.policy,
            plan: &self.plan,
            pace: &self.pace,
            attempts: &self.attempts,
            log: &mut self.log,
            now: self.now,
        };
        run(&mut self.connection, &mut context)
    }
}

pub(crate) fn split(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let head = Head::read(head);
        let (payload, rest) = rest.split_at(head.length);
        frames.push(Frame {
            kind: head.kind,
            flags: head.flags,
            stream: head.stream,
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a frame was written");
    frames
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::settings(&mut out, values);
    out
}

pub(crate) fn settings_ack() -> Vec<u8> {
    let mut out = Vec::new();
    frame::settings_ack(&mut out);
    out
}

pub(crate) fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::head(&mut out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
    out
}

/// A POST, all of its fields literals without indexing.
pub(crate) fn block(fields: &[(&str, &str)], path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    let string = |block: &mut Vec<u8>, text: &str| {
        // RFC 7541, section 5.1: 127 and what is above it, seven bits to an octet.
        match u16::try_from(text.len()).expect("short") {
            n if n < 127 => block.push(u8::try_from(n).expect("below 127")),
            n => {
                let [low, high] = [(n - 127) & 0x7f, (n - 127) >> 7]
                    .map(|b| u8::try_from(b).expect("seven bits"));
                block.extend([127, low | 0x80, high]);
            }
        }
        block.extend_from_slice(text.as_bytes());
    };
    block.push(0x04);
    string(&mut block, path);
    block.push(0x01);
    string(&mut block, "api.push.apple.com");
    for (name, value) in fields {
        block.push(0x00);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

pub(crate) fn request(stream: u32, fields: &[(&str, &str)], path: &str, body: &[u8]) -> Vec<u8> {
    let mut out = raw(kind::HEADERS, flag::END_HEADERS, stream, &block(fields, path));
    out.extend(raw(kind::DATA, flag::END_STREAM, stream, body));
    out
}

pub(crate) fn start(config: GatewayConfig) -> GatewayHandle {
    Gateway::start(config).expect("a gateway on a free port")
}

/// An answer as a client sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) apns_id: String,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn reason(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// TLS that trusts the gateway's CA alone.
pub(crate) async fn secure(
    address: SocketAddr,
    ca_pem: &str,
    alpn: &[&[u8]],
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let socket = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(tls)).connect(name, socket).await.expect("a handshake")
}

/// A client of the `h2` crate, over TLS.
pub(crate) async fn connect(
    address: SocketAddr,
    ca_pem: &str,
) -> (SendRequest<Bytes>, tokio::task::JoinHandle<()>) {
    let socket = secure(address, ca_pem, &[b"h2"]).await;
    let mut builder = h2::client::Builder::new();
    // As a client of APNs must: no second stream before the SETTINGS have come.
    builder.initial_max_send_streams(1);
    let (requests, connection) = builder.handshake(socket).await.expect("HTTP/2");
    let driver = tokio::spawn(async move {
        // How a connection ends is for each test to see by its requests.
        let _ = connection.await;
    });
    (requests, driver)
}

pub(crate) fn post(token: &str, fields: &[(&str, &str)]) -> http::Request<()> {
    let uri = format!("https://localhost/3/device/{token}");
    let request = http::Request::post(uri).version(http::Version::HTTP_2);
    fields
        .iter()
        .fold(request, |r, (name, value)| r.header(*name, *value))
        .body(())
        .expect("a request")
}

/// A message to a project of FCM.
pub(crate) fn send(path: &str, fields: &[(&str, &str)]) -> http::Request<()> {
    let request =
        http::Request::post(format!("https://localhost{path}")).version(http::Version::HTTP_2);
    fields
        .iter()
        .fold(request, |r, (name, value)| r.header(*name, *value))
        .body(())
        .expect("a request")
}

/// Sends a request and waits for its answer.
pub(crate) async fn ask(
    requests: &SendRequest<Bytes>,
    request: http::Request<()>,
    body: &[u8],
) -> Result<Seen, h2::Error> {
    let whole = async {
        let mut requests = requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true)?;
        }
        read(response).await
    };
    tokio::time::timeout(PATIENCE, whole).await.expect("an answer in time")
}

/// Waits for an answer.
pub(crate) async fn read(response: h2::client::ResponseFuture) -> Result<Seen, h2::Error> {
    let response = response.await?;
    let status = response.status().as_u16();
    let apns_id = response
        .headers()
        .get("apns-id")
        .map_or(String::new(), |v| v.to_str().expect("text").to_owned());
    let headers = response.headers().clone();
    let mut stream = response.into_body();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        body.extend_from_slice(&data?);
    }
    Ok(Seen { status, headers, apns_id, body: String::from_utf8(body).expect("UTF-8") })
}

/// Now, in seconds.
pub(crate) fn wall_s() -> u64 {
    clarion_loadgen::gateway::clock::wall().0 / 1_000
}
