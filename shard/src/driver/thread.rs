//! The loop of one core's thread.

use std::{collections::BTreeMap, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use clarion_proto::{ids::LaneId, time::Time};
use clarion_runtime::{
    proxy::rules::ProxyRules,
    repeated::Repeated,
    world::{Clock, World},
};
use mio::{Events, Interest, Poll, Token};
use tokio::sync::mpsc::{Receiver, Sender};

use super::{
    addresses::{Addresses, DIALS_MAX},
    mail::Mail,
    resolve::{Resolved, Resolver},
    socket::{Progress, READ_BYTES, Received, Socket, is_refusal_of_lane},
    tls::Tls,
};
use crate::{
    command::{Command, Event},
    core::{ConnectionId, Core, Disconnect, IoRequest},
    lane::spec::LaneSpec,
};

/// Token of the poller for "a queue has new content".
pub(super) const WAKE: Token = Token(usize::MAX);
/// Commands carried out in one turn.
const COMMANDS_PER_TURN: usize = 64;
/// Pause while the control plane takes no events: nothing signals when it has room again, so the
/// thread retries after this time. Sockets and commands wake it meanwhile.
const DEAF_PAUSE: Duration = Duration::from_millis(1);
/// Readiness taken from the poller in one turn.
const READY_MAX: usize = 256;

/// A core with its sockets, queues and clock.
pub(super) struct CoreThread {
    core: Core,
    clock: Clock,
    proxy_rules: ProxyRules,
    poll: Poll,
    control: Receiver<Command>,
    feed: Receiver<Command>,
    events: Sender<Event>,
    mail: Mail,
    resolver: Resolver,
    addresses: Addresses,
    tls: Tls,
    /// Sockets, by slot of their connection.
    sockets: Vec<Option<Socket>>,
    scratch: Vec<u8>,
    /// Limits the log lines about failed connections, by lane.
    failures: BTreeMap<LaneId, Repeated>,
    /// The control plane had no room for events, or another core none for letters.
    deaf: bool,
}

impl CoreThread {
    pub(super) fn new(
        core: Core,
        world: &World,
        poll: Poll,
        (resolver, addresses): (Resolver, Addresses),
        mail: Mail,
        (control, feed): (Receiver<Command>, Receiver<Command>),
        events: Sender<Event>,
    ) -> Self {
        Self {
            core,
            clock: world.clock(),
            proxy_rules: world.proxy_rules().clone(),
            poll,
            control,
            feed,
            events,
            mail,
            resolver,
            addresses,
            tls: Tls::new(),
            sockets: Vec::new(),
            scratch: vec![0; READ_BYTES],
            failures: BTreeMap::new(),
            deaf: false,
        }
    }

    /// Until a shutdown has been carried out.
    pub(super) fn run(mut self) {
        let mut ready = Events::with_capacity(READY_MAX);
        let mut more = false;
        while !self.core.is_finished() {
            let wait = if more { Some(Duration::ZERO) } else { self.wait() };
            match self.poll.poll(&mut ready, wait) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => panic!("the poller of a core failed: {error}"),
            }
            for event in ready.iter().filter(|event| event.token() != WAKE) {
                if let Some(socket) = self.sockets.get_mut(event.token().0).and_then(Option::as_mut)
                {
                    socket.readable |=
                        event.is_readable() || event.is_error() || event.is_read_closed();
                    socket.writable |= event.is_writable() || event.is_error();
                    socket.read_closed |= event.is_read_closed() || event.is_error();
                }
            }
            more = self.turn();
        }
        for socket in self.sockets.into_iter().flatten() {
            socket.close(false);
        }
    }

    /// One turn; true: there is more to do at once.
    fn turn(&mut self) -> bool {
        let mut more = self.commands();
        more |= self.mail.receive(&mut self.core, self.clock.now());
        while let Some((id, resolved)) = self.resolver.answer() {
            self.connect(id, resolved);
        }
        more |= self.read();
        more |= self.core.turn(self.clock.now());
        self.write();
        self.io();
        self.tell();
        self.deaf |= !self.mail.send(&mut self.core);
        more
    }

    fn wait(&self) -> Option<Duration> {
        if self.deaf {
            return Some(DEAF_PAUSE);
        }
        self.core.deadline().map(|at| at.since(self.clock.now()))
    }

    fn commands(&mut self) -> bool {
        let now = self.clock.now();
        for _ in 0..COMMANDS_PER_TURN {
            match self.control.try_recv() {
                Ok(command) => self.core.command(command, now),
                Err(_) => break,
            }
        }
        // A batch, or a piece of a snapshot, overtakes no command that was queued before it: the
        // core may not own or have emptied its partition yet.
        if self.control.is_empty()
            && self.core.feed_ready()
            && let Ok(batch) = self.feed.try_recv()
        {
            self.core.command(batch, now);
        }
        !self.control.is_empty() || !self.feed.is_empty()
    }

    /// Continues handshakes and reads responses.
    fn read(&mut self) -> bool {
        let mut more = false;
        for slot in 0..self.sockets.len() {
            let Some(socket) = self.sockets[slot].as_mut() else { continue };
            let id = socket.id;
            if !socket.is_open() {
                let proxy_step = socket.proxy_step();
                let established = socket.establish(&mut self.scratch);
                if socket.proxy_step() != proxy_step {
                    self.core.waits_for(id, socket.slow_step());
                }
                match established {
                    Ok(Progress::Waiting) => continue,
                    Ok(Progress::Established) => {
                        socket
                            .address
                            .into_iter()
                            .for_each(|address| self.addresses.stands(address));
                        self.core.connected(id, self.clock.now());
                    }
                    Err(error) => {
                        self.refused(id, &error);
                        continue;
                    }
                }
            }
            let (core, now) = (&mut self.core, self.clock.now());
            let Some(socket) = self.sockets[slot].as_mut() else { continue };
            match socket.receive(&mut self.scratch, |bytes| core.receive(id, bytes, now)) {
                Ok(Received::Drained) => {}
                Ok(Received::More) => more = true,
                Ok(Received::Closed) => self.lost(id, Disconnect::Closed),
                Err(error) => {
                    let lane = Arc::clone(&socket.lane);
                    if let Some(times) = self.times_to_log(&lane, "read", &error) {
                        let lane = &lane.name;
                        tracing::info!(%lane, %error, times, "connection to gateway lost on read");
                    }
                    self.lost(id, Disconnect::Broken);
                }
            }
        }
        more
    }

    /// What the core has encoded, as far as sockets take it.
    fn write(&mut self) {
        for slot in 0..self.sockets.len() {
            while self.write_some(slot) {}
        }
    }

    /// One flush of a connection; true: the socket has taken all of it, and there may be more.
    fn write_some(&mut self, slot: usize) -> bool {
        let Some(socket) = self.sockets[slot].as_mut().filter(|socket| socket.is_open()) else {
            return false;
        };
        let id = socket.id;
        if socket.is_drained() {
            self.core.transmit(id, &mut socket.plain, self.clock.now());
            if socket.is_drained() {
                return false;
            }
        }
        match socket.flush() {
            Ok(written) => {
                let drained = socket.is_drained();
                if drained {
                    self.core.give_back(std::mem::take(&mut socket.plain));
                }
                self.core.written(id, written, drained, self.clock.now());
                drained
            }
            Err(error) => {
                let lane = Arc::clone(&socket.lane);
                if let Some(times) = self.times_to_log(&lane, "write", &error) {
                    let lane = &lane.name;
                    tracing::info!(%lane, %error, times, "connection to gateway lost on write");
                }
                self.hear_out(slot);
                self.lost(id, Disconnect::Broken);
                false
            }
        }
    }

    /// Reads the bytes that arrived before a connection broke, if a write noticed it first: their
    /// answers will not come again.
    fn hear_out(&mut self, slot: usize) {
        let Some(socket) = self.sockets[slot].as_mut() else { return };
        let (core, id, now) = (&mut self.core, socket.id, self.clock.now());
        // The system has said no more of this socket than that it cannot be written to. What it
        // holds is bounded by its buffer.
        (socket.readable, socket.read_closed) = (true, true);
        while let Ok(Received::More) =
            socket.receive(&mut self.scratch, |bytes| core.receive(id, bytes, now))
        {}
    }

    fn io(&mut self) {
        while let Some(request) = self.core.poll_io() {
            match request {
                IoRequest::Connect { connection, lane } => {
                    let slot = connection.slot as usize;
                    if self.sockets.len() <= slot {
                        self.sockets.resize_with(slot + 1, || None);
                    }
                    let proxy = lane.route.proxy_for(&lane.endpoint, &self.proxy_rules);
                    let socket = Socket::new(connection, lane, proxy);
                    self.core.waits_for(connection, socket.slow_step());
                    let answer = self.resolver.ask(connection, socket.endpoint());
                    if let Some(former) = self.sockets[slot].replace(socket) {
                        former
                            .address
                            .into_iter()
                            .for_each(|a| self.addresses.closed(a, false, self.clock.now()));
                        // Its end has been asked for, but stands later in this queue.
                        former.close(true);
                    }
                    if let Some(resolved) = answer {
                        self.connect(connection, resolved);
                    }
                }
                IoRequest::Close { connection, reset } => {
                    if let Some(socket) = self.take(connection) {
                        let failed = !socket.is_open();
                        let now = self.clock.now();
                        socket
                            .address
                            .into_iter()
                            .for_each(|address| self.addresses.closed(address, failed, now));
                        socket.close(reset);
                    }
                }
            }
        }
    }

    /// Sends as many events as the control plane has room for; the rest stays in the core and
    /// merges.
    fn tell(&mut self) {
        let now = self.clock.now();
        loop {
            let Ok(room) = self.events.try_reserve() else {
                self.deaf = true;
                return;
            };
            self.deaf = false;
            match self.core.poll_event(now) {
                Some(event) => room.send(event),
                None => return,
            }
        }
    }

    fn connect(&mut self, id: ConnectionId, resolved: Resolved) {
        let Some(socket) = self.socket(id) else { return };
        match resolved {
            Ok(of) => {
                socket.others.clone_from(&of);
                let now = self.clock.now();
                let address = self.addresses.take(of, now);
                self.dial(id, address);
            }
            Err(error) => self.cannot_connect(id, &error),
        }
    }

    /// To this address, and to another one if it is refused here and now.
    fn dial(&mut self, id: ConnectionId, address: Option<SocketAddr>) {
        let Some(socket) =
            self.sockets.get_mut(id.slot as usize).and_then(Option::as_mut).filter(|s| s.id == id)
        else {
            return;
        };
        let Some(address) = address else {
            return self.cannot_connect(
                id,
                &io::Error::new(io::ErrorKind::NotFound, "the name resolved to no address"),
            );
        };
        socket.address = Some(address);
        socket.others.retain(|other| *other != address);
        let connect = |socket: &mut Socket, poll: &Poll, tls: &mut Tls| {
            let tls = tls.connect(&socket.lane).map_err(io::Error::other)?;
            let stream = socket.connect(address, tls)?;
            poll.registry().register(
                stream,
                Token(id.slot as usize),
                Interest::READABLE | Interest::WRITABLE,
            )
        };
        if let Err(error) = connect(socket, &self.poll, &mut self.tls) {
            self.refused(id, &error);
        }
    }

    /// Handles a failed attempt; if the address did not answer at all, the attempt continues with
    /// another address.
    fn refused(&mut self, id: ConnectionId, error: &io::Error) {
        let Some(socket) = self.socket(id) else { return };
        socket.dials += 1;
        if let Some(address) =
            socket.address.filter(|_| socket.is_dialling() && socket.dials < DIALS_MAX)
        {
            let others = std::mem::take(&mut socket.others);
            let now = self.clock.now();
            self.addresses.closed(address, true, now);
            let instead = self.addresses.instead(&others, now);
            if let Some(socket) = self.socket(id) {
                (socket.others, socket.address) = (others, None);
                if instead.is_some() {
                    let lane = Arc::clone(&socket.lane);
                    if let Some(times) = self.times_to_log(&lane, "address", error) {
                        let lane = &lane.name;
                        tracing::info!(
                            %lane, %address, %error, times,
                            "gateway address failed; trying another address"
                        );
                    }
                    return self.dial(id, instead);
                }
            }
        }
        self.cannot_connect(id, error);
    }

    fn socket(&mut self, id: ConnectionId) -> Option<&mut Socket> {
        self.sockets.get_mut(id.slot as usize)?.as_mut().filter(|socket| socket.id == id)
    }

    fn cannot_connect(&mut self, id: ConnectionId, error: &io::Error) {
        let Some(socket) = self.take(id) else { return };
        let is_address_at_fault = !is_refusal_of_lane(error);
        let error = &socket.named(error);
        if let Some(times) = self.times_to_log(&socket.lane, "connect", error) {
            let lane = &socket.lane.name;
            tracing::warn!(%lane, %error, times, "connecting to the gateway failed");
        }
        let now = self.clock.now();
        if let Some(address) = socket.address {
            self.addresses.closed(address, is_address_at_fault, now);
        }
        self.core.not_connected(id, error.clone(), now);
    }

    /// Counts a failure of a lane's connections. `Some`: the caller logs it, with the number of
    /// failures since the last line.
    fn times_to_log(
        &mut self,
        lane: &LaneSpec,
        step: &str,
        error: &dyn fmt::Display,
    ) -> Option<u64> {
        let since_start = self.clock.now().since(Time(0));
        self.failures.entry(lane.id).or_default().note(&format!("{step}: {error}"), since_start)
    }

    fn lost(&mut self, id: ConnectionId, why: Disconnect) {
        let now: Time = self.clock.now();
        if let Some(address) = self.take(id).and_then(|socket| socket.address) {
            self.addresses.closed(address, false, now);
        }
        self.core.disconnected(id, why, now);
    }

    /// Removes the socket of a connection. Dropped, it leaves the poller by itself.
    fn take(&mut self, id: ConnectionId) -> Option<Socket> {
        self.sockets.get_mut(id.slot as usize)?.take_if(|socket| socket.id == id)
    }
}
