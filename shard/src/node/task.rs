//! The loop around [`Control`]: passes one input and executes the outputs.

use std::{future::Future, sync::Arc, task::Poll, time::Duration};

use clarion_proto::{
    ids::CoordinatorId, time::Time, wire::shard_v1::shard_service_server::SERVICE_NAME,
};
use clarion_runtime::{health::HealthReporter, repeated::Repeated, world::World};
use futures_util::future::join_all;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic_health::ServingStatus;
use tracing::{info, warn};

use super::{
    NodeError,
    cores::{CoreFailure, CorePort, Events, Outbox, Overrun},
    sessions::{Happened, Sessions},
};
use crate::{
    command::{CommandSink, Event},
    control::{Control, FeedNote, output::Output, readiness::NotReady, snapshot::SnapshotNote},
    feed::{
        self, Feed, FeedConfig, Following,
        split::{Positions, Splitter},
    },
    service::{End, Now, SessionHandle},
    snapshots::Snapshots,
};

/// Time for a feed to end between two commands.
const FEED_ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Queue of the feed's notes: at most one of each kind for each stream.
const NOTES: usize = 16;

/// The node task: the state machine with its sessions, cores, feed and clock.
pub(super) struct NodeTask {
    control: Control,
    now: Now,
    outboxes: Vec<Outbox>,
    events: Events,
    failures: mpsc::Receiver<CoreFailure>,
    begun: mpsc::Receiver<SessionHandle>,
    sessions: Sessions,
    /// Whether events of cores are polled before sessions; changes with every input of either.
    events_first: bool,
    feed: Feed,
    following: Option<Following>,
    positions: Positions,
    notes: mpsc::Receiver<FeedNote>,
    snapshots: Snapshots,
    /// Notes of [`NodeTask::snapshots`].
    carried: mpsc::Receiver<SnapshotNote>,
    health: HealthReporter,
    /// Last reported readiness; `None`: nothing was reported yet.
    ready: Option<Result<(), NotReady>>,
    draining: bool,
    /// Limits log lines about refused coordinators.
    fenced: Repeated,
}

impl NodeTask {
    pub(super) fn new(
        control: Control,
        ports: Vec<CorePort>,
        now: Now,
        begun: mpsc::Receiver<SessionHandle>,
        health: HealthReporter,
        feed: FeedConfig,
        world: World,
    ) -> Self {
        let (failed, failures) = mpsc::channel(ports.len().max(1));
        let (tell, notes) = mpsc::channel(NOTES);
        let (sinks, events): (Vec<Arc<dyn CommandSink>>, Vec<_>) =
            ports.into_iter().map(|p| (p.commands, p.events)).unzip();
        let outboxes = sinks
            .iter()
            .enumerate()
            .map(|(core, s)| Outbox::new(core, s.clone(), failed.clone()))
            .collect();
        let (carry, carried) = mpsc::channel(NOTES);
        let snapshots = Snapshots::new(feed.clone(), sinks.clone(), carry, world.clone());
        let feed = Feed { config: feed, cores: sinks, notes: tell, world };
        Self {
            control,
            now,
            outboxes,
            events: Events::new(events),
            failures,
            begun,
            sessions: Sessions::default(),
            events_first: true,
            feed,
            following: None,
            positions: Positions::new(),
            notes,
            snapshots,
            carried,
            health,
            ready: None,
            draining: false,
            fenced: Repeated::default(),
        }
    }

    pub(super) async fn run(
        mut self,
        stop: impl Future<Output = ()>,
        drain_within: Duration,
    ) -> Result<(), NodeError> {
        tokio::pin!(stop);
        while !self.turn(&mut stop).await? {}
        self.control.drain();
        self.draining = true;
        let mut cores_ended = false;
        let drained = timeout(drain_within, async {
            let never = &mut std::future::pending();
            while !self.events.all_ended() {
                self.turn(never).await?;
            }
            cores_ended = true;
            // A new session could not get the complete state, because the cores have ended.
            self.begun.close();
            self.say_goodbye().await
        });
        let result = match drained.await {
            Ok(result) => result,
            Err(_) if cores_ended => {
                warn!(
                    ?drain_within,
                    "drain ends without every coordinator's confirmation of the last reports"
                );
                Ok(())
            }
            Err(_) => Err(NodeError::DrainDeadline(drain_within)),
        };
        for coordinator in self.sessions.coordinators().collect::<Vec<_>>() {
            self.end_session(coordinator, End::Draining);
        }
        result
    }

    /// Sends the remaining reports and waits until every coordinator confirms that it has applied
    /// them: acceptance by TCP is no proof.
    async fn say_goodbye(&mut self) -> Result<(), NodeError> {
        let never = &mut std::future::pending();
        // A session says goodbye after all of its own messages, so a slow one holds up no other.
        self.control.leave();
        while !self.control.has_left() {
            self.turn(never).await?;
        }
        match self.control.untold() {
            0 => {}
            waves => warn!(waves, "drain ended with reports that no coordinator has read"),
        }
        match self.sessions.is_empty() {
            false => info!("coordinators confirmed the last reports"),
            true => info!("drain ended without a session"),
        }
        Ok(())
    }

    /// Waits for one input, passes it to the state machine and executes the outputs. True: `stop`
    /// has resolved.
    async fn turn(
        &mut self,
        stop: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<bool, NodeError> {
        self.carry_out().await?;
        self.tell_readiness().await;
        let now = (self.now)();
        let room = self.outboxes.iter().all(Outbox::has_room);
        let draining = self.draining;
        let (later, unread_until) =
            self.sessions.set_due(|to| self.control.message_due(to, now), now);
        if let Some(coordinator) = self.sessions.unread(now) {
            warn!(%coordinator, "session ended: coordinator does not read");
            self.end_session(coordinator, End::NotRead);
            return Ok(false);
        }
        let wake = [later, unread_until, self.control.deadline()].into_iter().flatten().min();
        let pause = wake.map_or(Duration::MAX, |at| at.since(now));

        let Self { events, sessions, outboxes, .. } = self;
        let events_first = self.events_first;
        // Events of cores and messages of sessions take turns: whichever never pauses leaves every
        // second input to the other.
        let busiest = std::future::poll_fn(|context| {
            let mut event = |context: &mut _| match room {
                true => events.poll(context).map(|(core, event)| Input::Core(core, event)),
                false => Poll::Pending,
            };
            let mut session = |context: &mut _| sessions.poll(context, room).map(Input::Session);
            if events_first && let ready @ Poll::Ready(_) = event(context) {
                return ready;
            }
            if let ready @ Poll::Ready(_) = session(context) {
                return ready;
            }
            if events_first { Poll::Pending } else { event(context) }
        });
        let input = tokio::select! {
            // What ends the node goes first, then what is rare, then the clock; what may never
            // pause comes last. A timer that is due has work for one turn only.
            biased;
            () = &mut *stop => return Ok(true),
            failure = self.failures.recv(), if !draining => {
                let gone = NodeError::Internal("outboxes are gone");
                return Err(failure.map_or(gone, NodeError::from));
            }
            Some(note) = self.notes.recv() => Input::Note(note),
            Some(note) = self.carried.recv() => Input::Carried(note),
            Some(session) = self.begun.recv() => Input::Begun(session),
            () = sleep(pause) => Input::Clock,
            () = has_room(outboxes), if !room => Input::Clock,
            input = busiest => input,
        };
        self.handle(input)?;
        Ok(false)
    }

    fn handle(&mut self, input: Input) -> Result<(), NodeError> {
        let now = (self.now)();
        match input {
            Input::Core(core, event) => {
                self.events_first = false;
                match event {
                    Some(event) => self.control.event(core, event),
                    None if self.draining => info!(core, "core ended during drain"),
                    None => return Err(NodeError::CoreDied(core)),
                }
            }
            Input::Session(happened) => {
                self.events_first = true;
                match happened {
                    Happened::Said(from, message) => {
                        let span = self.sessions.span(from);
                        span.in_scope(|| self.control.message(from, message, now));
                    }
                    Happened::Room(to) => {
                        let message = self.control.next_message(to, now);
                        self.sessions.send(to, message);
                    }
                    Happened::Ended(coordinator) => {
                        self.sessions.close(coordinator);
                        self.control.close(coordinator, now);
                    }
                }
            }
            Input::Begun(session) => self.open_session(session),
            Input::Note(FeedNote::CoreHangs(core)) => return Err(CoreFailure::Hangs(core).into()),
            Input::Note(note) => self.control.feed(note),
            Input::Carried(SnapshotNote::CoreHangs(core)) => {
                return Err(CoreFailure::Hangs(core).into());
            }
            Input::Carried(note) => self.control.snapshots(note, now),
            Input::Clock => self.control.expire(now),
        }
        Ok(())
    }

    async fn carry_out(&mut self) -> Result<(), NodeError> {
        let overrun = |Overrun| NodeError::Internal("more commands than an input can make");
        while let Some(output) = self.control.poll() {
            match output {
                Output::Command { core, command } => {
                    self.outboxes[core].push(command).map_err(overrun)?;
                }
                Output::Unfollow => {
                    if let Some(following) = self.following.take() {
                        let positions = timeout(FEED_ENDS_WITHIN, following.stop()).await;
                        self.positions =
                            positions.map_err(|_| NodeError::Internal("the feed does not end"))?;
                        // Batches in a core's queue may be of another log than the core's next
                        // partitions.
                        let drained = join_all(self.feed.cores.iter().map(|core| core.drained()));
                        timeout(FEED_ENDS_WITHIN, drained).await.map_err(|_| {
                            NodeError::Internal("batches of the feed are not applied")
                        })?;
                        // The old feed's notes say nothing about the next feed.
                        while self.notes.try_recv().is_ok() {}
                    }
                }
                Output::Follow { assignment, followed, begin } => {
                    // A batch may reach a core only after the core owns the batch's partitions.
                    let reached = self.reached().map_err(overrun)?;
                    let positions = std::mem::take(&mut self.positions);
                    let positions = feed::resume(positions, &followed, begin);
                    let splitter = Splitter::new(&assignment, &positions);
                    self.following = Some(self.feed.clone().follow(splitter, reached));
                }
                // A snapshot that is listed may be loaded, for which its core must own it.
                Output::List(list) => {
                    let reached = self.reached().map_err(overrun)?;
                    self.snapshots.list(list, reached);
                }
                Output::Load(load) => self.snapshots.load(load),
                Output::StopLoad { load } => self.snapshots.stop_load(load),
                Output::Save(save) => self.snapshots.save(save),
                Output::StopSave => self.snapshots.stop_save(),
            }
        }
        Ok(())
    }

    /// Receivers that resolve when each core has got all earlier commands.
    fn reached(&self) -> Result<Vec<tokio::sync::oneshot::Receiver<()>>, Overrun> {
        self.outboxes.iter().map(Outbox::reached).collect()
    }

    fn open_session(&mut self, mut session: SessionHandle) {
        // Given up while the node was busy: it must supersede no session, and change no log.
        if session.admitted.is_closed() {
            return;
        }
        let (now, opened) = ((self.now)(), &session.opened);
        let admitted = session.span.in_scope(|| self.control.open(opened, now));
        // The replacement that stays in its place is never waited for.
        let answer = std::mem::replace(&mut session.admitted, tokio::sync::oneshot::channel().0);
        if let Err(fenced) = admitted {
            let reason = fenced.to_string();
            if let Some(times) = self.fenced.note(&reason, now.since(Time::default())) {
                session.span.in_scope(|| warn!(reason, times, "coordinator refused by this node"));
            }
            let _ = answer.send(Err(fenced));
            return;
        }
        let _ = answer.send(Ok(()));
        self.sessions.add(session);
    }

    fn end_session(&mut self, coordinator: CoordinatorId, end: End) {
        self.sessions.end(coordinator, end);
        self.control.close(coordinator, (self.now)());
    }

    async fn tell_readiness(&mut self) {
        let ready = self.control.readiness((self.now)());
        if self.ready == Some(ready) {
            return;
        }
        match ready {
            Ok(()) => info!("node is ready"),
            Err(reason) => info!(%reason, "node is not ready"),
        }
        if self.ready.map(|before| before.is_ok()) != Some(ready.is_ok()) {
            let status =
                if ready.is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
            self.health.set_service_status(SERVICE_NAME, status).await;
        }
        self.ready = Some(ready);
    }
}

async fn has_room(outboxes: &[Outbox]) {
    join_all(outboxes.iter().map(Outbox::room)).await;
}

/// Input of one turn.
enum Input {
    /// An event of a core; `None`: the core has ended.
    Core(usize, Option<Event>),
    Session(Happened),
    Begun(SessionHandle),
    Note(FeedNote),
    Carried(SnapshotNote),
    /// Time has passed, or outboxes have room again.
    Clock,
}
