//! Seeded fixtures for the benchmarks. Each benchmark in `benches/` is named after the step that it
//! measures.

pub mod case;
pub mod city;
pub mod cpu;
pub mod devices;
