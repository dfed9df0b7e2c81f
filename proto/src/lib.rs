//! The contract and the domain.
//!
//! `wire` holds what the .proto files generate. Everything at the root is a domain type: it was checked once, on
//! receipt, and cannot be wrong afterwards. The domain knows neither gRPC nor its `Status`; [`error::InvalidField`]
//! names the field at fault and becomes a status at the rim of a server.

pub mod alert;
pub mod app;
pub mod audience;
pub mod device;
pub mod error;
pub mod ids;
pub mod latency;
pub mod limits;
pub mod message;
pub mod outcome;
pub mod region;
pub mod time;

/// Generated from the .proto files; documented there.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::disallowed_types)]
pub mod wire {
    /// `clarion.v1`: the promise to callers.
    pub mod v1 {
        tonic::include_proto!("clarion.v1");
    }
    /// `clarion.shard.v1`: between coordinator and node; both ends ship together.
    pub mod shard_v1 {
        tonic::include_proto!("clarion.shard.v1");
    }
    /// The encoded `FileDescriptorSet` of all of it, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/clarion.bin"));
}
