//! Seeded fixtures of the benches: the same input on every machine.

pub mod devices;
