//! Runs of ordinals in, outcomes out.

pub mod connection;
pub mod apns;
