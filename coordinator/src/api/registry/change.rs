//! Check of one change: turns a caller's message into a record for the log. Pure.
//!
//! A coordinate is turned into its cell here and is not kept. Errors name the field and the limits,
//! never a token, a place or a device.

use bytes::Bytes;
use clarion_proto::{
    alert::instant,
    app::Platform,
    audience::Segment,
    datum::Datum,
    device::{Cell, Change, Record, Registration, SEGMENTS_MAX, Token, check_fcm_token},
    error::{InvalidField, required},
    ids::{AppName, DeviceId, UnixMillis},
    locale::{Locale, Reported},
    region::LatLng,
    wire::v1::{self as wire, device_change, place},
};
use data_encoding::HEXLOWER_PERMISSIVE;
use h3o::Resolution;

use super::DeviceKey;

/// Largest age of an observation, milliseconds: a tombstone is kept as long, so an older
/// observation could bring a removed device back.
const OLDER_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Largest time by which a phone's clock may be ahead, milliseconds.
const AHEAD_MS_MAX: u64 = 60 * 1_000;
/// Longest name of a device (other than a UUID), and of a person, bytes.
const NAME_BYTES_MAX: usize = 128;
/// Longest APNs token, hexadecimal digits.
const TOKEN_DIGITS_MAX: usize = 200;

/// App that a change registers for, and its field; `None`: the change registers nothing.
pub(super) fn app(change: &wire::DeviceChange) -> Option<(&str, &'static str)> {
    match change.change.as_ref()? {
        device_change::Change::Registration(r) => Some((&r.app, "registration.app")),
        device_change::Change::Arrival(a) => {
            Some((&a.registration.as_ref()?.app, "arrival.registration.app"))
        }
        device_change::Change::Place(_)
        | device_change::Change::Removal(_)
        | device_change::Change::Mute(_) => None,
    }
}

/// A change that may be written.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) record: Record,
    /// Part of the change that has no meaning and is not in the record.
    pub(super) warning: Option<InvalidField>,
}

/// Checks a change. `app` is the existing app that [`app`] found, with its platform.
pub(super) fn record(
    change: wire::DeviceChange,
    app: Option<(AppName, Platform)>,
    now: UnixMillis,
    key: &DeviceKey,
) -> Result<Accepted, InvalidField> {
    let mut warning = None;
    let device = device(&change.device, key)?;
    let observed = observed(required(change.observe_time, "observe_time")?, now)?;
    let app = || required(app, "registration.app");
    let change = match required(change.change, "change")? {
        device_change::Change::Registration(r) => {
            let checked = registration(r, app()?).map_err(|e| e.within("registration"))?;
            warning = checked.1.map(|ignored| ignored.within("registration"));
            Change::Registration(checked.0)
        }
        device_change::Change::Place(p) => Change::Place(cell(p).map_err(|e| e.within("place"))?),
        device_change::Change::Arrival(a) => {
            let r = required(a.registration, "arrival.registration")?;
            let checked = registration(r, app()?).map_err(|e| e.within("arrival.registration"))?;
            warning = checked.1.map(|ignored| ignored.within("arrival.registration"));
            let p = required(a.place, "arrival.place")?;
            Change::Arrival(checked.0, cell(p).map_err(|e| e.within("arrival.place"))?)
        }
        device_change::Change::Removal(_) => Change::Removal,
        device_change::Change::Mute(m) => Change::Mute(m.muted),
    };
    Ok(Accepted { record: Record { device, observed, change }, warning })
}

fn device(device: &str, key: &DeviceKey) -> Result<DeviceId, InvalidField> {
    match device.len() {
        0 => Err(InvalidField::new("device", "is required")),
        n if n > NAME_BYTES_MAX => Err(InvalidField::new(
            "device",
            format_args!("must be at most {NAME_BYTES_MAX} bytes; got {n} bytes"),
        )),
        // The lengths of a UUID's spellings: 32 digits, with hyphens, in braces, as a URN. The
        // parser takes any case.
        32 | 36 | 38 | 45 => Ok(uuid::Uuid::try_parse(device)
            .map_or_else(|_| key.id(device), |id| DeviceId(id.into_bytes()))),
        _ => Ok(key.id(device)),
    }
}

fn observed(time: prost_types::Timestamp, now: UnixMillis) -> Result<UnixMillis, InvalidField> {
    let at = instant(time, "observe_time")?;
    let (older, ahead) = (now.0.saturating_sub(at.0), at.0.saturating_sub(now.0));
    if older > OLDER_MS_MAX {
        return Err(InvalidField::new(
            "observe_time",
            format_args!("must be at most 24 h old; got {} s old", older / 1_000),
        ));
    }
    if ahead > AHEAD_MS_MAX {
        return Err(InvalidField::new(
            "observe_time",
            format_args!("must be at most 60 s ahead; got {} s ahead", ahead / 1_000),
        ));
    }
    Ok(at)
}

/// Checks a registration; the second value names the part of its locale that has no meaning.
fn registration(
    registration: wire::Registration,
    (app, platform): (AppName, Platform),
) -> Result<(Registration, Option<InvalidField>), InvalidField> {
    let Reported { locale, ignored } = Reported::read(&registration.locale);
    let warning = ignored.then(|| left_out(locale.as_ref()));
    if registration.person.len() > NAME_BYTES_MAX {
        let bytes = registration.person.len();
        let problem = format!("must be at most {NAME_BYTES_MAX} bytes; got {bytes} bytes");
        return Err(InvalidField::new("person", problem));
    }
    let checked = Registration {
        app,
        token: token(registration.token, platform)?,
        locale: locale.map(Locale::into_string).unwrap_or_default(),
        segments: segments(registration.segments)?,
        person: registration.person,
    };
    Ok((checked, warning))
}

/// The warning about a locale that was not understood completely. The phone's words are not
/// repeated: an app may have put anything there.
fn left_out(locale: Option<&Locale>) -> InvalidField {
    match locale {
        Some(locale) => InvalidField::new(
            "locale",
            format_args!("has parts without meaning; stored as {}", locale.as_str()),
        ),
        None => InvalidField::new(
            "locale",
            "must begin with a language, as in zh-Hans-CN; stored as unknown: the device receives \
             the fallback message of alerts",
        ),
    }
}

/// Checks a token as the app gets it from its platform: hexadecimal for APNs, plain text for FCM.
/// No error shows any part of the token.
fn token(text: String, platform: Platform) -> Result<Token, InvalidField> {
    if text.is_empty() {
        return Err(InvalidField::new("token", "is required"));
    }
    match platform {
        Platform::Apns => apns_token(&text),
        Platform::Fcm => {
            check_fcm_token(text.as_bytes())?;
            Token::new(Bytes::from(text))
        }
    }
}

fn apns_token(hex: &str) -> Result<Token, InvalidField> {
    if hex.len() > TOKEN_DIGITS_MAX {
        return Err(InvalidField::new(
            "token",
            format_args!("must be at most {TOKEN_DIGITS_MAX} digits; got {}", hex.len()),
        ));
    }
    // The decoder's words would show a digit of the token.
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| {
        InvalidField::new(
            "token",
            format_args!("must be pairs of hexadecimal digits; got {} characters", hex.len()),
        )
    })?;
    Token::new(Bytes::from(bytes))
}

fn segments(mut names: Vec<String>) -> Result<Vec<String>, InvalidField> {
    if names.len() > SEGMENTS_MAX {
        return Err(InvalidField::new(
            "segments",
            format_args!("must have at most {SEGMENTS_MAX} segments; got {}", names.len()),
        ));
    }
    for (i, name) in names.iter().enumerate() {
        Segment::check(name).map_err(|e| e.within(&format!("segments[{i}]")))?;
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn cell(place: wire::Place) -> Result<Cell, InvalidField> {
    let datum = Datum::from_wire(place.datum, "datum")?.unwrap_or_default();
    match required(place.place, "place")? {
        place::Place::Point(point) => {
            let point = LatLng::from_wire(point, datum).map_err(|e| e.within("point"))?;
            let point = h3o::LatLng::new(point.lat_deg(), point.lng_deg());
            let point = point.map_err(|_| {
                InvalidField::new("point", "must be a finite latitude and longitude")
            })?;
            Ok(Cell::from(point.to_cell(Resolution::Nine)))
        }
        place::Place::Cell(_) if datum == Datum::Gcj02 => {
            Err(InvalidField::new("datum", Datum::OF_CELLS))
        }
        place::Place::Cell(index) => Cell::new(index),
    }
}

#[cfg(test)]
mod tests;
