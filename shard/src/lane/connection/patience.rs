//! Budget for frames that bring no request nearer to its end.
//!
//! PING, SETTINGS, PRIORITY, credit that no request needs, GOAWAY, extensions, resets, frames of
//! streams that have ended: each is allowed at any time and costs little. But a peer that sends
//! nothing else can keep a core busy for ever without violating HTTP/2. So each such frame spends
//! from a budget that requests and time refill. An honest peer never exhausts the budget: in
//! addition to an answer, servers send a reset, one or two windows and occasionally a PING for each
//! request.

use clarion_proto::time::Time;

use super::error::ConnectionError;

/// Size of the full budget, frames: enough for a reset and some windows for each of the most
/// streams that gateways allow (1,500), all at once.
const FULL: u64 = 10_000;
/// Number of frames that each request adds to the budget.
const PER_REQUEST: u64 = 8;
/// Number of frames that each second adds to the budget, so that a connection that is idle for
/// hours is not charged for its gateway's PINGs.
const PER_SECOND: u64 = 100;

#[derive(Debug)]
pub(super) struct Patience {
    left: u64,
    /// Time up to which the budget was refilled.
    at: Time,
    /// Id of the next request when the budget was refilled.
    next_id: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { left: FULL, at: Time(0), next_id: 1 }
    }
}

impl Patience {
    /// Spends one frame of the budget. `next_id` is the id of the next request.
    pub(super) fn spend(&mut self, now: Time, next_id: u32) -> Result<(), ConnectionError> {
        if self.left == 0 {
            self.refill(now, next_id);
        }
        self.left = self
            .left
            .checked_sub(1)
            .ok_or(ConnectionError::calm("too many frames that no request asked for"))?;
        Ok(())
    }

    /// Refills the budget only when it is empty, so that nearly every frame costs one subtraction.
    /// An honest peer has then earned the whole budget again; a peer that has earned nothing
    /// meanwhile is not honest.
    fn refill(&mut self, now: Time, next_id: u32) {
        let seconds = now.since(self.at).as_secs();
        let requests = u64::from(next_id.saturating_sub(self.next_id)) / 2;
        self.left =
            FULL.min(seconds.saturating_mul(PER_SECOND).saturating_add(requests * PER_REQUEST));
        (self.at, self.next_id) = (now, next_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(patience: &mut Patience, frames: u64, now: Time, next_id: u32) -> u64 {
        (0..frames).take_while(|_| patience.spend(now, next_id).is_ok()).count() as u64
    }

    #[test]
    fn what_is_spent_comes_back_with_requests_and_with_time() {
        let second = |n: u64| Time(n * 1_000_000);
        let mut patience = Patience { at: second(50), ..Patience::default() };
        assert_eq!(spend(&mut patience, u64::MAX, second(50), 1), FULL);
        assert_eq!(spend(&mut patience, u64::MAX, second(50), 1), 0);
        assert_eq!(spend(&mut patience, u64::MAX, second(50), 21), 10 * PER_REQUEST);
        assert_eq!(spend(&mut patience, u64::MAX, second(52), 21), 2 * PER_SECOND);
        assert_eq!(
            spend(&mut patience, u64::MAX, second(1 << 30), 1 << 30),
            FULL,
            "never more than it holds"
        );
    }

    #[test]
    fn an_honest_peer_never_sees_the_bottom() {
        let mut patience = Patience::default();
        for request in 0..1_000_000 {
            assert_eq!(spend(&mut patience, 4, Time(0), 1 + 2 * request), 4);
        }
        let mut patience = Patience::default();
        for minute in 0..10_000 {
            assert_eq!(spend(&mut patience, 6, Time(60_000_000 * minute), 1), 6);
        }
    }
}
