//! One core of a node on the bus: does the work of the core's thread, without sockets and TLS.

use std::{collections::BTreeMap, collections::VecDeque};

use clarion_proto::time::Time;
use clarion_shard::{
    command::Command,
    core::{ConnectionId, Core, CoreConfig, Disconnect, IoRequest},
};

use crate::{
    actor::{Actor, Input, Output},
    message::Message,
    stream::{ActorId, Purpose, StreamId},
};

/// Place of a core in its node.
#[derive(Debug, Clone)]
pub struct CorePlace {
    /// Actor of the node's control plane.
    pub control: ActorId,
    /// All cores of the node, in their order.
    pub cores: Vec<ActorId>,
    /// Gateway of every lane.
    pub gateway: ActorId,
    /// Seed of the core's jitter.
    pub seed: u64,
}

/// One core with its connections.
pub struct CoreActor {
    id: ActorId,
    place: CorePlace,
    core: Core,
    /// Batches of the feed that the core has not accepted yet.
    batches: VecDeque<Command>,
    connections: BTreeMap<ConnectionId, Connection>,
    by_stream: BTreeMap<StreamId, ConnectionId>,
    streams: u32,
    now: Time,
    more: bool,
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    stream: StreamId,
    is_open: bool,
}

impl CoreActor {
    /// Creates a core that owns no partition.
    #[must_use]
    pub fn new(id: ActorId, place: CorePlace) -> Self {
        let cores = place.cores.len();
        let config =
            CoreConfig { single: cores == 1, cores, seed: place.seed, hash_seed: place.seed };
        Self {
            id,
            core: Core::new(config),
            place,
            batches: VecDeque::new(),
            connections: BTreeMap::new(),
            by_stream: BTreeMap::new(),
            streams: 0,
            now: Time(0),
            more: false,
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Apply { .. } => self.batches.push_back(command),
            // Waiting batches may be of another log than the core's next partitions.
            Command::Own(_) => {
                while let Some(batch) = self.batches.pop_front() {
                    while !self.core.feed_ready() {
                        self.core.turn(self.now);
                    }
                    self.core.command(batch, self.now);
                }
                self.core.command(command, self.now);
            }
            command => self.core.command(command, self.now),
        }
    }

    fn hear(&mut self, from: ActorId, message: Message) {
        match message {
            Message::Command(command) => self.command(*command),
            Message::Letter(letter) => {
                if let Some(core) = self.place.cores.iter().position(|core| *core == from) {
                    self.core.letter(core, *letter, self.now);
                }
            }
            _ => {}
        }
    }

    fn accepted(&mut self, stream: StreamId) {
        let Some(id) = self.by_stream.get(&stream).copied() else { return };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.is_open = true;
            self.core.connected(id, self.now);
        }
    }

    fn closed(&mut self, stream: StreamId, broken: bool) {
        let Some(id) = self.by_stream.remove(&stream) else { return };
        let Some(connection) = self.connections.remove(&id) else { return };
        match (connection.is_open, broken) {
            (false, _) => self.core.not_connected(id, "the network is cut".to_owned(), self.now),
            (true, true) => self.core.disconnected(id, Disconnect::Broken, self.now),
            (true, false) => self.core.disconnected(id, Disconnect::Closed, self.now),
        }
    }

    /// Runs one turn, with its steps in the order of the core's thread.
    fn turn(&mut self, outputs: &mut Vec<Output>) {
        let now = self.now;
        if self.core.feed_ready()
            && let Some(batch) = self.batches.pop_front()
        {
            self.core.command(batch, now);
        }
        self.more = self.core.turn(now) || !self.batches.is_empty();
        self.write(outputs);
        while let Some(request) = self.core.poll_io() {
            self.io(&request, outputs);
        }
        while let Some(event) = self.core.poll_event(now) {
            let message = Message::Event(Box::new(event));
            outputs.push(Output::Hand { to: self.place.control, message });
        }
        while let Some((to, letter)) = self.core.poll_letter() {
            let message = Message::Letter(Box::new(letter));
            outputs.push(Output::Hand { to: self.place.cores[to], message });
        }
    }

    fn write(&mut self, outputs: &mut Vec<Output>) {
        for (id, connection) in self.connections.iter().filter(|(_, c)| c.is_open) {
            loop {
                let mut bytes = Vec::new();
                self.core.transmit(*id, &mut bytes, self.now);
                if bytes.is_empty() {
                    break;
                }
                self.core.written(*id, bytes.len(), true, self.now);
                let message = Message::Bytes(bytes);
                outputs.push(Output::Send { stream: connection.stream, message });
            }
        }
    }

    fn io(&mut self, request: &IoRequest, outputs: &mut Vec<Output>) {
        match request {
            IoRequest::Connect { connection, .. } => {
                self.streams += 1;
                let stream = StreamId { opener: self.id, number: self.streams };
                self.by_stream.insert(stream, *connection);
                self.connections.insert(*connection, Connection { stream, is_open: false });
                let (to, purpose) = (self.place.gateway, Purpose::Push);
                outputs.push(Output::Open { stream, to, purpose });
            }
            IoRequest::Close { connection, .. } => {
                if let Some(Connection { stream, .. }) = self.connections.remove(connection) {
                    self.by_stream.remove(&stream);
                    outputs.push(Output::Close { stream });
                }
            }
        }
    }
}

impl Actor for CoreActor {
    fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        self.now = now;
        let mut outputs = Vec::new();
        match input {
            Input::Started | Input::Woke => {}
            Input::Opened { stream, .. } => outputs.push(Output::Close { stream }),
            Input::Accepted { stream } => self.accepted(stream),
            Input::Received { stream, message: Message::Bytes(bytes) } => {
                if let Some(id) = self.by_stream.get(&stream) {
                    self.core.receive(*id, &bytes, now);
                }
            }
            Input::Received { .. } => {}
            Input::Closed { stream, broken } => self.closed(stream, broken),
            Input::Handed { from, message } => self.hear(from, message),
        }
        self.turn(&mut outputs);
        outputs
    }

    fn deadline(&self) -> Option<Time> {
        if self.more { Some(self.now) } else { self.core.deadline() }
    }
}
