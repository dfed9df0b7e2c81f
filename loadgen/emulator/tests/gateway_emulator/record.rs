//! The record compared with the observations of clients: a hundred thousand pushes over several
//! connections and two threads.

use std::collections::BTreeMap;

use clarion_emulator::{
    GatewayConfig, Record,
    answer::Reason,
    script::{Rule, Scripted, Scripts, answer_for},
};
use clarion_proto::device::token_hash;

use super::{
    client::{connect, post, read, start},
    sender::{BODY, KEY, Signer, TEAM, TOPIC, config, wall_s},
};

const CLIENTS: u32 = 4;
const EACH: u32 = 25_000;
const WINDOW: usize = 200;

fn token(client: u32, i: u32) -> [u8; 32] {
    let mut token = [0x5a; 32];
    token[..4].copy_from_slice(&client.to_be_bytes());
    token[4..8].copy_from_slice(&i.to_be_bytes());
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_push_is_recorded_once_as_its_client_saw_it() {
    let signer = Signer::new();
    let dead = Rule { ppm: 20_000, answer: Scripted::always(Reason::Unregistered) };
    let scripts = Scripts { seed: 3, rules: vec![dead], ..Scripts::default() };
    let gateway = start(GatewayConfig { threads: 2, scripts: scripts.clone(), ..config(&signer) });
    let bearer = signer.bearer(KEY, TEAM, wall_s());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (requests, driver) = connect(gateway.addr(), gateway.ca_pem()).await;
        let bearer = bearer.clone();
        clients.spawn(async move {
            let mut open = std::collections::VecDeque::new();
            let mut seen = Vec::new();
            let mut requests = requests;
            for i in 0..EACH {
                if open.len() == WINDOW || i == 1 {
                    let (hash, response) = open.pop_front().expect("some are open");
                    seen.push((hash, read(response).await.expect("answered").status));
                }
                let token = token(client, i);
                let digits = data_encoding::HEXLOWER.encode(&token);
                let request = post(&digits, &[("authorization", &bearer), ("apns-topic", TOPIC)]);
                requests = requests.ready().await.expect("ready");
                let (response, mut body) = requests.send_request(request, false).expect("sent");
                body.send_data(bytes::Bytes::from_static(BODY), true).expect("sent");
                open.push_back((token_hash(&token), response));
            }
            for (hash, response) in open {
                seen.push((hash, read(response).await.expect("answered").status));
            }
            drop(requests);
            driver.await.expect("no panic");
            seen
        });
    }
    let mut seen: BTreeMap<u64, u16> = BTreeMap::new();
    while let Some(client) = clients.join_next().await {
        seen.extend(client.expect("no panic"));
    }
    assert_eq!(seen.len(), 100_000);

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("record");
    assert_eq!(gateway.export(&path).expect("written"), 100_000);
    let record = Record::load(path).expect("read");
    let recorded: BTreeMap<u64, u16> =
        record.entries.iter().map(|e| (e.token_hash, e.status)).collect();
    assert_eq!(recorded, seen, "the same answer to the same token, none twice");
    let expected = (0..CLIENTS).flat_map(|c| (0..EACH).map(move |i| token(c, i)));
    let dead = expected.filter(|t| answer_for(t, &scripts).is_dead()).count();
    assert_eq!(
        record.entries.iter().filter(|e| e.status == 410).count(),
        dead,
        "as the verdict computes it"
    );
    assert!(record.entries.iter().all(|e| e.accepted() == (e.status == 200)));
    assert!(record.entries.is_sorted_by_key(|e| e.time_us));
    assert_eq!(record.header.dropped, 0);
    let stats = gateway.stats();
    assert_eq!((stats.requests, stats.answered, stats.protocol_errors), (100_000, 100_000, 0));
    assert_eq!(record.connections.iter().map(|c| c.requests).sum::<u64>(), 100_000);
    assert_eq!(record.bytes_received(), stats.bytes_received);
    gateway.reset();
    assert_eq!(gateway.stats().requests, 0);
    gateway.stop();
}
