//! Seeded fixtures for the benches. Each bench stands in `benches/`, named after the step that it
//! measures.

pub mod case;
pub mod city;
pub mod cpu;
pub mod devices;
