//! A core's slice of a lane's quota: never more requests than the provider allows, in any minute.
//!
//! A provider counts the requests that *arrive*, in windows whose start is unknown. A token bucket
//! lets through `burst + rate · 60 s` in any 60 s, and the coordinator divides bursts and rates so
//! that the sum over all nodes is the quota. But a bucket counts requests when they are *encoded*,
//! and there are five ways in which more than that arrives:
//!
//! 1. **Requests that arrive late.** A socket blocks, a network stalls, a gateway does not read:
//!    what was encoded over a second arrives at once, together with what the bucket has refilled
//!    since. So a request that is out (encoded, not yet answered) leaves no room for another token:
//!    `tokens + out <= burst` always. Between two times a and b at most `tokens(a) + rate · (b -
//!    a)` are encoded, what arrives was encoded then or was out at a, and both together are at most
//!    `burst + rate · (b - a)`, however long each was on its way. The price: a burst below rate ×
//!    latency binds the rate. One second's worth, which the coordinator gives, is a latency of one
//!    second.
//! 2. **A lease that ran out.** While a node has none, others may have its share. It collects
//!    nothing in that time.
//! 3. **A beginning.** A process that follows another one does not know what that has spent. So a
//!    slice begins empty. A node holds its slices from when it knows its lanes, so after `burst /
//!    rate` (a second) nothing is left of that; and it never costs a burst twice.
//! 4. **Another rate.** What was collected stays, as far as the new burst goes; a slice that was
//!    without limit begins empty.
//! 5. **Cores.** Each has a bucket, and none can hold less than one request; see [`share`].
//!
//! A request that goes out over another core's connection counts here, with the core that decided
//! on it, from its hand-over: it counts as out, however long it is on its way. So slices do not
//! move when connections do.
//!
//! **A reserve.** Waves that have a lane to themselves leave the last sixteenth of the burst in the
//! bucket ([`Slice::reserve`]): what the next alert begins with, at once, beside its equal share
//! from then on. With a burst of one second that is what a lane sends in 60 ms, over all nodes. It
//! costs the running alert nothing, as a bucket that is never below its reserve refills as fast as
//! one that is never below nothing; only where rate × latency comes near the burst does it bind, by
//! a sixteenth.
//!
//! Retries spend tokens like first tries. Not counted: a request whose answer is no longer awaited
//! (deadline, broken connection) and that still reaches the gateway from a buffer on the way.

use clarion_proto::time::Time;

use super::pace::Bucket;
use crate::lane::rate::Rate;

/// The minute that providers count in.
const WINDOW_SECONDS: f64 = 60.0;

/// Divisor of the burst: this part of it is kept for the next alert.
const RESERVE: f64 = 16.0;

/// One core's slice of a lane's quota.
#[derive(Debug, Default)]
pub struct Slice {
    /// `None`: no limit, while leased.
    bucket: Option<Bucket>,
    until: Time,
    /// Requests encoded and neither answered nor given up.
    out: usize,
}

impl Slice {
    /// Takes a slice until a time; `None`: without limit.
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

    /// Number of requests that may go now; `usize::MAX` without a limit.
    pub fn room(&mut self, now: Time) -> usize {
        self.refill(now);
        match &self.bucket {
            _ if now >= self.until => 0,
            None => usize::MAX,
            Some(bucket) => bucket.room(now),
        }
    }

    /// Of the room, what only a wave that begins may use.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a part of the burst
    pub fn reserve(&self) -> usize {
        self.bucket.as_ref().map_or(0, |bucket| (bucket.rate.burst / RESERVE).max(0.0) as usize)
    }

    /// Spends tokens. Call it only after [`Slice::room`] allowed them at the same time.
    pub fn take(&mut self, requests: usize, now: Time) {
        self.out += requests;
        let reserve = self.reserve();
        if let Some(bucket) = &mut self.bucket {
            bucket.take_down_to(requests, reserve, now);
        }
    }

    /// Counts requests that were answered or given up.
    pub fn settled(&mut self, requests: usize, now: Time) {
        // What was collected before counts with the room that there was.
        self.refill(now);
        debug_assert!(self.out >= requests, "settled more than taken");
        self.out = self.out.saturating_sub(requests);
    }

    /// Requests encoded and neither answered nor given up.
    #[must_use]
    pub fn out(&self) -> usize {
        self.out
    }

    /// End of the slice's lease.
    #[must_use]
    pub fn until(&self) -> Time {
        self.until
    }

    /// When [`Slice::room`] will be above `kept` by time alone; `None`: something else has to
    /// happen before.
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

/// One core's part of a node's slice, divided by the number of cores.
///
/// A bucket that holds less than one request never gives one, so each part's burst is at least one.
/// Where that makes the sum of bursts larger than the node's, the rates are reduced: `burst + rate
/// · 60` of all parts is never more than the node's. A node that may send less than one request a
/// minute for each of its cores may not send at all: its parts have no rate, and begin empty.
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
