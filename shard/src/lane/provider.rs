//! The format of requests to a provider and of its answers, one file for each provider. Pure, and
//! independent of HTTP/2.

pub mod answer;
pub mod apns;
pub mod authorization;
pub mod fcm;
pub mod field;
pub mod request;
