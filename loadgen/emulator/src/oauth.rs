//! Google's endpoints that issue access tokens.
//!
//! | Request | Issues a token for | Module |
//! |---|---|---|
//! | `POST /token` | the signed assertion of a service account | [`assertion`] |
//! | `POST /v1/token` | the subject token of another provider (RFC 8693) | [`federation`] |
//! | `POST /v1/…:generateAccessToken` | a token of that exchange | [`federation`] |
//! | `GET /computeMetadata/v1/…/token`, in plaintext | every client | [`metadata`] |
//!
//! One request per hour needs no hand-written HTTP. The server is hyper on a thread of its own, so
//! it neither slows the push service nor suffers from its faults. The modules of the table decide
//! without I/O, and [`server`] does the rest.

pub mod assertion;
pub mod federation;
mod form;
pub mod metadata;
pub mod server;

use std::sync::Arc;

use parking_lot::Mutex;

use super::{faults::Plan, fcm::Policy};

/// Configuration and state of the endpoint.
pub struct Endpoint {
    /// Policy with the service accounts and the issuer of access tokens.
    pub policy: Policy,
    /// URI of the endpoint, which assertions name as their audience.
    pub token_uri: String,
    /// Faults in force at present.
    pub plan: Mutex<Arc<Plan>>,
}
