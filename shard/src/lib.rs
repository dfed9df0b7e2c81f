//! A shard node: holds devices in memory, walks them nearest first and sends the pushes.
//!
//! The modules stand on floors, the highest first. A module imports from its own floor and from
//! floors below it, never from above; a test in `structure` holds it to that:
//!
//! ```text
//! program config node       boot; the task that owns the control plane
//! service feed snapshots driver   streams, sockets, TLS, timers: shells around state machines
//! control                   the node's machine towards coordinators
//! core                      one thread's machine: lanes pull from waves
//! command                   what control says to a core and a core to control
//! lane                      a core's end of a lane; HTTP/2 from templates
//! outcome wave partition    what answers mean; the walk; the devices
//! ```

mod program;
pub mod config;
pub mod node;

pub mod service;
pub mod feed;
mod snapshots;
pub mod driver;

pub mod control;

pub mod core;

pub mod command;

pub mod lane;

pub mod outcome;
pub mod wave;
pub mod partition;

/// What hostile peers say.
#[cfg(test)]
#[path = "../tests/floods/mod.rs"]
mod floods;

pub use program::main;
