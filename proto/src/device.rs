//! A device and what can be said of it: the records of the log, checked.

use std::fmt;

use bytes::Bytes;
use h3o::{CellIndex, Resolution};

use crate::{
    error::{InvalidField, required},
    ids::{AppName, DeviceId, UnixMillis},
    wire::shard_v1 as wire,
};

/// Longest token of any kind, bytes: APNs announced 100, FCM has some 163 characters; this leaves room for both.
pub const TOKEN_BYTES_MAX: usize = 512;
/// Longest locale, bytes: BCP 47 says that 35 characters hold any tag in use (RFC 5646, section 4.4.1).
pub const LOCALE_BYTES_MAX: usize = 35;
/// Segments of one device.
pub const SEGMENTS_MAX: usize = 16;

/// A provider's token. Personal data: it is never printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(Bytes);

impl Token {
    /// Checks the length, 1 to [`TOKEN_BYTES_MAX`].
    ///
    /// # Errors
    /// Names the limit and the length.
    pub fn new(bytes: Bytes) -> Result<Self, InvalidField> {
        match bytes.len() {
            0 => Err(InvalidField::new("token", "is required")),
            n if n > TOKEN_BYTES_MAX => Err(InvalidField::new(
                "token",
                format_args!("at most {TOKEN_BYTES_MAX} bytes, has {n}"),
            )),
            _ => Ok(Self(bytes)),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Names the token in feedback without telling it: xxh3-64 of its bytes.
    #[must_use]
    pub fn hash(&self) -> u64 {
        token_hash(&self.0)
    }
}

/// Checks a token of FCM, which is written into a JSON string as it is: 1 to [`TOKEN_BYTES_MAX`] printable ASCII
/// characters without space, quotation mark and backslash. Google calls tokens opaque; all that were seen hold letters,
/// digits, `-`, `_` and `:` only.
///
/// # Errors
/// Names the limit; never shows the token.
pub fn check_fcm_token(token: &[u8]) -> Result<(), InvalidField> {
    if !(1..=TOKEN_BYTES_MAX).contains(&token.len()) {
        let problem = format!("must be 1 to {TOKEN_BYTES_MAX} characters, has {}", token.len());
        return Err(InvalidField::new("token", problem));
    }
    if !token.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')) {
        let problem = "must be printable ASCII without space, quotation mark and backslash";
        return Err(InvalidField::new("token", problem));
    }
    Ok(())
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

/// The name of a token in feedback: xxh3-64 of its bytes.
#[must_use]
pub fn token_hash(token: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(token)
}

/// An H3 cell of resolution 9, about 200 m: the only form in which a place is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(u64);

impl Cell {
    /// Checks that it is a cell of resolution 9.
    ///
    /// # Errors
    /// Says what it is instead; never which one.
    pub fn new(index: u64) -> Result<Self, InvalidField> {
        let cell = CellIndex::try_from(index)
            .map_err(|_| InvalidField::new("cell", "is not an H3 cell index"))?;
        match cell.resolution() {
            Resolution::Nine => Ok(Self(index)),
            other => Err(InvalidField::new(
                "cell",
                format_args!("must be of resolution 9, is of {other}"),
            )),
        }
    }

    /// Of an index that was a cell's before: taken apart and put together again, as a registry does with each device of a wave,
    /// where the check of [`Self::new`] would cost as much as writing the push.
    #[must_use]
    pub fn again(index: u64) -> Self {
        debug_assert!(Self::new(index).is_ok(), "an index that no cell of resolution 9 has");
        Self(index)
    }

    /// The cell's 64-bit index. Sorted by it, all descendants of a coarser cell stand together.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0
    }

    /// As h3o's type.
    #[must_use]
    pub fn to_h3(self) -> CellIndex {
        CellIndex::try_from(self.0).expect("checked when it was made")
    }
}

impl From<CellIndex> for Cell {
    /// The cell itself at resolution 9; a finer one becomes its parent.
    ///
    /// # Panics
    /// If it is coarser than resolution 9.
    fn from(cell: CellIndex) -> Self {
        Self(cell.parent(Resolution::Nine).expect("resolution 9 or finer").into())
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cell(..)")
    }
}

/// How a device is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its app.
    pub app: AppName,
    /// The provider's token.
    pub token: Token,
    /// BCP 47, lower case; empty: unknown.
    pub locale: String,
    /// Sorted, without repeats.
    pub segments: Vec<String>,
    /// Reserved: one person's several devices; empty: none.
    pub person: String,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The registration, whole.
    Registration(Registration),
    /// The place.
    Place(Cell),
    /// Both.
    Arrival(Registration, Cell),
    /// The device is gone; a tombstone keeps late observations out.
    Removal,
    /// A person's choice.
    Mute(bool),
    /// A gateway called the token dead.
    Feedback {
        /// Of the token meant; see [`token_hash`].
        token_hash: u64,
        /// When the gateway last knew it dead; a registration observed later stays.
        gateway_time: Option<UnixMillis>,
    },
}

/// One change of one device, as recorded in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which device.
    pub device: DeviceId,
    /// When the phone saw it: the version of the facets that it changes.
    pub observed: UnixMillis,
    /// What changed.
    pub change: Change,
}

impl Record {
    /// Checks a record that came over the feed.
    ///
    /// # Errors
    /// Names the field; such a record means a defect of the sender, not of a caller.
    pub fn from_wire(record: wire::Record) -> Result<Self, InvalidField> {
        let device = DeviceId(record.device.as_slice().try_into().map_err(|_| {
            InvalidField::new(
                "device",
                format_args!("must be 16 bytes, has {}", record.device.len()),
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
        };
        Ok(Self { device, observed: UnixMillis(record.observe_time_ms), change })
    }

    /// For the log and the feed.
    #[must_use]
    pub fn to_wire(&self) -> wire::Record {
        self.clone().into_wire()
    }

    /// For the log and the feed, without copying what the record owns.
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
