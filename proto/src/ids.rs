//! Identifiers: names, numbers and random ids. Each has its own type, so that an ordinal cannot be
//! used as a partition number.

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
    /// Number of a partition: a fixed hash bucket of devices, which one node owns.
    PartitionId(u16)
}
number! {
    /// Number of a device in its partition, stable while the device exists.
    Ordinal(u32)
}
number! {
    /// Number of a log. The log of a partition is the partition's number modulo the number of logs.
    LogId(u16)
}
number! {
    /// Position in a log, counted from 1 without gaps. 0: before the first batch.
    Position(u64)
}
number! {
    /// Id of a wave: one pass of one alert over a region.
    WaveId(u64)
}
number! {
    /// Number that grows with every change of the coordinator that directs an alert. A node obeys
    /// the highest epoch it has seen.
    Epoch(u64)
}
number! {
    /// Id of a lane in the cluster: one credential on one gateway.
    LaneId(u32)
}
number! {
    /// Milliseconds since 1970-01-01 UTC, without leap seconds.
    UnixMillis(u64)
}

/// Maximum number of partitions of a cluster: a ticket holds the ordinal, the partition and the
/// wave's slot in 64 bits.
pub const PARTITIONS_MAX: u16 = 4_096;

/// Returns the partition of a device: the hash of its id modulo the number of partitions.
///
/// The function must never change: nodes and logs depend on it.
///
/// # Panics
/// `count` is 0.
#[must_use]
pub fn partition_of(device: DeviceId, count: u16) -> PartitionId {
    let hash = xxhash_rust::xxh3::xxh3_64(&device.0);
    #[allow(clippy::cast_possible_truncation)] // below `count`, which is a u16
    PartitionId((hash % u64::from(count)) as u16)
}

/// Returns the log of a partition.
///
/// # Panics
/// `logs` is 0.
#[must_use]
pub fn log_of(partition: PartitionId, logs: u16) -> LogId {
    LogId(partition.0 % logs)
}

/// Id of a device, which is one installation of an app: a UUID, or a keyed hash of the caller's
/// string or of app and token.
///
/// The top three bits of byte 8, which are the variant of a UUID, tell the two kinds of ids apart:
/// they are 111 in every id that is made of app and token, and in no other id. RFC 9562 (section
/// 4.1) reserves this variant, so only a made-up UUID has it; the registry hashes such a UUID. So
/// no string that a caller sends as a device can name a device of an app with `IDENTITY_TOKEN`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 16]);

/// Byte of a device id that holds the variant of a UUID.
const VARIANT_BYTE: usize = 8;
/// Variant bits of an id that is made of app and token.
const VARIANT_OF_TOKEN: u8 = 0b1110_0000;

impl DeviceId {
    /// Makes an id of a digest of the caller's string.
    #[must_use]
    pub fn of_name(mut digest: [u8; 16]) -> Self {
        if Self(digest).is_of_token() {
            digest[VARIANT_BYTE] &= 0b0111_1111;
        }
        Self(digest)
    }

    /// Makes an id of a digest of app and token.
    #[must_use]
    pub fn of_token(mut digest: [u8; 16]) -> Self {
        digest[VARIANT_BYTE] |= VARIANT_OF_TOKEN;
        Self(digest)
    }

    /// Returns whether the id has the form of an id that is made of app and token.
    #[must_use]
    pub fn is_of_token(self) -> bool {
        self.0[VARIANT_BYTE] & VARIANT_OF_TOKEN == VARIANT_OF_TOKEN
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Two bytes are enough to compare ids in a test, but do not identify a person's device.
        write!(f, "DeviceId({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// Random id of a node process, drawn at its startup. A new id means that the state of the former
/// process is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub [u8; 16]);

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Reads the 16 bytes of a message.
            ///
            /// # Errors
            /// The length is not 16. The error has an empty field; the caller adds the path.
            pub fn from_wire(bytes: &[u8]) -> Result<Self, InvalidField> {
                bytes.try_into().map(Self).map_err(|_| {
                    let problem = format_args!("must have 16 bytes; got {}", bytes.len());
                    InvalidField::new("", problem)
                })
            }

            /// Returns the 16 bytes for a message.
            #[must_use]
            pub fn to_wire(self) -> Vec<u8> {
                self.0.to_vec()
            }
        }

        /// Writes the first four bytes in hexadecimal, enough to distinguish ids in log lines.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

identity! {
    /// Random identity of a log, drawn when the log begins. Positions and ownership numbers are
    /// comparable within one log only.
    LogIdentity
}
identity! {
    /// Random id of a coordinator process, drawn at its startup.
    CoordinatorId
}

/// Configured name of a cluster. Coordinators and nodes of different clusters refuse each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// Default name, for coordinators and nodes.
    pub const DEFAULT: &str = "clarion";

    /// Creates a name of 1 to 63 characters of a-z, 0-9 and '-', beginning with a letter.
    ///
    /// # Errors
    /// The name is invalid. The error has an empty field; the caller adds the path.
    pub fn new(name: &str) -> Result<Self, InvalidField> {
        check_id(name).map_err(|problem| InvalidField::new("", problem))?;
        Ok(Self(name.into()))
    }

    /// Returns the name.
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
            /// Creates a name from its last part: 1 to 63 characters of a-z, 0-9 and '-', beginning
            /// with a letter.
            ///
            /// # Errors
            /// The id is invalid. The error has an empty field; the caller adds the path.
            pub fn from_id(id: &str) -> Result<Self, InvalidField> {
                check_id(id).map_err(|problem| InvalidField::new("", problem))?;
                Ok(Self(id.into()))
            }

            /// Creates a name from its full form, collection included.
            ///
            /// # Errors
            /// The name is invalid. The error has an empty field; the caller adds the path.
            pub fn from_name(name: &str) -> Result<Self, InvalidField> {
                let id = name.strip_prefix(concat!($collection, "/")).ok_or_else(|| {
                    InvalidField::new("", concat!("must begin with `", $collection, "/`"))
                })?;
                Self::from_id(id)
            }

            /// Returns the last part, such as `demo`.
            #[must_use]
            pub fn id(&self) -> &str {
                &self.0
            }

            /// Returns the full name, collection included.
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
    /// Resource name of an app, `apps/{app}`.
    AppName, "apps"
}
name! {
    /// Resource name of an alert, `alerts/{alert}`.
    AlertName, "alerts"
}

fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > 63 {
        return Err(format!("must have 1 to 63 characters; got {}", id.len()));
    }
    if let Some(first) = id.chars().next().filter(|c| !c.is_ascii_lowercase()) {
        return Err(format!("must begin with a letter a-z; got {first:?}"));
    }
    match id.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        Some(c) => Err(format!("must contain only a-z, 0-9 and '-'; got {c:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_names_and_of_tokens_have_different_forms() {
        for byte in 0..=u8::MAX {
            let mut digest = [0xff; 16];
            digest[VARIANT_BYTE] = byte;
            let (name, token) = (DeviceId::of_name(digest), DeviceId::of_token(digest));
            assert!(token.is_of_token() && !name.is_of_token(), "{byte:#x}");
            assert_eq!(token.0[VARIANT_BYTE] & 0x1f, byte & 0x1f);
            if byte < VARIANT_OF_TOKEN {
                assert_eq!(name.0, digest, "all other digests stay as they are");
            }
        }
    }
}
