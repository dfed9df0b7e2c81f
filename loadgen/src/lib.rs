//! Load, gateways and judgement: seeded populations, the gateway emulator, scenarios and their verdict.

pub mod place;
pub mod population;
pub mod scenario;
pub mod cluster;
pub mod gateway;
pub mod drive;
pub mod verdict;
pub mod report;
