//! The loop around [`Control`]: passes one input and executes the outputs.

use std::{future::Future, sync::Arc, time::Duration};

use clarion_proto::{time::Time, wire::shard_v1::shard_service_server::SERVICE_NAME};
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
};
use crate::{
    command::CommandSink,
    control::{Control, FeedNote, output::Output, readiness::NotReady},
    feed::{
        self, Feed, FeedConfig, Following,
        split::{Positions, Splitter},
    },
    service::{End, Now, SessionHandle},
};

/// Time after which the session of a coordinator that reads nothing is ended.
const READ_WITHIN: Duration = Duration::from_secs(10);
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
    session: Option<SessionHandle>,
    /// Time since which a message waits for room.
    unread_since: Option<Time>,
    feed: Feed,
    following: Option<Following>,
    positions: Positions,
    notes: mpsc::Receiver<FeedNote>,
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
        let feed = Feed { config: feed, cores: sinks, notes: tell, world };
        Self {
            control,
            now,
            outboxes,
            events: Events::new(events),
            failures,
            begun,
            session: None,
            unread_since: None,
            feed,
            following: None,
            positions: Positions::new(),
            notes,
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
                    "drain ends without the coordinator's confirmation of the last reports"
                );
                Ok(())
            }
            Err(_) => Err(NodeError::DrainDeadline(drain_within)),
        };
        self.end_session(End::Draining);
        result
    }

    /// Sends the remaining reports and waits until the coordinator confirms that it has applied
    /// them: acceptance by TCP is no proof.
    async fn say_goodbye(&mut self) -> Result<(), NodeError> {
        let never = &mut std::future::pending();
        while self.session.is_some() && self.control.message_due((self.now)()).is_some() {
            self.turn(never).await?;
        }
        self.control.leave();
        while self.session.is_some() && !self.control.has_left() {
            self.turn(never).await?;
        }
        match self.session.is_some() {
            true => info!("coordinator confirmed the last reports"),
            false => info!("drain ended without a session"),
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
        let due = self.control.message_due(now);
        let can_send = due.is_some_and(|due| due <= now);
        self.unread_since = if can_send { self.unread_since.or(Some(now)) } else { None };
        let unread_until = self.unread_since.map(|since| since + READ_WITHIN);
        if unread_until.is_some_and(|until| until <= now) {
            warn!("session ended: coordinator does not read");
            self.end_session(End::NotRead);
            return Ok(false);
        }
        let wake = [due.filter(|_| !can_send), unread_until, self.control.deadline()]
            .into_iter()
            .flatten()
            .min();
        let pause = wake.map_or(Duration::MAX, |at| at.since(now));

        let (inbound, outbound) = match &mut self.session {
            Some(session) => (Some(&mut session.inbound), Some(session.outbound.clone())),
            None => (None, None),
        };
        tokio::select! {
            () = &mut *stop => return Ok(true),
            failure = self.failures.recv(), if !draining => {
                let gone = NodeError::Internal("outboxes are gone");
                return Err(failure.map_or(gone, NodeError::from));
            }
            (core, event) = self.events.recv(), if room => match event {
                Some(event) => self.control.event(core, event),
                None if draining => info!(core, "core ended during drain"),
                None => return Err(NodeError::CoreDied(core)),
            },
            () = has_room(&self.outboxes), if !room => {}
            message = receive(inbound), if room => match message {
                Some(message) => {
                    let at = (self.now)();
                    let span = self.session.as_ref().map(|s| s.span.clone());
                    let span = span.unwrap_or_else(tracing::Span::none);
                    span.in_scope(|| self.control.message(message, at));
                }
                None => self.close_session(),
            },
            Some(session) = self.begun.recv() => self.open_session(session),
            permit = reserve(outbound), if can_send => match permit {
                Some(permit) => {
                    self.unread_since = None;
                    if let Some(message) = self.control.next_message((self.now)()) {
                        permit.send(message);
                    }
                }
                None => self.close_session(),
            },
            Some(note) = self.notes.recv() => match note {
                FeedNote::CoreHangs(core) => return Err(CoreFailure::Hangs(core).into()),
                note => self.control.feed(note),
            },
            () = sleep(pause) => self.control.expire((self.now)()),
        }
        Ok(false)
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
                Output::Follow { assignment, continues } => {
                    // A batch may reach a core only after the core owns the batch's partitions.
                    let reached =
                        self.outboxes.iter().map(Outbox::reached).collect::<Result<Vec<_>, _>>();
                    let positions = feed::resume(std::mem::take(&mut self.positions), &continues);
                    let splitter = Splitter::new(&assignment, &positions);
                    self.following =
                        Some(self.feed.clone().follow(splitter, reached.map_err(overrun)?));
                }
            }
        }
        Ok(())
    }

    fn open_session(&mut self, mut session: SessionHandle) {
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
        if let Some(former) = self.session.take() {
            former.span.in_scope(|| info!("session superseded by a newer one"));
            let _ = former.end.send(End::Superseded);
        }
        session.span.in_scope(
            || info!(log = %opened.log, version = opened.version, "session with coordinator begun"),
        );
        let _ = answer.send(Ok(()));
        self.unread_since = None;
        self.session = Some(session);
    }

    /// Processes a session that its transport or coordinator has ended.
    fn close_session(&mut self) {
        if let Some(session) = self.session.take() {
            session.span.in_scope(|| info!("session with coordinator ended"));
            self.control.close((self.now)());
        }
    }

    fn end_session(&mut self, end: End) {
        if let Some(session) = self.session.take() {
            session.span.in_scope(|| info!(?end, "session ended by this node"));
            let _ = session.end.send(end);
            self.control.close((self.now)());
        }
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

/// The next message of the session; never resolves without a session.
async fn receive<T>(inbound: Option<&mut mpsc::Receiver<T>>) -> Option<T> {
    match inbound {
        Some(inbound) => inbound.recv().await,
        None => std::future::pending().await,
    }
}

/// Room for one message; `None`: the transport is gone. Never resolves without a session.
async fn reserve<T>(outbound: Option<mpsc::Sender<T>>) -> Option<mpsc::OwnedPermit<T>> {
    match outbound {
        Some(outbound) => outbound.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}
