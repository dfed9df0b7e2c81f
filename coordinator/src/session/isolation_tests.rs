//! Waves and counts that a node does not take, and what is too large for one message.

use std::collections::BTreeSet;

use clarion_proto::ids::UnixMillis;
use clarion_proto::limits::{PART_BYTES_MAX, REQUEST_BYTES_MAX};
use h3o::{CellIndex, LatLng, Resolution};
use prost::Message as _;
use session_response::Message as Said;
use wire::{RefusalCause, cover_part::Of};

use super::*;
use crate::{
    bands::Band,
    fixtures::*,
    planned::{CountPlan, PlannedAlert},
    standing::StandingWave,
};

const LOG: LogIdentity = LogIdentity([9; 16]);

fn plan(id: u64, cells: usize) -> Arc<StandingWave> {
    let parent = LatLng::new(22.54, 114.06).unwrap().to_cell(Resolution::Two);
    let mut all: Vec<CellIndex> = parent.children(Resolution::Eight).take(cells).collect();
    assert_eq!(all.len(), cells);
    let far = all.split_off(cells / 3);
    let bands = vec![
        Band { from_m: 0.0, to_m: 1e3, cells: all },
        Band { from_m: 1e3, to_m: 2e3, cells: far },
    ];
    let plan = PlannedAlert { wave: WaveId(id), bands: bands.into(), ..alert() };
    Arc::new(StandingWave {
        plan: Arc::new(plan),
        ..Arc::into_inner(wave(Phase::Running)).unwrap()
    })
}

fn with(waves: &[Arc<StandingWave>]) -> Arc<Standing> {
    let mut standing = standing(None);
    standing.waves.extend(waves.iter().map(|wave| (wave.plan.wave, wave.clone())));
    Arc::new(standing)
}

fn open(memory: NodeMemory, standing: &Arc<Standing>, at: Time) -> Session {
    Session::open((node("a"), BOOT_1), LOG, memory, standing.clone(), at)
}

/// All messages but parts; ids of the waves among them.
fn waves_sent(session: &mut Session) -> Vec<u64> {
    let wave = |request: SessionRequest| match request.message {
        Some(Message::Wave(wave)) => Some(wave.id),
        _ => None,
    };
    std::iter::from_fn(|| session.poll_message()).filter_map(wave).collect()
}

fn isolated(notes: impl IntoIterator<Item = Note>) -> Vec<(u64, String)> {
    let isolated = |note| match note {
        Note::Wave(wave, WaveNote::Isolated(reason)) => Some((wave.0, reason)),
        _ => None,
    };
    notes.into_iter().filter_map(isolated).collect()
}

fn notes(session: &mut Session) -> Vec<Note> {
    std::iter::from_fn(|| session.poll_note()).collect()
}

/// Lists what the node has.
fn asks(waves: &[u64]) -> Said {
    Said::LeaseRequest(wire::LeaseRequest { nonce: 1, waves: waves.to_vec(), lanes: Vec::new() })
}

fn refuses(wave: u64, cause: RefusalCause) -> Said {
    let (ownership, reason) = (5, "wave.bands: no".to_owned());
    Said::Refusal(wire::Refusal {
        ownership,
        wave,
        reason,
        cause: cause.into(),
        ..wire::Refusal::default()
    })
}

#[test]
fn a_wide_wave_travels_in_parts_that_others_overtake() {
    let (wide, small) = (plan(1, 100_000), plan(2, 3));
    let mut session =
        open(NodeMemory::default(), &with(&[wide.clone(), plan(3, 50_000)]), seconds(2));
    assert!(!session.has_part(), "not before its head");
    let heads: Vec<_> = std::iter::from_fn(|| session.poll_message()).collect();
    assert!(heads.iter().all(|m| m.encoded_len() <= REQUEST_BYTES_MAX));
    let Some(Message::Wave(head)) = &heads[3].message else { panic!("{heads:?}") };
    assert_eq!((head.id, head.delivery, head.cover_cells, head.bands.len()), (1, 1, 100_000, 2));
    assert!(
        head.bands.iter().all(|band| band.cells.is_empty()) && head.apps[0].messages.is_empty()
    );

    let mut cells = [Vec::new(), Vec::new()];
    let mut order = Vec::new();
    let mut messages = 0;
    while session.has_part() {
        if order.len() == 2 {
            session.update(with(&[wide.clone(), plan(3, 50_000), small.clone()]), seconds(3));
            assert_eq!(waves_sent(&mut session), [2], "a small one does not wait for a wide one");
        }
        let part = session.poll_part().unwrap();
        assert!(part.encoded_len() <= PART_BYTES_MAX + 1_024, "{}", part.encoded_len());
        let Some(Message::CoverPart(part)) = part.message else { panic!() };
        let Some(Of::Wave(wave)) = part.of else { panic!() };
        assert_eq!(part.number as usize, order.iter().filter(|w| **w == wave).count());
        order.push(wave);
        if wave == 1 {
            part.bands.iter().for_each(|b| cells[b.band as usize].extend(&b.cells));
            messages += part.apps.iter().map(|app| app.messages.len()).sum::<usize>();
        }
    }
    assert_eq!(order, [1, 3, 1, 3, 1, 1], "in turn");
    let sent =
        |band: usize| wide.plan.bands[band].cells.iter().map(|c| u64::from(*c)).collect::<Vec<_>>();
    assert_eq!((cells, messages), ([sent(0), sent(1)], 1));
}

#[test]
fn what_former_processes_handed_over_travels_in_parts_too() {
    let wave = plan(1, 10);
    let standing = with(&[wave]);
    let partition =
        u32::from(standing.owned.as_ref().unwrap().ownership.partitions_of(&node("a"))[0].0);
    let mut session = open(NodeMemory::default(), &standing, seconds(2));
    let handed: roaring::RoaringBitmap = (0..5_000_000).filter(|n| n % 3 != 0).collect();
    let mut ordinals = Vec::new();
    handed.serialize_into(&mut ordinals).unwrap();
    let set = wire::OrdinalSet { partition, ordinals: ordinals.into() };
    let report =
        wire::Report { wave: 1, sequence: 1, handed: vec![set], ..wire::Report::default() };
    session.receive(Said::Report(report), seconds(3)).unwrap();
    let mut next = Session::open(
        (node("a"), BOOT_2),
        LOG,
        session.close(Some("reset")).0,
        standing.clone(),
        seconds(4),
    );
    assert_eq!(waves_sent(&mut next), [1]);
    let mut told = roaring::RoaringBitmap::new();
    while let Some(part) = next.poll_part() {
        assert!(part.encoded_len() <= PART_BYTES_MAX + 1_024, "{}", part.encoded_len());
        let Some(Message::CoverPart(part)) = part.message else { panic!() };
        for shard in part.shards {
            assert_eq!(shard.partition, partition);
            told |= roaring::RoaringBitmap::deserialize_from(&shard.handed[..]).unwrap();
        }
    }
    assert!(told == handed);
}

#[test]
fn a_refusal_or_a_cancel_in_the_middle_ends_the_parts() {
    let wide = plan(1, 100_000);
    let mut session = open(NodeMemory::default(), &with(std::slice::from_ref(&wide)), seconds(2));
    waves_sent(&mut session);
    session.poll_part().unwrap();
    session.receive(refuses(1, RefusalCause::Room), seconds(3)).unwrap();
    assert!(!session.has_part());
    session.expire(seconds(4));
    assert_eq!(waves_sent(&mut session), [1], "a second try");
    let Some(Message::CoverPart(part)) = session.poll_part().unwrap().message else { panic!() };
    assert_eq!((part.delivery, part.number), (2, 0));
    let mut cancelled = Standing::clone(&with(&[]));
    let plan = StandingWave { phase: Phase::Cancelled, ..(*wide).clone() };
    cancelled.waves.insert(WaveId(1), Arc::new(plan));
    session.update(Arc::new(cancelled), seconds(5));
    assert!(!session.has_part());
    let mut sent = std::iter::from_fn(|| session.poll_message());
    assert!(sent.any(|m| matches!(m.message, Some(Message::Cancel(_)))));
}

#[test]
fn a_node_that_always_refuses_a_wave_is_sent_it_three_times() {
    let standing = with(&[plan(1, 3), plan(2, 3)]);
    let mut session = open(NodeMemory::default(), &standing, seconds(2));
    let (mut sends, mut told) = (0, Vec::new());
    for second in 3..60 {
        let arrived = waves_sent(&mut session);
        session.receive(asks(&[2]), seconds(second)).unwrap();
        if arrived.contains(&1) {
            sends += 1;
            session.receive(refuses(1, RefusalCause::Message), seconds(second)).unwrap();
        }
        session.expire(seconds(second));
        told.extend(isolated(notes(&mut session)));
    }
    assert_eq!(sends, 3);
    assert_eq!(told, [(1, "wave.bands: no".to_owned())]);
    session.expire(seconds(600));
    session.update(standing.clone(), seconds(600));
    assert_eq!(waves_sent(&mut session), [0; 0], "never a fourth time");
    // Nor in the next session, or to the next process; who comes is told so.
    let mut next = Session::open(
        (node("a"), BOOT_2),
        LOG,
        session.close(Some("reset")).0,
        standing.clone(),
        seconds(700),
    );
    assert_eq!(waves_sent(&mut next), [2]);
    next.receive(asks(&[2]), seconds(710)).unwrap();
    assert_eq!(waves_sent(&mut next), [0; 0]);
    assert_eq!(isolated(notes(&mut next)), [(1, "wave.bands: no".to_owned())]);
    // The node has it after all: it goes on as if nothing had been.
    next.receive(
        Said::Report(wire::Report { wave: 1, sequence: 1, ..wire::Report::default() }),
        seconds(711),
    )
    .unwrap();
    next.update(standing, seconds(712));
    assert!(isolated(notes(&mut next)).is_empty());
}

#[test]
fn what_breaks_every_session_is_isolated_and_all_others_go_on() {
    let waves: Vec<_> = (1..=6).map(|id| plan(id, 3)).collect();
    let standing = with(&waves);
    let mut memory = NodeMemory::default();
    let (mut sends, mut taken, mut told) = (0, BTreeSet::new(), Vec::new());
    // Wave 4 breaks the node: each session ends when it arrives, and another process comes.
    for session_number in 0..12_u8 {
        let begin = 10 * u64::from(session_number);
        let mut session = Session::open(
            (node("a"), BootId([session_number; 16])),
            LOG,
            memory,
            standing.clone(),
            seconds(begin),
        );
        let mut known = Vec::new();
        let mut broken = false;
        for second in 0..9 {
            let arrived = waves_sent(&mut session);
            sends += arrived.iter().filter(|wave| **wave == 4).count();
            if arrived.contains(&4) {
                broken = true;
                break;
            }
            known.extend(arrived);
            taken.extend(known.iter().copied());
            session.receive(asks(&known), seconds(begin + second)).unwrap();
        }
        told.extend(isolated(notes(&mut session)));
        let (next, last) = session.close(broken.then_some("the stream broke: reset"));
        memory = next;
        told.extend(isolated(last));
    }
    assert_eq!((sends, taken), (3, BTreeSet::from([1, 2, 3, 5, 6])));
    assert!(
        told.iter().all(|t| *t == (4, "the stream broke: reset".to_owned())) && !told.is_empty(),
        "{told:?}"
    );
}

#[test]
fn a_node_that_is_shutting_down_condemns_nothing() {
    let standing = with(&[plan(1, 3)]);
    let mut session = open(NodeMemory::default(), &standing, seconds(2));
    for second in 3..20 {
        waves_sent(&mut session);
        session.receive(refuses(1, RefusalCause::Draining), seconds(second)).unwrap();
        session.expire(seconds(second + 1));
    }
    assert!(isolated(notes(&mut session)).is_empty());
}

#[test]
fn another_ownership_is_another_message() {
    let standing = with(&[plan(1, 3)]);
    let mut session = open(NodeMemory::default(), &standing, seconds(2));
    for second in [3, 5, 20, 40] {
        waves_sent(&mut session);
        session.receive(refuses(1, RefusalCause::Superseded), seconds(second)).unwrap();
        session.expire(seconds(second + 10));
    }
    assert_eq!(isolated(notes(&mut session)).len(), 1);
    let mut next = Standing::clone(&standing);
    let names = [node("a"), node("b")];
    let ownership = crate::owners::Ownership::assign(6, PARTITIONS, &names);
    next.owned = Some(Arc::new(Owned::new(ownership, PARTITIONS, PARTITIONS)));
    let mut session =
        Session::open((node("a"), BOOT_1), LOG, session.close(None).0, Arc::new(next), seconds(60));
    assert_eq!(waves_sent(&mut session), [1]);
}

#[test]
fn a_count_that_is_refused_fails_at_once() {
    let mut with_count = standing(None);
    let plan = |cells| CountPlan {
        bands: plan(1, cells).plan.bands.clone(),
        apps: vec![alert().apps[0].app.clone()],
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
    };
    with_count.counts.insert(3, Arc::new(plan(100_000)));
    let mut session = open(NodeMemory::default(), &Arc::new(with_count), seconds(2));
    waves_sent(&mut session);
    session.poll_part().unwrap();
    let refusal = wire::Refusal {
        ownership: 5,
        count: 3,
        reason: "full".to_owned(),
        ..wire::Refusal::default()
    };
    let refusal = wire::Refusal { cause: RefusalCause::Room.into(), ..refusal };
    session.receive(Said::Refusal(refusal), seconds(3)).unwrap();
    assert!(!session.has_part());
    let failed = notes(&mut session).into_iter().find_map(|note| match note {
        Note::CountFailed { id, reason, again } => Some((id, reason, again)),
        _ => None,
    });
    assert_eq!(failed, Some((3, "full".to_owned(), true)));
}
