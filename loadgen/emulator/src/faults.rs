//! Faults of a gateway, as data.
//!
//! There are two kinds. **Conditions** hold from the moment they are set for a time, or until
//! replaced: latency, late credits, slowness, silence, errors and resets by chance, trouble with
//! TLS and with credentials. **Actions** ([`Action`]) happen to the connections that are open then:
//! once, or repeatedly ([`Repeat`]). A new [`Faults`] replaces all conditions, so the last order is
//! always in force. Everything here is pure: a worker asks its [`Plan`] with the time and a random
//! number. A new kind of fault is a field, its query, and the place that asks it.
//!
//! Target of a fault: a token, by [`Rule`]s (a seeded hash decides) or by a list of its own
//! ([`super::script`]); a connection, by `connections_ppm` (a seeded hash of its number); a
//! request, by `ppm`. The same fields produce a fault alone or mixed.
//!
//! Orders for the known behaviour of gateways, in the JSON of an order; the same words are valid in
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
//! Not here: names that resolve anew (DNS is not the gateway's).

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

/// All conditions, and actions to take now. The default: an undisturbed gateway that answers at
/// once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Delay from the end of a request to its answer.
    pub latency: Latency,
    /// From bytes of a body to the credit for them (WINDOW_UPDATE, of the connection and of
    /// streams).
    pub credit: Credit,
    /// Limits the rate of answers and delays them.
    pub slow: Option<Slow>,
    /// Withholds all answers of some connections.
    pub silent: Option<Silent>,
    /// Answers by chance; the first that strikes counts.
    pub errors: Vec<Errors>,
    /// Per token, like those of the scripts, and before them.
    pub rules: Vec<Rule>,
    /// Seed of the rules' hash.
    pub seed: u64,
    /// Actions that are carried out once, now.
    pub once: Vec<Action>,
    /// Actions that are repeated.
    pub repeat: Vec<Repeat>,
    /// TLS of connections to come.
    pub handshake: Handshake,
    /// APNs: how old a provider token may be.
    pub provider_token: ProviderToken,
    /// Faults of FCM's token endpoint.
    pub token_endpoint: TokenEndpoint,
}

/// Why faults are not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultsError {
    /// A reason that a gateway of this platform never gives.
    #[error("reason {}: belongs to another platform", .0.as_str())]
    ForeignReason(Reason),
    /// A setting that HTTP/2 does not allow, or the emulator does not play.
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
    /// Checks what a gateway of a platform cannot do.
    ///
    /// # Errors
    /// The first such thing.
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

/// A lognormal delay, given by two of its quantiles; equal (or no p99): constant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// Median of the delay, microseconds.
    pub p50_us: u64,
    /// 99th percentile of the delay, microseconds.
    pub p99_us: u64,
}

/// A gateway that is `factor` times slower: each answer takes `factor` times the latency, and all
/// connections together get no more than `normal_per_second / factor` answers a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// Factor by which answers slow down.
    pub factor: u32,
    /// The capacity that counts as normal.
    #[serde(default = "normal_per_second")]
    pub normal_per_second: u32,
    /// Duration, milliseconds; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
}

fn normal_per_second() -> u32 {
    100_000
}

/// Credits that come late, as from afar: so long after the bytes that they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credit {
    /// Delay of credit, microseconds.
    pub delay_us: u64,
    /// Duration, milliseconds; 0: until replaced.
    pub duration_ms: u64,
}

/// A gateway that does not answer.
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

/// Kinds of silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Silence {
    /// Sockets are neither read nor written: TCP pushes back.
    StopReading,
    /// Requests are read and accepted; their answers are written when the silence ends.
    HoldAnswers,
    /// Requests are read and accepted; they are never answered.
    DropAnswers,
}

/// Errors for valid requests, by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// An answer, a reset, or nothing at all. Default: an answer.
    #[serde(default)]
    pub fate: Fate,
    /// The provider's reason, such as `ServiceUnavailable` or `UNAVAILABLE`; absent: acceptance.
    #[serde(default = "acceptance")]
    pub reason: Reason,
    /// Another status than the reason's; `PAGE` and cut answers come with any.
    #[serde(default)]
    pub status: Option<u16>,
    /// Parts per million of the requests.
    pub ppm: u32,
    /// The most that are struck, over all connections: since the faults were set, or in each period
    /// of `every_ms`. Absent: no limit.
    #[serde(default)]
    pub times: Option<u32>,
    /// Parts per million of the connections on which it may strike; absent: all.
    #[serde(default = "all")]
    pub connections_ppm: u32,
    /// The push reaches the phone in spite of the answer, or without one.
    #[serde(default)]
    pub delivered: bool,
    /// Value of the `Retry-After` header; FCM only.
    #[serde(default)]
    pub retry_after: Option<RetryAfter>,
    /// Duration, milliseconds; 0: until replaced.
    #[serde(default)]
    pub duration_ms: u64,
    /// Interval of bursts, milliseconds, each of `duration_ms`; 0: a single one.
    #[serde(default)]
    pub every_ms: u64,
}

fn acceptance() -> Reason {
    Reason::None
}

/// Trouble before HTTP/2 begins, of connections accepted while it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handshake {
    /// Time for which the server waits before the handshake continues, milliseconds.
    pub delay_ms: u64,
    /// The server's certificate ended years ago.
    pub expired_certificate: bool,
    /// TCP is reset as soon as it is accepted.
    pub reset: bool,
    /// Parts per million of the connections that it befalls; absent: all.
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

/// APNs: provider tokens are refused as `ExpiredProviderToken` sooner than after an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderToken {
    /// Oldest that is taken, seconds.
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
