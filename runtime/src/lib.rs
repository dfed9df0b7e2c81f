//! Startup, shutdown, listeners, logs and health: what every binary of Clarion shares.

pub mod channel;
pub mod descriptors;
pub mod drain;
pub mod health;
pub mod jwt;
pub mod lines;
pub mod listener;
pub mod peers;
pub mod probe;
pub mod repeated;
pub mod roots;
pub mod telemetry;
