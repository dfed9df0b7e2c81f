//! Actions on open connections: once, or repeatedly in turns.

use serde::{Deserialize, Serialize};

use super::super::{answer::Reason, frame::Code};

/// What is done to the connections that are open at the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// GOAWAY, then what is open is answered, then the connection is closed.
    Goaway {
        /// Goes into the debug data as `{"reason":"…"}`; absent: none of APNs, `session_timed_out`
        /// of FCM.
        #[serde(default)]
        reason: Option<Reason>,
        /// Debug data as it is, instead: `too_many_pings`, `exceeded_max_concurrent_streams`, …
        #[serde(default)]
        text: Option<String>,
        /// The error code, by its name in RFC 9113: `ENHANCE_YOUR_CALM`, … Absent: `NO_ERROR`.
        #[serde(default)]
        code: Code,
        /// Milliseconds between a first GOAWAY with the largest stream id and a second one with the
        /// real id (RFC 9113, section 6.8).
        #[serde(default)]
        two_step_ms: Option<u64>,
        /// Whether unanswered requests are refused as unprocessed, by a last stream id below
        /// theirs; with two steps, by the second.
        #[serde(default)]
        refuse_open: bool,
        /// Number of affected connections of each worker thread; absent: all.
        #[serde(default)]
        connections: Option<usize>,
    },
    /// Resets TCP connections (RST).
    Reset {
        /// Number of affected connections of each worker thread; absent: all.
        #[serde(default)]
        connections: Option<usize>,
    },
    /// SETTINGS with another MAX_CONCURRENT_STREAMS, for these connections and those to come.
    StreamsMax {
        /// New value of SETTINGS_MAX_CONCURRENT_STREAMS.
        streams: u32,
    },
    /// SETTINGS with other values, for these connections alone. What is absent stays.
    Settings {
        /// INITIAL_WINDOW_SIZE: windows of open streams change with it, and may become negative
        /// (RFC 9113, section 6.9.2).
        #[serde(default)]
        initial_window: Option<u32>,
        /// HEADER_TABLE_SIZE, at most 4,096: a client that uses more must shrink its table before
        /// its next request.
        #[serde(default)]
        header_table: Option<u32>,
        /// New value of SETTINGS_MAX_HEADER_LIST_SIZE, bytes.
        #[serde(default)]
        header_list: Option<u32>,
        /// Whether an unknown setting is sent, which must be ignored.
        #[serde(default)]
        unknown: bool,
    },
}

/// Actions that take turns: the first after `every_ms`, the next after twice that, …, and again
/// from the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// Interval between two turns, milliseconds.
    pub every_ms: u64,
    /// Actions in turn. A worker that is late for several turns carries out only the last one.
    pub turns: Vec<Action>,
    /// Duration, milliseconds; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
}
