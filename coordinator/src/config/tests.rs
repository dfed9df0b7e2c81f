use std::fs;

use clap::Parser;

use clarion_proto::app::{LaneKind, Platform};

use super::*;
use crate::lane::{Gateway, Quota};

fn lane(kind: &str) -> String {
    format!(
        r#"
[[gateways]]
name = "apns"
platform = "apns"
endpoint = "127.0.0.1:2197"
server_name = "localhost"
environment = "sandbox"
lane_kind = "{kind}"

[[credentials]]
name = "team"
kind = "apns"
key_file = "team.p8"
key_id = "KEY1234567"
team_id = "TEAM123456"
"#
    )
}

/// A fresh key, as Apple would hand it out.
fn key_pem() -> String {
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &ring::rand::SystemRandom::new(),
    );
    let base64 = data_encoding::BASE64.encode(key.expect("randomness").as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n")
}

fn gateway_of(config: &Config, name: &str) -> Option<Gateway> {
    config.dispatch.gateways.iter().find(|gateway| gateway.name == name).cloned()
}

fn load(text: &str) -> Result<Config, String> {
    load_with(text, &[])
}

fn load_with(text: &str, flags: &[&str]) -> Result<Config, String> {
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::write(directory.path().join("team.p8"), key_pem()).expect("written");
    let path = directory.path().join("clarion.toml");
    fs::write(&path, text).expect("written");
    let path = path.display().to_string();
    let args = ["coordinator", "--config", &path].into_iter().chain(flags.iter().copied());
    let config = Config::load(Args::try_parse_from(args).expect("flags"));
    config.map_err(|e| {
        e.to_string().replace(&path, "F").replace(&directory.path().display().to_string(), "D")
    })
}

#[test]
fn nothing_given_is_loopback_and_sixty_four_partitions() {
    let config = load("").expect("valid");
    assert!(config.listen.ip().is_loopback() && config.health_listen.ip().is_loopback());
    let nodes = &config.dispatch;
    assert_eq!((nodes.partitions, nodes.logs, nodes.nodes.addresses.len()), (64, 64, 1));
    assert!(
        config.api.device_key.is_random() && !config.admission.rules.allow_live_without_identity
    );
}

#[test]
fn a_flag_beats_the_file() {
    let text = "partitions = 16\nnodes = [\"a:1\"]\nband_edges_meters = [500, 1000]\nallow_live_without_identity = true";
    let config = load(text).expect("valid");
    assert_eq!((config.dispatch.partitions, config.dispatch.logs), (16, 16));
    assert!(config.admission.rules.allow_live_without_identity);
    let flags = ["--partitions", "8", "--nodes", "b:2,c:3", "--allow-live-without-identity=false"];
    let config = load_with(text, &flags).expect("valid");
    assert_eq!(
        (config.dispatch.partitions, config.dispatch.nodes.addresses),
        (8, vec!["b:2".to_owned(), "c:3".to_owned()])
    );
    assert!(!config.admission.rules.allow_live_without_identity);
}

#[test]
fn ages_and_expiry_are_in_days() {
    let day = Duration::from_secs(86_400);
    let config = load("").expect("valid");
    assert_eq!(config.api.alerts.place_seen_within, 30 * day);
    assert_eq!(config.expiry, ExpiryConfig { apns: None, fcm: Some(270 * day) });
    let text = "place_seen_within_days = 400\nregistration_expiry_days_apns = 365\n\
                registration_expiry_days_fcm = 0";
    let config = load(text).expect("valid");
    assert_eq!(config.api.alerts.place_seen_within, 400 * day);
    assert_eq!(config.expiry, ExpiryConfig { apns: Some(365 * day), fcm: None });
}

#[test]
fn snapshots_are_saved_every_ten_minutes_and_kept_for_an_hour() {
    let times = |text: &str| {
        let archive = load(text).expect("valid").archive;
        (archive.every.as_secs(), archive.keep.as_secs())
    };
    assert_eq!(times(""), (600, 3_600));
    assert_eq!(times("snapshot_every_seconds = 0\nsnapshot_keep_seconds = 60"), (0, 60));
    assert_eq!(times("snapshot_every_seconds = 21600"), (21_600, 3_600));
}

#[test]
fn lanes_are_read_and_keys_are_never_shown() {
    let config = load(&lane("test")).expect("valid");
    let gateway = gateway_of(&config, "apns").expect("there");
    assert_eq!(
        ((gateway.connections.floor, gateway.connections.ceiling), gateway.live),
        ((2, 32), false)
    );
    assert_eq!(config.api.lanes.gateway("apns").expect("there").lane_kind, LaneKind::Test);
    let [Credential::Apns(key)] = &config.dispatch.credentials[..] else { panic!("{config:?}") };
    assert_eq!(key.key_id, "KEY1234567");
    let shown = format!("{config:?}");
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}

#[test]
fn a_platform_has_its_own_defaults() {
    let gateway = |extra: &str| {
        let text = lane("test").replace("platform = \"apns\"", "platform = \"fcm\"");
        let config = load(&text.replace("\n[[cred", &format!("{extra}\n\n[[cred"))).expect("valid");
        gateway_of(&config, "apns").expect("there")
    };
    let fcm = gateway("");
    assert_eq!(
        (fcm.platform, fcm.connections.ceiling, fcm.streams_per_connection),
        (Platform::Fcm, 64, 100)
    );
    let seconds = [fcm.backoff_min, fcm.backoff_max, fcm.request_deadline].map(|d| d.as_secs());
    assert_eq!((seconds, fcm.quota, fcm.evidence_answers), ([10, 60, 10], None, 32));
    assert_eq!(gateway("evidence_answers = 1024").evidence_answers, 1_024);
    let limited = gateway("quota_per_minute = 600000\nramp_ms = 60000").quota;
    let ramp = Duration::from_secs(60);
    assert_eq!(limited, Some(Quota { per_minute: 600_000, burst: None, ramp }));
}

#[test]
fn lanes_can_be_given_by_flag() {
    let gateway = r#"[{name="g",platform="apns",endpoint="[::1]:443",server_name="x.test",environment="production",lane_kind="live"}]"#;
    let config = load_with(&lane("test"), &["--gateways", gateway]).expect("valid");
    assert!(gateway_of(&config, "apns").is_none() && gateway_of(&config, "g").expect("there").live);
    let refused = load_with("", &["--gateways", "[{name=1}]"]).expect_err("must be refused");
    assert!(refused.starts_with("environment and flags: gateways: "), "{refused}");
}

#[test]
fn a_problem_is_one_line_with_file_key_and_words() {
    let lane = lane("test");
    let cases: &[(&str, &str)] = &[
        ("partitions = 0", "F: partitions: must be 1 to 4096; got 0"),
        ("place_seen_within_days = 0", "F: place_seen_within_days: must be 1 to 400; got 0"),
        (
            "registration_expiry_days_fcm = 29",
            "F: registration_expiry_days_fcm: must be 0 (never) or 30 to 3650 days; got 29",
        ),
        (
            "registration_expiry_days_apns = 3651",
            "F: registration_expiry_days_apns: must be 0 (never) or 30 to 3650 days; got 3651",
        ),
        (
            "snapshot_every_seconds = 9",
            "F: snapshot_every_seconds: must be 0 (no snapshots) or 10 to 21600 seconds; got 9",
        ),
        ("snapshot_keep_seconds = 59", "F: snapshot_keep_seconds: must be 60 to 604800; got 59"),
        ("partitions = 8\nlogs = 9", "F: logs: must be 1 to 8; got 9"),
        ("cluster = \"Prod\"", "F: cluster: must begin with a letter a-z; got 'P'"),
        ("cluster = \"\"", "F: cluster: must have 1 to 63 characters; got 0"),
        ("nodes = []", "F: nodes: must have at least 1 address; got 0"),
        ("nodes = [\"a:1\", \"b\"]", "F: nodes[1]: must be host:port; got \"b\""),
        (
            "device_key_file = \"none\"",
            "F: device_key_file: D/none: cannot be read: No such file or directory (os error 2)",
        ),
        ("exercise_prefix = \" \"", "F: exercise_prefix: must be 1 to 64 bytes and not blank"),
        ("band_edges_meters = [2, 1]", "F: band_edges_meters: must be greater than 2; got 1"),
        (
            "partitions = \"many\"",
            "F: partitions: invalid type: string \"many\", expected u16 (line 1)",
        ),
        ("\npartition = 1", "F: partition: unknown field `partition`, expected one of"),
        (
            &lane.replace("sandbox", "moon"),
            "F: gateways[0].environment: must be \"sandbox\" or \"production\"; got \"moon\"",
        ),
        (
            &lane.replace("127.0.0.1:2197", "127.0.0.1"),
            "F: gateways[0].endpoint: must be host:port; got \"127.0.0.1\"",
        ),
        (
            &lane.replace("team.p8", "none.p8"),
            "F: credentials[0].key_file: D/none.p8: cannot be read: No such file",
        ),
        (
            &lane.replace("team.p8", "clarion.toml"),
            "F: credentials[0].key_file: F: must have a `PRIVATE KEY` in PEM",
        ),
        (
            &lane.replace("KEY1234567", "KEY"),
            "F: credentials[0].key_id: must be 10 letters and digits; got 3 bytes",
        ),
        (
            &lane.replace("\n[[cred", "quota_per_minute = 127\n\n[[cred"),
            "F: gateways[0].quota_per_minute: must be at least 128, two for each of the 64 partitions; got 127",
        ),
        (
            &lane.replace("\n[[cred", "quota_per_minute = 128\nburst = 65\n\n[[cred"),
            "F: gateways[0].burst: must be 1 to 64, half of quota_per_minute; got 65",
        ),
        (
            &lane.replace("\n[[cred", "ramp_ms = 1\n\n[[cred"),
            "F: gateways[0].ramp_ms: must not be set without quota_per_minute",
        ),
        (
            &lane.replace("\n[[cred", "evidence_answers = 1\n\n[[cred"),
            "F: gateways[0].evidence_answers: must be 2 to 1024; got 1",
        ),
        (
            &lane.replace("\n[[cred", "proxy = \"https://p:443\"\n\n[[cred"),
            "F: gateways[0].proxy: must be http://host:port; got https://",
        ),
        (
            &lane.replace("\n[[cred", "proxy = { url = \"http://p\", user = \"u\" }\n\n[[cred"),
            "F: gateways.proxy: unknown field `user`",
        ),
        (
            &lane.replace("\"apns\"\nkey", "\"fcm\"\nkey"),
            "F: credentials[0].key_file: must not be set with kind \"fcm\"",
        ),
        (
            &lane.replace("team_id = \"TEAM123456\"", ""),
            "F: credentials[0].team_id: is required with kind \"apns\"",
        ),
        (&format!("{lane}{lane}"), "F: gateways[1].name: must be unique; got apns twice"),
        (&lane.replace("lane_kind", "lane"), "F: gateways.lane: unknown field `lane`"),
    ];
    for (text, words) in cases {
        let refused = load(text).expect_err(words);
        assert!(refused.starts_with(words), "{refused}\n instead of\n{words}");
        assert!(!refused.contains('\n'), "{refused}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let args = Args { config: Some("/nowhere/clarion.toml".into()), ..Args::default() };
    let refused = Config::load(args).expect_err("no file").to_string();
    assert_eq!(
        refused,
        "/nowhere/clarion.toml: cannot be read: No such file or directory (os error 2)"
    );
}

/// A key in its file and its `key_id` in the configuration: both are looked at again; what is half
/// written changes nothing.
#[test]
fn credentials_are_read_again_from_their_files() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (path, key) = (directory.path().join("clarion.toml"), directory.path().join("team.p8"));
    fs::write(&key, key_pem()).expect("written");
    fs::write(&path, lane("test")).expect("written");
    let config =
        Config::load(Args::parse_from(["coordinator", "--config", &path.display().to_string()]))
            .expect("valid");
    let again = || config.credential_files.read();
    assert!(again().expect("unchanged")[0] == config.dispatch.credentials[0]);
    fs::write(&key, key_pem()).expect("written");
    assert!(again().expect("another key")[0] != config.dispatch.credentials[0]);
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nMIGH").expect("written");
    assert!(again().expect_err("half a key").to_string().contains("credentials[0].key_file"));
    fs::write(&key, key_pem()).expect("written");
    fs::write(&path, lane("test").replace("KEY1234567", "KEY7654321")).expect("written");
    let Credential::Apns(apns) = &again().expect("another id")[0] else { panic!("of APNs") };
    assert_eq!(apns.key_id, "KEY7654321");
}
