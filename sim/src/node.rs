//! A node's control plane on the bus: sessions and the feed in, commands to cores out.
//!
//! It passes the same messages as the production node task between the same state machines:
//! `Assembly`, `Control` and `Splitter`.

use std::{collections::BTreeMap, mem, time::Duration};

use clarion_proto::{
    ids::{BootId, ClusterName, CoordinatorId},
    time::Time,
    wire::shard_v1 as wire,
};
use clarion_shard::{
    command::Command,
    control::{
        Control, FeedNote, Identity, assembly::Assembly, message, output::Output as Step,
        snapshot::SnapshotNote,
    },
    feed::{
        self,
        split::{Positions, Splitter},
    },
    wave::Room,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{
    actor::{Actor, Input, Output},
    message::Message,
    stream::{ActorId, Purpose, StreamId},
};

/// Longest pause before a feed is opened again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Identity of a node, and the coordinator that it follows.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name of the node, stable over restarts.
    pub name: String,
    /// Identity of this start of the node.
    pub boot: BootId,
    /// Name of the cluster.
    pub cluster: ClusterName,
    /// Coordinator that the node follows.
    pub coordinator: ActorId,
    /// Cores of the node, in their order.
    pub cores: Vec<ActorId>,
    /// Seed of the node's pauses.
    pub seed: u64,
}

/// The control plane of one node process.
pub struct Node {
    id: ActorId,
    config: NodeConfig,
    control: Control,
    room: Room,
    sessions: BTreeMap<CoordinatorId, Session>,
    /// A stream whose Open has not arrived yet.
    begun: Option<StreamId>,
    feed: Feed,
    random: Pcg64Mcg,
    streams: u32,
    now: Time,
    problems: Vec<String>,
}

struct Session {
    stream: StreamId,
    assembly: Assembly,
}

/// State of the node's feed.
enum Feed {
    /// The node has no log to follow.
    Idle(Positions),
    /// The next try is due at this time.
    Paused(Splitter, Time),
    Opening(Splitter, StreamId),
    /// Whether the control plane knows that the node has caught up.
    Open(Splitter, StreamId, bool),
}

impl Node {
    /// Creates a node without partitions and without a session.
    #[must_use]
    pub fn new(id: ActorId, config: NodeConfig) -> Self {
        let identity = Identity {
            node: config.name.clone(),
            boot: config.boot,
            cluster: config.cluster.clone(),
            version: "sim",
            cores: config.cores.len(),
        };
        Self {
            id,
            // The memory of the test's process would differ in each run.
            control: Control::new(identity, || 0),
            room: Room::default(),
            sessions: BTreeMap::new(),
            begun: None,
            feed: Feed::Idle(Positions::new()),
            random: Pcg64Mcg::seed_from_u64(config.seed),
            streams: 0,
            now: Time(0),
            problems: Vec::new(),
            config,
        }
    }

    /// Unexpected events: refused coordinators, batches that violate the contract.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    fn request(&mut self, stream: StreamId, request: wire::SessionRequest) -> Option<Output> {
        let mut sessions = self.sessions.iter_mut();
        if let Some((from, session)) = sessions.find(|(_, session)| session.stream == stream) {
            if let Some(message) = session.assembly.take(request, self.now) {
                self.control.message(*from, message, self.now);
            }
            return None;
        }
        self.begun.take_if(|begun| *begun == stream)?;
        let opened = message::opened(request).map_err(|problem| problem.to_string());
        let admitted = opened.and_then(|opened| {
            let admitted = self.control.open(&opened, self.now);
            admitted.map(|()| opened.coordinator).map_err(|fenced| fenced.to_string())
        });
        let coordinator = match admitted {
            Ok(coordinator) => coordinator,
            Err(problem) => {
                self.problems.push(format!("coordinator refused: {problem}"));
                return Some(Output::Close { stream });
            }
        };
        let assembly = Assembly::new(self.room.clone());
        let former = self.sessions.insert(coordinator, Session { stream, assembly });
        former.map(|former| Output::Close { stream: former.stream })
    }

    fn batch(&mut self, stream: StreamId, batch: wire::FeedResponse, out: &mut Vec<Output>) {
        let Feed::Open(splitter, open, _) = &mut self.feed else { return };
        if *open != stream {
            return;
        }
        if let Some(start) = &batch.start {
            if let Err(problem) = splitter.start(start) {
                self.problems.push(problem.to_string());
            }
            return self.caught_up();
        }
        match splitter.split(batch) {
            Ok(commands) => {
                for (core, command) in commands {
                    if let Command::Apply { log, position, .. } = &command {
                        splitter.taken(core, *log, *position);
                    }
                    let message = Message::Command(Box::new(command));
                    out.push(Output::Hand { to: self.config.cores[core], message });
                }
            }
            Err(problem) => self.problems.push(problem.to_string()),
        }
        self.caught_up();
    }

    /// Reports once to the control plane that the cores have caught up with the logs' heads.
    fn caught_up(&mut self) {
        if let Feed::Open(splitter, _, told) = &mut self.feed
            && !*told
            && splitter.has_caught_up()
        {
            *told = true;
            self.control.feed(FeedNote::CaughtUp);
        }
    }

    fn closed(&mut self, stream: StreamId) {
        self.begun.take_if(|begun| *begun == stream);
        let mut sessions = self.sessions.iter();
        let closed = sessions.find(|(_, session)| session.stream == stream).map(|(id, _)| *id);
        if let Some(coordinator) = closed {
            self.sessions.remove(&coordinator);
            self.control.close(coordinator, self.now);
        }
        let mine =
            |feed: &Feed| matches!(feed, Feed::Opening(_, s) | Feed::Open(_, s, _) if *s == stream);
        if mine(&self.feed)
            && let Feed::Opening(splitter, _) | Feed::Open(splitter, ..) =
                mem::replace(&mut self.feed, Feed::Idle(Positions::new()))
        {
            let pause = self.random.random_range(Duration::ZERO..=PAUSE_MAX);
            self.feed = Feed::Paused(splitter, self.now + pause);
            self.control.feed(FeedNote::Lost);
        }
    }

    /// Retries the feed if a try is due.
    fn tend_feed(&mut self, outputs: &mut Vec<Output>) {
        self.feed = match mem::replace(&mut self.feed, Feed::Idle(Positions::new())) {
            Feed::Paused(splitter, at) if at <= self.now => {
                self.streams += 1;
                let stream = StreamId { opener: self.id, number: self.streams };
                let (to, purpose) = (self.config.coordinator, Purpose::Feed);
                outputs.push(Output::Open { stream, to, purpose });
                Feed::Opening(splitter, stream)
            }
            other => other,
        };
    }

    fn accepted(&mut self, stream: StreamId, outputs: &mut Vec<Output>) {
        self.feed = match mem::replace(&mut self.feed, Feed::Idle(Positions::new())) {
            Feed::Opening(mut splitter, opening) if opening == stream => {
                let request = splitter.request(&self.config.name, &self.config.cluster);
                outputs.push(Output::Send { stream, message: Message::Follow(request) });
                Feed::Open(splitter, stream, false)
            }
            other => other,
        };
    }

    fn carry_out(&mut self, outputs: &mut Vec<Output>) {
        while let Some(step) = self.control.poll() {
            match step {
                Step::Command { core, command } => {
                    let message = Message::Command(Box::new(command));
                    outputs.push(Output::Hand { to: self.config.cores[core], message });
                }
                Step::Unfollow => {
                    let feed = mem::replace(&mut self.feed, Feed::Idle(Positions::new()));
                    if let Feed::Opening(_, stream) | Feed::Open(_, stream, _) = &feed {
                        outputs.push(Output::Close { stream: *stream });
                    }
                    self.feed = Feed::Idle(feed.into_positions());
                }
                Step::Follow { assignment, followed, begin } => {
                    let feed = mem::replace(&mut self.feed, Feed::Idle(Positions::new()));
                    let positions = feed::resume(feed.into_positions(), &followed, begin);
                    let splitter = Splitter::new(&assignment, &positions);
                    if splitter.is_empty() {
                        self.control.feed(FeedNote::CaughtUp);
                    } else {
                        self.feed = Feed::Paused(splitter, self.now);
                    }
                }
                // The coordinators of the simulation keep no snapshots.
                Step::List(list) => {
                    let (list, snapshots, interval) = (list.number, Vec::new(), Duration::ZERO);
                    let note = SnapshotNote::Listed { list, snapshots, interval };
                    self.control.snapshots(note, self.now);
                }
                step @ (Step::Load(_) | Step::Save(_)) => {
                    self.problems.push(format!("a snapshot that nobody keeps: {step:?}"));
                }
                Step::StopLoad { .. } | Step::StopSave => {}
            }
        }
    }

    fn speak(&mut self, outputs: &mut Vec<Output>) {
        for (coordinator, Session { stream, .. }) in &self.sessions {
            while let Some(response) = self.control.next_message(*coordinator, self.now) {
                let message = Message::Response(Box::new(response));
                outputs.push(Output::Send { stream: *stream, message });
            }
        }
    }
}

impl Feed {
    fn into_positions(self) -> Positions {
        match self {
            Self::Idle(positions) => positions,
            Self::Paused(splitter, _) | Self::Opening(splitter, _) | Self::Open(splitter, ..) => {
                splitter.positions()
            }
        }
    }
}

impl Actor for Node {
    fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        self.now = now;
        let mut outputs = Vec::new();
        match input {
            Input::Woke => self.control.expire(now),
            Input::Opened { stream, purpose: Purpose::Session, .. } => {
                let former = self.begun.replace(stream);
                outputs.extend(former.map(|stream| Output::Close { stream }));
            }
            Input::Opened { stream, .. } => outputs.push(Output::Close { stream }),
            Input::Accepted { stream } => self.accepted(stream, &mut outputs),
            Input::Received { stream, message: Message::Request(request) } => {
                outputs.extend(self.request(stream, *request));
            }
            Input::Received { stream, message: Message::Batch(batch) } => {
                self.batch(stream, batch, &mut outputs);
            }
            Input::Closed { stream, .. } => self.closed(stream),
            Input::Handed { from, message: Message::Event(event) } => {
                if let Some(core) = self.config.cores.iter().position(|core| *core == from) {
                    self.control.event(core, *event);
                }
            }
            Input::Started | Input::Received { .. } | Input::Handed { .. } => {}
        }
        self.carry_out(&mut outputs);
        self.tend_feed(&mut outputs);
        self.speak(&mut outputs);
        outputs
    }

    fn deadline(&self) -> Option<Time> {
        let feed = match &self.feed {
            Feed::Paused(_, at) => Some(*at),
            Feed::Idle(_) | Feed::Opening(..) | Feed::Open(..) => None,
        };
        let due = |to: &CoordinatorId| self.control.message_due(*to, self.now);
        let due = self.sessions.keys().filter_map(due).min();
        [due, self.control.deadline(), feed].into_iter().flatten().min()
    }
}
