//! One connection as the core sees it: whether it may take requests now, and which requests its
//! socket has not taken yet.
//!
//! **No queue between walk and wire.** A link takes requests only when its socket has taken all
//! bytes before, and never more than one flush at a time; so encoded and unsent bytes are at most
//! one flush per connection.
//!
//! **Credits are collected.** A gateway that answers one by one frees room one by one; a write for
//! each answer would cost more than the push. A busy link waits until its room is worth a write or
//! [`COLLECT`] has passed; an idle link never waits.

use std::time::Duration;

use clarion_proto::{ids::WaveId, time::Time};

use super::remote::Remote;
use crate::lane::{connection::Connection, evidence::Witness, load::Probe};

/// The longest that room is collected while requests are out.
pub(crate) const COLLECT: Duration = Duration::from_millis(2);
/// Room worth a write: at 64 requests a write the cost of the write no longer counts.
const BATCH: usize = 64;
/// How long the socket may keep bytes of a cancelled wave waiting before the connection is reset:
/// with the turn that notices, well inside the 100 ms after which nothing may be written.
pub(crate) const CANCEL_PATIENCE: Duration = Duration::from_millis(50);

/// Names a connection between core and driver. A slot is used again, with another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Small; free to be used as an index.
    pub slot: u32,
    /// Distinguishes the uses of a slot.
    pub generation: u32,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    /// Position among the core's lanes.
    pub(crate) lane: usize,
    pub(crate) state: State,
    /// The socket has taken everything so far.
    pub(crate) drained: bool,
    /// Since when there is room that was not used.
    room_since: Option<Time>,
    /// Time at which the link is offered again.
    pub(crate) held_until: Option<Time>,
    /// Requests encoded since the socket had last taken everything, by wave slot.
    pub(crate) unsent: Vec<(u16, u64)>,
    /// The same of guests: guest, wave, requests.
    pub(crate) unsent_of_guests: Vec<(u16, WaveId, u64)>,
    /// Time at which the socket last took bytes.
    pub(crate) last_write: Option<Time>,
    /// A cancelled wave waits for the socket until then.
    pub(crate) reset_at: Option<Time>,
    /// Time at which the connection was established.
    pub(crate) opened: Time,
    /// Idle time after which the connection closes.
    pub(crate) idle_max: Option<Duration>,
    /// It leaves then, to be replaced by a younger one.
    pub(crate) retire_at: Time,
    /// An order to leave came or was given: no failure if it closes.
    pub(crate) leaving: bool,
    /// Whether the socket is being closed.
    pub(crate) closing: bool,
    /// Whether the connection can take no request at all.
    pub(crate) useless: bool,
    /// Its handshakes have taken so long that another attempt may overtake it.
    pub(crate) late: bool,
    pub(crate) late_at: Time,
    /// Which provider token it uses; of a host's connections the present one.
    pub(crate) credential: u32,
    /// Time after which a stuck connection is closed.
    pub(crate) patience: Duration,
    /// Start of the time in which it takes no request, although it is empty and requests wait.
    stuck_since: Option<Time>,
    /// When a request first ran into its deadline without an answer to any, and how many answers
    /// there were before.
    unanswered: Option<(Time, u32)>,
    /// Number of answers on the connection.
    pub(crate) answers: u32,
    /// Answers on it without a success between that call something else than their device into
    /// question.
    pub(crate) refused_in_row: u32,
    /// Samples of the time to an answer.
    pub(crate) probe: Probe,
}

#[derive(Debug)]
pub(crate) enum State {
    /// TCP and TLS under way, until the deadline.
    Connecting(Time),
    /// The connection is established; requests may be sent.
    Open(Box<Connection>),
    /// No connection: another core's take what is handed over here.
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
            credential: 0,
            patience: Duration::MAX,
            stuck_since: None,
            unanswered: None,
            answers: 0,
            refused_in_row: 0,
            probe: Probe::default(),
        }
    }

    /// Identity of the connection in evidence.
    pub(crate) fn witness(&self) -> Witness {
        Witness(u64::from(self.id.generation) << 32 | u64::from(self.id.slot))
    }

    pub(crate) fn connection(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            State::Open(connection) => Some(connection),
            State::Connecting(_) | State::Remote(_) => None,
        }
    }

    /// Requests that wait for their answers here.
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

    /// Whether it counts towards the lane's target number of connections.
    pub(crate) fn stays(&self) -> bool {
        match self.state {
            State::Connecting(_) => !self.leaving && !self.late,
            State::Open(_) => !self.leaving,
            State::Remote(_) => false,
        }
    }

    /// When it was offered last it could take nothing, though nothing is out on it, and so it has
    /// been for as long as it is waited for.
    pub(crate) fn is_stuck(&self, now: Time) -> bool {
        !self.leaving && self.stuck_since.is_some_and(|since| now >= since + self.patience)
    }

    /// Restarts the waiting time of a stuck connection.
    pub(crate) fn unstick(&mut self) {
        self.stuck_since = None;
    }

    /// A request ran into its deadline. True: others did before, for as long as one may take, and
    /// not one was answered in between. Something in front of the gateway may still talk HTTP/2;
    /// the way to it is dead.
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

    /// Requests that may be pushed now and are worth a write.
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

    /// Whether it could take requests and has no stream or window for a write's worth. To be asked
    /// behind [`Link::offer`] in the same turn; `None`: it takes none, whatever it has.
    pub(crate) fn is_spent(&self) -> Option<bool> {
        let connection = match &self.state {
            State::Open(connection) => connection,
            State::Remote(remote) => return (!self.leaving).then(|| remote.is_spent()),
            State::Connecting(_) => return None,
        };
        let takes = self.drained && !self.leaving && !self.useless;
        takes.then(|| self.held_until.is_some() || connection.room() == 0)
    }

    /// Requests were encoded. True: the first of their wave since the socket took everything.
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

    /// As [`Link::encoded`], of a guest's.
    pub(crate) fn encoded_for_guest(&mut self, guest: u16, wave: WaveId) {
        self.room_since = None;
        match self.unsent_of_guests.iter_mut().find(|(g, w, _)| (*g, *w) == (guest, wave)) {
            Some((.., requests)) => *requests += 1,
            None => self.unsent_of_guests.push((guest, wave, 1)),
        }
    }

    /// Time at which it has been idle for long enough.
    pub(crate) fn idle_at(&self) -> Option<Time> {
        match &self.state {
            State::Open(connection) if !self.leaving => {
                Some(connection.idle_since()? + self.idle_max?)
            }
            _ => None,
        }
    }

    /// Time of its next timer.
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
