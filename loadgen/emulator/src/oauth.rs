//! Google's OAuth token endpoint for service accounts: `POST /token` returns an access token for a
//! signed assertion (<https://developers.google.com/identity/protocols/oauth2/service-account>).
//!
//! One request per hour needs no hand-written HTTP. The server is hyper on a thread of its own, so
//! it neither slows the push service nor suffers from its faults. [`assertion`] decides without
//! I/O, and [`server`] does the rest.

pub mod assertion;
mod form;
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
