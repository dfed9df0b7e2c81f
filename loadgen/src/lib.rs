//! Load generator and verdict: seeded populations, scenarios, clusters to run them on, and the
//! check of every device.
//!
//! The crate `clarion_emulator` emulates the gateways.
//!
//! The modules are on floors, the highest first. A module imports from its own floor and from
//! floors below it, never from above; a test in `structure` enforces this:
//!
//! ```text
//! cli                    the command line
//! run show               the course of a run, and what a person sees of it meanwhile
//! cluster drive picture  the processes of a run; its callers; the page of its report
//! report                 the figures of a run
//! verdict                the judgement of every device, by what the gateways recorded
//! scenario               what is played and what has to hold
//! population keys        devices and credentials
//! place names numbers    words that all share
//! ```

// The command line, the course of a run, and its progress display.
pub mod cli;
pub mod run;
pub mod show;

// The cluster that a run starts, and the caller who drives it.
pub mod cluster;
pub mod drive;

// Results of a run, as a page and as figures.
pub mod picture;
pub mod report;

// The judgement of every device, from the gateways' records.
pub mod verdict;

// Parts of a run.
pub mod scenario;
pub mod population;
pub mod keys;

// Vocabulary of all modules.
pub mod place;
pub mod names;
pub mod numbers;
