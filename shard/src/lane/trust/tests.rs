use std::sync::Arc;

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn token(value: &str) -> Authorization {
    Authorization(Arc::new(secrecy::SecretString::from(value.to_owned())))
}

/// With a token that has been accepted.
fn good() -> Trust {
    let mut trust = Trust::new(Platform::Apns);
    assert_eq!(trust.take(token("one"), 7, Time(0)), Change::TakeAll);
    assert_eq!(trust.allows(1, Time(0)), Use::Once, "even the first");
    assert!(trust.accepted(1));
    assert!(trust.is_settled() && !trust.accepted(1));
    trust
}

#[test]
fn the_former_goes_on_until_the_new_one_was_accepted() {
    let mut trust = good();
    assert_eq!(trust.take(token("two"), 7, Time(1)), Change::Try);
    assert_eq!([1, 2].map(|n| trust.allows(n, Time(2))), [Use::Freely, Use::Once]);
    assert!(!trust.accepted(1), "which says nothing of the new one");
    assert!(trust.is_trying(Time(2)));
    assert!(trust.accepted(2));
    assert_eq!([1, 2].map(|n| trust.allows(n, Time(2))), [Use::Never, Use::Freely]);
    assert!(trust.is_settled());
}

#[test]
fn the_time_of_the_former_is_over_whether_the_new_one_was_tried_or_not() {
    let mut trust = good();
    trust.take(token("two"), 7, Time(0));
    let over = Time(0) + FORMER_APNS;
    assert!(!trust.expire_former(over - SECOND));
    assert_eq!(trust.allows(1, over), Use::Never);
    assert!(trust.expire_former(over) && !trust.expire_former(over));
    assert_eq!(trust.allows(2, over), Use::Once);
}

const K: u32 = 4;

fn rng() -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(1)
}

/// Refused on connections 1 and 2 by turns.
fn refuse(trust: &mut Trust, number: u32, times: u64, now: Time) -> Vec<Refusal> {
    (0..times)
        .map(|n| trust.refused(number, (Witness(1 + n % 2), true), K, now, &mut rng()))
        .collect()
}

#[test]
fn an_untried_one_that_is_refused_is_an_alarm_and_the_former_goes_on_for_its_time() {
    let mut trust = good();
    trust.take(token("two"), 7, Time(0));
    assert_eq!(refuse(&mut trust, 2, 2, Time(0)), [Refusal::OfToken, Refusal::Old]);
    assert!(trust.is_refused(Time(0)));
    assert_eq!(trust.best(Time(1)).map(|(_, number)| number), Some(1));
    assert_eq!([1, 2].map(|n| trust.allows(n, Time(1))), [Use::Freely, Use::Never]);
    let again = trust.ready_at(Time(1)).unwrap();
    assert_eq!(trust.best(again).map(|(_, number)| number), Some(2), "a connection tries it again");
    assert_eq!([1, 2].map(|n| trust.allows(n, again)), [Use::Freely, Use::Once]);
    assert_eq!(trust.take(token("three"), 7, Time(2)), Change::Try, "with the first, still");
    assert_eq!([1, 2, 3].map(|n| trust.allows(n, Time(2))), [Use::Freely, Use::Never, Use::Once]);
}

#[test]
fn refusals_of_one_connection_or_with_a_success_between_condemn_nothing() {
    let mut trust = good();
    for _ in 0..100 {
        let some = refuse(&mut trust, 1, u64::from(K) - 1, Time(0));
        assert!(some.iter().all(|refusal| *refusal == Refusal::OfConnection));
        assert_eq!(trust.allows(1, Time(0)), Use::Freely, "the others go on");
        trust.accepted(1);
    }
    let of_one = (0..100).map(|_| trust.refused(1, (Witness(1), true), K, Time(0), &mut rng()));
    assert!(of_one.collect::<Vec<_>>().iter().all(|refusal| *refusal == Refusal::OfConnection));
    assert!(!trust.is_condemned() && !trust.is_refused(Time(0)));
    assert!(
        trust.is_refused(Time(0) + DOUBT_REPORTED_AFTER),
        "but it is told when nobody was accepted for a while"
    );
}

#[test]
fn a_full_row_condemns_and_one_success_acquits() {
    let mut trust = good();
    assert_eq!(refuse(&mut trust, 1, K.into(), Time(0)).last(), Some(&Refusal::OfToken));
    assert!(trust.is_refused(Time(0)));
    let at = trust.probed_at().unwrap();
    assert_eq!([trust.allows(1, Time(at.0 - 1)), trust.allows(1, at)], [Use::Never, Use::Once]);
    trust.accepted(1);
    assert!(trust.is_settled());
}

#[test]
fn a_condemned_one_is_tried_within_seconds_and_for_ever() {
    let mut trust = good();
    refuse(&mut trust, 1, K.into(), Time(0));
    let mut rng = rng();
    let mut tries = Vec::new();
    while tries.len() < 100 {
        let at = trust.probed_at().unwrap();
        tries.push(at);
        assert_eq!(
            trust.refused(1, (Witness(tries.len() as u64), true), K, at, &mut rng),
            Refusal::Still,
            "told once"
        );
    }
    let apart = Duration::from_millis(500)..=5 * SECOND;
    assert!(tries.windows(2).all(|w| apart.contains(&w[1].since(w[0]))));
}

#[test]
fn a_former_one_is_given_up_by_a_full_row_only() {
    let mut trust = good();
    trust.take(token("two"), 7, Time(0));
    refuse(&mut trust, 1, u64::from(K) - 1, Time(0));
    assert_eq!(trust.allows(1, Time(0)), Use::Freely);
    trust.accepted(1);
    refuse(&mut trust, 1, K.into(), Time(0));
    assert_eq!(trust.allows(1, Time(0)), Use::Never);
}

#[test]
fn the_same_again_changes_nothing_but_gives_a_condemned_one_another_try() {
    let mut trust = good();
    assert_eq!(trust.take(token("one"), 7, Time(5)), Change::None);
    assert!(trust.is_settled());
    refuse(&mut trust, 1, K.into(), Time(5));
    assert_eq!(trust.take(token("one"), 7, Time(5)), Change::TakeAll);
    assert_eq!((trust.allows(1, Time(5)), trust.is_refused(Time(5))), (Use::Once, false));
}

#[test]
fn a_change_that_the_gateway_minds_is_tried_again_in_seconds() {
    let mut trust = good();
    assert!(!trust.put_off(1, Time(0), &mut rng()), "one that was accepted is not in question");
    trust.take(token("two"), 7, Time(0));
    assert!(trust.put_off(2, Time(0), &mut rng()) && trust.is_put_off());
    assert_eq!([1, 2].map(|n| trust.allows(n, Time(1))), [Use::Freely, Use::Never]);
    let again = trust.ready_at(Time(1)).unwrap();
    assert!(again <= Time(0) + 3 * SECOND);
    assert_eq!(trust.allows(2, again), Use::Once);
    assert!(trust.accepted(2) && !trust.is_put_off());
}

#[test]
fn another_keys_token_is_tried_too_and_old_connections_do_not_take_it() {
    let mut trust = good();
    assert_eq!(trust.take(token("two"), 7, Time(0)), Change::Try);
    assert!(trust.accepted(2) && trust.takes(1));
    assert_eq!(trust.take(token("three"), 8, Time(0)), Change::Try);
    assert_eq!([1, 2, 3].map(|n| trust.takes(n)), [false, false, true]);
    assert_eq!([2, 3].map(|n| trust.allows(n, Time(0))), [Use::Freely, Use::Once]);
    assert!(trust.is_trying_other_key(Time(0)));
    // Its next one goes to the connections that have this.
    assert_eq!(trust.take(token("four"), 8, Time(1)), Change::Try);
    assert_eq!([2, 3, 4].map(|n| trust.takes(n)), [false, true, true]);
    assert_eq!(trust.allows(2, Time(1)), Use::Freely, "the last one that was good");
    let mut fcm = Trust::new(Platform::Fcm);
    fcm.take(token("one"), 7, Time(0));
    fcm.take(token("two"), 8, Time(0));
    assert!(fcm.takes(1), "each request of FCM's stands for itself");
}
