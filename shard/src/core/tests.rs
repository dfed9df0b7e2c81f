//! Tests of a core against a scripted gateway in memory: time is a number, no test sleeps, and both
//! sides are counted.

mod gateway;
mod world;

mod age;
mod budget;
mod evidence;
mod faults;
mod fcm;
mod guests;
mod limits;
mod mute;
mod order;
mod owned;
mod sick;
mod stops;
mod storms;
mod tokens;
mod whole;
