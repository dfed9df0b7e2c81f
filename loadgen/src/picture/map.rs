//! The map: cells coloured by the time at which half of their devices were reached, with the region
//! over them.
//!
//! One SVG without script: the figures of a cell are its `<title>`, which browsers show under the
//! pointer and read aloud.

use std::fmt::{self, Write};

use h3o::{CellIndex, LatLng};

use super::{
    charts::{Unit, name},
    maps::Map,
    projection::{Frame, Projection, WIDTH, middle, outline},
    scale::{STEPS, round_up, step, ticks},
    tiles::{SHOWN_MIN, Tile},
};
use crate::{
    numbers::{meters, seconds, thousands},
    place::{Place, wrap},
    population::cities::CITIES,
    scenario::Scenario,
};

/// Most labelled cities, and most on a small screen.
const LABELS_MAX: usize = 12;
const LABELS_SMALL: usize = 6;
/// Size of a label's letters, units of the map, and their mean width relative to the size.
const LETTER: f64 = 13.0;
const LETTER_WIDTH: f64 = 0.56;

/// Writes one map.
pub(super) fn write(out: &mut String, scenario: &Scenario, map: &Map) -> fmt::Result {
    let region = &scenario.alert.region;
    let projection = Projection::around(middle(region));
    let rings = outline(region, &projection);
    let frame = Frame::around(rings.iter().flatten().copied());
    writeln!(
        out,
        r#"<svg class="map" viewBox="0 0 {WIDTH} {:.0}" role="img" aria-label="Map of the region, coloured by time of acceptance ({})">"#,
        frame.height,
        name(map.platform)
    )?;
    out.write_str(concat!(
        r#"<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">"#,
        r#"<rect class="hatch" width="2.6" height="7"/></pattern></defs>"#
    ))?;
    cells(out, map, &projection, &frame, scenario.cancel.is_some())?;
    graticule(out, &projection, &frame, middle(region))?;
    for (n, ring) in rings.iter().enumerate() {
        let class = if n == 0 { "ring" } else { "ring hole" };
        writeln!(
            out,
            r#"<path class="{class}" d="{}"/>"#,
            path(ring.iter().map(|p| frame.at(*p)), true)
        )?;
    }
    let origin = frame.at(projection.project(scenario.last_seen()));
    labels(out, &projection, &frame, origin)?;
    writeln!(
        out,
        r#"<g class="origin"><circle class="halo" cx="{0:.1}" cy="{1:.1}" r="9"/><circle cx="{0:.1}" cy="{1:.1}" r="9"/><circle class="dot" cx="{0:.1}" cy="{1:.1}" r="3"/><title>Place last seen: nearest is counted from here</title></g>"#,
        origin.0, origin.1
    )?;
    scale_bar(out, &frame)?;
    writeln!(out, "</svg>")
}

fn cells(
    out: &mut String,
    map: &Map,
    projection: &Projection,
    frame: &Frame,
    called_off: bool,
) -> fmt::Result {
    let (low, high) = map.colour_range().unwrap_or((0.0, 1.0));
    // Patches are drawn first: they have no outline of their own, and those of single cells are
    // drawn over theirs.
    let (patches, single): (Vec<_>, Vec<_>) =
        map.tiles.iter().partition(|(tile, _)| tile.cells.len() > 1);
    let mut failed = String::new();
    for (tile, median) in patches.into_iter().chain(single) {
        let shape: String =
            tile.cells.iter().map(|cell| boundary(*cell, projection, frame)).collect();
        let colour = match median.filter(|_| tile.is_shown()) {
            Some(median) => format!("t{}", step(median, low, high)),
            None => "none".to_owned(),
        };
        let patch = if tile.cells.len() > 1 { " patch" } else { "" };
        writeln!(
            out,
            r#"<path class="cell {colour}{patch}" d="{shape}"><title>{}</title></path>"#,
            tile_text(tile, *median)
        )?;
        // A cancelled alert leaves devices out, which is no failure.
        if (tile.count.missed > 0 && !called_off) || tile.count.unknown > 0 {
            writeln!(failed, r#"<path class="failed" d="{shape}"/>"#)?;
        }
    }
    out.write_str(&failed)
}

/// Returns the text of a tile.
fn tile_text(tile: &Tile, median: Option<f64>) -> String {
    let mut text = String::new();
    let count = tile.count;
    // Writing to a String cannot fail.
    if tile.is_shown() {
        let _ = write!(text, "{} phones", thousands(count.devices));
        let _ = match median {
            Some(median) => write!(text, ", half of those reached after {}", seconds(median)),
            None => write!(text, ", none reached"),
        };
    } else {
        let _ = write!(text, "Fewer than {SHOWN_MIN} phones");
    }
    for (n, what) in [(count.missed, "missed"), (count.unknown, "unknown")] {
        if n > 0 {
            let _ = write!(text, ", {} {what}", thousands(n));
        }
    }
    if tile.cells.len() > 1 && tile.is_shown() {
        let _ = write!(text, " ({} sparse cells together)", tile.cells.len());
    }
    text
}

fn boundary(cell: CellIndex, projection: &Projection, frame: &Frame) -> String {
    path(cell.boundary().iter().map(|v| frame.at(projection.project(place_of(*v)))), true)
}

fn place_of(point: LatLng) -> Place {
    Place::new(point.lat(), point.lng())
}

/// Writes a line as an SVG path, to a tenth of a unit.
fn path(points: impl Iterator<Item = (f64, f64)>, closed: bool) -> String {
    let mut out = String::new();
    for (n, (x, y)) in points.enumerate() {
        let _ = write!(out, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
    }
    if closed {
        out.push('Z');
    }
    out
}

/// Draws meridians and parallels, which show where north is, and how a pole or the antimeridian
/// lies.
fn graticule(
    out: &mut String,
    projection: &Projection,
    frame: &Frame,
    middle: Place,
) -> fmt::Result {
    let degrees_high = frame.height / frame.per_meter / 111_000.0;
    let step = round_up(degrees_high / 4.0).min(30.0);
    let reach = degrees_high.max(WIDTH / frame.per_meter / 111_000.0) * 0.75;
    let (south, north) =
        ((middle.latitude - reach).max(-90.0), (middle.latitude + reach).min(90.0));
    let at_pole = north >= 90.0 || south <= -90.0;
    // Farther from the equator meridians come closer; at a pole all of them meet, and twelve are
    // enough.
    let widest = south.abs().max(north.abs()).min(89.0).to_radians().cos();
    let across = if at_pole { 180.0 } else { (reach / widest).min(180.0) };
    let meridian_step = if at_pole {
        30.0
    } else {
        round_up(step / middle.latitude.to_radians().cos() * 0.9).min(30.0)
    };
    out.write_str(r#"<g class="graticule">"#)?;
    for latitude in
        ticks(south, north, 40).into_iter().filter(|l| is_multiple(*l, step) && l.abs() < 89.999)
    {
        let longitude = |n: i32| middle.longitude + across * f64::from(n) / 90.0;
        let line = (-90..=90).map(|n| Place::new(latitude, longitude(n)));
        let label =
            format!("{}° {}", degrees(latitude.abs()), if latitude < 0.0 { "S" } else { "N" });
        draw_line(out, &label, line.map(|p| frame.at(projection.project(p))), frame, |(x, _)| {
            *x < 60.0
        })?;
    }
    let meridians = ((middle.longitude - across) / meridian_step).ceil() * meridian_step;
    for n in 0..=24 {
        let longitude = meridians + f64::from(n) * meridian_step;
        if longitude > middle.longitude + across || (at_pole && n >= 12) {
            break;
        }
        let line =
            (0..=90).map(|n| Place::new(south + (north - south) * f64::from(n) / 90.0, longitude));
        let shown = wrap(longitude);
        let side = match shown {
            s if s.abs() < 1e-9 || (s.abs() - 180.0).abs() < 1e-9 => "",
            s if s < 0.0 => " W",
            _ => " E",
        };
        let label = format!("{}°{side}", degrees(shown.abs()));
        draw_line(out, &label, line.map(|p| frame.at(projection.project(p))), frame, |(_, y)| {
            *y < 32.0
        })?;
    }
    out.write_str("</g>\n")
}

fn is_multiple(value: f64, step: f64) -> bool {
    ((value / step) - (value / step).round()).abs() < 1e-6
}

fn degrees(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Draws the parts of a line that are on the map, and its label where it first meets a side of the
/// map.
fn draw_line(
    out: &mut String,
    label: &str,
    line: impl Iterator<Item = (f64, f64)>,
    frame: &Frame,
    at_side: impl Fn(&(f64, f64)) -> bool,
) -> fmt::Result {
    let points: Vec<_> = line.collect();
    // With a point beyond the edge on either side, because the line would end before the edge
    // otherwise.
    let near = |n: usize| {
        points[n.saturating_sub(1)..(n + 2).min(points.len())].iter().any(|p| frame.holds(*p, 0.0))
    };
    let mut part = Vec::new();
    for n in 0..=points.len() {
        if n < points.len() && near(n) {
            part.push(points[n]);
        } else if part.len() > 1 {
            writeln!(out, r#"<path d="{}"/>"#, path(part.drain(..), false))?;
        } else {
            part.clear();
        }
    }
    match points.iter().find(|p| frame.holds(**p, 8.0) && at_side(p)) {
        Some((x, y)) => {
            writeln!(
                out,
                r#"<text class="minor" x="{:.0}" y="{:.0}">{label}</text>"#,
                x.max(4.0) + 3.0,
                y - 4.0
            )
        }
        None => Ok(()),
    }
}

/// Writes the names of the largest cities for which there is room, and of the poles.
fn labels(
    out: &mut String,
    projection: &Projection,
    frame: &Frame,
    origin: (f64, f64),
) -> fmt::Result {
    let mut cities: Vec<_> =
        CITIES.iter().map(|c| (c.people_thousands, c.name, c.center())).collect();
    cities.push((u32::MAX, "North Pole", Place::new(90.0, 0.0)));
    cities.push((u32::MAX, "South Pole", Place::new(-90.0, 0.0)));
    cities.sort_by_key(|c| std::cmp::Reverse(c.0));
    // Left, top, right and bottom of occupied areas.
    let mut taken = vec![(origin.0 - 10.0, origin.1 - 10.0, origin.0 + 10.0, origin.1 + 10.0)];
    let mut shown = 0;
    for (_, name, place) in cities {
        let (x, y) = frame.at(projection.project(place));
        if shown == LABELS_MAX || !frame.holds((x, y), 6.0) {
            continue;
        }
        #[allow(clippy::cast_precision_loss)] // a name
        let width = name.chars().count() as f64 * LETTER * LETTER_WIDTH;
        let at_origin = (x - origin.0).hypot(y - origin.1) < 14.0;
        let gap = if at_origin { 15.0 } else { 7.0 };
        let places = [(x + gap, y, "start"), (x - gap - width, y, "end")];
        let free = places.into_iter().find(|(left, y, _)| {
            let own = (*left, y - LETTER * 0.6, left + width, y + LETTER * 0.6);
            own.0 > 2.0 && own.2 < WIDTH - 2.0 && !taken.iter().any(|t| overlap(own, *t))
        });
        let Some((left, _, anchor)) = free else { continue };
        taken.push((left, y - LETTER * 0.6, left + width, y + LETTER * 0.6));
        taken.push((x - 3.0, y - 3.0, x + 3.0, y + 3.0));
        let class = if shown < LABELS_SMALL { "city" } else { "city minor" };
        if !at_origin {
            writeln!(out, r#"<circle class="{class} dot" cx="{x:.1}" cy="{y:.1}" r="2.2"/>"#)?;
        }
        let text_x = if anchor == "start" { x + gap } else { x - gap };
        writeln!(
            out,
            r#"<text class="{class}" x="{text_x:.1}" y="{:.1}" text-anchor="{anchor}">{name}</text>"#,
            y + LETTER * 0.35
        )?;
        shown += 1;
    }
    Ok(())
}

type Area = (f64, f64, f64, f64);

fn overlap(a: Area, b: Area) -> bool {
    a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3
}

fn scale_bar(out: &mut String, frame: &Frame) -> fmt::Result {
    let across = WIDTH / frame.per_meter;
    let length =
        [5.0, 2.0, 1.0].map(|f| f * 10f64.powf((across / 4.0).log10().floor())).into_iter();
    let length = length.clone().find(|l| *l <= across / 4.0).unwrap_or(across / 4.0);
    let (right, y) = (WIDTH - 14.0, frame.height - 14.0);
    let left = right - length * frame.per_meter;
    writeln!(
        out,
        r#"<g class="bar"><path d="M{left:.1} {0:.1}V{y:.1}H{right:.1}V{0:.1}"/><text x="{right:.1}" y="{1:.1}" text-anchor="end">{2}</text></g>"#,
        y - 5.0,
        y - 10.0,
        meters(length)
    )
}

/// Writes the meaning of the colours.
pub(super) fn legend(out: &mut String, map: &Map) -> fmt::Result {
    let Some((low, high)) = map.colour_range() else { return Ok(()) };
    #[allow(clippy::cast_precision_loss)] // below STEPS
    let width = 320.0 / STEPS as f64;
    writeln!(
        out,
        r#"<svg class="ramp" viewBox="-26 0 372 34" role="img" aria-label="Scale of colours">"#
    )?;
    for n in 0..STEPS {
        #[allow(clippy::cast_precision_loss)]
        let x = n as f64 * width;
        writeln!(
            out,
            r#"<rect class="t{n}" x="{x:.1}" y="0" width="{:.1}" height="12"/>"#,
            width + 0.3
        )?;
    }
    for (tick, label) in Unit::upto(high).ticks_between(low, high, 5) {
        let x = if high > low { (tick - low) / (high - low) * 320.0 } else { 0.0 };
        writeln!(
            out,
            r#"<path class="tick" d="M{x:.1} 12v4"/><text x="{x:.1}" y="29" text-anchor="middle">{label}</text>"#
        )?;
    }
    writeln!(out, "</svg>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_closed_lines() {
        assert_eq!(path([(0.0, 0.0), (1.04, 2.0)].into_iter(), true), "M0.0 0.0L1.0 2.0Z");
    }
}
