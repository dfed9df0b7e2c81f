//! Load generator and verdict: seeded populations, scenarios, clusters to run them on, and the
//! check of every device.
//!
//! The crate `clarion_emulator` emulates the gateways.
//!
//! The modules stand on floors, the highest first. A module imports from its own floor and from
//! floors below it, never from above; a test in `structure` holds it to that:
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
