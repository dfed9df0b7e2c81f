//! Startup, shutdown, listeners, logs and health: what every binary of Clarion shares.
//!
//! The modules stand on floors, the highest first. A module imports from its own floor and from
//! floors below it, never from above; a test in `structure` holds it to that:
//!
//! ```text
//! descriptors health probe    file descriptors of each port; the health service and its client
//! channel listener telemetry  connections to a port; the bounded listener of every port; traces
//! world                       the only source of time, chance, identity and connections
//! drain jwt lines offload     what stands alone
//! proxy                       HTTP proxies: address, rules, tunnels
//! peers repeated roots        what stands alone, too
//! ```

pub mod channel;
pub mod descriptors;
pub mod drain;
pub mod health;
pub mod jwt;
pub mod lines;
pub mod listener;
pub mod offload;
pub mod peers;
pub mod probe;
pub mod proxy;
pub mod repeated;
pub mod roots;
pub mod telemetry;
pub mod world;
