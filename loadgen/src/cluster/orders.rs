//! The channel for orders to an emulator: the pipes of a child, or the control port of an emulator
//! that another program started.
//!
//! Orders are the JSON lines of `clarion_emulator::process`, each answered by one line. A child
//! writes its record to a path that both processes see. An emulator behind a control port sends the
//! record back, with times of its own clock; [`Orders::export`] converts them to this machine's
//! clock.

use std::{io, path::Path, sync::Arc, time::Duration};

use clarion_emulator::{clock, faults::Faults, record};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::process::Pipes;

/// Time limit for an answer. Writing a record of a few million requests takes a second or two;
/// sending it over a network takes longer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// Time limit for reaching a port in a cluster. A new pod may have to wait for its name service and
/// its network policies.
const REACH_DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two attempts to connect.
const REACH_AGAIN: Duration = Duration::from_millis(200);
/// Number of readings of the other clock, of which the quickest is the most exact.
const CLOCK_READINGS: usize = 16;
/// Longest answer except for a record, bytes. Statistics are some kilobytes.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Sender of orders; clones share the connection.
#[derive(Debug, Clone)]
pub struct Orders {
    link: Arc<Mutex<Link>>,
    /// Name of the emulator in errors.
    name: String,
}

#[derive(Debug)]
enum Link {
    /// Pipes of a child. The child ends when its standard input is closed, so they live as long as
    /// the child.
    Pipes(Pipes),
    Control(BufReader<TcpStream>),
}

/// An order to an emulator, as one line of JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Order<'a> {
    Faults(&'a Faults),
    Export(&'a Path),
    Take { path: &'a Path, before_us: u64 },
    Stats(bool),
    Fetch(bool),
    Clock(bool),
    Reset(bool),
}

/// Answer to an order; unknown fields are ignored.
#[derive(Debug, Deserialize)]
struct Reply {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    bytes: Option<u64>,
    #[serde(default)]
    monotonic_us: Option<u64>,
    #[serde(default)]
    until_us: Option<u64>,
    #[serde(default)]
    stats: Option<Value>,
}

/// Counts of an emulator since its last reset; see [`clarion_emulator::Stats`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// Connections accepted from clients.
    pub connections_opened: u64,
    /// Connections that have ended.
    pub connections_closed: u64,
    /// Connections that ended by an error in the client's HTTP/2.
    pub protocol_errors: u64,
    /// Connections that ended before the TLS handshake was complete.
    pub handshakes_failed: u64,
}

/// Difference between another machine's `CLOCK_MONOTONIC` and this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    /// Value to add to the other machine's times, microseconds.
    pub add_us: i64,
    /// Largest error of that value, microseconds: half of the quickest exchange.
    pub uncertain_us: u64,
}

/// Reason why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The emulator does not answer, or refuses the order.
    #[error("the gateway emulator: {0}")]
    Gateway(String),
    /// The record of the emulator cannot be converted to this machine's clock.
    #[error("the gateway's record: {0}")]
    Record(String),
}

impl Orders {
    /// Creates a sender over the pipes of a child.
    #[must_use]
    pub fn child(pipes: Pipes) -> Self {
        Self { link: Arc::new(Mutex::new(Link::Pipes(pipes))), name: "the gateway".to_owned() }
    }

    /// Connects to a control port, `host:port`.
    ///
    /// # Errors
    /// If no process answers there within half a minute.
    pub async fn connect(address: &str) -> Result<Self, OrderError> {
        let failed = |problem: String| OrderError::Gateway(format!("{address}: {problem}"));
        let stream = reach(address).await.map_err(&failed)?;
        stream.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
        let link = Link::Control(BufReader::new(stream));
        Ok(Self { link: Arc::new(Mutex::new(link)), name: address.to_owned() })
    }

    /// Replaces the faults in force.
    ///
    /// # Errors
    /// If the emulator does not answer, or refuses the order.
    pub async fn faults(&self, faults: &Faults) -> Result<(), OrderError> {
        self.give(&Order::Faults(faults)).await.map(drop)
    }

    /// Clears the record of the emulator.
    ///
    /// # Errors
    /// If the emulator does not answer.
    pub async fn reset(&self) -> Result<(), OrderError> {
        self.give(&Order::Reset(true)).await.map(drop)
    }

    /// Exports the record to a file here, in this machine's clock.
    ///
    /// # Errors
    /// If the emulator does not answer, or the file cannot be written.
    pub async fn export(&self, path: &Path) -> Result<(), OrderError> {
        if matches!(*self.link.lock().await, Link::Pipes(_)) {
            return self.give(&Order::Export(path)).await.map(drop);
        }
        self.fetch(path).await?;
        let offset = self.clock().await?;
        record::shift(path, offset.add_us)
            .map_err(|e| OrderError::Record(format!("{}: {e}", path.display())))
    }

    /// Moves the entries that were decided before `before_us` into a file, as far as they fill
    /// chunks. Returns the time before which none is left, microseconds.
    ///
    /// # Errors
    /// If the emulator does not answer, or is no child of this program, so that there is no file
    /// that both see.
    pub async fn take(&self, path: &Path, before_us: u64) -> Result<u64, OrderError> {
        if !matches!(*self.link.lock().await, Link::Pipes(_)) {
            return Err(self.failed("the record cannot be exported in pieces over a control port"));
        }
        let reply = self.give(&Order::Take { path, before_us }).await?;
        reply.until_us.ok_or_else(|| self.failed("no time in its answer"))
    }

    /// Returns the counts of the emulator's connections.
    ///
    /// # Errors
    /// If the emulator does not answer.
    pub async fn counted(&self) -> Result<Counted, OrderError> {
        serde_json::from_value(self.stats().await?).map_err(|e| self.failed(e))
    }

    /// Returns all statistics of the emulator, as it wrote them.
    ///
    /// # Errors
    /// If the emulator does not answer.
    pub async fn stats(&self) -> Result<Value, OrderError> {
        self.give(&Order::Stats(true))
            .await?
            .stats
            .ok_or_else(|| self.failed("no statistics in its answer"))
    }

    /// Measures the difference between the emulator's clock and ours. Of several readings the one
    /// with the quickest exchange counts, as if made in the middle of the exchange. On one machine
    /// both are the same clock, and the result is 0 within the uncertainty.
    ///
    /// # Errors
    /// If the emulator does not answer.
    pub async fn clock(&self) -> Result<ClockOffset, OrderError> {
        let mut best: Option<ClockOffset> = None;
        for _ in 0..CLOCK_READINGS {
            let asked = clock::monotonic().0;
            let reply = self.give(&Order::Clock(true)).await?;
            let answered = clock::monotonic().0;
            let theirs = reply.monotonic_us.ok_or_else(|| self.failed("no clock in its answer"))?;
            let offset = offset(asked, theirs, answered);
            if best.is_none_or(|b| offset.uncertain_us < b.uncertain_us) {
                best = Some(offset);
            }
        }
        best.ok_or_else(|| self.failed("no clock"))
    }

    async fn give(&self, order: &Order<'_>) -> Result<Reply, OrderError> {
        let exchange = async { exchange(&mut *self.link.lock().await, order).await };
        let reply = timeout(ANSWER_DEADLINE, exchange)
            .await
            .map_err(|_| self.failed(format!("no answer for {ANSWER_DEADLINE:?}")))?
            .map_err(|e| self.failed(e))?;
        match reply.error {
            Some(error) => Err(self.failed(error)),
            None => Ok(reply),
        }
    }

    async fn fetch(&self, path: &Path) -> Result<(), OrderError> {
        let fetch = async {
            let mut link = self.link.lock().await;
            let reply = exchange(&mut link, &Order::Fetch(true)).await?;
            let (Link::Control(stream), Some(bytes)) = (&mut *link, reply.bytes) else {
                return Err(io::Error::other(
                    reply.error.unwrap_or_else(|| "the answer contains no record".to_owned()),
                ));
            };
            let mut file = tokio::fs::File::create(path).await?;
            let copied = tokio::io::copy(&mut stream.take(bytes), &mut file).await?;
            file.sync_all().await?;
            if copied == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        };
        timeout(ANSWER_DEADLINE, fetch)
            .await
            .map_err(|_| self.failed(format!("no whole record within {ANSWER_DEADLINE:?}")))?
            .map_err(|e| self.failed(e))
    }

    fn failed(&self, problem: impl std::fmt::Display) -> OrderError {
        OrderError::Gateway(format!("{}: {problem}", self.name))
    }
}

/// Connects to `host:port`, and retries until a deadline.
///
/// # Errors
/// The error of the last attempt.
pub async fn reach(address: &str) -> Result<TcpStream, String> {
    let end = Instant::now() + REACH_DEADLINE;
    let mut last = "no answer".to_owned();
    loop {
        match timeout_at(end, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if Instant::now() < end => last = error.to_string(),
            Ok(Err(_)) | Err(_) => {
                return Err(format!("not reached within {REACH_DEADLINE:?}: {last}"));
            }
        }
        sleep(REACH_AGAIN).await;
    }
}

async fn exchange(link: &mut Link, order: &Order<'_>) -> io::Result<Reply> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    match link {
        Link::Pipes(pipes) => {
            pipes.stdin.write_all(&line).await?;
            answer(&mut pipes.stdout).await
        }
        Link::Control(stream) => {
            stream.get_mut().write_all(&line).await?;
            answer(stream).await
        }
    }
}

async fn answer(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Reply> {
    let mut answer = String::new();
    if from.take(LINE_BYTES_MAX).read_line(&mut answer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

fn offset(asked_us: u64, theirs_us: u64, answered_us: u64) -> ClockOffset {
    let half = answered_us.saturating_sub(asked_us) / 2;
    // Microseconds since a start are far below 2^63.
    ClockOffset {
        add_us: (asked_us + half).cast_signed().wrapping_sub(theirs_us.cast_signed()),
        uncertain_us: half,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_clock_is_read_in_the_middle_of_an_exchange() {
        assert_eq!(offset(1_000, 500, 1_100), ClockOffset { add_us: 550, uncertain_us: 50 });
        assert_eq!(offset(1_000, 9_000, 1_000), ClockOffset { add_us: -8_000, uncertain_us: 0 });
    }
}
