//! The format of requests to a provider and of its answers, one file per provider, independent of
//! HTTP/2. No code here does I/O.

pub mod answer;
pub mod apns;
pub mod authorization;
pub mod fcm;
pub mod field;
pub mod request;
