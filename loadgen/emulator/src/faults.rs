//! Configurable faults of a gateway.
//!
//! There are two kinds of faults. **Conditions** are in force for a time, or until they are
//! replaced: latency, delayed credit, slowness, silence, random errors and resets, faults of TLS
//! and of credentials. **Actions** ([`Action`]) affect the connections that are open at that time:
//! once, or repeatedly ([`Repeat`]). A new [`Faults`] replaces all conditions. No code here does
//! I/O: a worker queries its [`Plan`] with the time and a random number. A new kind of fault needs
//! a field, its query, and the code that queries it.
//!
//! Targets of a fault: a token, by [`Rule`]s (a seeded hash decides) or by a list of its own
//! ([`super::script`]); a connection, by `connections_ppm` (a seeded hash of its number); a
//! request, by `ppm`. The same fields configure one fault or a mixture.
//!
//! Faults for the known behaviour of gateways, in the JSON of an order. The same names are valid in
//! TOML, in a gateway's `[faults]` and in a scenario's `gateway.fault = { kind = "scripted", …,
//! faults = { … } }`:
//!
//! | trouble | order |
//! |---|---|
//! | far away | `"latency": {"p50_us": 50000, "p99_us": 120000}, "credit": {"delay_us": 50000}` |
//! | GOAWAY, with a reason or without | `"once": [{"do": "goaway", "reason": "Shutdown"}, …]`; `IdleTimeout` the same |
//! | FCM's farewells | `{"do": "goaway", "text": "session_timed_out"}`, `{…, "code": "ENHANCE_YOUR_CALM", "text": "too_many_pings"}`, `{…, "code": "PROTOCOL_ERROR", "text": "exceeded_max_concurrent_streams"}` |
//! | GOAWAY in two steps, below what is under way | `{"do": "goaway", "two_step_ms": 20, "refuse_open": true}` |
//! | streams refused, reset, reset behind a whole answer, never answered | `"errors": [{"fate": "refuse", "ppm": 1000}]`; `reset`, `answer_then_reset`, `stall` |
//! | one connection stalls with TCP open | `"silent": {"mode": "stop_reading", "connections_ppm": 250000}` |
//! | TCP resets | `"repeat": [{"every_ms": 500, "turns": [{"do": "reset", "connections": 1}]}]` |
//! | late credit, windows that become negative | `"credit": {"delay_us": 200000}`; `"repeat": [{"every_ms": 100, "turns": [{"do": "settings", "initial_window": 100}, {"do": "settings", "initial_window": 65535}]}]` |
//! | stream limit 1 and 1,500 in turns | `"repeat": [{"every_ms": 100, "turns": [{"do": "streams_max", "streams": 1}, {"do": "streams_max", "streams": 1500}]}]` |
//! | other settings | `{"do": "settings", "header_table": 0, "header_list": 1000, "unknown": true}` |
//! | 429 for a token, at first | `"rules": [{"ppm": 10000, "answer": {"reason": "TooManyRequests", "times": 2}}]` |
//! | bursts of 503, delivered or not | `"errors": [{"reason": "ServiceUnavailable", "ppm": 500000, "delivered": true, "duration_ms": 200, "every_ms": 1000}]` |
//! | Shutdown, ExpiredProviderToken, TooManyProviderTokenUpdates by chance | `"errors": [{"reason": "Shutdown", "ppm": 1000}]`, … |
//! | provider tokens that expire early | `"provider_token": {"age_seconds_max": 2}` |
//! | dead tokens, with a time before or after the registration | `"rules": [{"ppm": 10000, "answer": {"reason": "Unregistered", "timestamp_offset_ms": -86400000}}]` |
//! | a storm of the wrong environment | `"rules": [{"ppm": 900000, "answer": {"reason": "BadDeviceToken"}}]` |
//! | pages of HTML by the provider's front end | `"errors": [{"reason": "BAD_GATEWAY", "ppm": 1000}]`, `UNAUTHORIZED_PAGE` |
//! | pages of HTML by a proxy on the way | `"errors": [{"reason": "PAGE", "status": 404, "ppm": 10000}]`; 302, 403, 407, 413, … |
//! | one odd answer among thousands | any of `"errors"` with `"times": 1`; one in each second: with `"duration_ms": 1000, "every_ms": 1000` |
//! | an answer that is cut behind its head | `"errors": [{"fate": "head_then_reset", "status": 403, "ppm": 100}]`; `head_then_close` ends the connection |
//! | FCM: canonical `NOT_FOUND` without an FcmError | `"errors": [{"reason": "PROJECT_NOT_FOUND", "ppm": 100}]` |
//! | FCM: 429 whose message alone names the device | `"rules": [{"ppm": 10000, "answer": {"reason": "DEVICE_RATE_EXCEEDED", "times": 1}}]` |
//! | a quota that is used up | the gateway's own `projects.quota_per_minute`; by chance `QUOTA_EXCEEDED`, `RATE_LIMIT_EXCEEDED` |
//! | handshakes that are slow, reset, or end at an expired certificate | `"handshake": {"delay_ms": 3000, "reset": true, "expired_certificate": true}` |
//! | a token endpoint that is down | `"token_endpoint": {"down": true}` |
//!
//! Not here: changes of the gateway's DNS name, which are outside the gateway.

use serde::{Deserialize, Serialize};

use super::{
    answer::{Reason, RetryAfter},
    hpack::TABLE_BYTES,
    platform::Platform,
    script::{Fate, Rule},
};

mod action;
mod plan;

pub use self::{
    action::{Action, Repeat},
    plan::Plan,
};

/// All conditions, and the actions to carry out now. By default the gateway is undisturbed and
/// answers at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Delay from the end of a request to its answer.
    pub latency: Latency,
    /// Delay from the receipt of body bytes to the credit for them (WINDOW_UPDATE, of the
    /// connection and of streams).
    pub credit: Credit,
    /// Lower rate and longer delay of answers.
    pub slow: Option<Slow>,
    /// Connections whose answers are withheld.
    pub silent: Option<Silent>,
    /// Random errors; the first one that applies decides the answer.
    pub errors: Vec<Errors>,
    /// Scripted answers for shares of all tokens, which come before the gateway's own scripts.
    pub rules: Vec<Rule>,
    /// Seed of the hash that assigns tokens to rules.
    pub seed: u64,
    /// Actions that are carried out once, when the faults are set.
    pub once: Vec<Action>,
    /// Actions that are repeated.
    pub repeat: Vec<Repeat>,
    /// TLS faults of new connections.
    pub handshake: Handshake,
    /// APNs: greatest age of a provider token.
    pub provider_token: ProviderToken,
    /// Faults of FCM's token endpoint.
    pub token_endpoint: TokenEndpoint,
}

/// Error for faults that the gateway cannot emulate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultsError {
    /// The gateway's platform never gives this reason.
    #[error("reason {}: belongs to another platform", .0.as_str())]
    ForeignReason(Reason),
    /// HTTP/2 does not allow this value, or the emulator does not support it.
    #[error("{field}: must be at most {max}; got {value}")]
    Setting {
        /// Name of the invalid field.
        field: &'static str,
        /// Highest allowed value.
        max: u32,
        /// The given value.
        value: u32,
    },
}

impl Faults {
    /// Checks that a gateway of the platform can emulate the faults.
    ///
    /// # Errors
    /// The first fault that it cannot emulate.
    pub fn check(&self, platform: Platform) -> Result<(), FaultsError> {
        let actions = || self.once.iter().chain(self.repeat.iter().flat_map(|r| &r.turns));
        let goaway = actions().filter_map(|a| match a {
            Action::Goaway { reason, .. } => *reason,
            Action::Reset { .. } | Action::StreamsMax { .. } | Action::Settings { .. } => None,
        });
        let mut reasons = self
            .errors
            .iter()
            .map(|e| e.reason)
            .chain(self.rules.iter().map(|r| r.answer.reason))
            .chain(goaway);
        if let Some(reason) = reasons.find(|r| r.platform().is_some_and(|p| p != platform)) {
            return Err(FaultsError::ForeignReason(reason));
        }
        for action in actions() {
            let Action::Settings { initial_window, header_table, .. } = action else { continue };
            for (field, value, max) in [
                ("initial_window", initial_window, (1 << 31) - 1),
                ("header_table", header_table, TABLE_BYTES),
            ] {
                if let Some(value) = value.filter(|&value| value > max) {
                    return Err(FaultsError::Setting { field, max, value });
                }
            }
        }
        Ok(())
    }
}

/// A lognormal delay, given by two quantiles; constant if p99 is absent or equals p50.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// Median of the delay, microseconds.
    pub p50_us: u64,
    /// 99th percentile of the delay, microseconds.
    pub p99_us: u64,
}

/// A gateway that is `factor` times slower: each answer takes `factor` times the latency, and all
/// connections together get at most `normal_per_second / factor` answers per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// Factor by which the gateway is slower.
    pub factor: u32,
    /// Answers per second of the gateway at factor 1.
    #[serde(default = "normal_per_second")]
    pub normal_per_second: u32,
    /// Duration, milliseconds; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
}

fn normal_per_second() -> u32 {
    100_000
}

/// Delayed credit, as from a distant gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credit {
    /// Delay from the receipt of bytes to the credit for them, microseconds.
    pub delay_us: u64,
    /// Duration, milliseconds; 0: until replaced.
    pub duration_ms: u64,
}

/// Silence of a gateway on some of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silent {
    /// Kind of silence.
    pub mode: Silence,
    /// Parts per million of the connections that fall silent; absent: all.
    #[serde(default = "all")]
    pub connections_ppm: u32,
    /// Duration, milliseconds; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
}

fn all() -> u32 {
    1_000_000
}

/// Kinds of silence of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Silence {
    /// Sockets are neither read nor written, so TCP flow control stops the client.
    StopReading,
    /// Requests are read and accepted; their answers are sent when the silence ends.
    HoldAnswers,
    /// Requests are read and accepted; they are never answered.
    DropAnswers,
}

/// Random errors for valid requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// Way in which the request is answered: an answer, a reset or no answer. Default: an answer.
    #[serde(default)]
    pub fate: Fate,
    /// Reason of the provider, such as `ServiceUnavailable` or `UNAVAILABLE`; absent: the push is
    /// accepted.
    #[serde(default = "acceptance")]
    pub reason: Reason,
    /// Status that replaces the reason's; `PAGE` and cut answers allow any status.
    #[serde(default)]
    pub status: Option<u16>,
    /// Affected share of the requests, parts per million.
    pub ppm: u32,
    /// Most affected requests over all connections: since the faults were set, or in each period of
    /// `every_ms`. Absent: no limit.
    #[serde(default)]
    pub times: Option<u32>,
    /// Share of the connections that may be affected, parts per million; absent: all.
    #[serde(default = "all")]
    pub connections_ppm: u32,
    /// Whether the push reaches the phone despite the answer, or without one.
    #[serde(default)]
    pub delivered: bool,
    /// Value of the `Retry-After` header; FCM only.
    #[serde(default)]
    pub retry_after: Option<RetryAfter>,
    /// Duration, milliseconds; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
    /// Interval between bursts that last `duration_ms` each, milliseconds; 0: a single burst.
    #[serde(default)]
    pub every_ms: u64,
}

fn acceptance() -> Reason {
    Reason::None
}

/// Faults before HTTP/2 begins, for connections that are accepted while the faults are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handshake {
    /// Delay of the server's handshake, milliseconds.
    pub delay_ms: u64,
    /// Whether the server presents a certificate that expired years ago.
    pub expired_certificate: bool,
    /// Whether TCP is reset as soon as the connection is accepted.
    pub reset: bool,
    /// Affected share of the connections, parts per million; absent: all.
    pub connections_ppm: u32,
    /// Duration, milliseconds; 0: until replaced.
    pub duration_ms: u64,
}

impl Default for Handshake {
    fn default() -> Self {
        Self {
            delay_ms: 0,
            expired_certificate: false,
            reset: false,
            connections_ppm: all(),
            duration_ms: 0,
        }
    }
}

/// APNs: a shorter limit for the age of provider tokens. Older ones are refused as
/// `ExpiredProviderToken`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderToken {
    /// Greatest accepted age of a provider token, seconds.
    pub age_seconds_max: Option<u64>,
    /// Duration, milliseconds; 0: until replaced.
    pub duration_ms: u64,
}

/// Faults of FCM's OAuth token endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenEndpoint {
    /// Whether every request is answered with 503.
    pub down: bool,
    /// Delay of answers, milliseconds.
    pub delay_ms: u64,
    /// Lifetime of access tokens, seconds, also announced in the response.
    pub lifetime_seconds: Option<u64>,
    /// Duration, milliseconds; 0: until replaced.
    pub duration_ms: u64,
}
