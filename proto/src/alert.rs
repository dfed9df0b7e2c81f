//! Alert of a caller, checked once when the request arrives.
//!
//! Two checks are separate because they need more than the message. [`AlertSpec::check_time`] needs
//! a clock, and must not refuse a retry of the same request an hour later. The coordinator checks
//! whether the apps exist and whether their lanes allow the mode.

use std::sync::{Arc, atomic::AtomicBool};

use crate::{
    app::enum_value,
    audience::Audience,
    datum::Datum,
    error::{InvalidField, required},
    filing::{check_external_id, check_labels},
    ids::{AlertName, UnixMillis},
    message::Case,
    options::{InterruptionLevel, PushOptions},
    region::{LatLng, Region},
    wire::v1 as wire,
};

/// Maximum length of a collapse key, bytes: APNs refuses a longer `apns-collapse-id`.
pub const COLLAPSE_KEY_BYTES_MAX: usize = 64;
/// Maximum active time, milliseconds: 30 days, as long as APNs keeps a notification.
pub const ACTIVE_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;

/// Urgency of an alert: decides how a phone interrupts its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The phone shows the notification without sound.
    Information,
    /// The phone shows the notification at once.
    Urgent,
    /// The notification breaks through silent modes if the app has the provider's permission.
    Critical,
}

impl Severity {
    /// How a phone of Apple interrupts its owner, unless the caller chooses another level.
    #[must_use]
    pub fn apns_interruption_level(self) -> InterruptionLevel {
        match self {
            Self::Information => InterruptionLevel::Passive,
            Self::Urgent => InterruptionLevel::TimeSensitive,
            Self::Critical => InterruptionLevel::Critical,
        }
    }

    /// Value of `apns-priority`: APNs delivers 10 at once, 5 when the phone's power allows.
    #[must_use]
    pub fn apns_priority(self) -> u8 {
        match self {
            Self::Information => 5,
            Self::Urgent | Self::Critical => 10,
        }
    }
}

/// Kind of alert: decides which lanes an alert may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// A real alert for real people.
    Live,
    /// Exercise: reaches only the segment `exercise`, and its title says so.
    Exercise,
    /// Test: never opens a connection to a live lane.
    Test,
}

/// Checked content of a CreateAlert or PreviewAlert request.
#[derive(Debug, Clone)]
pub struct AlertSpec {
    /// Texts, photograph and link.
    pub case: Case,
    /// Urgency of the alert, as devices show it.
    pub severity: Severity,
    /// Region whose devices receive the alert.
    pub region: Region,
    /// Point from which distances are measured. `None`: the middle of the region.
    pub last_seen: Option<LatLng>,
    /// Apps and segments that receive the alert.
    pub audience: Audience,
    /// Time after which nothing is sent.
    pub active_until: UnixMillis,
    /// Kind of alert.
    pub mode: Mode,
    /// Maximum rate of pushes per second over all nodes. 0: no limit.
    pub max_rate_per_second: u32,
    /// Key by which a phone shows only one notification. `None`: the alert's id.
    pub collapse_key: Option<String>,
    /// Options of the pushes, by platform.
    pub options: PushOptions,
}

impl AlertSpec {
    /// Checks every limit of the contract that depends on the message alone. Output fields are
    /// ignored.
    ///
    /// # Errors
    /// The first invalid field, as a path inside the alert such as `case.messages[en].title`.
    pub fn from_wire(alert: wire::Alert) -> Result<Self, InvalidField> {
        Self::from_wire_until(alert, Arc::default())
    }

    /// Checks an alert as [`AlertSpec::from_wire`] does, until `stop` is true: then it ends soon
    /// with an error that says nothing about the alert.
    ///
    /// # Errors
    /// Those of [`AlertSpec::from_wire`].
    pub fn from_wire_until(
        alert: wire::Alert,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, InvalidField> {
        let last_seen = last_seen(&alert);
        let case = Case::from_wire(required(alert.case, "case")?).map_err(|e| e.within("case"))?;
        let severity = severity(alert.severity)?;
        let mode = mode(alert.mode, "mode")?;
        let audience = Audience::from_wire(&required(alert.audience, "audience")?)
            .map_err(|e| e.within("audience"))?;
        let active_until = instant(required(alert.active_until, "active_until")?, "active_until")?;
        let collapse_key = collapse_key(alert.collapse_key)?;
        let options = PushOptions::from_wire(alert.options.unwrap_or_default())
            .map_err(|e| e.within("options"))?;
        check_external_id(&alert.external_id)?;
        check_labels(&alert.labels)?;
        let region = Region::from_wire_until(required(alert.region, "region")?, stop)
            .map_err(|e| e.within("region"))?;
        let max_rate_per_second = alert.max_rate_per_second;
        Ok(Self {
            case,
            severity,
            region,
            last_seen: last_seen?,
            audience,
            active_until,
            mode,
            max_rate_per_second,
            collapse_key,
            options,
        })
    }

    /// Checks `active_until` against the current time.
    ///
    /// # Errors
    /// `active_until` is in the past, or more than 30 days in the future.
    pub fn check_time(&self, now: UnixMillis) -> Result<(), InvalidField> {
        if self.active_until <= now {
            let late = now.0 - self.active_until.0;
            return Err(InvalidField::new(
                "active_until",
                format_args!("must be in the future; got a time {late} ms in the past"),
            ));
        }
        let ahead = self.active_until.0 - now.0;
        if ahead > ACTIVE_MS_MAX {
            let problem =
                format!("must be at most 30 days ({ACTIVE_MS_MAX} ms) ahead; got {ahead} ms ahead");
            return Err(InvalidField::new("active_until", problem));
        }
        Ok(())
    }

    /// Key by which a phone shows only one notification: the collapse key, else the alert's id.
    #[must_use]
    pub fn collapse_id(&self, name: &AlertName) -> String {
        self.collapse_key.clone().unwrap_or_else(|| name.id().to_owned())
    }
}

/// Point from which the distances of an alert are measured, on WGS-84. `None`: not given.
///
/// # Errors
/// The point or its datum is invalid; the error names the field inside the alert.
pub fn last_seen(alert: &wire::Alert) -> Result<Option<LatLng>, InvalidField> {
    let datum = Datum::from_wire(alert.last_seen_datum, "last_seen_datum")?.unwrap_or_default();
    let read = |point| LatLng::from_wire(point, datum).map_err(|e| e.within("last_seen"));
    alert.last_seen.map(read).transpose()
}

/// Converts a protobuf timestamp to whole milliseconds, rounded down.
///
/// # Errors
/// The time is before 1970 or after 9999, or its nanoseconds are out of range. Protobuf has the
/// same limits, except that it allows times before 1970.
pub fn instant(timestamp: prost_types::Timestamp, field: &str) -> Result<UnixMillis, InvalidField> {
    const SECONDS_MAX: i64 = 253_402_300_799; // 9999-12-31T23:59:59Z
    if !(0..=SECONDS_MAX).contains(&timestamp.seconds)
        || !(0..1_000_000_000).contains(&timestamp.nanos)
    {
        let problem = format!(
            "must be between 1970 and 9999, with nanos of 0 to 999,999,999; got {} s and {} ns",
            timestamp.seconds, timestamp.nanos
        );
        return Err(InvalidField::new(field, problem));
    }
    Ok(UnixMillis(
        timestamp.seconds.unsigned_abs() * 1_000
            + u64::from(timestamp.nanos.unsigned_abs()) / 1_000_000,
    ))
}

/// Converts milliseconds to a protobuf timestamp.
#[must_use]
pub fn timestamp(at: UnixMillis) -> prost_types::Timestamp {
    let seconds = i64::try_from(at.0 / 1_000).expect("u64::MAX / 1000 fits i64");
    let nanos = i32::try_from(at.0 % 1_000 * 1_000_000).expect("below 1e9");
    prost_types::Timestamp { seconds, nanos }
}

fn severity(number: i32) -> Result<Severity, InvalidField> {
    match enum_value(number, "severity")? {
        wire::Severity::Unspecified => Err(InvalidField::new("severity", "is required")),
        wire::Severity::Information => Ok(Severity::Information),
        wire::Severity::Urgent => Ok(Severity::Urgent),
        wire::Severity::Critical => Ok(Severity::Critical),
    }
}

/// Checks a mode.
///
/// # Errors
/// The number is not a mode, or is that of an unspecified mode.
pub fn mode(number: i32, field: &str) -> Result<Mode, InvalidField> {
    match enum_value(number, field)? {
        wire::Mode::Unspecified => Err(InvalidField::new(field, "is required")),
        wire::Mode::Live => Ok(Mode::Live),
        wire::Mode::Exercise => Ok(Mode::Exercise),
        wire::Mode::Test => Ok(Mode::Test),
    }
}

/// Checks a collapse key. It becomes a header value, so it must be visible ASCII.
fn collapse_key(key: String) -> Result<Option<String>, InvalidField> {
    if key.is_empty() {
        return Ok(None);
    }
    if key.len() > COLLAPSE_KEY_BYTES_MAX {
        let problem =
            format!("must be at most {COLLAPSE_KEY_BYTES_MAX} bytes; got {} bytes", key.len());
        return Err(InvalidField::new("collapse_key", problem));
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(InvalidField::new(
            "collapse_key",
            "must contain only visible ASCII characters",
        ));
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests;
