//! A cluster in one thread: the real state machines, virtual time, and a seed.
//!
//! Coordinator, nodes with their cores, and an emulated gateway are actors on one [`bus`], which
//! owns time, order and chance. There are no sockets, no tasks, no other threads and no clock, so a
//! run is a function of its seed: a failing one repeats exactly, and its [`trace`] shows each
//! delivery. [`scene`] builds a cluster with its people and one alert; [`verdict`] checks the
//! result.
//!
//! Streams between actors carry values of the contracts (bytes only between lane and gateway), with
//! a delay for each message, in order. A cut of a link breaks its streams, and each end detects
//! this after a while. The clocks of the processes differ by up to an hour.
//!
//! Not simulated: the coordinator's API, admission, store of alerts, feedback of dead tokens and
//! exchanges with token endpoints; a node's readiness and shutdown; TLS, names and addresses; bounds
//! of queues and sockets, so there is no backpressure; crashes of the processes.
//!
//! The modules stand on floors, the highest first. A module imports from its own floor and from
//! floors below it, never from above; a test in `structure` holds it to that:
//!
//! ```text
//! verdict                         the gateway's record against the alert's expected result
//! scene                           a cluster, its people, one alert
//! coordinator node cores gateway  the machines as actors
//! bus log                         time, order, chance; the logs of changes as a model
//! trace                           every delivery of a run
//! actor                           inputs and outputs of an actor
//! message stream link             messages, their streams, and the links between places
//! ```

pub mod verdict;

pub mod scene;

pub mod coordinator;
pub mod node;
pub mod cores;
pub mod gateway;

pub mod bus;
pub mod log;

pub mod trace;

pub mod actor;

pub mod message;
pub mod stream;
pub mod link;
