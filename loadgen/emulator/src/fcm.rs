//! The emulated FCM: access tokens, the message as JSON, error codes, quotas, and its limits for a
//! connection.
//!
//! [`request`] reads headers and path, [`access`] checks the access token that the OAuth endpoint
//! issued, [`message`] reads the body (which [`json`] parses and [`schema`] checks), [`quota`]
//! counts the messages per minute, [`judge`] finds the fault of a request, and [`answer`] writes
//! the response. No module does I/O.
//!
//! Not here: topics and conditions (refused with a message), the batch endpoint that Google has
//! switched off, gRPC.

use std::sync::Arc;

use clarion_proto::ids::UnixMillis;
use parking_lot::Mutex;

pub mod access;
pub mod answer;
pub mod judge;
pub mod json;
pub mod message;
pub mod quota;
pub mod request;
pub mod schema;

use std::time::Duration;

use self::{access::Issuer, quota::Window};

/// Google's GOAWAY text for a client with too many streams, with PROTOCOL_ERROR
/// (firebase/firebase-admin-node#2943).
pub const TOO_MANY_STREAMS: &[u8] = b"exceeded_max_concurrent_streams";
/// Google's GOAWAY text for a client with too many keepalive pings, with ENHANCE_YOUR_CALM
/// (codedge-llc/pigeon#92).
pub const TOO_MANY_PINGS: &[u8] = b"too_many_pings";
/// Google's GOAWAY text for an idle client, with NO_ERROR (codedge-llc/pigeon#81).
pub const SESSION_TIMED_OUT: &[u8] = b"session_timed_out";
/// MAX_CONCURRENT_STREAMS of every connection, from the first SETTINGS on.
pub const STREAMS_MAX: u32 = 100;
/// Number of PINGs between two frames of requests that FCM still answers.
pub const PINGS_MAX: u32 = 2;

/// Policy of one emulated FCM; constant while the gateway runs, except for the counts of quotas.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Projects that exist for the gateway.
    pub projects: Vec<Project>,
    /// Service accounts that may ask for access tokens.
    pub accounts: Vec<Account>,
    /// Identities of other providers that the token exchange accepts.
    pub identities: Vec<Identity>,
    /// Service account of the machine, as an index into [`Policy::accounts`]; `None`: the machine
    /// has none.
    pub machine_account: Option<usize>,
    /// Issuer that makes and checks access tokens.
    pub issuer: Issuer,
    /// Accepted difference between clocks, seconds.
    pub clock_skew_seconds: u64,
    /// Lifetime of an access token.
    pub access_token: Duration,
    /// Idle time after which a connection is closed; `None`: never.
    pub session_idle: Option<Duration>,
}

/// A Firebase project and its quota.
#[derive(Debug, Clone)]
pub struct Project {
    /// Id of the project, as in the request's path.
    pub id: String,
    /// Counts of the quota, which all connections share.
    pub quota: Arc<Mutex<Window>>,
}

/// A service account and its public key.
#[derive(Debug, Clone)]
pub struct Account {
    /// Claim `iss` of its assertions.
    pub client_email: String,
    /// Header `kid` of its assertions; `None`: `kid` is not checked.
    pub private_key_id: Option<String>,
    /// Public key of the account, as an RSAPublicKey in DER (RFC 8017, appendix A.1.1).
    pub public_key: Vec<u8>,
    /// Projects to which the account may send, as indices into [`Policy::projects`].
    pub projects: Vec<usize>,
}

/// An identity of another provider, and the service account that it may impersonate.
#[derive(Clone)]
pub struct Identity {
    /// Name of the workload identity provider.
    pub audience: String,
    /// Type of the subject token, a URN.
    pub subject_token_type: String,
    /// Subject token that proves the identity.
    pub subject_token: String,
    /// Time from which the subject token is refused, milliseconds since 1970; `None`: never.
    pub expires: Option<UnixMillis>,
    /// Service account that the identity may impersonate, as an index into [`Policy::accounts`].
    pub account: usize,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("audience", &self.audience).finish_non_exhaustive()
    }
}

impl Policy {
    /// Returns the index of the project with this id.
    #[must_use]
    pub fn project(&self, id: &[u8]) -> Option<usize> {
        self.projects.iter().position(|p| p.id.as_bytes() == id)
    }
}
