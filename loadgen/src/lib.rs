//! Load, gateways and judgement: seeded populations, the gateway emulator, scenarios and their verdict.
//!
//! The modules stand in the order of a run.

pub mod cli;
pub mod scenario;
pub mod place;
pub mod population;
pub mod run;
pub mod cluster;
pub mod gateway;
pub mod drive;
pub mod verdict;
pub mod report;
pub mod picture;
pub mod show;
