//! The open sessions of a node as its task sees them: one queue in and one queue out for each
//! coordinator, served in turn.
//!
//! Memory: a session holds at most 16 messages that wait for the node task and 8 that wait for the
//! transport ([`crate::service`]); what a wave or count keeps is part of the node's one
//! [`Room`](crate::wave::Room), whatever the number of sessions.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use clarion_proto::{ids::CoordinatorId, time::Time, wire::shard_v1::SessionResponse};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::PollSender;
use tracing::Span;

use crate::{
    control::message::{Message, Rejected},
    service::{End, SessionHandle},
};

/// Time after which the session of a coordinator that reads nothing is ended.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// All open sessions, at most one of each coordinator.
#[derive(Default)]
pub(super) struct Sessions {
    open: Vec<Open>,
    /// The queue that is polled first: queue in and queue out of the first session, then of the
    /// next. It moves behind the queue that was served last, so that no session and no direction
    /// waits for more than one step of each other one.
    turn: usize,
}

/// One open session.
struct Open {
    coordinator: CoordinatorId,
    inbound: mpsc::Receiver<Result<Message, Rejected>>,
    outbound: PollSender<SessionResponse>,
    end: oneshot::Sender<End>,
    span: Span,
    /// Whether a message is due to the coordinator.
    due: bool,
    /// Time since which a message waits for room.
    unread_since: Option<Time>,
}

/// What happened on a session.
pub(super) enum Happened {
    /// The coordinator sent a message.
    Said(CoordinatorId, Result<Message, Rejected>),
    /// The session has room for one message, which must be sent at once.
    Room(CoordinatorId),
    /// The coordinator or the transport has ended the session.
    Ended(CoordinatorId),
}

impl Sessions {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The coordinators that have a session.
    pub(super) fn coordinators(&self) -> impl Iterator<Item = CoordinatorId> {
        self.open.iter().map(|open| open.coordinator)
    }

    /// Adds an admitted session. An earlier session of the same coordinator ends.
    pub(super) fn add(&mut self, session: SessionHandle) {
        let SessionHandle { opened, inbound, outbound, end, span, .. } = session;
        if let Some(former) = self.remove(opened.coordinator) {
            former.span.in_scope(|| tracing::info!("session superseded by a newer one"));
            let _ = former.end.send(End::Superseded);
        }
        span.in_scope(|| {
            tracing::info!(
                coordinator = %opened.coordinator,
                log = %opened.log,
                lanes_epoch = opened.lanes_epoch.0,
                version = opened.version,
                "session with coordinator begun"
            );
        });
        self.open.push(Open {
            coordinator: opened.coordinator,
            inbound,
            outbound: PollSender::new(outbound),
            end,
            span,
            due: false,
            unread_since: None,
        });
    }

    /// Drops a session that its transport or coordinator has ended.
    pub(super) fn close(&mut self, coordinator: CoordinatorId) {
        if let Some(session) = self.remove(coordinator) {
            session.span.in_scope(|| tracing::info!("session with coordinator ended"));
        }
    }

    /// Ends a session for a reason of the node's.
    pub(super) fn end(&mut self, coordinator: CoordinatorId, end: End) {
        if let Some(session) = self.remove(coordinator) {
            session.span.in_scope(|| tracing::info!(?end, "session ended by this node"));
            let _ = session.end.send(end);
        }
    }

    /// Span of a session, for log lines and traces.
    pub(super) fn span(&self, coordinator: CoordinatorId) -> Span {
        let session = self.open.iter().find(|open| open.coordinator == coordinator);
        session.map_or_else(Span::none, |open| open.span.clone())
    }

    /// Records which sessions a message is due to. Returns the time at which a message is due to
    /// another session, and the time until which a coordinator must read.
    pub(super) fn set_due(
        &mut self,
        due: impl Fn(CoordinatorId) -> Option<Time>,
        now: Time,
    ) -> (Option<Time>, Option<Time>) {
        let (mut later, mut unread): (Option<Time>, Option<Time>) = (None, None);
        let first = |one: Option<Time>, other: Time| Some(one.map_or(other, |one| one.min(other)));
        for open in &mut self.open {
            let at = due(open.coordinator);
            open.due = at.is_some_and(|at| at <= now);
            open.unread_since = open.unread_since.or(Some(now)).filter(|_| open.due);
            later = at.filter(|at| *at > now).map_or(later, |at| first(later, at));
            unread = open.unread_since.map_or(unread, |at| first(unread, at + READ_WITHIN));
        }
        (later, unread)
    }

    /// A coordinator that has read nothing for ten seconds.
    pub(super) fn unread(&self, now: Time) -> Option<CoordinatorId> {
        let late = |open: &&Open| open.unread_since.is_some_and(|at| at + READ_WITHIN <= now);
        self.open.iter().find(late).map(|open| open.coordinator)
    }

    /// Sends a message for which [`Happened::Room`] has reserved a place.
    pub(super) fn send(&mut self, to: CoordinatorId, message: Option<SessionResponse>) {
        let Some(open) = self.open.iter_mut().find(|open| open.coordinator == to) else { return };
        open.unread_since = None;
        match message {
            // Fails only if the transport is gone: the session's end comes next.
            Some(message) => drop(open.outbound.send_item(message)),
            None => drop(open.outbound.abort_send()),
        }
    }

    /// The next event of any session, each queue in turn. `receive`: whether messages are taken.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, receive: bool) -> Poll<Happened> {
        let queues = 2 * self.open.len();
        for queue in (0..queues).map(|step| (self.turn + step) % queues) {
            let open = &mut self.open[queue / 2];
            let id = open.coordinator;
            let happened = match queue % 2 {
                0 if receive => open.inbound.poll_recv(context).map(|said| match said {
                    Some(said) => Happened::Said(id, said),
                    None => Happened::Ended(id),
                }),
                1 if open.due => open.outbound.poll_reserve(context).map(|room| match room {
                    Ok(()) => Happened::Room(id),
                    Err(_) => Happened::Ended(id),
                }),
                _ => Poll::Pending,
            };
            if happened.is_ready() {
                self.turn = queue + 1;
                return happened;
            }
        }
        Poll::Pending
    }

    fn remove(&mut self, coordinator: CoordinatorId) -> Option<Open> {
        let at = self.open.iter().position(|open| open.coordinator == coordinator)?;
        Some(self.open.remove(at))
    }
}
