//! The coordinator: admits alerts, covers and plans them, dispatches them to shard nodes, folds what they report.
//!
//! The modules stand in the order of an alert's way.

pub mod clock;
pub mod config;
pub mod api;
pub mod admission;
pub mod alert;
pub mod store;
pub mod cover;
pub mod owners;
pub mod plan;
pub mod dispatch;
pub mod session;
pub mod lane_owner;
pub mod progress;
pub mod feed;
pub mod members;
