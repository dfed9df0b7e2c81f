//! A shard node: holds devices in memory, walks them nearest first, writes the pushes.
//!
//! The modules stand in the order of an alert's way.

mod program;
pub mod config;
pub mod node;
pub mod service;
pub mod control;
pub mod feed;
pub mod partition;
pub mod command;
pub mod wave;
pub mod driver;
pub mod core;
pub mod lane;
pub mod outcome;

/// What hostile peers say.
#[cfg(test)]
#[path = "../tests/floods/mod.rs"]
mod floods;

pub use program::main;
