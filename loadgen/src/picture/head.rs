//! The head of the page: one sentence with the result, and a few figures.

use std::fmt::{self, Write};

use super::text::Escaped;
use crate::{
    numbers::{decimal, meters, per_cent, seconds, thousands},
    place::Place,
    population::cities::CITIES,
    report::{Report, check::Kind},
    scenario::{RegionSpec, Scenario},
};

/// Distance from a city's centre within which a place has the city's name, metres.
const CALLED_AFTER_METERS: f64 = 25_000.0;
/// Share of pairs in the wrong order below which a wave is called orderly; the transitions between
/// bands always have some.
const ORDERLY: f64 = 0.05;

/// Writes name, verdict, sentence and key figures.
pub(super) fn write(
    out: &mut String,
    scenario: &Scenario,
    r: &Report,
    strict: bool,
) -> fmt::Result {
    let (class, verdict) = if r.passed { ("good", "Passed") } else { ("bad", "Failed") };
    writeln!(
        out,
        r#"<header><p class="name">Clarion · scenario <b>{}</b></p><p class="verdict {class}">{verdict}</p><h1>{}</h1><p class="what">{}</p>"#,
        Escaped(&r.scenario),
        Escaped(&sentence(scenario, r)),
        Escaped(&scenario.description),
    )?;
    let failed: Vec<_> =
        r.checks.iter().filter(|c| !c.held && (c.kind == Kind::Exact || strict)).collect();
    if !failed.is_empty() {
        writeln!(out, r#"<ul class="failures">"#)?;
        for check in failed {
            writeln!(
                out,
                "<li><b>{}</b>: {}, expected {}</li>",
                Escaped(check.name),
                Escaped(&check.measured),
                Escaped(&check.expected)
            )?;
        }
        writeln!(out, "</ul>")?;
    }
    let figures = [
        ("phones reached", thousands(r.counts.accepted)),
        ("pushes per second", decimal(r.rate_per_second, 0)),
        ("first", first(r.seconds.first_push)),
        ("half within", seconds(r.seconds.p50)),
        ("99 % within", seconds(r.seconds.p99)),
        ("CPU per push", format!("{} µs", decimal(r.cpu_us_per_push.shard, 2))),
    ];
    writeln!(out, r#"<dl class="figures">"#)?;
    for (what, value) in figures {
        writeln!(out, "<div><dt>{what}</dt><dd>{value}</dd></div>")?;
    }
    writeln!(out, "</dl></header>")
}

/// Formats the time of the first push. Times count from the acknowledgement, which a push may
/// precede.
fn first(after: f64) -> String {
    if after <= 0.0 { "at once".to_owned() } else { format!("after {}", seconds(after)) }
}

/// Returns a sentence about the run in plain words.
pub(super) fn sentence(scenario: &Scenario, r: &Report) -> String {
    let due =
        (r.counts.region_devices + r.counts.edge_devices).saturating_sub(r.counts.dead_tokens);
    let region = region(scenario);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = if r.counts.accepted == 0 {
        write!(text, "None of {} phones {region} was reached.", thousands(due))
    } else {
        write!(
            text,
            "{} phones of {} {region} were reached in {}, the first {}{}.",
            thousands(r.counts.accepted),
            thousands(due.max(r.counts.accepted)),
            seconds(r.seconds.last_push),
            first(r.seconds.first_push),
            if r.worst_order().disorder <= ORDERLY { ", nearest first" } else { "" },
        )
    };
    if let Some(cancel) = r.cancel {
        let _ = write!(
            text,
            " The alert was cancelled with {} of them reached.",
            per_cent(cancel.reached_share)
        );
    }
    let wrong = [
        (r.counts.missed, "missed"),
        (r.counts.duplicates, "alerted twice"),
        (r.counts.outside, "alerted outside the region"),
        (r.counts.unknown, "sent without an answer"),
    ];
    // A cancelled alert leaves devices out, which is no failure.
    let wrong =
        wrong.into_iter().filter(|(n, what)| *n > 0 && (r.cancel.is_none() || *what != "missed"));
    let wrong: Vec<_> = wrong.map(|(n, what)| format!("{} {what}", thousands(n))).collect();
    if !wrong.is_empty() {
        let _ = write!(text, " {}.", wrong.join(", "));
    }
    text
}

fn region(scenario: &Scenario) -> String {
    match &scenario.alert.region {
        RegionSpec::Circle { center, radius_meters } => {
            format!("within {} of {}", meters(*radius_meters), called(*center))
        }
        RegionSpec::Polygon { outer, holes } => {
            let holes = match holes.len() {
                0 => String::new(),
                1 => " with a hole".to_owned(),
                n => format!(" with {n} holes"),
            };
            format!(
                "in a polygon of {} corners{holes} around {}",
                corners(outer),
                called(scenario.last_seen())
            )
        }
    }
}

fn corners(ring: &[Place]) -> usize {
    ring.len() - usize::from(ring.len() > 1 && ring.first() == ring.last())
}

/// Names a place by the city around it, or by its coordinates.
fn called(place: Place) -> String {
    let nearest = CITIES
        .iter()
        .map(|c| (c.center().spherical_distance(place), c.name))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((distance, name)) if distance <= CALLED_AFTER_METERS => name.to_owned(),
        _ => {
            let side = |value: f64, sides: [&'static str; 2]| sides[usize::from(value < 0.0)];
            format!(
                "{:.2}°\u{a0}{}, {:.2}°\u{a0}{}",
                place.latitude.abs(),
                side(place.latitude, ["N", "S"]),
                place.longitude.abs(),
                side(place.longitude, ["E", "W"])
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_called_by_their_city() {
        assert_eq!(called(Place::new(22.543, 114.058)), "Shenzhen");
        assert_eq!(called(Place::new(-16.8, -179.9)), "16.80°\u{a0}S, 179.90°\u{a0}W");
    }
}
