//! One row of a file, and the changes of a device that it asks for.

use clarion_proto::{
    alert::timestamp,
    wire::v1::{self as wire, device_change::Change, place},
};

use super::{
    column::{COLUMNS, Column},
    value::Value,
};

/// A row of a file.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// Line of a CSV file, or number of the row of a Parquet file; from 1.
    pub(super) number: u64,
    /// Values by [`Column::index`].
    pub(super) values: [Value; COLUMNS],
    /// Problem that the file's reader found.
    pub(super) fault: Option<Fault>,
}

/// Reason why a row is not imported; shows no token, no place and no device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Column at fault; `None`: the whole row.
    pub(super) column: Option<Column>,
    /// Problem in words.
    pub(super) reason: String,
}

impl Fault {
    /// Problem of one column.
    pub(super) fn of(column: Column, reason: impl Into<String>) -> Self {
        Self { column: Some(column), reason: reason.into() }
    }

    /// Problem of the whole row.
    pub(super) fn of_row(reason: impl Into<String>) -> Self {
        Self { column: None, reason: reason.into() }
    }
}

/// Changes that a row asks for: a registration, and perhaps the choice of a mute.
pub(super) type Changes = (wire::DeviceChange, Option<wire::DeviceChange>);

impl Row {
    /// Makes ready for another row.
    pub(super) fn clear(&mut self) {
        self.values = Default::default();
        self.fault = None;
    }

    /// Turns the row into changes. `app`: app of rows that name none.
    ///
    /// Here only the form of values is checked: what they may be is checked where changes are
    /// written.
    ///
    /// # Errors
    /// The first column whose value is missing or malformed.
    pub(super) fn take_changes(&mut self, app: Option<&str>) -> Result<Changes, Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let device = self.text(Column::Device)?;
        let token = self.text(Column::Token)?;
        if token.is_empty() {
            return Err(Fault::of(Column::Token, "is required"));
        }
        let mut named = self.text(Column::App)?;
        if named.is_empty() {
            let problem = "is required; or name the app of all rows with --app";
            app.ok_or_else(|| Fault::of(Column::App, problem))?.clone_into(&mut named);
        }
        let place = self.place()?;
        let of = |column| move |problem| Fault::of(column, problem);
        let observed =
            self.values[Column::Observed.index()].observed().map_err(of(Column::Observed))?;
        let observe_time = Some(timestamp(observed));
        let muted = self.values[Column::Muted.index()].muted().map_err(of(Column::Muted))?;
        let mute = muted.map(|muted| {
            let token_device = device
                .is_empty()
                .then(|| wire::TokenDevice { app: named.clone(), token: token.clone() });
            let change = Some(Change::Mute(wire::Mute { muted }));
            wire::DeviceChange { device: device.clone(), observe_time, change, token_device }
        });
        let segments = std::mem::take(&mut self.values[Column::Segments.index()]);
        let registration = wire::Registration {
            app: named,
            token,
            locale: self.text(Column::Locale)?,
            segments: segments.into_segments().map_err(of(Column::Segments))?,
            ..Default::default()
        };
        let change = match place {
            Some(place) => Change::Arrival(wire::Arrival {
                registration: Some(registration),
                place: Some(place),
            }),
            None => Change::Registration(registration),
        };
        let change =
            wire::DeviceChange { device, observe_time, change: Some(change), token_device: None };
        Ok((change, mute))
    }

    /// Turns the row into the removal of its device, which was seen removed when the row was
    /// observed or, if that is later, at `removed`.
    ///
    /// # Errors
    /// The first column whose value is missing or malformed.
    pub(super) fn take_removal(
        &mut self,
        app: Option<&str>,
        removed: &Value,
    ) -> Result<Changes, Fault> {
        if let Ok(at) = removed.observed() {
            let observed = &mut self.values[Column::Observed.index()];
            if observed.observed().is_ok_and(|observed| observed < at) {
                *observed = removed.clone();
            }
        }
        // A place or a choice of a removed device has no meaning, and may be gone.
        for column in Column::ALL {
            if !matches!(column, Column::App | Column::Device | Column::Token | Column::Observed) {
                self.values[column.index()] = Value::Absent;
            }
        }
        let (mut change, _) = self.take_changes(app)?;
        let Some(Change::Registration(registration)) = change.change.take() else {
            return Err(Fault::of_row("has no registration to remove"));
        };
        if change.device.is_empty() {
            let wire::Registration { app, token, .. } = registration;
            change.token_device = Some(wire::TokenDevice { app, token });
        }
        change.change = Some(Change::Removal(wire::Removal {}));
        Ok((change, None))
    }

    fn text(&mut self, column: Column) -> Result<String, Fault> {
        let value = std::mem::take(&mut self.values[column.index()]);
        value.into_text().map_err(|problem| Fault::of(column, problem))
    }

    fn place(&self) -> Result<Option<wire::Place>, Fault> {
        let of = |column: Column| &self.values[column.index()];
        let datum = of(Column::Datum).datum().map_err(|e| Fault::of(Column::Datum, e))?.into();
        let (latitude, longitude) = (of(Column::Latitude), of(Column::Longitude));
        let cell = of(Column::Cell);
        let place = match (latitude.is_absent(), longitude.is_absent(), cell.is_absent()) {
            (true, true, true) => return Ok(None),
            (true, true, false) => {
                place::Place::Cell(cell.cell().map_err(|e| Fault::of(Column::Cell, e))?)
            }
            (false, false, true) => place::Place::Point(wire::LatLng {
                latitude: latitude.degrees().map_err(|e| Fault::of(Column::Latitude, e))?,
                longitude: longitude.degrees().map_err(|e| Fault::of(Column::Longitude, e))?,
            }),
            (true, false, _) => return Err(Fault::of(Column::Latitude, "is missing")),
            (false, true, _) => return Err(Fault::of(Column::Longitude, "is missing")),
            (false, false, false) => {
                let problem = "must be empty in a row with latitude and longitude";
                return Err(Fault::of(Column::Cell, problem));
            }
        };
        Ok(Some(wire::Place { place: Some(place), datum }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[(Column, &str)]) -> Row {
        let mut row = Row::default();
        let all = [(Column::Token, "00ff"), (Column::Observed, "1763769600000")];
        for (column, text) in all.iter().chain(values) {
            row.values[column.index()] = Value::of_text(text);
        }
        row
    }

    fn refused(values: &[(Column, &str)]) -> (Column, String) {
        let fault = row(values).take_changes(Some("apps/demo")).expect_err("refused");
        (fault.column.expect("of a column"), fault.reason)
    }

    #[test]
    fn a_row_with_a_place_is_an_arrival() {
        let values = [
            (Column::Device, "phone-1"),
            (Column::Latitude, "22.54"),
            (Column::Longitude, "114.06"),
            (Column::Datum, "GCJ-02"),
            (Column::Segments, "a b"),
        ];
        let (change, mute) = row(&values).take_changes(Some("apps/demo")).expect("valid");
        assert_eq!((change.device.as_str(), mute), ("phone-1", None));
        let Some(Change::Arrival(arrival)) = change.change else { panic!("an arrival") };
        let registration = arrival.registration.expect("set");
        assert_eq!((registration.app.as_str(), registration.segments.len()), ("apps/demo", 2));
        assert_eq!(arrival.place.expect("set").datum(), wire::Datum::Gcj02);
    }

    #[test]
    fn a_mute_names_the_device_as_its_app_does() {
        let (change, mute) = row(&[(Column::Device, "phone-1"), (Column::Muted, "true")])
            .take_changes(Some("apps/demo"))
            .expect("valid");
        assert!(matches!(change.change, Some(Change::Registration(_))));
        let mute = mute.expect("a choice");
        assert_eq!((mute.device.as_str(), mute.token_device), ("phone-1", None));
        let (_, mute) = row(&[(Column::App, "apps/tokens"), (Column::Muted, "0")])
            .take_changes(None)
            .expect("valid");
        let named = mute.expect("a choice").token_device.expect("by its token");
        assert_eq!((named.app.as_str(), named.token.as_str()), ("apps/tokens", "00ff"));
    }

    #[test]
    fn the_column_at_fault_is_named() {
        use Column::{Cell, Datum, Latitude, Longitude, Muted, Observed, Token};
        assert_eq!(refused(&[(Token, "")]).0, Token);
        assert_eq!(refused(&[(Observed, "")]).0, Observed);
        assert_eq!(refused(&[(Latitude, "22.5")]), (Longitude, "is missing".to_owned()));
        assert_eq!(refused(&[(Longitude, "22.5")]), (Latitude, "is missing".to_owned()));
        assert_eq!(refused(&[(Latitude, "x"), (Longitude, "1")]).0, Latitude);
        assert_eq!(refused(&[(Datum, "bd09")]).0, Datum);
        assert_eq!(refused(&[(Muted, "perhaps")]).0, Muted);
        let both = [(Latitude, "1"), (Longitude, "1"), (Cell, "89194504aa7ffff")];
        assert_eq!(refused(&both).0, Cell);
        let fault = row(&[]).take_changes(None).expect_err("no app");
        assert_eq!(fault.column, Some(Column::App));
    }
}
