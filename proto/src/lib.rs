//! Contract and domain types of Clarion.
//!
//! [`wire`] holds the types that are generated from the .proto files. The other modules hold domain
//! types: a domain type is checked once when a message arrives and is valid afterwards. The domain
//! does not depend on gRPC. A check returns [`error::InvalidField`], which a server converts to a
//! `Status`.
//!
//! The modules are on floors, the highest first. A module imports from its own floor and from
//! floors below it, never from above; a test in `structure` enforces this:
//!
//! ```text
//! alert                              an alert as submitted
//! message options                    texts and links, and how gateways show them
//! locale                             languages, and who reads which text
//! app audience device region         whom it addresses, and where
//! datum filing ids text              coordinates, names, numbers, labels, rules of texts
//! error latency limits outcome time  words that all share
//! secret                             messages whose content is never shown
//! ```

pub mod alert;
pub mod app;
pub mod audience;
pub mod datum;
pub mod device;
pub mod error;
pub mod filing;
pub mod ids;
pub mod latency;
pub mod limits;
pub mod locale;
pub mod message;
pub mod options;
pub mod outcome;
pub mod region;
mod secret;
mod text;
pub mod time;

/// Types and services generated from the .proto files, which document them.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::disallowed_types)]
pub mod wire {
    /// Package `clarion.v1`: the client API, which stays compatible.
    pub mod v1 {
        tonic::include_proto!("clarion.v1");
    }
    /// Package `clarion.shard.v1`: between coordinators and nodes, which are released together.
    pub mod shard_v1 {
        tonic::include_proto!("clarion.shard.v1");
    }
    /// Package `clarion.store.v1`: records of the store, which later versions read.
    pub mod store {
        /// Version 1 of the records.
        pub mod v1 {
            tonic::include_proto!("clarion.store.v1");
        }
    }
    /// The name by which the records of the store refer to `clarion.shard.v1`.
    mod shard {
        pub(super) use super::shard_v1 as v1;
    }
    /// Encoded `FileDescriptorSet` of all packages, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/clarion.bin"));
}
