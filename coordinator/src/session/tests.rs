//! Conversations with one node, both sides written out.

use clarion_proto::ids::{Epoch, UnixMillis};
use roaring::RoaringBitmap;
use session_response::Message as Said;

use super::*;
use crate::{
    fixtures::*,
    lane::Quota,
    planned::{CountPlan, PlannedAlert, PushRequest},
    standing::{Change, StandingWave},
};

/// What a session said, by kind.
fn kinds(session: &mut Session) -> Vec<&'static str> {
    sent(session).iter().map(kind).collect()
}

fn kind(message: &Message) -> &'static str {
    match message {
        Message::Ownership(_) => "ownership",
        Message::Lane(_) => "lane",
        Message::ProviderToken(_) => "token",
        Message::Wave(_) => "wave",
        Message::Grant(_) => "grant",
        Message::Slice(_) => "slice",
        Message::Cancel(_) => "cancel",
        Message::End(_) => "end",
        Message::Count(_) => "count",
        Message::Connections(_) => "connections",
        Message::CoverPart(_) => "part",
        Message::Open(_) => "open",
        Message::Left(_) => "left",
    }
}

fn sent(session: &mut Session) -> Vec<Message> {
    std::iter::from_fn(|| session.poll_message()).map(|request| request.message.unwrap()).collect()
}

fn notes(session: &mut Session) -> Vec<Note> {
    std::iter::from_fn(|| session.poll_note()).collect()
}

fn with_wave(phase: Phase) -> Arc<Standing> {
    let mut standing = standing(None);
    standing.waves.insert(WAVE, wave(phase));
    Arc::new(standing)
}

/// The same lanes and tokens as in `standing`, with the wave in another phase.
fn moved(standing: &Standing, phase: Phase) -> Arc<Standing> {
    let mut standing = standing.clone();
    standing.waves.insert(WAVE, wave(phase));
    Arc::new(standing)
}

/// The same without the wave.
fn without_wave(standing: &Standing) -> Arc<Standing> {
    Arc::new(Standing { waves: BTreeMap::new(), ..standing.clone() })
}

fn open(boot: BootId, memory: NodeMemory, standing: &Arc<Standing>) -> Session {
    Session::open((node("a"), boot), LOG, memory, standing.clone(), seconds(2))
}

/// Ended as both sides wanted.
fn closed(session: Session) -> NodeMemory {
    session.close(None).0
}

fn report(sequence: u64, partition: u32, handed: &[u32], open: &[u32]) -> Said {
    let set = |ordinals: &[u32]| {
        let mut bytes = Vec::new();
        ordinals.iter().copied().collect::<RoaringBitmap>().serialize_into(&mut bytes).unwrap();
        wire::OrdinalSet { partition, ordinals: bytes.into() }
    };
    Said::Report(wire::Report {
        wave: WAVE.0,
        sequence,
        handed: vec![set(handed)],
        open: vec![set(open)],
        ..wire::Report::default()
    })
}

fn ask(nonce: u64) -> Said {
    Said::LeaseRequest(wire::LeaseRequest { nonce, waves: vec![WAVE.0], lanes: vec![LANE.0] })
}

const LOG: LogIdentity = LogIdentity([9; 16]);

#[test]
fn a_node_that_leaves_is_answered_after_its_last_report_was_applied() {
    let standing = with_wave(Phase::Running);
    let mut session = open(BOOT_1, NodeMemory::default(), &standing);
    sent(&mut session);
    session.receive(report(1, 0, &[1, 2, 3], &[3]), seconds(3)).unwrap();
    assert!(!session.has_left() && !session.has_message());
    session.receive(Said::Leaving(wire::Leaving {}), seconds(3)).unwrap();
    assert!(session.has_left());
    assert_eq!(kinds(&mut session), ["left"]);
    // The next process is not given what was answered, and is given what was open.
    let mut memory = closed(session);
    memory.hello(BOOT_2);
    let done = memory.done(WAVE, clarion_proto::ids::PartitionId(0)).expect("two are done");
    assert_eq!(done.iter().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_session_starts_complete_and_in_an_order_that_the_node_can_take() {
    let mut session = open(BOOT_1, NodeMemory::default(), &with_wave(Phase::Running));
    assert_eq!(kinds(&mut session), ["ownership", "lane", "token", "wave"]);
    assert!(matches!(notes(&mut session)[..], [Note::Wave(WAVE, WaveNote::Joined)]));
}

#[test]
fn a_wave_names_the_nodes_partitions_where_their_logs_stood_and_what_is_left_of_its_time() {
    let standing = with_wave(Phase::Running);
    let mut session = open(BOOT_1, NodeMemory::default(), &standing);
    let messages = sent(&mut session);
    let Message::Wave(wave) = &messages[3] else { panic!("{messages:?}") };
    let owned = standing.owned.as_ref().unwrap();
    let shards: Vec<_> =
        wave.shards.iter().map(|s| (s.partition, s.start_position, s.handed.len())).collect();
    let mine = owned.ownership.partitions_of(&node("a"));
    assert_eq!(
        shards,
        mine.iter().map(|p| (u32::from(p.0), 10 + u64::from(p.0), 0)).collect::<Vec<_>>()
    );
    assert_eq!((wave.ownership, wave.epoch, wave.expires_in_ms), (5, 1, 98_000));
    assert_eq!((wave.apps[0].lane, wave.apps[0].app.as_str()), (LANE.0, "demo"));
    assert_eq!(wave.bands.len(), 2);
}

#[test]
fn then_only_changes_are_sent() {
    let start = standing(None);
    let mut session = open(BOOT_1, NodeMemory::default(), &Arc::new(start.clone()));
    assert_eq!(kinds(&mut session), ["ownership", "lane", "token"]);
    session.update(Arc::new(start.clone()), seconds(3));
    assert_eq!(kinds(&mut session), [""; 0]);
    let mut next = start;
    next.tokens.insert(LANE, token("bearer two"));
    next.waves.insert(WAVE, wave(Phase::Running));
    session.update(Arc::new(next.clone()), seconds(3));
    assert_eq!(kinds(&mut session), ["token", "wave"]);
    next.waves.clear();
    session.update(Arc::new(next), seconds(4));
    assert_eq!(kinds(&mut session), ["end"]);
}

#[test]
fn nothing_is_sent_before_partitions_are_shared_out() {
    let mut session = open(BOOT_1, NodeMemory::default(), &Arc::default());
    session.receive(ask(1), seconds(2)).unwrap();
    assert_eq!(kinds(&mut session), [""; 0]);
    session.update(with_wave(Phase::Running), seconds(3));
    assert_eq!(kinds(&mut session), ["ownership", "lane", "token", "wave"]);
}

#[test]
fn a_node_without_partitions_is_given_no_wave() {
    let standing = with_wave(Phase::Running);
    let mut session =
        Session::open((node("late"), BOOT_1), LOG, NodeMemory::default(), standing, seconds(2));
    assert_eq!(kinds(&mut session), ["ownership", "lane", "token"]);
    assert!(notes(&mut session).is_empty(), "it has no part, so nobody waits for it");
    session.receive(ask(1), seconds(2)).unwrap();
    let messages = sent(&mut session);
    assert!(
        matches!(&messages[..], [Message::Grant(grant), Message::Slice(_)] if grant.waves.is_empty())
    );
}

#[test]
fn the_same_process_is_not_sent_what_it_reported_on() {
    let standing = with_wave(Phase::Running);
    let mut first = open(BOOT_1, NodeMemory::default(), &standing);
    first.receive(report(1, 0, &[1, 2], &[2]), seconds(3)).unwrap();
    let mut second = open(BOOT_1, closed(first), &standing);
    assert_eq!(kinds(&mut second), ["ownership", "lane", "token"]);
}

#[test]
fn the_same_process_is_sent_again_what_it_may_have_missed() {
    let standing = with_wave(Phase::Running);
    let first = open(BOOT_1, NodeMemory::default(), &standing);
    let mut second = open(BOOT_1, closed(first), &standing);
    assert_eq!(kinds(&mut second), ["ownership", "lane", "token", "wave"]);
}

#[test]
fn a_new_process_is_given_what_was_handed_and_not_open() {
    let standing = with_wave(Phase::Running);
    let partition = standing.owned.as_ref().unwrap().ownership.partitions_of(&node("a"))[1];
    let mut first = open(BOOT_1, NodeMemory::default(), &standing);
    first.receive(report(1, u32::from(partition.0), &[1, 2, 3], &[3]), seconds(3)).unwrap();
    let mut second = open(BOOT_2, closed(first), &standing);
    let messages = sent(&mut second);
    let Message::Wave(wave) = &messages[3] else { panic!("{messages:?}") };
    let done: Vec<_> = wave.shards.iter().filter(|s| !s.handed.is_empty()).collect();
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].partition, u32::from(partition.0));
    let ordinals = RoaringBitmap::deserialize_from(&done[0].handed[..]).unwrap();
    assert_eq!(ordinals.iter().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_report_goes_on_without_its_sets() {
    let mut session = open(BOOT_1, NodeMemory::default(), &with_wave(Phase::Running));
    notes(&mut session);
    session.receive(report(1, 0, &[1], &[1]), seconds(3)).unwrap();
    let notes = notes(&mut session);
    let [Note::Wave(WAVE, WaveNote::Report(report))] = &notes[..] else { panic!("{notes:?}") };
    assert!(report.sequence == 1 && report.handed.is_empty() && report.open.is_empty());
}

#[test]
fn a_lease_is_half_of_the_rate_for_half_of_the_partitions() {
    let mut session = open(BOOT_1, NodeMemory::default(), &with_wave(Phase::Running));
    sent(&mut session);
    notes(&mut session);
    session.receive(ask(9), seconds(3)).unwrap();
    let messages = sent(&mut session);
    let [Message::Grant(grant), Message::Slice(slice)] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert_eq!((grant.nonce, grant.lease_ms), (9, 5_000));
    let expected = wire::WaveGrant { wave: WAVE.0, rate_millis_per_second: 500_000, epoch: 1 };
    assert_eq!(grant.waves, [expected]);
    assert_eq!((slice.nonce, slice.lane, slice.lease_ms), (9, LANE.0, 5_000));
    assert_eq!((slice.rate_millis_per_second, slice.burst), (0, 0), "no quota");
    assert!(matches!(notes(&mut session)[..], [Note::Wave(WAVE, WaveNote::Granted)]));
}

fn slice(session: &mut Session, now: Time) -> Option<(u64, u32)> {
    session.receive(ask(1), now).unwrap();
    let slices = sent(session)
        .into_iter()
        .filter_map(|m| if let Message::Slice(s) = m { Some(s) } else { None });
    slices.map(|slice| (slice.rate_millis_per_second, slice.burst)).next()
}

#[test]
fn a_quota_is_sliced_once_no_former_lease_can_hold_and_a_new_process_begins_small() {
    let quota = Quota { per_minute: 6_000, burst: Some(600), ramp: Duration::ZERO };
    let standing = Arc::new(standing(Some(quota)));
    let mut first = open(BOOT_1, NodeMemory::default(), &standing);
    // (6,000 - 600) / 62 s = 87.096 a second, of which half.
    let rate = 43_548;
    assert_eq!(
        slice(&mut first, seconds(5)),
        None,
        "the coordinator has just started: another may have given slices"
    );
    assert_eq!(slice(&mut first, seconds(6)), Some((rate, 43)));
    assert_eq!(slice(&mut first, seconds(60)), Some((rate, 300)));
    let mut second = open(BOOT_2, closed(first), &standing);
    assert_eq!(slice(&mut second, seconds(65)), None, "its predecessor's lease ends");
    assert_eq!(slice(&mut second, seconds(66)), Some((rate, 43)));
    let mut again = open(BOOT_2, closed(second), &standing);
    assert_eq!(
        slice(&mut again, seconds(67)),
        Some((rate, 87)),
        "the same process: no lease is waited for"
    );
    assert_eq!(slice(&mut again, seconds(72)), Some((rate, 300)));
}

#[test]
fn a_lane_with_a_ramp_begins_small_when_a_wave_comes_after_a_pause() {
    let quota = Quota { per_minute: 60_000, burst: None, ramp: Duration::from_secs(60) };
    let mut holds = standing(Some(quota));
    let mut session = open(BOOT_1, NodeMemory::default(), &Arc::new(holds.clone()));
    let at = |session: &mut Session, holds: &Standing, second| {
        session.update(Arc::new(holds.clone()), seconds(second));
        slice(session, seconds(second)).unwrap().0
    };
    let whole = 475_806;
    assert_eq!(at(&mut session, &holds, 100), whole / 20, "cold");
    holds.apply(Change::Begin(StandingWave::clone(&wave(Phase::Running))), seconds(100));
    assert_eq!(at(&mut session, &holds, 100), whole / 20);
    assert_eq!(at(&mut session, &holds, 130), whole * 525 / 1_000);
    assert_eq!(at(&mut session, &holds, 160), whole);
    holds.apply(Change::Phase(WAVE, None), seconds(200));
    assert_eq!(at(&mut session, &holds, 200), whole);
    assert_eq!(at(&mut session, &holds, 230), whole * 525 / 1_000);
}

#[test]
fn a_lane_of_fcm_and_its_messages_say_so() {
    let mut standing = standing(None);
    let gateway =
        crate::lane::Gateway { platform: clarion_proto::app::Platform::Fcm, ..gateway(None) };
    let key = standing.lanes[&LANE].key.clone();
    standing.lanes.insert(LANE, Arc::new(LaneSpec { id: LANE, key, gateway: Arc::new(gateway) }));
    let mut plan = alert();
    plan.apps[0].request = PushRequest::Fcm { project: "p".to_owned() };
    plan.apps[0].messages[0].body_after_token = b"behind".as_slice().into();
    let of_fcm = StandingWave { plan: Arc::new(plan), ..(*wave(Phase::Running)).clone() };
    standing.waves.insert(WAVE, Arc::new(of_fcm));
    let mut session = open(BOOT_1, NodeMemory::default(), &Arc::new(standing));
    let messages = sent(&mut session);
    let (Message::Lane(lane), Message::Wave(wave)) = (&messages[1], &messages[3]) else {
        panic!("{messages:?}")
    };
    assert_eq!(lane.platform(), wire::LanePlatform::Fcm);
    let project = wire::app_messages::Request::Fcm(wire::FcmRequest { project: "p".to_owned() });
    assert_eq!(wave.apps[0].request, Some(project));
    assert_eq!(wave.apps[0].messages[0].body_after_token, b"behind".as_slice());
}

#[test]
fn there_are_no_grants_after_a_cancel_nor_after_the_end_of_the_time() {
    for (phase, now) in [(Phase::Cancelled, 3), (Phase::Closed, 3), (Phase::Running, 100)] {
        let mut session = open(BOOT_1, NodeMemory::default(), &with_wave(phase));
        sent(&mut session);
        session.receive(ask(1), seconds(now)).unwrap();
        let messages = sent(&mut session);
        assert!(
            matches!(&messages[0], Message::Grant(grant) if grant.waves.is_empty()),
            "{phase:?}: {messages:?}"
        );
    }
}

#[test]
fn a_cancel_is_sent_again_until_it_is_confirmed() {
    let running = with_wave(Phase::Running);
    let mut session = open(BOOT_1, NodeMemory::default(), &running);
    sent(&mut session);
    session.update(moved(&running, Phase::Cancelled), seconds(10));
    assert_eq!(kinds(&mut session), ["cancel"]);
    assert_eq!(session.deadline(), Some(seconds(11)));
    session.expire(seconds(11));
    assert_eq!(kinds(&mut session), ["cancel"]);
    session
        .receive(
            Said::Stopped(wire::Stopped { wave: WAVE.0, ..wire::Stopped::default() }),
            seconds(11),
        )
        .unwrap();
    assert_eq!(session.deadline(), None);
    session.update(without_wave(&running), seconds(12));
    assert_eq!(kinds(&mut session), ["end"]);
}

#[test]
fn a_process_that_never_had_the_wave_confirms_its_cancel_without_being_asked() {
    let mut session = open(BOOT_1, NodeMemory::default(), &with_wave(Phase::Cancelled));
    assert_eq!(kinds(&mut session), ["ownership", "lane", "token"]);
    assert!(matches!(
        notes(&mut session)[..],
        [Note::Wave(WAVE, WaveNote::Joined), Note::Wave(WAVE, WaveNote::Stopped(_))]
    ));
}

#[test]
fn a_wave_that_ended_while_the_node_was_away_is_ended_on_its_return() {
    let mut first = open(BOOT_1, NodeMemory::default(), &with_wave(Phase::Running));
    first.receive(report(1, 0, &[1], &[1]), seconds(3)).unwrap();
    let mut memory = closed(first);
    memory.forget_sets(WAVE);
    let mut second = open(BOOT_1, memory, &Arc::new(standing(None)));
    assert_eq!(kinds(&mut second), ["ownership", "lane", "token", "end"]);
    let mut third = open(BOOT_1, closed(second), &Arc::new(standing(None)));
    assert_eq!(kinds(&mut third), ["ownership", "lane", "token"], "once is enough");
}

#[test]
fn end_is_said_once() {
    let running = with_wave(Phase::Running);
    let mut session = open(BOOT_1, NodeMemory::default(), &running);
    sent(&mut session);
    session.update(moved(&running, Phase::Ended), seconds(5));
    assert_eq!(kinds(&mut session), ["end"]);
    session.update(without_wave(&running), seconds(6));
    assert_eq!(kinds(&mut session), [""; 0]);
}

#[test]
fn an_expired_wave_is_not_given_to_a_node_that_comes_now() {
    let mut session = open(BOOT_1, NodeMemory::default(), &with_wave(Phase::Closed));
    assert_eq!(kinds(&mut session), ["ownership", "lane", "token"]);
}

#[test]
fn a_refused_wave_is_offered_again_with_the_ownership_that_it_needs() {
    let mut session = open(BOOT_1, NodeMemory::default(), &with_wave(Phase::Running));
    sent(&mut session);
    notes(&mut session);
    let refusal = wire::Refusal {
        ownership: 4,
        wave: WAVE.0,
        reason: "ownership".to_owned(),
        ..wire::Refusal::default()
    };
    session.receive(Said::Refusal(refusal), seconds(3)).unwrap();
    assert_eq!(kinds(&mut session), [""; 0], "not at once: no refusal without end");
    assert!(matches!(notes(&mut session)[..], [Note::Fault(_)]));
    session.expire(seconds(4));
    assert_eq!(kinds(&mut session), ["ownership", "wave"]);
}

#[test]
fn a_question_is_asked_once_in_each_session() {
    let mut with_count = standing(None);
    let plan = CountPlan {
        bands: alert().bands,
        apps: vec![alert().apps[0].app.clone()],
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
    };
    with_count.counts.insert(3, Arc::new(plan));
    let with_count = Arc::new(with_count);
    let mut session = open(BOOT_1, NodeMemory::default(), &with_count);
    assert_eq!(kinds(&mut session), ["ownership", "lane", "token", "count"]);
    session.update(with_count.clone(), seconds(3));
    assert_eq!(kinds(&mut session), [""; 0]);
    let mut again = open(BOOT_1, closed(session), &with_count);
    assert_eq!(kinds(&mut again), ["ownership", "lane", "token", "count"]);
}

#[test]
fn a_node_that_asks_and_does_not_read_loses_its_session() {
    let mut session = open(BOOT_1, NodeMemory::default(), &with_wave(Phase::Running));
    let ended =
        (0..OUTBOX_MAX as u64).find(|nonce| session.receive(ask(*nonce), seconds(3)).is_err());
    assert!(
        ended.is_some_and(|at| at < OUTBOX_MAX as u64 / 2 + 1),
        "two answers for each request: {ended:?}"
    );
}

#[test]
fn a_node_is_told_its_part_of_a_budget_once_it_has_said_how_it_uses_what_it_has() {
    let mut standing = standing(None);
    let lane = *standing.lanes.keys().next().expect("a lane");
    standing.connections.insert(lane, 7);
    let mut session = open(BootId([1; 16]), NodeMemory::default(), &Arc::new(standing.clone()));
    let told = |session: &mut Session| -> Vec<u32> {
        let connections = |m: SessionRequest| match m.message {
            Some(Message::Connections(c)) => Some(c.connections),
            _ => None,
        };
        std::iter::from_fn(|| session.poll_message()).filter_map(connections).collect()
    };
    assert!(told(&mut session).is_empty(), "what it has may be what it needs");
    let load = wire::LaneLoad { lane: lane.0, connections: 3, ..wire::LaneLoad::default() };
    session.receive(session_response::Message::LaneLoad(load.clone()), seconds(3)).expect("reads");
    assert!(matches!(session.poll_note(), Some(Note::Load(said)) if said == load));
    assert_eq!(told(&mut session), [4], "of two nodes with as many partitions the first");
    standing.connections.insert(lane, 6);
    session.update(Arc::new(standing.clone()), seconds(3));
    session.update(Arc::new(standing), seconds(3));
    assert_eq!(told(&mut session), [3]);
}

#[test]
fn a_wave_of_a_former_coordinator_is_cancelled_and_ended_at_a_node_that_was_never_offered_it() {
    let taken_over = |phase| {
        let plan = PlannedAlert { epoch: Epoch(2), ..alert() };
        let mut standing = standing(None);
        let of_former = StandingWave { plan: Arc::new(plan), ..(*wave(phase)).clone() };
        standing.waves.insert(WAVE, Arc::new(of_former));
        Arc::new(standing)
    };
    let cancelled = taken_over(Phase::Cancelled);
    let mut session = open(BOOT_1, NodeMemory::default(), &cancelled);
    let messages = sent(&mut session);
    let Some(Message::Cancel(cancel)) = messages.last() else { panic!("{messages:?}") };
    assert_eq!((cancel.wave, cancel.epoch), (WAVE.0, 2));
    session.update(without_wave(&cancelled), seconds(3));
    assert_eq!(kinds(&mut session), ["end"]);
    // What has run out is not offered, and the node is told of the end.
    let closed = taken_over(Phase::Closed);
    let mut session = open(BOOT_1, NodeMemory::default(), &closed);
    assert_eq!(kinds(&mut session), ["ownership", "lane", "token"]);
    session.update(without_wave(&closed), seconds(3));
    assert_eq!(kinds(&mut session), ["end"]);
}
