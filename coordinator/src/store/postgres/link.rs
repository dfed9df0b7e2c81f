//! A connection that is made again when it is lost, and a few of them for one purpose.
//!
//! ```text
//! none ──connected──▶ open ──answer lost, deadline, closed──▶ none
//!  └──failed: waits 0.1 s, twice as long each time, at most 5 s──┘
//! ```
//!
//! While the database is away for less than [`PATIENCE`], callers wait for the next try, within
//! their deadline. After that they fail at once with the reason of the last try, and one caller per
//! wait tries again.

use std::{sync::Arc, time::Duration};

use clarion_proto::time::Time;
use clarion_runtime::repeated::Repeated;
use rand::{RngExt as _, rngs::StdRng};
use tokio::{
    sync::{Mutex, MutexGuard, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_postgres::Row;

use super::{
    connection::{Connection, Role, Server},
    failure::{Effect, Failure},
    query::Query,
};

/// Wait before the second try to connect; doubles with each failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long callers wait for a database that is away.
const PATIENCE: Duration = Duration::from_secs(5);
/// Callers of a pool at a time; more are refused at once.
const CALLERS_MAX: usize = 1_024;
/// Commits a change to no value, and waits for disk and standby as every commit does.
const SETTLE: Query = Query::new("SELECT id FROM chief WHERE id = 1 FOR KEY SHARE");

/// One connection, or the next try to make it.
#[derive(Debug)]
pub(super) struct Link {
    server: Arc<Server>,
    role: Role,
    state: Mutex<State>,
}

struct State {
    connection: Option<Connection>,
    outage: Option<Outage>,
    failures: Repeated,
    random: StdRng,
}

/// Tries to connect since the last success.
#[derive(Debug)]
struct Outage {
    since: Time,
    tries: u32,
    next: Time,
    reason: String,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("outage", &self.outage).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(server: &Arc<Server>, role: Role) -> Self {
        let state = State {
            connection: None,
            outage: None,
            failures: Repeated::default(),
            random: server.world.random(),
        };
        Self { server: Arc::clone(server), role, state: Mutex::new(state) }
    }

    /// Runs one statement that commits by itself.
    pub(super) async fn run(
        &self,
        query: &Query,
        effect: Effect,
        deadline: Duration,
    ) -> Result<Vec<Row>, Failure> {
        let until = self.until(deadline);
        let mut state = timeout_at(until, self.state.lock()).await.map_err(|_| Failure::Crowded)?;
        self.run_on(&mut state, query, effect, until).await
    }

    /// Runs statements in one transaction.
    pub(super) async fn run_together(
        &self,
        queries: &[Query],
        deadline: Duration,
    ) -> Result<(), Failure> {
        let until = self.until(deadline);
        let mut state = timeout_at(until, self.state.lock()).await.map_err(|_| Failure::Crowded)?;
        let connection = self.connected(&mut state, until).await?;
        let ran = timeout_at(until, connection.run_together(queries)).await;
        let ran = ran.unwrap_or_else(|_| Err(Failure::Lost("no answer in time".to_owned())));
        self.judge(&mut state, ran, Effect::Writes)
    }

    /// Closes the connection; the next statement makes a new one.
    pub(super) async fn close(&self) {
        self.state.lock().await.connection = None;
    }

    fn until(&self, deadline: Duration) -> Instant {
        let clock = self.server.world.clock();
        clock.instant(clock.now() + deadline)
    }

    async fn run_on(
        &self,
        state: &mut MutexGuard<'_, State>,
        query: &Query,
        effect: Effect,
        until: Instant,
    ) -> Result<Vec<Row>, Failure> {
        let connection = self.connected(state, until).await?;
        if self.role.is_durable()
            && let Some(number) = self.server.doubt.open()
        {
            let settled = match timeout_at(until, connection.run(&SETTLE)).await {
                Ok(Ok(_)) => Ok(()),
                // The tables are not made yet: there is nothing to doubt.
                Ok(Err(failure)) if failure.is_missing_table() => Ok(()),
                Ok(Err(failure)) => Err(failure.before_sending()),
                Err(_) => Err(Failure::Unreached(format!(
                    "{}: a commit waits for the disk or a standby",
                    connection.host()
                ))),
            };
            if let Err(failure) = settled {
                state.connection = None;
                return Err(failure);
            }
            self.server.doubt.settle(number);
        }
        let ran = timeout_at(until, connection.run(query)).await.unwrap_or_else(|_| {
            let host = connection.host();
            Err(Failure::Lost(format!("{host}: no answer within the deadline")))
        });
        self.judge(state, ran, effect)
    }

    /// Drops a connection that is of no more use, and remembers that an outcome is unknown.
    fn judge<T>(
        &self,
        state: &mut MutexGuard<'_, State>,
        ran: Result<T, Failure>,
        effect: Effect,
    ) -> Result<T, Failure> {
        match &ran {
            Err(Failure::Lost(_)) => {
                state.connection = None;
                if effect == Effect::Writes {
                    self.server.doubt.raise();
                }
            }
            Err(Failure::Refused(refusal)) if refusal.is_stale() => state.connection = None,
            _ => {}
        }
        ran
    }

    /// The connection; made again if it is lost.
    async fn connected<'a>(
        &self,
        state: &'a mut MutexGuard<'_, State>,
        until: Instant,
    ) -> Result<&'a mut Connection, Failure> {
        let state = &mut **state;
        if state.connection.as_ref().is_some_and(Connection::is_closed) {
            state.connection = None;
            // The server may have restarted, and shows commits that nobody acknowledged.
            self.server.doubt.raise();
        }
        while state.connection.is_none() {
            if let Some(outage) = &state.outage {
                let clock = self.server.world.clock();
                let (now, next) = (clock.now(), clock.instant(outage.next));
                let is_early = outage.next > now;
                if is_early && (now.since(outage.since) > PATIENCE || next > until) {
                    return Err(Failure::Unreached(outage.reason.clone()));
                }
                if is_early {
                    clock.sleep_until(Some(outage.next)).await;
                }
            }
            self.try_once(state, until).await?;
        }
        Ok(state.connection.as_mut().expect("made above"))
    }

    /// Tries to connect. Error: the deadline has passed.
    async fn try_once(&self, state: &mut State, until: Instant) -> Result<(), Failure> {
        let connected = timeout_at(until, self.server.connect(self.role)).await;
        let now = self.server.world.clock().now();
        let reason = match connected {
            Ok(Ok(connection)) => {
                if let Some(outage) = state.outage.take() {
                    let seconds = now.since(outage.since).as_secs();
                    tracing::info!(host = connection.host(), seconds, "database reached again");
                }
                state.connection = Some(connection);
                return Ok(());
            }
            Ok(Err(reason)) => reason,
            Err(_) => "no connection within the deadline".to_owned(),
        };
        if let Some(count) = state.failures.note(&reason, now.since(Time(0))) {
            tracing::warn!(reason, count, "database cannot be reached; retrying");
        }
        let (since, tries) = state.outage.as_ref().map_or((now, 0), |o| (o.since, o.tries + 1));
        let wait = BACKOFF_MAX.min(BACKOFF_FIRST * 2_u32.saturating_pow(tries.min(10)));
        let next = now + wait.mul_f64(state.random.random_range(0.5..1.0));
        state.outage = Some(Outage { since, tries, next, reason: reason.clone() });
        if self.server.world.clock().instant(now) >= until {
            return Err(Failure::Unreached(reason));
        }
        Ok(())
    }
}

/// Links for the same purpose, each for one statement at a time.
#[derive(Debug)]
pub(super) struct Pool {
    links: Vec<Link>,
    /// A permit for each link without a statement.
    idle: Semaphore,
    /// A permit for each caller that may wait for a link or have one.
    callers: Semaphore,
}

impl Pool {
    pub(super) fn new(server: &Arc<Server>, role: Role, size: usize) -> Self {
        let links = (0..size).map(|_| Link::new(server, role)).collect();
        Self { links, idle: Semaphore::new(size), callers: Semaphore::new(CALLERS_MAX) }
    }

    /// Runs one statement that commits by itself on a link that is free, or the next to be free.
    pub(super) async fn run(
        &self,
        query: &Query,
        effect: Effect,
        deadline: Duration,
    ) -> Result<Vec<Row>, Failure> {
        let until = self.links[0].until(deadline);
        let Ok(_caller) = self.callers.try_acquire() else { return Err(Failure::Crowded) };
        let Ok(_idle) = timeout_at(until, self.idle.acquire()).await else {
            return Err(Failure::Crowded);
        };
        let free = self.links.iter().find_map(|link| Some((link, link.state.try_lock().ok()?)));
        // There are as many permits as links, and only `close` locks a link without one.
        let Some((link, mut state)) = free else { return Err(Failure::Crowded) };
        link.run_on(&mut state, query, effect, until).await
    }

    pub(super) async fn close(&self) {
        for link in &self.links {
            link.close().await;
        }
    }
}
