//! The API through a real server: a tonic client over loopback, the engine in memory, and nodes that are scripted at the
//! seam of dispatch. One program for all files, because linking takes longer than running.

mod alerts;
mod apps;
mod cancel;
mod feed;
mod process;
mod registry;
mod support;
mod watch;
