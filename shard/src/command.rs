//! What the control plane of a node says to its cores, and what they say back.
//!
//! The control plane (tokio) decodes and checks; a core (one thread) owns partitions, waves and lanes. Between them are
//! two bounded queues for each core, and nothing shared but immutable data behind an `Arc`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{
    device::Record,
    ids::{AppName, DeviceId, Epoch, LaneId, LogId, PartitionId, Position, UnixMillis, WaveId},
    latency::Latencies,
    outcome::Outcome,
    time::Time,
};
use roaring::RoaringBitmap;

use crate::wave::Cover;

/// From the control plane to one core.
#[derive(Debug)]
pub enum Command {
    /// These partitions are this core's from now on (empty ones are made); others are dropped with their waves.
    Own(Vec<PartitionId>),
    /// One batch of one log, only the records of this core's partitions. A batch without any is sent too: it moves the
    /// position of the log, which `WaveSpec::shards` wait for.
    Apply {
        /// Whose.
        log: LogId,
        /// Dense from 1 within a log.
        position: Position,
        /// The only clock of `apply`.
        appended: UnixMillis,
        /// With the partition of each.
        records: Vec<(PartitionId, Record)>,
    },
    /// Makes or replaces a lane end.
    Lane(Arc<LaneSpec>),
    /// A new value of `authorization`.
    ProviderToken {
        /// Whose.
        lane: LaneId,
        /// Never printed.
        authorization: Authorization,
        /// Tells the keys that made tokens apart.
        signer: u64,
    },
    /// Takes up a wave. Known already with this or a higher epoch: ignored. It sends nothing before a grant.
    Wave(Arc<WaveSpec>),
    /// Bands below this number may be walked for one lane: all cores of the node have walked those before for it.
    OpenBands {
        /// Which wave.
        wave: WaveId,
        /// Through which lane.
        lane: LaneId,
        /// Exclusive.
        bands: u32,
    },
    /// Leave to send.
    Grant {
        /// Which wave.
        wave: WaveId,
        /// On the node's clock, from when the node asked.
        until: Time,
        /// This core's share of the alert's rate; `None`: no limit.
        rate: Option<Rate>,
    },
    /// Part of a lane's quota.
    Slice {
        /// Which lane.
        lane: LaneId,
        /// On the node's clock.
        until: Time,
        /// This core's part; `None`: the lane has no quota.
        rate: Option<Rate>,
    },
    /// This core's part of the lane's connections, until another one comes.
    Connections {
        /// Which lane.
        lane: LaneId,
        /// How many; those that are too many leave in order.
        connections: usize,
        /// Of a core that has none: through whose it sends.
        host: Option<usize>,
    },
    /// Write nothing more of this wave; answer with [`Event::Stopped`].
    Cancel {
        /// Which wave.
        wave: WaveId,
        /// The highest seen is obeyed.
        epoch: Epoch,
    },
    /// The wave has ended everywhere: a last report with `ended`, then its state may go.
    End(WaveId),
    /// Count who would be reached.
    Count(Arc<CountSpec>),
    /// The first report of a new session is complete: forget what was reported.
    ReportAll,
    /// Close connections in order (GOAWAY, `close_notify`) and end the thread.
    Shutdown,
}

/// How fast: `per_second` on average, `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests.
    pub per_second: f64,
    /// Requests.
    pub burst: f64,
}

/// The value of `authorization`. Secret: `Debug` says nothing of it, its memory is wiped.
#[derive(Clone)]
pub struct Authorization(pub Arc<secrecy::SecretString>);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(..)")
    }
}

/// Whose protocol a lane speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Apple Push Notification service.
    Apns,
    /// Firebase Cloud Messaging, HTTP v1.
    Fcm,
}

/// One lane, as a core's end of it needs it. The limits are this core's part already.
#[derive(Debug)]
pub struct LaneSpec {
    /// In the cluster.
    pub id: LaneId,
    /// For its life.
    pub platform: Platform,
    /// `gateway/credential`, for people.
    pub name: String,
    /// host:port.
    pub endpoint: String,
    /// For the certificate and `:authority`.
    pub server_name: String,
    /// What the certificate is checked against.
    pub roots: Arc<rustls::RootCertStore>,
    /// Real people behind it.
    pub live: bool,
    /// To begin with; see [`Command::Connections`].
    pub connections: usize,
    /// At least 1.
    pub streams_per_connection: usize,
    /// Then a request counts as unanswered and is sent again.
    pub request_deadline: Duration,
    /// TCP and TLS together.
    pub connect_deadline: Duration,
    /// First pause before another try, of a device or of a connection (there a second at most).
    pub backoff_min: Duration,
    /// Longest such pause; of connections while nobody waits to be pushed to (`lane/pool`).
    pub backoff_max: Duration,
    /// Whether `authorization` enters the HPACK table.
    pub authorization_indexed: bool,
    /// Answers of one kind in a row, without a success between, that decide about a message, credential or lane.
    pub evidence: u32,
}

/// One wave, as one core runs it.
#[derive(Debug)]
pub struct WaveSpec {
    /// Which.
    pub id: WaveId,
    /// `alerts/{alert}`, for people.
    pub alert: String,
    /// The highest seen is obeyed.
    pub epoch: Epoch,
    /// Bands and their cells; shared by all cores.
    pub cover: Arc<Cover>,
    /// This core's partitions.
    pub shards: Vec<ShardSpec>,
    /// What is said, per app.
    pub apps: Vec<AppSpec>,
    /// Who is addressed: an expression in prefix form; empty: everybody.
    pub segments: Vec<SegmentOp>,
    /// Nothing is sent later.
    pub expires: Time,
}

/// One partition's part of a wave.
#[derive(Debug, Clone)]
pub struct ShardSpec {
    /// Which partition.
    pub partition: PartitionId,
    /// Its log.
    pub log: LogId,
    /// The walk waits until the log is applied up to here.
    pub start: Position,
    /// Handed over already by an earlier holder.
    pub handed: RoaringBitmap,
}

/// One app's messages.
#[derive(Debug, Clone)]
pub struct AppSpec {
    /// Which app.
    pub app: AppName,
    /// Through which lane.
    pub lane: LaneId,
    /// What all of its pushes share; of the lane's platform.
    pub request: Request,
    /// The first is the fallback. Never empty.
    pub messages: Vec<MessageSpec>,
}

/// What one locale is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageSpec {
    /// BCP 47, lower case.
    pub locale: String,
    /// APNs: the complete body. FCM: what stands before the token, up to and with its opening quote.
    pub body: Bytes,
    /// FCM: what stands behind the token, from its closing quote. APNs: empty.
    pub body_after_token: Bytes,
}

/// What all pushes of an app and wave share beside the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// In the headers.
    Apns(ApnsHeaders),
    /// All else stands in the body.
    Fcm {
        /// In the path.
        project: String,
    },
}

impl Request {
    /// Which lanes take it.
    #[must_use]
    pub fn platform(&self) -> Platform {
        match self {
            Self::Apns(_) => Platform::Apns,
            Self::Fcm { .. } => Platform::Fcm,
        }
    }
}

/// APNs request headers that are the same for every device of an app and wave (A-send).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApnsHeaders {
    /// `apns-topic`.
    pub topic: String,
    /// `apns-push-type`.
    pub push_type: String,
    /// `apns-priority`: 10, 5 or 1.
    pub priority: u8,
    /// `apns-expiration`, Unix seconds.
    pub expiration: u64,
    /// `apns-collapse-id`, at most 64 bytes.
    pub collapse_id: String,
}

/// One step of an audience expression in prefix form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentOp {
    /// Two operands follow.
    And,
    /// Two operands follow.
    Or,
    /// One operand follows.
    Not,
    /// The device has this segment.
    Has(String),
}

/// A question: how many would be reached?
#[derive(Debug)]
pub struct CountSpec {
    /// Returned with the answer.
    pub id: u64,
    /// Where.
    pub cover: Arc<Cover>,
    /// Counted one by one.
    pub apps: Vec<AppName>,
    /// Who.
    pub segments: Vec<SegmentOp>,
}

/// From one core to the control plane.
#[derive(Debug)]
pub enum Event {
    /// What happened to a wave since the last report of this core; every 20 ms while something changes.
    Report(Box<CoreReport>),
    /// Answers [`Command::Cancel`]: nothing more of the wave will be written.
    Stopped {
        /// Which.
        wave: WaveId,
        /// When its last request was handed to a socket; `None`: it wrote none.
        last_write: Option<Time>,
        /// Requests written after the command had arrived here.
        written_after: u64,
    },
    /// Answers [`Command::Count`]: per app of the question, per band.
    Counted {
        /// Of the question.
        id: u64,
        /// Outer: apps; inner: bands.
        devices: Vec<Vec<u64>>,
    },
    /// A lane end changed its health.
    LaneState {
        /// Which.
        lane: LaneId,
        /// When this was so.
        at: Time,
        /// To what.
        health: LaneHealth,
        /// The gateway's words; never a token.
        detail: String,
        /// When the trouble began; `None`: there is none.
        since: Option<Time>,
        /// When the gateway is asked again, if that is known.
        next_probe: Option<Time>,
    },
    /// How the connections of a lane are used, every 100 ms while it has work.
    LaneLoad {
        /// Which.
        lane: LaneId,
        /// How.
        load: Box<LaneLoad>,
    },
    /// What this core holds, after it changed; at most every 100 ms.
    Held(HeldStats),
}

/// How one end of a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneHealth {
    /// Connected and answering.
    Ready,
    /// No connection, no answers, or nothing can be sent: tried again with backoff.
    Unreachable,
    /// The provider token is refused: single requests try it until it is accepted or another one comes.
    Credential,
    /// The message itself is wrong: no other device can succeed.
    Campaign,
    /// The gateway asks for less.
    Throttled,
    /// Answers are not the provider's: an outage, a proxy.
    Unsigned,
    /// The gateway says that the project is not there.
    Project,
}

/// How one core's connections of a lane are used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LaneLoad {
    /// Somebody is to be pushed to.
    pub busy: bool,
    /// Share of the time in which more connections would have been of use.
    pub starved: f64,
    /// That stand and take as many requests as the gateway allows.
    pub connections: u64,
    /// Streams of those together, as the gateway announced them.
    pub streams: u64,
    /// Windows of those together, as the gateway opens them.
    pub window_bytes: u64,
    /// Most requests that were out at once.
    pub requests_out_max: u64,
    /// Of so many of the last requests
    pub bodies: u64,
    /// the sizes together.
    pub body_bytes: u64,
    /// Samples of the last seconds.
    pub latencies: Latencies,
}

/// What a core holds.
#[derive(Debug, Clone, Default)]
pub struct HeldStats {
    /// How many [`Command::Own`] the core had carried out: of an older number, the rest is about former partitions.
    pub owns: u64,
    /// Applied so far.
    pub positions: Vec<(LogId, Position)>,
    /// With a registration.
    pub devices: u64,
    /// Of those, with a place.
    pub placed: u64,
    /// Of those, muted.
    pub muted: u64,
    /// By app.
    pub apps: Vec<(AppName, u64)>,
}

/// One core's part of a report on one wave. Counts are totals of this core since its start.
#[derive(Debug, Default)]
pub struct CoreReport {
    /// Which wave.
    pub wave: WaveId,
    /// As obeyed.
    pub epoch: Epoch,
    /// Everything since the wave began is in it: so are its first report and the first after [`Command::ReportAll`].
    pub all: bool,
    /// Bands handed over whole, from the nearest, in all partitions of this core: for each lane of the wave.
    pub bands_walked: Vec<(LaneId, u32)>,
    /// All walked, nothing open, nobody waiting.
    pub complete: bool,
    /// Nothing more will change.
    pub ended: bool,
    /// Bands that changed: number and totals.
    pub bands: Vec<(u32, Counts)>,
    /// Cells of resolution 6 that changed: index and totals; every 200 ms.
    pub cells: Vec<(u64, Counts)>,
    /// Ordinals handed over since the last report.
    pub handed: Vec<(PartitionId, RoaringBitmap)>,
    /// Ordinals open now, in every partition that has any or had any at the last report.
    pub open: Vec<(PartitionId, RoaringBitmap)>,
    /// Requests that got no answer: total.
    pub unanswered_requests: u64,
    /// Requests the gateway asked to be tried again: total.
    pub retried_requests: u64,
    /// Tokens called dead since the last report.
    pub dead: Vec<DeadToken>,
    /// What the wave's apps were answered, with the lane of each: totals.
    pub answers: Vec<(LaneId, AppName, Answers)>,
    /// Why devices were not accepted at once: all kinds, if any count changed.
    pub reasons: Vec<ReasonCount>,
    /// Messages that are sent no more: all of them.
    pub refused_messages: Vec<RefusedMessage>,
}

/// A message that a gateway refuses whoever it is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedMessage {
    /// Whose.
    pub app: AppName,
    /// Status and reason, in the gateway's words.
    pub detail: String,
}

/// A gateway's last words on devices; totals that only grow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Answers {
    /// By [`Outcome`], in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 5],
    /// Of the dead: by an answer that may also mean the wrong environment.
    pub bad_device_tokens: u64,
}

impl Answers {
    /// Counts one outcome.
    pub fn count(&mut self, outcome: Outcome) {
        self.outcomes[outcome as usize] += 1;
    }

    /// How many had this outcome.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Those with a gateway's word behind them.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.of(Outcome::Accepted) + self.of(Outcome::Dead) + self.of(Outcome::Refused)
    }

    /// Adds those of another message or core.
    pub fn add(&mut self, other: &Self) {
        self.outcomes.iter_mut().zip(other.outcomes).for_each(|(mine, theirs)| *mine += theirs);
        self.bad_device_tokens += other.bad_device_tokens;
    }
}

/// How often one reason was given; totals that only grow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReasonCount {
    /// What it is about and what it says.
    pub kind: ReasonKind,
    /// How often.
    pub count: u64,
}

/// What a reason is about and what it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReasonKind {
    /// What followed for the device.
    pub then: Consequence,
    /// Of the device, and the lane that it was sent through; `None`: several kinds, folded together.
    pub app: Option<(AppName, LaneId)>,
    /// Of the answer; 0: several kinds, or there was no answer because the request cannot be written.
    pub status: u16,
    /// At most [`crate::outcome::UNKNOWN_CHARS_MAX`] characters; empty: the provider did not sign the answer.
    pub reason: String,
}

/// What followed from an answer for its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consequence {
    /// Its token is dead.
    Dead,
    /// It is not told.
    Refused,
    /// It is pushed to again.
    Retried,
}

/// Devices handed and their outcomes; totals that only grow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// To a lane.
    pub handed: u64,
    /// By [`Outcome`], in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 5],
}

impl Counts {
    /// Counts one outcome.
    pub fn count(&mut self, outcome: Outcome) {
        self.outcomes[outcome as usize] += 1;
    }

    /// Adds another core's counts.
    pub fn add(&mut self, other: &Self) {
        self.handed += other.handed;
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
    }

    /// Handed and without an outcome yet.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.handed - self.outcomes.iter().sum::<u64>()
    }
}

/// One dead token, by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadToken {
    /// Whose token it is.
    pub app: AppName,
    /// It may be the token of another environment.
    pub needs_evidence: bool,
    /// Who says so.
    pub lane: LaneId,
    /// Whose.
    pub device: DeviceId,
    /// Which.
    pub token_hash: u64,
    /// Since when, by the gateway.
    pub gateway_time: Option<UnixMillis>,
}
