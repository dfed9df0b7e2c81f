//! Lanes and their tokens, with paused time.

use clarion_proto::ids::UnixMillis;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use secrecy::ExposeSecret;

use secrecy::SecretString;

use super::*;
use crate::fixtures::{gateway, node};

fn credential(name: &str) -> Credential {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    Credential::Apns(ApnsKey {
        name: name.to_owned(),
        key_id: "ABCDE12345".to_owned(),
        team_id: "TEAM123456".to_owned(),
        key_pem: SecretString::from(key.serialize_pem()),
    })
}

fn owner() -> LaneOwner {
    let other = Gateway { name: "h".to_owned(), ..gateway(None) };
    LaneOwner::new(vec![gateway(None), other], vec![credential("c"), credential("d")])
}

fn key(gateway: &str, credential: &str) -> LaneKey {
    LaneKey { gateway: gateway.to_owned(), credential: credential.to_owned() }
}

fn authorization(board: &Board, lane: &LaneSpec) -> String {
    board.read().tokens[&lane.id].authorization.expose_secret().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_on_the_board_with_its_token_and_keeps_its_number() {
    let (owner, board, clock) = (owner(), Board::new(), Clock::start());
    let lane = owner.ensure(&key("g", "c"), &board, &clock).unwrap();
    assert!(Arc::ptr_eq(&board.read().lanes[&lane.id], &lane));
    assert_eq!(owner.ensure(&key("g", "c"), &board, &clock).unwrap().id, lane.id);
    let token = authorization(&board, &lane);
    let parts: Vec<_> = token.strip_prefix("bearer ").unwrap().split('.').collect();
    let decoded = |part: &str| {
        String::from_utf8(data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
    };
    assert_eq!(parts.len(), 3);
    assert_eq!(decoded(parts[0]), r#"{"alg":"ES256","kid":"ABCDE12345"}"#);
    assert!(
        decoded(parts[1]).starts_with(r#"{"iss":"TEAM123456","iat":1"#),
        "{}",
        decoded(parts[1])
    );
    // The same name gives the same number in another process.
    let (elsewhere, board) = (self::owner(), Board::new());
    elsewhere.ensure(&key("h", "d"), &board, &clock).unwrap();
    assert_eq!(elsewhere.ensure(&key("g", "c"), &board, &clock).unwrap().id, lane.id);
    // Where nodes ask for it by the number, the number is enough.
    let (asked, board) = (self::owner(), Board::new());
    asked.ensure_id(lane.id, &board, &clock);
    asked.ensure_id(LaneId(5), &board, &clock);
    assert_eq!(board.read().lanes.keys().copied().collect::<Vec<_>>(), [lane.id]);
}

#[tokio::test(start_paused = true)]
async fn one_token_serves_a_credential_on_all_gateways() {
    let (owner, board, clock) = (owner(), Board::new(), Clock::start());
    let first = owner.ensure(&key("g", "c"), &board, &clock).unwrap();
    let second = owner.ensure(&key("h", "c"), &board, &clock).unwrap();
    let other = owner.ensure(&key("g", "d"), &board, &clock).unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(authorization(&board, &first), authorization(&board, &second));
    assert_ne!(authorization(&board, &first), authorization(&board, &other));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_configured_is_no_lane() {
    let (owner, board, clock) = (owner(), Board::new(), Clock::start());
    for (missing, what) in [(key("x", "c"), "gateway"), (key("g", "x"), "credential")] {
        let error = owner.ensure(&missing, &board, &clock).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert!(board.read().lanes.is_empty());
}

/// Minutes in which the credential's token changed within two hours; a node complains in the middle
/// of `refused_at`.
async fn changes(refused_at: &[u64]) -> Vec<u64> {
    let clock = Clock::start_at(UnixMillis(1_800_000_000_000));
    let (owner, board) = (owner(), Board::new());
    let lane = owner.ensure(&key("g", "c"), &board, &clock).unwrap();
    let mut changes = Vec::new();
    let watch = async {
        let mut last = authorization(&board, &lane);
        for minute in 0..120 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            if refused_at.contains(&minute) {
                let ready = wire::LaneState {
                    lane: lane.id.0,
                    health: wire::LaneHealth::Ready.into(),
                    ..Default::default()
                };
                let refused = wire::LaneState {
                    health: wire::LaneHealth::Credential.into(),
                    ..ready.clone()
                };
                owner.health_changed(&node("a"), &ready, clock.moment());
                owner.health_changed(&node("a"), &refused, clock.moment());
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
            let now = authorization(&board, &lane);
            if now != last {
                changes.push(minute);
                last = now;
            }
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    };
    tokio::select! {
        () = owner.keep_fresh(&board, clock) => {}
        () = watch => {}
    }
    changes
}

#[tokio::test(start_paused = true)]
async fn a_token_is_replaced_every_24_minutes_whatever_nodes_say() {
    // 1,800,000,000 s are 1,250,000 slots.
    for refused_at in [&[][..], &[5, 7, 9], &[30, 31, 40, 41, 59]] {
        assert_eq!(changes(refused_at).await, [24, 48, 72, 96]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_starts_again_makes_the_token_that_is_in_use() {
    let credential = credential("c");
    let token = |clock: Clock| {
        let owner = LaneOwner::new(vec![gateway(None)], vec![credential.clone()]);
        let board = Board::new();
        let lane = owner.ensure(&key("g", "c"), &board, &clock).unwrap();
        authorization(&board, &lane)
    };
    let slot = u64::try_from(apns::SLOT.as_millis()).unwrap();
    let begun = 1_800_000_000_000 / slot * slot;
    let at = |millis| token(Clock::start_at(UnixMillis(begun + millis)));
    assert_eq!(at(0), at(slot / 2));
    assert_eq!(at(0), at(slot - 1));
    assert_ne!(at(0), at(slot));
}

#[tokio::test(start_paused = true)]
async fn health_is_kept_for_each_end() {
    let (owner, board, clock) = (owner(), Board::new(), Clock::start());
    let lane = owner.ensure(&key("g", "c"), &board, &clock).unwrap();
    let state = |health: wire::LaneHealth| wire::LaneState {
        lane: lane.id.0,
        health: health.into(),
        ..Default::default()
    };
    owner.health_changed(&node("a"), &state(wire::LaneHealth::Ready), clock.moment());
    owner.health_changed(&node("b"), &state(wire::LaneHealth::Unreachable), clock.moment());
    owner.health_changed(&node("a"), &state(wire::LaneHealth::Throttled), clock.moment());
    let status: Vec<_> =
        owner.status().into_iter().map(|s| (s.node.to_string(), s.lane, s.health)).collect();
    let expected = [("a", wire::LaneHealth::Throttled), ("b", wire::LaneHealth::Unreachable)];
    assert_eq!(status, expected.map(|(node, health)| (node.to_owned(), "g/c".to_owned(), health)));
}

#[tokio::test(start_paused = true)]
async fn another_key_makes_its_token_at_once_and_is_another_signer() {
    let (owner, board, clock) = (owner(), Board::new(), Clock::start());
    let lane = owner.ensure(&key("g", "c"), &board, &clock).unwrap();
    let signer = |board: &Board| board.read().tokens[&lane.id].signer;
    let (first, first_signer) = (authorization(&board, &lane), signer(&board));
    let with_id = |key_id: &str| {
        let Credential::Apns(key) = credential("c") else { unreachable!("made so") };
        Credential::Apns(ApnsKey { key_id: key_id.to_owned(), ..key })
    };
    let unchanged = owner.table.lock().credentials["d"].as_ref().clone();
    let replaced = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        owner.replace(vec![with_id("ZZZZZ99999"), unchanged.clone()]).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        () = owner.keep_fresh(&board, clock) => {}
        () = replaced => {}
    }
    assert_ne!(
        authorization(&board, &lane),
        first,
        "within the 20 minutes that one key has to keep"
    );
    assert_ne!(signer(&board), first_signer);
}

#[tokio::test(start_paused = true)]
async fn credentials_that_do_not_fit_replace_nothing() {
    let (owner, board, clock) = (owner(), Board::new(), Clock::start());
    let lane = owner.ensure(&key("g", "c"), &board, &clock).unwrap();
    let before = authorization(&board, &lane);
    let added = vec![credential("c"), credential("d"), credential("e")];
    for (given, refused) in [
        (added, ReplaceError::Added("e".to_owned())),
        (vec![credential("c")], ReplaceError::Removed("d".to_owned())),
    ] {
        assert_eq!(owner.replace(given), Err(refused));
    }
    let wait = tokio::time::timeout(Duration::from_secs(60), owner.keep_fresh(&board, clock));
    assert!(wait.await.is_err(), "runs on");
    assert_eq!(authorization(&board, &lane), before);
}
