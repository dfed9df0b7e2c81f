//! Limits in the gateway's SETTINGS, and the values that the client has acknowledged: the number of
//! open streams, as APNs changes it, the size of stream windows and the size of the header table.
//!
//! APNs allows one stream until the first authenticated success, then a larger number, and
//! sometimes one again after a rejection. A client that exceeds a limit that it acknowledged gets a
//! GOAWAY with Apple's text. A client that exceeds a limit that was lowered while its requests were
//! on the way is only refused (RST_STREAM), because it could not know the limit. The same holds for
//! windows.

use std::collections::VecDeque;

/// Most SETTINGS frames that may wait for their acknowledgement.
const IN_FLIGHT_MAX: usize = 256;

/// Decision about a new stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// The stream exceeds a limit that the client may not have received yet.
    Refused,
    /// The stream exceeds every limit that the client may believe in.
    Violation,
}

/// Settings that change during a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Values {
    /// Value of SETTINGS_MAX_CONCURRENT_STREAMS.
    pub(super) streams: u32,
    /// Value of SETTINGS_INITIAL_WINDOW_SIZE, bytes.
    pub(super) window: u32,
    /// Value of SETTINGS_HEADER_TABLE_SIZE, bytes.
    pub(super) table: u32,
}

/// Settings of a connection, as sent and as acknowledged.
#[derive(Debug)]
pub(super) struct Limits {
    /// Number of streams after the first authenticated success.
    full: u32,
    /// Whether the connection has had its authenticated success or needs none.
    open: bool,
    /// Values of the SETTINGS frame sent last.
    advertised: Values,
    /// Values that the client acknowledged last; before the first acknowledgement, those of the
    /// first SETTINGS, because APNs makes no allowance for a client that does not wait for them.
    acknowledged: Values,
    in_flight: VecDeque<Values>,
}

impl Limits {
    pub(super) fn new(full: u32, alone: bool, window: u32, table: u32) -> Self {
        let first = Values { streams: if alone { 1 } else { full }, window, table };
        Self {
            full,
            open: !alone,
            advertised: first,
            acknowledged: first,
            in_flight: VecDeque::from([first]),
        }
    }

    /// Returns the values of the last SETTINGS.
    pub(super) fn advertised(&self) -> Values {
        self.advertised
    }

    /// Returns the largest initial window of a stream that the client may believe in, bytes.
    pub(super) fn window_believed(&self) -> u32 {
        self.in_flight.iter().map(|v| v.window).max().unwrap_or(0).max(self.acknowledged.window)
    }

    /// Returns the largest header table that the client may use, bytes.
    pub(super) fn table_believed(&self) -> u32 {
        self.in_flight.iter().map(|v| v.table).max().unwrap_or(0).max(self.acknowledged.table)
    }

    pub(super) fn admit(&self, active: usize) -> Admission {
        let active = u32::try_from(active).unwrap_or(u32::MAX);
        if active < self.advertised.streams {
            return Admission::Admitted;
        }
        let believed = self
            .in_flight
            .iter()
            .map(|v| v.streams)
            .max()
            .unwrap_or(0)
            .max(self.acknowledged.streams);
        if active < believed { Admission::Refused } else { Admission::Violation }
    }

    /// Changes the stream limit after the first success. Returns the limit to announce, if it
    /// changed.
    pub(super) fn set_full(&mut self, full: u32) -> Option<u32> {
        self.full = full;
        self.open.then(|| self.advertise(full)).flatten()
    }

    /// Records an authenticated success. Returns the stream limit to announce, if it changed.
    pub(super) fn succeeded(&mut self) -> Option<u32> {
        if self.open {
            return None;
        }
        self.open = true;
        self.advertise(self.full)
    }

    /// Limits the connection to one stream after a rejection. Returns the limit to announce, if it
    /// changed.
    pub(super) fn rejected(&mut self) -> Option<u32> {
        self.open = false;
        self.advertise(1)
    }

    /// Records the acknowledgement of the oldest SETTINGS. Returns false if none was open.
    pub(super) fn acknowledge(&mut self) -> bool {
        let Some(known) = self.in_flight.pop_front() else { return false };
        self.acknowledged = known;
        true
    }

    /// Reports whether the client leaves too many SETTINGS without acknowledgement.
    pub(super) fn is_ignored(&self) -> bool {
        self.in_flight.len() > IN_FLIGHT_MAX
    }

    /// Changes window and header table size, which one SETTINGS frame announces together.
    pub(super) fn set(&mut self, window: Option<u32>, table: Option<u32>) {
        let now = self.advertised;
        self.advertised = Values {
            window: window.unwrap_or(now.window),
            table: table.unwrap_or(now.table),
            ..now
        };
        self.in_flight.push_back(self.advertised);
    }

    fn advertise(&mut self, limit: u32) -> Option<u32> {
        if limit == self.advertised.streams {
            return None;
        }
        self.advertised.streams = limit;
        self.in_flight.push_back(self.advertised);
        Some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(full: u32, alone: bool) -> Limits {
        Limits::new(full, alone, 65_535, 4_096)
    }

    #[test]
    fn a_larger_window_may_be_believed_in_until_the_smaller_is_acknowledged() {
        let mut limits = limits(1_000, false);
        limits.set(Some(100), None);
        assert_eq!((limits.advertised().window, limits.window_believed()), (100, 65_535));
        limits.acknowledge();
        assert_eq!(limits.window_believed(), 65_535);
        limits.acknowledge();
        assert_eq!(limits.window_believed(), 100);
    }

    #[test]
    fn one_then_many() {
        let mut limits = limits(1_000, true);
        assert_eq!((limits.admit(0), limits.admit(1)), (Admission::Admitted, Admission::Violation));
        assert_eq!(limits.succeeded(), Some(1_000));
        assert_eq!(limits.succeeded(), None);
        assert_eq!(
            (limits.admit(999), limits.admit(1_000)),
            (Admission::Admitted, Admission::Violation)
        );
    }

    #[test]
    fn a_lowered_limit_is_enforced_when_it_is_known() {
        let mut limits = limits(1_000, false);
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
        let mut limits = limits(500, false);
        assert_eq!(limits.rejected(), Some(1));
        assert_eq!(limits.rejected(), None);
        assert_eq!(limits.set_full(700), None, "not while it is on probation");
        assert_eq!(limits.succeeded(), Some(700));
    }
}
