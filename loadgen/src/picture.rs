//! `report.html`: one page that shows a run to people.
//!
//! A figure in `report.json` proves something to a program; a person who decides whether to trust
//! the engine wants to see the wave. So every run writes a page: a sentence with the result, the
//! map of its cells coloured by time, the rate, the delays, the order, the cost, and the
//! expectations. The page is self-contained: it loads no script, font or image, opens from a disk
//! or a mail, in light and dark mode, on a phone. It shows no place with fewer than twenty devices.
//!
//! [`figures`] and [`maps`] gather the data from the samples of the verdict and a [`case`], in
//! bounded memory ([`shares`]); [`tiles`] keeps small audiences private; [`projection`] maps the
//! earth to a plane; [`scale`] and [`text`] are axes, colours and wording; [`head`], [`map`],
//! [`charts`] and [`tables`] write the parts of the page.

pub mod case;
mod charts;
pub mod figures;
mod head;
mod map;
mod maps;
mod projection;
mod scale;
mod shares;
mod tables;
mod text;
pub mod tiles;

use std::{
    fmt::{self, Write as _},
    fs, io,
    path::Path,
};

use crate::{
    names,
    numbers::{meters, per_cent, thousands},
    report::Report,
    scenario::Scenario,
};
use figures::Figures;
use maps::Map;
use text::Escaped;

const STYLE: &str = include_str!("picture/style.css");

/// A page with the result of one run.
pub struct Picture<'a> {
    /// Scenario of the run.
    pub scenario: &'a Scenario,
    /// Report of the run.
    pub report: &'a Report,
    /// Data of the drawings.
    pub figures: &'a Figures,
    /// Whether missed targets fail the run.
    pub strict: bool,
    /// Command line that repeats the run.
    pub command: &'a str,
}

impl Picture<'_> {
    /// Writes `report.html` into a folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let mut page = String::new();
        self.page(&mut page).map_err(io::Error::other)?;
        fs::write(dir.join(names::PAGE), page)
    }

    fn page(&self, out: &mut String) -> fmt::Result {
        let (report, figures) = (self.report, self.figures);
        let verdict = if report.passed { "passed" } else { "failed" };
        writeln!(
            out,
            concat!(
                "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
                "<meta name=\"color-scheme\" content=\"light dark\">\n",
                // A browser requests an icon for a page without one.
                "<link rel=\"icon\" href=\"data:,\">\n<title>{} {}: Clarion</title>\n",
                "<style>\n{}\n:root{{{}}}\n@media (prefers-color-scheme: \
                 dark){{:root{{{}}}}}\n{}\n</style>\n</head>\n<body>"
            ),
            Escaped(&report.scenario),
            verdict,
            STYLE.trim(),
            scale::properties(false),
            scale::properties(true),
            scale::classes(),
        )?;
        head::write(out, self.scenario, report, self.strict)?;
        // Two columns; on a narrow page the style sheet orders the sections itself.
        writeln!(out, "<main>")?;
        if self.figures.maps.len() > 1 {
            self.maps(out)?;
            writeln!(out, r#"<div class="column">"#)?;
        } else {
            writeln!(out, r#"<div class="column">"#)?;
            self.maps(out)?;
        }
        self.nearest(out)?;
        let about = "The cluster's report beside the gateways' record.";
        figure(out, "outcomes", "Outcomes", about, |out| {
            tables::outcomes(out, report)?;
            tables::platforms(out, report)
        })?;
        writeln!(out, r#"</div><div class="column">"#)?;
        let about = "Acceptances in each interval, by the gateways' record; the line is the share of phones reached so far.";
        figure(out, "rate", "Pushes per second", about, |out| {
            self.platforms(out)?;
            charts::rate(out, figures)
        })?;
        let about = "From the acknowledgement of the alert to the acceptance of each phone's push. To the right, each factor of \
                     ten in the remaining share has the same width.";
        figure(out, "latency", "Time to acceptance", about, |out| charts::latency(out, figures))?;
        let about = "Targets are rates and times; a missed target fails a run only with --strict, because a busy machine is not a defect.";
        figure(out, "checks", "Expectations", about, |out| {
            tables::checks(out, &report.checks, self.strict)
        })?;
        let about = "User and system time during the wave; resident memory.";
        figure(out, "cost", "Cost", about, |out| tables::cost(out, report))?;
        if let Some(motion) = &report.motion {
            let about = "The same alert without motion, the same changes without an alert, and both together.";
            figure(out, "motion", "In motion", about, |out| tables::motion(out, motion))?;
        }
        writeln!(out, "</div>")?;
        figure(out, "repeat", "Repeat this run", "", |out| {
            tables::repeat(out, report, self.command)
        })?;
        writeln!(out, "</main>\n</body>\n</html>")
    }

    /// Writes one map for each platform, side by side.
    fn maps(&self, out: &mut String) -> fmt::Result {
        let maps = &self.figures.maps;
        let about = format!(
            "{} H3 cells of resolution {}, by the time at which half of their phones were reached. Cells with fewer than {} \
             phones are shown together with their neighbours.",
            thousands(maps[0].cells() as u64),
            maps[0].resolution,
            tiles::SHOWN_MIN
        );
        figure(out, "map", "Map of the wave", &about, |out| {
            writeln!(out, r#"<div class="maps">"#)?;
            for map in maps {
                writeln!(out, "<div>")?;
                if maps.len() > 1 {
                    let class = charts::class(map.platform);
                    writeln!(
                        out,
                        r#"<h3><i class="key {class}"></i>{}</h3>"#,
                        charts::name(map.platform)
                    )?;
                }
                map::write(out, self.scenario, map)?;
                self.legend(out, map)?;
                writeln!(out, "</div>")?;
            }
            writeln!(out, "</div>")
        })
    }

    fn legend(&self, out: &mut String, map: &Map) -> fmt::Result {
        writeln!(out, r#"<div class="legend">"#)?;
        map::legend(out, map)?;
        let called_off = self.scenario.cancel.is_some();
        let keys = [
            (called_off && map.has_missed(), "none", "not reached before the cancellation"),
            (!called_off && map.has_few(), "none", "too few to be shown"),
            (
                !called_off && map.has_missed() || map.has_unknown(),
                "failed",
                "a phone missed or without an answer",
            ),
        ];
        for (_, class, what) in keys.into_iter().filter(|(shown, ..)| *shown) {
            writeln!(out, r#"<span><i class="key {class}"></i>{what}</span>"#)?;
        }
        writeln!(out, "</div>")
    }

    fn nearest(&self, out: &mut String) -> fmt::Result {
        let about = "When the phones at each distance were reached: dot for half of them, thick from a quarter to three \
                     quarters, thin from 5 to 95 %. Within a band no order is promised.";
        figure(out, "nearest", "Nearest first", about, |out| {
            self.platforms(out)?;
            charts::nearest(out, self.figures)?;
            for (platform, p) in self.report.platforms.iter().filter(|(_, p)| p.counts.accepted > 0)
            {
                writeln!(
                    out,
                    r#"<p class="note">{}: {} of pairs from different bands were out of order; 99 % of pushes were at most {} behind the front.</p>"#,
                    charts::name(*platform),
                    per_cent(p.order.disorder),
                    meters(p.order.behind_p99_meters)
                )?;
            }
            Ok(())
        })
    }

    /// Writes the colours of the platforms, if there is more than one.
    fn platforms(&self, out: &mut String) -> fmt::Result {
        if self.figures.platforms.len() < 2 {
            return Ok(());
        }
        writeln!(out, r#"<div class="legend">"#)?;
        for platform in &self.figures.platforms {
            writeln!(
                out,
                r#"<span><i class="key {}"></i>{}</span>"#,
                charts::class(*platform),
                charts::name(*platform)
            )?;
        }
        writeln!(out, "</div>")
    }
}

fn figure(
    out: &mut String,
    id: &str,
    title: &str,
    about: &str,
    body: impl FnOnce(&mut String) -> fmt::Result,
) -> fmt::Result {
    writeln!(out, r#"<section id="{id}"><h2>{title}</h2>"#)?;
    if !about.is_empty() {
        writeln!(out, r#"<p class="about">{about}</p>"#)?;
    }
    body(out)?;
    writeln!(out, "</section>")
}
