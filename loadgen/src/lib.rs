//!
//! The modules stand in the order of a run.

pub mod cli;
pub mod scenario;
pub mod place;
pub mod population;
pub mod run;
pub mod cluster;
pub mod keys;
pub mod drive;
pub mod verdict;
pub mod report;
pub mod picture;
pub mod show;
pub mod names;
pub mod numbers;
