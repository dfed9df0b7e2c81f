//! Two cores of a node with one budget: pushes that another core carries behave as a core's own
//! pushes.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{
    ids::{Epoch, WaveId},
    outcome::Outcome,
    time::Time,
};

use super::{
    gateway::{Gateway, Reply, Request},
    world::{LANE, SECOND, World, provider_token},
};
use crate::{
    command::{Command, Consequence},
    core::letter::RUN_MAX,
    lane::{health::LaneHealth, rate::Rate},
};

const HOUR: Time = Time(3_600 * SECOND);
const HOST: usize = 0;
const GUEST: usize = 1;

/// Two cores that exchange letters. Both have wave 1 over devices of their own: the host 0 to
/// 2,999, the guest 3,000 to 5,999.
struct Pair {
    worlds: [World; 2],
    /// Whether letters are held up.
    cut: bool,
}

impl Pair {
    fn new(streams: u32, script: impl FnMut(&Request, u32) -> Reply + 'static) -> Self {
        let host = World::with(Gateway::new(streams, script), true, 1);
        let guest = World::with(Gateway::new(streams, |_, _| Reply::Accept), true, 0);
        let mut pair = Self { worlds: [host, guest], cut: false };
        pair.share(1, 0);
        pair.worlds[HOST].latency = Duration::from_millis(20);
        pair.worlds[GUEST].latency = Duration::from_millis(20);
        pair.worlds[HOST].populate(0..3_000);
        pair.worlds[GUEST].populate(3_000..6_000);
        pair.start();
        pair
    }

    /// Sets the number of connections of each core; a core without any is the guest of the other.
    fn share(&mut self, host: usize, guest: usize) {
        for (core, connections) in [(HOST, host), (GUEST, guest)] {
            let host = (connections == 0).then_some(1 - core);
            self.worlds[core].tell(Command::Connections { lane: LANE, connections, host });
        }
    }

    fn start(&mut self) {
        let now = self.worlds.iter().map(|world| world.now).max().expect("two");
        for world in &mut self.worlds {
            world.now = now;
            world.start(1, HOUR);
        }
    }

    fn step(&mut self) -> bool {
        let mut active = false;
        for core in [HOST, GUEST] {
            active |= self.worlds[core].step();
            let now = self.worlds[core].now;
            while !self.cut
                && let Some((to, letter)) = self.worlds[core].core.poll_letter()
            {
                active = true;
                self.worlds[to].core.letter(core, letter, now);
            }
        }
        active
    }

    fn run(&mut self, until: Time) {
        let mut busy = 0;
        while self.worlds[HOST].now < until {
            if self.step() {
                busy += 1;
                assert!(busy < 1_000_000, "never comes to rest at {:?}", self.worlds[HOST].now);
                continue;
            }
            busy = 0;
            let now = self.worlds[HOST].now;
            let next = self.worlds.iter().map(World::next).min().expect("two");
            let next = next.max(now + Duration::from_micros(50)).min(until);
            self.worlds.iter_mut().for_each(|world| world.now = next);
        }
    }

    fn run_for(&mut self, time: Duration) {
        self.run(self.worlds[HOST].now + time);
    }

    fn accepted(&self, core: usize) -> u64 {
        self.worlds[core].totals(1).outcomes[Outcome::Accepted as usize]
    }

    fn of_guest(&self) -> Vec<&Request> {
        self.worlds[HOST]
            .gateway
            .requests
            .iter()
            .filter(|request| request.device >= 3_000)
            .collect()
    }

    fn everybody_once(&self) {
        let mut times: BTreeMap<u32, usize> = BTreeMap::new();
        let requests = self.worlds.iter().flat_map(|world| &world.gateway.requests);
        requests.for_each(|request| *times.entry(request.device).or_default() += 1);
        assert_eq!((times.len(), times.values().max()), (6_000, Some(&1)));
        assert_eq!([HOST, GUEST].map(|core| self.accepted(core)), [3_000, 3_000]);
        assert!(
            self.worlds.iter().all(|world| world.last(1).complete && world.requests_out() == 0)
        );
    }
}

#[test]
fn both_go_through_one_connection_fairly_once_and_nearest_first() {
    let mut pair = Pair::new(100, |_, _| Reply::Accept);
    pair.run_for(Duration::from_secs(3));
    pair.everybody_once();
    assert_eq!(pair.worlds[HOST].gateway.connections().len(), 1);
    assert!(pair.worlds[GUEST].attempts.is_empty());
    let requests = &pair.worlds[HOST].gateway.requests;
    let early = requests[..3_000].iter().filter(|request| request.device >= 3_000).count();
    assert!((1_200..=1_800).contains(&early), "{early} of 3,000");
    for core in [0..3_000, 3_000..6_000] {
        let bands: Vec<_> =
            requests.iter().filter(|r| core.contains(&r.device)).map(|r| r.device % 3).collect();
        assert!(bands.is_sorted(), "each core nearest first");
    }
    // 100 streams, 20 ms: 5,000 a second, of which little was lost.
    let took = requests[5_999].at.since(requests[0].at);
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    assert_eq!(pair.worlds[GUEST].said.health.last(), Some(&LaneHealth::Ready));
}

#[test]
fn a_guest_alone_has_all_of_the_room() {
    let mut pair = Pair::new(100, |_, _| Reply::Accept);
    pair.worlds[HOST].tell(Command::Cancel { wave: WaveId(1), epoch: Epoch(1) });
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.accepted(GUEST), 3_000, "5,000 a second");
}

#[test]
fn what_waits_at_the_host_is_bounded_however_long_its_socket_takes_nothing() {
    let mut pair = Pair::new(1_000, |_, _| Reply::Accept);
    pair.run_for(Duration::from_millis(30));
    pair.worlds[HOST].blocked = true;
    for _ in 0..20 {
        pair.run_for(Duration::from_millis(100));
        let open = pair.worlds[GUEST].totals(1).open();
        assert!(open <= 1_000 + RUN_MAX as u64, "{open}");
        assert!(pair.worlds[HOST].unsent_bytes() <= 2 * (32 + 4) * 1024);
    }
    pair.worlds[HOST].blocked = false;
    pair.run_for(Duration::from_secs(5));
    pair.everybody_once();
}

#[test]
fn after_a_cancel_nothing_of_a_guest_is_written() {
    let mut pair = Pair::new(100, |_, _| Reply::Accept);
    pair.run_for(Duration::from_millis(150));
    let at = pair.worlds[GUEST].now;
    pair.worlds[GUEST].tell(Command::Cancel { wave: WaveId(1), epoch: Epoch(1) });
    pair.run_for(Duration::from_secs(5));
    let [(_, last_write, written_after, when)] = pair.worlds[GUEST].said.stopped[..] else {
        panic!("confirmed once")
    };
    assert!(
        when.since(at) <= Duration::from_millis(60) && last_write.is_some(),
        "{:?}",
        when.since(at)
    );
    let late = pair.of_guest().iter().filter(|request| request.at > when).count();
    let after = pair.of_guest().iter().filter(|request| request.at > at).count() as u64;
    assert_eq!((late, written_after >= after), (0, true));
    let totals = pair.worlds[GUEST].totals(1);
    assert!(totals.handed < 3_000 && totals.open() == 0 && pair.worlds[GUEST].last(1).ended);
    assert_eq!(pair.accepted(GUEST), pair.of_guest().len() as u64);
    assert_eq!(pair.accepted(HOST), 3_000, "the host's goes on");
}

#[test]
fn a_cancel_voids_what_waits_behind_a_socket_that_takes_nothing() {
    let mut pair = Pair::new(1_000, |_, _| Reply::Accept);
    pair.run_for(Duration::from_millis(100));
    pair.worlds[HOST].blocked = true;
    pair.run_for(Duration::from_millis(30));
    let (sent, at) = (pair.of_guest().len(), pair.worlds[GUEST].now);
    pair.worlds[GUEST].tell(Command::Cancel { wave: WaveId(1), epoch: Epoch(1) });
    pair.run_for(Duration::from_millis(99));
    let [(_, _, written_after, when)] = pair.worlds[GUEST].said.stopped[..] else {
        panic!("confirmed in time")
    };
    assert!(when.since(at) <= Duration::from_millis(60), "{:?}", when.since(at));
    assert_eq!((written_after, pair.of_guest().len()), (0, sent));
    pair.worlds[HOST].blocked = false;
    pair.run_for(Duration::from_secs(10));
    assert_eq!(pair.of_guest().len(), sent);
    assert_eq!((pair.accepted(HOST), pair.worlds[GUEST].totals(1).open()), (3_000, 0));
}

#[test]
fn requests_without_an_answer_and_lost_connections_are_the_guests_to_repeat() {
    let mut pair = Pair::new(100, |request, tries| match (request.device % 50, tries) {
        (1, 1) => Reply::Silence,
        (2, 1) => Reply::NotProcessed,
        _ => Reply::Accept,
    });
    pair.run_for(Duration::from_millis(200));
    pair.worlds[HOST].break_connections();
    pair.run_for(Duration::from_secs(40));
    for core in [HOST, GUEST] {
        assert_eq!(pair.accepted(core), 3_000);
        let last = pair.worlds[core].last(1);
        // Sixty were never answered, some on their way when the connection broke.
        assert!((60..=160).contains(&last.unanswered_requests), "{}", last.unanswered_requests);
        assert!(last.complete && last.retried_requests >= 50);
        assert_eq!(pair.worlds[core].requests_out(), 0);
    }
    // Who was answered was not asked again.
    let requests = pair.worlds[HOST].gateway.requests.len();
    assert!((6_000..=6_000 + 400).contains(&requests), "{requests}");
}

#[test]
fn a_gateway_that_asks_for_less_makes_both_wait_and_ask_with_one() {
    let trouble = Time(SECOND + 300_000)..Time(4 * SECOND);
    let during = trouble.clone();
    let mut pair = Pair::new(100, move |request, _| match during.contains(&request.at) {
        true => Reply::Refuse(503, "ServiceUnavailable"),
        false => Reply::Accept,
    });
    pair.run(trouble.end);
    let refused =
        pair.worlds[HOST].gateway.requests.iter().filter(|r| trouble.contains(&r.at)).count();
    assert!((9..=260).contains(&refused), "{refused}: what was in flight, then one at a time");
    pair.run_for(Duration::from_secs(120));
    for core in [HOST, GUEST] {
        assert_eq!(pair.accepted(core), 3_000);
        assert_eq!(pair.worlds[core].requests_out(), 0);
    }
}

#[test]
fn a_refused_provider_token_stops_both_until_the_next() {
    let mut pair = Pair::new(100, |request, _| match &*request.authorization {
        "bearer one" if request.at >= Time(SECOND + 200_000) => {
            Reply::Refuse(403, "InvalidProviderToken")
        }
        _ => Reply::Accept,
    });
    pair.run_for(Duration::from_secs(2));
    let stuck = pair.worlds[HOST].gateway.requests.len();
    pair.run_for(Duration::from_secs(2));
    let probes = pair.worlds[HOST].gateway.requests.len() - stuck;
    assert!(probes <= 8, "single requests of both look whether it is still refused: {probes}");
    pair.worlds.iter_mut().for_each(|world| world.tell(provider_token("bearer two")));
    pair.run_for(Duration::from_secs(60));
    assert_eq!([HOST, GUEST].map(|core| pair.accepted(core)), [3_000, 3_000]);
}

/// The only connection is the host's. It is replaced when a row of its answers has no success, so
/// that both cores get answers from a second one.
#[test]
fn a_message_that_is_wrong_for_everybody_ends_on_both_cores() {
    let mut pair = Pair::new(100, |_, _| Reply::Refuse(400, "BadTopic"));
    pair.run_for(Duration::from_secs(120));
    for core in [HOST, GUEST] {
        let world = &pair.worlds[core];
        assert_eq!(world.totals(1).outcomes[Outcome::Refused as usize], 3_000);
        assert_eq!(world.last(1).refused_messages.len(), 1, "told once");
        assert!(world.last(1).complete);
        let refused: u64 = world
            .reasons(1)
            .iter()
            .filter(|(then, ..)| *then == Consequence::Refused)
            .map(|r| r.3)
            .sum();
        assert_eq!(refused, 3_000);
    }
    // Of each core and language at most so many as a row has, each asked four times, and what was
    // in flight.
    let asked = pair.worlds[HOST].gateway.requests.len();
    assert!(asked <= 2 * 2 * 4 * 40, "{asked}");
}

#[test]
fn pages_in_the_gateways_place_pause_both_and_refuse_nobody() {
    let outage = Time(SECOND + 300_000)..Time(11 * SECOND);
    let during = outage.clone();
    let mut pair = Pair::new(100, move |request, _| match during.contains(&request.at) {
        true => Reply::Page(404, "<html>no such page</html>"),
        false => Reply::Accept,
    });
    pair.run(outage.end);
    let asked =
        pair.worlds[HOST].gateway.requests.iter().filter(|r| outage.contains(&r.at)).count();
    assert!((9..=260).contains(&asked), "{asked}: what was in flight, then one at a time");
    assert!(
        pair.worlds[HOST].said.health.contains(&LaneHealth::Unsigned),
        "whose connection it is"
    );
    pair.run_for(Duration::from_secs(60));
    assert_eq!([HOST, GUEST].map(|core| pair.accepted(core)), [3_000, 3_000]);
}

#[test]
fn a_guest_keeps_its_slice_and_stops_with_its_lease_and_its_grant() {
    let mut pair = Pair::new(100, |_, _| Reply::Accept);
    let rate = Some(Rate { per_second: 500.0, burst: 50.0 });
    pair.worlds[GUEST].tell(Command::Slice { lane: LANE, until: Time(3 * SECOND), rate });
    pair.run(Time(5 * SECOND));
    let times: Vec<_> = pair.of_guest().iter().map(|request| request.at).collect();
    assert!((800..=1_050).contains(&times.len()), "{}", times.len());
    for window in times.windows(552) {
        assert!(window[551].since(window[0]) > Duration::from_secs(1));
    }
    assert!(times.iter().all(|at| *at < Time(3 * SECOND)), "the lease");
    assert_eq!(pair.accepted(HOST), 3_000, "whose slice has no limit");
    pair.worlds[GUEST].tell(Command::Slice { lane: LANE, until: Time::NEVER, rate: None });
    pair.worlds[GUEST].grant(1, Time(5 * SECOND + 200_000), None);
    pair.run(Time(8 * SECOND));
    assert!(
        pair.of_guest().iter().all(|request| request.at < Time(5 * SECOND + 200_000)),
        "the grant"
    );
    assert!(pair.accepted(GUEST) < 3_000);
    pair.worlds[GUEST].grant(1, Time::NEVER, None);
    pair.run(Time(12 * SECOND));
    pair.everybody_once();
}

#[test]
fn a_run_that_comes_too_late_is_not_written() {
    let mut pair = Pair::new(1_000, |_, _| Reply::Accept);
    pair.run_for(Duration::from_millis(50));
    let until = pair.worlds[GUEST].now + Duration::from_millis(20);
    pair.worlds[GUEST].grant(1, until, None);
    pair.run_for(Duration::from_millis(10));
    // Whatever the guest writes from now on arrives when its grant has ended.
    pair.cut = true;
    pair.run_for(Duration::from_millis(30));
    let sent = pair.of_guest().len();
    pair.cut = false;
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.of_guest().len(), sent);
    assert_eq!(
        pair.worlds[GUEST].totals(1).open(),
        pair.worlds[GUEST].totals(1).handed - sent as u64
    );
    pair.worlds[GUEST].grant(1, Time::NEVER, None);
    pair.run_for(Duration::from_secs(5));
    pair.everybody_once();
}

#[test]
fn a_budget_that_moves_from_core_to_core_repeats_and_loses_nobody() {
    let mut pair = Pair::new(100, |_, _| Reply::Accept);
    for (host, guest) in [(1, 1), (0, 1), (1, 0), (2, 1), (1, 0)] {
        pair.run_for(Duration::from_millis(150));
        pair.share(host, guest);
    }
    pair.run_for(Duration::from_secs(5));
    pair.everybody_once();
    let through_guest = pair.worlds[GUEST].gateway.requests.len();
    assert!(through_guest > 300, "{through_guest}");
    assert!(
        pair.worlds[GUEST].gateway.requests.iter().any(|r| r.device < 3_000),
        "and the host was its guest"
    );
    assert_eq!(pair.worlds[HOST].gateway.connections().len(), 1);
    assert_eq!(pair.worlds[GUEST].gateway.connections().len(), 0);
}

#[test]
fn a_shutdown_of_both_waits_for_what_is_out_and_sends_nothing_more() {
    let mut pair = Pair::new(100, |_, _| Reply::Accept);
    pair.run_for(Duration::from_millis(100));
    pair.worlds[HOST].tell(Command::Shutdown);
    pair.run_for(Duration::from_millis(5));
    pair.worlds[GUEST].tell(Command::Shutdown);
    pair.run_for(Duration::from_millis(100));
    assert!(pair.worlds.iter().all(|world| world.core.is_finished()));
    let accepted: u64 = [HOST, GUEST].map(|core| pair.accepted(core)).iter().sum();
    assert_eq!(accepted, pair.worlds[HOST].gateway.requests.len() as u64);
}
