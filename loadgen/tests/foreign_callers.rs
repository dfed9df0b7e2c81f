//! Third-party callers against a real small cluster: a coordinator, a shard node and an emulated
//! gateway as processes of their own.
//!
//! Each has the same conversation: it creates an app, is refused a bad alert, registers devices,
//! previews, creates an alert (twice, and once with another body under the same request id),
//! watches it to its end, asks for one that does not exist, and cancels another in its middle. What
//! it was told must be what the contract in `proto/` says, and what the gateway recorded.

#[macro_use]
mod foreign;

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};

use clarion_emulator::{Platform, clock};
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan, emulator::GatewayPlan, network::NetworkPlan},
    names,
    scenario::{DistanceSpec, FcmSpec, StoreKind},
    verdict::recorded::Recorded,
};
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};
use tonic_types::pb::{BadRequest, ResourceInfo, bad_request::FieldViolation};

use foreign::{Node, Python, output, verdict};

/// Number of devices: more than the 100 below which an audience is refused, and few enough that a
/// slow alert is short.
const DEVICES: u64 = 160;
/// Pushes per second of the slow alert: the whole takes 8 s, which is time for a cancel.
const SLOW_PER_SECOND: u32 = 20;
const TOPIC: &str = "org.clarion.foreign";
/// Time limit of every wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster and its addresses for a caller.
struct Stage {
    cluster: Cluster,
    dir: TempDir,
    given: Value,
}

impl Stage {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let plan = ClusterPlan {
            program: env!("CARGO_BIN_EXE_loadgen").into(),
            dir: dir.path().to_owned(),
            nodes: 1,
            nodes_later: Vec::new(),
            nodes_told: None,
            store: StoreKind::Sqlite,
            cores_per_node: 1,
            gateway: GatewayPlan {
                platforms: vec![Platform::Apns],
                dead_share: 0.0,
                latency_us: 0,
                distance: DistanceSpec::default(),
                seed: 1,
                topics: vec![TOPIC.to_owned()],
                fcm_quota_per_minute: 1,
            },
            fcm: FcmSpec::default(),
            authorization_literal: false,
            snapshot_every_seconds: None,
            request_deadline_ms: None,
            network: NetworkPlan::default(),
            start_deadline: PATIENCE,
        };
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let mut given = given();
        given["target"] = cluster.coordinator.trim_start_matches("http://").into();
        fs::write(dir.path().join("given.json"), given.to_string()).expect("written");
        Self { cluster, dir, given }
    }

    /// Ends the cluster, and returns the number of acceptances of each token.
    async fn end(self) -> BTreeMap<u64, u64> {
        let record = self.dir.path().join("record");
        self.cluster.emulators[0].export(&record).await.expect("exported");
        let recorded = Recorded::read([(Platform::Apns, record.as_path())]).expect("whole");
        let mut accepted = BTreeMap::new();
        for push in recorded.ledger.pushes() {
            *accepted.entry(push.token_hash).or_default() += 1;
        }
        let unruly = self.cluster.stop(PATIENCE).await;
        assert!(unruly.is_empty(), "{unruly:?}");
        accepted
    }
}

/// Returns the requests of the conversation in protobuf's JSON, which every caller reads.
fn given() -> Value {
    let now = clock::wall().0;
    let device = |i: u64| {
        json!({ "device": format!("phone-{i}"), "observe_time": rfc3339(now), "arrival": {
            "registration": { "app": "apps/foreign", "token": format!("{:064x}", 0xabc0_0000 + i), "locale": "en" },
            "place": { "point": { "latitude": 22.54 + 0.0005 * i as f64, "longitude": 114.06 } },
        } })
    };
    let alert = json!({
        "mode": "MODE_TEST", "severity": "SEVERITY_URGENT", "active_until": rfc3339(now + 3_600_000),
        "case": { "fallback_locale": "en", "messages": {
            "en": { "title": "Missing child", "body": "Last seen at the station." },
            "zh-Hans": { "title": "寻找走失儿童", "body": "最后出现在火车站。" },
        } },
        "region": { "circle": { "center": { "latitude": 22.54, "longitude": 114.06 }, "radius_meters": 30_000.0 } },
        "audience": { "apps": ["apps/foreign"] },
    });
    let (mut bad, mut small, mut other, mut slow) =
        (alert.clone(), alert.clone(), alert.clone(), alert.clone());
    small["region"]["circle"]["radius_meters"] = 300.into();
    bad["region"]["circle"]["center"]["latitude"] = 91.into();
    other["severity"] = "SEVERITY_INFORMATION".into();
    slow["max_rate_per_second"] = SLOW_PER_SECOND.into();
    let id =
        |n: u128| uuid::Uuid::from_u128(0x5b2f_8e4e_0f6e_4a0e_9f61_7a0f_3c1f_0000 + n).to_string();
    json!({
        "protos": Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto"),
        "app": { "app_id": "foreign", "app": {
            "platform": "PLATFORM_APNS", "topic": TOPIC,
            "gateway": names::gateway(Platform::Apns), "credential": names::credential(Platform::Apns),
            "environment": "ENVIRONMENT_SANDBOX", "lane_kind": "LANE_KIND_TEST",
        } },
        "devices": { "batch_id": 1, "changes": (0..DEVICES).map(device).collect::<Vec<_>>() },
        "bad": { "alert": bad, "request_id": id(1) },
        "whole": { "alert": alert, "request_id": id(2) },
        "reused": { "alert": other, "request_id": id(2) },
        "small": { "alert": small, "request_id": id(4) },
        "slow": { "alert": slow, "request_id": id(3) },
    })
}

/// Formats a time as protobuf's JSON does.
fn rfc3339(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1_000).expect("a time");
    prost_types::Timestamp { seconds, nanos: 0 }.to_string()
}

/// Checks the answers that every caller must have received.
fn judge(told: &Value) {
    assert_eq!(told["app"], "apps/foreign");
    assert_eq!(told["bad"]["code"], "INVALID_ARGUMENT");
    let violations = told["bad"]["field_violations"].as_array().expect("BadRequest details");
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!(violations[0]["field"], "alert.region.circle.center.latitude");
    let description = violations[0]["description"].as_str().expect("words");
    assert!(
        ["-90", "90", "91"].iter().all(|n| description.contains(n)),
        "limit and value: {description}"
    );
    assert_eq!(told["written"], json!([DEVICES]));
    assert_eq!(told["preview"], DEVICES);
    assert_eq!(
        told["small"]["code"], "PERMISSION_DENIED",
        "less than a square kilometre says where somebody is"
    );
    assert_eq!(told["again"], true, "the same request is the same alert");
    assert_eq!(told["reused"]["code"], "ALREADY_EXISTS");
    assert_eq!(told["whole"], json!({ "state": "STATE_RESOLVED", "accepted": DEVICES }));
    assert_eq!(told["missing"]["code"], "NOT_FOUND");
    assert_eq!(told["missing"]["resource_name"], "alerts/none");
    assert_eq!(
        (&told["cancelled"]["answer"], &told["cancelled"]["state"]),
        (&json!("STATE_CANCELLED"), &json!("STATE_CANCELLED"))
    );
}

/// Checks that the whole alert reached every device once, and the cancelled one some devices once
/// more.
fn judge_record(told: &Value, accepted: &BTreeMap<u64, u64>) {
    let cancelled = told["cancelled"]["accepted"].as_u64().expect("a number");
    assert!((1..DEVICES).contains(&cancelled), "cancelled in its middle: {cancelled}");
    assert_eq!(accepted.len() as u64, DEVICES);
    assert_eq!(accepted.values().sum::<u64>(), DEVICES + cancelled);
    assert!(accepted.values().all(|times| (1..=2).contains(times)));
}

#[tokio::test]
async fn python_by_reflection() {
    let python = or_skip!(Python::installed().await);
    let stage = Stage::start().await;
    let told = verdict(python.program("caller.py").arg(stage.dir.path().join("given.json"))).await;
    let services = told["services"].as_array().expect("a list");
    for service in
        ["clarion.v1.AlertService", "clarion.v1.AppService", "clarion.v1.RegistryService"]
    {
        assert!(services.iter().any(|s| s == service), "reflection names {service}: {services:?}");
    }
    judge(&told);
    // One change a second: without the pushback, the second attempt would have failed at once.
    let postponed = told["postponed"].as_f64().expect("seconds");
    assert!((0.5..5.0).contains(&postponed), "{postponed} s");
    judge_record(&told, &stage.end().await);
}

#[tokio::test]
async fn grpc_js_with_the_proto_files() {
    let node = or_skip!(Node::installed().await);
    let stage = Stage::start().await;
    let told = verdict(node.program("caller.js").arg(stage.dir.path().join("given.json"))).await;
    judge(&told);
    judge_record(&told, &stage.end().await);
}

/// Caller with `buf curl`, which makes one call per process; the conversation is in this file.
struct Buf<'a> {
    node: &'a Node,
    stage: &'a Stage,
}

impl Buf<'_> {
    fn command(&self, method: &str, request: &Value) -> Command {
        let mut command = self.node.binary("buf");
        command.args([
            "curl",
            "--protocol",
            "grpc",
            "--http2-prior-knowledge",
            "--data",
            &request.to_string(),
        ]);
        command.arg(format!("{}/clarion.v1.{method}", self.stage.cluster.coordinator));
        // buf keeps a cache in the home folder.
        command.env("HOME", self.stage.dir.path()).env_remove("XDG_CACHE_HOME");
        command
    }

    /// Returns all answers of a call that succeeds.
    async fn answers(&self, method: &str, request: &Value) -> Vec<Value> {
        let output = output(&mut self.command(method, request)).await;
        assert!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
        let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
        answers.collect::<Result<_, _>>().expect("JSON")
    }

    async fn answer(&self, method: &str, request: &Value) -> Value {
        let mut answers = self.answers(method, request).await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }

    /// Returns the code of a refusal and its details, in the form of the other callers.
    async fn refused(&self, method: &str, request: &Value) -> Value {
        let output = output(&mut self.command(method, request)).await;
        let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
        let mut told = json!({ "code": error["code"].as_str().expect("a code").to_uppercase() });
        for detail in error["details"].as_array().into_iter().flatten() {
            // buf returns details unparsed: their type, and their bytes in base64.
            let value = detail["value"].as_str().expect("base64");
            let bytes = data_encoding::BASE64_NOPAD.decode(value.as_bytes()).expect("base64");
            match detail["type"].as_str() {
                Some("google.rpc.BadRequest") => {
                    let request = BadRequest::decode(&bytes[..]).expect("a BadRequest");
                    let of = |v: FieldViolation| json!({ "field": v.field, "description": v.description });
                    told["field_violations"] =
                        request.field_violations.into_iter().map(of).collect();
                }
                Some("google.rpc.ResourceInfo") => {
                    let resource = ResourceInfo::decode(&bytes[..]).expect("a ResourceInfo");
                    told["resource_name"] = resource.resource_name.into();
                }
                _ => {}
            }
        }
        told
    }

    /// Watches an alert and cancels it at the first acceptance. Returns the answer to the cancel,
    /// and the last watched state.
    async fn cancelled(&self, name: &Value) -> (Value, Value) {
        let mut watching = self.command("AlertService/WatchAlert", &json!({ "name": name }));
        let mut watching =
            watching.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
        let mut lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
        let (mut text, mut answer, mut last) = (String::new(), None, Value::Null);
        while let Some(line) =
            timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text")
        {
            text += &line;
            // An update may be on one line or on several.
            let Ok(update) = serde_json::from_str::<Value>(&text) else { continue };
            text.clear();
            last = update;
            if answer.is_none() && accepted(&last) > 0 {
                let request = json!({ "name": name, "reason": "found" });
                answer = Some(self.answer("AlertService/CancelAlert", &request).await);
            }
        }
        assert!(
            timeout(PATIENCE, watching.wait()).await.expect("in time").expect("it ends").success()
        );
        (answer.expect("something was accepted"), last)
    }
}

fn accepted(update: &Value) -> u64 {
    update["progress"]["outcomes"]["accepted"].as_str().map_or(0, |n| n.parse().expect("a number"))
}

#[tokio::test]
async fn buf_curl_by_reflection() {
    let node = or_skip!(Node::installed().await);
    let stage = Stage::start().await;
    let buf = Buf { node: &node, stage: &stage };
    let given = &stage.given;
    let app = buf.answer("AppService/CreateApp", &given["app"]).await["name"].clone();
    let bad = buf.refused("AlertService/CreateAlert", &given["bad"]).await;
    let written: Vec<_> = buf.answers("RegistryService/WriteDevices", &given["devices"]).await;
    let written: Vec<_> = written.into_iter().map(|a| a["written"].clone()).collect();
    let applied = async {
        loop {
            let stats = buf.answer("RegistryService/GetRegistryStats", &json!({})).await;
            if stats["changesApplied"] == stats["changesWritten"] {
                return;
            }
        }
    };
    timeout(PATIENCE, applied).await.expect("applied in time");
    let preview =
        buf.answer("AlertService/PreviewAlert", &json!({ "alert": given["whole"]["alert"] })).await;
    let small = buf.refused("AlertService/CreateAlert", &given["small"]).await;
    let name = buf.answer("AlertService/CreateAlert", &given["whole"]).await["name"].clone();
    let again = buf.answer("AlertService/CreateAlert", &given["whole"]).await["name"] == name;
    let reused = buf.refused("AlertService/CreateAlert", &given["reused"]).await;
    let whole = buf
        .answers("AlertService/WatchAlert", &json!({ "name": name }))
        .await
        .pop()
        .expect("a last state");
    let missing = buf.refused("AlertService/GetAlert", &json!({ "name": "alerts/none" })).await;
    let slow = buf.answer("AlertService/CreateAlert", &given["slow"]).await["name"].clone();
    let (answer, last) = buf.cancelled(&slow).await;
    let told = json!({
        "app": app, "bad": bad, "written": written, "again": again, "reused": reused, "missing": missing,
        "preview": preview["devices"]["exact"].as_str().and_then(|n| n.parse::<u64>().ok()), "small": small,
        "whole": { "state": whole["state"], "accepted": accepted(&whole) },
        "cancelled": { "answer": answer["state"], "state": last["state"], "accepted": accepted(&last) },
    });
    judge(&told);
    judge_record(&told, &stage.end().await);
}
