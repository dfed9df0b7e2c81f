//! The link to one connection: whether it may take requests now, and which requests its socket has
//! not taken yet.
//!
//! **No queue between walk and wire.** A link takes requests only when its socket has taken all
//! bytes before, and never more than one flush at a time; so encoded and unsent bytes are at most
//! one flush per connection.
//!
//! **Credits are collected.** A gateway that answers one by one frees room one by one, and a write
//! for each answer would cost more than the push. A busy link waits until its room is worth a write
//! or [`COLLECT`] has passed; an idle link never waits.

use std::time::Duration;

use clarion_proto::{ids::WaveId, time::Time};

use super::remote::Remote;
use crate::lane::{connection::Connection, evidence::Witness, load::Probe};

/// Longest time for which room is collected while requests are in flight.
pub(crate) const COLLECT: Duration = Duration::from_millis(2);
/// Number of requests that are worth a write: at 64 requests per write the cost of the write no
/// longer counts.
const BATCH: usize = 64;
/// Longest time for which the socket may keep bytes of a cancelled wave before the connection is
/// reset. With the turn that detects it, this is well within the 100 ms after which nothing may be
/// written.
pub(crate) const CANCEL_PATIENCE: Duration = Duration::from_millis(50);

/// Reported reason for handshakes with the gateway that do not end.
const TOO_LONG: &str = "TCP and TLS take too long";

/// Id of a connection between core and driver. A slot is used again, with another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Slot of the connection: a small number that serves as an index.
    pub slot: u32,
    /// Distinguishes the uses of a slot.
    pub generation: u32,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    /// Index of the connection's lane.
    pub(crate) lane: usize,
    pub(crate) state: State,
    /// Whether the socket has taken all bytes so far.
    pub(crate) drained: bool,
    /// Time since which there is unused room.
    room_since: Option<Time>,
    /// Time at which the link takes requests again.
    pub(crate) held_until: Option<Time>,
    /// Requests encoded since the socket last took all bytes, by wave slot.
    pub(crate) unsent: Vec<(u16, u64)>,
    /// Guests' requests encoded since the socket last took all bytes: guest, wave, requests.
    pub(crate) unsent_of_guests: Vec<(u16, WaveId, u64)>,
    /// Time at which the socket last took bytes.
    pub(crate) last_write: Option<Time>,
    /// Time at which the connection is reset if the socket still has bytes of a cancelled wave.
    pub(crate) reset_at: Option<Time>,
    /// Time at which the connection was established.
    pub(crate) opened: Time,
    /// Idle time after which the connection closes.
    pub(crate) idle_max: Option<Duration>,
    /// Age limit of the connection, at which it is replaced by a new one.
    pub(crate) retire_at: Time,
    /// Whether GOAWAY was sent or received, so that a close is no failure.
    pub(crate) leaving: bool,
    /// Whether the socket is being closed.
    pub(crate) closing: bool,
    /// Whether the connection can take no request at all.
    pub(crate) useless: bool,
    /// Whether the handshake has taken so long that another attempt may be made.
    pub(crate) late: bool,
    pub(crate) late_at: Time,
    /// Reason to report if connecting takes too long, set by the driver; `None`: the gateway.
    pub(crate) slow_step: Option<String>,
    /// Number of the provider token that the connection uses; for a host's connections, the present
    /// one.
    pub(crate) credential: u32,
    /// Time after which a stuck connection is closed.
    pub(crate) patience: Duration,
    /// Start of the time in which the connection takes no request although it is empty and requests
    /// wait.
    stuck_since: Option<Time>,
    /// Time at which a request first reached its deadline without an answer to any, and the number
    /// of answers before.
    unanswered: Option<(Time, u32)>,
    /// Number of answers on the connection.
    pub(crate) answers: u32,
    /// Number of consecutive answers, without a success, that concern more than their device.
    pub(crate) refused_in_row: u32,
    /// Sampling of the time to an answer.
    pub(crate) probe: Probe,
}

#[derive(Debug)]
pub(crate) enum State {
    /// TCP and TLS are being established, until this deadline.
    Connecting(Time),
    /// The connection is established; requests may be sent.
    Open(Box<Connection>),
    /// A host core, whose connections take the requests that are handed over here.
    Remote(Box<Remote>),
}

impl Link {
    pub(crate) fn new(
        id: ConnectionId,
        lane: usize,
        deadline: Time,
        late_at: Time,
        retire_at: Time,
    ) -> Self {
        Self {
            id,
            lane,
            state: State::Connecting(deadline),
            drained: true,
            room_since: None,
            held_until: None,
            unsent: Vec::new(),
            unsent_of_guests: Vec::new(),
            last_write: None,
            reset_at: None,
            opened: Time(0),
            idle_max: None,
            retire_at,
            leaving: false,
            closing: false,
            useless: false,
            late: false,
            late_at,
            slow_step: None,
            credential: 0,
            patience: Duration::MAX,
            stuck_since: None,
            unanswered: None,
            answers: 0,
            refused_in_row: 0,
            probe: Probe::default(),
        }
    }

    /// Returns the reason to report for a connection that takes too long to establish.
    pub(crate) fn too_long(&self) -> String {
        self.slow_step.clone().unwrap_or_else(|| TOO_LONG.to_owned())
    }

    /// Returns the identity of the connection in evidence.
    pub(crate) fn witness(&self) -> Witness {
        Witness(u64::from(self.id.generation) << 32 | u64::from(self.id.slot))
    }

    pub(crate) fn connection(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            State::Open(connection) => Some(connection),
            State::Connecting(_) | State::Remote(_) => None,
        }
    }

    /// Returns the number of requests that wait for their answers here.
    pub(crate) fn requests_out(&self) -> usize {
        match &self.state {
            State::Open(connection) => connection.open_streams(),
            State::Connecting(_) | State::Remote(_) => 0,
        }
    }

    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.state, State::Remote(_))
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Reports whether the link counts towards the lane's target number of connections.
    pub(crate) fn stays(&self) -> bool {
        match self.state {
            State::Connecting(_) => !self.leaving && !self.late,
            State::Open(_) => !self.leaving,
            State::Remote(_) => false,
        }
    }

    /// Reports whether the link has taken no request for its whole patience although no request is
    /// in flight on it.
    pub(crate) fn is_stuck(&self, now: Time) -> bool {
        !self.leaving && self.stuck_since.is_some_and(|since| now >= since + self.patience)
    }

    /// Restarts the waiting time of a stuck connection.
    pub(crate) fn unstick(&mut self) {
        self.stuck_since = None;
    }

    /// Records a request that reached its deadline. Returns true if others did before, for as long
    /// as a request may take, and none was answered in between. An intermediary may still speak
    /// HTTP/2, but the way to the gateway is broken.
    pub(crate) fn is_dead_end(&mut self, now: Time) -> bool {
        match self.unanswered {
            Some((since, answers)) if answers == self.answers => {
                now >= since + self.patience && !self.leaving
            }
            _ => {
                self.unanswered = Some((now, self.answers));
                false
            }
        }
    }

    /// Returns the number of requests that may be pushed now and are worth a write.
    pub(crate) fn offer(&mut self, probing: bool, now: Time) -> usize {
        self.held_until = None;
        if !self.drained || self.leaving || self.useless {
            return 0;
        }
        let connection = match &self.state {
            State::Open(connection) => connection,
            State::Remote(remote) => return remote.room(probing),
            State::Connecting(_) => return 0,
        };
        let out = connection.open_streams();
        let room = match (probing, out) {
            (false, _) => connection.room(),
            (true, 0) => connection.room().min(1),
            (true, _) => 0,
        };
        if room == 0 {
            self.room_since = None;
            if out == 0 {
                self.stuck_since.get_or_insert(now);
            }
            return 0;
        }
        self.stuck_since = None;
        let since = *self.room_since.get_or_insert(now);
        let worth = BATCH.min(out.saturating_add(room) / 4).max(1);
        if out > 0 && room < worth && now < since + COLLECT {
            self.held_until = Some(since + COLLECT);
            return 0;
        }
        room
    }

    /// Reports whether the link could take requests but lacks streams or window for a write; `None`
    /// if it takes none for another reason. The caller must have called [`Link::offer`] in the same
    /// turn.
    pub(crate) fn is_spent(&self) -> Option<bool> {
        let connection = match &self.state {
            State::Open(connection) => connection,
            State::Remote(remote) => return (!self.leaving).then(|| remote.is_spent()),
            State::Connecting(_) => return None,
        };
        let takes = self.drained && !self.leaving && !self.useless;
        takes.then(|| self.held_until.is_some() || connection.room() == 0)
    }

    /// Records encoded requests. Returns true if they are the first of their wave since the socket
    /// took all bytes.
    pub(crate) fn encoded(&mut self, wave: u16, requests: usize) -> bool {
        self.room_since = None;
        match self.unsent.iter_mut().find(|(w, _)| *w == wave) {
            Some((_, sum)) => {
                *sum += requests as u64;
                false
            }
            None => {
                self.unsent.push((wave, requests as u64));
                true
            }
        }
    }

    /// Records an encoded request of a guest, like [`Link::encoded`].
    pub(crate) fn encoded_for_guest(&mut self, guest: u16, wave: WaveId) {
        self.room_since = None;
        match self.unsent_of_guests.iter_mut().find(|(g, w, _)| (*g, *w) == (guest, wave)) {
            Some((.., requests)) => *requests += 1,
            None => self.unsent_of_guests.push((guest, wave, 1)),
        }
    }

    /// Returns the time at which the connection closes because it is idle.
    pub(crate) fn idle_at(&self) -> Option<Time> {
        match &self.state {
            State::Open(connection) if !self.leaving => {
                Some(connection.idle_since()? + self.idle_max?)
            }
            _ => None,
        }
    }

    /// Returns the time of the next timer.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let own = match &self.state {
            State::Connecting(deadline) if self.late => return Some(*deadline),
            State::Connecting(deadline) => return Some(self.late_at.min(*deadline)),
            State::Open(connection) => connection.deadline(),
            State::Remote(_) => return None,
        };
        let retire = (!self.leaving).then_some(self.retire_at);
        let stuck = self.stuck_since.filter(|_| !self.leaving).map(|since| since + self.patience);
        [own, self.held_until, self.reset_at, retire, self.idle_at(), stuck]
            .into_iter()
            .flatten()
            .min()
    }
}
