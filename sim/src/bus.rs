//! The bus: delivers messages to actors. It owns time, order and chance.
//!
//! Every event is a delivery to one actor. Deliveries wait in one queue, ordered by time and then
//! by their number; delays come from one seeded generator. The bus wakes an actor slightly after
//! its deadline, like a scheduler. So a run is a function of its seed.

use std::{
    any::Any,
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use clarion_proto::time::Time;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{
    actor::{Actor, Input, Output},
    link::{Cut, Links, Place},
    message::Message,
    stream::{ActorId, Stream, StreamId},
    trace::{Entry, Trace},
};

/// Time to give up on a stream that cannot be opened.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Bounds of the time after which an end detects that a cut has broken its stream: at once by a
/// reset, or later by keep-alive.
const NOTICE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Bound of the delay between a deadline and the wake of its actor.
const WAKE_LATE_MAX: Duration = Duration::from_micros(100);
/// Maximum number of deliveries at one time; more means that actors send in a loop without delay.
const AT_ONCE_MAX: u32 = 100_000;

/// All actors and the messages in transit between them.
pub struct Bus {
    now: Time,
    sequence: u64,
    queue: BinaryHeap<Delivery>,
    random: Pcg64Mcg,
    actors: Vec<Seat>,
    links: Links,
    streams: BTreeMap<StreamId, Stream>,
    /// Last arrival by pair of actors of one process.
    handed: BTreeMap<(ActorId, ActorId), Time>,
    trace: Trace,
    at_once: u32,
}

struct Seat {
    actor: Box<dyn Actor>,
    place: Place,
    /// Lead of the actor's clock over the bus's clock.
    ahead: Duration,
    /// The actor's deadline, and the time at which the bus wakes the actor.
    wake: Option<(Time, Time)>,
}

#[derive(Debug)]
struct Delivery {
    at: Time,
    sequence: u64,
    from: ActorId,
    to: ActorId,
    what: What,
}

#[derive(Debug)]
enum What {
    Input(Input),
    Cut(usize),
}

impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Delivery {}

impl PartialOrd for Delivery {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delivery {
    /// The earliest delivery is the greatest, because the heap returns the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl Bus {
    /// Creates a bus without actors, at time 0.
    #[must_use]
    pub fn new(seed: u64, links: Links) -> Self {
        Self {
            now: Time(0),
            sequence: 0,
            queue: BinaryHeap::new(),
            random: Pcg64Mcg::seed_from_u64(seed),
            actors: Vec::new(),
            links,
            streams: BTreeMap::new(),
            handed: BTreeMap::new(),
            trace: Trace::default(),
            at_once: 0,
        }
    }

    /// The name of the next actor that is added.
    #[must_use]
    pub fn next_id(&self) -> ActorId {
        ActorId(u16::try_from(self.actors.len()).expect("few actors"))
    }

    /// Adds an actor that begins now. `ahead`: lead of the actor's clock over the bus's clock.
    pub fn add(&mut self, place: Place, ahead: Duration, actor: impl Actor) -> ActorId {
        let id = self.next_id();
        self.actors.push(Seat { actor: Box::new(actor), place, ahead, wake: None });
        self.push(self.now, id, id, What::Input(Input::Started));
        id
    }

    /// Cuts a link for some time. Streams over the link break; opening a stream fails meanwhile.
    pub fn cut(&mut self, cut: Cut) {
        let (from, number) = (cut.from, self.links.cut(cut));
        self.push(from, ActorId(0), ActorId(0), What::Cut(number));
    }

    /// Sends a message to an actor, like an external process.
    pub fn order(&mut self, to: ActorId, message: Message) {
        self.push(self.now, to, to, What::Input(Input::Handed { from: to, message }));
    }

    /// The present time of the bus.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// The trace of all deliveries so far.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// An actor by its concrete type.
    ///
    /// # Panics
    /// If the actor is of another type.
    pub fn actor<A: Actor>(&mut self, id: ActorId) -> &mut A {
        let actor: &mut dyn Any = &mut *self.actors[usize::from(id.0)].actor;
        actor.downcast_mut().expect("the actor's type")
    }

    /// Runs until `done` returns true or time `until` is reached. True: `done` returned true.
    ///
    /// # Panics
    /// If too many deliveries happen at one time, so that time no longer advances.
    pub fn run(&mut self, until: Time, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if !self.step(until) {
                return false;
            }
        }
    }

    fn step(&mut self, until: Time) -> bool {
        let queued = self.queue.peek().map(|delivery| delivery.at);
        let wakes = self.actors.iter().enumerate();
        let wake = wakes.filter_map(|(n, seat)| Some((seat.wake?.1, n))).min();
        let Some(next) = queued.into_iter().chain(wake.map(|(at, _)| at)).min() else {
            return false;
        };
        if next > until {
            self.now = until;
            return false;
        }
        self.at_once = if next > self.now { 0 } else { self.at_once + 1 };
        assert!(self.at_once < AT_ONCE_MAX, "actors talk in a circle at {:?}", self.now);
        self.now = next;
        match wake {
            Some((at, n)) if queued.is_none_or(|queued| at < queued) => {
                let id = ActorId(u16::try_from(n).expect("few actors"));
                self.actors[n].wake = None;
                self.deliver(id, id, Input::Woke);
            }
            _ => {
                let Delivery { from, to, what, .. } = self.queue.pop().expect("looked at");
                match what {
                    What::Cut(number) => self.break_streams(number),
                    What::Input(input) if self.is_lost(to, &input) => {
                        self.trace.push(Entry::lost(self.now, from, to, &input));
                    }
                    What::Input(input) => self.deliver(from, to, input),
                }
            }
        }
        true
    }

    /// Whether an end of a stream is closed, so that the actor gets no message of the stream.
    fn is_lost(&mut self, to: ActorId, input: &Input) -> bool {
        let stream = match input {
            Input::Opened { stream, .. }
            | Input::Accepted { stream }
            | Input::Received { stream, .. }
            | Input::Closed { stream, .. } => stream,
            Input::Started | Input::Woke | Input::Handed { .. } => return false,
        };
        let Some(state) = self.streams.get_mut(stream) else { return true };
        match input {
            Input::Closed { .. } => state.end_closed(to),
            _ => state.is_broken() || state.is_closed_at(to),
        }
    }

    fn deliver(&mut self, from: ActorId, to: ActorId, input: Input) {
        self.trace.push(Entry::of(self.now, from, to, &input));
        if let Input::Opened { stream, .. } = &input {
            let stream = *stream;
            self.transmit(stream, to, |_| Input::Accepted { stream });
        }
        let seat = &mut self.actors[usize::from(to.0)];
        let local = self.now + seat.ahead;
        let outputs = seat.actor.handle(local, input);
        let deadline = seat.actor.deadline().map(|at| at - seat.ahead);
        if seat.wake.map(|(wanted, _)| wanted) != deadline {
            let late = self.random.random_range(Duration::ZERO..=WAKE_LATE_MAX);
            seat.wake = deadline
                .filter(|at| *at < Time::NEVER - seat.ahead)
                .map(|at| (at, at.max(self.now) + late));
        }
        for output in outputs {
            self.carry_out(to, output);
        }
    }

    fn carry_out(&mut self, from: ActorId, output: Output) {
        match output {
            Output::Open { stream, to, purpose } => {
                let former = self.streams.insert(stream, Stream::new(from, to));
                assert!(former.is_none(), "stream {stream:?} was opened before");
                if self.links.is_cut(self.place(from), self.place(to), self.now) {
                    let at = self.now + CONNECT_DEADLINE;
                    self.streams.get_mut(&stream).expect("inserted").break_off();
                    self.push_input(at, to, from, Input::Closed { stream, broken: true });
                } else {
                    self.transmit(stream, from, |from| Input::Opened { stream, from, purpose });
                }
            }
            Output::Send { stream, message } => {
                self.transmit(stream, from, |_| Input::Received { stream, message });
            }
            Output::Close { stream } => {
                self.transmit(stream, from, |_| Input::Closed { stream, broken: false });
                if let Some(state) = self.streams.get_mut(&stream) {
                    state.end_closed(from);
                }
            }
            Output::Hand { to, message } => {
                let delay = self.links.within(&mut self.random);
                let last = self.handed.entry((from, to)).or_default();
                let at = (self.now + delay).max(*last);
                *last = at;
                self.push_input(at, from, to, Input::Handed { from, message });
            }
        }
    }

    /// Sends a message on a stream, after the sender's earlier messages on the stream.
    fn transmit(&mut self, stream: StreamId, from: ActorId, input: impl FnOnce(ActorId) -> Input) {
        let Some(to) = self.streams.get(&stream).map(|state| state.peer_of(from)) else { return };
        let delay = self.links.delay(self.place(from), self.place(to), &mut self.random);
        let Some(state) = self.streams.get_mut(&stream) else { return };
        if state.is_broken() || state.is_closed_at(from) {
            return;
        }
        let at = state.arrival(from, self.now + delay);
        self.push_input(at, from, to, input(from));
    }

    /// Begins a cut: every stream over the link breaks, and each end detects this after a while.
    fn break_streams(&mut self, number: usize) {
        let actors = &self.actors;
        let place = |id: ActorId| actors[usize::from(id.0)].place;
        let mut broken = Vec::new();
        for (id, stream) in &mut self.streams {
            let (opener, peer) = stream.ends();
            if self.links.is_of(number, place(opener), place(peer)) && stream.break_off() {
                broken.push((*id, opener, peer));
            }
        }
        for (stream, opener, peer) in broken {
            for (to, from) in [(opener, peer), (peer, opener)] {
                let at = self.now + self.random.random_range(NOTICE.0..=NOTICE.1);
                self.push_input(at, from, to, Input::Closed { stream, broken: true });
            }
        }
    }

    fn place(&self, id: ActorId) -> Place {
        self.actors[usize::from(id.0)].place
    }

    fn push_input(&mut self, at: Time, from: ActorId, to: ActorId, input: Input) {
        self.push(at, from, to, What::Input(input));
    }

    fn push(&mut self, at: Time, from: ActorId, to: ActorId, what: What) {
        self.sequence += 1;
        self.queue.push(Delivery { at, sequence: self.sequence, from, to, what });
    }
}
