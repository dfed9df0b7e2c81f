//! Devices, and the checked records of their changes in the log.

use std::fmt;

use bytes::Bytes;
use h3o::{CellIndex, Resolution};

use crate::{
    error::{InvalidField, required},
    ids::{AppName, DeviceId, UnixMillis},
    wire::shard_v1 as wire,
};

/// Maximum length of a token, bytes. APNs announced up to 100 bytes, and FCM tokens have some 163
/// characters.
pub const TOKEN_BYTES_MAX: usize = 512;
/// Maximum length of a locale, bytes: 35 characters hold any tag in use (RFC 5646, section 4.4.1).
pub const LOCALE_BYTES_MAX: usize = 35;
/// Maximum number of segments of one device.
pub const SEGMENTS_MAX: usize = 16;

/// Token of a device at its provider. Personal data: `Debug` prints the length only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(Bytes);

impl Token {
    /// Creates a token of 1 to [`TOKEN_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// The token is empty or too long.
    pub fn new(bytes: Bytes) -> Result<Self, InvalidField> {
        match bytes.len() {
            0 => Err(InvalidField::new("token", "is required")),
            n if n > TOKEN_BYTES_MAX => Err(InvalidField::new(
                "token",
                format_args!("must be at most {TOKEN_BYTES_MAX} bytes; got {n} bytes"),
            )),
            _ => Ok(Self(bytes)),
        }
    }

    /// Returns the bytes of the token.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the xxh3-64 hash of the token, which identifies it in feedback without revealing it.
    #[must_use]
    pub fn hash(&self) -> u64 {
        token_hash(&self.0)
    }
}

/// Checks an FCM token: 1 to [`TOKEN_BYTES_MAX`] printable ASCII characters without space,
/// quotation mark and backslash.
///
/// The token is written into a JSON string without escapes. Google calls tokens opaque; known
/// tokens contain only letters, digits, `-`, `_` and `:`.
///
/// # Errors
/// The token is empty, too long or has other characters. The error never contains the token.
pub fn check_fcm_token(token: &[u8]) -> Result<(), InvalidField> {
    if !(1..=TOKEN_BYTES_MAX).contains(&token.len()) {
        let problem = format!("must have 1 to {TOKEN_BYTES_MAX} characters; got {}", token.len());
        return Err(InvalidField::new("token", problem));
    }
    if !token.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')) {
        let problem =
            "must contain only printable ASCII without space, quotation mark and backslash";
        return Err(InvalidField::new("token", problem));
    }
    Ok(())
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

/// Returns the xxh3-64 hash of a token's bytes, which identifies it in feedback.
#[must_use]
pub fn token_hash(token: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(token)
}

/// Place of a device as an H3 cell of resolution 9, about 200 m. Clarion stores no other form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(u64);

impl Cell {
    /// Creates a cell from an H3 index.
    ///
    /// # Errors
    /// The index is not a cell of resolution 9. The error never contains the index, which is a
    /// place.
    pub fn new(index: u64) -> Result<Self, InvalidField> {
        let cell = CellIndex::try_from(index)
            .map_err(|_| InvalidField::new("cell", "must be an H3 cell index"))?;
        match cell.resolution() {
            Resolution::Nine => Ok(Self(index)),
            other => {
                Err(InvalidField::new("cell", format_args!("must have resolution 9; got {other}")))
            }
        }
    }

    /// Creates a cell from an index that came from a cell, without the check of [`Self::new`].
    ///
    /// A registry rebuilds the index of each device of a wave; the check would cost as much as
    /// writing the push.
    #[must_use]
    pub fn again(index: u64) -> Self {
        debug_assert!(Self::new(index).is_ok(), "the index is not a cell of resolution 9");
        Self(index)
    }

    /// Returns the 64-bit index. In the order of indexes, the descendants of a coarser cell are
    /// adjacent.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0
    }

    /// Converts the cell to h3o's type.
    #[must_use]
    pub fn to_h3(self) -> CellIndex {
        CellIndex::try_from(self.0).expect("the index was checked")
    }
}

impl From<CellIndex> for Cell {
    /// Converts a cell of resolution 9; a finer cell becomes its parent of resolution 9.
    ///
    /// # Panics
    /// The cell is coarser than resolution 9.
    fn from(cell: CellIndex) -> Self {
        Self(cell.parent(Resolution::Nine).expect("resolution 9 or finer").into())
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cell(..)")
    }
}

/// How a push reaches a device, and which audiences the device belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// App that the device runs.
    pub app: AppName,
    /// Token of the device at its provider.
    pub token: Token,
    /// BCP 47 tag in lower case. Empty: unknown.
    pub locale: String,
    /// Segments of the device, sorted, without repeats.
    pub segments: Vec<String>,
    /// Identifier of the device's owner, reserved for people with several devices. Empty: none.
    pub person: String,
}

/// Change of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Replaces the registration and keeps the place.
    Registration(Registration),
    /// Replaces the place and keeps the registration.
    Place(Cell),
    /// Replaces registration and place.
    Arrival(Registration, Cell),
    /// Deletes registration and place. A tombstone rejects earlier observations that arrive later.
    Removal,
    /// Switches alerts off (true) or on (false).
    Mute(bool),
    /// Removes the registration with a token that a gateway called dead.
    Feedback {
        /// Hash of the dead token; see [`token_hash`].
        token_hash: u64,
        /// Time at which the gateway last knew the token to be dead. A registration observed later
        /// stays. `None`: the gateway gave no time.
        gateway_time: Option<UnixMillis>,
    },
    /// Expires the registrations of an app, in the whole partition of the record's device, whose
    /// place and registration were both observed before the record's time.
    Expiry(AppName),
}

/// Change of one device as it is recorded in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Device that changes; for [`Change::Expiry`] an id that only names the partition.
    pub device: DeviceId,
    /// Time of the observation on the phone's clock: the version of the changed part. For
    /// [`Change::Expiry`] the limit.
    pub observed: UnixMillis,
    /// Change of the device.
    pub change: Change,
}

impl Record {
    /// Checks a record of the feed.
    ///
    /// # Errors
    /// The first invalid field. An invalid record means a defect of the sender, not of a caller.
    pub fn from_wire(record: wire::Record) -> Result<Self, InvalidField> {
        let device = DeviceId(record.device.as_slice().try_into().map_err(|_| {
            InvalidField::new(
                "device",
                format_args!("must have 16 bytes; got {}", record.device.len()),
            )
        })?);
        use wire::record::Change as Wire;
        let change = match required(record.change, "change")? {
            Wire::Registration(r) => Change::Registration(registration(r)?),
            Wire::Cell(c) => Change::Place(Cell::new(c)?),
            Wire::Arrival(a) => Change::Arrival(
                registration(required(a.registration, "registration")?)?,
                Cell::new(a.cell)?,
            ),
            Wire::Removal(_) => Change::Removal,
            Wire::Muted(m) => Change::Mute(m),
            Wire::Feedback(f) => Change::Feedback {
                token_hash: f.token_hash,
                gateway_time: (f.gateway_time_ms != 0).then_some(UnixMillis(f.gateway_time_ms)),
            },
            Wire::Expiry(e) => {
                Change::Expiry(AppName::from_id(&e.app).map_err(|e| e.within("expiry.app"))?)
            }
        };
        Ok(Self { device, observed: UnixMillis(record.observe_time_ms), change })
    }

    /// Converts the record to its message for the log and the feed.
    #[must_use]
    pub fn to_wire(&self) -> wire::Record {
        self.clone().into_wire()
    }

    /// Converts the record to its message without copying its fields.
    #[must_use]
    pub fn into_wire(self) -> wire::Record {
        use wire::record::Change as Wire;
        let change = match self.change {
            Change::Registration(r) => Wire::Registration(r.into_wire()),
            Change::Place(c) => Wire::Cell(c.index()),
            Change::Arrival(r, c) => Wire::Arrival(wire::ArrivalRecord {
                registration: Some(r.into_wire()),
                cell: c.index(),
            }),
            Change::Removal => Wire::Removal(wire::RemovalRecord {}),
            Change::Mute(m) => Wire::Muted(m),
            Change::Feedback { token_hash, gateway_time } => Wire::Feedback(wire::FeedbackRecord {
                token_hash,
                gateway_time_ms: gateway_time.map_or(0, |t| t.0),
            }),
            Change::Expiry(app) => Wire::Expiry(wire::ExpiryRecord { app: app.id().to_owned() }),
        };
        wire::Record {
            device: self.device.0.to_vec(),
            observe_time_ms: self.observed.0,
            change: Some(change),
        }
    }
}

impl Registration {
    fn into_wire(self) -> wire::RegistrationRecord {
        wire::RegistrationRecord {
            app: self.app.id().to_owned(),
            token: self.token.0,
            locale: self.locale,
            segments: self.segments,
            person: self.person,
        }
    }
}

fn registration(r: wire::RegistrationRecord) -> Result<Registration, InvalidField> {
    Ok(Registration {
        app: AppName::from_id(&r.app).map_err(|e| e.within("app"))?,
        token: Token::new(r.token)?,
        locale: r.locale,
        segments: r.segments,
        person: r.person,
    })
}
