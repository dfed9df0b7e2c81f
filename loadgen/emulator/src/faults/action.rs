//! Actions on open connections, carried out once or repeatedly in turns.

use serde::{Deserialize, Serialize};

use super::super::{answer::Reason, frame::Code};

/// An action on the connections that are open at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Sends GOAWAY, answers the open requests and then closes the connection.
    Goaway {
        /// Reason in the debug data, `{"reason":"…"}`; absent: no debug data for APNs,
        /// `session_timed_out` for FCM.
        #[serde(default)]
        reason: Option<Reason>,
        /// Complete debug data in place of a reason: `too_many_pings`,
        /// `exceeded_max_concurrent_streams`, …
        #[serde(default)]
        text: Option<String>,
        /// Error code by its name in RFC 9113: `ENHANCE_YOUR_CALM`, … Absent: `NO_ERROR`.
        #[serde(default)]
        code: Code,
        /// Time between a first GOAWAY with the largest stream id and a second one with the real id
        /// (RFC 9113, section 6.8), milliseconds.
        #[serde(default)]
        two_step_ms: Option<u64>,
        /// Whether waiting requests are refused as unprocessed, by a last stream id below theirs.
        /// With two steps, the second GOAWAY refuses them.
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
    /// Sends SETTINGS with another MAX_CONCURRENT_STREAMS to open connections, and to new ones at
    /// their start.
    StreamsMax {
        /// New value of SETTINGS_MAX_CONCURRENT_STREAMS.
        streams: u32,
    },
    /// Sends SETTINGS with other values to open connections only. Absent values stay as they are.
    Settings {
        /// New INITIAL_WINDOW_SIZE, bytes. The windows of open streams change with it and may
        /// become negative (RFC 9113, section 6.9.2).
        #[serde(default)]
        initial_window: Option<u32>,
        /// New HEADER_TABLE_SIZE, at most 4,096 bytes. A client that uses more must shrink its
        /// table before its next request.
        #[serde(default)]
        header_table: Option<u32>,
        /// New value of SETTINGS_MAX_HEADER_LIST_SIZE, bytes.
        #[serde(default)]
        header_list: Option<u32>,
        /// Whether an unknown setting is sent too, which the client must ignore.
        #[serde(default)]
        unknown: bool,
    },
}

/// Actions in turns: the first at `every_ms`, the second at twice that time, and so on; after the
/// last action the first follows again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// Interval between two turns, milliseconds.
    pub every_ms: u64,
    /// Actions in order. A worker that has missed several turns carries out only the last of them.
    pub turns: Vec<Action>,
    /// Duration, milliseconds; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
}
