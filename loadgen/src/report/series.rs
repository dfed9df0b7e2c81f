//! The report of a series, with the same figures for each case, some of them in a table for people.

use std::{collections::BTreeMap, io, path::Path};

use clarion_emulator::Platform;
use serde::Serialize;

use super::{Check, Machine};
use crate::numbers::{number, thousands};

/// The result of one case of a series.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// Name by which `--case` selects the case.
    pub name: String,
    /// Description of the fault.
    pub label: String,
    /// Platform of the affected gateway; `None`: all.
    pub platform: Option<Platform>,
    /// Whether every check held.
    pub passed: bool,
    /// Values by the names of [`crate::scenario::figures::FIGURES`]; values that could not be
    /// measured are absent.
    pub figures: BTreeMap<&'static str, f64>,
    /// Every expectation with the measured value.
    pub checks: Vec<Check>,
    /// Numbers of some affected devices by kind of failure, valid for this seed.
    pub examples: BTreeMap<&'static str, Vec<u64>>,
}

/// Content of `report.json` for a series.
#[derive(Debug, Clone, Serialize)]
pub struct SeriesReport {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed from which everything random is drawn.
    pub seed: u64,
    /// Number of devices in the population.
    pub devices: u64,
    /// Number of shard nodes.
    pub nodes: u32,
    /// Command line that repeats the run.
    pub command: String,
    /// Whether every case passed.
    pub passed: bool,
    /// Duration of each fault, seconds.
    pub seconds: f64,
    /// Duration of the whole run, from the start of the program, seconds.
    pub total_seconds: f64,
    /// Cases in the order of the run.
    pub cases: Vec<CaseReport>,
    /// Highest memory of each process, bytes.
    pub peaks: BTreeMap<String, u64>,
    /// Machine on which the run took place, for comparisons.
    pub machine: Machine,
}

/// Columns of the table: figure and heading.
const COLUMNS: &[(&str, &str)] = &[
    ("alerts", "alerts"),
    ("requests", "requests"),
    ("rate_per_second", "pushes/s"),
    ("struck", "struck"),
    ("missed", "missed"),
    ("duplicates", "twice"),
    ("repeated", "repeated"),
    ("unanswered_requests", "unanswered"),
    ("connections_opened", "connects"),
    ("calm_seconds", "calm s"),
    ("shard_growth_bytes", "growth MB"),
    ("shard_grown_bytes", "total MB"),
];

impl CaseReport {
    /// Returns one line of the table.
    #[must_use]
    pub fn line(&self) -> String {
        let cell = |(figure, heading): &(&str, &str)| {
            let width = heading.len().max(9);
            let value = match self.figures.get(figure) {
                None => "-".to_owned(),
                Some(bytes) if figure.ends_with("_bytes") => format!("{:.1}", bytes / 1e6),
                Some(seconds) if figure.ends_with("seconds") => format!("{seconds:.1}"),
                Some(rate) if figure.starts_with("rate") => number(rate.round()),
                Some(value) => number(*value),
            };
            format!("{value:>width$}")
        };
        let cells: Vec<_> = COLUMNS.iter().map(cell).collect();
        format!("{} {:<26} {}", if self.passed { "✓" } else { "✗" }, self.name, cells.join(" "))
    }
}

/// Returns the headings of [`CaseReport::line`].
#[must_use]
pub fn headings() -> String {
    let cells: Vec<_> = COLUMNS
        .iter()
        .map(|(_, heading)| format!("{heading:>w$}", w = heading.len().max(9)))
        .collect();
    format!("  {:<26} {}", "case", cells.join(" "))
}

impl SeriesReport {
    /// Returns the report as text: one line for each case, and the expectations that failed.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut out = format!(
            "\n{} · {} devices · {} nodes · seed {} · {} s each, {:.0} s total\n\n{}\n",
            self.scenario,
            thousands(self.devices),
            self.nodes,
            self.seed,
            self.seconds,
            self.total_seconds,
            headings()
        );
        for case in &self.cases {
            out += &format!("{}\n", case.line());
        }
        for case in self.cases.iter().filter(|c| !c.passed) {
            for check in case.checks.iter().filter(|c| !c.held) {
                out += &format!(
                    "\n✗ {}: {} {}, is {}",
                    case.name, check.name, check.expected, check.measured
                );
                if let Some(examples) = case.examples.get(check.name) {
                    out += &format!(" (devices {examples:?})");
                }
            }
        }
        let passed = self.cases.iter().filter(|c| c.passed).count();
        out + &format!("\n{passed} of {} cases passed\n", self.cases.len())
    }

    /// Writes `report.json` into a folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        super::write(self, dir)
    }
}
