//! Check of one change: turns a caller's message into a record for the log. Pure.
//!
//! A coordinate is turned into its cell here and is not kept. Errors name the field and the limits,
//! never a token, a place or a device.

use clarion_proto::{
    audience::Segment,
    datum::Datum,
    device::{Cell, Change, Record, Registration, SEGMENTS_MAX},
    error::{InvalidField, required},
    ids::{DeviceId, UnixMillis},
    locale::{Locale, Reported},
    region::LatLng,
    wire::v1::{self as wire, device_change, place},
};
use h3o::Resolution;

use self::{
    subject::{NAME_BYTES_MAX, replaced, subject},
    token::token,
};
use super::{DeviceKey, ages::Ages};

mod subject;
mod token;

pub(super) use subject::KnownApp;

/// App that a change names, and its field; `None`: the change names no app.
pub(super) fn app(change: &wire::DeviceChange) -> Option<(&str, &'static str)> {
    match &change.change {
        Some(device_change::Change::Registration(r)) => Some((&r.app, "registration.app")),
        Some(device_change::Change::Arrival(a)) => {
            Some((&a.registration.as_ref()?.app, "arrival.registration.app"))
        }
        Some(
            device_change::Change::Place(_)
            | device_change::Change::Removal(_)
            | device_change::Change::Mute(_),
        )
        | None => Some((&change.token_device.as_ref()?.app, "token_device.app")),
    }
}

/// A change that may be written.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) record: Record,
    /// Former devices of the phone, which are removed with the record.
    pub(super) replaced: Vec<DeviceId>,
    /// Part of the change that has no meaning and is not in the record.
    pub(super) warning: Option<InvalidField>,
}

impl Accepted {
    /// The removals of the former devices. They have the registration's time: a former device that
    /// registers later is a device again.
    pub(super) fn removals(&self) -> impl Iterator<Item = Record> {
        let observed = self.record.observed;
        let change = Change::Removal;
        self.replaced.iter().map(move |&device| Record { device, observed, change: change.clone() })
    }
}

/// Checks a change. `app` is the existing app that [`app`] found.
pub(super) fn record(
    change: wire::DeviceChange,
    app: Option<KnownApp>,
    ages: Ages,
    key: &DeviceKey,
) -> Result<Accepted, InvalidField> {
    use device_change::Change as Wire;
    let registers = matches!(change.change, Some(Wire::Registration(_) | Wire::Arrival(_)));
    let device = subject(&change.device, change.token_device, app.as_ref(), registers, key)?;
    let observed = ages.observed(required(change.observe_time, "observe_time")?)?;
    let register = |r, path: &str| {
        let registered = required(app, "app").and_then(|app| {
            let of = registration(r, app, device, key)?;
            if !of.replaced.is_empty() {
                ages.check_removal("replaces", observed)?;
            }
            Ok(of)
        });
        match registered {
            Ok(of) => Ok(Registered { warning: of.warning.map(|w| w.within(path)), ..of }),
            Err(problem) => Err(problem.within(path)),
        }
    };
    let accepted = |change| {
        let record = Record { device: required(device, "device")?, observed, change };
        Ok(Accepted { record, replaced: Vec::new(), warning: None })
    };
    match required(change.change, "change")? {
        Wire::Registration(r) => {
            Ok(register(r, "registration")?.accepted(observed, Change::Registration))
        }
        Wire::Place(p) => accepted(Change::Place(cell(p).map_err(|e| e.within("place"))?)),
        Wire::Arrival(a) => {
            let r = required(a.registration, "arrival.registration")?;
            let of = register(r, "arrival.registration")?;
            let p = required(a.place, "arrival.place")?;
            let cell = cell(p).map_err(|e| e.within("arrival.place"))?;
            Ok(of.accepted(observed, |registration| Change::Arrival(registration, cell)))
        }
        Wire::Removal(_) => {
            ages.check_removal("removal", observed)?;
            accepted(Change::Removal)
        }
        Wire::Mute(m) => accepted(Change::Mute(m.muted)),
    }
}

/// A registration after its check.
struct Registered {
    device: DeviceId,
    registration: Registration,
    /// Former devices of the phone.
    replaced: Vec<DeviceId>,
    /// The part of the locale that has no meaning.
    warning: Option<InvalidField>,
}

impl Registered {
    fn accepted(
        self,
        observed: UnixMillis,
        change: impl FnOnce(Registration) -> Change,
    ) -> Accepted {
        let Self { device, registration, replaced, warning } = self;
        let record = Record { device, observed, change: change(registration) };
        Accepted { record, replaced, warning }
    }
}

/// Checks a registration. `device`: the device that the change names, as [`subject()`] found it.
fn registration(
    registration: wire::Registration,
    app: KnownApp,
    device: Option<DeviceId>,
    key: &DeviceKey,
) -> Result<Registered, InvalidField> {
    let Reported { locale, ignored } = Reported::read(&registration.locale);
    let warning = ignored.then(|| left_out(locale.as_ref()));
    if registration.person.len() > NAME_BYTES_MAX {
        let bytes = registration.person.len();
        let problem = format!("must be at most {NAME_BYTES_MAX} bytes; got {bytes} bytes");
        return Err(InvalidField::new("person", problem));
    }
    let token = token(registration.token, app.platform)?;
    let device = device.unwrap_or_else(|| key.id_of_token(&app.name, &token));
    let replaced = replaced(&registration.replaces, device, &app, key)?;
    let registration = Registration {
        token,
        app: app.name,
        locale: locale.map(Locale::into_string).unwrap_or_default(),
        segments: segments(registration.segments)?,
        person: registration.person,
    };
    Ok(Registered { device, registration, replaced, warning })
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
