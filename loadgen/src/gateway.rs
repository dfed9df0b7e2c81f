//! gateway
pub mod answer;
pub mod auth;
pub mod clock;
pub mod connection;
pub mod faults;
pub mod frame;
pub mod head;
pub mod hpack;
pub mod policy;
pub mod record;
pub mod script;
