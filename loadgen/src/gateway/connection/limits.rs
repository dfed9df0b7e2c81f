//! How many streams a client may have open, as APNs plays it.
//!
//! One until the first authenticated success, then some number, sometimes back to one after a rejection. Who exceeds what
//! it has been told is sent away (GOAWAY, with Apple's words); who exceeds a limit that was lowered while its requests were
//! under way is only refused (RST_STREAM): it could not know. It knows once it has acknowledged.

use std::collections::VecDeque;

/// SETTINGS that may wait for their acknowledgement.
const IN_FLIGHT_MAX: usize = 256;

/// What becomes of a new stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// Over a limit that the client may not know yet.
    Refused,
    /// Over every limit that it may believe in.
    Violation,
}

/// The limit and who knows of it.
#[derive(Debug)]
pub(super) struct Limits {
    /// Once proven.
    full: u32,
    /// Whether the connection has had its authenticated success, or needs none.
    open: bool,
    /// Last sent.
    advertised: u32,
    /// Last acknowledged; before that, what the first SETTINGS say: APNs forgives nobody who does not wait for them.
    acknowledged: u32,
    in_flight: VecDeque<u32>,
}

impl Limits {
    pub(super) fn new(full: u32, alone: bool) -> Self {
        let first = if alone { 1 } else { full };
        Self { full, open: !alone, advertised: first, acknowledged: first, in_flight: VecDeque::from([first]) }
    }

    /// What the first SETTINGS say.
    pub(super) fn advertised(&self) -> u32 {
        self.advertised
    }

    pub(super) fn admit(&self, active: usize) -> Admission {
        let active = u32::try_from(active).unwrap_or(u32::MAX);
        let believed = self.in_flight.iter().copied().max().unwrap_or(0).max(self.acknowledged);
        match active {
            n if n < self.advertised => Admission::Admitted,
            n if n < believed => Admission::Refused,
            _ => Admission::Violation,
        }
    }

    /// The limit for connections that have proven themselves is now another. Returns what to send.
    pub(super) fn set_full(&mut self, full: u32) -> Option<u32> {
        self.full = full;
        self.open.then(|| self.advertise(full)).flatten()
    }

    /// A request had its authenticated success. Returns what to send.
    pub(super) fn succeeded(&mut self) -> Option<u32> {
        if self.open {
            return None;
        }
        self.open = true;
        self.advertise(self.full)
    }

    /// A request was rejected, and that costs the connection its freedom. Returns what to send.
    pub(super) fn rejected(&mut self) -> Option<u32> {
        self.open = false;
        self.advertise(1)
    }

    /// The client acknowledged the oldest SETTINGS; false if there was nothing to acknowledge.
    pub(super) fn acknowledge(&mut self) -> bool {
        match self.in_flight.pop_front() {
            Some(limit) => {
                self.acknowledged = limit;
                true
            }
            None => false,
        }
    }

    /// Whether the client acknowledges nothing.
    pub(super) fn is_ignored(&self) -> bool {
        self.in_flight.len() > IN_FLIGHT_MAX
    }

    fn advertise(&mut self, limit: u32) -> Option<u32> {
        if limit == self.advertised {
            return None;
        }
        self.advertised = limit;
        self.in_flight.push_back(limit);
        Some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_then_many() {
        let mut limits = Limits::new(1_000, true);
        assert_eq!((limits.admit(0), limits.admit(1)), (Admission::Admitted, Admission::Violation));
        assert_eq!(limits.succeeded(), Some(1_000));
        assert_eq!(limits.succeeded(), None);
        assert_eq!((limits.admit(999), limits.admit(1_000)), (Admission::Admitted, Admission::Violation));
    }

    #[test]
    fn a_lowered_limit_is_enforced_when_it_is_known() {
        let mut limits = Limits::new(1_000, false);
        assert_eq!(limits.set_full(10), Some(10));
        assert_eq!((limits.admit(9), limits.admit(10)), (Admission::Admitted, Admission::Refused));
        assert!(limits.acknowledge());
        assert_eq!(limits.admit(10), Admission::Refused, "it acknowledged the first SETTINGS");
        assert!(limits.acknowledge());
        assert_eq!(limits.admit(10), Admission::Violation);
        assert!(!limits.acknowledge());
    }

    #[test]
    fn back_to_one_after_a_rejection() {
        let mut limits = Limits::new(500, false);
        assert_eq!(limits.rejected(), Some(1));
        assert_eq!(limits.rejected(), None);
        assert_eq!(limits.set_full(700), None, "not while it is on probation");
        assert_eq!(limits.succeeded(), Some(700));
    }
}
