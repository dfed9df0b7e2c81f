//! Google's OAuth token endpoint, as far as a service account needs it: `POST /token` gives an
//! access token for a signed assertion
//! (<https://developers.google.com/identity/protocols/oauth2/service-account>).
//!
//! A request an hour needs no hand-written HTTP: this is hyper on a thread of its own, so that it
//! neither slows the push service nor is delayed by its faults. [`assertion`] decides, and is pure;
//! [`server`] does the rest.

pub mod assertion;
mod form;
pub mod server;

use std::sync::Arc;

use parking_lot::Mutex;

use super::{faults::Plan, fcm::Policy};

/// What the endpoint knows.
pub struct Endpoint {
    /// The accounts, and who issues access tokens.
    pub policy: Policy,
    /// Its own address, which assertions name as their audience.
    pub token_uri: String,
    /// The faults of the moment.
    pub plan: Mutex<Arc<Plan>>,
}
