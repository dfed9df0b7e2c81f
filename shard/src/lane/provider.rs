//! What requests to a provider and its answers look like, one file a provider. Pure, and nothing of
//! HTTP/2.

pub mod answer;
pub mod apns;
pub mod authorization;
pub mod fcm;
pub mod field;
pub mod request;
