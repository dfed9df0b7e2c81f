//! The message that describes a wave, checked: cover, handed sets, messages, audience.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{
    error::InvalidField,
    ids::{AppName, Epoch, LaneId, PartitionId, Position, UnixMillis, WaveId},
    limits::BANDS_MAX,
    time::Time,
    wire::shard_v1 as wire,
};
use roaring::RoaringBitmap;

use super::{out_of, partition};
use crate::{
    command::{AppSpec, MessageSpec},
    lane::provider::request::{ApnsHeaders, Request},
    wave::{Cover, SegmentOp},
};

/// Highest number of apps in an audience, by the contract of `CreateAlert`.
pub(super) const APPS_MAX: usize = 64;
/// Highest number of locales of an app, by the contract of `CreateAlert`.
pub(in crate::control) const MESSAGES_MAX: usize = 64;
/// APNs takes payloads up to 4,096 bytes (5,120 for calls over IP).
const APNS_BODY_BYTES_MAX: usize = 5_120;
/// FCM takes payloads up to 4,096 bytes of keys and values (F-err). In JSON one byte of them may
/// need six (`\u0007`), and around them stand field names, braces, time to live, priority and
/// collapse key: less than 1,024. Without the token.
const FCM_BODY_BYTES_MAX: usize = 6 * 4_096 + 1_024;
/// Longest project id, bytes. An id has 6 to 30 characters; ids of a domain have the domain's name
/// before a colon.
const PROJECT_BYTES_MAX: usize = 128;
/// Longest `apns-collapse-id`, bytes (Apple's limit).
const COLLAPSE_ID_BYTES_MAX: usize = 64;
/// Steps of an expression: 64 names, 63 operators between them, and a NOT before each of those 127.
const SEGMENT_OPS_MAX: usize = 254;
/// An alert is active for at most 30 days; a day more for clocks and mistakes.
pub(in crate::control) const EXPIRES_MS_MAX: u64 = 31 * 24 * 3_600 * 1_000;

/// One wave, as the coordinator describes this node's part of it.
#[derive(Debug)]
pub struct Wave {
    /// Number of the wave, unique in the cluster.
    pub id: WaveId,
    /// Resource name of the alert: `alerts/{alert}`.
    pub alert: String,
    /// Epoch of the wave: messages with a lower one than the highest seen are refused.
    pub epoch: Epoch,
    /// Number of the ownership for which the wave was planned.
    pub ownership: u64,
    /// The cover, shared by all cores.
    pub cover: Arc<Cover>,
    /// Number of bands of the cover.
    pub bands: u32,
    /// Work for each partition of this node.
    pub shards: Vec<Shard>,
    /// Messages of each app.
    pub apps: Vec<AppSpec>,
    /// Audience as an expression in prefix form; empty: every device.
    pub segments: Vec<SegmentOp>,
    /// Oldest observation of a place that the wave accepts; 0: every place.
    pub place_seen_after: UnixMillis,
    /// Time after which nothing is sent.
    pub expires: Time,
}

/// The wave's part for one partition.
#[derive(Debug)]
pub struct Shard {
    /// Number of the partition.
    pub partition: PartitionId,
    /// The walk waits until its log is applied up to here.
    pub start: Position,
    /// Devices that an earlier owner has handed over.
    pub handed: RoaringBitmap,
}

impl Wave {
    pub(super) fn from_wire(mut wave: wire::Wave, received: Time) -> Result<Self, InvalidField> {
        let cover = cover(std::mem::take(&mut wave.bands))?;
        Self::with_cover(wave, cover, received)
    }

    /// The wave without its bands, which became the cover.
    pub(in crate::control) fn with_cover(
        wave: wire::Wave,
        cover: Cover,
        received: Time,
    ) -> Result<Self, InvalidField> {
        if wave.id == 0 {
            return Err(InvalidField::new("id", "must not be 0"));
        }
        if !(1..=EXPIRES_MS_MAX).contains(&wave.expires_in_ms) {
            return Err(out_of("expires_in_ms", 1, EXPIRES_MS_MAX, wave.expires_in_ms));
        }
        Ok(Self {
            id: WaveId(wave.id),
            alert: wave.alert,
            epoch: Epoch(wave.epoch),
            ownership: wave.ownership,
            bands: cover.bands(),
            cover: Arc::new(cover),
            shards: shards(&wave.shards)?,
            apps: apps(wave.apps)?,
            segments: segments(&wave.segments)?,
            place_seen_after: UnixMillis(wave.place_seen_after_ms),
            expires: received + Duration::from_millis(wave.expires_in_ms),
        })
    }
}

pub(super) fn cover(bands: Vec<wire::Band>) -> Result<Cover, InvalidField> {
    check_bands(bands.len())?;
    let bands: Vec<_> = bands.into_iter().map(|b| (b.from_meters, b.to_meters, b.cells)).collect();
    Cover::new(&bands).map_err(|e| InvalidField::new("bands", e))
}

/// How many bands a cover may have.
pub(in crate::control) fn check_bands(bands: usize) -> Result<(), InvalidField> {
    if (1..=BANDS_MAX).contains(&bands) {
        return Ok(());
    }
    Err(out_of("bands", 1, BANDS_MAX as u64, bands as u64))
}

fn shards(wire: &[wire::ShardWork]) -> Result<Vec<Shard>, InvalidField> {
    let mut shards =
        Vec::with_capacity(wire.len().min(usize::from(clarion_proto::ids::PARTITIONS_MAX)));
    for (i, s) in wire.iter().enumerate() {
        let within = |e: InvalidField| e.within(&format!("shards[{i}]"));
        let handed = if s.handed.is_empty() {
            RoaringBitmap::new()
        } else {
            RoaringBitmap::deserialize_from(s.handed.as_slice()).map_err(|e| {
                within(InvalidField::new(
                    "handed",
                    format_args!("must be a portable roaring bitmap: {e}"),
                ))
            })?
        };
        let partition = partition(s.partition).map_err(|e| within(e.within("partition")))?;
        shards.push(Shard { partition, start: Position(s.start_position), handed });
    }
    shards.sort_by_key(|s| s.partition);
    if let Some(pair) = shards.windows(2).find(|w| w[0].partition == w[1].partition) {
        return Err(InvalidField::new(
            "shards",
            format_args!("must be unique; partition {} is named twice", pair[0].partition),
        ));
    }
    Ok(shards)
}

fn apps(wire: Vec<wire::AppMessages>) -> Result<Vec<AppSpec>, InvalidField> {
    if !(1..=APPS_MAX).contains(&wire.len()) {
        return Err(out_of("apps", 1, APPS_MAX as u64, wire.len() as u64));
    }
    let mut apps: Vec<AppSpec> = Vec::with_capacity(wire.len());
    for (i, a) in wire.into_iter().enumerate() {
        let app = app(a).map_err(|e| e.within(&format!("apps[{i}]")))?;
        if apps.iter().any(|other| other.app == app.app) {
            return Err(InvalidField::new(
                "apps",
                format_args!("must be unique; {} is named twice", app.app),
            ));
        }
        apps.push(app);
    }
    Ok(apps)
}

fn app(a: wire::AppMessages) -> Result<AppSpec, InvalidField> {
    let app = AppName::from_id(&a.app).map_err(|e| e.within("app"))?;
    let request = match clarion_proto::error::required(a.request, "request")? {
        wire::app_messages::Request::Apns(request) => {
            Request::Apns(apns(request).map_err(|e| e.within("apns"))?)
        }
        wire::app_messages::Request::Fcm(request) => fcm(request).map_err(|e| e.within("fcm"))?,
    };
    if !(1..=MESSAGES_MAX).contains(&a.messages.len()) {
        return Err(out_of("messages", 1, MESSAGES_MAX as u64, a.messages.len() as u64));
    }
    let messages = a.messages.into_iter().enumerate().map(|(i, m)| {
        match &request {
            Request::Apns(_) => apns_body(&m),
            Request::Fcm { .. } => fcm_body(&m),
        }
        .map_err(|e| e.within(&format!("messages[{i}]")))?;
        // Copies: a body must not keep the whole message's buffer (megabytes of handed sets) alive
        // for the wave.
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        Ok(MessageSpec {
            body: copy(&m.body),
            body_after_token: copy(&m.body_after_token),
            locale: m.locale,
        })
    });
    let messages = messages.collect::<Result<Vec<_>, InvalidField>>()?;
    Ok(AppSpec { app, lane: LaneId(a.lane), request, messages })
}

fn apns_body(m: &wire::LocaleMessage) -> Result<(), InvalidField> {
    if !(1..=APNS_BODY_BYTES_MAX).contains(&m.body.len()) {
        return Err(out_of("body", 1, APNS_BODY_BYTES_MAX as u64, m.body.len() as u64));
    }
    match m.body_after_token.len() {
        0 => Ok(()),
        n => Err(out_of("body_after_token", 0, 0, n as u64)),
    }
}

/// The token goes between both parts as it is: so they must leave it inside one JSON string.
fn fcm_body(m: &wire::LocaleMessage) -> Result<(), InvalidField> {
    if m.body.last() != Some(&b'"') {
        return Err(InvalidField::new("body", "must end with the quote that opens the token"));
    }
    if m.body_after_token.first() != Some(&b'"') {
        return Err(InvalidField::new(
            "body_after_token",
            "must begin with the quote that closes the token",
        ));
    }
    match m.body.len() + m.body_after_token.len() {
        ..=FCM_BODY_BYTES_MAX => Ok(()),
        n => Err(InvalidField::new(
            "body",
            format_args!(
                "and body_after_token must have at most {FCM_BODY_BYTES_MAX} bytes together; \
                 got {n}"
            ),
        )),
    }
}

/// The project is one segment of a path: unreserved characters and the colon of domains (RFC 3986,
/// 3.3), never a dot segment.
fn fcm(request: wire::FcmRequest) -> Result<Request, InvalidField> {
    let project = header(request.project, PROJECT_BYTES_MAX, "project")?;
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':');
    if !project.bytes().all(safe) || matches!(project.as_str(), "." | "..") {
        return Err(InvalidField::new(
            "project",
            "must contain letters, digits and -._~: only, and must not be . or ..",
        ));
    }
    Ok(Request::Fcm { project })
}

fn apns(request: wire::ApnsRequest) -> Result<ApnsHeaders, InvalidField> {
    let priority = u8::try_from(request.priority)
        .ok()
        .filter(|p| matches!(p, 10 | 5 | 1))
        .ok_or_else(|| {
            InvalidField::new(
                "priority",
                format_args!("must be 10, 5 or 1; got {}", request.priority),
            )
        })?;
    Ok(ApnsHeaders {
        topic: header(request.topic, 255, "topic")?,
        push_type: header(request.push_type, 32, "push_type")?,
        priority,
        expiration: request.expiration,
        collapse_id: header(request.collapse_id, COLLAPSE_ID_BYTES_MAX, "collapse_id")?,
    })
}

/// A header's value: printable ASCII, not empty. Anything else would break the frames of every
/// device.
fn header(value: String, max: usize, field: &str) -> Result<String, InvalidField> {
    if !(1..=max).contains(&value.len()) {
        return Err(InvalidField::new(
            field,
            format_args!("must have 1 to {max} bytes; got {}", value.len()),
        ));
    }
    if !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(InvalidField::new(field, "must contain printable ASCII without spaces only"));
    }
    Ok(value)
}

/// Checks that the steps make exactly one expression: the count of operands still missing starts at
/// one, a name fills one, a binary operator fills one and asks for two, and it may reach zero only
/// at the end.
pub(super) fn segments(wire: &[wire::SegmentOp]) -> Result<Vec<SegmentOp>, InvalidField> {
    use wire::segment_op::Op;
    if wire.len() > SEGMENT_OPS_MAX {
        return Err(out_of("segments", 0, SEGMENT_OPS_MAX as u64, wire.len() as u64));
    }
    let mut missing = usize::from(!wire.is_empty());
    let mut steps = Vec::with_capacity(wire.len());
    for (i, step) in wire.iter().enumerate() {
        let field = || format!("segments[{i}]");
        if missing == 0 {
            return Err(InvalidField::new(field(), "must not follow the end of the expression"));
        }
        steps.push(match &step.op {
            Some(Op::Segment(name)) if (1..=63).contains(&name.len()) => {
                missing -= 1;
                SegmentOp::Has(name.clone())
            }
            Some(Op::Segment(name)) => {
                return Err(InvalidField::new(
                    field(),
                    format_args!("must have 1 to 63 bytes; got {}", name.len()),
                ));
            }
            Some(Op::Binary(op)) => {
                missing += 1;
                match wire::BinaryOp::try_from(*op) {
                    Ok(wire::BinaryOp::And) => SegmentOp::And,
                    Ok(wire::BinaryOp::Or) => SegmentOp::Or,
                    Ok(wire::BinaryOp::Unspecified) | Err(_) => {
                        return Err(InvalidField::new(
                            field(),
                            format_args!("must be AND or OR; got {op}"),
                        ));
                    }
                }
            }
            Some(Op::Not(true)) => SegmentOp::Not,
            Some(Op::Not(false)) | None => return Err(InvalidField::new(field(), "is required")),
        });
    }
    if missing != 0 {
        return Err(InvalidField::new(
            "segments",
            format_args!(
                "must be a complete expression; {missing} operands are missing at the end"
            ),
        ));
    }
    Ok(steps)
}
