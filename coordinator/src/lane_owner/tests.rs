//! Lanes and their tokens: inputs at given moments, and what follows from them.

use clarion_proto::ids::UnixMillis;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};
use secrecy::SecretString;

use super::{
    fixtures::{account, authorization, credential, key, owner, owner_of_accounts, with_key_id},
    *,
};
use crate::{
    fixtures::{gateway, node},
    lane::ProviderToken,
    lane_owner::oauth::{AccessToken, ExchangeError},
};

/// 1,250,000 slots of 24 minutes.
const WALL: u64 = 1_800_000_000_000;

/// A moment this many milliseconds after the start, at which a slot began.
fn at(millis: u64) -> Moment {
    Moment { at: Time(millis * 1_000), wall: UnixMillis(WALL + millis) }
}

/// Carries out the outputs so far, with a store that never fails; returns the exchanges that begin.
fn carry_out(owner: &mut LaneOwner, standing: &mut Standing, now: Moment) -> Vec<Arc<Credential>> {
    let mut exchanges = Vec::new();
    while let Some(output) = owner.poll() {
        match output {
            Output::Board(change) => drop(standing.apply(change, Time(0))),
            Output::Exchange(credential) => exchanges.push(credential),
            Output::Store(op) => {
                owner.stored(op.done_at_once(), now);
                owner.expire(now);
            }
            Output::HealthChanged | Output::Log(_) => {}
        }
    }
    exchanges
}

/// Creates a lane of APNs with its token.
fn lane(owner: &mut LaneOwner, standing: &mut Standing, key: &LaneKey) -> Arc<LaneSpec> {
    let lane = owner.ensure(key).unwrap();
    owner.expire(at(0));
    carry_out(owner, standing, at(0));
    lane
}

fn state(lane: &LaneSpec, health: wire::LaneHealth) -> wire::LaneState {
    wire::LaneState { lane: lane.id.0, health: health.into(), ..Default::default() }
}

#[test]
fn a_clock_that_was_set_leaves_no_lane_with_a_token_of_the_past() {
    let (mut owner, mut board) = (owner(), Standing::default());
    let lane = lane(&mut owner, &mut board, &key("g", "c"));
    let first = authorization(&board, &lane);
    // One minute on the clock, two hours on the wall.
    let later = Moment { at: at(60_000).at, wall: at(7_200_000).wall };
    owner.expire(later);
    carry_out(&mut owner, &mut board, later);
    let second = authorization(&board, &lane);
    assert_ne!(second, first);
    let again = Moment { at: at(61_000).at, wall: at(7_201_000).wall };
    owner.expire(again);
    carry_out(&mut owner, &mut board, again);
    assert_eq!(authorization(&board, &lane), second, "once");
}

#[test]
fn a_lane_is_on_the_board_with_its_token_and_keeps_its_number() {
    let (mut owner, mut board) = (owner(), Standing::default());
    let first = lane(&mut owner, &mut board, &key("g", "c"));
    assert!(Arc::ptr_eq(&board.lanes[&first.id], &first));
    assert_eq!(owner.ensure(&key("g", "c")).unwrap().id, first.id);
    assert!(owner.poll().is_none(), "nothing changed");
    let token = authorization(&board, &first);
    let parts: Vec<_> = token.strip_prefix("bearer ").unwrap().split('.').collect();
    let decoded = |part: &str| {
        String::from_utf8(data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
    };
    assert_eq!(parts.len(), 3);
    assert_eq!(decoded(parts[0]), r#"{"alg":"ES256","kid":"ABCDE12345"}"#);
    assert_eq!(decoded(parts[1]), r#"{"iss":"TEAM123456","iat":1800000000}"#);
    // The same name gives the same number in another process.
    let mut elsewhere = self::owner();
    elsewhere.ensure(&key("h", "d")).unwrap();
    assert_eq!(elsewhere.ensure(&key("g", "c")).unwrap().id, first.id);
    // Where nodes ask for it by the number, the number is enough.
    let mut asked = self::owner();
    asked.ensure_id(first.id, at(0));
    assert_eq!(std::iter::from_fn(|| asked.poll()).count(), 2, "the lane and its log message");
    asked.ensure_id(LaneId(5), at(0));
    asked.ensure_id(LaneId(5), at(1));
    let logged = std::iter::from_fn(|| asked.poll()).collect::<Vec<_>>();
    let [Output::Log(Log::LaneUnknown { lane: LaneId(5), times: 1 })] = logged[..] else {
        panic!("once a minute: {logged:?}")
    };
    assert_eq!(asked.ensure(&key("g", "c")).unwrap().id, first.id);
}

#[test]
fn one_token_serves_a_credential_on_all_gateways() {
    let (mut owner, mut board) = (owner(), Standing::default());
    let [first, second, other] =
        [key("g", "c"), key("h", "c"), key("g", "d")].map(|key| lane(&mut owner, &mut board, &key));
    assert_ne!(first.id, second.id);
    assert_eq!(authorization(&board, &first), authorization(&board, &second));
    assert_ne!(authorization(&board, &first), authorization(&board, &other));
}

#[test]
fn what_is_not_configured_is_no_lane() {
    let mut owner = owner();
    for (missing, what) in [(key("x", "c"), "gateway"), (key("g", "x"), "credential")] {
        let error = owner.ensure(&missing).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert!(owner.poll().is_none());
}

/// Minutes in which the credential's token changed within two hours; a node complains in the middle
/// of `refused_at`.
fn changes(refused_at: &[u64]) -> Vec<u64> {
    let (mut owner, mut board) = (owner(), Standing::default());
    let lane = lane(&mut owner, &mut board, &key("g", "c"));
    let (mut changes, mut last) = (Vec::new(), authorization(&board, &lane));
    for second in 0..7_200 {
        let (now, minute) = (at(second * 1_000), second / 60);
        if second % 60 == 30 && refused_at.contains(&minute) {
            for health in [wire::LaneHealth::Ready, wire::LaneHealth::Credential] {
                owner.health_changed(&node("a"), &state(&lane, health), now);
            }
        }
        let due = owner.deadline().expect("a token ages");
        if due <= now.at {
            owner.expire(now);
            assert!(owner.deadline().expect("a token ages") > now.at);
        }
        assert!(carry_out(&mut owner, &mut board, now).is_empty(), "a key signs");
        let token = authorization(&board, &lane);
        if token != last {
            changes.push(minute);
            last = token;
        }
    }
    changes
}

#[test]
fn a_token_is_replaced_every_24_minutes_whatever_nodes_say() {
    for refused_at in [&[][..], &[5, 7, 9], &[30, 31, 40, 41, 59]] {
        assert_eq!(changes(refused_at), [24, 48, 72, 96]);
    }
}

#[test]
fn a_coordinator_that_starts_again_makes_the_token_that_is_in_use() {
    let credential = credential("c");
    let token = |now: Moment| {
        let mut owner = LaneOwner::new(vec![gateway(None)], vec![credential.clone()]);
        let mut board = Standing::default();
        let lane = owner.ensure(&key("g", "c")).unwrap();
        owner.expire(now);
        carry_out(&mut owner, &mut board, now);
        authorization(&board, &lane)
    };
    let slot = u64::try_from(apns::SLOT.as_millis()).unwrap();
    assert_eq!(token(at(0)), token(at(slot / 2)));
    assert_eq!(token(at(0)), token(at(slot - 1)));
    assert_ne!(token(at(0)), token(at(slot)));
}

#[test]
fn health_is_kept_for_each_end() {
    let (mut owner, mut board) = (owner(), Standing::default());
    let lane = lane(&mut owner, &mut board, &key("g", "c"));
    for (name, health) in [
        ("a", wire::LaneHealth::Ready),
        ("b", wire::LaneHealth::Unreachable),
        ("a", wire::LaneHealth::Throttled),
    ] {
        owner.health_changed(&node(name), &state(&lane, health), at(0));
    }
    let status: Vec<_> =
        owner.status().into_iter().map(|s| (s.node.to_string(), s.lane, s.health)).collect();
    let expected = [("a", wire::LaneHealth::Throttled), ("b", wire::LaneHealth::Unreachable)];
    assert_eq!(status, expected.map(|(node, health)| (node.to_owned(), "g/c".to_owned(), health)));
}

#[test]
fn a_budget_is_published_when_it_changes() {
    let (mut owner, mut board) = (owner(), Standing::default());
    let lane = lane(&mut owner, &mut board, &key("g", "c"));
    let idle = || wire::LaneLoad { lane: lane.id.0, ..wire::LaneLoad::default() };
    owner.loaded(&node("a"), idle(), &board, Time(0));
    carry_out(&mut owner, &mut board, at(0));
    assert_eq!(board.connections[&lane.id], 2, "the floor");
    owner.loaded(&node("a"), idle(), &board, Time(1));
    assert!(owner.poll().is_none(), "the same again");
    let unknown = wire::LaneLoad { lane: lane.id.0 + 1, ..idle() };
    owner.loaded(&node("a"), unknown, &board, Time(1));
    assert!(owner.poll().is_none(), "a lane that nobody created");
}

#[test]
fn another_key_makes_its_token_at_once_and_is_another_signer() {
    let (mut owner, mut board) = (owner(), Standing::default());
    let lane = lane(&mut owner, &mut board, &key("g", "c"));
    let signer = |board: &Standing| board.tokens[&lane.id].signer;
    let (first, first_signer) = (authorization(&board, &lane), signer(&board));
    let unchanged = owner.credentials["d"].as_ref().clone();
    let other = with_key_id(&owner.credentials["c"], "ZZZZZ99999");
    owner.replace(vec![other, unchanged]).unwrap();
    assert!(owner.deadline().unwrap() <= at(0).at, "at once");
    owner.expire(at(60_000));
    carry_out(&mut owner, &mut board, at(60_000));
    let second = authorization(&board, &lane);
    assert_ne!(second, first, "within the 20 minutes that one key has to keep");
    assert_ne!(signer(&board), first_signer);
}

#[test]
fn credentials_that_do_not_fit_replace_nothing() {
    let mut owner = owner();
    owner.ensure(&key("g", "c")).unwrap();
    let deadline = owner.deadline();
    let added = vec![credential("c"), credential("d"), credential("e")];
    for (given, refused) in [
        (added, ReplaceError::Added("e".to_owned())),
        (vec![credential("c")], ReplaceError::Removed("d".to_owned())),
        (vec![credential("c"), account("d", 0)], ReplaceError::Other("d".to_owned())),
    ] {
        assert_eq!(owner.replace(given), Err(refused));
    }
    assert_eq!(owner.deadline(), deadline);
}

fn access_token(name: &str) -> AccessToken {
    let authorization = SecretString::from(name.to_owned());
    let token = ProviderToken { authorization, signer: 0 };
    AccessToken { token, life: Duration::from_secs(3_600) }
}

/// The table at the top of the module, for an account of FCM.
#[test]
fn an_account_exchanges_once_at_a_time_and_again_after_a_failure() {
    let (mut owner, mut board) = (owner_of_accounts(), Standing::default());
    let mut random = StdRng::seed_from_u64(1);
    let lane = owner.ensure(&key("g", "a")).unwrap();
    carry_out(&mut owner, &mut board, at(0));
    assert!(board.tokens.is_empty(), "nobody waits for the token");
    owner.expire(at(0));
    let exchange = carry_out(&mut owner, &mut board, at(0)).pop().expect("due at once");
    assert_eq!(owner.deadline(), None, "under way");
    owner.expire(at(1_000));
    assert!(carry_out(&mut owner, &mut board, at(1_000)).is_empty(), "one at a time");
    owner.exchanged(&exchange, Err(ExchangeError::Deadline), at(1_000).at, &mut random);
    assert_eq!(owner.credentials()[0].problem.as_deref(), Some("no answer within 10 s"));
    let again = owner.deadline().expect("after a pause");
    assert!(again > at(1_000).at && again <= at(2_000).at, "a second at most");
    owner.expire(at(2_000));
    let exchange = carry_out(&mut owner, &mut board, at(2_000)).pop().expect("due again");
    owner.exchanged(&exchange, Ok(access_token("one")), at(2_100).at, &mut random);
    carry_out(&mut owner, &mut board, at(2_100));
    assert_eq!(authorization(&board, &lane), "one");
    assert_eq!(owner.credentials()[0].problem, None);
    assert_eq!(owner.deadline(), Some(at(2_100).at + Duration::from_secs(3_300)));
}

/// One input of a lane owner with two accounts.
#[derive(Debug, Clone)]
enum Input {
    Ensure(bool),
    Refused,
    Replace(bool),
    Pass(u64),
    /// The oldest or newest exchange under way ends, with or without a token.
    Exchanged {
        newest: bool,
        succeeds: bool,
    },
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let input = prop_oneof![
        any::<bool>().prop_map(Input::Ensure),
        Just(Input::Refused),
        any::<bool>().prop_map(Input::Replace),
        (0u64..4_000_000).prop_map(Input::Pass),
        (any::<bool>(), any::<bool>())
            .prop_map(|(newest, succeeds)| Input::Exchanged { newest, succeeds }),
    ];
    proptest::collection::vec(input, 0..80)
}

fn key_id(credential: &Credential) -> (String, u32) {
    let Credential::Fcm(account) = credential else { panic!("an account") };
    let TokenSource::ServiceAccount(key) = &account.source else { panic!("a key") };
    (account.name.clone(), key.private_key_id.parse().unwrap())
}

proptest! {
    /// Whatever happens in whatever order: a key has one exchange under way at most, and after it
    /// was replaced no token of it reaches the nodes.
    #[test]
    fn a_key_has_one_exchange_and_the_token_of_a_replaced_key_never_returns(inputs in inputs()) {
        let (mut owner, mut board) = (owner_of_accounts(), Standing::default());
        let mut random = StdRng::seed_from_u64(1);
        let mut keys = BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), 0)]);
        let mut under_way: Vec<Arc<Credential>> = Vec::new();
        let mut millis = 0;
        let name = |first: bool| if first { "a" } else { "b" };
        for input in inputs {
            let before = board.tokens.clone();
            match input {
                Input::Ensure(first) => drop(owner.ensure(&key("g", name(first)))),
                Input::Refused => {
                    let lanes: Vec<_> = board.lanes.values().cloned().collect();
                    for lane in lanes {
                        for health in [wire::LaneHealth::Ready, wire::LaneHealth::Credential] {
                            owner.health_changed(&node("n"), &state(&lane, health), at(millis));
                        }
                    }
                }
                Input::Replace(first) => {
                    *keys.get_mut(name(first)).unwrap() += 1;
                    owner.replace(keys.iter().map(|(n, k)| account(n, *k)).collect()).unwrap();
                }
                Input::Pass(ms) => millis += ms,
                Input::Exchanged { newest, succeeds } => {
                    if under_way.is_empty() {
                        continue;
                    }
                    let oldest = under_way.len() - 1;
                    let exchange = under_way.remove(if newest { oldest } else { 0 });
                    let (name, key) = key_id(&exchange);
                    let exchanged = match succeeds {
                        true => Ok(access_token(&format!("{name}/{key}"))),
                        false => Err(ExchangeError::Deadline),
                    };
                    owner.exchanged(&exchange, exchanged, at(millis).at, &mut random);
                }
            }
            owner.expire(at(millis));
            under_way.extend(carry_out(&mut owner, &mut board, at(millis)));
            for (name, key) in &keys {
                let present = (name.clone(), *key);
                let exchanges = under_way.iter().filter(|e| key_id(e) == present).count();
                prop_assert!(exchanges <= 1, "{exchanges} exchanges of {present:?}");
            }
            for (lane, token) in &board.tokens {
                let is_new = before.get(lane).is_none_or(|former| !Arc::ptr_eq(former, token));
                let account = &board.lanes[lane].key.credential;
                // A token that nodes have stays until the new key's token is there.
                let present = format!("{account}/{}", keys[account]);
                let authorization = authorization(&board, &board.lanes[lane]);
                prop_assert!(!is_new || authorization == present, "{authorization} is gone");
            }
        }
    }
}

#[test]
fn a_lane_with_a_ramp_is_used_while_any_node_uses_it() {
    let quota = Quota { per_minute: 60_000, burst: None, ramp: Duration::from_secs(60) };
    let mut owner = LaneOwner::new(vec![gateway(Some(quota))], vec![credential("c")]);
    let mut board = Standing::default();
    let lane = lane(&mut owner, &mut board, &key("g", "c"));
    let mut is_used = |node_name: &str, busy: bool| {
        let load = wire::LaneLoad { lane: lane.id.0, busy, ..Default::default() };
        owner.loaded(&node(node_name), load, &board, Time(0));
        carry_out(&mut owner, &mut board, at(0));
        board.used.contains(&lane.id)
    };
    assert!(!is_used("a", false));
    assert!(is_used("a", true));
    assert!(is_used("b", false), "another node's idleness changes nothing");
    assert!(is_used("b", true));
    assert!(is_used("a", false));
    owner.node_gone(&node("b"));
    carry_out(&mut owner, &mut board, at(0));
    assert!(board.used.is_empty());
}
