//! A core's slice of a lane's quota, which never lets more requests arrive in any minute than the
//! provider allows.
//!
//! A provider counts the requests that *arrive*, in windows whose start is unknown. A token bucket
//! lets through `burst + rate · 60 s` in any 60 s, and the coordinator divides bursts and rates so
//! that the sum over all nodes is the quota. But a bucket counts requests when they are *encoded*,
//! and there are five ways in which more than that arrives:
//!
//! 1. **Requests that arrive late.** A socket blocks, a network stalls, a gateway does not read:
//!    requests that were encoded over a second arrive at once, together with those that the bucket
//!    has allowed since. So a request in flight (encoded, not yet answered) leaves no room for
//!    another token: `tokens + out <= burst` always. Between two times a and b at most `tokens(a) +
//!    rate · (b - a)` requests are encoded. A request that arrives was encoded then or was in
//!    flight at a, and both together are at most `burst + rate · (b - a)`, however long each was on
//!    its way. The price: a burst below rate × latency limits the rate. The coordinator gives one
//!    second's worth, which allows a latency of one second.
//! 2. **A lease that has ended.** While a node has no lease, other nodes may have its share. The
//!    bucket collects nothing in that time.
//! 3. **A new process.** A process does not know what its predecessor has spent, so a slice begins
//!    empty. A node holds its slices from the time at which it knows its lanes. After `burst /
//!    rate` (a second) the start has no effect any more, and it never costs a burst twice.
//! 4. **A change of the rate.** Collected tokens stay, up to the new burst; a slice that was
//!    without limit begins empty.
//! 5. **Several cores.** Each has a bucket, and no bucket can hold less than one request; see
//!    [`share`].
//!
//! A request that is sent over another core's connection counts here, with the core that decided on
//! it, from its hand-over on. So slices do not move when connections do.
//!
//! **A reserve.** Waves that have a lane to themselves leave the last sixteenth of the burst in the
//! bucket ([`Slice::reserve`]). The next alert begins with it at once, and has its equal share from
//! then on. With a burst of one second the reserve is what a lane sends in 60 ms, over all nodes.
//! It costs the running alert nothing, because a bucket that is never below its reserve refills as
//! fast as one that is never below zero; it binds, by a sixteenth, only where rate × latency comes
//! near the burst.
//!
//! Retries spend tokens like first attempts. Not counted: a request whose answer is no longer
//! awaited (deadline, broken connection) and that still reaches the gateway from a buffer on the
//! way.

use clarion_proto::time::Time;

use super::pace::Bucket;
use crate::lane::rate::Rate;

/// Length of the window in which providers count, seconds.
const WINDOW_SECONDS: f64 = 60.0;

/// Divisor of the burst that gives the reserve for the next alert.
const RESERVE: f64 = 16.0;

/// One core's slice of a lane's quota.
#[derive(Debug, Default)]
pub struct Slice {
    /// Bucket of the slice; `None` means no limit during the lease.
    bucket: Option<Bucket>,
    until: Time,
    /// Number of requests that were encoded and neither answered nor abandoned.
    out: usize,
}

impl Slice {
    /// Sets the slice until a time; a rate of `None` means no limit.
    pub fn set(&mut self, until: Time, rate: Option<Rate>, now: Time) {
        self.refill(now);
        let held = self.held();
        self.bucket = rate.map(|rate| {
            let mut bucket = self.bucket.take().unwrap_or_else(|| Bucket::empty(rate, now));
            bucket.set(rate, held);
            bucket
        });
        self.until = until;
    }

    /// Returns the number of requests that may be sent now; `usize::MAX` without a limit.
    pub fn room(&mut self, now: Time) -> usize {
        self.refill(now);
        match &self.bucket {
            _ if now >= self.until => 0,
            None => usize::MAX,
            Some(bucket) => bucket.room(now),
        }
    }

    /// Returns the part of the room that only a new wave may use.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a part of the burst
    pub fn reserve(&self) -> usize {
        self.bucket.as_ref().map_or(0, |bucket| (bucket.rate.burst / RESERVE).max(0.0) as usize)
    }

    /// Takes tokens. The caller must have got this many from [`Slice::room`] at the same time.
    pub fn take(&mut self, requests: usize, now: Time) {
        self.out += requests;
        let reserve = self.reserve();
        if let Some(bucket) = &mut self.bucket {
            bucket.take_down_to(requests, reserve, now);
        }
    }

    /// Counts requests that were answered or abandoned.
    pub fn settled(&mut self, requests: usize, now: Time) {
        // The tokens collected before count with the room that there was then.
        self.refill(now);
        debug_assert!(self.out >= requests, "settled more than taken");
        self.out = self.out.saturating_sub(requests);
    }

    /// Returns the number of requests that were encoded and neither answered nor abandoned.
    #[must_use]
    pub fn out(&self) -> usize {
        self.out
    }

    /// Returns the end of the slice's lease.
    #[must_use]
    pub fn until(&self) -> Time {
        self.until
    }

    /// Returns the time at which [`Slice::room`] will be above `kept` without an event; `None` if
    /// an event is needed.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // a part of the burst
    pub fn ready_at(&self, now: Time, kept: usize) -> Option<Time> {
        let least = kept as f64 + 1.0;
        let at = match &self.bucket {
            None => now,
            Some(bucket) if bucket.capacity() - self.held() < least => return None, // an answer
            Some(bucket) => bucket.holds_at(least, now)?,
        };
        Some(at).filter(|at| *at < self.until)
    }

    fn refill(&mut self, now: Time) {
        let held = self.held();
        if let Some(bucket) = &mut self.bucket {
            bucket.refill(now.min(self.until), held);
            bucket.skip(now);
        }
    }

    #[allow(clippy::cast_precision_loss)] // streams of a core
    fn held(&self) -> f64 {
        self.out as f64
    }
}

/// Returns one core's part of a node's slice, divided by the number of cores.
///
/// A bucket that holds less than one request never gives one, so the burst of each part is at least
/// one. If that makes the sum of bursts larger than the node's, the rates are reduced: `burst +
/// rate · 60` of all parts is never more than the node's. A node that may send less than one
/// request per minute for each of its cores may not send at all: its parts have no rate, and begin
/// empty.
#[must_use]
#[allow(clippy::cast_precision_loss)] // cores
pub fn share(per_second: f64, burst: f64, parts: usize) -> Rate {
    let parts = parts.max(1) as f64;
    let mine = burst / parts;
    let excess = (1.0 - mine).max(0.0);
    Rate {
        per_second: (per_second / parts - excess / WINDOW_SECONDS).max(0.0),
        burst: mine.max(1.0),
    }
}

#[cfg(test)]
mod tests;
