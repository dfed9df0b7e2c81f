//! A gateway on the bus: the emulator's connections with one common record, without sockets and
//! TLS.

use std::collections::BTreeMap;

use clarion_emulator::{
    GatewayConfig,
    clock::Now,
    connection::{Connection, Context, Pace},
    faults::Plan,
    policy::Policy,
    record::{Entry, Log, Stats},
    script::Attempts,
};
use clarion_proto::{ids::UnixMillis, time::Time};

use crate::{
    actor::{Actor, Input, Output},
    message::Message,
    stream::{Purpose, StreamId},
};

/// One emulated gateway with its connections and its record.
pub struct Gateway {
    policy: Policy,
    plan: Plan,
    pace: Pace,
    attempts: Attempts,
    log: Log,
    connections: BTreeMap<StreamId, Connection>,
    numbers: u32,
    /// Wall time at time 0 of the gateway's clock.
    wall_at_start: UnixMillis,
    now: Time,
}

impl Gateway {
    /// Creates a gateway without connections.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub fn new(config: &GatewayConfig, wall_at_start: UnixMillis) -> std::io::Result<Self> {
        Ok(Self {
            policy: config.policy()?,
            plan: Plan::new(config.faults.clone(), Time(0), 0),
            pace: Pace::default(),
            attempts: Attempts::default(),
            log: Log::default(),
            connections: BTreeMap::new(),
            numbers: 0,
            wall_at_start,
            now: Time(0),
        })
    }

    /// The record, in the order of decisions.
    pub fn record(&self) -> impl Iterator<Item = &Entry> {
        self.log.entries()
    }

    /// Totals of the record.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.log.stats()
    }

    /// Number of all accepted connections.
    #[must_use]
    pub fn accepted(&self) -> u32 {
        self.numbers
    }

    /// Passes bytes to one connection, runs its due work, and sends the bytes that it wrote.
    fn serve(&mut self, stream: StreamId, bytes: &[u8], outputs: &mut Vec<Output>) {
        let wall = UnixMillis(self.wall_at_start.0 + self.now.0 / 1_000);
        let Self { policy, plan, pace, attempts, log, .. } = self;
        let now = Now { at: self.now, wall };
        let mut context = Context { policy, plan, pace, attempts, log, now };
        let Some(connection) = self.connections.get_mut(&stream) else { return };
        if !bytes.is_empty() {
            connection.receive(bytes, &mut context);
        }
        connection.advance(&mut context);
        let mut output = Vec::new();
        let position = connection.take_output(&mut output);
        connection.flushed(position, &mut context);
        if !output.is_empty() {
            outputs.push(Output::Send { stream, message: Message::Bytes(output) });
        }
        if connection.end().is_some() {
            outputs.push(Output::Close { stream });
            self.lose(stream);
        }
    }

    fn lose(&mut self, stream: StreamId) {
        if let Some(mut connection) = self.connections.remove(&stream) {
            connection.lost(self.now, &mut self.log);
        }
    }

    fn due(&self, connection: &Connection) -> Option<Time> {
        connection.deadline(&self.policy, &self.plan, self.now)
    }
}

impl Actor for Gateway {
    fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        self.now = now;
        let mut outputs = Vec::new();
        match input {
            Input::Opened { stream, purpose: Purpose::Push, .. } => {
                self.numbers += 1;
                self.connections.insert(stream, Connection::new(self.numbers, &self.policy));
                self.serve(stream, &[], &mut outputs);
            }
            Input::Opened { stream, .. } => outputs.push(Output::Close { stream }),
            Input::Received { stream, message: Message::Bytes(bytes) } => {
                self.serve(stream, &bytes, &mut outputs);
            }
            Input::Closed { stream, .. } => self.lose(stream),
            Input::Started
            | Input::Woke
            | Input::Accepted { .. }
            | Input::Received { .. }
            | Input::Handed { .. } => {}
        }
        let connections = self.connections.iter();
        let due = connections.filter(|(_, c)| self.due(c).is_some_and(|at| at <= now));
        for stream in due.map(|(stream, _)| *stream).collect::<Vec<_>>() {
            self.serve(stream, &[], &mut outputs);
        }
        outputs
    }

    fn deadline(&self) -> Option<Time> {
        self.connections.values().filter_map(|connection| self.due(connection)).min()
    }
}
