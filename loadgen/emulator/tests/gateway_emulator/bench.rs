//! The state machine of a connection with its context, and the frames that it reads and writes.

use std::{sync::Arc, time::Duration};

use clarion_emulator::{
    Faults, GatewayConfig, Platform,
    clock::Now,
    connection::{Connection, Context, Pace},
    faults::Plan,
    fcm::quota::Window,
    frame::{self, HEAD_BYTES, Head, flag, kind},
    policy::{Policy, Provider},
    record::{Entry, Log, Record, export},
    script::Attempts,
};
use clarion_proto::{ids::UnixMillis, time::Time};
use parking_lot::Mutex;

use super::sender::{BODY, FCM_PATH, KEY, Signer, TEAM, TOPIC, bearer, config, fcm_config};

/// Time at which a bench begins.
const START: Now = Now { at: Time(1_000_000), wall: UnixMillis(1_800_000_000_000) };
/// A frame of the gateway, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Returns the most significant parts of the frame for an assertion.
    pub(crate) fn brief(&self) -> (u8, u32) {
        (self.kind, self.stream)
    }
}

/// The state machine with everything that it needs, and the time under control of the test.
pub(crate) struct Bench {
    pub(crate) connection: Connection,
    pub(crate) log: Log,
    pub(crate) now: Now,
    /// The provider token of all pushes, because APNs limits changes.
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

    /// Creates a bench with FCM after the prefaces, and an access token for the next hour.
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

    /// Creates two benches of the same gateway, each as [`Self::open`] does.
    pub(crate) fn pair(change: impl FnOnce(&mut GatewayConfig)) -> (Self, Self) {
        let first = Self::open(change);
        let second = first.twin();
        (first, second)
    }

    /// Creates two benches of the same FCM.
    pub(crate) fn fcm_pair() -> (Self, Self) {
        let first = Self::fcm(|_| {});
        let second = first.twin();
        (first, second)
    }

    /// Creates another gateway with the same keys and a quota of its own.
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

    /// Creates a bench after the prefaces, without the gateway's first frames.
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

    /// Takes all output, as a kernel that takes everything, and parses it into frames.
    pub(crate) fn frames(&mut self) -> Vec<Frame> {
        let mut bytes = Vec::new();
        let position = self.connection.take_output(&mut bytes);
        self.with(|c, context| c.flushed(position, context));
        split(&bytes)
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("record");
        // A copy, because the log itself continues.
        let log = Mutex::new(self.log.clone());
        export(&[&log], self.now, Platform::Apns, &path).expect("written");
        Record::load(path).expect("read").entries
    }

    /// Returns HEADERS and DATA of a valid push.
    pub(crate) fn push(&self, stream: u32, token: &str) -> Vec<u8> {
        request(
            stream,
            &[("authorization", &self.bearer), ("apns-topic", TOPIC)],
            &format!("/3/device/{token}"),
            BODY,
        )
    }

    /// Returns HEADERS and DATA of a request to FCM.
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

/// Returns the header block of a POST with all fields as literals without indexing.
pub(crate) fn block(fields: &[(&str, &str)], path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    let string = |block: &mut Vec<u8>, text: &str| {
        // RFC 7541, section 5.1: 127 and the rest above it, seven bits per octet.
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
