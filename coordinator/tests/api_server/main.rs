//! The API through a real server: a tonic client over loopback, the engine in memory, and nodes that are scripted at the
//! seam of dispatch. One program for all files, because linking takes longer than running.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]

mod age;
mod alerts;
mod apps;
mod callers;
mod cancel;
mod durable;
mod feed;
mod hostile;
mod identities;
mod modes;
mod privacy;
mod process;
mod refusals;
mod regions;
mod registrations;
mod registry;
mod snapshots;
mod support;
mod transport;
mod watch;
