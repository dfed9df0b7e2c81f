//! The largest message of each kind that a coordinator can make is within what it may send.

use bytes::Bytes;
use clarion_proto::{
    audience::{APPS_MAX, EXPRESSION_NAMES_MAX, SEGMENT_BYTES_MAX},
    ids::{AlertName, AppName, PARTITIONS_MAX, Position, UnixMillis},
    limits::{
        AUTHORIZATION_BYTES_MAX, BANDS_MAX, CA_PEM_BYTES_MAX, ENDPOINT_BYTES_MAX, PART_BYTES_MAX,
        REQUEST_BYTES_MAX, REQUEST_BYTES_TAKEN, RESPONSE_BYTES_MAX, RESPONSE_BYTES_TAKEN,
        WAVES_MAX,
    },
    message::MESSAGES_MAX,
};
use clarion_runtime::proxy::{self, Proxy, Route};
use h3o::{LatLng, Resolution};
use prost::Message as _;
use wire::segment_op::Op;

use super::{message, parts::Parts, *};
use crate::{
    bands::Band,
    fixtures::{alert, gateway, node, seconds, token},
    owners::Ownership,
    planned::{AppPlan, CountPlan, LocaleMessage, PlannedAlert, PushRequest},
    standing::StandingWave,
};

/// Names as long as they can be, each another one.
fn name(at: usize, bytes: usize) -> String {
    format!("a{at:0>width$}", width = bytes - 1)
}

fn owned() -> Owned {
    let ownership = Ownership::assign(u64::MAX, PARTITIONS_MAX, &[node("a")]);
    Owned::new(ownership, PARTITIONS_MAX, PARTITIONS_MAX)
}

/// As many apps, messages, bands and steps of an expression as there can be.
fn largest(cells: usize, message_bytes: usize) -> PlannedAlert {
    let cell = LatLng::new(22.54, 114.06).unwrap().to_cell(Resolution::Nine);
    let bands = (0..BANDS_MAX).map(|at| {
        let cells = if at == 0 { cells } else { 0 };
        Band { from_m: at as f64, to_m: 1.0 + at as f64, cells: vec![cell; cells] }
    });
    let message = |at| LocaleMessage {
        locale: name(at, 35),
        body: Bytes::from(vec![b'x'; message_bytes]),
        body_after_token: Bytes::from(vec![b'x'; message_bytes]),
    };
    let apps = (0..APPS_MAX).map(|at| {
        let PushRequest::Apns(mut apns) = alert().apps[0].request.clone() else { panic!() };
        (apns.topic, apns.collapse_id) = ("t".repeat(255), "c".repeat(64));
        (apns.expiration, apns.priority) = (u64::MAX, u32::MAX);
        AppPlan {
            app: AppName::from_id(&name(at, 63)).unwrap(),
            request: PushRequest::Apns(apns),
            messages: (0..MESSAGES_MAX).map(message).collect(),
            ..alert().apps[0].clone()
        }
    });
    let step = |op| wire::SegmentOp { op: Some(op) };
    let names =
        std::iter::repeat_n(step(Op::Segment("s".repeat(SEGMENT_BYTES_MAX))), EXPRESSION_NAMES_MAX);
    let operators = std::iter::repeat_n(step(Op::Not(true)), 190);
    PlannedAlert {
        name: AlertName::from_id(&name(0, 63)).unwrap(),
        wave: WaveId(u64::MAX),
        bands: bands.collect::<Vec<_>>().into(),
        apps: apps.collect(),
        segments: names.chain(operators).collect(),
        place_seen_after: UnixMillis(u64::MAX),
        positions: vec![Position(u64::MAX); usize::from(PARTITIONS_MAX)],
        ..alert()
    }
}

fn standing(plan: PlannedAlert) -> StandingWave {
    StandingWave {
        plan: Arc::new(plan),
        lanes: vec![LaneId(u32::MAX); APPS_MAX],
        expires: seconds(100),
        phase: Phase::Running,
    }
}

#[track_caller]
fn within(what: &str, message: &SessionRequest) {
    let bytes = message.encoded_len();
    assert!(bytes <= REQUEST_BYTES_MAX, "{what}: {bytes} bytes, at most {REQUEST_BYTES_MAX}");
}

#[test]
fn receivers_take_several_times_what_is_sent() {
    const {
        assert!(
            REQUEST_BYTES_TAKEN >= 4 * REQUEST_BYTES_MAX
                && RESPONSE_BYTES_TAKEN >= 4 * RESPONSE_BYTES_MAX
        );
    };
    const { assert!(PART_BYTES_MAX * 2 < REQUEST_BYTES_MAX) };
}

#[test]
fn every_message_but_waves_is_small() {
    let (owned, memory) = (owned(), NodeMemory::default());
    within("ownership", &message::ownership(&owned, &node("a"), LogIdentity([7; 16])));
    let mut gateway = gateway(None);
    (gateway.name, gateway.ca_pem) = (name(0, 63), "x".repeat(CA_PEM_BYTES_MAX));
    (gateway.endpoint, gateway.server_name) = ("h".repeat(ENDPOINT_BYTES_MAX), "h".repeat(253));
    let proxy = Proxy::new(&format!("{}:3128", "h".repeat(253))).expect("an address");
    let proxy = proxy.with_authorization("x".repeat(proxy::AUTHORIZATION_BYTES_MAX));
    gateway.route = Route::Proxy(Arc::new(proxy.expect("a value")));
    let key = crate::lane::LaneKey { gateway: gateway.name.clone(), credential: name(1, 63) };
    within(
        "lane",
        &message::lane(&LaneSpec { id: LaneId(u32::MAX), key, gateway: Arc::new(gateway) }),
    );
    let token = token(&"x".repeat(AUTHORIZATION_BYTES_MAX));
    within("provider token", &message::provider_token(LaneId(u32::MAX), &token));
    let granted =
        wire::WaveGrant { wave: u64::MAX, rate_millis_per_second: u64::MAX, epoch: u64::MAX };
    let waves = vec![granted; WAVES_MAX];
    let grant = wire::Grant { nonce: u64::MAX, lease_ms: u32::MAX, waves };
    within("grant", &message::request(Message::Grant(grant)));
    let plan = largest(0, 1);
    let apps = plan.apps.iter().map(|app| app.app.clone()).collect();
    let count = Arc::new(CountPlan {
        bands: plan.bands.clone(),
        apps,
        segments: plan.segments.clone(),
        place_seen_after: plan.place_seen_after,
    });
    within("count", &message::count(u64::MAX, &count, 0));
    within("head of a count", &message::count(u64::MAX, &count, u32::MAX));
    within("last part of a count", &part(Parts::of_count(u32::MAX, u64::MAX, count), &memory));
}

#[test]
fn a_wave_is_small_whole_or_in_parts() {
    let (owned, memory) = (owned(), NodeMemory::default());
    // Whole: 4,096 messages of 52 bytes, and cells up to the limit.
    let whole = standing(largest(256, 1));
    let small = |plan: &PlannedAlert| parts::is_small(&plan.bands, &plan.apps, 0);
    let largest_whole = (0..40_000).step_by(256).rev().map(|cells| standing(largest(cells, 1)));
    let largest_whole = largest_whole.into_iter().find(|w| small(&w.plan)).expect("one is small");
    assert!(small(&whole.plan) && largest_whole.plan.bands[0].cells.len() >= 256);
    within(
        "whole wave",
        &message::wave(&largest_whole, &owned, &node("a"), &memory, 0, seconds(1)),
    );
    // In parts: 4,096 messages of 4,096 bytes.
    let wide = standing(largest(100_000, 2_048));
    assert!(!small(&wide.plan));
    within(
        "head of a wave",
        &message::wave(&wide, &owned, &node("a"), &memory, u32::MAX, seconds(1)),
    );
    let partitions = owned.ownership.partitions_of(&node("a"));
    let mut parts = Parts::of_wave(u32::MAX, wide.plan.clone(), partitions);
    let (mut bytes, mut count) = (0, 0);
    loop {
        let part = parts.next(&memory);
        let last = part.last;
        let request = message::request(Message::CoverPart(part));
        within("part", &request);
        (bytes, count) = (bytes + request.encoded_len(), count + 1);
        if last {
            break;
        }
    }
    assert!(bytes > 100_000 * 8 + 64 * 64 * 4_096 && count > 60, "{bytes} bytes in {count} parts");
}

fn part(mut parts: Parts, memory: &NodeMemory) -> SessionRequest {
    message::request(Message::CoverPart(parts.next(memory)))
}
