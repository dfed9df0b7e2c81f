//! Names and numbers of things. Each is its own type, so that an ordinal is never taken for a partition.

use std::{fmt, sync::Arc};

use crate::error::InvalidField;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A fixed hash bucket of devices: what a node owns, follows and walks.
    PartitionId(u16)
}
number! {
    /// A device's number in its partition, stable for its life.
    Ordinal(u32)
}
number! {
    /// One of the independent logs; a partition's log is its number modulo their count.
    LogId(u16)
}
number! {
    /// A place in a log, dense from 1; 0 is before its beginning.
    Position(u64)
}
number! {
    /// One pass of one alert over a region.
    WaveId(u64)
}
number! {
    /// Grows with every change of who directs an alert; the highest seen is obeyed.
    Epoch(u64)
}
number! {
    /// One credential on one gateway, in the whole cluster.
    LaneId(u32)
}
number! {
    /// Milliseconds since 1970-01-01 UTC, without leap seconds.
    UnixMillis(u64)
}

/// How many partitions a cluster can have: ordinals and partitions share 64 bits with the wave's slot in a ticket.
pub const PARTITIONS_MAX: u16 = 4_096;

/// The partition of a device: its hash modulo the count, for ever.
///
/// # Panics
/// If `count` is 0.
#[must_use]
pub fn partition_of(device: DeviceId, count: u16) -> PartitionId {
    let hash = xxhash_rust::xxh3::xxh3_64(&device.0);
    #[allow(clippy::cast_possible_truncation)] // below `count`, which is a u16
    PartitionId((hash % u64::from(count)) as u16)
}

/// The log of a partition.
///
/// # Panics
/// If `logs` is 0.
#[must_use]
pub fn log_of(partition: PartitionId, logs: u16) -> LogId {
    LogId(partition.0 % logs)
}

/// One installation of an app: a UUID as given, or a keyed hash of the caller's string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 16]);

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to find it again in a test, not enough to name a person's device.
        write!(f, "DeviceId({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// Drawn at the start of a process: another one means that the memory of the former is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub [u8; 16]);

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// From the 16 bytes of a message.
            ///
            /// # Errors
            /// Another length; without a field name, which the caller knows.
            pub fn from_wire(bytes: &[u8]) -> Result<Self, InvalidField> {
                let problem = || InvalidField::new("", format_args!("must have 16 bytes, has {}", bytes.len()));
                bytes.try_into().map(Self).map_err(|_| problem())
            }

            /// As messages carry it.
            #[must_use]
            pub fn to_wire(self) -> Vec<u8> {
                self.0.to_vec()
            }
        }

        /// The first four bytes in hexadecimal: enough to tell two of them apart in log lines.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

identity! {
    /// Which log: drawn when the log began. Positions and ownership numbers mean something within one log only.
    LogIdentity
}
identity! {
    /// Which process of a coordinator: drawn at its start.
    CoordinatorId
}

/// The configured name of a cluster: coordinators and nodes of different names refuse each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// The name where none is configured; the same for coordinators and nodes.
    pub const DEFAULT: &str = "clarion";

    /// 1 to 63 of a-z, 0-9 and '-', beginning with a letter.
    ///
    /// # Errors
    /// Without a field name; the caller knows where it stood.
    pub fn new(name: &str) -> Result<Self, InvalidField> {
        check_id(name).map_err(|problem| InvalidField::new("", problem))?;
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ClusterName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $collection:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the last part of the name: 1 to 63 of a-z, 0-9 and '-', beginning with a letter.
            ///
            /// # Errors
            /// Without a field name; the caller knows where it stood.
            pub fn from_id(id: &str) -> Result<Self, InvalidField> {
                check_id(id).map_err(|problem| InvalidField::new("", problem))?;
                Ok(Self(id.into()))
            }

            /// Checks the whole name, collection included.
            ///
            /// # Errors
            /// Without a field name; the caller knows where it stood.
            pub fn from_name(name: &str) -> Result<Self, InvalidField> {
                let id = name.strip_prefix(concat!($collection, "/")).ok_or_else(|| {
                    InvalidField::new("", concat!("must begin with `", $collection, "/`"))
                })?;
                Self::from_id(id)
            }

            /// The last part: `demo`.
            #[must_use]
            pub fn id(&self) -> &str {
                &self.0
            }

            /// The whole name.
            #[must_use]
            pub fn name(&self) -> String {
                format!(concat!($collection, "/{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($collection, "/{}"), self.0)
            }
        }
    };
}

name! {
    /// `apps/{app}`.
    AppName, "apps"
}
name! {
    /// `alerts/{alert}`.
    AlertName, "alerts"
}

fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > 63 {
        return Err(format!("must be 1 to 63 characters, has {}", id.len()));
    }
    if !id.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("must begin with a letter a-z".to_owned());
    }
    match id.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        Some(c) => Err(format!("may hold a-z, 0-9 and '-', not {c:?}")),
        None => Ok(()),
    }
}
