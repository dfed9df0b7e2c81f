//! Messages of a coordinator, checked.
//!
//! The wire's types can hold invalid values: an unknown platform, half a bitmap, an expression
//! without its operands. Each message is converted once, on receipt, into a type that is always
//! valid, so that neither the state machine nor a core checks again. Checks that depend on the
//! node's state (does this node own the partition? does it know the lane?) belong to the state
//! machine.
//!
//! An invalid message names its field, the limit and the value, and its wave if it has one: the
//! node answers with a `Refusal`; the session continues.

mod lane;
pub(super) mod wave;

use std::time::Duration;

use clarion_proto::{
    error::{InvalidField, required},
    ids::{
        AppName, ClusterName, CoordinatorId, Epoch, LaneId, LogIdentity, PARTITIONS_MAX,
        PartitionId, UnixMillis, WaveId,
    },
    limits::AUTHORIZATION_BYTES_MAX,
    time::Time,
    wire::shard_v1 as wire,
};

use crate::{
    lane::provider::authorization::Authorization,
    wave::{Cover, SegmentOp},
};

pub use lane::Lane;
pub use wave::{Shard, Wave};

use super::{fence::Opened, ownership::Ownership};

/// Longest lease that is believed, ms. A coordinator gives 5 s; whoever gives a minute has mixed up
/// its units, and a node cut off would go on sending for all of it.
pub const LEASE_MS_MAX: u32 = 60_000;

/// One message, ready to be acted on.
#[derive(Debug)]
pub enum Message {
    /// Which partitions are ours.
    Ownership(Ownership),
    /// A lane end to make or replace.
    Lane(Box<Lane>),
    /// What authorises a lane's requests.
    ProviderToken {
        /// The lane that the token is for.
        lane: LaneId,
        /// Value of the `authorization` header; a secret, never printed.
        authorization: Authorization,
        /// Tells the keys that made tokens apart.
        signer: u64,
    },
    /// A wave to take up.
    Wave(Box<Wave>),
    /// Leave to send.
    Grant(Grant),
    /// Part of a lane's quota.
    Slice(Slice),
    /// This node's part of a lane's connections.
    Connections {
        /// The lane whose connections are assigned.
        lane: LaneId,
        /// Over all cores.
        connections: usize,
    },
    /// Stop a wave.
    Cancel {
        /// The wave to stop.
        wave: WaveId,
        /// Epoch of the coordinator that sends the cancel; a cancel is final under any epoch.
        epoch: Epoch,
    },
    /// A wave has ended everywhere.
    End {
        /// The wave that has ended.
        wave: WaveId,
        /// Epoch under which the coordinator directs the wave.
        epoch: Epoch,
    },
    /// Count who would be reached.
    Count(Box<Count>),
    /// All that this node said has been applied.
    Left,
}

/// Leave to send for some waves, as answered to one asking.
#[derive(Debug)]
pub struct Grant {
    /// Of the `LeaseRequest`.
    pub nonce: u64,
    /// From when that was sent.
    pub lease: Duration,
    /// The waves that may go on.
    pub waves: Vec<WaveGrant>,
}

/// Leave to send for one wave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WaveGrant {
    /// The wave that may go on.
    pub wave: WaveId,
    /// Epoch under which the coordinator directs the wave.
    pub epoch: Epoch,
    /// This node's rate, pushes a second; `None`: no limit.
    pub per_second: Option<f64>,
}

/// Part of a lane's quota, as answered to one asking.
#[derive(Debug)]
pub struct Slice {
    /// Of the `LeaseRequest`.
    pub nonce: u64,
    /// From when that was sent.
    pub lease: Duration,
    /// The lane whose quota is leased.
    pub lane: LaneId,
    /// Requests a second and at once; `None`: the lane has no quota.
    pub rate: Option<(f64, f64)>,
}

/// A question about the registry.
#[derive(Debug)]
pub struct Count {
    /// Returned with the answer.
    pub id: u64,
    /// The region that is asked about.
    pub cover: Cover,
    /// In how many bands.
    pub bands: usize,
    /// Which apps, in the order of the answer.
    pub apps: Vec<AppName>,
    /// The audience: an expression in prefix form.
    pub segments: Vec<SegmentOp>,
    /// Oldest observation of a place that is counted; 0: every place.
    pub place_seen_after: UnixMillis,
}

/// A message that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// What it was about.
    pub about: About,
    /// Whether the same message can ever be taken.
    pub cause: Cause,
    /// The field and what is wrong with it.
    pub problem: InvalidField,
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// Neither a wave nor a count.
    Other,
    /// The wave with this number.
    Wave(WaveId),
    /// The count with this id.
    Count(u64),
}

/// Whose fault it is that a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The message's: it can never be taken.
    Message,
    /// The node has no room now.
    Room,
    /// It is for other partitions, or another coordinator is obeyed.
    Superseded,
    /// The node is shutting down.
    Draining,
}

impl Rejected {
    /// About no wave.
    pub fn new(problem: InvalidField) -> Self {
        Self { about: About::Other, cause: Cause::Message, problem }
    }

    /// About a wave.
    pub fn of(wave: WaveId, problem: InvalidField) -> Self {
        Self { about: About::Wave(wave), ..Self::new(problem) }
    }

    /// About a count.
    pub fn of_count(id: u64, problem: InvalidField) -> Self {
        Self { about: About::Count(id), ..Self::new(problem) }
    }

    /// Not the message's fault.
    #[must_use]
    pub fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }
}

impl Message {
    /// Checks one message. `received` starts the time in which a wave may send.
    ///
    /// # Errors
    /// Names the field, the limit and the value.
    pub fn from_wire(request: wire::SessionRequest, received: Time) -> Result<Self, Rejected> {
        use wire::session_request::Message as Wire;
        match required(request.message, "message").map_err(Rejected::new)? {
            Wire::Ownership(o) => {
                ownership(&o).map(Self::Ownership).map_err(|e| Rejected::new(e.within("ownership")))
            }
            Wire::Lane(l) => Lane::from_wire(l)
                .map(|l| Self::Lane(Box::new(l)))
                .map_err(|e| Rejected::new(e.within("lane"))),
            Wire::ProviderToken(t) => {
                provider_token(t).map_err(|e| Rejected::new(e.within("provider_token")))
            }
            Wire::Wave(w) => {
                let id = WaveId(w.id);
                Wave::from_wire(w, received)
                    .map(|w| Self::Wave(Box::new(w)))
                    .map_err(|e| Rejected::of(id, e.within("wave")))
            }
            Wire::Grant(g) => {
                grant(&g).map(Self::Grant).map_err(|e| Rejected::new(e.within("grant")))
            }
            Wire::Slice(s) => {
                slice(&s).map(Self::Slice).map_err(|e| Rejected::new(e.within("slice")))
            }
            Wire::Connections(c) => {
                connections(&c).map_err(|e| Rejected::new(e.within("connections")))
            }
            Wire::Cancel(c) => Ok(Self::Cancel { wave: WaveId(c.wave), epoch: Epoch(c.epoch) }),
            Wire::End(e) => Ok(Self::End { wave: WaveId(e.wave), epoch: Epoch(e.epoch) }),
            Wire::Count(mut c) => {
                let id = c.id;
                let cover = wave::cover(std::mem::take(&mut c.bands));
                cover
                    .and_then(|cover| Count::with_cover(&c, cover))
                    .map(|c| Self::Count(Box::new(c)))
                    .map_err(|e| Rejected::of_count(id, e.within("count")))
            }
            // Parts are put together before messages are checked: `super::assembly`.
            Wire::CoverPart(_) => Err(Rejected::new(InvalidField::new(
                "cover_part",
                "must belong to a wave or a count whose parts are announced",
            ))),
            Wire::Open(_) => Err(Rejected::new(InvalidField::new(
                "open",
                "must be the first message of a session only",
            ))),
            Wire::Left(wire::Left {}) => Ok(Self::Left),
        }
    }
}

/// Checks the first message of a session.
///
/// # Errors
/// It is another message, or names the field, the limit and the value.
pub fn opened(request: wire::SessionRequest) -> Result<Opened, InvalidField> {
    use wire::session_request::Message as Wire;
    let Wire::Open(open) = required(request.message, "message")? else {
        return Err(InvalidField::new("message", "must be open: the coordinator sends it first"));
    };
    let field = |name: &'static str| move |e: InvalidField| e.within(name).within("open");
    Ok(Opened {
        cluster: ClusterName::new(&open.cluster).map_err(field("cluster"))?,
        coordinator: CoordinatorId::from_wire(&open.coordinator).map_err(field("coordinator"))?,
        log: LogIdentity::from_wire(&open.log_identity).map_err(field("log_identity"))?,
        lanes_epoch: match open.lanes_epoch {
            0 => return Err(InvalidField::new("open.lanes_epoch", "must be at least 1; got 0")),
            epoch => Epoch(epoch),
        },
        version: open.version,
    })
}

fn ownership(o: &wire::Ownership) -> Result<Ownership, InvalidField> {
    let partition_count = u16::try_from(o.partition_count)
        .ok()
        .filter(|n| (1..=PARTITIONS_MAX).contains(n))
        .ok_or_else(|| {
            out_of("partition_count", 1, u64::from(PARTITIONS_MAX), u64::from(o.partition_count))
        })?;
    let log_count =
        u16::try_from(o.log_count).ok().filter(|n| (1..=partition_count).contains(n)).ok_or_else(
            || out_of("log_count", 1, u64::from(partition_count), u64::from(o.log_count)),
        )?;
    let mut partitions = Vec::with_capacity(o.partitions.len().min(usize::from(partition_count)));
    for (i, p) in o.partitions.iter().enumerate() {
        let field = || format!("partitions[{i}]");
        partitions.push(partition(*p).map_err(|e| e.within(&field()))?);
        if *p >= u32::from(partition_count) {
            return Err(out_of(&field(), 0, u64::from(partition_count) - 1, u64::from(*p)));
        }
    }
    partitions.sort_unstable();
    partitions.dedup();
    let log = LogIdentity::from_wire(&o.log_identity).map_err(|e| e.within("log_identity"))?;
    Ok(Ownership { log, number: o.number, partition_count, log_count, partitions })
}

fn provider_token(t: wire::ProviderToken) -> Result<Message, InvalidField> {
    let (bytes, field) = (t.authorization.len(), "authorization");
    if !(1..=AUTHORIZATION_BYTES_MAX).contains(&bytes) {
        return Err(InvalidField::new(
            field,
            format_args!("must have 1 to {AUTHORIZATION_BYTES_MAX} bytes; got {bytes}"),
        ));
    }
    if !t.authorization.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(InvalidField::new(field, "must contain printable ASCII only"));
    }
    let secret = secrecy::SecretString::from(t.authorization);
    let authorization = Authorization(std::sync::Arc::new(secret));
    Ok(Message::ProviderToken { lane: LaneId(t.lane), authorization, signer: t.signer })
}

fn grant(g: &wire::Grant) -> Result<Grant, InvalidField> {
    let lease = lease(g.lease_ms)?;
    let wave = |w: &wire::WaveGrant| WaveGrant {
        wave: WaveId(w.wave),
        epoch: Epoch(w.epoch),
        per_second: rate(w.rate_millis_per_second),
    };
    Ok(Grant { nonce: g.nonce, lease, waves: g.waves.iter().map(wave).collect() })
}

fn slice(s: &wire::Slice) -> Result<Slice, InvalidField> {
    let lease = lease(s.lease_ms)?;
    let rate = match (s.rate_millis_per_second, s.burst) {
        (0, 0) => None,
        (rate, burst) => Some((per_second(rate), f64::from(burst))),
    };
    Ok(Slice { nonce: s.nonce, lease, lane: LaneId(s.lane), rate })
}

fn connections(c: &wire::Connections) -> Result<Message, InvalidField> {
    let max = lane::CONNECTIONS_MAX;
    if !(1..=max).contains(&c.connections) {
        return Err(out_of("connections", 1, u64::from(max), u64::from(c.connections)));
    }
    Ok(Message::Connections { lane: LaneId(c.lane), connections: c.connections as usize })
}

impl Count {
    /// The question `c` without its bands, which became the cover.
    pub(super) fn with_cover(c: &wire::Count, cover: Cover) -> Result<Self, InvalidField> {
        if !(1..=wave::APPS_MAX).contains(&c.apps.len()) {
            return Err(out_of("apps", 1, wave::APPS_MAX as u64, c.apps.len() as u64));
        }
        let app = |(i, a): (usize, &String)| {
            AppName::from_id(a).map_err(|e| e.within(&format!("apps[{i}]")))
        };
        let apps = c.apps.iter().enumerate().map(app).collect::<Result<Vec<_>, _>>()?;
        let bands = cover.bands() as usize;
        let segments = wave::segments(&c.segments)?;
        let place_seen_after = UnixMillis(c.place_seen_after_ms);
        Ok(Self { id: c.id, cover, bands, apps, segments, place_seen_after })
    }
}

fn lease(ms: u32) -> Result<Duration, InvalidField> {
    if !(1..=LEASE_MS_MAX).contains(&ms) {
        return Err(out_of("lease_ms", 1, u64::from(LEASE_MS_MAX), u64::from(ms)));
    }
    Ok(Duration::from_millis(u64::from(ms)))
}

fn rate(millis_per_second: u64) -> Option<f64> {
    (millis_per_second != 0).then(|| per_second(millis_per_second))
}

#[allow(clippy::cast_precision_loss)] // a rate of 2^53 thousandths a second is none
fn per_second(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}

fn partition(number: u32) -> Result<PartitionId, InvalidField> {
    u16::try_from(number)
        .ok()
        .filter(|n| *n < PARTITIONS_MAX)
        .map(PartitionId)
        .ok_or_else(|| out_of("", 0, u64::from(PARTITIONS_MAX) - 1, u64::from(number)))
}

/// The error "must be 1 to 4096; got 0".
fn out_of(field: &str, min: u64, max: u64, got: u64) -> InvalidField {
    InvalidField::new(field, format_args!("must be {min} to {max}; got {got}"))
}
