//! FCM with an independent HTTP/2 client (the `h2` crate) over TLS: from the key file to the
//! record.

use std::collections::BTreeMap;

use clarion_emulator::{
    GatewayConfig, Platform, Record,
    answer::Reason,
    record::flag,
    script::{Rule, Scripted, Scripts, answer_for},
};
use clarion_proto::device::token_hash;

use super::{
    client::{PATIENCE, ask, connect, read, send, start},
    oauth::access_token,
    sender::{FCM_PATH, PROJECT, fcm_body, fcm_config, fcm_token},
};

const COUNT: u32 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_recorded_once_as_its_client_saw_it() {
    let dead = Rule { ppm: 20_000, answer: Scripted::always(Reason::FcmUnregistered) };
    let scripts = Scripts { seed: 3, rules: vec![dead], ..Scripts::default() };
    let gateway = start(GatewayConfig { threads: 2, scripts: scripts.clone(), ..fcm_config() });
    let bearer = format!("Bearer {}", access_token(&gateway).await);
    let (mut requests, driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    let (mut open, mut seen) = (std::collections::VecDeque::new(), BTreeMap::new());
    for i in 0..COUNT {
        // One fewer than allowed, and one at first: the client does not know the limit before it
        // has SETTINGS.
        if open.len() == 99 || i == 1 {
            let (hash, response) = open.pop_front().expect("some are open");
            seen.insert(hash, read(response).await.expect("answered").status);
        }
        let request =
            send(FCM_PATH, &[("authorization", &bearer), ("content-type", "application/json")]);
        requests = requests.ready().await.expect("ready");
        let (response, mut body) = requests.send_request(request, false).expect("sent");
        body.send_data(fcm_body(&fcm_token(i)).into(), true).expect("sent");
        open.push_back((token_hash(fcm_token(i).as_bytes()), response));
    }
    for (hash, response) in open {
        seen.insert(hash, read(response).await.expect("answered").status);
    }
    drop(requests);
    tokio::time::timeout(PATIENCE, driver).await.expect("it ends").expect("no panic");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("record");
    assert_eq!(gateway.export(&path).expect("written"), u64::from(COUNT));
    let record = Record::load(path).expect("read");
    assert_eq!(record.header.platform, Platform::Fcm);
    let recorded: BTreeMap<_, _> =
        record.entries.iter().map(|e| (e.token_hash, e.status)).collect();
    assert_eq!(recorded, seen);
    let dead =
        (0..COUNT).filter(|&i| answer_for(fcm_token(i).as_bytes(), &scripts).is_dead()).count();
    assert_eq!(
        record.entries.iter().filter(|e| e.status == 404).count(),
        dead,
        "as the verdict computes it"
    );
    assert!(
        record
            .entries
            .iter()
            .all(|e| e.accepted() == (e.status == 200) && e.flags & flag::COUNTED != 0)
    );
    let stats = gateway.stats();
    let peak = stats.quota[PROJECT];
    assert_eq!(
        (stats.requests, stats.answered, peak.counted, peak.refused),
        (10_000, 10_000, 10_000, 0)
    );
    gateway.reset();
    assert_eq!(gateway.stats().quota[PROJECT].counted, 0);
    gateway.stop();
}

#[tokio::test]
async fn headers_and_faults_as_a_client_sees_them() {
    let gateway = start(fcm_config());
    let bearer = format!("bearer {}", access_token(&gateway).await);
    let (requests, driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    let message = || send(FCM_PATH, &[("authorization", &bearer)]);
    let body = fcm_body(&fcm_token(1));
    let seen = ask(&requests, message(), &body).await.expect("answered");
    assert_eq!(
        (seen.status, &seen.headers["content-type"]),
        (200, &"application/json; charset=UTF-8".parse().expect("a value"))
    );
    let set = |faults: &str| gateway.set_faults(serde_json::from_str(faults).expect("faults"));
    set(
        r#"{"errors": [{"reason": "UNAVAILABLE", "ppm": 1000000, "retry_after": {"seconds": 3}}]}"#,
    )
    .expect("set");
    let seen = ask(&requests, message(), &body).await.expect("answered");
    assert_eq!((seen.status, &seen.headers["retry-after"]), (503, &"3".parse().expect("a value")));
    assert!(set(r#"{"errors": [{"reason": "ServiceUnavailable", "ppm": 1}]}"#).is_err(), "Apple's");
    assert_eq!(
        ask(&requests, message(), &body).await.expect("answered").status,
        503,
        "what held, holds"
    );
    let form = send(
        FCM_PATH,
        &[("authorization", &bearer), ("content-type", "application/x-www-form-urlencoded")],
    );
    set("{}").expect("set");
    assert_eq!(ask(&requests, form, &body).await.expect("answered").status, 400);
    set(r#"{"once": [{"do": "reset"}]}"#).expect("set");
    tokio::time::timeout(PATIENCE, driver).await.expect("it ends").expect("no panic");
    gateway.stop();
}
