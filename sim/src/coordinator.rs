//! A coordinator on the bus: its state machine, a stream to each node, a follower for each feed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_coordinator::{
    feed::{Fed, Follower, Opening, Served, Step as FeedStep},
    lane::LaneKey,
    machine::{Machine, MachineConfig, Output as Step},
    members::assignment::{StoreOp, StoreResult},
    owners::Ownership,
    planned::PlannedAlert,
    snapshot::Snapshot,
    store::{Batch, ChangeLog, StoreError},
};
use clarion_proto::{
    ids::{UnixMillis, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};
use clarion_runtime::world::Moment;
use prost::Message as _;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{
    actor::{Actor, Input, Output},
    log::LogModel,
    message::Message,
    stream::{ActorId, Purpose, StreamId},
};

/// Longest pause before a reconnect to a node. The production task begins with shorter pauses.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// One coordinator process.
pub struct Coordinator {
    id: ActorId,
    machine: Machine,
    config: MachineConfig,
    log: Arc<LogModel>,
    /// The stored ownership of partitions.
    ownership: Option<Arc<Ownership>>,
    /// Wall time at time 0 of the coordinator's clock.
    wall_at_start: UnixMillis,
    lanes: Vec<LaneKey>,
    nodes: BTreeMap<ActorId, Call>,
    feeds: BTreeMap<StreamId, Option<Follower>>,
    random: Pcg64Mcg,
    streams: u32,
    now: Time,
    problems: Vec<String>,
}

/// State of the coordinator's connection to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Due(Time),
    Calling(StreamId),
    Open(StreamId),
}

impl Coordinator {
    /// Creates a coordinator that connects to these nodes and creates these lanes at its start.
    #[must_use]
    pub fn new(
        id: ActorId,
        config: MachineConfig,
        log: Arc<LogModel>,
        nodes: &[ActorId],
        lanes: Vec<LaneKey>,
        (wall_at_start, seed): (UnixMillis, u64),
    ) -> Self {
        Self {
            id,
            machine: Machine::new(config.clone()),
            config,
            log,
            ownership: None,
            wall_at_start,
            lanes,
            nodes: nodes.iter().map(|node| (*node, Call::Due(Time(0)))).collect(),
            feeds: BTreeMap::new(),
            random: Pcg64Mcg::seed_from_u64(seed),
            streams: 0,
            now: Time(0),
            problems: Vec::new(),
        }
    }

    /// Whether an alert can start.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.machine.is_ready()
    }

    /// The newest state of an alert.
    pub fn snapshot(&mut self, wave: WaveId) -> Option<Snapshot> {
        self.machine.snapshot(wave)
    }

    /// Whether an alert has ended and its numbers no longer change.
    #[must_use]
    pub fn is_settled(&self, wave: WaveId) -> bool {
        self.machine.is_settled(wave)
    }

    /// Unexpected events: faults of nodes, streams that the state machine ended, refused feeds,
    /// alerts that did not start.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.problems.iter().chain(self.machine.faults()).cloned().collect()
    }

    fn moment(&self) -> Moment {
        let wall = UnixMillis(self.wall_at_start.0 + self.now.0 / 1_000);
        Moment { at: self.now, wall }
    }

    fn stream_of(&self, number: u64) -> Option<StreamId> {
        let open = self.nodes.values().filter_map(|call| match call {
            Call::Open(stream) => Some(*stream),
            Call::Due(_) | Call::Calling(_) => None,
        });
        open.into_iter().find(|stream| stream.as_u64() == number)
    }

    fn start_lanes(&mut self) {
        let moment = self.moment();
        for lane in std::mem::take(&mut self.lanes) {
            if let Err(problem) = self.machine.ensure_lane(&lane, moment) {
                self.problems.push(problem.to_string());
            }
        }
    }

    fn start(&mut self, alert: Arc<PlannedAlert>) {
        let moment = self.moment();
        if let Err(problem) = self.machine.start(alert, moment) {
            self.problems.push(problem.to_string());
        }
    }

    fn call_due(&mut self, outputs: &mut Vec<Output>) {
        for (node, call) in &mut self.nodes {
            if matches!(call, Call::Due(at) if *at <= self.now) {
                self.streams += 1;
                let stream = StreamId { opener: self.id, number: self.streams };
                *call = Call::Calling(stream);
                outputs.push(Output::Open { stream, to: *node, purpose: Purpose::Session });
            }
        }
    }

    fn accepted(&mut self, stream: StreamId) {
        for call in self.nodes.values_mut() {
            if *call == Call::Calling(stream) {
                *call = Call::Open(stream);
                let moment = self.moment();
                return self.machine.opened(stream.as_u64(), moment);
            }
        }
    }

    fn closed(&mut self, stream: StreamId, broken: bool) {
        self.feeds.remove(&stream);
        let moment = self.moment();
        let pause = self.random.random_range(Duration::ZERO..=PAUSE_MAX);
        for call in self.nodes.values_mut() {
            if *call == Call::Open(stream) || *call == Call::Calling(stream) {
                *call = Call::Due(self.now + pause);
                let how = broken.then_some("the stream broke");
                return self.machine.closed(stream.as_u64(), how, moment);
            }
        }
    }

    fn follow(&mut self, stream: StreamId, request: &wire::FeedRequest, out: &mut Vec<Output>) {
        let served = Served {
            cluster: &self.config.cluster,
            identity: self.log.identity(),
            partitions: self.config.partitions,
            logs: self.log.logs(),
        };
        let opening = Opening::check(&served, request);
        match opening.and_then(|opening| opening.follow(&self.log.newest())) {
            Ok(follower) => drop(self.feeds.insert(stream, Some(follower))),
            Err(problem) => {
                self.problems.push(format!("feed refused: {problem}"));
                self.feeds.remove(&stream);
                out.push(Output::Close { stream });
            }
        }
    }

    /// Sends all messages that the feeds have not got yet.
    fn feed(&mut self, outputs: &mut Vec<Output>) {
        for (stream, follower) in &mut self.feeds {
            let Some(follower) = follower else { continue };
            follower.grown();
            loop {
                match follower.poll() {
                    FeedStep::Send(fed) => {
                        let message = Message::Batch(to_wire(fed));
                        outputs.push(Output::Send { stream: *stream, message });
                    }
                    FeedStep::Read { after, bytes_max } => {
                        follower.read(Ok(self.log.read(&after, bytes_max)));
                    }
                    FeedStep::Wait | FeedStep::End(_) => break,
                }
            }
        }
    }

    /// A model of the store's ownership: it answers at once, like the engine in memory.
    fn store(&mut self, op: StoreOp) -> StoreResult {
        match op {
            StoreOp::ReadOwnership => StoreResult::Read(Ok(self.ownership.clone())),
            StoreOp::WriteOwnership(next) => {
                let stored = self.ownership.as_ref().map_or(0, |ownership| ownership.number);
                if next.number != stored + 1 {
                    let conflict = StoreError::Conflict("ownership".to_owned());
                    return StoreResult::Written(Err(conflict));
                }
                StoreResult::Written(Ok(self.ownership.insert(Arc::new(next)).clone()))
            }
        }
    }

    fn carry_out(&mut self, outputs: &mut Vec<Output>) {
        while let Some(step) = self.machine.poll() {
            match step {
                Step::Say { stream, request } => {
                    let Some(stream) = self.stream_of(stream) else { continue };
                    let message = Message::Request(Box::new(request));
                    outputs.push(Output::Send { stream, message });
                }
                Step::End { stream, reason } => {
                    self.problems.push(format!("session ended: {reason}"));
                    let Some(stream) = self.stream_of(stream) else { continue };
                    outputs.push(Output::Close { stream });
                    self.closed(stream, false);
                }
                Step::Store(op) => {
                    let (result, moment) = (self.store(op), self.moment());
                    self.machine.stored(result, moment);
                }
            }
        }
    }
}

impl Actor for Coordinator {
    fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        self.now = now;
        let (mut outputs, moment) = (Vec::new(), self.moment());
        match input {
            Input::Started => self.start_lanes(),
            Input::Woke => self.machine.expire(moment),
            Input::Opened { stream, purpose: Purpose::Feed, .. } => {
                self.feeds.insert(stream, None);
            }
            Input::Opened { stream, .. } => outputs.push(Output::Close { stream }),
            Input::Accepted { stream } => self.accepted(stream),
            Input::Received { stream, message: Message::Response(response) } => {
                self.machine.received(stream.as_u64(), *response, moment);
            }
            Input::Received { stream, message: Message::Follow(request) } => {
                self.follow(stream, &request, &mut outputs);
            }
            Input::Closed { stream, broken } => self.closed(stream, broken),
            Input::Handed { message: Message::Start(alert), .. } => self.start(alert),
            Input::Received { .. } | Input::Handed { .. } => {}
        }
        self.call_due(&mut outputs);
        self.feed(&mut outputs);
        self.carry_out(&mut outputs);
        outputs
    }

    fn deadline(&self) -> Option<Time> {
        let calls = self.nodes.values().filter_map(|call| match call {
            Call::Due(at) => Some(*at),
            Call::Calling(_) | Call::Open(_) => None,
        });
        calls.chain(self.machine.deadline(self.now)).min()
    }
}

/// Encodes a message like the feed does.
fn to_wire(fed: Fed) -> wire::FeedResponse {
    let empty = wire::FeedResponse::default();
    match fed {
        Fed::Start(start) => wire::FeedResponse { start: Some(start), ..empty },
        Fed::Trimmed(trimmed) => wire::FeedResponse { trimmed: Some(trimmed), ..empty },
        Fed::Batch(log, Batch { position, appended, records }) => wire::FeedResponse {
            log: u32::from(log.0),
            position: position.0,
            append_time_ms: appended.0,
            ..wire::FeedResponse::decode(&records[..]).expect("encoded by the model")
        },
    }
}
