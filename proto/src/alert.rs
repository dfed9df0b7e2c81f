//! An alert as its caller meant it: checked once, whole.
//!
//! Two checks are apart, because they depend on more than the words: [`AlertSpec::check_time`] needs a clock (and the
//! same request tried again an hour later must give the same answer, not a new refusal), and whether apps exist and lanes
//! allow the mode is the coordinator's to say.

use crate::{
    app::known,
    audience::Audience,
    error::{InvalidField, required},
    ids::{AlertName, UnixMillis},
    message::Case,
    region::{LatLng, Region},
    wire::v1 as wire,
};

/// Longest collapse key, bytes: APNs refuses a longer `apns-collapse-id`.
pub const COLLAPSE_KEY_BYTES_MAX: usize = 64;
/// Longest active time: 30 days, as long as APNs keeps a notification.
pub const ACTIVE_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;

/// How urgent an alert is; decides how a phone interrupts its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Shown without sound.
    Information,
    /// Shown at once.
    Urgent,
    /// Breaks through silence where the app is entitled to it.
    Critical,
}

impl Severity {
    /// `aps.interruption-level` (Apple, "Generating a remote notification").
    #[must_use]
    pub fn apns_interruption_level(self) -> &'static str {
        match self {
            Self::Information => "passive",
            Self::Urgent => "time-sensitive",
            Self::Critical => "critical",
        }
    }

    /// `apns-priority`: 10 is sent at once, 5 when the phone's power allows.
    #[must_use]
    pub fn apns_priority(self) -> u8 {
        match self {
            Self::Information => 5,
            Self::Urgent | Self::Critical => 10,
        }
    }
}

/// What an alert may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Real.
    Live,
    /// Reaches only the segment `exercise`, and says so in its title.
    Exercise,
    /// Never opens a connection to a lane marked live.
    Test,
}

/// What a caller asked for.
#[derive(Debug, Clone)]
pub struct AlertSpec {
    /// What is said.
    pub case: Case,
    /// How urgently.
    pub severity: Severity,
    /// Where.
    pub region: Region,
    /// From where "nearest" is counted; `None`: the region's own middle.
    pub last_seen: Option<LatLng>,
    /// To whom.
    pub audience: Audience,
    /// Nothing is sent later.
    pub active_until: UnixMillis,
    /// What it may do.
    pub mode: Mode,
    /// Over all nodes; 0: no limit.
    pub max_rate_per_second: u32,
    /// One notification per key on a phone; `None`: the alert's name.
    pub collapse_key: Option<String>,
}

impl AlertSpec {
    /// Checks every limit of the contract that needs nothing but the message. Output fields are ignored.
    ///
    /// # Errors
    /// Names the field from the alert inwards: `case.messages[en].title`.
    pub fn from_wire(alert: wire::Alert) -> Result<Self, InvalidField> {
        let case = Case::from_wire(required(alert.case, "case")?).map_err(|e| e.within("case"))?;
        let severity = severity(alert.severity)?;
        let mode = mode(alert.mode)?;
        let audience = Audience::from_wire(&required(alert.audience, "audience")?)
            .map_err(|e| e.within("audience"))?;
        let active_until = instant(required(alert.active_until, "active_until")?, "active_until")?;
        let collapse_key = collapse_key(alert.collapse_key)?;
        let last_seen = alert
            .last_seen
            .map(LatLng::from_wire)
            .transpose()
            .map_err(|e| e.within("last_seen"))?;
        let region =
            Region::from_wire(required(alert.region, "region")?).map_err(|e| e.within("region"))?;
        let max_rate_per_second = alert.max_rate_per_second;
        Ok(Self {
            case,
            severity,
            region,
            last_seen,
            audience,
            active_until,
            mode,
            max_rate_per_second,
            collapse_key,
        })
    }

    /// Checks the active time against the clock.
    ///
    /// # Errors
    /// If it has passed already, or is more than 30 days away.
    pub fn check_time(&self, now: UnixMillis) -> Result<(), InvalidField> {
        if self.active_until <= now {
            let late = now.0 - self.active_until.0;
            return Err(InvalidField::new(
                "active_until",
                format_args!("must be in the future, is {late} ms past"),
            ));
        }
        let ahead = self.active_until.0 - now.0;
        if ahead > ACTIVE_MS_MAX {
            let problem =
                format!("at most 30 days ({ACTIVE_MS_MAX} ms) ahead, is {ahead} ms ahead");
            return Err(InvalidField::new("active_until", problem));
        }
        Ok(())
    }

    /// What one phone keeps one notification for: the key, else the alert's own name.
    #[must_use]
    pub fn collapse_id(&self, name: &AlertName) -> String {
        self.collapse_key.clone().unwrap_or_else(|| name.id().to_owned())
    }
}

/// A timestamp of the wire in whole milliseconds, rounded down.
///
/// # Errors
/// Before 1970, after 9999, or with nanoseconds out of range (protobuf's own limits but for the first).
pub fn instant(timestamp: prost_types::Timestamp, field: &str) -> Result<UnixMillis, InvalidField> {
    const SECONDS_MAX: i64 = 253_402_300_799; // 9999-12-31T23:59:59Z
    if !(0..=SECONDS_MAX).contains(&timestamp.seconds)
        || !(0..1_000_000_000).contains(&timestamp.nanos)
    {
        let problem = format!(
            "must be a time between 1970 and 9999 with nanos of 0 to 999,999,999, is {} s and {} ns",
            timestamp.seconds, timestamp.nanos
        );
        return Err(InvalidField::new(field, problem));
    }
    Ok(UnixMillis(
        timestamp.seconds.unsigned_abs() * 1_000
            + u64::from(timestamp.nanos.unsigned_abs()) / 1_000_000,
    ))
}

/// For an answer.
#[must_use]
pub fn timestamp(at: UnixMillis) -> prost_types::Timestamp {
    let seconds = i64::try_from(at.0 / 1_000).expect("u64::MAX / 1000 fits i64");
    let nanos = i32::try_from(at.0 % 1_000 * 1_000_000).expect("below 1e9");
    prost_types::Timestamp { seconds, nanos }
}

fn severity(number: i32) -> Result<Severity, InvalidField> {
    match known(number, "severity")? {
        wire::Severity::Unspecified => Err(InvalidField::new("severity", "is required")),
        wire::Severity::Information => Ok(Severity::Information),
        wire::Severity::Urgent => Ok(Severity::Urgent),
        wire::Severity::Critical => Ok(Severity::Critical),
    }
}

fn mode(number: i32) -> Result<Mode, InvalidField> {
    match known(number, "mode")? {
        wire::Mode::Unspecified => Err(InvalidField::new("mode", "is required")),
        wire::Mode::Live => Ok(Mode::Live),
        wire::Mode::Exercise => Ok(Mode::Exercise),
        wire::Mode::Test => Ok(Mode::Test),
    }
}

/// Goes into a header as it is: visible ASCII only.
fn collapse_key(key: String) -> Result<Option<String>, InvalidField> {
    if key.is_empty() {
        return Ok(None);
    }
    if key.len() > COLLAPSE_KEY_BYTES_MAX {
        let problem = format!("at most {COLLAPSE_KEY_BYTES_MAX} bytes, has {}", key.len());
        return Err(InvalidField::new("collapse_key", problem));
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(InvalidField::new("collapse_key", "may hold visible ASCII characters only"));
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests;
