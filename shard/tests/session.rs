//! Sessions, as a coordinator sees them.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod support;

use clarion_proto::{
    ids::{Epoch, LaneId, PartitionId, WaveId},
    wire::shard_v1::{
        self as wire, session_request::Message as Say, session_response::Message as Told,
        shard_service_client::ShardServiceClient,
    },
};
use clarion_shard::command::{Command, CoreReport, Counts, Event};
use roaring::RoaringBitmap;
use support::{Bench, LOG, Session, channel, lane, open, ownership, wave, within};
use tonic::Code;
use tonic_types::StatusExt as _;

#[tokio::test]
async fn a_wave_from_plan_to_confirmed_cancel() {
    let mut bench = Bench::start(2).await;
    let mut session = bench.session().await;
    let Ok(Some(Told::Hello(hello))) = session.next().await else { panic!() };
    assert_eq!((hello.node.as_str(), hello.cores, hello.boot_id.len()), ("node-1", 2, 16));

    session.say(ownership(1, &[0, 1, 2])).await;
    session.say(lane(1)).await;
    session.say(Say::Wave(wave(5, 1, 1, &[0, 1, 2]))).await;
    for (core, partitions) in [(0, vec![0, 2]), (1, vec![1])] {
        let spec = bench.cores[core].until("the wave", |c| match c {
            Command::Wave(spec) => Some(spec),
            _ => None,
        });
        let spec = spec.await;
        assert_eq!(spec.shards.iter().map(|s| s.partition.0).collect::<Vec<_>>(), partitions);
    }

    let ask = session.until("a request for leave with the wave", |m| match m {
        Told::LeaseRequest(ask) if ask.waves == [5] => Some(ask),
        _ => None,
    });
    let ask = ask.await;
    let waves = vec![wire::WaveGrant { wave: 5, rate_millis_per_second: 0, epoch: 1 }];
    session.say(Say::Grant(wire::Grant { nonce: ask.nonce, lease_ms: 5_000, waves })).await;
    for core in &mut bench.cores {
        core.until("leave", |c| match c {
            Command::Grant { wave: WaveId(5), rate: None, .. } => Some(()),
            _ => None,
        })
        .await;
    }

    for (core, partition, handed) in [(0_usize, 0, 3), (1, 1, 4)] {
        let report = CoreReport {
            wave: WaveId(5),
            epoch: Epoch(1),
            all: true,
            bands_walked: vec![(LaneId(1), 1)],
            complete: true,
            bands: vec![(0, Counts { handed, outcomes: [handed, 0, 0, 0, 0] })],
            handed: vec![(
                PartitionId(partition),
                RoaringBitmap::from_iter(0..u32::try_from(handed).unwrap()),
            )],
            ..CoreReport::default()
        };
        bench.cores[core].tell(Event::Report(Box::new(report))).await;
    }
    let report = session.until("a complete report", |m| match m {
        Told::Report(r) if r.complete => Some(r),
        _ => None,
    });
    let report = report.await;
    assert_eq!((report.bands_walked, report.bands[0].handed, report.bands[0].accepted), (1, 7, 7));

    session.say(Say::Cancel(wire::Cancel { wave: 5, epoch: 2 })).await;
    for core in &mut bench.cores {
        core.until("the cancel", |c| {
            matches!(c, Command::Cancel { epoch: Epoch(2), .. }).then_some(())
        })
        .await;
        core.tell(Event::Stopped { wave: WaveId(5), last_write: None, written_after: 1 }).await;
    }
    let stopped = session.until("the confirmation", |m| match m {
        Told::Stopped(s) => Some(s),
        _ => None,
    });
    assert_eq!(
        stopped.await,
        wire::Stopped { wave: 5, last_write_ago_us: None, written_after_cancel: 2 }
    );
}

#[tokio::test]
async fn a_newer_session_takes_over() {
    let bench = Bench::start(1).await;
    let mut older = bench.session().await;
    assert!(matches!(older.next().await, Ok(Some(Told::Hello(_)))));
    let mut newer = bench.session().await;
    assert!(matches!(newer.next().await, Ok(Some(Told::Hello(_)))));
    assert_eq!(older.end().await.unwrap().code(), Code::Aborted);
    newer.say(Say::Cancel(wire::Cancel { wave: 1, epoch: 1 })).await;
    newer.until("an answer", |m| matches!(m, Told::Stopped(_)).then_some(())).await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_and_the_session_goes_on() {
    let mut bench = Bench::start(1).await;
    let mut session = bench.session().await;
    session.say_raw(wire::SessionRequest { message: None }).await;
    assert_eq!(session.refusal().await.reason, "message: is required");

    session.say(ownership(9, &[0])).await;
    session.say(lane(1)).await;
    let mut broken = wave(3, 1, 9, &[0]);
    broken.shards[0].handed = vec![1, 2, 3];
    session.say(Say::Wave(broken)).await;
    let refusal = session.refusal().await;
    assert_eq!((refusal.ownership, refusal.wave), (9, 3));
    assert!(refusal.reason.starts_with("wave.shards[0].handed: "), "{}", refusal.reason);

    session.say(Say::Wave(wave(3, 1, 8, &[0]))).await;
    assert!(session.refusal().await.reason.contains("is 8, this node holds 9"));

    session.say(Say::Wave(wave(3, 1, 9, &[0]))).await;
    bench.cores[0].until("the wave", |c| matches!(c, Command::Wave(_)).then_some(())).await;
}

#[tokio::test]
async fn a_coordinator_that_comes_back_finds_everything() {
    let mut bench = Bench::start(1).await;
    let session = bench.session().await;
    session.say(ownership(1, &[0])).await;
    session.say(lane(1)).await;
    session.say(Say::Wave(wave(5, 1, 1, &[0]))).await;
    bench.cores[0].until("the wave", |c| matches!(c, Command::Wave(_)).then_some(())).await;
    drop(session);

    let mut session = bench.session().await;
    assert!(matches!(session.next().await, Ok(Some(Told::Hello(_)))));
    bench.cores[0].until("to say all", |c| matches!(c, Command::ReportAll).then_some(())).await;
    let report = |all, total| CoreReport {
        wave: WaveId(5),
        all,
        bands: vec![(0, Counts { handed: total, ..Counts::default() })],
        ..CoreReport::default()
    };
    // The first was on its way when the core heard of the new session: it alone would not be
    // complete.
    bench.cores[0].tell(Event::Report(Box::new(report(false, 1)))).await;
    bench.cores[0].tell(Event::Report(Box::new(report(true, 2)))).await;
    let first = session.until("a report", |m| match m {
        Told::Report(r) => Some(r),
        _ => None,
    });
    assert_eq!(first.await.bands[0].handed, 2);
}

#[tokio::test]
async fn a_drain_lets_the_last_reports_out_and_ends_the_session() {
    let mut bench = Bench::start(1).await;
    let mut session = bench.session().await;
    session.say(ownership(1, &[0])).await;
    session.say(lane(1)).await;
    session.say(Say::Wave(wave(5, 1, 1, &[0]))).await;
    bench.cores[0].until("the wave", |c| matches!(c, Command::Wave(_)).then_some(())).await;
    bench.stop();
    bench.cores[0].until("the shutdown", |c| matches!(c, Command::Shutdown).then_some(())).await;
    let last = CoreReport { wave: WaveId(5), unanswered_requests: 77, ..CoreReport::default() };
    bench.cores[0].tell(Event::Report(Box::new(last))).await;
    // The core's thread ends: its queues are closed.
    bench.cores.clear();
    session
        .until("the last report", |m| {
            matches!(m, Told::Report(r) if r.unanswered_requests == 77).then_some(())
        })
        .await;
    session.until("the last word", |m| matches!(m, Told::Leaving(_)).then_some(())).await;
    // Nothing but the coordinator's word ends the node now.
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(300), session.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    session.say(Say::Left(wire::Left {})).await;
    assert_eq!(session.end().await.unwrap().code(), Code::Unavailable);
    bench.ended().await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_though_the_coordinator_does_not_answer() {
    let mut bench = Bench::start_draining_within(1, std::time::Duration::from_secs(1)).await;
    let mut session = bench.session().await;
    bench.stop();
    // A core that ends before the node has begun to drain has died.
    bench.cores[0].until("the shutdown", |c| matches!(c, Command::Shutdown).then_some(())).await;
    bench.cores.clear();
    session.until("the last word", |m| matches!(m, Told::Leaving(_)).then_some(())).await;
    assert_eq!(session.end().await.unwrap().code(), Code::Unavailable);
    bench.ended().await.unwrap();
}

#[tokio::test]
async fn two_coordinators_of_one_log_direct_waves_of_their_own() {
    let bench = Bench::start(1).await;
    let mut first = bench.session().await;
    let mut second = Session::open_as(bench.address, open(2, LOG)).await.unwrap();
    for session in [&mut first, &mut second] {
        assert!(matches!(session.next().await, Ok(Some(Told::Hello(_)))));
        session.say(ownership(1, &[0])).await;
        session.say(lane(1)).await;
    }
    first.say(Say::Wave(wave(5, 1, 1, &[0]))).await;
    second.say(Say::Wave(wave(6, 1, 1, &[0]))).await;
    let asks =
        |id| move |m| matches!(m, Told::LeaseRequest(ask) if ask.waves == [id]).then_some(());
    first.until("a request for its wave", asks(5)).await;
    second.until("a request for its wave", asks(6)).await;
    for unanswered_requests in [1, 2] {
        for id in [5, 6] {
            let wave = WaveId(id);
            let report =
                CoreReport { wave, all: true, unanswered_requests, ..CoreReport::default() };
            bench.cores[0].tell(Event::Report(Box::new(report))).await;
        }
    }
    let last = |id: u64| {
        move |m| match m {
            Told::Report(report) => {
                assert_eq!(report.wave, id, "only its own");
                (report.unanswered_requests == 2).then_some(())
            }
            _ => None,
        }
    };
    first.until("its last report", last(5)).await;
    second.until("its last report", last(6)).await;
    // The end of one session is nothing to the other one.
    drop(first);
    second.say(Say::Cancel(wire::Cancel { wave: 77, epoch: 1 })).await;
    second.until("an answer", |m| matches!(m, Told::Stopped(_)).then_some(())).await;
}

#[tokio::test]
async fn the_ninth_coordinator_is_refused_with_the_time_of_a_retry() {
    let bench = Bench::start(1).await;
    let mut sessions = Vec::new();
    for coordinator in 1..=8 {
        let session = Session::open_as(bench.address, open(coordinator, LOG)).await;
        sessions.push(session.unwrap_or_else(|status| panic!("{coordinator}: {status}")));
    }
    let refused = Session::open_as(bench.address, open(9, LOG)).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("at most 8 coordinators"), "{}", refused.message());
    let retry = refused.get_details_retry_info().and_then(|retry| retry.retry_delay);
    assert_eq!(retry, Some(std::time::Duration::from_secs(5)));
    // One of the eight comes back while its former session is open.
    let again = Session::open_as(bench.address, open(8, LOG)).await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn a_coordinator_of_another_log_is_refused_while_a_session_is_open() {
    let mut bench = Bench::start(1).await;
    let mut first = bench.session().await;
    assert!(matches!(first.next().await, Ok(Some(Told::Hello(_)))));
    let refused = Session::open_as(bench.address, open(2, [2; 16])).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("log_identity: must be"), "{}", refused.message());
    first.say(ownership(1, &[0])).await;
    first.say(lane(1)).await;
    first.say(Say::Wave(wave(5, 1, 1, &[0]))).await;
    bench.cores[0].until("the wave", |c| matches!(c, Command::Wave(_)).then_some(())).await;
}

#[tokio::test]
async fn a_coordinator_that_does_not_read_delays_no_other() {
    let bench = Bench::start(1).await;
    // Nothing of it is read: its queue and its window fill up.
    let silent = bench.session().await;
    silent.say(ownership(1, &[0])).await;
    silent.say(lane(1)).await;
    silent.say(Say::Wave(wave(5, 1, 1, &[0]))).await;
    let mut other = Session::open_as(bench.address, open(2, LOG)).await.unwrap();
    other.say(Say::Wave(wave(6, 1, 1, &[0]))).await;
    for n in 1..=200 {
        let cells = (0..5_000).map(|cell| (cell, Counts { handed: n, ..Counts::default() }));
        let large = CoreReport {
            wave: WaveId(5),
            all: true,
            cells: cells.collect(),
            ..CoreReport::default()
        };
        let wave = WaveId(6);
        let small = CoreReport { wave, all: true, unanswered_requests: n, ..CoreReport::default() };
        for report in [large, small] {
            bench.cores[0].tell(Event::Report(Box::new(report))).await;
        }
    }
    let last =
        |m| matches!(m, Told::Report(report) if report.unanswered_requests == 200).then_some(());
    other.until("the newest report", last).await;
}

#[tokio::test]
async fn another_cluster_another_first_message_and_a_former_log_are_refused() {
    let bench = Bench::start(1).await;
    let Say::Open(ours) = open(1, LOG) else { panic!() };
    let other = Say::Open(wire::Open { cluster: "other".to_owned(), ..ours.clone() });
    let short = Say::Open(wire::Open { log_identity: vec![1; 15], ..ours });
    for (first, code, part) in [
        (
            other,
            Code::FailedPrecondition,
            "cluster: must be \"clarion\", the cluster of this node; got \"other\"",
        ),
        (short, Code::InvalidArgument, "open.log_identity: must have 16 bytes; got 15"),
        (lane(1), Code::InvalidArgument, "the coordinator sends it first"),
    ] {
        let refused = Session::open_as(bench.address, first).await.err().unwrap();
        assert_eq!(refused.code(), code);
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    drop(bench.session().await);
    // Its end may not have been seen yet.
    let refused = loop {
        let refused = Session::open_as(bench.address, open(2, [2; 16])).await.err().unwrap();
        if refused.code() == Code::Unavailable {
            break refused;
        }
        assert!(refused.message().contains("has a session"), "{}", refused.message());
    };
    assert!(refused.message().contains("less than 10 s ago"), "{}", refused.message());
    // Another process with the same log goes on at once.
    Session::open_as(bench.address, open(3, LOG)).await.unwrap();
}

#[tokio::test]
async fn a_core_that_dies_ends_the_node() {
    let mut bench = Bench::start(2).await;
    bench.cores.pop();
    assert_eq!(bench.ended().await.unwrap_err().to_string(), "core 1 has died");
}

/// A wave of many cells as a coordinator sends it: its head, and parts of so many cells.
fn wide(id: u64, cells: usize, per_part: usize) -> (wire::Wave, Vec<wire::CoverPart>) {
    let parent = h3o::LatLng::new(22.54, 114.06).unwrap().to_cell(h3o::Resolution::Two);
    let all: Vec<u64> =
        parent.children(h3o::Resolution::Eight).take(cells).map(u64::from).collect();
    let mut head = wave(id, 1, 1, &[0]);
    head.bands[0].cells.clear();
    let messages = std::mem::take(&mut head.apps[0].messages);
    (head.delivery, head.cover_cells) = (1, cells as u64);
    let of = || Some(wire::cover_part::Of::Wave(id));
    let runs = all.chunks(per_part).map(|run| wire::CoverPart {
        of: of(),
        delivery: 1,
        bands: vec![wire::BandCells { band: 0, cells: run.to_vec() }],
        ..wire::CoverPart::default()
    });
    let mut parts: Vec<_> = runs.collect();
    let apps = vec![wire::AppPart { app: 0, messages }];
    parts.push(wire::CoverPart {
        of: of(),
        delivery: 1,
        apps,
        last: true,
        ..wire::CoverPart::default()
    });
    for (number, part) in (0..).zip(&mut parts) {
        part.number = number;
    }
    (head, parts)
}

#[tokio::test]
async fn a_wide_wave_comes_in_parts_and_others_are_taken_between_them() {
    let mut bench = Bench::start(1).await;
    let session = bench.session().await;
    session.say(ownership(1, &[0])).await;
    session.say(lane(1)).await;
    let (head, mut parts) = wide(5, 100_000, 30_000);
    session.say(Say::Wave(head)).await;
    let last = parts.pop().unwrap();
    for part in parts {
        session.say(Say::CoverPart(part)).await;
    }
    session.say(Say::Wave(wave(6, 1, 1, &[0]))).await;
    let taken = |c: Command| match c {
        Command::Wave(spec) => Some(spec),
        _ => None,
    };
    assert_eq!(bench.cores[0].until("the small wave", taken).await.id, WaveId(6));
    session.say(Say::CoverPart(last)).await;
    let spec = bench.cores[0].until("the wide wave", taken).await;
    assert_eq!((spec.id, spec.cover.bands(), spec.apps[0].messages.len()), (WaveId(5), 1, 1));
}

#[tokio::test]
async fn a_session_that_is_lost_between_parts_leaves_nothing() {
    let mut bench = Bench::start(1).await;
    let (head, parts) = wide(5, 1_000, 300);
    let stopped = |m| if let Told::Stopped(stopped) = m { Some(stopped.wave) } else { None };
    for wave in [98, 99] {
        let mut session = bench.session().await;
        session.say(ownership(1, &[0])).await;
        session.say(lane(1)).await;
        session.say(Say::Wave(head.clone())).await;
        session.say(Say::CoverPart(parts[0].clone())).await;
        // Its answer comes after the part was taken.
        session.say(Say::Cancel(wire::Cancel { wave, epoch: 1 })).await;
        assert_eq!(session.until("the confirmation", stopped).await, wave);
    }
    let mut session = bench.session().await;
    session.say(Say::CoverPart(parts[1].clone())).await;
    session.say(Say::Cancel(wire::Cancel { wave: 5, epoch: 1 })).await;
    assert_eq!(
        session.until("the confirmation", stopped).await,
        5,
        "as a wave that was never here"
    );
    session.say(Say::Wave(wave(6, 1, 1, &[0]))).await;
    let spec = bench.cores[0]
        .until("a wave", |c| if let Command::Wave(spec) = c { Some(spec) } else { None });
    assert_eq!(spec.await.id, WaveId(6));
}

#[tokio::test]
async fn a_refusal_names_its_wave_or_count_and_whose_fault_it_is() {
    let bench = Bench::start(1).await;
    let mut session = bench.session().await;
    session.say(ownership(1, &[0])).await;
    session.say(lane(1)).await;
    let (mut head, _) = wide(5, 1, 1);
    head.cover_cells = 200_001;
    session.say(Say::Wave(head)).await;
    let refusal = session.refusal().await;
    assert_eq!((refusal.wave, refusal.count, refusal.cause()), (5, 0, wire::RefusalCause::Message));
    assert_eq!(refusal.reason, "wave.cover_cells: must be at most 200000; got 200001");
    let count = wire::Count { id: 9, apps: vec!["demo".to_owned()], ..wire::Count::default() };
    session.say(Say::Count(count)).await;
    let refusal = session.refusal().await;
    assert_eq!((refusal.wave, refusal.count, refusal.cause()), (0, 9, wire::RefusalCause::Message));
    session.say(Say::Wave(wave(6, 1, 2, &[0]))).await;
    assert_eq!(session.refusal().await.cause(), wire::RefusalCause::Superseded);
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_session_with_the_reason() {
    let bench = Bench::start(1).await;
    let mut session = bench.session().await;
    let mut large = wave(5, 1, 1, &[0]);
    large.bands[0].cells = vec![0; 600_000]; // 4.8 MB
    session.say(Say::Wave(large)).await;
    let status = session.end().await.expect("a reason");
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(status.message().contains("4194304"), "{}", status.message());
    let mut session = bench.session().await;
    assert!(matches!(session.next().await, Ok(Some(Told::Hello(_)))), "the node goes on");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_sent_away_and_holds_up_nobody() {
    let bench = Bench::start(1).await;
    let mut silent = ShardServiceClient::new(channel(bench.address).await);
    let (_says, said) = tokio::sync::mpsc::channel(1);
    let silent = silent.session(tokio_stream::wrappers::ReceiverStream::new(said));
    let other = async {
        let mut session = bench.session().await;
        assert!(matches!(session.next().await, Ok(Some(Told::Hello(_)))));
    };
    // Its deadline is 5 s; the other one's is that of every wait here.
    let (refused, ()) = tokio::join!(within("an answer to silence", silent), other);
    let Err(refused) = refused else { panic!("a peer that says nothing has a session") };
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::DeadlineExceeded, "open: must arrive within 5 s of the session's start")
    );
}
