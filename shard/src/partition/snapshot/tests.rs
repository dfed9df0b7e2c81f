//! A snapshot is read as it was written, at any pace and with any changes meanwhile, and nothing
//! else is ever read.

use clarion_proto::ids::{Ordinal, PartitionId, Position, UnixMillis};
use proptest::prelude::*;

use super::{
    super::{
        Change, Partition, Record, Vocabulary,
        tests::{HOUR_MS, START_MS, cell, contents, history, record, registration, rest},
    },
    *,
};

/// Writes the snapshot of a partition at once.
fn written(partition: &mut Partition, words: &Vocabulary, position: Position) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = partition.begin_snapshot_with(position, words, (COPIES_MAX, 5), &mut out);
    while writer.next(partition, words, &mut out).expect("nothing changes meanwhile") {}
    out
}

fn read(bytes: &[u8], words: &mut Vocabulary) -> Result<Restored, SnapshotError> {
    let mut reader = SnapshotReader::with_pages(7, 8);
    reader.push(bytes, words)?;
    reader.finish()
}

/// Creates a partition with every kind of row: registered, muted, unplaced, places alone,
/// tombstones, resting ordinals, a person, both kinds of token.
fn example() -> (Partition, Vocabulary) {
    let (mut partition, mut words) =
        (Partition::with_pages(PartitionId(77), 7, 8), Vocabulary::new());
    for (hour, record) in example_log() {
        partition.apply(UnixMillis(START_MS + hour * HOUR_MS), &record, &mut words);
    }
    (partition, words)
}

/// The example with a limit of expiry, in the middle of the sweep that follows.
fn swept_example() -> (Partition, Vocabulary) {
    let (mut partition, mut words) = example();
    let limit = Change::Expiry(registration(0).app);
    for change in [limit, Change::Mute(false), Change::Mute(false)] {
        let record = record(39, START_MS + 2, change);
        partition.apply(UnixMillis(START_MS + 33 * HOUR_MS), &record, &mut words);
    }
    (partition, words)
}

fn example_log() -> Vec<(u64, Record)> {
    let mut log = Vec::new();
    for n in 0..40 {
        log.push((0, record(n, START_MS + 1, Change::Arrival(registration(n), cell(n % 9)))));
    }
    for n in 0..8 {
        log.push((0, record(n, START_MS + 2, Change::Removal)));
    }
    for n in 38..46 {
        log.push((30, record(n, START_MS + 3, Change::Place(cell(n)))));
    }
    for n in 10..14 {
        log.push((31, record(n, START_MS + 4, Change::Mute(true))));
        log.push((31, record(n + 8, START_MS + 4, Change::Removal)));
    }
    log.push((32, record(60, START_MS + 5, Change::Registration(registration(60)))));
    let mut fcm = registration(61);
    fcm.token = clarion_proto::device::Token::new(
        format!("{}:APA91b{}", "x".repeat(22), "Yz-_".repeat(33)).into(),
    )
    .unwrap();
    log.push((32, record(61, START_MS + 5, Change::Arrival(fcm, cell(3)))));
    log
}

proptest! {


    /// A snapshot has the state of the moment when it began, in any order of records and sections,
    /// and a reader that continues from it reaches the state of the writer.
    #[test]
    fn is_of_the_moment_when_it_began(history in history(), begin in 0usize..200, every in 1usize..40) {
        let mut partition = Partition::with_pages(PartitionId(3), 7, 4);
        let mut words = Vocabulary::new();
        let (mut writing, mut expected, mut out) = (None, None, Vec::new());
        let (mut now, mut behind) = (START_MS, Vec::new());
        for (n, (device, observed, passed, change)) in history.into_iter().enumerate() {
            if n == begin {
                expected = Some((contents(&partition, &words), rest(&partition)));
                let position = Position(n as u64);
                writing = Some(partition.begin_snapshot_with(position, &words, (COPIES_MAX, 3), &mut out));
            }
            if n % every == 0 && let Some(writer) = &mut writing && !writer.next(&mut partition, &words, &mut out).unwrap() {
                writing = None;
            }
            now += passed;
            let record = record(device, START_MS + observed, change);
            if expected.is_some() {
                behind.push((now, record.clone()));
            }
            partition.apply(UnixMillis(now), &record, &mut words);
        }
        while let Some(writer) = &mut writing && writer.next(&mut partition, &words, &mut out).unwrap() {}
        if let Some((contents_then, rest_then)) = expected {
            let mut other_words = Vocabulary::new();
            let restored = read(&out, &mut other_words).unwrap();
            let mut other = restored.partition;
            prop_assert_eq!(restored.position, Position(begin as u64));
            prop_assert_eq!((contents(&other, &other_words), rest(&other)), (contents_then, rest_then));
            for (now, record) in behind {
                other.apply(UnixMillis(now), &record, &mut other_words);
            }
            prop_assert_eq!(contents(&other, &other_words), contents(&partition, &words));
            prop_assert_eq!(rest(&other), rest(&partition));
        }
    }

    /// Bytes that were changed or cut off are an error; never another table, and never a panic.
    #[test]
    fn damage_is_an_error(at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>(), piece in 1usize..900) {
        let (mut partition, words) = example();
        let whole = written(&mut partition, &words, Position(9));
        let error = |bytes: &[u8]| {
            let (mut reader, mut words) = (SnapshotReader::with_pages(7, 8), Vocabulary::new());
            let pushed = bytes.chunks(piece).try_for_each(|piece| reader.push(piece, &mut words));
            pushed.err().or_else(|| reader.finish().err())
        };
        prop_assert_eq!(error(&whole), None);
        let mut flipped = whole.clone();
        flipped[at.index(whole.len())] ^= flip;
        prop_assert!(error(&flipped).is_some());
        let cut = &whole[..cut.index(whole.len())];
        prop_assert_eq!(error(cut).map(|e| e.problem), Some(Problem::Truncated));
        let longer = [&whole[..], &[flip]].concat();
        prop_assert_eq!(error(&longer).map(|e| e.problem), Some(Problem::Surplus));
    }
}

/// A section with a valid checksum may still have impossible content, if a writer had a defect. No
/// content causes a panic or a partition with two devices of one ordinal.
#[test]
fn nonsense_with_a_checksum_is_an_error_or_a_table() {
    let (mut partition, words) = example();
    let mut out = Vec::new();
    let mut writer = partition.begin_snapshot(Position(9), &words, &mut out);
    let (mut sections, mut at) = (Vec::new(), frame::FILE_HEAD_BYTES);
    let (mut decompressor, mut compressor) =
        (zstd::bulk::Decompressor::new().unwrap(), frame::compressor());
    while writer.next(&mut partition, &words, &mut out).unwrap() {}
    while at < out.len() {
        let head = frame::Head::read(out[at..].first_chunk().unwrap()).unwrap();
        let mut content = Vec::new();
        let number = u32::try_from(sections.len()).unwrap();
        let kind = head
            .open(&out[at..at + head.section_bytes()], number, &mut decompressor, &mut content)
            .unwrap();
        sections.push((kind, content));
        at += head.section_bytes();
    }
    let mut accepted = 0;
    for (damaged, (_, content)) in sections.iter().enumerate().take(sections.len() - 1) {
        for byte in (0..content.len()).step_by(if content.len() > 100 { 5 } else { 1 }) {
            for value in [0, 0xff] {
                let mut bytes = frame::file_head(PartitionId(77)).to_vec();
                for (number, (kind, content)) in sections.iter().enumerate() {
                    let mut content = content.clone();
                    if number == damaged {
                        content[byte] = value;
                    } else if *kind == frame::Kind::End {
                        let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
                        content[8..].copy_from_slice(&hash.to_le_bytes());
                    }
                    let number = u32::try_from(number).unwrap();
                    frame::write_section(*kind, number, &content, &mut compressor, &mut bytes);
                }
                let mut words = Vocabulary::new();
                if let Ok(restored) = read(&bytes, &mut words) {
                    accepted += 1;
                    let held = (0..100)
                        .filter(|n| restored.partition.pushable(Ordinal(*n)).is_some())
                        .count() as u64;
                    assert!(held <= restored.partition.held().placed);
                    rest(&restored.partition);
                }
            }
        }
    }
    assert!(accepted > 100, "ids, tokens and versions may be anything: {accepted}");
}

#[test]
fn errors_name_partition_section_and_offset() {
    let (mut partition, words) = example();
    let whole = written(&mut partition, &words, Position(9));
    let error = |bytes: &[u8]| read(bytes, &mut Vocabulary::new()).unwrap_err();

    let mut later = whole.clone();
    later[8] = 3;
    let checksum = crc32c::crc32c(&later[..12]);
    later[12..16].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(
        error(&later).to_string(),
        "snapshot of an unknown partition: section 0 at byte 0: version: must be 1 to 2; got 3"
    );

    let first = 16 + frame::Head::read(whole[16..].first_chunk().unwrap()).unwrap().section_bytes();
    let mut flipped = whole.clone();
    flipped[first + 20] ^= 1;
    let expected = format!(
        "snapshot of partition 77: section 1 at byte {first}: checksum mismatch; the file is \
         damaged"
    );
    assert_eq!(error(&flipped).to_string(), expected);
    let expected =
        format!("snapshot of partition 77: section 1 at byte {first}: the file is truncated");
    assert_eq!(error(&whole[..first + 20]).to_string(), expected);
    assert_eq!(error(b"something else entirely").problem, Problem::Magic);
}

/// A writer that is too slow gets an error, and the partition keeps nothing for it.
#[test]
fn too_many_changes_end_a_snapshot() {
    let (mut partition, mut words) = example();
    let mut out = Vec::new();
    let mut writer = partition.begin_snapshot_with(Position(1), &words, (4, 5), &mut out);
    for n in 20..25 {
        partition.apply(
            UnixMillis(START_MS + 40 * HOUR_MS),
            &record(n, START_MS + 9, Change::Place(cell(1))),
            &mut words,
        );
    }
    assert_eq!(writer.next(&mut partition, &words, &mut out), Err(WriteError::Overrun));
    assert!(partition.saving.is_none());
    let mut first = partition.begin_snapshot(Position(1), &words, &mut out);
    let _second = partition.begin_snapshot(Position(1), &words, &mut out);
    assert_eq!(first.next(&mut partition, &words, &mut out), Err(WriteError::Replaced));
}

/// Every later reader must read the stored file of version 1 as this.
#[test]
fn version_1_is_read() {
    let mut words = Vocabulary::new();
    let restored =
        read(include_bytes!("../../../tests/snapshots/version-1.snapshot"), &mut words).unwrap();
    let (partition, example_words) = example();
    assert_eq!((restored.position, restored.partition.id()), (Position(9), PartitionId(77)));
    assert_eq!(contents(&restored.partition, &words), contents(&partition, &example_words));
    assert_eq!(rest(&restored.partition), rest(&partition));
}

/// Every later reader must read the stored file of version 2 as this, and continue its sweep.
#[test]
fn version_2_is_read() {
    let mut words = Vocabulary::new();
    words.intern_app(&registration(1).app);
    let bytes = include_bytes!("../../../tests/snapshots/version-2.snapshot");
    let mut restored = read(bytes, &mut words).unwrap();
    let (mut partition, mut example_words) = swept_example();
    assert_eq!((restored.position, restored.partition.id()), (Position(9), PartitionId(77)));
    let (next, left) = partition.sweep.cursor();
    assert!(next > 0 && left > 0, "in the middle");
    for _ in 0..20 {
        let held = partition.held().devices;
        assert_eq!(restored.partition.held().devices, held);
        assert_eq!(contents(&restored.partition, &words), contents(&partition, &example_words));
        assert_eq!(rest(&restored.partition), rest(&partition));
        assert_eq!(restored.partition.sweep.limits(&words), partition.sweep.limits(&example_words));
        let record = record(39, START_MS, Change::Mute(false));
        let now = UnixMillis(START_MS + 34 * HOUR_MS);
        restored.partition.apply(now, &record, &mut words);
        partition.apply(now, &record, &mut example_words);
    }
    assert_eq!(partition.sweep.cursor().1, 0);
}

/// Writes that file, when a new version begins: `cargo test -p clarion-shard --lib
/// writes_the_kept_file -- --ignored`.
#[test]
#[ignore = "writes a file of the repository"]
fn writes_the_kept_file() {
    let (mut partition, words) = swept_example();
    let name = format!("{}/tests/snapshots/version-{VERSION}.snapshot", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(name, written(&mut partition, &words, Position(9))).unwrap();
}
