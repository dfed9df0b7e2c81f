//! Conversations with both sides written out; properties under arbitrary input; an independent
//! server.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]

mod support;

mod closing;
mod conversation;
mod errors;
mod fcm;
mod floods;
mod oracle;
mod property;
mod recorded;
mod windows;
