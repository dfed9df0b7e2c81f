//! Parts in, messages out: by hand, and in any order that a session can bring them.

use clarion_proto::ids::PartitionId;
use h3o::{CellIndex, LatLng, Resolution};
use proptest::prelude::*;

use super::*;

const NOW: Time = Time(1_000_000);

/// `count` neighbouring cells of resolution 9 from the `first` on: bands are taken from disjoint
/// runs.
fn cells(first: usize, count: usize) -> Vec<u64> {
    let parent = LatLng::new(22.54, 114.06).unwrap().to_cell(Resolution::Five);
    let cells: Vec<CellIndex> = parent.children(Resolution::Nine).skip(first).take(count).collect();
    assert_eq!(cells.len(), count, "a cell of resolution 5 has 2,401");
    cells.into_iter().map(u64::from).collect()
}

fn band(from_m: f64) -> wire::Band {
    wire::Band { from_meters: from_m, to_meters: from_m + 1_000.0, cells: Vec::new() }
}

fn body() -> wire::LocaleMessage {
    wire::LocaleMessage {
        locale: "en".to_owned(),
        body: bytes::Bytes::from_static(b"{}"),
        ..Default::default()
    }
}

fn bitmap(ordinals: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    ordinals.into_iter().collect::<RoaringBitmap>().serialize_into(&mut bytes).unwrap();
    bytes
}

/// A wave of two bands and two partitions, of so many cells.
fn head(id: u64, delivery: u32, cover_cells: u64) -> SessionRequest {
    let shard = |partition| wire::ShardWork { partition, start_position: 0, handed: Vec::new() };
    say(Wire::Wave(wire::Wave {
        id,
        alert: "alerts/child".to_owned(),
        epoch: 1,
        ownership: 1,
        bands: vec![band(0.0), band(1_000.0)],
        shards: vec![shard(0), shard(1)],
        apps: vec![wire::AppMessages {
            app: "demo".to_owned(),
            lane: 1,
            request: Some(wire::app_messages::Request::Apns(wire::ApnsRequest {
                topic: "org.example.demo".to_owned(),
                push_type: "alert".to_owned(),
                priority: 10,
                expiration: 1_800_000_000,
                collapse_id: "child".to_owned(),
            })),
            messages: Vec::new(),
        }],
        expires_in_ms: 60_000,
        delivery,
        cover_cells,
        ..wire::Wave::default()
    }))
}

fn count(id: u64, cover_cells: u64) -> SessionRequest {
    let bands = vec![band(0.0), band(1_000.0)];
    let apps = vec!["demo".to_owned()];
    say(Wire::Count(wire::Count {
        id,
        bands,
        apps,
        delivery: 1,
        cover_cells,
        ..wire::Count::default()
    }))
}

fn say(message: Wire) -> SessionRequest {
    SessionRequest { message: Some(message) }
}

fn part(of: Of, delivery: u32, number: u32) -> wire::CoverPart {
    wire::CoverPart { of: Some(of), delivery, number, ..wire::CoverPart::default() }
}

/// All parts of a wave: 5 cells in each band, 2 cells to a part, then its message and what was
/// handed.
fn parts(id: u64, delivery: u32) -> Vec<wire::CoverPart> {
    let mut parts = Vec::new();
    for band in 0..2_u32 {
        for run in cells(band as usize * 500, 5).chunks(2) {
            let bands = vec![wire::BandCells { band, cells: run.to_vec() }];
            parts.push(wire::CoverPart { bands, ..part(Of::Wave(id), delivery, 0) });
        }
    }
    let apps = vec![wire::AppPart { app: 0, messages: vec![body()] }];
    let shards =
        vec![wire::ShardWork { partition: 1, handed: bitmap([1, 2, 70_000]), start_position: 0 }];
    parts.push(wire::CoverPart { apps, shards, ..part(Of::Wave(id), delivery, 0) });
    let shards =
        vec![wire::ShardWork { partition: 1, handed: bitmap([200_000]), start_position: 0 }];
    parts.push(wire::CoverPart { shards, last: true, ..part(Of::Wave(id), delivery, 0) });
    for (number, part) in (0..).zip(&mut parts) {
        part.number = number;
    }
    parts
}

fn assert_whole(message: &Message, id: u64) {
    let Message::Wave(wave) = message else { panic!("{message:?}") };
    assert_eq!((wave.id, wave.bands, wave.apps[0].messages.len()), (WaveId(id), 2, 1));
    for (number, first) in [(0, 0), (1, 500)] {
        for cell in cells(first, 5) {
            let cell = CellIndex::try_from(cell).unwrap();
            assert_eq!(wave.cover.band_of(cell.into()), Some(number));
        }
    }
    let handed: Vec<_> =
        wave.shards.iter().map(|s| (s.partition, s.handed.iter().collect::<Vec<_>>())).collect();
    assert_eq!(handed, [(PartitionId(0), vec![]), (PartitionId(1), vec![1, 2, 70_000, 200_000])]);
}

fn refusal(taken: Option<Result<Message, Rejected>>) -> Rejected {
    taken.expect("an answer").expect_err("refused")
}

#[test]
fn a_wave_in_parts_is_taken_with_the_last_of_them_and_gives_its_room_back() {
    let room = Room::default();
    let mut assembly = Assembly::new(room.clone());
    assert!(assembly.take(head(7, 1, 10), NOW).is_none());
    let mut parts = parts(7, 1);
    let last = parts.pop().unwrap();
    for part in parts {
        assert!(assembly.take(say(Wire::CoverPart(part)), NOW).is_none());
    }
    let message =
        assembly.take(say(Wire::CoverPart(last)), NOW + Duration::from_secs(1)).unwrap().unwrap();
    assert_whole(&message, 7);
    let Message::Wave(wave) = message else { unreachable!() };
    assert_eq!(wave.expires, NOW + Duration::from_secs(60), "its time runs from its head");
    assert_eq!(assembly.under_way(), 0);
    assert!(room.taken() > 0);
    drop(wave);
    assert_eq!(room.taken(), 0);
}

#[test]
fn a_count_in_parts() {
    let mut assembly = Assembly::new(Room::default());
    assert!(assembly.take(count(3, 4), NOW).is_none());
    let bands = vec![wire::BandCells { band: 1, cells: cells(0, 4) }];
    let only = wire::CoverPart { bands, last: true, ..part(Of::Count(3), 1, 0) };
    let message = assembly.take(say(Wire::CoverPart(only)), NOW).unwrap().unwrap();
    let Message::Count(count) = message else { panic!("{message:?}") };
    assert_eq!((count.id, count.bands, count.apps.len()), (3, 2, 1));
}

#[test]
fn cancel_end_a_new_try_and_the_end_of_the_session_drop_what_is_incomplete() {
    let room = Room::default();
    let cancel = wire::Cancel { wave: 7, epoch: 1 };
    for (what, message) in [
        ("cancel", say(Wire::Cancel(cancel))),
        ("end", say(Wire::End(wire::End { wave: 7, epoch: 1 }))),
    ] {
        let mut assembly = Assembly::new(room.clone());
        assembly.take(head(7, 1, 10), NOW);
        let parts = parts(7, 1);
        assembly.take(say(Wire::CoverPart(parts[0].clone())), NOW);
        assert!(matches!(assembly.take(message, NOW), Some(Ok(_))), "{what} goes on");
        assert_eq!((assembly.under_way(), room.taken()), (0, 0), "{what}");
        assert!(
            assembly.take(say(Wire::CoverPart(parts[1].clone())), NOW).is_none(),
            "late parts are ignored"
        );
    }
    let mut assembly = Assembly::new(room.clone());
    assembly.take(head(7, 1, 10), NOW);
    let former = parts(7, 1);
    assembly.take(say(Wire::CoverPart(former[0].clone())), NOW);
    assembly.take(head(7, 2, 10), NOW);
    assert!(
        assembly.take(say(Wire::CoverPart(former[1].clone())), NOW).is_none(),
        "of the former try"
    );
    let mut taken =
        parts(7, 2).into_iter().filter_map(|part| assembly.take(say(Wire::CoverPart(part)), NOW));
    assert_whole(&taken.next().unwrap().unwrap(), 7);
    assembly_is_dropped(&room);
}

fn assembly_is_dropped(room: &Room) {
    let mut assembly = Assembly::new(room.clone());
    let before = room.taken();
    assembly.take(head(8, 1, 10), NOW);
    assert!(room.taken() > before);
    drop(assembly);
    assert_eq!(room.taken(), before);
}

#[test]
fn the_smallest_heads_take_the_room_that_they_use() {
    let room = Room::new(64 << 10);
    let mut assembly = Assembly::new(room.clone());
    let small = |id| {
        let bands = vec![band(0.0)];
        say(Wire::Count(wire::Count { id, bands, delivery: 1, ..wire::Count::default() }))
    };
    let refused = (1..10_000).find_map(|id| assembly.take(small(id), NOW)).unwrap().unwrap_err();
    assert_eq!(refused.cause, Cause::Room);
    let used = assembly.under_way() * size_of::<Partial>();
    assert!(used <= room.taken(), "{used} bytes");
    assert!(assembly.under_way() > 32, "{}", assembly.under_way());
}

#[test]
fn what_nobody_waits_for_any_more_goes() {
    let mut assembly = Assembly::new(Room::default());
    assembly.take(head(7, 1, 10), NOW);
    assembly.take(count(3, 10), NOW);
    let grant = || say(Wire::Grant(wire::Grant { nonce: 1, lease_ms: 5_000, waves: Vec::new() }));
    assembly.take(grant(), NOW + Duration::from_secs(29));
    assert_eq!(assembly.under_way(), 2);
    assembly.take(grant(), NOW + Duration::from_secs(31));
    assert_eq!(assembly.under_way(), 1, "whoever asked has given up");
    assembly.take(grant(), NOW + Duration::from_secs(60));
    assert_eq!(assembly.under_way(), 0, "the alert's time is over");
}

#[test]
fn defects_of_parts_are_refused_by_name_and_drop_the_partial() {
    let bad = |spoil: fn(&mut wire::CoverPart)| {
        let mut assembly = Assembly::new(Room::default());
        assembly.take(head(7, 1, 10), NOW);
        let mut part = parts(7, 1).swap_remove(0);
        spoil(&mut part);
        let rejected = refusal(assembly.take(say(Wire::CoverPart(part)), NOW));
        assert_eq!((rejected.about, rejected.cause), (About::Wave(WaveId(7)), Cause::Message));
        assert_eq!(assembly.under_way(), 0);
        rejected.problem.to_string()
    };
    assert_eq!(bad(|p| p.number = 1), "wave.cover_part.number: part 1: must be 0, the next part");
    assert_eq!(
        bad(|p| p.bands[0].band = 2),
        "wave.cover_part.bands: part 0: band 2: must be below the number of bands; got 2 bands"
    );
    assert!(
        bad(|p| p.bands[0].cells = cells(0, 11))
            .contains("must have at most 10 cells, as announced; got 11")
    );
    assert!(bad(|p| p.bands[0].cells[1] = 7).contains("must be an H3 cell index"));
    assert!(bad(|p| p.last = true).contains("must be the number of cells in all parts, 2; got 10"));
    assert!(
        bad(|p| p.apps = vec![wire::AppPart { app: 1, messages: vec![body()] }])
            .contains("app must be below 1; got 1")
    );
    assert!(
        bad(|p| p.apps = vec![wire::AppPart { app: 0, messages: vec![body(); 65] }])
            .contains("at most 64 messages")
    );
    let handed = |p: &mut wire::CoverPart| {
        p.shards = vec![wire::ShardWork { partition: 0, handed: vec![1, 2, 3], start_position: 0 }];
    };
    assert!(bad(handed).contains("partition 0"));
}

#[test]
fn a_head_says_what_comes_and_too_much_is_refused_before_it_is_sent() {
    let room = Room::new(10_000);
    let mut assembly = Assembly::new(room.clone());
    let rejected = refusal(assembly.take(head(7, 1, 200_001), NOW));
    assert_eq!(
        rejected.problem.to_string(),
        "wave.cover_cells: must be at most 200000; got 200001"
    );
    let Some(Wire::Wave(mut with_cells)) = head(7, 1, 1).message else { unreachable!() };
    with_cells.bands[0].cells = cells(0, 1);
    assert!(
        refusal(assembly.take(say(Wire::Wave(with_cells)), NOW))
            .problem
            .to_string()
            .contains("sent in parts")
    );

    // Every other cell: no two of them make one range.
    let apart: Vec<u64> = cells(0, 2_000).into_iter().step_by(2).collect();
    assembly.take(head(9, 1, 1_000), NOW);
    let bands = vec![wire::BandCells { band: 0, cells: apart }];
    let rejected = refusal(
        assembly
            .take(say(Wire::CoverPart(wire::CoverPart { bands, ..part(Of::Wave(9), 1, 0) })), NOW),
    );
    assert_eq!((rejected.about, rejected.cause), (About::Wave(WaveId(9)), Cause::Room));
    assert!(rejected.problem.to_string().contains("room for 10000 bytes"), "{}", rejected.problem);
    assert_eq!((assembly.under_way(), room.taken()), (0, 0), "a refusal, and nothing stays");
}

/// What a session may bring: the parts of three waves in any interleaving, each part up to three
/// times.
fn sessions() -> impl Strategy<Value = Vec<(u64, usize, usize)>> {
    prop::collection::vec((1..4_u64, 0..10_usize, 1..4_usize), 1..60)
}

proptest! {
    /// Any interleaving of waves, repeated parts, and sessions that are lost and begun again: each
    /// wave that was sent whole in one session is taken whole exactly once, nothing is refused, and
    /// no room leaks.
    #[test]
    fn any_interleaving_gives_whole_waves_or_nothing(turns in sessions(), lost in 0..60_usize) {
        let room = Room::default();
        let mut assembly = Assembly::new(room.clone());
        let mut next: BTreeMap<u64, usize> = BTreeMap::new();
        let mut taken = Vec::new();
        for (turn, (wave, back, times)) in turns.into_iter().enumerate() {
            if turn == lost {
                assembly = Assembly::new(room.clone());
                next.clear();
            }
            let all = parts(wave, 1);
            let at = next.entry(wave).or_default();
            if *at == 0 {
                prop_assert!(assembly.take(head(wave, 1, 10), NOW).is_none());
            }
            if *at >= all.len() {
                continue;
            }
            // The one whose turn it is, perhaps an earlier one before it, perhaps repeated.
            let again = at.checked_sub(back).filter(|_| back > 0);
            for number in again.into_iter().chain(std::iter::repeat_n(*at, times)) {
                match assembly.take(say(Wire::CoverPart(all[number].clone())), NOW) {
                    None => {}
                    Some(Ok(message)) => {
                        assert_whole(&message, wave);
                        prop_assert_eq!(number, all.len() - 1);
                        taken.push(message);
                    }
                    Some(Err(rejected)) => prop_assert!(false, "{rejected:?}"),
                }
            }
            *at += 1;
            let whole = next.values().filter(|at| **at == all.len()).count();
            prop_assert_eq!(assembly.under_way(), next.len() - whole);
        }
        drop((assembly, taken));
        prop_assert_eq!(room.taken(), 0);
    }
}
