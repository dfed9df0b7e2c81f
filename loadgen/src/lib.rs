//! Load generator and verdict: seeded populations, scenarios, clusters to run them on, and the
//! check of every device.
//!
//! The crate `clarion_emulator` emulates the gateways.
//!
//! The modules form layers, the highest first: a module imports from its own folder and from lower
//! layers, and within a layer never in both directions.

// The command line, the course of a run, and what a person sees of it meanwhile.
pub mod cli;
pub mod run;
pub mod show;

// The cluster that a run starts, and the caller who drives it.
pub mod cluster;
pub mod drive;

// What came of a run, as a page and as figures.
pub mod picture;
pub mod report;

// The judgement of every device, by what the gateways recorded.
pub mod verdict;

// What a run is made of.
pub mod scenario;
pub mod population;
pub mod keys;

// Words that everybody shares.
pub mod place;
pub mod names;
pub mod numbers;
