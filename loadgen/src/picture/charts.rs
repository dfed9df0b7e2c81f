//! Three charts of one wave: rate, delay and order.

use std::fmt::{self, Write};

use clarion_emulator::Platform;

use super::{
    case::PLATFORMS,
    figures::{Figures, Latency, Mark, ROW_SHARES, Row},
    scale::{Linear, round_up, ticks},
    text::Escaped,
    tiles::SHOWN_MIN,
};
use crate::numbers::{decimal, meters, seconds, thousands};

/// Width of a chart in its own units; letters are some 12 of them.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 428.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 214.0;

/// Returns the name of a platform for people.
pub(super) fn name(platform: Platform) -> &'static str {
    match platform {
        Platform::Apns => "APNs",
        Platform::Fcm => "FCM",
    }
}

/// Returns the class of a platform in the style sheet.
pub(super) fn class(platform: Platform) -> &'static str {
    match platform {
        Platform::Apns => "apns",
        Platform::Fcm => "fcm",
    }
}

/// Unit of times along an axis, and its number per second.
pub(super) struct Unit {
    name: &'static str,
    per_second: f64,
}

impl Unit {
    /// Returns the unit in which no label has more than three digits before the point.
    pub(super) fn upto(last: f64) -> Self {
        match last {
            l if l < 1.0 => Self { name: "ms", per_second: 1e3 },
            l if l < 300.0 => Self { name: "s", per_second: 1.0 },
            _ => Self { name: "min", per_second: 1.0 / 60.0 },
        }
    }

    fn label(&self, seconds: f64, step: f64) -> String {
        let places = usize::from(step * self.per_second < 1.0 - 1e-9);
        format!("{} {}", decimal(seconds * self.per_second, places), self.name)
    }

    fn ticks(&self, last: f64, most: u32) -> Vec<(f64, String)> {
        self.ticks_between(0.0, last, most)
    }

    /// Returns round times of an interval, in seconds, with their labels.
    pub(super) fn ticks_between(&self, first: f64, last: f64, most: u32) -> Vec<(f64, String)> {
        let values = ticks(first * self.per_second, last * self.per_second, most);
        let step = values.get(1).map_or(1.0, |second| second - values[0]) / self.per_second;
        values
            .into_iter()
            .map(|v| (v / self.per_second, self.label(v / self.per_second, step)))
            .collect()
    }
}

fn open(out: &mut String, height: f64, label: &str) -> fmt::Result {
    writeln!(
        out,
        r#"<svg class="chart" viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{label}">"#
    )
}

fn time_axis(out: &mut String, last: f64, x: Linear, (top, bottom): (f64, f64)) -> fmt::Result {
    for (n, (at, label)) in Unit::upto(last).ticks(last, 6).iter().enumerate() {
        let x = x.at(*at);
        let class = if n % 2 == 1 { r#" class="minor""# } else { "" };
        writeln!(out, r#"<path class="grid" d="M{x:.1} {top}V{bottom}"/>"#)?;
        writeln!(
            out,
            r#"<text{class} x="{x:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#,
            bottom + 18.0
        )?;
    }
    Ok(())
}

fn value_axis(
    out: &mut String,
    values: &[f64],
    y: Linear,
    label: impl Fn(f64) -> String,
) -> fmt::Result {
    for value in values {
        let y = y.at(*value);
        writeln!(out, r#"<path class="grid" d="M{LEFT} {y:.1}H{RIGHT}"/>"#)?;
        let text = label(*value);
        writeln!(
            out,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
            LEFT - 7.0,
            y + 4.0
        )?;
    }
    Ok(())
}

fn marks(
    out: &mut String,
    marks: &[Mark],
    last: f64,
    x: Linear,
    (top, bottom): (f64, f64),
) -> fmt::Result {
    for mark in marks.iter().filter(|m| m.from <= last) {
        let (from, until) = (x.at(mark.from.max(0.0)), x.at(mark.until.min(last)));
        let label = Escaped(&mark.label);
        if until > from {
            writeln!(
                out,
                r#"<rect class="trouble" x="{from:.1}" y="{top}" width="{:.1}" height="{:.1}"/>"#,
                until - from,
                bottom - top
            )?;
        } else {
            writeln!(out, r#"<path class="moment" d="M{from:.1} {top}V{bottom}"/>"#)?;
        }
        let (at, anchor) = if from > (LEFT + RIGHT) / 2.0 && until - from < 120.0 {
            (until - 4.0, "end")
        } else {
            (from + 4.0, "start")
        };
        writeln!(
            out,
            r#"<text class="mark" x="{at:.1}" y="{:.1}" text-anchor="{anchor}">{label}</text>"#,
            top + 13.0
        )?;
    }
    Ok(())
}

/// Draws acceptances per second, one platform above the other, and the share of all devices reached
/// so far.
#[allow(clippy::cast_precision_loss)] // counts far below 2^53
pub(super) fn rate(out: &mut String, figures: &Figures) -> fmt::Result {
    let rate = &figures.rate;
    let per_second = |count: u64| count as f64 / rate.interval;
    let highest = rate.counts.iter().map(|c| per_second(c.iter().sum())).fold(1.0, f64::max);
    let top = round_up(highest);
    let top = if top * 0.75 >= highest { top * 0.75 } else { top };
    let last = with_moments(rate.interval * rate.counts.len() as f64, figures);
    let x = Linear { from: (0.0, last), to: (LEFT, RIGHT) };
    let y = Linear { from: (0.0, top), to: (BOTTOM, TOP) };
    open(out, HEIGHT, "Pushes per second over time, and the share of all reached so far")?;
    value_axis(out, &ticks(0.0, top, 4), y, rate_label)?;
    time_axis(out, last, x, (TOP, BOTTOM))?;
    for share in [0.0, 0.5, 1.0] {
        let y = BOTTOM + (TOP - BOTTOM) * share;
        writeln!(
            out,
            r#"<text x="{:.1}" y="{:.1}">{:.0} %</text>"#,
            RIGHT + 5.0,
            y + 4.0,
            share * 100.0
        )?;
    }
    marks(out, &figures.marks, last, x, (TOP, BOTTOM))?;
    let mut below = vec![0u64; rate.counts.len()];
    for (n, platform) in
        PLATFORMS.into_iter().enumerate().filter(|(_, p)| figures.platforms.contains(p))
    {
        let above: Vec<u64> = below.iter().zip(&rate.counts).map(|(b, c)| b + c[n]).collect();
        let step = |at: usize, count: u64| {
            let (from, until) =
                (x.at(at as f64 * rate.interval), x.at((at + 1) as f64 * rate.interval));
            [(from, y.at(per_second(count))), (until, y.at(per_second(count)))]
        };
        let upper = above.iter().enumerate().flat_map(|(at, count)| step(at, *count));
        let lower = below.iter().enumerate().rev().flat_map(|(at, count)| {
            let [from, until] = step(at, *count);
            [until, from]
        });
        let class = class(platform);
        writeln!(out, r#"<path class="area {class}" d="{}Z"/>"#, line(upper.chain(lower)))?;
        below = above;
    }
    let all: u64 = below.iter().sum();
    let mut sum = 0;
    let cumulated = rate.counts.iter().enumerate().map(|(at, counts)| {
        sum += counts.iter().sum::<u64>();
        let share = sum as f64 / all.max(1) as f64;
        (x.at((at + 1) as f64 * rate.interval), BOTTOM + (TOP - BOTTOM) * share)
    });
    let points = std::iter::once((LEFT, BOTTOM)).chain(cumulated);
    writeln!(out, r#"<path class="cumulated" d="{}"/>"#, line(points))?;
    writeln!(out, r#"<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/></svg>"#)
}

/// Extends the time axis for events right after the last push, such as the cancellation that ended
/// the pushes.
fn with_moments(last: f64, figures: &Figures) -> f64 {
    figures.marks.iter().filter(|m| m.from >= m.until).map(|m| m.from).fold(last, f64::max)
}

fn rate_label(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", decimal(v / 1e6, usize::from(v % 1e6 != 0.0))),
        v if v >= 1e4 => format!("{} k", decimal(v / 1e3, 0)),
        v if v >= 1e3 => format!("{} k", decimal(v / 1e3, usize::from(v % 1e3 != 0.0))),
        v => decimal(v, usize::from(v.fract() != 0.0)),
    }
}

/// Quantiles that are marked on the curves and listed below them.
const QUANTILES: [(f64, &str); 4] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (1.0, "max")];

/// Draws time by share of phones. Each factor of ten in the remaining share has the same width,
/// because the slowest phones matter most.
#[allow(clippy::cast_precision_loss)]
pub(super) fn latency(out: &mut String, figures: &Figures) -> fmt::Result {
    let last =
        figures.latency.iter().filter_map(|l| l.curve.last()).map(|(_, s)| *s).fold(0.01, f64::max);
    let largest = figures.latency.iter().map(|l| l.count).max().unwrap_or(1).max(10) as f64;
    let decades = largest.log10();
    let x = Linear { from: (0.0, decades), to: (LEFT, RIGHT) };
    let unit = Unit::upto(last);
    let y = Linear { from: (0.0, last * 1.04), to: (BOTTOM, TOP) };
    open(out, HEIGHT, "Time from acknowledgement to acceptance by share of phones")?;
    let values: Vec<f64> = unit.ticks(last, 5).into_iter().map(|(v, _)| v).collect();
    let step = values.get(1).copied().unwrap_or(1.0);
    value_axis(out, &values, y, |v| unit.label(v, step))?;
    for (share, label) in [
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.999_99, "99.999 %"),
    ] {
        let left = -(1.0f64 - share).log10();
        if left > decades - 0.6 {
            continue;
        }
        let x = x.at(left);
        let class = if share == 0.999 { r#" class="minor""# } else { "" };
        writeln!(out, r#"<path class="grid" d="M{x:.1} {TOP}V{BOTTOM}"/>"#)?;
        writeln!(
            out,
            r#"<text{class} x="{x:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#,
            BOTTOM + 18.0
        )?;
    }
    writeln!(out, r#"<text x="{RIGHT}" y="{:.1}" text-anchor="middle">all</text>"#, BOTTOM + 18.0)?;
    for latency in &figures.latency {
        let class = class(latency.platform);
        let at = |(share, seconds): (f64, f64)| {
            let left = if share < 1.0 { -(1.0 - share).log10() } else { decades };
            (x.at(left.min(decades)), y.at(seconds.max(0.0)))
        };
        writeln!(
            out,
            r#"<path class="line {class}" d="{}"/>"#,
            line(latency.curve.iter().copied().map(at))
        )?;
        for (share, _) in QUANTILES {
            let (x, y) = at((share, latency.at(share)));
            writeln!(out, r#"<circle class="point {class}" cx="{x:.1}" cy="{y:.1}" r="3.4"/>"#)?;
        }
    }
    writeln!(out, r#"<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/></svg>"#)?;
    writeln!(out, r#"<table class="quantiles"><thead><tr><th></th>"#)?;
    for (_, label) in QUANTILES {
        write!(out, "<th>{label}</th>")?;
    }
    writeln!(out, "</tr></thead><tbody>")?;
    for latency in &figures.latency {
        write!(
            out,
            r#"<tr><th><i class="key {}"></i>{}</th>"#,
            class(latency.platform),
            name(latency.platform)
        )?;
        for (share, _) in QUANTILES {
            write!(out, "<td>{}</td>", seconds(latency.at(share)))?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody></table>")
}

impl Latency {
    /// Returns the time of the smallest share on the curve that is at least this one.
    pub(super) fn at(&self, share: f64) -> f64 {
        self.curve
            .iter()
            .find(|(s, _)| *s >= share - 1e-9)
            .map_or(f64::NAN, |(_, seconds)| *seconds)
    }
}

/// Draws when the phones at each distance were reached: half of them in the thick part, nine in ten
/// along the line.
pub(super) fn nearest(out: &mut String, figures: &Figures) -> fmt::Result {
    let platforms: Vec<usize> = PLATFORMS
        .iter()
        .enumerate()
        .filter(|(_, p)| figures.platforms.contains(p))
        .map(|(n, _)| n)
        .collect();
    let times = figures.rows.iter().flat_map(|r| r.platforms).flatten().map(|(_, times)| times[4]);
    let last = with_moments(times.fold(0.01, f64::max), figures) * 1.02;
    #[allow(clippy::cast_precision_loss)] // one or two
    let row_height = 9.0 + 10.0 * platforms.len().max(1) as f64;
    #[allow(clippy::cast_precision_loss)] // some dozens
    let bottom = TOP + row_height * figures.rows.len() as f64;
    let left = LEFT + 44.0;
    let x = Linear { from: (0.0, last), to: (left, RIGHT + 28.0) };
    open(out, bottom + 36.0, "Time of acceptance by distance from the place last seen")?;
    time_axis(out, last, x, (TOP, bottom))?;
    marks(out, &figures.marks, last, x, (TOP, bottom))?;
    for (n, row) in figures.rows.iter().enumerate() {
        #[allow(clippy::cast_precision_loss)] // some dozens
        let top = TOP + row_height * n as f64;
        let label = distance(row);
        writeln!(
            out,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#,
            left - 8.0,
            top + row_height / 2.0 + 4.0
        )?;
        for (slot, platform) in platforms.iter().enumerate() {
            let Some((count, times)) = row.platforms[*platform].filter(|(n, _)| *n >= SHOWN_MIN)
            else {
                continue;
            };
            #[allow(clippy::cast_precision_loss)] // one or two
            let y = top + 4.5 + 10.0 * (slot as f64 + 0.5);
            let [p5, p25, p50, p75, p95] = times.map(|t| x.at(t.max(0.0)));
            let (class, platform) = (class(PLATFORMS[*platform]), name(PLATFORMS[*platform]));
            writeln!(
                out,
                r#"<g class="spread {class}"><path class="thin" d="M{p5:.1} {y:.1}H{p95:.1}"/><path class="thick" d="M{p25:.1} {y:.1}H{p75:.1}"/><circle cx="{p50:.1}" cy="{y:.1}" r="3.6"/><title>{label}, {platform}: {} phones, half after {}, {:.0} % after {}</title></g>"#,
                thousands(count),
                seconds(times[2]),
                ROW_SHARES[4] * 100.0,
                seconds(times[4]),
            )?;
        }
    }
    writeln!(out, r#"<path class="axis" d="M{left} {bottom:.1}H{:.1}"/></svg>"#, RIGHT + 28.0)
}

fn distance(row: &Row) -> String {
    if row.to_meters.is_infinite() {
        return format!("over {}", meters(row.from_meters));
    }
    if row.from_meters >= 1_000.0 && row.from_meters % 1_000.0 == 0.0 {
        return format!("{}–{}", decimal(row.from_meters / 1_000.0, 0), meters(row.to_meters));
    }
    format!("{}–{}", decimal(row.from_meters, 0), meters(row.to_meters))
}

fn line(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut out = String::new();
    for (n, (x, y)) in points.enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(out, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        assert_eq!(
            [0.0, 500.0, 1_500.0, 20_000.0, 1_500_000.0].map(rate_label),
            ["0", "500", "1.5 k", "20 k", "1.5 M"]
        );
    }

    #[test]
    fn units_fit_the_time() {
        let labels =
            |last| Unit::upto(last).ticks(last, 4).into_iter().map(|(_, l)| l).collect::<Vec<_>>();
        assert_eq!(labels(0.9), ["0 ms", "500 ms"]);
        assert_eq!(
            labels(1.4),
            ["0.0 s", "0.5 s", "1.0 s"],
            "four digits do not fit beside a chart"
        );
        assert_eq!(labels(5.0), ["0 s", "2 s", "4 s"]);
        let between = Unit::upto(41.0)
            .ticks_between(21.0, 41.0, 4)
            .into_iter()
            .map(|(_, l)| l)
            .collect::<Vec<_>>();
        assert_eq!(between, ["25 s", "30 s", "35 s", "40 s"]);
        assert_eq!(labels(600.0), ["0 min", "5 min", "10 min"]);
    }

    #[test]
    fn a_quantile_is_one_of_the_curve() {
        let latency = Latency {
            platform: Platform::Fcm,
            count: 100,
            curve: vec![(0.0, 0.1), (0.5, 0.2), (0.9, 0.3), (0.99, 0.4), (1.0, 0.9)],
        };
        assert_eq!(QUANTILES.map(|(share, _)| latency.at(share)), [0.2, 0.3, 0.4, 0.9]);
    }

    #[test]
    fn distances_are_intervals() {
        let row = |from_meters, to_meters| Row { from_meters, to_meters, platforms: [None; 2] };
        assert_eq!(distance(&row(0.0, 1_000.0)), "0–1 km");
        assert_eq!(distance(&row(110_000.0, 120_000.0)), "110–120 km");
        assert_eq!(distance(&row(120_000.0, f64::INFINITY)), "over 120 km");
    }
}
