//! A core against a scripted gateway in memory: time is a number, nobody sleeps, and both sides are counted.

mod gateway;
mod world;

mod faults;
mod limits;
mod stops;
mod whole;
